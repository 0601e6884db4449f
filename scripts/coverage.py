"""How often the intervals of `fastseg measure` hold the truth, on real images.

    python scripts/coverage.py exports/eye --data DATA
    python scripts/coverage.py exports/face --data DATA --level 0.9 --resplits 500
    python scripts/coverage.py exports/eye --data DATA --only '^r'

The images that the export held out are predicted once. Each resplit draws half of them at random,
calibrates intervals on these (the choice of the scale included), and counts how often they hold the
true measures of the other half. Prints the mean share of each class's measure, and of ratios and
distances between classes, over the resplits. Measures of whole pixels (boxes, counts) hold more
often: many of their residuals are equal.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from fastseg.evaluation.run import items_of
from fastseg.inference.loading import load
from fastseg.measuring.calibration import compared_prediction
from fastseg.metrics.conformal import SCALES, residuals_of

WHOLE_PIXELS = ("count", "box_x", "box_y", "box_width", "box_height")
FEWEST = 40  # residuals of a measure; half of them calibrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--resplits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="regular expression for the images' names")
    parser.add_argument("--json", type=Path, help="file for the table")
    given = parser.parse_args()

    measured, images = residuals(given.export, given.data, given.only)
    rows = []
    for key, (values, scales, numbers) in measured.items():
        if len(values) < FEWEST:
            continue
        shares = coverage(values, scales, numbers, images, given)
        rows.append((*key, len(values), float(np.mean(shares))))
    print(f"{images} held-out images, {given.resplits} resplits, level {given.level:g}")
    for part, name, measure, count, share in rows:
        print(f"{part:8} {name:14} {measure:28} {count:5} {share:7.1%}")
    for title, chosen in (("continuous", False), ("whole pixels", True)):
        shares = [row[4] for row in rows if (row[2] in WHOLE_PIXELS) == chosen]
        if shares:
            inside = np.mean([0.87 <= share <= 0.93 for share in shares])
            print(
                f"{title}: mean {np.mean(shares):.1%}, from {min(shares):.1%} to {max(shares):.1%};"
                f" {inside:.0%} of {len(shares)} measures within 87 to 93 %"
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def residuals(export: Path, data: Path | None, only: str) -> tuple[dict, int]:
    """Return residuals (n,), scales (n, 3) and numbers of images (n,) by measure, and the number of
    held-out images.
    """
    predictor = load(export, images=100)
    task = predictor.task
    items, _ = items_of(predictor.card, task, data, "valid")
    items = [item for item in items if re.search(only, item.image.name)]
    predictor.adapt(items)
    found = predictor.stream_or_raise(
        items, 4, lambda item, prediction: compared_prediction(task, prediction, task.label(item))
    )
    gathered = defaultdict(list)
    for number, (_, compared) in enumerate(found):
        for key, residual, scales in compared.rows:
            if np.isfinite(residual):
                gathered[key].append((residual, scales, number))
    return {
        key: tuple(np.array(column) for column in zip(*rows)) for key, rows in gathered.items()
    }, len(items)


def coverage(
    values: np.ndarray, scales: np.ndarray, numbers: np.ndarray, images: int, given
) -> list[float]:
    """Return the share of the true values in the intervals, for each resplit of the images."""
    rng = np.random.default_rng(given.seed)
    found = []
    for _ in range(given.resplits):
        half = np.zeros(images, dtype=bool)
        half[rng.permutation(images)[: images // 2]] = True
        here = half[numbers]
        if not here.any() or here.all():
            continue
        kept = residuals_of(values[here], scales[here], numbers[here])
        width = kept.half_width(given.level) * scales[~here, SCALES.index(kept.scale)]
        found.append(float((np.abs(values[~here]) <= width).mean()))
    return found


if __name__ == "__main__":
    main()

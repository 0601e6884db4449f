"""Comparison of settings by the images that their runs held out: paired, by a bootstrap."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..evaluation.run import items_of, score_images
from ..evaluation.scores import SAMPLES, Scores, scores_of
from ..exports.card import HISTORY, read_card, read_history
from ..metrics.agreement import labelled_twice
from ..report import charts, panels
from ..tasks import Task
from ..utils.io import write_json, write_rows
from .runs import Run
from .work import no_foreground

STUDY = "study.json"
INTERVAL = (2.5, 97.5)  # percentiles: 95% of the bootstrap samples lie between them


@dataclass
class Study:
    """The result of a study.

    `settings` are by name, best first; `verdicts` say how the best compares with each other one.
    """

    task: Task
    folder: Path
    settings: dict[str, dict[str, Any]]  # name -> {"mean", "std", "values": one main figure a seed}
    comparisons: list[dict[str, Any]]  # {"with", "difference", "interval", "clear"}
    verdicts: list[str]
    files: list[Path]
    # of pictures that the data has labelled twice, see `metrics.agreement`
    agreement: dict[str, Any] | None = None


def compare_runs(
    task: Task,
    out: Path,
    description: Mapping[str, Any],
    runs: Mapping[Run, Path],
    failed: Mapping[str, str],
    data: Path,
    device: str | None,
) -> Study:
    """Score the runs on the images in `data` that they held out, and write the study to `out`.

    `failed` says why settings failed, by name. Raises `ModelError` if all did.
    """
    left = [name for name, _ in runs if name not in failed]
    if not left:
        last = list(failed.values())[-1]
        raise ModelError(f"{out}: every setting failed; the last said: {last}", "study-failed")
    runs = {run: folder for run, folder in runs.items() if run[0] in left}
    scores = {run: _scores(task, folder, data, device) for run, folder in runs.items()}
    return _compare_and_write(task, out, description, runs, scores, list(failed.values()), data)


def _scores(task: Task, folder: Path, data: Path, device: str | None) -> Scores[Any]:
    """Score a run on the images that it held out; all runs in one precision."""
    card = read_card(folder)
    items, root = items_of(card, task, data, "valid")
    from ..inference.loading import load
    from ..utils.device import device_of, fixed_precision

    predictor = load(folder, device, precision=fixed_precision(device_of(device)))
    return scores_of(task, [score for score, _ in score_images(predictor, items, root)])


def _compare_and_write(
    task: Task,
    out: Path,
    description: Mapping[str, Any],
    runs: Mapping[Run, Path],
    scores: Mapping[Run, Scores[Any]],
    failures: list[str],
    data: Path,
) -> Study:
    """Compare the best setting with each other one, and write the study. Raises `DataError`."""
    values = _values(task, out, scores)
    order = sorted(values, key=lambda name: -float(np.mean(values[name])))
    seeds = len(values[order[0]])
    comparisons = _comparisons(task, order, values, scores)
    verdicts = [_verdict(task, order[0], found, seeds) for found in comparisons]
    verdicts = [*(verdicts or [f"{order[0]} alone was trained to the end"]), *failures]
    settings = {
        name: {
            "mean": float(np.mean(values[name])),
            "std": float(np.std(values[name], ddof=1)) if seeds > 1 else None,
            "values": values[name],
        }
        for name in order
    }
    figure = task.main_figure
    found: dict[str, Any] = {
        "of": description,
        "figure": figure,
        "settings": settings,
        "comparisons": comparisons,
        "verdicts": verdicts,
        "agreement": labelled_twice(task, task.items(data)),
    }
    rows = (
        {
            "setting": name,
            "seed": seed,
            figure.lower(): values[name][seed - 1],
            "export": str(runs[name, seed]),
        }
        for name in order
        for seed in range(1, seeds + 1)
    )
    histories = {
        name: [read_history(runs[name, seed] / HISTORY) for seed in range(1, seeds + 1)]
        for name in order
    }
    drawn = charts.bands(histories, f"{task.name}: {verdicts[0]}")
    files = [
        write_json(out / STUDY, found),
        write_rows(out / "study.csv", rows),
        panels.write_png(drawn, out / "study.png", panels.PRINT_DPI),
    ]
    return Study(task, out, settings, comparisons, verdicts, files, found["agreement"])


def _values(task: Task, out: Path, scores: Mapping[Run, Scores[Any]]) -> dict[str, list[float]]:
    """Return the main figure of each setting, one value a seed. Raises `DataError` without one."""
    values: dict[str, list[float]] = {}
    for (name, _), found in scores.items():
        value = task.main_value(found.metrics())
        if value is None:
            raise no_foreground(out, "the held-out images", task)
        values.setdefault(name, []).append(value)
    return values


def _comparisons(
    task: Task,
    order: Sequence[str],
    values: Mapping[str, Sequence[float]],
    scores: Mapping[Run, Scores[Any]],
) -> list[dict[str, Any]]:
    """Return the difference of the best setting to each other one, with its interval."""
    samples = {run: _resampled(task, found) for run, found in scores.items()}
    best, seeds = order[0], len(values[order[0]])
    drawn_seeds = np.random.default_rng(0).integers(0, seeds, (SAMPLES, seeds))
    comparisons = []
    for other in order[1:]:
        differences = np.stack(
            [samples[best, seed] - samples[other, seed] for seed in range(1, seeds + 1)]
        )
        spread = differences[drawn_seeds, np.arange(SAMPLES)[:, None]].mean(axis=1)
        low, high = (float(value) for value in np.nanpercentile(spread, INTERVAL))
        comparisons.append(
            {
                "with": other,
                "difference": float(np.mean(values[best]) - np.mean(values[other])),
                "interval": [low, high],
                "clear": low > 0,
            }
        )
    return comparisons


def _resampled(task: Task, scores: Scores[Any]) -> Any:
    """Return the main figure of bootstrap samples of the images, float64 (SAMPLES,).

    The seed depends on the images alone: runs score_images on the same ones are resampled alike.
    """
    names = "\n".join(image.name for image in scores.images)
    figures = scores.resampled(SAMPLES, zlib.crc32(names.encode()))
    return task.main_value(figures)


def _verdict(task: Task, best: str, comparison: Mapping[str, Any], seeds: int) -> str:
    """Return a sentence that says whether the best setting is better than the other one."""
    verb = "is better than" if comparison["clear"] else "is not clearly better than"
    low, high = comparison["interval"]
    many = f"{seeds} seeds" if seeds > 1 else "one seed, so that what seeds change is not in it"
    return (
        f"{best} {verb} {comparison['with']}: by {comparison['difference']:.4f} {task.main_figure} "
        f"(95% interval {low:.4f} to {high:.4f}, {many})"
    )

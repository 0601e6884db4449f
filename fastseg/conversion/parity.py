"""Is a converted model the same model? Both on the same images: pixels, scores, seconds, bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.scores import Scores, scores_of
from ..exports.card import MODEL, ONNX
from ..metrics.calibration import softmax
from ..tasks import Item
from ..utils.io import name_below
from ..utils.progress import track
from .targets import Runner, Source, Target

# The gate. Conventions: float32 in another order of summation moves a mask's borders by some
# pixels in a hundred thousand, and half a point of Dice is what training again changes.
LARGEST_FALL = 0.005  # of Dice, or of accuracy
LARGEST_SHARE = 0.001  # of pixels, or of images, whose class differs


@dataclass(frozen=True)
class Parity:
    """Both models on the same images."""

    images: int
    differing: float  # share of pixels, or of images, whose class differs, 0 to 1
    figure: str  # "Dice" (foreground mean) or "accuracy"
    export: float | None  # the figure of the export; None if the labels have no foreground
    converted: float | None
    difference: float | None  # converted minus export
    classes: dict[str, dict[str, float | None]] | None  # Dice of each class of masks, by model
    interval: list[float] | None  # 95 %, paired bootstrap; None for one image
    latency_ms: dict[str, float]  # of one image from pixels to mask, median, by model

    def faults(self, target: Target) -> list[str]:
        """Return what exceeds the limits of the gate; an empty list if the models are the same."""
        found = []
        if self.difference is not None and -self.difference > LARGEST_FALL:
            found.append(f"{self.figure} falls by {-self.difference:.4f} (limit {LARGEST_FALL})")
        # Without a foreground in the labels, no figure says whether the masks are as good.
        judged = self.export and self.converted is not None
        if (target.pixels_decide or not judged) and self.differing > LARGEST_SHARE:
            what = "pixels" if self.figure == "Dice" else "images"
            found.append(f"{self.differing:.3%} of {what} differ (limit {LARGEST_SHARE:.1%})")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass
class _Judged:
    """A result in the form that `Scores.judge` reads."""

    labels: np.ndarray
    probabilities: np.ndarray


def compare(source: Source, run: Runner, items: Sequence[Item], root: Path) -> Parity:
    """Return how the converted model `run` differs from its export on labelled images.

    Both get the same pixels. `fastseg predict` decodes a large JPEG at a part of its size, which
    a converted model, that takes pixels, cannot do. Raises `DataError` for files that cannot be
    read.
    """
    predictor, task = source.predictor, source.predictor.task
    ours, theirs = scores_of(task), scores_of(task)
    seconds: dict[str, list[float]] = {"export": [], "converted": []}
    differing = places = 0
    for item in track(items, "comparing", len(items)):
        pixels, truth, name = task.image(item), task.label(item), name_below(root, item.image)
        if not places:  # the first run of each allocates memory
            predictor.predict(pixels), run(pixels)
        start = time.perf_counter()
        own = predictor.predict(pixels)
        codes = own.labels
        middle = time.perf_counter()
        output = run(pixels)
        seconds["converted"].append(time.perf_counter() - middle)
        seconds["export"].append(middle - start)
        differing += int(np.count_nonzero(codes != output.codes))
        places += codes.size
        scaled = output.logits / np.float32(source.card.temperature)
        theirs.images.append(theirs.judge(item, name, own, truth))
        ours.images.append(ours.judge(item, name, _Judged(output.codes, softmax(scaled)), truth))
    return _parity(ours, theirs, differing / places, seconds)


def _parity(
    ours: Scores[Any], theirs: Scores[Any], share: float, seconds: dict[str, list[float]]
) -> Parity:
    task, difference = ours.task, ours.compare(theirs)
    figures = {"export": theirs.metrics(), "converted": ours.metrics()}
    return Parity(
        len(ours.images),
        share,
        task.main_figure,
        task.main_value(figures["export"]),
        task.main_value(figures["converted"]),
        task.main_value(difference["difference"]),
        _classes(figures) if task.has_masks else None,
        task.main_value(difference["intervals"]),
        {name: round(1000 * float(np.median(times)), 3) for name, times in seconds.items()},
    )


def _classes(figures: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return each class's Dice by both models: a mean can hide a small class that is lost."""
    return {
        name: {model: found["classes"][name]["dice"] for model, found in figures.items()}
        for name in figures["export"]["classes"]
    }


def bytes_of(*files: Path) -> int:
    """Return the bytes of files, and of all files below folders."""
    return sum(
        path.stat().st_size
        for file in files
        for path in (file.rglob("*") if file.is_dir() else [file])
        if path.is_file()
    )


def own_bytes(source: Source) -> int:
    """Return the bytes of the file by which the export computes its predictions."""
    return bytes_of(source.export / (ONNX if source.predictor.runtime == "onnx" else MODEL))

"""What held-out images say about measures: residuals of predictions, for an export's card."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..metrics.calibration import softmax
from ..metrics.conformal import kept_scores, residuals_of, scales_of
from ..types import IGNORE
from .between import Between, calibrated_between
from .measures import (
    MEASURES,
    OF_ABSENT,
    Table,
    difference,
    foreground,
    grey_of,
    measured_objects,
    objects_of,
    regions,
)

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..tasks import SegmentationTask

T = TypeVar("T")
Key = tuple[str, str, str]  # part of the card, class, and measure

WHOLE, OBJECTS, BETWEEN, FOUND = "whole", "objects", "between", "found"  # parts of `Card.measures`
MATCH = 0.5  # IoU from which a predicted and a true object are the same; such pairs are unique
# Objects of an image up to which each is compared: more are noise, at a millisecond an object
MOST_OBJECTS = 1000
MOST_IMAGES = 200  # that are compared: more of them change intervals by a few per cent


@dataclass
class Compared:
    """One image's measures, predicted and true: rows of (key, residual, and its scales (3,))."""

    rows: list[tuple[Key, float, np.ndarray]] = field(default_factory=list)
    # true minus predicted mean of the image: of what a mean over images is made of
    differences: dict[Key, float] = field(default_factory=dict)
    # class -> its predicted objects, and those that are true ones
    objects: dict[str, tuple[int, int]] = field(default_factory=dict)


def uncertainty_of(prediction: Prediction) -> np.ndarray:
    """Return how uncertain a prediction is of each class, float64 (C,): the probability on the
    wrong side of its outline, as a share of its predicted area.

    The probabilities are not calibrated: the temperature comes from the same held-out images.
    """
    probabilities = softmax(prediction.logits)
    doubt = np.minimum(probabilities, 1 - probabilities).sum(axis=(1, 2), dtype=np.float64)
    best = probabilities.argmax(axis=0)
    return doubt / np.maximum(np.bincount(best.reshape(-1), minlength=len(doubt)), 1)


def compared_prediction(
    task: SegmentationTask, prediction: Prediction, truth: np.ndarray
) -> Compared:
    """Return the residuals of one held-out image, whose mask is uint8 (H, W)."""
    return compare(
        task.classes,
        task.background,
        prediction.labels,
        truth,
        uncertainty_of(prediction),
        grey_of(prediction.image),
    )


def compare(
    classes: Sequence[str],
    background: int | None,
    predicted: np.ndarray,
    truth: np.ndarray,
    uncertainty: np.ndarray,
    grey: np.ndarray | None = None,
) -> Compared:
    """Return the residuals of an image's measures, in px, of codes uint8 (H, W) of equal shape.

    Pixels that the truth leaves unlabelled are left out. Objects are compared with the true ones
    that they overlap by an IoU of at least `MATCH`.
    """
    predicted = np.where(truth == IGNORE, IGNORE, predicted)
    found = Compared()
    objects = [objects_of(codes, background) for codes in (predicted, truth)]
    said, true = (measured_objects(*numbered, True, grey) for numbered in objects)
    length = math.sqrt(truth.size)
    for code in foreground(classes, background):
        own, others = (np.flatnonzero(table["code"] == code) for table in (said, true))
        for name in MEASURES:
            key = (WHOLE, classes[code], name)
            values = [
                table[name][rows[0]] if len(rows) else 0.0 if name in OF_ABSENT else math.nan
                for table, rows in ((said, own), (true, others))
            ]
            found.differences[key] = values[1] - values[0]
            if len(own) and math.isfinite(values[1]):
                _add(found, key, said, own[0], values[1], length, uncertainty)
    for between in calibrated_between(classes, background):
        sure = uncertainty[between.one[0]] + uncertainty[between.other[0]]
        scale = between_scales(between, said, length, float(sure))
        key, residual = (BETWEEN, "", between.name), between.value(true) - between.value(said)
        found.differences[key] = residual
        found.rows.append((key, residual, scale))
    if any(len(numbers) > MOST_OBJECTS for _, numbers in objects):
        return found
    said, true = (regions(*numbered, grey) for numbered in objects)
    pairs, counts = _matched(*objects)
    for name in MEASURES:
        if name == "count":
            continue
        for row, other in pairs:
            key = (OBJECTS, classes[said["code"][row]], name)
            _add(found, key, said, row, true[name][other], length, uncertainty)
        for code in np.intersect1d(said["code"], true["code"]):
            means = [table[name][table["code"] == code].mean() for table in (said, true)]
            found.differences[OBJECTS, classes[code], name] = means[1] - means[0]
    found.objects = {classes[code]: pair for code, pair in counts.items()}
    return found


def _add(
    found: Compared,
    key: Key,
    said: Table,
    row: int,
    true: float,
    length: float,
    uncertainty: np.ndarray,
) -> None:
    measure = MEASURES[key[2]]
    own = scales(measure.power, length, said["diameter"][row], uncertainty[said["code"][row]])
    found.rows.append((key, float(difference(measure, true, said[key[2]][row])), own))


def scales(power: int, length: float, size: float, uncertainty: float) -> np.ndarray:
    return scales_of(power, *(np.array([v]) for v in (length, size, uncertainty)))[0]


def between_scales(
    between: Between, classes: Table, length: float, uncertainty: float
) -> np.ndarray:
    """Return the scales of a distance as those of lengths; a ratio's are 1, and its own value."""
    length = length if between.is_distance else 1.0
    return scales(1, length, between.size(classes), uncertainty)


def _matched(
    predicted: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray]
) -> tuple[list[tuple[int, int]], dict[int, tuple[int, int]]]:
    """Return the places of predicted objects that are true ones and of these true ones in
    `regions`, and for each class how many objects were predicted, and how many are true.

    Both are what `objects_of` returns.
    """
    (said, classes), (true, of_true) = predicted, truth
    both = (said > 0) & (true > 0)
    both[both] = classes[said[both]] == of_true[true[both]]
    pairs, overlap = np.unique(
        said[both].astype(np.int64) * len(of_true) + true[both], return_counts=True
    )
    one, other = pairs // len(of_true), pairs % len(of_true)
    areas = np.bincount(said.reshape(-1)), np.bincount(true.reshape(-1))
    good = overlap >= MATCH * (areas[0][one] + areas[1][other] - overlap)
    # an IoU of exactly a half may be that of two pairs
    one, first = np.unique(one[good], return_index=True)
    other = other[good][first]
    counts = {
        int(code): (int((classes[1:] == code).sum()), int((classes[one] == code).sum()))
        for code in np.unique(classes[1:])
    }
    return list(zip((one - 1).tolist(), (other - 1).tolist())), counts


def evenly(things: Sequence[T]) -> list[T]:
    """Return at most `MOST_IMAGES` of things, evenly spaced."""
    step = max(1.0, len(things) / MOST_IMAGES)
    return [things[int(place)] for place in np.arange(0, len(things), step)]


def calibrated(images: Iterable[Compared], classes: Sequence[str]) -> dict[str, Any]:
    """Return what a card keeps of compared images: residuals of each measure of each class, of
    classes as a whole and of objects, and of what is between classes; and the share of predicted
    objects that are true ones.
    """
    rows: dict[Key, list[tuple[float, np.ndarray, int]]] = defaultdict(list)
    differences: dict[Key, list[float]] = defaultdict(list)
    said: dict[str, int] = defaultdict(int)
    true: dict[str, int] = defaultdict(int)
    for number, image in enumerate(images):
        for key, residual, scales in image.rows:
            rows[key].append((residual, scales, number))
        for key, value in image.differences.items():
            differences[key].append(value)
        for name, (objects, matched) in image.objects.items():
            said[name] += objects
            true[name] += matched
    found: dict[str, Any] = {WHOLE: {}, OBJECTS: {}, BETWEEN: {}, FOUND: {}}
    for key, values in rows.items():
        part, name, measure = key
        residuals, scales, numbers = (np.array(column) for column in zip(*values))
        entry = residuals_of(
            residuals, scales, numbers, differences[key], kept_scores(len(classes))
        )
        if entry is not None:
            place = found[part] if part == BETWEEN else found[part].setdefault(name, {})
            place[measure] = entry.to_json()
    found[FOUND] = {name: round(true[name] / count, 4) for name, count in said.items()}
    return found

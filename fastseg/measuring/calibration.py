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
    grey_of,
    measured_objects,
    objects_of,
    regions,
)

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..tasks import SegmentationTask

T = TypeVar("T")

WHOLE, OBJECTS, BETWEEN, FOUND = "whole", "objects", "between", "found"  # parts of `Card.measures`
MATCH = 0.5  # IoU from which a predicted and a true object are the same; such pairs are unique
MOST_IMAGES = 200  # that are compared: more of them change intervals by a few per cent


@dataclass
class Compared:
    """One image's measures, predicted and true: rows of (key, residual, and its scales (3,))."""

    rows: list[tuple[tuple[str, str, str], float, np.ndarray]] = field(default_factory=list)
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
    for row, code in enumerate(said["code"]):
        places = np.flatnonzero(true["code"] == code)
        for name in MEASURES:
            if len(places) or name in OF_ABSENT:
                value = true[name][places[0]] if len(places) else 0.0
                _add(found, (WHOLE, classes[code], name), said, row, value, length, uncertainty)
    for between in calibrated_between(classes, background):
        sure = uncertainty[between.one[0]] + uncertainty[between.other[0]]
        scale = between_scales(between, said, length, float(sure))
        residual = between.value(true) - between.value(said)
        found.rows.append(((BETWEEN, "", between.name), residual, scale))
    own, others, counts = _matched(objects[0], objects[1], grey)
    for row, code in enumerate(own["code"]):
        for name in MEASURES:
            if name != "count":
                value = others[name][row]
                _add(found, (OBJECTS, classes[code], name), own, row, value, length, uncertainty)
    found.objects = {classes[code]: pair for code, pair in counts.items()}
    return found


def _add(
    found: Compared,
    key: tuple[str, str, str],
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
    predicted: tuple[np.ndarray, np.ndarray],
    truth: tuple[np.ndarray, np.ndarray],
    grey: np.ndarray | None,
) -> tuple[Table, Table, dict[int, tuple[int, int]]]:
    """Return the measures of predicted objects that are true ones, those of the true ones, in the
    same order, and for each class how many objects were predicted, and how many are true.

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
    tables = []
    for labels, numbers, codes in ((said, one, classes), (true, other, of_true)):
        order = np.zeros(len(codes), dtype=np.int32)
        order[numbers] = np.arange(1, len(numbers) + 1)
        tables.append(regions(order[labels], np.concatenate([[0], codes[numbers]]), grey))
    return tables[0], tables[1], counts


def evenly(things: Sequence[T]) -> list[T]:
    """Return at most `MOST_IMAGES` of things, evenly spaced."""
    step = max(1.0, len(things) / MOST_IMAGES)
    return [things[int(place)] for place in np.arange(0, len(things), step)]


def calibrated(images: Iterable[Compared], classes: Sequence[str]) -> dict[str, Any]:
    """Return what a card keeps of compared images: residuals of each measure of each class, of
    classes as a whole and of objects, and of what is between classes; and the share of predicted
    objects that are true ones.
    """
    rows: dict[tuple[str, str, str], list[tuple[float, np.ndarray, int]]] = defaultdict(list)
    said: dict[str, int] = defaultdict(int)
    true: dict[str, int] = defaultdict(int)
    for number, image in enumerate(images):
        for key, residual, scales in image.rows:
            rows[key].append((residual, scales, number))
        for name, (objects, matched) in image.objects.items():
            said[name] += objects
            true[name] += matched
    found: dict[str, Any] = {WHOLE: {}, OBJECTS: {}, BETWEEN: {}, FOUND: {}}
    for (part, name, measure), values in rows.items():
        residuals, scales, numbers = (np.array(column) for column in zip(*values))
        entry = residuals_of(residuals, scales, numbers, kept_scores(len(classes)))
        if entry is not None:
            place = found[part] if part == BETWEEN else found[part].setdefault(name, {})
            place[measure] = entry.to_json()
    found[FOUND] = {name: round(true[name] / count, 4) for name, count in said.items()}
    return found

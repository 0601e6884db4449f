"""The intervals of measures at one level, from the residuals that an export's card keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..learners.options import Number
from ..metrics.conformal import SCALES, Residuals
from .between import Between
from .calibration import BETWEEN, FOUND, OBJECTS, WHOLE, between_scales, scales
from .measures import MEASURES, Table

LEVELS = Number(0.5, 0.999)  # of intervals; beyond, hundreds of held-out images give none


class Intervals:
    """The intervals of an export's measures at one level, from what its card keeps."""

    def __init__(self, measures: Mapping[str, Any], level: float):
        self.level = level
        # class -> the share of its predicted objects that are true ones
        self.found: Mapping[str, float] = measures.get(FOUND, {})
        self._parts = {
            part: {
                name: {key: Residuals.from_json(entry) for key, entry in entries.items()}
                for name, entries in measures.get(part, {}).items()
            }
            for part in (WHOLE, OBJECTS)
        }
        between = measures.get(BETWEEN, {})
        self._between = {name: Residuals.from_json(entry) for name, entry in between.items()}

    @property
    def most_images(self) -> int:
        """The largest number of images that a measure has residuals of."""
        entries = [e for part in self._parts.values() for of in part.values() for e in of.values()]
        return max((entry.images for entry in entries), default=0)

    def residuals(self, part: str, name: str, measure: str) -> Residuals | None:
        """Return the residuals of a class's measure, or with `BETWEEN` of one between classes."""
        if part == BETWEEN:
            return self._between.get(measure)
        return self._parts[part].get(name, {}).get(measure)

    def of_row(
        self, part: str, name: str, row: Mapping[str, float], length: float, uncertainty: float
    ) -> dict[str, tuple[float, float]]:
        """Return the interval of each measure of an object or class, in px; the ends are nan where
        there is none.

        `row` has its measures in px; `length` is the side of a square of the image's area in px.
        """
        found = {}
        for measure in MEASURES.values():
            half = self._half(
                self.residuals(part, name, measure.name),
                self.level,
                scales(measure.power, length, row["diameter"], uncertainty),
            )
            value = row[measure.name]
            if measure.is_angle:  # angles turn around: the interval may leave 0 to 180
                found[measure.name] = _ends(value, np.minimum(half, 90), -90, 270)
            else:
                found[measure.name] = _ends(value, half, 0, measure.top)
        return found

    def between(
        self, between: Between, classes: Table, names: Sequence[str], size: float, doubt: np.ndarray
    ) -> tuple[float, float]:
        """Return the interval of a ratio or distance, in px, for an image's classes in px.

        `size` is the side of a square of the image's area. A ratio of other measures than diameters
        has the ends that both measures' intervals allow, each at the level (1 + level) / 2, so that
        both hold at the level.
        """
        value = between.value(classes)
        found = self._between.get(between.name)
        sure = float(doubt[between.one[0]] + doubt[between.other[0]])
        if found is not None:
            half = self._half(found, self.level, between_scales(between, classes, size, sure))
            return _ends(value, half)
        if between.is_distance:
            return math.nan, math.nan
        ends = []
        for code, measure in (between.one, between.other):
            row = np.flatnonzero(classes["code"] == code)
            if not len(row):
                return math.nan, math.nan
            half = self._half(
                self.residuals(WHOLE, names[code], measure),
                (1 + self.level) / 2,
                scales(
                    MEASURES[measure].power, size, classes["diameter"][row[0]], float(doubt[code])
                ),
            )
            ends.append(_ends(float(classes[measure][row[0]]), half))
        (low, high), (least, most) = ends
        return low / most if most else math.nan, high / least if least else math.nan

    def _half(self, found: Residuals | None, level: float, scales: np.ndarray) -> float:
        """Return the half-width of an interval; nan where the residuals are too few for one."""
        half = found.half_width(level) if found else math.inf
        if math.isinf(half) or found is None:
            return math.nan
        return half * float(scales[SCALES.index(found.scale)])


def _ends(
    value: float, half: float, bottom: float = 0, top: float = math.inf
) -> tuple[float, float]:
    """Return an interval within the values that a measure can have; nan where `half` is."""
    low, high = np.clip([value - half, value + half], bottom, top)
    return float(low), float(high)

"""The rows of one image: its objects or classes, and what is between classes, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .between import Between
from .calibration import OBJECTS, WHOLE
from .intervals import Intervals
from .measures import (
    MEASURES,
    OF_ABSENT,
    Spacing,
    Table,
    foreground,
    grey_of,
    measured_objects,
    objects_of,
)


@dataclass
class Row:
    """Measures of one object or class, or one value between classes, with the intervals' ends."""

    image: str
    name: str  # the class, or the ratio's or distance's name
    number: int | None  # of the object; None for a class as a whole, and between classes
    values: dict[str, float]  # in the unit; key "" between classes
    in_px: dict[str, float]
    ends: dict[str, tuple[float, float]]
    is_at_border: bool | None = None
    group: str = ""


@dataclass(frozen=True)
class Ruler:
    """How images are measured."""

    classes: Sequence[str]
    background: int | None
    whole: bool
    betweens: Sequence[Between] = field(default_factory=tuple)
    intervals: Intervals | None = None

    @property
    def part(self) -> str:
        """The part of a card that has the residuals of these rows."""
        return WHOLE if self.whole else OBJECTS

    def rows(
        self,
        image: str,
        codes: np.ndarray,
        pixels: np.ndarray | None = None,
        spacing: Spacing | None = None,
        uncertainty: np.ndarray | None = None,
    ) -> tuple[list[Row], list[Row]]:
        """Return the rows of an image, and those between its classes.

        `codes` are uint8 (H, W), `pixels` the image, uint8 (H, W, C), if there is one.
        `uncertainty`, (C,), is that of a prediction, see `uncertainty_of`; without it there are no
        intervals.
        """
        objects, grey = objects_of(codes, self.background), grey_of(pixels)
        table = scaled = measured_objects(*objects, self.whole, grey)
        if spacing is not None:
            scaled = measured_objects(*objects, self.whole, grey, spacing)
        length = math.sqrt(codes.size)
        rows = []
        numbers = dict.fromkeys(table["code"].tolist(), 0)
        for place, code in enumerate(table["code"].tolist()):
            numbers[code] += 1
            in_px, values = (_values(one, place) for one in (table, scaled))
            ends = {}
            if self.intervals and uncertainty is not None:
                ends = self.intervals.of_row(
                    self.part, self.classes[code], in_px, length, float(uncertainty[code])
                )
            rows.append(
                Row(
                    image,
                    self.classes[code],
                    None if self.whole else numbers[code],
                    values,
                    in_px,
                    {
                        key: _in_unit(key, in_px[key], values[key], two, spacing)
                        for key, two in ends.items()
                    },
                    bool(table["border"][place]),
                )
            )
        if self.whole:
            absent = dict.fromkeys(MEASURES, math.nan) | dict.fromkeys(OF_ABSENT, 0.0)
            rows += [
                Row(image, self.classes[code], None, dict(absent), dict(absent), {})
                for code in foreground(self.classes, self.background)
                if code not in numbers
            ]
        if self.betweens and not self.whole:  # they are between classes as a whole
            table = scaled = measured_objects(*objects, True)
            if spacing is not None:
                scaled = measured_objects(*objects, True, spacing=spacing)
        return rows, self._between(image, table, scaled, length, uncertainty, spacing)

    def _between(
        self,
        image: str,
        table: Table,
        scaled: Table,
        length: float,
        uncertainty: np.ndarray | None,
        spacing: Spacing | None,
    ) -> list[Row]:
        rows = []
        for between in self.betweens:
            in_px, value = between.value(table), between.value(scaled)
            if math.isnan(value):
                continue
            ends = {}
            if self.intervals and uncertainty is not None:
                two = self.intervals.between(between, table, self.classes, length, uncertainty)
                ends = {"": _in_unit("", in_px, value, two, spacing, between.power)}
            rows.append(Row(image, between.name, None, {"": value}, {"": in_px}, ends))
        return rows


def _values(table: Table, place: int) -> dict[str, float]:
    return {name: float(table[name][place]) for name in MEASURES}


def _in_unit(
    name: str,
    in_px: float,
    value: float,
    ends: tuple[float, float],
    spacing: Spacing | None,
    power: int | None = None,
) -> tuple[float, float]:
    """Return an interval around a value in px as one around the same value in mm.

    `power` is that of px in the unit; by default, that of the measure called `name`. Values without
    a unit are moved: with pixels that are not square, an angle differs, too.
    """
    if spacing is None:
        return ends
    power = MEASURES[name].power if power is None else power
    if not power:
        return ends[0] + value - in_px, ends[1] + value - in_px
    down, across = spacing
    if in_px:
        factor = value / in_px
    else:  # such as the place of a box at the image's border
        sides = {"x": across, "width": across, "y": down, "height": down}
        factor = sides.get(name.rpartition("_")[2], math.sqrt(down * across)) ** power
    return ends[0] * factor, ends[1] * factor


def written(row: Row, unit: str, by: str | None, has_intervals: bool) -> Mapping[str, object]:
    """Return a row of measures.csv; nan values are written as empty ones."""
    found: dict[str, object] = {"image": row.image}
    if by:
        found["group"] = row.group
    found |= {"class": row.name, "object": "" if row.number is None else row.number, "unit": unit}
    for name, value in row.values.items():
        found[name] = int(value) if name == "count" else rounded(value)
    found["touches_border"] = "" if row.is_at_border is None else row.is_at_border
    if has_intervals:
        for name in row.values:
            low, high = row.ends.get(name, (math.nan, math.nan))
            if name == "count":  # the true one is a whole number
                low, high = np.ceil(low), np.floor(high)
            found |= {f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
    return found


def written_between(
    row: Row, units: Mapping[str, str], by: str | None, has_intervals: bool
) -> Mapping[str, object]:
    """Return a row of between.csv; nan values are written as empty ones."""
    found: dict[str, object] = {"image": row.image}
    if by:
        found["group"] = row.group
    found |= {"between": row.name, "unit": units[row.name], "value": rounded(row.values[""])}
    if has_intervals:
        low, high = row.ends.get("", (math.nan, math.nan))
        found |= {"low": rounded(low), "high": rounded(high)}
    return found


def rounded(value: float) -> float:
    """Return a number with six significant digits: pixels give no more."""
    return float(f"{value:.6g}")

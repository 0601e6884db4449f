"""Measures between two classes of an image: ratios, and distances of centroids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from ..errors import TaskError, choose
from .measures import MEASURES, Table, foreground

PLAIN = "diameter"
# The measure of ratios that name none: a class such as an iris is a ring, and the diameter of its
# area alone may be smaller than that of the pupil in it.
USUAL = "outer_diameter"
# Foreground classes up to which every ratio of diameters and every distance is calibrated and
# measured: their number grows with the square of the classes.
MOST_PAIRED = 8
RATIO_MEASURES = [m.name for m in MEASURES.values() if not m.is_angle and m.name != "intensity"]


@dataclass(frozen=True)
class Between:
    """A ratio of a measure of one class to that of another, or the distance of their centroids."""

    one: tuple[int, str]  # class index and measure
    other: tuple[int, str]
    name: str
    is_distance: bool = False

    @property
    def power(self) -> int:
        """The power of px in its unit."""
        if self.is_distance:
            return 1
        return MEASURES[self.one[1]].power - MEASURES[self.other[1]].power

    def value(self, classes: Table) -> float:
        """Return its value for the classes of an image, see `measured`; nan where one is absent."""
        first, second = (_row(classes, code) for code in (self.one[0], self.other[0]))
        if first is None or second is None:
            return math.nan
        if self.is_distance:
            return math.hypot(
                *(
                    float(classes[n][first] - classes[n][second])
                    for n in ("centroid_x", "centroid_y")
                )
            )
        below = float(classes[self.other[1]][second])
        return float(classes[self.one[1]][first]) / below if below else math.nan

    def size(self, classes: Table) -> float:
        """Return the length, in px, by which its residuals are scaled; nan where one is absent.

        That is the value of a ratio, and for a distance the mean diameter of both.
        """
        if not self.is_distance:
            return abs(self.value(classes))
        rows = [_row(classes, code) for code in (self.one[0], self.other[0])]
        if None in rows:
            return math.nan
        return float(np.mean([classes[PLAIN][row] for row in rows]))


def _row(classes: Table, code: int) -> int | None:
    places = np.flatnonzero(classes["code"] == code)
    return int(places[0]) if len(places) else None


def calibrated_between(classes: Sequence[str], background: int | None) -> list[Between]:
    """Return what is calibrated: the distances of all pairs, and the ratios of both diameters."""
    codes = foreground(classes, background)
    if len(codes) > MOST_PAIRED:
        return []
    ratios = [
        _ratio((one, measure), (other, measure), classes)
        for one, other in permutations(codes, 2)
        for measure in (USUAL, PLAIN)
    ]
    return ratios + distances(classes, background)


def distances(classes: Sequence[str], background: int | None) -> list[Between]:
    """Return the distances of the centroids of all pairs of classes; none of too many classes."""
    codes = foreground(classes, background)
    return [
        Between((one, USUAL), (other, USUAL), f"distance {classes[one]} to {classes[other]}", True)
        for one, other in combinations(codes if len(codes) <= MOST_PAIRED else [], 2)
    ]


def ratio_of(text: str, classes: Sequence[str], background: int | None) -> Between:
    """Return the ratio of a text: "pupil/iris" (of outer diameters), or "pupil.area/iris.area".

    Raises `TaskError` for classes and measures that do not exist.
    """
    known = {classes[code]: code for code in foreground(classes, background)}
    places = [place for place, letter in enumerate(text) if letter == "/"]
    sides = [(text[:place].strip(), text[place + 1 :].strip()) for place in places]
    if not sides:
        raise TaskError(
            f"--ratio {text}: names no ratio; write CLASS/CLASS, such as "
            f"{'/'.join((list(known) * 2)[:2])}, or CLASS.area/CLASS.area",
            "ratio",
        )
    # class names may have slashes themselves
    pair = next((p for p in sides if all(_is_known(side, known) for side in p)), sides[0])
    one, other = (_side(side, known) for side in pair)
    return _ratio(one, other, classes)


def _ratio(one: tuple[int, str], other: tuple[int, str], classes: Sequence[str]) -> Between:
    is_usual = one[1] == other[1] == USUAL
    names = [classes[c] if is_usual else f"{classes[c]}.{m}" for c, m in (one, other)]
    return Between(one, other, "/".join(names))


def _is_known(side: str, known: dict[str, int]) -> bool:
    return side in known or side.rpartition(".")[0] in known


def _side(side: str, known: dict[str, int]) -> tuple[int, str]:
    name, _, measure = side.rpartition(".")
    if side in known or name not in known:  # the error names the whole side
        return known[choose("class", side, known, TaskError)], USUAL
    return known[name], choose("measure", measure, RATIO_MEASURES, TaskError)

"""Measures of a video's frames: columns of frames.csv, and a page with their curves over time."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..errors import TaskError
from ..exports.card import Card
from ..inference.prediction import Prediction
from ..inference.video import CURVES
from ..report.html import environment, svg, write_page
from ..report.painting import class_colours
from ..tasks import SegmentationTask, Task
from ..types import Colour
from .between import ratio_of
from .calibration import uncertainty_of
from .intervals import LEVELS, Intervals
from .measures import foreground
from .rows import Row, Ruler, rounded
from .spacing import parse_spacing

COLUMNS = (
    "diameter",
    "outer_diameter",
    "major_axis",
    "minor_axis",
    "area",
    "centroid_x",
    "centroid_y",
)
# The measure of each class that is drawn: an iris is a ring, whose size is that with its hole
DRAWN = "outer_diameter"
# Inches of a chart: on a telephone, the page reduces its text of 10 pt to 7 px.
WIDTH, HEIGHT = 7.2, 2.2
AXES = (0.08, 0.22, 0.89, 0.72)  # left, bottom, width, height in the chart: the same in all
RATIO = (59, 74, 92)  # colour of ratios, which belong to no class
MOST_POINTS = 4000  # of a curve: more than a page is wide


@dataclass
class FrameMeter:
    """Measures the classes of each frame, and ratios such as "pupil/iris". See
    `inference.video.Meter`.

    Measures are in px, or in mm with `spacing`, such as "0.1" or "0.1x0.2" (mm, down x across);
    `level` is that of the intervals, where the export has them.
    """

    ratios: Sequence[str] = ()
    spacing: str | None = None
    level: float = 0.9

    def begin(self, task: Task, card: Card) -> None:
        """Raises `TaskError` for a task without masks, and for classes that do not exist;
        `DataError` for a spacing or a level that cannot be.
        """
        LEVELS("--level", self.level)
        self._spacing = None if self.spacing is None else parse_spacing(self.spacing)
        self._unit = "px" if self.spacing is None else "mm"
        if not isinstance(task, SegmentationTask):
            raise TaskError(
                f"task {task.name} gives each frame a class, and there is nothing to measure; "
                "leave out --measure",
                "no-masks",
            )
        asked = [ratio_of(text, task.classes, task.background) for text in self.ratios]
        betweens = {ratio.name: ratio for ratio in asked}
        intervals = Intervals(card.measures, self.level) if card.measures else None
        self._ruler = Ruler(
            task.classes, task.background, True, tuple(betweens.values()), intervals
        )
        codes, colours = foreground(task.classes, task.background), class_colours(task)
        self._classes = [task.classes[code] for code in codes]
        # Of each curve; a class has the one that it has in pictures of ellipses
        self._colours = [colours[code] for code in codes] + [RATIO] * len(betweens)

    def columns(self, prediction: Prediction) -> dict[str, object]:
        """Return the measures of one frame; those of an absent class are empty."""
        rows, betweens = self._ruler.rows(
            "", prediction.labels, None, self._spacing, uncertainty_of(prediction)
        )
        by_class = {row.name: row for row in rows}
        by_ratio = {row.name: row for row in betweens}
        found: dict[str, object] = {"unit": self._unit}
        for name in self._classes:
            for key in COLUMNS:
                found |= self._cells(f"{name}_{key}", by_class.get(name), key)
        for between in self._ruler.betweens:
            found |= self._cells(between.name, by_ratio.get(between.name), "")
        return found

    def _cells(self, column: str, row: Row | None, key: str) -> dict[str, object]:
        cells = {column: rounded(row.values[key]) if row else math.nan}
        if self._ruler.intervals is not None:
            low, high = row.ends.get(key, (math.nan,) * 2) if row else (math.nan,) * 2
            cells |= {f"{column}_low": rounded(low), f"{column}_high": rounded(high)}
        return dict(cells)

    def finish(self, table: Path) -> list[Path]:
        """Write the page with the curves of all frames beside their table."""
        names = [f"{name}_{DRAWN}" for name in self._classes]
        names += [between.name for between in self._ruler.betweens]
        ends = [f"{name}_{end}" for name in names for end in ("low", "high")]
        columns: dict[str, list[float]] = {name: [] for name in ("time", *names, *ends)}
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, values in columns.items():
                    values.append(float(row.get(name) or math.nan))
        arrays = {name: np.array(values) for name, values in columns.items()}
        charts = [
            (
                _title(name, self._unit),
                svg(_curve(arrays, name, colour)),
                _facts(arrays[name]),
            )
            for name, colour in zip(names, self._colours)
        ]
        has_intervals = any(np.isfinite(arrays[end]).any() for end in ends)
        page = (
            environment()
            .get_template("curves.html")
            .render(
                title=f"Measures of {table.parent.name} over time",
                frames=len(arrays["time"]),
                seconds=f"{arrays['time'][-1]:.1f}",
                percent=f"{100 * self.level:g}" if has_intervals else "",
                charts=charts,
            )
        )
        return [write_page(page, table.with_name(CURVES))]


def _title(name: str, unit: str) -> str:
    one = name.removesuffix(f"_{DRAWN}")
    return f"{name} (ratio)" if one == name else f"{one}: outer diameter ({unit})"


def _facts(values: np.ndarray) -> str:
    """Return the middle and the range of a curve in words."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "in no frame"
    low, median, high = np.percentile(known, (5, 50, 95))
    absent = len(values) - len(known)
    return f"median {median:.4g}, 5th to 95th percentile {low:.4g} to {high:.4g}" + (
        f"; absent in {absent} of {len(values)} frames" if absent else ""
    )


def _curve(arrays: dict[str, np.ndarray], name: str, colour: Colour) -> Figure:
    """Draw one measure over the whole time, with the band of its intervals; frames without it are
    gaps.
    """
    step = -(-len(arrays["time"]) // MOST_POINTS)
    time, value, low, high = (
        arrays[key][::step] for key in ("time", name, f"{name}_low", f"{name}_high")
    )
    shade = [value / 255 for value in colour]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axis = figure.add_axes(AXES)
    axis.spines[["top", "right"]].set_visible(False)
    axis.fill_between(time, low, high, color=shade, alpha=0.25, linewidth=0)
    axis.plot(time, value, color=shade, linewidth=1.2, marker="." if len(time) < 60 else "")
    axis.grid(color="#e3e7ec")
    axis.set(xlabel="time (s)", xlim=(0, arrays["time"][-1] or 1))
    return figure

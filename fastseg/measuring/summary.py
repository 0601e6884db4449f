"""`summary.html`: the distributions of measures by group, and their means; one self-contained
page.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..report.html import environment, svg, write_page
from ..report.painting import COLOURS
from ..report.panels import literal, short
from ..utils.text import counted, figure
from .cohorts import GroupMean
from .measures import MEASURES
from .rows import Row

DRAWN = ("diameter", "area")  # measures of each class that are drawn
LISTED = ("count", "area", "diameter", "major_axis", "minor_axis", "solidity", "feret", "intensity")
MOST_GROUPS = 30  # of a chart and a table; groups.csv has them all
MOST_CHARTS = 24
WIDTH = 5.6  # inches of a chart


def write_summary(
    path: Path,
    title: str,
    facts: Sequence[str],
    warning: str,
    rows: Sequence[Row],
    between: Sequence[Row],
    means: Sequence[GroupMean],
    units: Mapping[str, str],
    by: str | None,
    level: float,
) -> Path:
    """Write the page. `units` has the unit of each measure, and of each value between classes."""
    groups = list(dict.fromkeys(found.group for found in means))
    keys = _keys(rows, between)
    means_of = {(found.group, found.name, found.measure): found.mean for found in means}
    listed = [key for key in _listed(rows, between) if any((g, *key) in means_of for g in groups)]
    page = (
        environment()
        .get_template("summary.html")
        .render(
            title=title,
            facts=facts,
            warning=warning,
            by=by,
            percent=f"{100 * level:g}",
            charts=[
                (_title(*key, units), svg(_strips(key, rows, between, groups, means_of, units)))
                for key in keys[:MOST_CHARTS]
            ],
            groups=[(group, _images(group, rows)) for group in groups[:MOST_GROUPS]],
            more=max(0, len(groups) - MOST_GROUPS),
            lines=[
                (
                    _title(*key, units),
                    [
                        _cell(means_of.get((group, *key)), _images(group, rows))
                        for group in groups[:MOST_GROUPS]
                    ],
                )
                for key in listed
            ],
        )
    )
    return write_page(page, path)


def _keys(rows: Sequence[Row], between: Sequence[Row]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(row.name for row in rows))
    ratios = [name for name in dict.fromkeys(row.name for row in between) if "/" in name]
    return [(name, "") for name in ratios] + [(n, measure) for n in names for measure in DRAWN]


def _listed(rows: Sequence[Row], between: Sequence[Row]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(row.name for row in rows))
    others = list(dict.fromkeys(row.name for row in between))
    return [(n, "") for n in others] + [(n, measure) for n in names for measure in LISTED]


def _images(group: str, rows: Sequence[Row]) -> int:
    return len({row.image for row in rows if row.group == group})


def _title(name: str, measure: str, units: Mapping[str, str]) -> str:
    unit = units[measure or name]
    what = f"{name}: {measure.replace('_', ' ')}" if measure else name
    return f"{what} ({unit})" if unit else what


def _cell(mean: Any, images: int) -> tuple[str, str]:
    """Return a mean in words, and below it the interval, and of how many images it is the mean."""
    if mean is None or math.isnan(mean.value):
        return "absent", ""
    below = [] if math.isnan(mean.low) else [f"{figure(mean.low)} to {figure(mean.high)}"]
    if mean.images != images:
        below.append(counted(mean.images, "image"))
    return figure(mean.value), ", ".join(below)


def _strips(
    key: tuple[str, str],
    rows: Sequence[Row],
    between: Sequence[Row],
    groups: Sequence[str],
    means_of: Mapping[tuple[str, str, str], Any],
    units: Mapping[str, str],
) -> Figure:
    """Draw each group's values as points in a line, over a box of quartiles, with the mean."""
    name, measure = key
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows if measure else between:
        if row.name == name and math.isfinite(row.values[measure]):
            values[row.group].append(row.values[measure])
    shown = list(groups[:MOST_GROUPS])[::-1]
    height = 1.0 + 0.45 * len(shown)
    chart = Figure(figsize=(WIDTH, height))
    # by hand: matplotlib's own layout takes as long as the drawing
    left = 0.04 + 0.016 * max(len(short(group)) for group in shown)
    axis = chart.add_axes((left, 0.62 / height, 0.96 - left, 1 - 0.72 / height))
    axis.spines[["top", "right", "left"]].set_visible(False)
    rng = np.random.default_rng(0)  # equal pages for equal values
    for place, group in enumerate(shown):
        own = np.array(values.get(group, []))
        if not len(own):
            continue
        low, median, high = np.percentile(own, (25, 50, 75))
        axis.barh(place, high - low, 0.5, left=low, color="#dbe7f2", zorder=1)
        axis.plot([median, median], [place - 0.25, place + 0.25], color="#6b7c8f", zorder=2)
        heights = place + rng.uniform(-0.16, 0.16, len(own))
        axis.scatter(
            own, heights, 12, COLOURS[0], alpha=0.6, linewidths=0, zorder=3, rasterized=True
        )
        mean = means_of.get((group, name, measure))
        if mean is not None and mean.images > 1:
            axis.plot(mean.value, place, "D", color=COLOURS[4], markersize=5, zorder=5)
            if math.isfinite(mean.low):
                axis.plot([mean.low, mean.high], [place] * 2, color=COLOURS[4], lw=2, zorder=4)
    axis.set_yticks(range(len(shown)), [literal(short(group)) for group in shown])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(-0.6, len(shown) - 0.4)
    axis.set_xlabel(literal(units[measure or name] or "ratio"))
    axis.grid(axis="x", color="#e3e7ec", zorder=0)
    return chart


def units_of(unit: str, between: Mapping[str, int]) -> dict[str, str]:
    """Return the unit of each measure, and of each value between classes, by its power of px."""
    powers = {name: measure.power for name, measure in MEASURES.items()} | dict(between)
    found = {
        name: {0: "", 1: unit, 2: f"{unit}²"}.get(power, f"{unit}^{power}")
        for name, power in powers.items()
    }
    return found | {"angle": "°"}

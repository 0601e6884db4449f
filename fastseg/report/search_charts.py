"""Charts of a search for settings: which options mattered, and what the trials had."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, PercentFormatter

from .painting import COLOURS
from .panels import even_legend, literal

TITLES = {
    "arch": "backbone",
    "size": "size (px)",
    "lr": "learning rate",
    "rotate": "rotation (degrees)",
    "colour": "colour change",
    "light": "light change",
    "opt": "optimizer",
    "bs": "batch size",
}
AXIS_WIDTH, LEAST_WIDTH = 1.45, 7.0  # inches, of one axis and of the picture
SPREAD = 0.12  # of an axis: lines of one category are drawn beside each other
LONGEST = 15  # characters of a category in one line
Place = Callable[[Any], float]  # of a value on an axis, 0 to 1


def importance(shares: Mapping[str, float], trials: int, figure: str) -> Figure:
    """Draw the importance of each option, shares of 1, as bars; the largest is on top."""
    drawn = Figure(figsize=(6.4, 1.5 + 0.36 * len(shares)), layout="constrained")
    axis = drawn.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    values = [shares[name] for name in names]
    axis.barh(range(len(names)), values, 0.7, color=COLOURS[0])
    for place, value in enumerate(values):
        axis.annotate(
            f"{value:.0%}",
            (value, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axis.set_yticks(range(len(names)), [literal(TITLES.get(name, name)) for name in names])
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 1.12 * max([*values, 0.01]))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    few = ": a rough hint" if trials < 5 * len(shares) else ""
    axis.set_xlabel(f"share of the differences in {figure} (fANOVA of {trials} trials{few})")
    axis.set_title("What mattered in the search", fontsize=11)
    return drawn


def parallel(
    rows: Sequence[Mapping[str, Any]], space: Mapping[str, Mapping[str, Any]], figure: str
) -> Figure:
    """Draw each complete trial as a line through its values, coloured by its figure.

    `rows` have the options of `space`, the lower-case name of `figure`, and "recipe"; the best one
    is bold, the recipe dashed. `space` has for each option "values", or "low", "high" and "log".
    """
    names, key = [*space], figure.lower()
    scores = np.array([row[key] for row in rows], dtype=float)
    low, high = float(scores.min()), float(scores.max())
    # Two figures far from the others would leave one colour for these.
    floor = max(low, float(np.quantile(scores, 0.25)) - 1.5 * (high - float(np.median(scores))))
    colours = ScalarMappable(Normalize(floor, high or 1.0), colormaps["viridis_r"])
    width = max(LEAST_WIDTH, AXIS_WIDTH * len(names) + 1.6)
    drawn = Figure(figsize=(width, 4.6), layout="constrained")
    axis = drawn.subplots()
    places = [_axis(axis, number, name, space[name]) for number, name in enumerate(names)]
    # Of equal ones the first trial is the best, as it is for the search.
    order = sorted(range(len(rows)), key=lambda index: (scores[index], -rows[index]["trial"]))
    for rank, index in enumerate(order):
        row, is_best = rows[index], rank == len(order) - 1
        stands_out = is_best or row["recipe"]
        shift = SPREAD * ((rank + 0.5) / len(order) - 0.5)
        heights = [
            place(row[name])
            + (shift / len(space[name]["values"]) if "values" in space[name] else 0)
            for place, name in zip(places, names)
        ]
        axis.add_patch(
            PathPatch(
                _curve(heights),
                facecolor="none",
                edgecolor=COLOURS[4]
                if is_best
                else "black"
                if stands_out
                else colours.to_rgba(scores[index]),
                linestyle="--" if row["recipe"] else "-",
                linewidth=2.6 if is_best else 1.6 if stands_out else 1.1,
                alpha=1 if stands_out else 0.75,
                zorder=3 if stands_out else 2,
            )
        )
    axis.set(xlim=(-0.55, len(names) - 1 + 0.3), ylim=(-0.04, 1.04), yticks=[])
    axis.set_xticks(range(len(names)), [literal(TITLES.get(name, name)) for name in names])
    axis.tick_params(axis="x", length=0, labelsize=9.5, pad=8)
    axis.spines[:].set_visible(False)
    bar = drawn.colorbar(
        colours, ax=axis, pad=0.02, fraction=0.05, extend="min" if floor > low else "neither"
    )
    bar.set_label(f"{figure} in the search", fontsize=9)
    best = rows[order[-1]]
    handles = [_handle(COLOURS[4], "-", 2.6, f"the best, trial {best['trial']}: {best[key]:.4f}")]
    handles += [
        _handle("black", "--", 1.6, f"the recipe: {row[key]:.4f}") for row in rows if row["recipe"]
    ]
    even_legend(drawn, handles, loc="outside lower center", fontsize=9)
    axis.set_title(f"{len(rows)} complete trials, one line each", fontsize=11)
    return drawn


def _handle(colour: str, style: str, width: float, label: str) -> Line2D:
    return Line2D([], [], color=colour, linestyle=style, linewidth=width, label=label)


def _axis(axis: Axes, at: int, name: str, part: Mapping[str, Any]) -> Place:
    """Draw one option's axis, and return where its values are."""
    axis.plot((at, at), (0, 1), color="0.25", linewidth=1, zorder=1)
    if "values" in part:
        values = part["values"]
        step = 1 / len(values)
        heights = {value: (number + 0.5) * step for number, value in enumerate(values)}
        for value, height in heights.items():
            _label(axis, at, height, _wrapped(str(value)))
        return lambda value: heights[value]
    low, high = part["low"], part["high"]
    scale: Place = math.log if part["log"] else float
    bottom, length = scale(low), scale(high) - scale(low)
    for tick in _ticks(low, high, part["log"]):
        _label(axis, at, (scale(tick) - bottom) / length, f"{tick:g}")
    return lambda value: (scale(value) - bottom) / length


def _ticks(low: float, high: float, is_log: bool) -> list[float]:
    """Return round numbers within a range, or its ends if there are too few."""
    if is_log:
        decades = math.log10(high / low)
        locator: Locator = LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0))
    else:
        locator = MaxNLocator(5)
    slack = 1e-9 * (high - low)
    ticks = [float(t) for t in locator.tick_values(low, high) if low - slack <= t <= high + slack]
    return ticks if len(ticks) > 1 else [low, high]


def _label(axis: Axes, at: int, height: float, text: str) -> None:
    axis.annotate(
        literal(text),
        (at, height),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
    )


def _wrapped(text: str) -> str:
    """Return a long name in two lines, divided at its last underscore or plus before the middle."""
    if len(text) <= LONGEST:
        return text
    cuts = [place for place, sign in enumerate(text) if sign in "_+." and place > len(text) // 3]
    cut = cuts[0] + 1 if cuts else len(text) // 2
    return f"{text[:cut]}\n{text[cut:]}"


def _curve(heights: Sequence[float]) -> Curve:
    """Return a smooth line through heights on neighbouring axes."""
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for at in range(1, len(heights)):
        points += [(at - 0.5, heights[at - 1]), (at - 0.5, heights[at]), (at, heights[at])]
        codes += [Curve.CURVE4] * 3
    if len(points) == 1:
        points.append((0.2, heights[0]))
        codes.append(Curve.LINETO)
    return Curve(points, codes)

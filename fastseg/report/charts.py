"""Charts as matplotlib figures: confusion matrices, bars with intervals, curves, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from .painting import COLOURS
from .panels import even_legend, literal

BROAD = 11.4  # inches: width of a figure with two charts side by side
RARE = 0.001  # share of all pixels or images; bins with less are drawn hollow. A convention


def _remove_frame(*axes: Axes) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_prop_cycle(None)


def confusion(counts: np.ndarray, classes: Sequence[str], unit: str) -> Figure:
    """Draw a confusion matrix (C, C) as shares of each true class, with the counts of `unit` below.

    `unit` is "pixels" or "images".
    """
    counts = np.asarray(counts)
    shares = counts / np.clip(counts.sum(axis=1, keepdims=True), 1, None)
    cell = min(0.85, 16 / len(classes))
    figure = Figure(
        figsize=(2.3 + cell * len(classes), 1.7 + cell * len(classes)), layout="constrained"
    )
    axis = figure.subplots()
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    bar = figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set(
        xticks=range(len(classes)),
        yticks=range(len(classes)),
        xlabel="predicted class",
        ylabel="true class",
        title=f"Confusion matrix ({unit})",
    )
    size = min(9, 60 * cell)
    axis.set_xticklabels(
        map(literal, classes),
        rotation=30 if cell > 0.5 else 90,
        ha="right" if cell > 0.5 else "center",
        fontsize=size,
    )
    axis.set_yticklabels(map(literal, classes), fontsize=size)
    for (row, column), share in np.ndenumerate(shares) if cell > 0.5 else ():
        axis.text(
            column,
            row,
            f"{share:.1%}\n{_short_number(counts[row, column])}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share > 0.6 else "black",
        )
    return figure


def _short_number(number: int) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return str(int(number))


def bars(
    figures: Mapping[str, Mapping[str, float | None]],
    keys: Sequence[str],
    title: str,
    intervals: Mapping[str, Mapping[str, Sequence[float] | None]] | None = None,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Draw grouped bars: a group for each class, a bar for each of `keys`, with 95% intervals if
    given.

    Values are from 0 to 1, or None where absent. Each stands in its bar's own line, after the end
    of the interval. `names` are the titles of the keys.
    """
    classes = list(figures)
    step = min(
        0.21, 24 / (len(classes) * (len(keys) + 0.8))
    )  # inches a bar; a gap between groups takes 0.8 of a bar
    figure = Figure(
        figsize=(6.2, 1.3 + step * len(classes) * (len(keys) + 0.8)), layout="constrained"
    )
    axis = figure.subplots()
    for i, key in enumerate(keys):
        for group, name in enumerate(classes):
            value, ends = figures[name].get(key), (intervals or {}).get(name, {}).get(key)
            place = group * (len(keys) + 0.8) + i
            axis.barh(place, value or 0, 0.9, color=COLOURS[i % len(COLOURS)])
            if ends and value is not None:
                axis.plot(
                    ends,
                    (place, place),
                    color="0.2",
                    linewidth=1,
                    marker="|",
                    markersize=4,
                    clip_on=False,
                )
            if step > 0.12:
                axis.annotate(
                    "absent" if value is None else f"{value:.3f}",
                    (max(value or 0, *(ends or (0,))), place),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    color="0.45" if value is None else "black",
                )
    centres = np.arange(len(classes)) * (len(keys) + 0.8) + (len(keys) - 1) / 2
    axis.set(
        yticks=centres,
        xlim=(0, 1.13),
        xticks=np.linspace(0, 1, 6),
        xlabel="score (0 to 1)",
        ylim=(len(classes) * (len(keys) + 0.8) - 0.9, -0.9),
    )
    axis.set_yticklabels(map(literal, classes), fontsize=min(10, 65 * step * (len(keys) + 0.8)))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines.bottom.set_bounds(0, 1)
    figure.suptitle(literal(title), fontsize=11)
    handles = [
        Patch(color=COLOURS[i % len(COLOURS)], label=(names or {}).get(key, key))
        for i, key in enumerate(keys)
    ]
    even_legend(
        figure, handles, loc="outside lower center", fontsize=9, handlelength=1.2, columnspacing=1.2
    )
    _remove_frame(axis)
    return figure


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw losses, metrics and, where it was recorded, the learning rate against the epoch."""
    epochs = np.arange(1, len(history) + 1)
    scores = [key for key in history[0] if key not in ("epoch", "train_loss", "valid_loss", "lr")]
    has_rate = "lr" in history[0]
    figure = Figure(figsize=(BROAD if has_rate else 8.6, 3.4), layout="constrained")
    left, middle, *right = figure.subplots(1, 3 if has_rate else 2)
    for i, key in enumerate(("train_loss", "valid_loss")):
        left.plot(
            epochs,
            [row[key] for row in history],
            marker=".",
            label=key.replace("_", " "),
            color=COLOURS[i],
        )
    for i, key in enumerate(scores):
        middle.plot(
            epochs,
            [row[key] for row in history],
            marker=".",
            label=f"{key} (validation)",
            color=COLOURS[i],
        )
    left.set(ylabel="loss", title="Loss")
    middle.set(
        ylabel="score (0 to 1)",
        title="Foreground means" if "dice" in scores else "Scores",
        ylim=(0, 1.02),
    )
    if has_rate:
        right[0].plot(epochs, [row["lr"] for row in history], marker=".", color=COLOURS[0])
        right[0].set(ylabel="mean over the epoch", title="Learning rate", ylim=(0, None))
        right[0].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axis in (left, middle):
        axis.legend(fontsize=8, frameon=False)
    for axis in (left, middle, *right):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(0.5, len(history) + 0.5)
    _remove_frame(left, middle, *right)
    return figure


def rate_finder(rates: Sequence[float], losses: Sequence[float], suggestion: float) -> Figure:
    """Draw the loss of a learning-rate range test against the rate, with the suggestion marked."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=COLOURS[0])
    axis.axvline(suggestion, color=COLOURS[1], linestyle="--", label=f"suggestion {suggestion:.2e}")
    axis.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="training loss",
        title="Learning-rate range test",
    )
    axis.legend(frameon=False)
    _remove_frame(axis)
    return figure


def reliability(bins: np.ndarray, error: float, unit: str) -> Figure:
    """Draw how often predictions of each confidence are right, and how many there are.

    `bins` are float64 (15, 3), see `metrics.calibration.reliability`.
    Bins with less than a thousandth of all are hollow: their values may be chance.
    """
    weight, confidence, hits = bins.T
    filled = weight > 0
    shares = weight / max(weight.sum(), 1)
    x, y, rare = (
        confidence[filled] / weight[filled],
        hits[filled] / weight[filled],
        shares[filled] < RARE,
    )
    edges = np.linspace(0, 1, len(bins) + 1)
    figure = Figure(figsize=(BROAD, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    left.plot(x, y, color=COLOURS[0], clip_on=False)
    faces = ["white" if hollow else COLOURS[0] for hollow in rare]
    left.scatter(x, y, 36, facecolors=faces, edgecolors=COLOURS[0], clip_on=False, zorder=3)
    left.set(
        xlabel="confidence (probability of the predicted class)",
        ylabel=f"share of {unit} that are right",
        ylim=(0, 1.02),
        xlim=(0, 1),
        title=f"Reliability (calibration error {error:.3f})",
    )
    handles = [
        Line2D([], [], color="0.6", linestyle="--", label="as right as confident"),
        Line2D([], [], color=COLOURS[0], marker="o", label="this model"),
    ]
    if rare.any():
        handles.append(
            Line2D(
                [],
                [],
                color=COLOURS[0],
                marker="o",
                markerfacecolor="white",
                label=f"less than {RARE:.1%} of {unit}",
            )
        )
    left.legend(handles=handles, frameon=False, fontsize=9, loc="upper left")
    right.bar(edges[:-1], shares, 1 / len(bins), align="edge", color=COLOURS[0], edgecolor="white")
    right.set(
        xlabel="confidence (probability of the predicted class)",
        ylabel=f"share of {unit}",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title="How often each confidence occurs",
    )
    lowest = shares[filled].min(initial=1)
    if lowest < 0.01:  # on a linear scale these bars would be invisible
        right.set(
            yscale="log",
            ylim=(10 ** np.floor(np.log10(max(lowest, 1e-5))) / 2, 1.3),
            ylabel=f"share of {unit} (logarithmic)",
        )
        right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    for axis in (left, right):
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    _remove_frame(left, right)
    return figure


def bands(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], title: str) -> Figure:
    """Draw loss and score of several settings against the epoch.

    Lines are means over the runs of a setting; bands reach from the lowest to the highest run.
    """
    first = next(iter(histories.values()))[0][0]
    score = next(key for key in first if key not in ("epoch", "train_loss", "valid_loss", "lr"))
    keys = {
        "train_loss": "training loss",
        "valid_loss": "validation loss",
        score: f"{score} (validation, at training size)",
    }
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (key, label) in zip(axes, keys.items()):
        for number, (name, runs) in enumerate(histories.items()):
            length = min(map(len, runs))
            values = np.array([[row[key] for row in run[:length]] for run in runs])
            epochs, colour = np.arange(1, length + 1), COLOURS[number % len(COLOURS)]
            axis.plot(epochs, values.mean(axis=0), color=colour, marker=".", label=literal(name))
            axis.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[2].set_ylim(0, min(1.02, 1.15 * max(axes[2].get_ylim()[1], 0.01)))
    even_legend(
        figure,
        axes[0].get_legend_handles_labels()[0],
        loc="outside lower center",
        fontsize=9,
        title="lines: means over seeds; bands: from minimum to maximum",
        title_fontsize=8,
    )
    figure.suptitle(literal(title), fontsize=10)
    _remove_frame(*axes)
    return figure


def learning_curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], title: str
) -> Figure:
    """Draw scores against the number of training images, and the laws that continue them.

    Of each line: the numbers of images (K,), the scores of each seed (S, K), and the places (P,)
    and the low, middle and high ends (3, P) of its law. The part beyond the images is dashed.
    """
    columns = 2 if len(lines) == 4 else min(3, len(lines))
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.3, 2.9 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for number, (name, (counts, values, places, ends)) in enumerate(lines.items()):
        axis, colour = axes[number], COLOURS[0]
        low, middle, high = ends
        axis.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
        within = places <= counts[-1]
        axis.plot(places[within], middle[within], color=colour)
        axis.plot(places[~within], middle[~within], color=colour, linestyle="--")
        axis.axvline(counts[-1], color="0.75", linewidth=1, zorder=0)
        for row in values:
            axis.plot(counts, row, ".", color=colour, markersize=6)
        axis.set(xscale="log", title=literal(name))
        marks = [*counts, places[-1]]
        axis.set_xticks(marks, [f"{mark:.0f}" for mark in marks], fontsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        bottom = max(0.0, min(values.min(), low.min()) - 0.02)
        axis.set_ylim(bottom, min(1.02, high.max() + 0.02))
        axis.set_ylabel("score" if number % columns == 0 else "", fontsize=9)
        _remove_frame(axis)
    for axis in list(axes)[len(lines) :]:
        axis.remove()
    figure.supxlabel("training images, for a class those that show it", fontsize=9)
    figure.suptitle(literal(f"{title}\ndots: seeds; band: 95 % of the laws"), fontsize=10)
    return figure

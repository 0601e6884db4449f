"""Charts: confusion matrices, bars with intervals, training curves, reliability. Each function returns a matplotlib figure."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .plots import COLOURS, literal


def _finished(*axes) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_prop_cycle(None)


def confusion(counts: np.ndarray, classes: Sequence[str], unit: str) -> Figure:
    """Draw a confusion matrix (C, C) as shares of each true class, with the counts of `unit` (pixels or images) beneath."""
    counts = np.asarray(counts)
    shares = counts / np.clip(counts.sum(axis=1, keepdims=True), 1, None)
    side = 1.9 + 0.95 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    axis.set(xticks=range(len(classes)), yticks=range(len(classes)), xlabel="predicted class", ylabel="true class",
             title=f"Confusion matrix ({unit})")
    axis.set_xticklabels(map(literal, classes), rotation=30, ha="right")
    axis.set_yticklabels(map(literal, classes))
    for (row, column), share in np.ndenumerate(shares):
        axis.text(column, row, f"{share:.1%}\n{_short(counts[row, column])}", ha="center", va="center", fontsize=8,
                  color="white" if share > 0.6 else "black")
    return figure


def _short(number: int) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return str(int(number))


def bars(figures: Mapping[str, Mapping[str, float | None]], keys: Sequence[str], title: str,
         intervals: Mapping[str, Mapping[str, Sequence[float] | None]] | None = None) -> Figure:
    """Draw grouped bars: one group a class, one bar for each of `keys` (0 to 1; None is left out), with 95% intervals if given."""
    names = list(figures)
    figure = Figure(figsize=(max(5.0, 1.5 * len(names) + 2), 3.8), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(keys)
    for i, key in enumerate(keys):
        values = [figures[name].get(key) for name in names]
        places = np.arange(len(names)) + (i - (len(keys) - 1) / 2) * width
        heights = np.array([v or 0 for v in values])
        ends = [(intervals or {}).get(name, {}).get(key) for name in names]
        spans = np.abs(np.array([end or (v, v) for end, v in zip(ends, heights)]).T - heights)
        drawn = axis.bar(places, heights, width * 0.92, label=key.replace("_", " "), color=COLOURS[i % len(COLOURS)],
                         yerr=spans if intervals else None, ecolor="0.25", error_kw={"elinewidth": 1})
        axis.bar_label(drawn, [f"{v:.3f}" if v is not None else "absent" for v in values], fontsize=7, rotation=90, padding=2)
    axis.set(xticks=range(len(names)), ylim=(0, 1.22), ylabel="score (0 to 1)", title=literal(title))
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.set_xticklabels(map(literal, names))
    axis.legend(ncols=len(keys), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    _finished(axis)
    return figure


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw training and validation loss, the metrics and, where it was recorded, the learning rate against the epoch."""
    epochs = np.arange(1, len(history) + 1)
    scores = [key for key in history[0] if key not in ("epoch", "train_loss", "valid_loss", "lr")]
    has_rate = "lr" in history[0]
    figure = Figure(figsize=(11.4 if has_rate else 8.6, 3.4), layout="constrained")
    left, middle, *right = figure.subplots(1, 3 if has_rate else 2)
    for i, key in enumerate(("train_loss", "valid_loss")):
        left.plot(epochs, [row[key] for row in history], marker=".", label=key.replace("_", " "), color=COLOURS[i])
    for i, key in enumerate(scores):
        middle.plot(epochs, [row[key] for row in history], marker=".", label=f"{key} (validation)", color=COLOURS[i])
    left.set(ylabel="loss", title="Loss")
    middle.set(ylabel="score (0 to 1)", title="Foreground means" if "dice" in scores else "Scores", ylim=(0, 1.02))
    if has_rate:
        right[0].plot(epochs, [row["lr"] for row in history], marker=".", color=COLOURS[0])
        right[0].set(ylabel="learning rate, epoch's mean", title="Learning rate", ylim=(0, None))
    for axis in (left, middle):
        axis.legend(fontsize=8, frameon=False)
    for axis in (left, middle, *right):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(0.5, len(history) + 0.5)
    _finished(left, middle, *right)
    return figure


def rate_finder(rates: Sequence[float], losses: Sequence[float], suggestion: float) -> Figure:
    """Draw the loss of a learning-rate range test against the rate, with the suggestion marked."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=COLOURS[0])
    axis.axvline(suggestion, color=COLOURS[1], linestyle="--", label=f"suggestion {suggestion:.2e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axis.legend(frameon=False)
    _finished(axis)
    return figure


def reliability(bins: np.ndarray, error: float, unit: str) -> Figure:
    """Draw how often predictions of each confidence are right, from `metrics.reliability` (15, 3), and how many there are."""
    weight, confidence, hits = bins.T
    filled = weight > 0
    centres = (np.arange(len(bins)) + 0.5) / len(bins)
    figure = Figure(figsize=(4.6, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="as right as confident")
    upper.plot(confidence[filled] / weight[filled], hits[filled] / weight[filled], marker="o", color=COLOURS[0], clip_on=False,
               label="this model")
    upper.set(ylabel=f"share of {unit} that are right", ylim=(0, 1.02), xlim=(0, 1),
              title=f"Reliability (calibration error {error:.3f})")
    upper.legend(frameon=False, fontsize=8)
    lower.bar(centres, weight / weight.sum(), 0.9 / len(bins), color=COLOURS[0])
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel=f"share of {unit}")
    _finished(upper, lower)
    return figure


def bands(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], title: str) -> Figure:
    """Draw loss and score of several settings against the epoch: each one's mean over its runs, in a band from least to most."""
    first = next(iter(histories.values()))[0][0]
    score = next(key for key in first if key not in ("epoch", "train_loss", "valid_loss", "lr"))
    keys = {"train_loss": "training loss", "valid_loss": "validation loss", score: f"{score} (validation, at training size)"}
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (key, label) in zip(axes, keys.items()):
        for number, (name, runs) in enumerate(histories.items()):
            length = min(map(len, runs))
            values = np.array([[row[key] for row in run[:length]] for run in runs])
            epochs, colour = np.arange(1, length + 1), COLOURS[number % len(COLOURS)]
            axis.plot(epochs, values.mean(axis=0), color=colour, marker=".", label=literal(name))
            axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[2].set_ylim(0, min(1.02, 1.15 * max(axes[2].get_ylim()[1], 0.01)))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(histories)), fontsize=9, frameon=False,
                  title="lines: means over seeds; bands: from the least to the most", title_fontsize=8)
    figure.suptitle(literal(title), fontsize=10)
    _finished(*axes)
    return figure

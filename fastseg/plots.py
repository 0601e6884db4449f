"""Figures, written as PNG: grids of images, confusion matrices, bars, training curves. matplotlib without a display."""
from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .errors import DataError
from .files import atomic_file
from .masks import IGNORE, UNLABELLED_COLOUR, codes_to_colours
from .tasks import Task

DPI = 110
MAX_SIDE = 480  # px; a grid shows images no larger, so that its memory stays bounded


@dataclass
class Panel:
    """One picture of a grid: pixels uint8 (H, W, 3) with a title."""

    pixels: np.ndarray
    title: str = ""


def short(name: str, length: int = 26) -> str:
    """Return a file name no longer than `length`, its middle left out: both ends tell names apart."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}...{name[-(length // 2 - 2):]}"


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return pixels or codes taken at every n-th row and column, so that no side exceeds 480 px by much."""
    step = max(1, round(max(pixels.shape[:2]) / MAX_SIDE))
    return pixels[::step, ::step]


def write(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG, whole or not at all."""
    if Path(path).suffix.lower() != ".png":
        raise DataError(f"{path}: pictures are written as PNG; name it {Path(path).stem}.png")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def triple(task: Task, image: np.ndarray, codes: np.ndarray, name: str) -> list[Panel]:
    """Return image, painted mask and overlay of one labelled image."""
    return [Panel(image, short(name)), Panel(codes_to_colours(codes, task.palette), "mask"),
            Panel(task.overlay(image, codes), "overlay")]


def grid(rows: Sequence[Sequence[Panel]], path: Path | str, task: Task | None = None, title: str = "") -> Path:
    """Write rows of panels as one PNG; with a segmentation `task`, a legend of its classes stands below."""
    columns = max(map(len, rows))
    height, width = max((row[0].pixels.shape[:2] for row in rows), key=lambda size: size[0] / size[1])
    cell = 2.6
    legend = task is not None and task.kind == "segment"
    extra = (0.45 if title else 0.1) + (0.5 if legend else 0.1)
    lines = max(panel.title.count("\n") for row in rows for panel in row)
    heading = 0.28 + 0.14 * lines
    row_height = cell * min(1.4, height / width) + heading
    figure = Figure(figsize=(columns * cell + 0.2, len(rows) * row_height + extra))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes):
        for axis in line:
            axis.axis("off")
        for panel, axis in zip(row, line):
            axis.imshow(shrink(panel.pixels), interpolation="nearest")
            axis.set_title(panel.title, fontsize=8)
    total = figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=(0.45 if legend else 0.05) / total,
                           top=1 - ((0.35 if title else 0.02) + heading) / total, wspace=0.03,
                           hspace=heading / (row_height - heading))
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 0.12 / total, va="top")
    if legend:
        figure.legend(handles=legend_patches(task), loc="lower center", ncols=min(6, len(task.classes)), fontsize=9, frameon=False)
    return write(figure, path)


def legend_patches(task: Task) -> list[Patch]:
    """Return one legend entry a class, in the palette's colours, and one for unlabelled pixels where the data have them."""
    colours = dict(zip(task.classes, task.palette)) | ({"unlabelled": UNLABELLED_COLOUR} if task.unlabelled else {})
    return [Patch(facecolor=np.array(colour) / 255, edgecolor="0.4", label=name) for name, colour in colours.items()]


def confusion(counts: np.ndarray, classes: Sequence[str], path: Path | str, unit: str) -> Path:
    """Write a confusion matrix as shares of each true class, with the counts of `unit` (pixels or images) beneath."""
    counts = np.asarray(counts)
    shares = counts / np.clip(counts.sum(axis=1, keepdims=True), 1, None)
    side = 1.9 + 0.95 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    axis.set(xticks=range(len(classes)), yticks=range(len(classes)), xlabel="predicted class", ylabel="true class",
             title=f"Confusion matrix ({unit})")
    axis.set_xticklabels(classes, rotation=30, ha="right")
    axis.set_yticklabels(classes)
    for (row, column), share in np.ndenumerate(shares):
        axis.text(column, row, f"{share:.1%}\n{_short(counts[row, column])}", ha="center", va="center", fontsize=8,
                  color="white" if share > 0.6 else "black")
    return write(figure, path)


def _short(number: int) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return str(int(number))


def bars(figures: Mapping[str, Mapping[str, float | None]], keys: Sequence[str], path: Path | str, title: str) -> Path:
    """Write grouped bars: one group a class, one bar for each of `keys` (values from 0 to 1; None is left out)."""
    names = list(figures)
    figure = Figure(figsize=(max(5.0, 1.3 * len(names) + 2), 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(keys)
    for i, key in enumerate(keys):
        values = [figures[name].get(key) for name in names]
        places = np.arange(len(names)) + (i - (len(keys) - 1) / 2) * width
        drawn = axis.bar(places, [v or 0 for v in values], width * 0.92, label=key)
        axis.bar_label(drawn, [f"{v:.3f}" if v is not None else "absent" for v in values], fontsize=7, rotation=90, padding=2)
    axis.set(xticks=range(len(names)), ylim=(0, 1.18), ylabel="score (0 to 1)", title=title)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.set_xticklabels(names)
    axis.legend(ncols=len(keys), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return write(figure, path)


def curves(history: Sequence[Mapping[str, float]], path: Path | str) -> Path:
    """Write training and validation loss, and the metrics, against the epoch."""
    epochs = np.arange(1, len(history) + 1)
    scores = [key for key in history[0] if key not in ("train_loss", "valid_loss")]
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in ("train_loss", "valid_loss"):
        left.plot(epochs, [row[key] for row in history], marker=".", label=key.replace("_", " "))
    for key in scores:
        right.plot(epochs, [row[key] for row in history], marker=".", label=f"{key} (validation)")
    left.set(xlabel="epoch", ylabel="loss", title="Loss")
    right.set(xlabel="epoch", ylabel="score (0 to 1)", title="Foreground means" if "dice" in scores else "Scores", ylim=(0, 1.02))
    for axis in (left, right):
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(0.5, len(history) + 0.5)
    return write(figure, path)


def rate_finder(rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path | str) -> Path:
    """Write the loss of a learning-rate range test against the rate, with the suggestion marked."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses)
    axis.axvline(suggestion, color="tab:orange", linestyle="--", label=f"suggestion {suggestion:.2e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axis.legend(frameon=False)
    return write(figure, path)


def prediction_panels(task: Task, image: np.ndarray, truth: np.ndarray | int, prediction, name: str) -> list[Panel]:
    """Return image, truth, prediction and error map of one image; for classification, the image with both labels."""
    if task.kind == "classify":
        verdict = "right" if task.classes[truth] == prediction.label else "WRONG"
        return [Panel(shrink(image), f"{short(name)}\nis {task.classes[truth]}, {verdict}:\n{prediction.label} "
                             f"({prediction.probabilities.max():.2f})")]
    image, truth, codes = shrink(image), shrink(truth), shrink(prediction.codes)
    errors = (image * 0.35 + 150).astype(np.uint8)
    errors[(truth != codes) & (truth != IGNORE)] = (213, 34, 60)
    return [Panel(image, short(name)), Panel(task.overlay(image, truth), "truth"), Panel(task.overlay(image, codes), "prediction"),
            Panel(errors, "errors in red")]

"""Grids of images, and figures written as PNG. matplotlib without a display."""
from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import masks
from .errors import DataError
from .files import atomic_file
from .masks import IGNORE, UNLABELLED_COLOUR, Colour, codes_to_colours
from .tasks import Task

DPI, PRINT_DPI = 110, 300
# Okabe and Ito's colours: told apart by colour-blind people too (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
CLASS_ORDER = (5, 1, 2, 3, 0, 6, 4)  # light ones first: they show on skin, walls and pans
# What is wrong at a pixel, and its colour: foreground that was not seen, background taken for foreground, one class for another.
ERRORS = {"missed": (0, 114, 178), "false alarm": (213, 94, 0), "wrong class": (136, 34, 85)}
MAX_SIDE = 480  # px; a grid shows images no larger, so that its memory stays bounded


@dataclass
class Panel:
    """One picture of a grid: pixels uint8 (H, W, 3) with a title."""

    pixels: np.ndarray
    title: str = ""


def short(name: str, length: int = 26) -> str:
    """Return a file name no longer than `length`, its middle left out: both ends tell names apart."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}...{name[-(length // 2 - 2):]}"


def literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: dollar signs in names are no mathematics, and bytes that are not UTF-8 are "?"."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return pixels or codes taken at every n-th row and column, so that no side exceeds 480 px by much."""
    step = max(1, round(max(pixels.shape[:2]) / MAX_SIDE))
    return pixels[::step, ::step]


def class_colours(task: Task) -> tuple[Colour, ...]:
    """Return the colours that pictures show the classes in: black for the background, colour-blind-safe ones for the others.

    A palette that the data prescribe (kitchen's red, green and blue) need not be safe; beyond seven classes colours repeat lighter.
    """
    others = [i for i in range(len(task.classes)) if i != task.background]
    colours = [(0, 0, 0)] * len(task.classes)
    for place, i in enumerate(others):
        rgb = np.array([int(COLOURS[CLASS_ORDER[place % 7]][k:k + 2], 16) for k in (1, 3, 5)])
        lighter = 0.5 ** (place // 7)
        colours[i] = tuple(int(v) for v in (rgb * lighter + 255 * (1 - lighter)).round())
    return tuple(colours)


def overlay(task: Task, image: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return `image`, uint8 (H, W, 3), under semi-transparent class colours."""
    return masks.overlay(image, codes, class_colours(task), hide=task.background)


def require_png(path: Path | str) -> None:
    """Raise `DataError` unless `path` is named as a PNG file."""
    if Path(path).suffix.lower() != ".png":
        raise DataError(f"{path}: pictures are written as PNG; name it {Path(path).stem}.png")


def write(figure: Figure, path: Path | str, dpi: int = DPI) -> Path:
    """Write a figure as PNG, whole or not at all."""
    require_png(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", pil_kwargs={"compress_level": 3})  # quicker by half, 6 % larger
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def triple(task: Task, image: np.ndarray, codes: np.ndarray, name: str) -> list[Panel]:
    """Return image, painted mask and overlay of one labelled image."""
    return [Panel(image, short(name)), Panel(codes_to_colours(codes, class_colours(task)), "mask"),
            Panel(overlay(task, image, codes), "overlay")]


def grid(rows: Sequence[Sequence[Panel]], task: Task | None = None, title: str = "", errors: bool = False) -> Figure:
    """Draw rows of panels; below them a legend of a segmentation `task`'s classes, with `errors` of the kinds of errors too."""
    columns = max(map(len, rows))
    height, width = max((row[0].pixels.shape[:2] for row in rows), key=lambda size: size[0] / size[1])
    cell = 2.6
    entries = legend(task, errors) if task is not None else []
    extra = (0.45 if title else 0.1) + (0.5 if entries else 0.1)
    lines = max(panel.title.count("\n") for row in rows for panel in row)
    heading = 0.28 + 0.14 * lines
    row_height = cell * min(1.4, height / width) + heading
    figure = Figure(figsize=(columns * cell + 0.2, len(rows) * row_height + extra))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes):
        for axis in line:
            axis.axis("off")
            axis.set(xticks=[], yticks=[])  # ticks that nobody sees take as long to lay out as the images to draw
        for panel, axis in zip(row, line):
            axis.imshow(shrink(panel.pixels), interpolation="nearest")
            axis.set_title(literal(panel.title), fontsize=8)
    total = figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=(0.45 if entries else 0.05) / total,
                           top=1 - ((0.35 if title else 0.02) + heading) / total, wspace=0.03,
                           hspace=heading / (row_height - heading))
    if title:
        figure.suptitle(literal(title), fontsize=11, y=1 - 0.12 / total, va="top")
    if entries:
        patches = [Patch(facecolor=np.array(colour) / 255, edgecolor="0.4", label=literal(name)) for name, colour in entries]
        figure.legend(handles=patches, loc="lower center", ncols=min(8, len(patches)), fontsize=9, frameon=False)
    return figure


def legend(task: Task, errors: bool = False) -> list[tuple[str, Colour]]:
    """Return the names and colours of a segmentation task's classes, of unlabelled pixels where the data have them, and of errors."""
    if task.kind != "segment":
        return []
    kinds = wrong_kinds(task) if errors else ()
    return [*zip(task.classes, class_colours(task)), *([("unlabelled", UNLABELLED_COLOUR)] if task.declares_unlabelled else []),
            *((f"error: {kind}", ERRORS[kind]) for kind in kinds)]


def wrong_kinds(task: Task) -> tuple[str, ...]:
    """Return the kinds of `ERRORS` that masks of this task can have."""
    if task.background is None:
        return ("wrong class",)
    return tuple(ERRORS)[: 3 if len(task.classes) > 2 else 2]


def prediction_panels(task: Task, image: np.ndarray, truth: np.ndarray | int, prediction, name: str) -> list[Panel]:
    """Return image, truth, prediction and error map of one image; for classification, the image with both labels."""
    if task.kind == "classify":
        verdict = "right" if task.classes[truth] == prediction.label else "WRONG"
        return [Panel(shrink(image), f"{short(name)}\nis {task.classes[truth]}, {verdict}:\n{prediction.label} "
                             f"({prediction.probabilities.max():.2f})")]
    image, truth, codes = shrink(image), shrink(truth), shrink(prediction.codes)
    return [Panel(image, short(name)), Panel(overlay(task, image, truth), "truth"), Panel(overlay(task, image, codes), "prediction"),
            Panel(error_map(image, truth, codes, task.background), "errors")]


def wrong_pixels(truth: np.ndarray, codes: np.ndarray, background: int | None) -> dict[str, np.ndarray]:
    """Return where codes (H, W) are wrong, by the kind of the error: bool (H, W) for each of `ERRORS`; unlabelled pixels never are."""
    wrong = (truth != codes) & (truth != IGNORE)
    if background is None:
        return {"wrong class": wrong}
    missed, alarm = wrong & (codes == background), wrong & (truth == background)
    return {"missed": missed, "false alarm": alarm, "wrong class": wrong & ~missed & ~alarm}


def error_map(image: np.ndarray, truth: np.ndarray, codes: np.ndarray, background: int | None) -> np.ndarray:
    """Return a pale copy of `image` with the pixels that are wrong painted in the colours of `ERRORS`."""
    errors = (image * 0.35 + 150).astype(np.uint8)
    for kind, where in wrong_pixels(truth, codes, background).items():
        errors[where] = ERRORS[kind]
    return errors

"""Grids of images, and figures written as PNG. matplotlib without a display."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from scipy.ndimage import binary_erosion

from ..data import images
from ..data.images import UNLABELLED_COLOUR, codes_to_colours
from ..errors import DataError
from ..tasks import Task
from ..types import IGNORE, Colour
from ..utils.io import atomic_file

log = logging.getLogger(__name__)

DPI, PRINT_DPI = 110, 300
MAX_PX = 2400  # width and height of a written picture
# Okabe and Ito's colours: told apart by colour-blind people too (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
CLASS_ORDER = (5, 1, 2, 3, 0, 6, 4)  # light ones first: they show on skin, walls and pans
# What is wrong at a pixel, and its colour: foreground that was not seen, background taken for foreground, one class for another.
ERRORS = {"missed": (0, 114, 178), "false alarm": (213, 94, 0), "wrong class": (136, 34, 85)}
MAX_SIDE = 480  # px; a grid shows images no larger, so that its memory stays bounded
DIM = 90  # the lightest grey of an image under an evidence map
# Inches. Panels are fitted into CELL x TALLEST; a narrow image has a narrower column, but one that its title fits into.
CELL, TALLEST, NARROWEST, GAP, TEXT_LINE = 2.6, 3.6, 1.7, 0.08, 0.15
# A grid longer than LONGEST continues in further columns of rows: at MAX_PX its text is then still 11 px high. Beyond LARGEST (5 px)
# rows are left out.
LONGEST, LARGEST = 24.0, 48.0


@dataclass
class Panel:
    """One picture of a grid: pixels uint8 (H, W, 3) with a title. `marked`: it is framed; `unlabelled`: it shows such pixels."""

    pixels: np.ndarray
    title: str = ""
    marked: bool = False
    unlabelled: bool = False


def short(name: str, length: int = 26) -> str:
    """Return a file name no longer than `length`, its middle left out: both ends tell names apart."""
    return (
        name if len(name) <= length else f"{name[: length // 2 - 1]}...{name[-(length // 2 - 2) :]}"
    )


def literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: dollar signs in names are no mathematics, and bytes that are not UTF-8 are "?"."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, 3) as means over n x n px, or values (H, W) of every n-th row and column: no side exceeds 480 px by much."""
    step = max(1, round(max(pixels.shape[:2]) / MAX_SIDE))
    if pixels.ndim == 3 and step > 1:
        return np.asarray(Image.fromarray(pixels).reduce(step))
    return pixels[::step, ::step]


def class_colours(task: Task) -> tuple[Colour, ...]:
    """Return the colours that pictures show the classes in: black for the background, colour-blind-safe ones for the others.

    A palette that the data prescribe (kitchen's red, green and blue) need not be safe; beyond seven classes colours repeat lighter.
    """
    others = [i for i in range(len(task.classes)) if i != task.background]
    colours = [(0, 0, 0)] * len(task.classes)
    for place, i in enumerate(others):
        rgb = np.array([int(COLOURS[CLASS_ORDER[place % 7]][k : k + 2], 16) for k in (1, 3, 5)])
        lighter = 0.5 ** (place // 7)
        colours[i] = tuple(int(v) for v in (rgb * lighter + 255 * (1 - lighter)).round())
    return tuple(colours)


def overlay(task: Task, image: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return `image`, uint8 (H, W, 3), under semi-transparent class colours."""
    return images.overlay(image, codes, class_colours(task), hide=task.background)


def require_png(path: Path | str) -> None:
    """Raise `DataError` unless `path` is named as a PNG file."""
    if Path(path).suffix.lower() != ".png":
        raise DataError(
            f"{path}: pictures are written as PNG; name it {Path(path).stem}.png", "output-suffix"
        )


def write(figure: Figure, path: Path | str, dpi: int = DPI) -> Path:
    """Write a figure as PNG, atomically, at `dpi` or at as many as keep both sides within `MAX_PX`."""
    require_png(path)
    buffer = io.BytesIO()
    dpi = min(dpi, MAX_PX / max(figure.get_size_inches()))
    figure.savefig(
        buffer, format="png", dpi=dpi, facecolor="white", pil_kwargs={"compress_level": 3}
    )  # quicker by half, 6 % larger
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def triple(task: Task, image: np.ndarray, codes: np.ndarray, name: str) -> list[Panel]:
    """Return image, painted mask and overlay of one labelled image."""
    painted = Panel(
        codes_to_colours(codes, class_colours(task)),
        "mask",
        unlabelled=bool((codes == IGNORE).any()),
    )
    return [Panel(image, short(name)), painted, Panel(overlay(task, image, codes), "overlay")]


def grid(
    rows: Sequence[Sequence[Panel]], task: Task | None = None, title: str = "", errors: bool = False
) -> Figure:
    """Draw rows of panels; below them a legend of a segmentation `task`'s classes, with `errors` of the kinds of errors too.

    Every panel has its image's proportions. Rows that would make too long a picture continue in columns beside the first ones;
    those that would be too small to see are left out, with a warning.
    """
    columns = max(map(len, rows))
    width = max(
        min(CELL, TALLEST * panel.pixels.shape[1] / panel.pixels.shape[0])
        for row in rows
        for panel in row
    )
    width = max(width, NARROWEST) + GAP
    heights = [max(_panel_size(panel, width)[1] for panel in row) + _heading(row) for row in rows]
    count = len(rows)
    while (blocks := _blocks(heights[:count], columns * width))[1] > LARGEST and count > 1:
        count = max(1, int(count * min(0.95, (LARGEST / blocks[1]) ** 2)))
    if count < len(rows):
        log.warning(
            "the picture shows %d of %d rows, as many as stay legible; show writes all of them into a page: --out NAME.html",
            count,
            len(rows),
        )
    lines = math.ceil(count / blocks[0])
    blocks = math.ceil(count / lines)
    tops = np.cumsum([0.0, *(max(heights[i:count:lines]) for i in range(lines))])
    entries = (
        legend(task, errors, any(panel.unlabelled for row in rows for panel in row))
        if task is not None
        else []
    )
    above = 0.36 if title else 0.05
    figure = Figure(figsize=(blocks * columns * width + GAP, above + tops[-1] + GAP))
    below = 0.0
    if entries:
        patches = [
            Patch(facecolor=np.array(colour) / 255, edgecolor="0.4", label=literal(name))
            for name, colour in entries
        ]
        below = (
            GAP
            + even_legend(figure, patches, loc="lower center", fontsize=9)
            .get_window_extent()
            .height
            / figure.dpi
        )
    total = figure.get_figheight() + below
    figure.set_figheight(total)
    for number, row in enumerate(rows[:count]):
        block, line = divmod(number, lines)
        under = above + tops[line] + max(_heading(other) for other in rows[line:count:lines])
        for place, panel in enumerate(row):
            wide, high = _panel_size(panel, width)
            left = GAP + (block * columns + place) * width + (width - GAP - wide) / 2
            axis = figure.add_axes(
                (
                    left / figure.get_figwidth(),
                    1 - (under + high) / total,
                    wide / figure.get_figwidth(),
                    high / total,
                )
            )
            axis.imshow(shrink(panel.pixels), interpolation="antialiased", aspect="auto")
            axis.set_title(literal(panel.title), fontsize=8, pad=4)
            axis.axis("off")
            axis.set(
                xticks=[], yticks=[]
            )  # ticks that nobody sees take as long to lay out as the images to draw
            if panel.marked:
                axis.add_patch(
                    Rectangle(
                        (0, 0),
                        1,
                        1,
                        transform=axis.transAxes,
                        fill=False,
                        edgecolor=COLOURS[4],
                        linewidth=4,
                    )
                )
    if title:
        figure.suptitle(literal(title), fontsize=11, y=1 - 0.12 / total, va="top")
    return figure


def _panel_size(panel: Panel, width: float) -> tuple[float, float]:
    """Return the width and height in inches of a panel in a column of `width`."""
    high, wide = panel.pixels.shape[:2]
    scale = min((width - GAP) / wide, TALLEST / high)
    return wide * scale, high * scale


def _heading(row: Sequence[Panel]) -> float:
    return 0.14 + TEXT_LINE * (1 + max(panel.title.count("\n") for panel in row))


def _blocks(heights: Sequence[float], width: float) -> tuple[int, float]:
    """Return in how many blocks side by side rows of these heights, `width` wide, make a picture not too long, and its longer side."""
    found = []
    for blocks in range(1, len(heights) + 1):
        lines = math.ceil(len(heights) / blocks)
        side = max(blocks * width, sum(max(heights[i::lines]) for i in range(lines)))
        if side <= LONGEST:
            return blocks, side
        found.append((side, blocks))
        if blocks * width > LONGEST and side == blocks * width:  # wider only, from here on
            break
    side, blocks = min(found)
    return blocks, side


def even_legend(figure: Figure, handles: Sequence[Artist], **options) -> Legend:
    """Draw a figure's legend in as few lines as its width allows; its columns are of equal length, or differ by one entry."""
    for lines in range(1, len(handles) + 1):
        drawn = figure.legend(
            handles=handles, ncols=math.ceil(len(handles) / lines), frameon=False, **options
        )
        if lines == len(handles) or drawn.get_window_extent().width <= figure.bbox.width:
            return drawn
        drawn.remove()
    raise ValueError("a legend needs an entry")


def legend(task: Task, errors: bool = False, unlabelled: bool = False) -> list[tuple[str, Colour]]:
    """Return the names and colours of a segmentation task's classes, of unlabelled pixels and errors where they are painted."""
    if task.kind != "segment":
        return []
    kinds = wrong_kinds(task) if errors else ()
    return [
        *zip(task.classes, class_colours(task)),
        *([("unlabelled", UNLABELLED_COLOUR)] if unlabelled else []),
        *((f"error: {kind}", ERRORS[kind]) for kind in kinds),
    ]


def wrong_kinds(task: Task) -> tuple[str, ...]:
    """Return the kinds of `ERRORS` that masks of this task can have."""
    if task.background is None:
        return ("wrong class",)
    return tuple(ERRORS)[: 3 if len(task.classes) > 2 else 2]


def prediction_panels(
    task: Task, image: np.ndarray, truth: np.ndarray | int, prediction, name: str
) -> list[Panel]:
    """Return image, truth, prediction and error map of one image; for classification, the image with both labels."""
    if task.kind == "classify":
        is_wrong = task.classes[truth] != prediction.label
        return [
            Panel(
                shrink(image),
                f"{short(name)}\ntruth: {task.classes[truth]}\nprediction: {prediction.label} "
                f"({prediction.probabilities.max():.2f}){', WRONG' if is_wrong else ''}",
                is_wrong,
            )
        ]
    image, truth, codes = shrink(image), shrink(truth), shrink(prediction.codes)
    return [
        Panel(image, short(name)),
        Panel(overlay(task, image, truth), "truth"),
        Panel(overlay(task, image, codes), "prediction"),
        Panel(error_map(image, truth, codes, task.background), "errors"),
    ]


def wrong_pixels(
    truth: np.ndarray, codes: np.ndarray, background: int | None
) -> dict[str, np.ndarray]:
    """Return where codes (H, W) are wrong, by the kind of the error: bool (H, W) for each of `ERRORS`; unlabelled pixels never are."""
    wrong = (truth != codes) & (truth != IGNORE)
    if background is None:
        return {"wrong class": wrong}
    missed, alarm = wrong & (codes == background), wrong & (truth == background)
    return {"missed": missed, "false alarm": alarm, "wrong class": wrong & ~missed & ~alarm}


def error_map(
    image: np.ndarray, truth: np.ndarray, codes: np.ndarray, background: int | None
) -> np.ndarray:
    """Return a pale copy of `image` with the pixels that are wrong painted in the colours of `ERRORS`."""
    errors = (image * 0.35 + 150).astype(np.uint8)
    for kind, where in wrong_pixels(truth, codes, background).items():
        errors[where] = ERRORS[kind]
    return errors


def evidence_map(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return evidence, float (H, W) from 0 to 1, over `image` in dim grey; a white line surrounds what has half of the highest or more.

    The image's own contrast is stretched and then dimmed, so that its shapes show and strong evidence is lighter than they are,
    however dark or light the image is. The colours are perceptually uniform: more evidence is always lighter.
    """
    grey = image @ np.array([0.299, 0.587, 0.114])
    low, high = np.percentile(grey, (1, 99))
    base = DIM * np.clip((grey - low) / max(high - low, 16), 0, 1)[..., None]
    heat = np.clip(heat, 0, 1)
    share = 0.9 * heat[..., None] ** 0.6
    painted = base * (1 - share) + evidence_colours(heat) * share
    strong = heat >= 0.5
    painted[strong & ~binary_erosion(strong, border_value=1)] = 255
    return painted.astype(np.uint8)


def evidence_colours(heat: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3), from 0 to 255, of evidence (...) from 0 to 1."""
    return (255 * colormaps["inferno"](0.2 + 0.8 * heat)[..., :3]).round()

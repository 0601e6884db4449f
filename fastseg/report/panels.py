"""Grids of images with titles and a legend, and figures written as PNG. matplotlib without a
display.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from ..errors import DataError
from ..types import Colour
from ..utils.io import atomic_file
from .painting import COLOURS

log = logging.getLogger(__name__)

DPI, PRINT_DPI = 110, 300
MAX_PX = 2400  # width and height of a written picture
MAX_SIDE = 480  # px; larger images are reduced, which limits the memory of a grid
# Sizes in inches. Panels are fitted into CELL x TALLEST. A narrow image has a narrower column, but
# no narrower than NARROWEST, which its title needs.
CELL, TALLEST, NARROWEST, GAP, TEXT_LINE = 2.6, 3.6, 1.7, 0.08, 0.15
TITLE, NO_TITLE = 0.36, 0.05  # above the first row
# Rows of a grid longer than LONGEST continue in a second column: at MAX_PX the text is then
# still 11 px high. Rows beyond LARGEST, where it would be 5 px high, are left out.
LONGEST, LARGEST = 24.0, 48.0


@dataclass
class Panel:
    """One picture of a grid: pixels, uint8 (H, W, 3), and a title."""

    pixels: np.ndarray
    title: str = ""
    is_framed: bool = False
    has_unlabelled: bool = False  # unlabelled pixels are visible in it


def short(name: str, length: int = 26) -> str:
    """Return a file name shortened to `length` characters in the middle: the ends distinguish names
    best.
    """
    if len(name) <= length:
        return name
    return f"{name[: length // 2 - 1]}...{name[-(length // 2 - 2) :]}"


def literal(text: str) -> str:
    """Return a text that matplotlib draws literally: no formula between dollar signs.

    Bytes that are not UTF-8 become question marks.
    """
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return an array reduced by a whole number, so that no side exceeds `MAX_SIDE` by much.

    Pixels (H, W, 3) become means over n x n px; of values (H, W), every n-th row and column is
    taken.
    """
    step = max(1, round(max(pixels.shape[:2]) / MAX_SIDE))
    if pixels.ndim == 3 and step > 1:
        return np.asarray(Image.fromarray(pixels).reduce(step))
    return pixels[::step, ::step]


def require_png(path: Path | str) -> None:
    """Raise `DataError` unless `path` is named as a PNG file."""
    if Path(path).suffix.lower() != ".png":
        raise DataError(
            f"{path}: pictures are written as PNG; name it {Path(path).stem}.png", "output-suffix"
        )


def write_png(figure: Figure, path: Path | str, dpi: float = DPI) -> Path:
    """Write a figure as PNG, atomically, at `dpi` or at as many as keep both sides within
    `MAX_PX`.
    """
    require_png(path)
    buffer = io.BytesIO()
    # Compression level 3 takes half the time of the default, for files that are 6 % larger.
    figure.savefig(
        buffer,
        format="png",
        dpi=min(dpi, MAX_PX / max(figure.get_size_inches())),
        facecolor="white",
        pil_kwargs={"compress_level": 3},
    )
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


@dataclass(frozen=True)
class _Layout:
    """The layout of a grid: `lines` rows below each other, further rows in blocks to the right of
    them.
    """

    shown: int  # rows that are drawn
    lines: int
    blocks: int
    columns: int  # panels in a row
    width: float  # of a column, in inches
    tops: np.ndarray  # inches from the first line to each line, and to the end
    headings: list[float]  # inches of the titles above each line's panels

    @classmethod
    def of(cls, rows: Sequence[Sequence[Panel]]) -> _Layout:
        columns, width = max(map(len, rows)), _column_width(rows)
        heights = [
            max(_panel_size(panel, width)[1] for panel in row) + _heading(row) for row in rows
        ]
        shown = len(rows)
        while (found := _blocks_and_side(heights[:shown], columns * width))[
            1
        ] > LARGEST and shown > 1:
            shown = max(1, int(shown * min(0.95, (LARGEST / found[1]) ** 2)))
        lines = math.ceil(shown / found[0])
        tops = np.cumsum([0.0, *(max(heights[i:shown:lines]) for i in range(lines))])
        headings = [max(map(_heading, rows[i:shown:lines])) for i in range(lines)]
        return cls(shown, lines, math.ceil(shown / lines), columns, width, tops, headings)


def grid(
    rows: Sequence[Sequence[Panel]], title: str = "", legend: Sequence[tuple[str, Colour]] = ()
) -> Figure:
    """Draw rows of panels above a legend of names and colours.

    Every panel has its image's proportions. If the picture would be too long, rows continue in
    further columns; rows that would be too small to see are left out, with a
    warning.
    """
    layout = _Layout.of(rows)
    if layout.shown < len(rows):
        log.warning(
            "the picture shows %d of %d rows, as many as stay legible; "
            "show writes all of them into a page: --out NAME.html",
            layout.shown,
            len(rows),
        )
    above = TITLE if title else NO_TITLE
    figure = Figure(
        figsize=(layout.blocks * layout.columns * layout.width + GAP, above + layout.tops[-1] + GAP)
    )
    total = figure.get_figheight() + _draw_legend(figure, legend)
    figure.set_figheight(total)
    for number, row in enumerate(rows[: layout.shown]):
        block, line = divmod(number, layout.lines)
        top = above + layout.tops[line] + layout.headings[line]
        for place, panel in enumerate(row):
            wide, high = _panel_size(panel, layout.width)
            column = block * layout.columns + place
            left = GAP + column * layout.width + (layout.width - GAP - wide) / 2
            _draw_panel(figure, panel, (left, top, wide, high))
    if title:
        figure.suptitle(literal(title), fontsize=11, y=1 - 0.12 / total, va="top")
    return figure


def _draw_legend(figure: Figure, entries: Sequence[tuple[str, Colour]]) -> float:
    """Draw the legend of a grid and return the height, in inches, that it needs."""
    if not entries:
        return 0.0
    patches = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="0.4", label=literal(name))
        for name, colour in entries
    ]
    drawn = even_legend(figure, patches, loc="lower center", fontsize=9)
    return float(GAP + drawn.get_window_extent().height / figure.dpi)


def _draw_panel(figure: Figure, panel: Panel, box: tuple[float, float, float, float]) -> None:
    """Draw one panel at `box`: inches from the left and the top, width and height."""
    left, top, wide, high = box
    across, down = figure.get_figwidth(), figure.get_figheight()
    axis = figure.add_axes((left / across, 1 - (top + high) / down, wide / across, high / down))
    axis.imshow(shrink(panel.pixels), interpolation="antialiased", aspect="auto")
    axis.set_title(literal(panel.title), fontsize=8, pad=4)
    axis.axis("off")
    # The layout of ticks, even of hidden ones, takes as long as drawing the image.
    axis.set(xticks=[], yticks=[])
    if panel.is_framed:
        frame = Rectangle(
            (0, 0),
            1,
            1,
            transform=axis.transAxes,
            fill=False,
            edgecolor=COLOURS[4],
            linewidth=4,
        )
        axis.add_patch(frame)


def _column_width(rows: Sequence[Sequence[Panel]]) -> float:
    width = max(
        min(CELL, TALLEST * panel.pixels.shape[1] / panel.pixels.shape[0])
        for row in rows
        for panel in row
    )
    return max(width, NARROWEST) + GAP


def _panel_size(panel: Panel, width: float) -> tuple[float, float]:
    """Return the width and height in inches of a panel in a column of `width`."""
    high, wide = panel.pixels.shape[:2]
    scale = min((width - GAP) / wide, TALLEST / high)
    return wide * scale, high * scale


def _heading(row: Sequence[Panel]) -> float:
    return 0.14 + TEXT_LINE * (1 + max(panel.title.count("\n") for panel in row))


def _blocks_and_side(heights: Sequence[float], width: float) -> tuple[int, float]:
    """Return the number of blocks side by side that makes a picture not too long, and its longer
    side.

    `heights` are those of the rows, which are `width` wide, in inches.
    """
    found: list[tuple[float, int]] = []
    for blocks in range(1, len(heights) + 1):
        lines = math.ceil(len(heights) / blocks)
        side = max(blocks * width, sum(max(heights[i::lines]) for i in range(lines)))
        if side <= LONGEST:
            return blocks, side
        found.append((side, blocks))
        if blocks * width > LONGEST and side == blocks * width:  # more blocks are only wider
            break
    side, blocks = min(found)
    return blocks, side


def even_legend(figure: Figure, handles: Sequence[Artist], **options: Any) -> Legend:
    """Draw a figure's legend in as few lines as its width allows.

    Its columns are of equal length, or differ by one entry.
    """
    for lines in range(1, len(handles) + 1):
        drawn = figure.legend(
            handles=handles, ncols=math.ceil(len(handles) / lines), frameon=False, **options
        )
        if lines == len(handles) or drawn.get_window_extent().width <= figure.bbox.width:
            return drawn
        drawn.remove()
    raise ValueError("a legend needs an entry")

"""Pictures of what was measured: ellipses and axes over the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import codes_to_colours
from ..report.painting import class_colours
from ..report.panels import shrink
from ..tasks import SegmentationTask
from ..types import Colour
from .rows import Row

STEPS = 90  # straight lines of an ellipse
LINE = 300  # px of the picture's shorter side for each px of a line
TEXT = 0.04  # height of names as a share of the shorter side
DIM = 0.6  # of the classes' colours under ellipses, where there is no image


def ellipses(
    task: SegmentationTask, rows: Sequence[Row], codes: np.ndarray, image: np.ndarray | None
) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3), with the ellipse and both axes of each row in its class's
    colour, over the image, uint8 (H, W, 3), or over the mask, uint8 (H, W).

    Large pictures are reduced.
    """
    colours = class_colours(task)
    base = image
    if base is None:
        base = (codes_to_colours(codes, colours) * DIM).astype(np.uint8)
    small = shrink(base)
    scale = small.shape[0] / base.shape[0]
    if scale > 0.5:  # lines of small pictures would have steps
        enlarged = max(1, round(480 / min(small.shape[:2])))
        small = small.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
        scale *= enlarged
    picture = Image.fromarray(small)
    canvas = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / LINE))
    for row in rows:
        if not row.in_px["major_axis"] > 0:  # absent, or one pixel
            continue
        colour = colours[task.classes.index(row.name)]
        for shade, extra in (((0, 0, 0), 2), (colour, 0)):  # a dark edge is visible on any ground
            for line in _lines(row, scale):
                canvas.line(line, fill=shade, width=width + extra, joint="curve")
    _write_names(canvas, {row.name: colours[task.classes.index(row.name)] for row in rows})
    return np.asarray(picture)


def _write_names(canvas: ImageDraw.ImageDraw, colours: Mapping[str, Colour]) -> None:
    """Write the classes' names in their colours into the upper left corner."""
    size = max(12, round(min(canvas.im.size) * TEXT))
    font = ImageFont.load_default(size)
    for place, (name, colour) in enumerate(colours.items()):
        at = (size // 2, size // 2 + place * round(1.3 * size))
        canvas.text(at, name, colour, font, stroke_width=max(1, size // 9), stroke_fill=(0, 0, 0))


def _lines(row: Row, scale: float) -> list[list[tuple[float, float]]]:
    """Return the ellipse and both axes of a row as lines of points (x, y) in the picture."""
    px = row.in_px
    turn = math.radians(px["angle"])
    along = np.array([math.cos(turn), -math.sin(turn)]) * px["major_axis"] / 2
    across = np.array([math.sin(turn), math.cos(turn)]) * px["minor_axis"] / 2
    centre = np.array([px["centroid_x"], px["centroid_y"]]) + 0.5
    angles = np.linspace(0, 2 * math.pi, STEPS)[:, None]
    outline = centre + np.cos(angles) * along + np.sin(angles) * across
    lines = [outline, np.stack([centre - along, centre + along])]
    lines.append(np.stack([centre - across, centre + across]))
    return [[(float(x), float(y)) for x, y in line * scale - 0.5] for line in lines]

"""Connected regions of a prediction as scripts read them: score, area, box, COCO run lengths and
polygons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
import shapely
from pycocotools import mask as coco
from scipy import ndimage

SMALLEST = 5e-4  # share of the photograph; smaller regions are noise and are left out
TOLERANCE = 1.0  # px that a polygon may differ from the pixels' outline: a tenth of the points


@dataclass(frozen=True)
class Region:
    """One connected region of one class."""

    label: str
    score: float  # mean calibrated probability of its class, 0 to 1
    area: int  # px
    box: tuple[int, int, int, int]  # x, y, width, height, as COCO has them
    # COCO's compressed run lengths, for pycocotools: {"size": [height, width], "counts": text}
    rle: dict[str, Any]
    # GeoJSON in px, y downwards, outer rings before holes: {"type": "MultiPolygon", "coordinates":
    # ...}
    polygons: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the region as JSON values."""
        return {
            "label": self.label,
            "score": round(self.score, 4),
            "area": self.area,
            "box": list(self.box),
            "rle": self.rle,
            "polygons": self.polygons,
        }


def regions(
    codes: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], background: int | None = 0
) -> list[Region]:
    """Return the regions of codes, uint8 (H, W), the largest first; `probabilities` is float (C, h,
    w), at any size.

    Pixels that touch at a side or corner belong together. Regions below `SMALLEST` of the picture
    are left out.
    """
    found = []
    scale = np.array(probabilities.shape[1:]) / codes.shape
    for code, name in enumerate(classes):
        if code == background:
            continue
        parts, _ = ndimage.label(codes == code, structure=np.ones((3, 3)))
        areas = np.bincount(parts.reshape(-1))
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            if areas[number] < SMALLEST * codes.size:
                continue
            part = parts[rows, columns] == number
            y, x = np.nonzero(part)
            there = [
                ((at + start + 0.5) * by).astype(int)
                for at, start, by in zip((y, x), (rows.start, columns.start), scale)
            ]
            whole = np.zeros(
                codes.shape, dtype=np.uint8, order="F"
            )  # COCO's run lengths are in column order
            whole[rows, columns] = part
            rle = coco.encode(whole)
            found.append(
                Region(
                    name,
                    float(probabilities[code][tuple(there)].mean()),
                    int(areas[number]),
                    (
                        columns.start,
                        rows.start,
                        columns.stop - columns.start,
                        rows.stop - rows.start,
                    ),
                    {"size": list(codes.shape), "counts": rle["counts"].decode()},
                    _polygons(part, (columns.start, rows.start)),
                )
            )
    return sorted(found, key=lambda region: -region.area)


def _polygons(part: np.ndarray, corner: tuple[int, int]) -> dict[str, Any]:
    """Return the outlines of a mask, bool (h, w), with holes, moved by `corner` (x, y), simplified
    and valid.
    """
    padded = np.pad(part, 1).astype(np.float32)
    lines = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset).filled(
        0.5, 2.0
    )
    pieces = []
    for points, offsets in zip(*lines):
        rings = [
            points[start:end] + corner - 0.5 for start, end in zip(offsets[:-1], offsets[1:])
        ]  # of pixels' corners; -1 of padding
        pieces.append(shapely.Polygon(rings[0], rings[1:]))
    merged = shapely.make_valid(shapely.MultiPolygon(pieces).simplify(TOLERANCE))
    flat = [
        piece
        for piece in shapely.get_parts(shapely.get_parts(merged))
        if piece.geom_type == "Polygon"
    ]
    return {
        "type": "MultiPolygon",
        "coordinates": [
            [
                [[round(float(v), 1) for v in point] for point in ring.coords]
                for ring in (piece.exterior, *piece.interiors)
            ]
            for piece in flat
        ],
    }

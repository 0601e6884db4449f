"""Polygons as pixels, and pixels as polygons.

Tools draw polygons by one of two rules (see `Format.rule`): "area", as pycocotools, where points
are positions and a pixel belongs to the polygon that covers its centre; and "outline", as Pillow
and OpenCV, where a point is the pixel that it lies in, and the outline belongs to the region.

What polygons cannot keep: unlabelled pixels inside a class are holes, which some formats lack; a
simplified outline moves by up to some pixels (`LEAST_IOU` says how far), so that thin parts may
lose a pixel at their ends. Exact outlines (`least=1`) keep every pixel, but have a point at each
corner of each pixel of a slanted edge, and nobody can edit these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from .base import Region
from .runs import decoded_runs

# Smallest IoU of a region with its simplified polygon drawn back: half a per cent of its pixels
# differ, which is less than people differ who label the same image.
LEAST_IOU = 0.995

# Distances in px by which outlines are simplified, tried from the largest one. Conventions: above
# 4 px an edit needs new points anyway; at 0.1 px only points on straight lines are dropped.
TOLERANCES = (4.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.3, 0.1)

SMALL = 2**18  # px of an image that is decoded completely in less time than a part of it
MARGIN = 1.0  # px around the image to which rings are clipped before they are drawn
# Not 0.5: pycocotools rounds to fifths of a px, where a half could become either when a file's
# rounding moves it.
MIDDLE = 0.48
NUDGE = 0.25  # px by which the points of a ring of one or two pixels differ: they stay in the pixel

Rings = tuple[np.ndarray, list[np.ndarray]]  # outer ring (n, 2) and holes, x and y in px


def fill(region: Region, size: tuple[int, int], rule: str, is_relative: bool = False) -> np.ndarray:
    """Return the pixels of a region in an image of `size`, (height, width), as bool (H, W).

    `rule` is "outline" or "area"; `is_relative` says that coordinates are shares of the size.
    Parts outside the image are cut off.
    """
    pixels = np.zeros(size, dtype=bool)
    found = patch(region, size, rule, is_relative)
    if found is not None:
        x, y, inside = found
        pixels[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return pixels


def draw(
    codes: np.ndarray, region: Region, code: int, rule: str, is_relative: bool = False
) -> None:
    """Set the pixels of a region in `codes`, uint8 (H, W), to `code`, in place."""
    found = patch(region, (codes.shape[0], codes.shape[1]), rule, is_relative)
    if found is not None:
        x, y, inside = found
        codes[y : y + inside.shape[0], x : x + inside.shape[1]][inside] = code


def patch(
    region: Region, size: tuple[int, int], rule: str, is_relative: bool = False
) -> tuple[int, int, np.ndarray] | None:
    """Return (x, y, pixels) of the smallest part of the image that holds a region.

    `pixels` is bool (h, w) and begins at (x, y). None if nothing of it is inside the image.
    """
    if region.bitmap is not None:
        return _bitmap_patch(region.bitmap, region.offset, size)
    rings = [_clipped(ring, size, is_relative) for ring in region.polygons]
    rings = [ring for ring in rings if len(ring) >= 3]
    if not rings:
        return None
    low, high = _box(rings, size)
    if (high <= low).any():
        return None
    one_ring = _outline_ring if rule == "outline" else _area_ring
    inside = np.zeros((high - low)[::-1], dtype=bool)
    for ring in rings:
        inside |= one_ring(ring, low, high, size, True)
    for hole in region.holes:
        ring = _clipped(hole, size, is_relative)
        if len(ring) >= 3:
            inside &= ~one_ring(ring, low, high, size, False)
    return int(low[0]), int(low[1]), inside


def area(region: Region) -> float:
    """Return the area of a region in the units of its coordinates, for sorting by size.

    Polygons that overlap count twice.
    """
    if region.bitmap is not None:
        return float(np.count_nonzero(region.bitmap))
    return sum(map(_ring_area, region.polygons)) - sum(map(_ring_area, region.holes))


def _ring_area(ring: np.ndarray) -> float:
    x, y = (ring - ring[:1]).T  # near 0, so that large coordinates lose no digits
    with np.errstate(over="ignore", invalid="ignore"):  # points far outside are faults elsewhere
        return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _bitmap_patch(
    bitmap: np.ndarray, offset: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, np.ndarray] | None:
    x, y = offset
    left, top = max(0, -x), max(0, -y)
    inside = bitmap[top : max(0, size[0] - y), left : max(0, size[1] - x)]
    return (x + left, y + top, inside) if inside.size else None


def _box(rings: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners, (x, y), of the pixels of an image that rings may touch."""
    limit = np.array(size[::-1])
    low = np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)).astype(int)
    high = np.floor(np.max([ring.max(axis=0) for ring in rings], axis=0)).astype(int) + 1
    return low.clip(0, limit), high.clip(0, limit)


def _clipped(ring: np.ndarray, size: tuple[int, int], is_relative: bool) -> np.ndarray:
    """Return a ring in px, cut off at `MARGIN` around the image.

    It bounds the time and memory of drawing, whatever the coordinates are.
    """
    limit = np.array(size[::-1], dtype=float)
    ring = np.asarray(ring, dtype=float).reshape(-1, 2)
    if is_relative:
        ring = ring * limit
    for axis in (0, 1):
        for sign, bound in ((1, -MARGIN), (-1, -limit[axis] - MARGIN)):
            if len(ring) and (sign * ring[:, axis] < bound).any():
                ring = _cut(ring, axis, sign, bound)
    return ring


def _cut(ring: np.ndarray, axis: int, sign: int, bound: float) -> np.ndarray:
    """Return the part of a ring where `sign` times its coordinate is at least `bound`.

    One step of the algorithm of Sutherland and Hodgman.
    """
    following = np.roll(ring, -1, axis=0)
    here, there = sign * ring[:, axis] - bound, sign * following[:, axis] - bound
    crosses = (here < 0) != (there < 0)
    # halves: a difference of the largest floats would be infinite
    share = np.where(crosses, here / 2, 0) / np.where(crosses, here / 2 - there / 2, 1)
    points = ring * (1 - share[:, None]) + following * share[:, None]
    points[crosses, axis] = sign * bound
    both = np.stack([ring, points], axis=1).reshape(-1, 2)
    return both[np.stack([here >= 0, crosses], axis=1).reshape(-1)]


def _area_ring(
    ring: np.ndarray, low: np.ndarray, high: np.ndarray, size: tuple[int, int], is_outer: bool
) -> np.ndarray:
    """Return the pixels, bool (h, w), from `low` to `high`, (x, y), whose centre is in a ring.

    Holes are drawn by the same rule. The ring is not moved: pycocotools' rounding depends on where
    it is. Of a large image, only the columns of the box are decoded.
    """
    encoded: Any = coco_mask.frPyObjects([ring.reshape(-1)], *size)[0]
    if size[0] * size[1] <= SMALL:
        whole = coco_mask.decode(encoded)
        return whole[low[1] : high[1], low[0] : high[0]].astype(bool)
    ends = np.cumsum(decoded_runs(encoded["counts"].decode("ascii")))
    first, last = int(low[0]) * size[0], int(high[0]) * size[0]
    runs = np.diff(ends.clip(first, last), prepend=first)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(-1, size[0])
    return columns[:, low[1] : high[1]].T


def _outline_ring(
    ring: np.ndarray, low: np.ndarray, high: np.ndarray, size: tuple[int, int], is_outer: bool
) -> np.ndarray:
    """Return the pixels, bool (h, w), from `low` to `high`, (x, y), of a ring with its outline.

    Of a hole, without it: its outline belongs to the region around it, as in OpenCV's fillPoly.
    """
    image = Image.new("1", tuple((high - low).tolist()))
    # Coordinates are cut off, as Pillow and OpenCV do.
    points = [(int(x), int(y)) for x, y in ring.astype(int) - low]
    ImageDraw.Draw(image).polygon(points, fill=1, outline=1 if is_outer else 0)
    return np.asarray(image)


def polygons_of(mask: np.ndarray, rule: str, least: float = LEAST_IOU) -> list[Rings]:
    """Return the polygons, each an outer ring and its holes, of a mask, bool (H, W).

    Each connected piece (pixels that share a side) is one polygon, from the upper left one on.
    Rings are float64 (n, 2), x and y in px, without a repeated last point. Outlines are
    simplified as far as each piece drawn by `rule` has an IoU of at least `least` with its
    pixels. Pieces drawn with `least` 1 give back exactly the mask: for rule "area", their points
    are corners of pixels, for "outline" they are centres of the outermost pixels.
    """
    pieces, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[box] == number
        low = np.array([box[1].start, box[0].start], dtype=float)
        outer, holes = _rings_of(inside, rule, least)
        found.append((outer + low, [hole + low for hole in holes]))
    return found


def _rings_of(inside: np.ndarray, rule: str, least: float) -> Rings:
    """Return the rings of one connected piece, bool (h, w)."""
    edges = _pixel_edges(inside)
    rings = [_by_rule(ring, rule) for ring in edges]
    smooth = rings if rule == "outline" else [_midpoints(ring) for ring in edges]
    for tolerance in TOLERANCES if least < 1 else ():
        simple = _simplified(smooth, tolerance)
        if simple is None or not _is_valid(simple, rule):
            continue
        drawn = fill(Region("", (simple[0],), tuple(simple[1:])), inside.shape, rule)
        if (drawn & inside).sum() >= least * (drawn | inside).sum():
            return simple[0], simple[1:]
    return rings[0], rings[1:]


def _pixel_edges(inside: np.ndarray) -> list[np.ndarray]:
    """Return the outer ring and the holes of one connected piece, exactly along its pixels.

    Points are float64 (n, 2), without a repeated last point; the piece is on the left of every
    edge, in axes where y points upwards.
    """
    import shapely  # takes 50 ms; drawing does not need it

    steps = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    union = shapely.union_all(shapely.box(starts, rows, ends, rows + 1))
    polygon = shapely.geometry.polygon.orient(union)
    rings = [polygon.exterior, *polygon.interiors]
    return [_without_straight(shapely.get_coordinates(ring)[:-1]) for ring in rings]


def _without_straight(ring: np.ndarray) -> np.ndarray:
    """Return a ring without the points where it goes straight on."""
    after, before = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
    turns = after[:, 0] * before[:, 1] != after[:, 1] * before[:, 0]
    back = (after * before).sum(axis=1) < 0  # a line's end, where the ring turns round
    return ring[turns | back] if (turns | back).any() else ring[:1]


def _midpoints(ring: np.ndarray) -> np.ndarray:
    """Return a point near the middle of each pixel's side along a ring of pixels' corners.

    It cuts off every corner, so that slanted edges have no steps, but keeps all pixels' centres.
    """
    along = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(along).sum(axis=1).astype(int)
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return np.repeat(ring, lengths, axis=0) + np.repeat(np.sign(along), lengths, axis=0) * (
        within[:, None] + MIDDLE
    )


def _by_rule(ring: np.ndarray, rule: str) -> np.ndarray:
    """Return the ring that gives the piece back when it is drawn by `rule`.

    For "outline", each edge becomes the centres of the first and last pixel along it, inside.
    """
    if rule != "outline":
        return ring
    following = np.roll(ring, -1, axis=0)
    along = np.sign(following - ring) / 2
    inwards = along[:, ::-1] * (-1, 1)  # to the left of the edge
    chain = np.stack([ring + along + inwards, following - along + inwards], axis=1).reshape(-1, 2)
    differs = (chain != np.roll(chain, 1, axis=0)).any(axis=1)
    return _with_area(_without_straight(chain[differs]) if differs.any() else chain[:1])


def _with_area(ring: np.ndarray) -> np.ndarray:
    """Return a ring of at least three points: those of one or two pixels get more in them.

    Tools refuse polygons of fewer points, and do not show a polygon whose points are all equal.
    """
    if len(ring) == 1:
        return ring + np.array([[-NUDGE, -NUDGE], [NUDGE, -NUDGE], [0, NUDGE]])
    if len(ring) == 2:
        return np.concatenate([ring, ring[1:] + NUDGE])
    return ring


def _simplified(rings: Sequence[np.ndarray], tolerance: float) -> list[np.ndarray] | None:
    """Return rings simplified by `tolerance` in px, or None if the outer one would be a line.

    Holes that would be lines are left out.
    """
    import shapely

    simple = []
    for ring in rings:
        # Douglas and Peucker's method keeps both ends: begin at one end of the longest diagonal
        first = int(((ring - ring.mean(axis=0)) ** 2).sum(axis=1).argmax())
        closed = np.roll(ring, -first, axis=0)[np.r_[: len(ring), 0]]
        line = shapely.simplify(shapely.linestrings(closed), tolerance, preserve_topology=False)
        points = shapely.get_coordinates(line)[:-1]
        if len(points) >= 3:
            simple.append(points)
        elif not simple:
            return None
    return simple


def _is_valid(rings: Sequence[np.ndarray], rule: str) -> bool:
    """Return whether tools that expect valid polygons accept these rings.

    By "outline", lines of one pixel are polygons without area; only their drawing is compared.
    """
    import shapely

    if rule == "outline":
        return True
    return bool(shapely.Polygon(rings[0], rings[1:]).is_valid)


def join_holes(outer: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """Return one ring that encloses the same area as `outer` without `holes`, float64 (n, 2).

    It goes along a bridge of no width to each hole and back, for formats without holes. Drawn by
    "area", it is the same; by "outline", the bridges' pixels belong to the region as before. What
    is lost is which part is a hole: who edits the polygon moves both sides of a bridge.
    """
    import shapely

    ring, rest = np.asarray(outer, dtype=float), [np.asarray(hole, dtype=float) for hole in holes]
    lines = [shapely.linestrings(hole[np.r_[: len(hole), 0]]) for hole in rest]
    while rest:
        # the hole nearest to the ring: no other hole can lie across the bridge
        whole = shapely.linestrings(ring[np.r_[: len(ring), 0]])
        nearest = int(shapely.distance(whole, lines).argmin())
        start, end = shapely.get_coordinates(shapely.shortest_line(whole, lines.pop(nearest)))
        hole = _begun_at(rest.pop(nearest), end)
        around = _begun_at(ring, start)
        if _turns_left(around) == _turns_left(hole):
            hole = np.roll(hole[::-1], 1, axis=0)
        ring = np.concatenate([around, around[:1], hole, hole[:1]])
    return ring


def _turns_left(ring: np.ndarray) -> bool:
    x, y = (ring - ring[:1]).T
    return bool(x @ np.roll(y, -1) >= y @ np.roll(x, -1))


def _begun_at(ring: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return a ring that begins at `point`, which lies on it."""
    following = np.roll(ring, -1, axis=0)
    length = np.linalg.norm(following - ring, axis=1)
    detour = np.linalg.norm(ring - point, axis=1) + np.linalg.norm(following - point, axis=1)
    edge = int((detour - length).argmin())
    if np.allclose(ring[edge], point):
        return np.roll(ring, -edge, axis=0)
    turned = np.roll(ring, -edge - 1, axis=0)
    return turned if np.allclose(turned[0], point) else np.concatenate([[point], turned])

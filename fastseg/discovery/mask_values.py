"""What a sample of masks holds: codes or colours, their pixels, areas, borders and objects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..data.decoding import LOSSY_SPREAD, STRAY_SHARE, is_lossy
from ..data.images import read_raw
from ..errors import DataError
from ..types import Colour
from ..utils.progress import track
from ..utils.threads import results_in_order
from .mask_detection import spaced, with_slices

SAMPLE = 300  # masks read; evenly spaced over all of them
DETAILED = 60  # of these, the masks whose objects and borders are measured

MAX_COLOURS = 5000  # of one mask that are counted; photographs have more
NEAR_BORDER = 5  # px: width of the borders that VOC leaves void
THIN_SHARE = 0.02  # of an image's shorter side: void borders are at most this thick, or 2 px
BORDER_SHARE = 0.9  # of a code's pixels that must lie between two other codes

# Conventions for JPEG masks: how far noise lies from a colour
LOSSY_RADIUS = 60
SNAP = 8  # levels to a round one: 0, 64, 128, 192, 255


@dataclass
class Values:
    """What the sampled masks hold. Keys are codes, or colours packed as r * 65536 + g * 256 + b."""

    files: int = 0
    total: int = 0  # how many masks there are
    unreadable: list[str] = field(default_factory=list)
    is_colour: bool = False  # whether any mask has channels that differ
    is_lossy: bool = False
    is_deep: bool = False  # whether any mask has more than 8 bits
    pixels: Counter[int] = field(default_factory=Counter)
    inner: Counter[int] = field(default_factory=Counter)  # pixels whose four neighbours are equal
    files_with: Counter[int] = field(default_factory=Counter)
    largest: dict[int, float] = field(default_factory=dict)  # largest share of one mask
    palettes: dict[int, set[Colour]] = field(default_factory=lambda: defaultdict(set))
    example: dict[int, str] = field(default_factory=dict)  # name of a mask that has the value

    def codes(self) -> list[int]:
        """Return the values, but for stray ones: a few pixels without any area."""
        return sorted(value for value in self.pixels if not self.is_stray(value))

    def is_stray(self, value: int) -> bool:
        return not self.inner[value] and self.largest[value] <= STRAY_SHARE

    def share(self, value: int) -> float:
        """Return the share of all pixels."""
        return self.pixels[value] / max(1, sum(self.pixels.values()))


@dataclass
class _One:
    name: str
    is_colour: bool
    is_deep: bool
    values: np.ndarray
    counts: np.ndarray
    inner: dict[int, int]
    pixels: int
    palette: list[int] | None


def read_values(files: Sequence[Path]) -> Values:
    """Return what up to `SAMPLE` of the masks hold, evenly spaced, with progress on a terminal."""
    files = with_slices(files)
    chosen = spaced(files, SAMPLE)
    found = Values(total=len(files))
    packed: list[tuple[_One, _One | None]] = []
    workers = min(4, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        jobs = (pool.submit(_one, file) for file in chosen)
        for file, result in zip(
            chosen, track(results_in_order(jobs, 4 * workers), "reading masks", len(chosen))
        ):
            found.is_lossy |= is_lossy(file)
            if isinstance(result, str):
                found.unreadable.append(result)
            else:
                packed.append(result)
    found.is_colour = any(as_grey.is_colour for as_grey, _ in packed)
    for as_grey, as_colour in packed:
        _add(found, as_colour if found.is_colour and as_colour else as_grey, found.is_colour)
    return found


def _add(found: Values, one: _One, colours: bool) -> None:
    found.files += 1
    found.is_deep |= one.is_deep
    for value, count in zip(one.values.tolist(), one.counts.tolist()):
        if colours and not one.is_colour:
            value = value * 0x010101 if value < 256 else value
        found.pixels[value] += count
        found.files_with[value] += 1
        found.largest[value] = max(found.largest.get(value, 0.0), count / one.pixels)
        found.example.setdefault(value, one.name)
        if one.palette and 3 * value + 2 < len(one.palette):
            red, green, blue = one.palette[3 * value : 3 * value + 3]
            found.palettes[value].add((red, green, blue))
    for value, count in one.inner.items():
        found.inner[value * 0x010101 if colours and not one.is_colour else value] += count


def _one(file: Path) -> tuple[_One, _One | None] | str:
    """Return what a mask holds as codes, and as colours if it has any; a text on failure."""
    try:
        values = read_raw(file)
    except DataError as error:
        return str(error)
    palette = None
    if file.suffix.lower() in (".png", ".gif", ".bmp", ".tif", ".tiff"):
        with Image.open(file) as opened:
            if opened.mode == "P":
                palette = opened.getpalette("RGB")
    deep = values.dtype != np.uint8
    if values.ndim == 3 and values.shape[2] >= 3:
        rgb = values[..., :3].astype(np.int32)
        spread = int((rgb.max(axis=2) - rgb.min(axis=2)).max())
        if spread > (LOSSY_SPREAD if is_lossy(file) else 0):
            packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
            one = _count(file, packed, True, deep, None)
            return one, one
    grey = values[..., 0] if values.ndim == 3 else values
    as_grey = _count(file, grey, False, deep, palette)
    if palette is not None:  # needed where other masks are in colours
        table = np.zeros((256, 3), np.int32)
        known = np.array(palette, np.int32).reshape(-1, 3)[:256]
        table[: len(known)] = known
        packed = (table[:, 0] << 16 | table[:, 1] << 8 | table[:, 2])[grey]
        return as_grey, _count(file, packed, True, deep, None)
    return as_grey, None


def _count(
    file: Path, values: np.ndarray, is_colour: bool, deep: bool, palette: list[int] | None
) -> _One:
    same_x = values[:, 1:] == values[:, :-1]
    same_y = values[1:] == values[:-1]
    inside = values[1:-1, 1:-1][
        same_x[1:-1, 1:] & same_x[1:-1, :-1] & same_y[1:, 1:-1] & same_y[:-1, 1:-1]
    ]
    if is_colour:
        present, counts = np.unique(values, return_counts=True)
        if len(present) > MAX_COLOURS:
            order = counts.argsort()[::-1][:MAX_COLOURS]
            present, counts = present[order], counts[order]
        kinds, inner = np.unique(inside, return_counts=True)
    else:
        every = np.bincount(values.reshape(-1))
        present = np.flatnonzero(every)
        counts = every[present]
        of_inner = np.bincount(inside.reshape(-1)) if inside.size else np.zeros(1, int)
        kinds = np.flatnonzero(of_inner)
        inner = of_inner[kinds]
    return _One(
        file.name,
        is_colour,
        deep,
        present,
        counts,
        dict(zip(kinds.tolist(), inner.tolist())),
        values.size,
        palette,
    )


def unpack(packed: int) -> Colour:
    """Return the colour that `pack` made an integer of."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def pack(colour: Colour) -> int:
    """Return a colour as one integer: red << 16 | green << 8 | blue."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def centres(found: Values, declared: Sequence[Colour] = ()) -> tuple[list[Colour], int]:
    """Return the colours that masks are painted in, the commonest first, and how many others there
    are: blended edges and JPEG noise.

    A colour counts if it has areas, or if it is declared. Colours of thin lines count if they are
    no mixture of two others.
    """
    known = [colour for colour in declared if pack(colour) in found.pixels]
    chosen: list[Colour] = []
    for value, _ in sorted(found.pixels.items(), key=lambda pair: (-pair[1], pair[0])):
        colour = unpack(value)
        if found.is_lossy:
            if not found.inner[value]:
                continue
            near = [c for c in (*declared, *chosen) if _distance(c, colour) < LOSSY_RADIUS]
            if near:
                best = min(near, key=lambda c: _distance(c, colour))
                chosen += [best] if best not in chosen else []
            else:
                chosen.append(_snapped(colour))
        elif colour in known or found.inner[value]:
            chosen.append(colour)
    if not found.is_lossy and len(found.pixels) <= 256:
        for value, count in found.pixels.items():
            colour = unpack(value)
            if colour not in chosen and count >= 20 and not found.is_stray(value):
                chosen += [] if _is_mixture(colour, chosen) else [colour]
    return chosen, sum(unpack(value) not in chosen for value in found.pixels)


def _distance(one: Colour, other: Colour) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.5)


def _snapped(colour: Colour) -> Colour:
    def nearest(level: int) -> int:
        best = min((0, 64, 128, 192, 255), key=lambda step: abs(step - level))
        return best if abs(best - level) <= SNAP else level

    return nearest(colour[0]), nearest(colour[1]), nearest(colour[2])


def _is_mixture(colour: Colour, others: Sequence[Colour]) -> bool:
    """Return whether a colour lies between two others."""
    point = np.array(colour, float)
    for i, one in enumerate(others):
        for other in others[i + 1 :]:
            start, along = np.array(one, float), np.array(other, float) - np.array(one, float)
            length = float(along @ along)
            if not length:
                continue
            at = float((point - start) @ along) / length
            if 0 < at < 1 and float(np.linalg.norm(start + at * along - point)) < 24:
                return True
    return False


def is_border(files: Sequence[Path], code: int) -> bool:
    """Return whether a code is only at the borders between other codes, as in the masks of Pascal
    VOC: thin lines, with two other codes near.
    """
    pixels = near_two = 0
    for file in spaced(with_slices(files), DETAILED):
        grey = read_raw(file)
        grey = grey[..., 0] if grey.ndim == 3 else grey
        ours = grey == code
        if not ours.any():
            continue
        limit = max(2.0, THIN_SHARE * min(grey.shape))
        padded = np.pad(ours, 1)
        if ndimage.distance_transform_cdt(padded, "chessboard").max() > limit:
            return False
        others = [c for c in np.unique(grey).tolist() if c != code]
        near = np.zeros(grey.shape, np.uint8)
        for other in others:
            near += ndimage.maximum_filter(grey == other, 2 * NEAR_BORDER + 1)
        pixels += int(ours.sum())
        near_two += int((near[ours] >= 2).sum())
    return pixels > 0 and near_two >= BORDER_SHARE * pixels


@dataclass(frozen=True)
class Objects:
    """Widths of the objects of each class in a sample, in px, see `_widths`."""

    small: dict[int, float]  # class index -> the width that nine tenths of its objects exceed
    share: dict[int, float]  # class index -> share of labelled pixels
    image_side: float  # median of the shorter sides


def _widths(mask: np.ndarray) -> np.ndarray:
    """Return the widths in px of the objects of a mask, bool (H, W), but not of specks beside them.

    It is the diameter of the largest circle in an object, and not more than the root of its area: a
    pole is as wide as it is thick, however long.
    """
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.reshape(-1))[1:]
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]  # 1 at an edge
    radii = np.asarray(ndimage.maximum(inside, labels, range(1, count + 1)))
    widths = np.minimum(np.sqrt(areas), 2 * radii - 0.5)  # an odd width has one more pixel
    return widths[areas >= max(4, 0.05 * areas.max())]


def measure(masks: Sequence[np.ndarray], background: int | None) -> Objects:
    """Return widths of objects and shares of classes in masks of class indices, uint8 (H, W)."""
    sizes: dict[int, list[float]] = defaultdict(list)
    counts: Counter[int] = Counter()
    sides = []
    for codes in masks:
        sides.append(min(codes.shape))
        for code, count in enumerate(np.bincount(codes.reshape(-1), minlength=256)[:255].tolist()):
            if not count:
                continue
            counts[code] += count
            if code != background:
                sizes[code] += _widths(codes == code).tolist()
    total = sum(counts.values()) or 1
    return Objects(
        {code: float(np.percentile(found, 10)) for code, found in sizes.items()},
        {code: count / total for code, count in counts.items()},
        float(np.median(sides)) if sides else 0.0,
    )

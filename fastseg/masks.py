"""Images and masks as numpy arrays: reading, resizing, codes <-> colours, overlays. No torch here."""
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from .errors import DataError
from .files import atomic_file

log = logging.getLogger(__name__)

Colour = tuple[int, int, int]

IGNORE = 255  # the code of unlabelled pixels: left out of losses and metrics
UNLABELLED_COLOUR = (240, 240, 240)
STRAY_SHARE = 1e-4  # masks drawn by hand hold a few wrong pixels; up to this share they count as unlabelled
# Anti-aliasing mixes neighbouring colours: the mean of three primaries lies 0.577 palette distances from each of
# them, while black, white and the secondaries lie at least 0.707 away.
COLOUR_TOLERANCE = 0.6
BAND = 512  # rows that are mixed at a time: floats of 12 megapixels would take half a gigabyte
OUTLINE = 800  # px of an image's shorter side for each px that outlines widen to either side


def read_image(path: Path | str) -> np.ndarray:
    """Read any image as uint8 RGB of shape (H, W, 3), upright (EXIF), 16-bit scaled to 8, alpha dropped.

    Of an animation or a file of several pages, the first one is read, and a warning says so.
    Raises `DataError` naming the file if it cannot be decoded whole.
    """
    return as_rgb(_open(path)[0])


def read_near(path: Path | str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image as `read_image` does, but no larger than it need be for `size`, (height, width); return its own size too.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at least `size`: two to five times quicker.
    """
    image, own = _open(path, size)
    return as_rgb(image), own


def as_rgb(image: Image.Image) -> np.ndarray:
    """Return an opened image as uint8 (H, W, 3): 16-bit scaled to 8, floats to their largest, inks and palettes converted."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        top = 65535 if image.mode.startswith("I") else max(float(values.max()), 1e-9)
        return np.repeat((values.clip(0, top) / top * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_codes(path: Path | str) -> np.ndarray:
    """Read a mask whose pixel values are class codes, as uint8 of shape (H, W).

    Accepts grey, palette, 1-bit and 16-bit masks, and RGB(A) ones whose channels are equal.
    Raises `DataError` for masks in real colours.
    """
    values = read_raw(path)
    if values.ndim == 3:
        colours = values[..., : 3 if values.shape[2] >= 3 else 1]
        if (colours != colours[..., :1]).any():
            raise DataError(f"{path}: the mask is in colours, but this task's masks hold class codes; "
                            "convert it to one code a pixel")
        values = colours[..., 0]
    return values


def read_raw(path: Path | str) -> np.ndarray:
    """Read a mask's values as they are stored, upright: uint8 (H, W) or (H, W, channels), values above 255 cut down to it."""
    return np.asarray(_open(path)[0]).clip(0, 255).astype(np.uint8)


def _open(path: Path | str, near: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Return the upright image and its own (height, width)."""
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path}: is no file, but a folder, pipe or device; remove it")
    try:
        with Image.open(path) as image:
            own = None
            if near is not None and image.format in ("JPEG", "MPO"):  # the formats that can be decoded smaller than they are
                own = _upright_size(image)
                image.draft(None, near[::-1] if own == image.size[::-1] else near)
            image.load()
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # an MPO is a photograph with previews
                _first_of(str(path), image.n_frames)
            upright = ImageOps.exif_transpose(image)
            return upright, own or upright.size[::-1]
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the path") from None
    except Exception as error:  # decoders raise nearly anything on damaged files: struct, zlib, Index, Key errors
        reason = "the file is empty" if Path(path).is_file() and not Path(path).stat().st_size else _one_line(error)
        raise DataError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from None


@cache
def _first_of(path: str, count: int) -> None:
    """Warn, once for each file, that more than one picture is in it."""
    log.warning("%s: holds %d frames or pages, of which the first one is used; save the others as files of their own", path, count)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return image.size if turned else image.size[::-1]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "not an image, or damaged" if "cannot identify" in text else text


def resized(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """Bring uint8 (H, W, 3) to `size`, (height, width): "squish" resamples, "crop" cuts or pads with 0 about the centre."""
    return _brought_to(image, size, how, Image.BILINEAR, 0)


def resized_codes(codes: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """Bring codes, uint8 (H, W), to `size` as `resized` does images; what is padded is unlabelled."""
    return _brought_to(codes, size, how, Image.NEAREST, IGNORE)


def _brought_to(pixels: np.ndarray, size: tuple[int, int], how: str, filter: int, fill: int) -> np.ndarray:
    if pixels.shape[:2] == tuple(size):
        return pixels
    if how == "squish":
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], filter))
    out = np.full((*size, *pixels.shape[2:]), fill, dtype=np.uint8)
    (from_y, to_y), (from_x, to_x) = (_centred(have, want) for have, want in zip(pixels.shape, size))
    out[to_y, to_x] = pixels[from_y, from_x]
    return out


def _centred(have: int, want: int) -> tuple[slice, slice]:
    start, span = (have - want) // 2, min(have, want)
    return slice(max(0, start), max(0, start) + span), slice(max(0, -start), max(0, -start) + span)


def remap(codes: np.ndarray, table: Mapping[int, int], default: int) -> np.ndarray:
    """Translate the codes of a foreign label map, uint8 (H, W), by `table`; codes not in it become `default`."""
    lookup = np.full(256, default, dtype=np.uint8)
    for source, target in table.items():
        lookup[source] = target
    return lookup[codes]


def require_codes(codes: np.ndarray, classes: int, path: Path | str) -> np.ndarray:
    """Return `codes` with stray codes (outside 0..classes-1) set to `IGNORE`.

    Raises `DataError` if more than `STRAY_SHARE` of the pixels are stray.
    """
    stray = codes >= classes
    count = int(stray.sum())
    if not count:
        return codes
    if count > STRAY_SHARE * codes.size:
        values = sorted(int(v) for v in np.unique(codes[stray]))
        shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        remedy = "a 0/255 mask: write code 1 instead of 255" if values == [255] else "remap these codes"
        raise DataError(f"{path}: mask holds {count} pixels of code {shown}, but the {classes} classes are "
                        f"0 to {classes - 1}; {remedy}")
    return np.where(stray, np.uint8(IGNORE), codes)


def colours_to_codes(rgb: np.ndarray, palette: Sequence[Colour], path: Path | str = "mask") -> np.ndarray:
    """Decode a colour mask, uint8 (H, W, 3), to codes, uint8 (H, W): each pixel's index in `palette`.

    Exact matches first; other pixels take the nearest colour if it lies within `COLOUR_TOLERANCE` times the smallest
    distance between two palette colours (JPEG noise, anti-aliased edges). Colours beyond
    that are unlabelled, up to `STRAY_SHARE` of the pixels. Raises `DataError` for more.
    """
    codes = np.full(rgb.shape[:2], IGNORE, dtype=np.uint8)
    for code, colour in enumerate(palette):
        codes[(rgb == np.array(colour, dtype=np.uint8)).all(axis=2)] = code
    rest = codes == IGNORE
    if not rest.any():
        return codes
    colours, where, counts = np.unique(rgb[rest], axis=0, return_inverse=True, return_counts=True)
    known = np.array(palette, dtype=np.float32)
    distance = np.linalg.norm(colours[:, None].astype(np.float32) - known, axis=2)
    between = np.linalg.norm(known[:, None] - known, axis=2)
    tolerance = COLOUR_TOLERANCE * between[between > 0].min()
    unknown = distance.min(axis=1) > tolerance
    if counts[unknown].sum() > STRAY_SHARE * rest.size:
        most = np.flatnonzero(unknown)[counts[unknown].argmax()]
        colour = tuple(int(v) for v in colours[most])
        raise DataError(f"{path}: {int(counts[unknown].sum())} pixels in unknown colours, most often {colour} "
                        f"({int(counts[most])} pixels); the palette is {', '.join(map(str, palette))}: recolour them")
    codes[rest] = np.where(unknown, IGNORE, distance.argmin(axis=1)).astype(np.uint8)[where.reshape(-1)]
    return codes


def codes_to_colours(codes: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Paint codes, uint8 (H, W), in the palette's colours: uint8 (H, W, 3). Unlabelled pixels become `UNLABELLED_COLOUR`."""
    lookup = np.full((256, 3), UNLABELLED_COLOUR, dtype=np.uint8)
    lookup[: len(palette)] = palette
    return lookup[codes]


def overlay(image: np.ndarray, codes: np.ndarray, palette: Sequence[Colour], alpha: float = 0.45,
            hide: int | None = None) -> np.ndarray:
    """Lay the painted codes over `image` (uint8, H, W, 3): semi-transparent areas with crisp outlines.

    `hide` is a code (the background) whose pixels stay as they are.
    """
    weight = np.full(codes.shape, alpha, dtype=np.float32)
    edge = np.zeros(codes.shape, dtype=bool)
    edge[:, 1:] |= codes[:, 1:] != codes[:, :-1]
    edge[1:] |= codes[1:] != codes[:-1]
    wide = round(min(codes.shape) / OUTLINE)  # seen at the size of a screen, a line of 1 px on 12 megapixels vanishes
    weight[ndimage.maximum_filter(edge, 2 * wide + 1) if wide else edge] = 1.0
    weight[codes == IGNORE] = 0.0
    if hide is not None:
        weight[codes == hide] = 0.0
    mixed = np.empty_like(image)
    for rows in (slice(top, top + BAND) for top in range(0, len(image), BAND)):
        share = weight[rows, :, None]
        mixed[rows] = (image[rows] * (1 - share) + codes_to_colours(codes[rows], palette) * share).round()
    return mixed


def save_image(path: Path | str, pixels: np.ndarray | Image.Image, **options) -> Path:
    """Write an image whole or not at all; the format follows the suffix."""
    path = Path(path)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = {"quality": 92, **options}
    with atomic_file(path) as temporary:
        image.save(temporary, **options)
    return path

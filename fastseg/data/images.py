"""Images and masks as numpy arrays: reading, resizing, codes in colours, overlays. No torch."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from ..errors import DataError
from ..types import IGNORE, Colour
from ..utils.io import atomic_file

log = logging.getLogger(__name__)

UNLABELLED_COLOUR = (240, 240, 240)
DEPTHS = (8, 10, 12, 14, 16)  # bits of the values that cameras and scanners keep in 16-bit files
BAND_ROWS = 512  # rows blended at a time: 12 megapixels as floats would need half a gigabyte
JPEG_QUALITY = 92  # a convention; Pillow's default is 75, and it recommends no more than 95

# Outlines in overlays are one pixel wider on both sides for each OUTLINE_STEP px of the image's
# shorter side: at 12 megapixels, a line of 1 px is invisible on a screen.
OUTLINE_STEP = 800

# Tags of TIFF 6.0
SAMPLES_PER_PIXEL, BITS_PER_SAMPLE, PLANAR_CONFIGURATION, SEPARATE_PLANES = 277, 258, 284, 2
# The EXIF orientation tag, and its values that swap width and height
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)

# Pillow has no mode for several 16-bit channels: it keeps only the high byte of a value. With the
# byte order swapped, it keeps the low byte. Grey with alpha is read as four 8-bit channels.
_SWAPPED = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}
LOW_BYTE = {
    **{
        f"{mode};{order}": f"{mode};{other}"
        for mode in ("RGB", "RGBA", "RGBX")
        for order, other in _SWAPPED.items()
    },
    "LA;16B": "RGBA",
}

Picture = Image.Image | np.ndarray  # what a decoded file is; an array is uint16 (H, W, 3) or (H, W)


def read_image(path: Path | str, depth: int | None = None) -> np.ndarray:
    """Read any image as uint8 RGB (H, W, 3), upright (EXIF), without alpha.

    16-bit values are scaled as in `as_rgb`. Of an animation or a file of several pages, the first
    one is read, and a warning says so. Raises `DataError` if the file cannot be decoded completely.
    """
    return as_rgb(_open(path)[0], depth)


def read_near(
    path: Path | str, size: tuple[int, int], depth: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image like `read_image`, no larger than needed for `size`, and its own size.

    Both sizes are (height, width). A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is
    still at least `size`: two to five times faster.
    """
    picture, own = _open(path, size)
    return as_rgb(picture, depth), own


def as_rgb(picture: Picture, depth: int | None = None) -> np.ndarray:
    """Return a decoded image as uint8 (H, W, 3).

    Floats are scaled by their largest value, inks and palettes are converted. Values of more than
    8 bits are scaled by the range of `depth` bits, 0 to 2**depth - 1, and clipped beyond it;
    None means the fewest of `DEPTHS` that hold the image's own values.
    """
    if isinstance(picture, Image.Image) and picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        largest = max(float(values.max()), 1e-9)
        pixels = (values.clip(0, largest) / largest * 255).round().astype(np.uint8)
    elif isinstance(picture, Image.Image) and not picture.mode.startswith("I"):
        return np.asarray(picture.convert("RGB"))
    else:
        values = np.asarray(picture)
        top = 2 ** (depth or bits_of(int(values.max()))) - 1
        table = (np.arange(top + 1, dtype=np.float32) / top * 255).round().astype(np.uint8)
        pixels = table[values.clip(0, top)]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def bits_of(largest: int) -> int:
    """Return the fewest bits of `DEPTHS` that hold values up to `largest`; 16 for larger ones."""
    return next((bits for bits in DEPTHS if largest < 2**bits), DEPTHS[-1])


def largest_value(path: Path | str) -> int | None:
    """Return the largest value of an image of more than 8 bits, or None for others.

    Of the others, only the header is read. Raises `DataError` if the file cannot be read.
    """
    with _decoding(path), Image.open(path) as image:
        return int(np.asarray(upright(image, path)).max()) if is_deep(image) else None


def upright(image: Image.Image, source: Path | str | io.BytesIO) -> Picture:
    """Decode an image that was opened from `source` completely, and turn it as its EXIF says.

    Images of 16 bits in each of several channels are returned as uint16 (H, W, 3), or (H, W) for
    grey, without alpha. Raises the decoder's own errors, and `ValueError` for such images that are
    stored plane by plane.
    """
    if _is_planar(image):  # Pillow reads these wrongly, or only their high bytes
        raise ValueError(
            "its 16-bit channels are stored one after the other: save it interleaved, or as PNG"
        )
    low = LOW_BYTE.get(_raw_mode(image))
    # `tile` belongs to the file's own class; `image` is typed as its base
    tiles = [_with_raw_mode(tile, low) for tile in getattr(image, "tile", [])] if low else []
    image.load()
    turned = ImageOps.exif_transpose(image)
    if low is None:
        return turned
    with Image.open(source) as again:
        setattr(again, "tile", tiles)  # noqa: B010 - as above
        again.load()
        rest = np.asarray(ImageOps.exif_transpose(again))
    if low == "RGBA":  # grey with alpha, each in two bytes
        return rest[..., 0].astype(np.uint16) << 8 | rest[..., 1]
    return np.asarray(turned)[..., :3].astype(np.uint16) << 8 | rest[..., :3]


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened image, not loaded yet, has integer values of more than 8 bits."""
    return image.mode.startswith("I") or _raw_mode(image) in LOW_BYTE or _is_planar(image)


def _is_planar(image: Image.Image) -> bool:
    """Return whether an image is a TIFF of several 16-bit channels, stored one after the other."""
    tags = getattr(image, "tag_v2", {})
    return (
        tags.get(PLANAR_CONFIGURATION) == SEPARATE_PLANES
        and tags.get(SAMPLES_PER_PIXEL, 1) > 1
        and tags.get(BITS_PER_SAMPLE, (8,))[0] == 16
    )


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's raw mode, such as "RGB;16B"; "" if there is none."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args if isinstance(args, str) else args[0] if args else "")


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    """Return a tile of Pillow, a named tuple or (before Pillow 11.1) a tuple, of a raw mode."""
    args = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def read_raw(path: Path | str) -> np.ndarray:
    """Read a mask's values as they are stored, upright: (H, W) or (H, W, channels).

    uint8, or int32 from 0 to 65535 for masks of more than 8 bits. Raises `DataError` if the file
    cannot be decoded completely.
    """
    values = np.asarray(_open(path)[0])
    if values.dtype in (np.uint8, bool):
        return values.astype(np.uint8)
    return np.nan_to_num(values).clip(0, 65535).astype(np.int32)


def _open(path: Path | str, near: tuple[int, int] | None = None) -> tuple[Picture, tuple[int, int]]:
    """Return the upright image and its own (height, width)."""
    with _decoding(path), Image.open(path) as image:
        # the formats that can be decoded at a part of their size
        if near is not None and image.format in ("JPEG", "MPO"):
            own = _upright_size(image)
            image.draft(None, near[::-1] if own == image.size[::-1] else near)
            return upright(image, path), own
        picture = upright(image, path)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO is a photograph with previews
            _warn_of_frames(str(path), frames)
        if isinstance(picture, np.ndarray):
            return picture, (picture.shape[0], picture.shape[1])
        return picture, picture.size[::-1]


@contextmanager
def _decoding(path: Path | str) -> Iterator[None]:
    """Convert any decoding error in a block to a `DataError` that names the file."""
    if Path(path).is_dir():
        raise DataError(
            f"{path}: is a folder; give one image, or use fastseg predict TASK FOLDER", "not-a-file"
        )
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path}: is not a regular file; give an image file", "not-a-file")
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the path", "no-such-image") from None
    except Exception as error:
        # decoders raise many kinds of errors on damaged files: struct, zlib, IndexError, KeyError
        reason = _decoder_message(error)
        if Path(path).is_file() and not Path(path).stat().st_size:
            reason = "the file is empty"
        raise DataError(
            f"{path}: cannot be read as an image ({reason}); replace or remove it",
            "unreadable-image",
        ) from None


@cache
def _warn_of_frames(path: str, count: int) -> None:
    """Warn, once for each file, that only the first of its frames or pages is read."""
    log.warning(
        "%s: holds %d frames or pages, of which the first one is used; "
        "save the others as files of their own",
        path,
        count,
    )


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an image when it is turned as its EXIF says."""
    turned = image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
    return image.size if turned else image.size[::-1]


def _decoder_message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "not an image, or damaged" if "cannot identify" in text else text


def resized(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """Return an image, uint8 (H, W, 3), at `size`, (height, width).

    `how` is "squish", which resamples, or "crop", which crops or pads with 0 around the centre.
    """
    return _resize(image, size, how, Image.Resampling.BILINEAR, 0)


def resized_codes(codes: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """Return codes, uint8 (H, W), at `size`, like `resized`; padding is unlabelled."""
    return _resize(codes, size, how, Image.Resampling.NEAREST, IGNORE)


def _resize(
    pixels: np.ndarray, size: tuple[int, int], how: str, filter: Image.Resampling, fill: int
) -> np.ndarray:
    if pixels.shape[:2] == tuple(size):
        return pixels
    if how == "squish":
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], filter))
    out = np.full((*size, *pixels.shape[2:]), fill, dtype=np.uint8)
    (from_y, to_y), (from_x, to_x) = (
        _centred_slices(have, want) for have, want in zip(pixels.shape, size)
    )
    out[to_y, to_x] = pixels[from_y, from_x]
    return out


def _centred_slices(have: int, want: int) -> tuple[slice, slice]:
    """Return slices that copy the centre of `have` elements to the centre of `want` elements."""
    start, span = (have - want) // 2, min(have, want)
    return slice(max(0, start), max(0, start) + span), slice(max(0, -start), max(0, -start) + span)


def codes_to_colours(codes: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Return codes, uint8 (H, W), in the palette's colours, uint8 (H, W, 3).

    Unlabelled pixels become `UNLABELLED_COLOUR`.
    """
    lookup = np.full((256, 3), UNLABELLED_COLOUR, dtype=np.uint8)
    lookup[: len(palette)] = palette
    return lookup[codes]


def overlay(
    image: np.ndarray,
    codes: np.ndarray,
    palette: Sequence[Colour],
    alpha: float = 0.45,
    hide: int | None = None,
) -> np.ndarray:
    """Return `image`, uint8 (H, W, 3), with its codes, uint8 (H, W), in colours over it.

    Areas cover the image by `alpha`, from 0 to 1, outlines completely. `hide` is a code, such as
    the background's, whose pixels stay as they are.
    """
    weight = np.full(codes.shape, alpha, dtype=np.float32)
    edge = np.zeros(codes.shape, dtype=bool)
    edge[:, 1:] |= codes[:, 1:] != codes[:, :-1]
    edge[1:] |= codes[1:] != codes[:-1]
    wide = round(min(codes.shape) / OUTLINE_STEP)
    weight[ndimage.maximum_filter(edge, 2 * wide + 1) if wide else edge] = 1.0
    weight[codes == IGNORE] = 0.0
    if hide is not None:
        weight[codes == hide] = 0.0
    mixed = np.empty_like(image)
    for rows in (slice(top, top + BAND_ROWS) for top in range(0, len(image), BAND_ROWS)):
        share = weight[rows, :, None]
        mixed[rows] = (
            image[rows] * (1 - share) + codes_to_colours(codes[rows], palette) * share
        ).round()
    return mixed


def save_image(path: Path | str, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    """Write an image atomically, in the format of the suffix; `options` go to Pillow's `save`."""
    path = Path(path)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = {"quality": JPEG_QUALITY, **options}
    with atomic_file(path) as temporary:
        image.save(temporary, **options)
    return path

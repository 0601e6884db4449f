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
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..types import IGNORE, Colour
from ..utils.io import atomic_file
from . import tiff
from .slices import is_medical

log = logging.getLogger(__name__)

UNLABELLED_COLOUR = (240, 240, 240)
DEPTHS = (8, 10, 12, 14, 16)  # bits of the values that cameras and scanners keep in 16-bit files
BAND_ROWS = 512  # rows blended at a time: 12 megapixels as floats would need half a gigabyte
JPEG_QUALITY = 92  # a convention; Pillow's default is 75, and it recommends no more than 95

# Outlines in overlays are one pixel wider on both sides for each OUTLINE_STEP px of the image's
# shorter side: at 12 megapixels, a line of 1 px is invisible on a screen.
OUTLINE_STEP = 800

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

# What a decoded file is; an array is uint8 or uint16, (H, W) or (H, W, C)
Picture = Image.Image | np.ndarray

# The colours that transparent images are laid on; "drop" ignores their alpha channel
GROUNDS = {"white": 255, "black": 0}


def read_image(path: Path | str, depth: int | None = None, alpha: str = "drop") -> np.ndarray:
    """Read any image as uint8 RGB (H, W, 3), upright (EXIF), without alpha.

    16-bit values are scaled as in `as_rgb`, which also says what `alpha` is. Of an animation or a
    file of several pages, the first one is read, and a warning says so. Raises `DataError` if the
    file cannot be decoded completely, or has channels beyond red, green, blue and alpha.
    """
    return as_rgb(_open(path, alpha=alpha != "drop")[0], depth, alpha)


def read_near(
    path: Path | str, size: tuple[int, int], depth: int | None = None, alpha: str = "drop"
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image like `read_image`, no larger than needed for `size`, and its own size.

    Both sizes are (height, width). A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is
    still at least `size`: two to five times faster.
    """
    picture, own = _open(path, size, alpha != "drop")
    return as_rgb(picture, depth, alpha), own


def as_rgb(picture: Picture, depth: int | None = None, alpha: str = "drop") -> np.ndarray:
    """Return a decoded image as uint8 (H, W, 3).

    Floats are scaled by their largest value, inks and palettes are converted. Values of more than
    8 bits are scaled by `to_8_bits`. `alpha` says what becomes of transparent pixels: "drop" leaves
    their alpha channel out, "white" and "black" lay them on that colour.
    """
    if alpha in GROUNDS:
        return _on_ground(picture, depth, GROUNDS[alpha])
    if isinstance(picture, Image.Image) and picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        largest = max(float(values.max()), 1e-9)
        pixels = (values.clip(0, largest) / largest * 255).round().astype(np.uint8)
    elif isinstance(picture, Image.Image) and not picture.mode.startswith("I"):
        return np.asarray(picture.convert("RGB"))
    else:
        pixels = to_8_bits(np.asarray(picture), depth)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _on_ground(picture: Picture, depth: int | None, ground: int) -> np.ndarray:
    """Return a decoded image as uint8 (H, W, 3), laid on a grey level by its alpha channel."""
    if isinstance(picture, Image.Image):
        if not picture.has_transparency_data:
            return as_rgb(picture, depth)
        rgba = np.asarray(picture.convert("RGBA"))
        pixels, share = rgba[..., :3], rgba[..., 3:] / np.float32(255)
    elif picture.ndim == 3 and picture.shape[2] in (2, 4):
        pixels = as_rgb(picture[..., :-1] if picture.shape[2] == 4 else picture[..., 0], depth)
        share = picture[..., -1:] / np.float32(np.iinfo(picture.dtype).max)
    else:
        return as_rgb(picture, depth)
    return (pixels * share + ground * (1 - share)).round().astype(np.uint8)


def to_8_bits(values: np.ndarray, depth: int | None = None) -> np.ndarray:
    """Return integer values of any shape as uint8; uint8 values are returned as they are.

    They are scaled by the range of `depth` bits, 0 to 2**depth - 1, and clipped beyond it; None
    means the fewest of `DEPTHS` that hold the values themselves.
    """
    if values.dtype == np.uint8:
        return values
    top = 2 ** (depth or bits_of(int(values.max()))) - 1
    table = (np.arange(top + 1, dtype=np.float32) / top * 255).round().astype(np.uint8)
    return table[values.clip(0, top)]


def bits_of(largest: int) -> int:
    """Return the fewest bits of `DEPTHS` that hold values up to `largest`; 16 for larger ones."""
    return next((bits for bits in DEPTHS if largest < 2**bits), DEPTHS[-1])


def largest_value(path: Path | str) -> int | None:
    """Return the largest value of an image of more than 8 bits, or None for others.

    Of the others, only the header is read. Raises `DataError` if the file cannot be read.
    """
    with decoding(path):
        try:
            with Image.open(path) as image:
                if not is_deep(image):
                    return None
                return int(np.asarray(upright(image, path)).max())
        except UnidentifiedImageError:
            values = _read_tiff(path)
        return int(values.max()) if values.dtype != np.uint8 else None


def upright(image: Image.Image, source: Path | str | io.BytesIO, alpha: bool = False) -> Picture:
    """Decode an image that was opened from `source` completely, and turn it as its EXIF says.

    Images of 16 bits in each of several channels are returned as uint16 (H, W, 3), or (H, W) for
    grey; with `alpha`, their alpha channel, if they have one, is the last of (H, W, 4) or
    (H, W, 2). Raises the decoder's own errors, and `ValueError` for such images that are stored
    plane by plane unless they are files.
    """
    if _is_planar(image):  # Pillow reads these wrongly, or only their high bytes
        if isinstance(source, io.BytesIO):
            raise ValueError(
                "its 16-bit channels are stored one after the other: save it interleaved, or as PNG"
            )
        values = tiff.read(source, tiff.pages_of(source))
        if not alpha and values.shape[2] in (2, 4):
            values = values[..., :-1]
        return values if values.shape[2] > 1 else values[..., 0]
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
        both = rest[..., 0::2].astype(np.uint16) << 8 | rest[..., 1::2]
        return both if alpha else both[..., 0]
    values = np.asarray(turned).astype(np.uint16) << 8 | rest
    return values if alpha else values[..., :3]


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened image, not loaded yet, has integer values of more than 8 bits."""
    return image.mode.startswith("I") or _raw_mode(image) in LOW_BYTE or _is_planar(image)


def _is_planar(image: Image.Image) -> bool:
    """Return whether an image is a TIFF of several 16-bit channels, stored one after the other."""
    tags = getattr(image, "tag_v2", {})
    return (
        tags.get(tiff.PLANAR) == tiff.SEPARATE
        and tags.get(tiff.SAMPLES, 1) > 1
        and tags.get(tiff.BITS, (8,))[0] == 16
    )


def _read_tiff(path: Path | str) -> np.ndarray:
    """Return an image, uint8 or uint16 (H, W) or (H, W, 3), of a TIFF that Pillow cannot read.

    Raises Pillow's error for other files, and `DataError` for other numbers of channels.
    """
    if not tiff.is_tiff(path):
        raise UnidentifiedImageError(f"cannot identify {path}")
    pages = tiff.pages_of(path)[:1]
    if pages and pages[0].samples in (1, 3):
        values = tiff.read(path, pages)
        return values if values.shape[2] == 3 else values[..., 0]
    raise wrong_channels(path, pages[0].samples if pages else 0, 3)


def wrong_channels(path: Path | str, found: int, wanted: int) -> DataError:
    """Return the error for an image whose number of channels is not the task's or the model's."""
    return DataError(
        f"{path}: has {found} channel{'' if found == 1 else 's'}, where {wanted} are expected; "
        "give "
        + (
            "an RGB or grey image, or a task with channels = "
            f"{found} in its task.toml and a model that is trained on it"
            if wanted == 3
            else f"an image with {wanted} channels, in their order"
        ),
        "channels",
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
    if is_medical(path):
        from .medical import codes  # it imports nothing from here, and few need it

        return codes(path)
    values = np.asarray(_open(path)[0])
    if values.dtype in (np.uint8, bool):
        return values.astype(np.uint8)
    return np.nan_to_num(values).clip(0, 65535).astype(np.int32)


def _open(
    path: Path | str, near: tuple[int, int] | None = None, alpha: bool = False
) -> tuple[Picture, tuple[int, int]]:
    """Return the upright image and its own (height, width)."""
    with decoding(path):
        try:
            image = Image.open(path)
        except UnidentifiedImageError:
            values = _read_tiff(path)
            return values, (values.shape[0], values.shape[1])
        with image:
            # the formats that can be decoded at a part of their size
            if near is not None and image.format in ("JPEG", "MPO"):
                own = _upright_size(image)
                image.draft(None, near[::-1] if own == image.size[::-1] else near)
                return upright(image, path), own
            if image.format == "TIFF":
                _refuse_more_channels(image, path)
            picture = upright(image, path, alpha)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # an MPO is a photograph with previews
                _warn_of_frames(str(path), frames)
            if isinstance(picture, np.ndarray):
                return picture, (picture.shape[0], picture.shape[1])
            return picture, picture.size[::-1]


def _refuse_more_channels(image: Image.Image, path: Path | str) -> None:
    """Raise `DataError` for a TIFF with channels that are neither colour nor alpha.

    Pillow would leave them out.
    """
    tags = getattr(image, "tag_v2", {})
    samples, extra = tags.get(tiff.SAMPLES, 1), tags.get(tiff.EXTRA_SAMPLES, ())
    if samples > 3 and tags.get(tiff.PHOTOMETRIC) == tiff.RGB and 0 in tuple(extra):
        raise wrong_channels(path, samples, 3)


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Convert any decoding error in a block to a `DataError` that names the file."""
    if Path(path).is_dir():
        raise DataError(
            f"{path}: is a folder; give one image, or use fastseg predict TASK FOLDER", "not-a-file"
        )
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path}: is not a regular file; give an image file", "not-a-file")
    try:
        yield
    except DataError:
        raise
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
    """Return an image, uint8 (H, W, C), at `size`, (height, width).

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
        if pixels.ndim == 2 or pixels.shape[2] == 3:
            return np.asarray(Image.fromarray(pixels).resize(size[::-1], filter))
        # Pillow would take the last of two or four channels for alpha, and has no more than four.
        planes = (
            Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0)
        )
        return np.stack([np.asarray(plane.resize(size[::-1], filter)) for plane in planes], axis=2)
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
    from scipy import ndimage  # not at the top: predictions need no scipy

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
    with atomic_file(path) as temporary:
        _as_picture(pixels).save(temporary, **_options_of(path.suffix, options))
    return path


def encoded(pixels: np.ndarray | Image.Image, suffix: str, **options: Any) -> bytes:
    """Return the bytes of the file that `save_image` writes."""
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[suffix.lower()]
    _as_picture(pixels).save(buffer, kind, **_options_of(suffix, options))
    return buffer.getvalue()


def _as_picture(pixels: np.ndarray | Image.Image) -> Image.Image:
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


def _options_of(suffix: str, options: dict[str, Any]) -> dict[str, Any]:
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    return {"quality": JPEG_QUALITY, **options} if is_jpeg else options

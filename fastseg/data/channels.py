"""Images of 2 to 16 channels, of files as a task declares them: uint8 arrays (H, W, C)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..types import Item
from . import images, medical, tiff
from .issues import Fault
from .pairing import IMAGE_SUFFIXES
from .reading import RGB, Reading
from .slices import is_dicom, is_medical, slice_of, split_slice, stem_of

ONE_CHANNEL = ("1", "L", "F")  # Pillow's modes; those of 16-bit grey begin with I


def read(path: Path | str, how: Reading) -> np.ndarray:
    """Read an image as uint8 (H, W, C), where C is `how.channels`, upright, scaled to 8 bits.

    Raises `DataError` if a file cannot be decoded, or has other channels.
    """
    if how.is_plain and is_medical(path):
        pixels = medical.read(path, how.window)
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], RGB, axis=2)
    if how.is_plain:
        return images.read_image(path, how.depth, how.alpha)
    values = list(_values(path, how))
    if how.depth is None:  # one range for all channels
        deep = [int(v.max()) for v in values if v.dtype != np.uint8]
        depth = images.bits_of(max(deep)) if deep else None
    else:
        depth = how.depth
    return np.concatenate([images.to_8_bits(v, depth) for v in values], axis=2)


def read_near(
    path: Path | str, size: tuple[int, int], how: Reading
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image like `read`, no larger than needed for `size`, and its own size.

    Both sizes are (height, width).
    """
    if how.is_plain and not is_medical(path):
        return images.read_near(path, size, how.depth, how.alpha)
    pixels = read(path, how)
    return pixels, (pixels.shape[0], pixels.shape[1])


def largest_value(path: Path | str, how: Reading) -> int | None:
    """Return the largest value of an image if a channel has more than 8 bits, or None.

    Of the others, only headers are read. Raises `DataError` if a file cannot be read.
    """
    if is_medical(path):  # a window makes them images of 8 bits
        return None
    if how.is_plain:
        return images.largest_value(path)
    if not any(_is_deep(file) for file in files_of(path, how)):
        return None
    return max(int(v.max()) for v in _values(path, how) if v.dtype != np.uint8)


def channel_statistics(
    pixels: Iterable[np.ndarray],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel of images, uint8 (h, w, C).

    They are shares of 255. A channel without contrast gets one grey level as its deviation.
    """
    levels = np.arange(256) / 255
    counts: np.ndarray | int = 0
    for image in pixels:
        counts = counts + np.stack(
            [np.bincount(plane.reshape(-1), minlength=256) for plane in np.moveaxis(image, 2, 0)]
        )
    shares = np.asarray(counts) / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1)).clip(1 / 255)
    return tuple(map(float, mean.round(6))), tuple(map(float, std.round(6)))


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """Return the (height, width) of an image as it is stored, and its EXIF orientation.

    Only the header is read. Raises `DataError` or the decoders' own errors.
    """
    if is_dicom(path):
        return medical.size_of(path), 1
    try:
        with Image.open(path) as image:
            return image.size[::-1], image.getexif().get(images.ORIENTATION, 1)
    except UnidentifiedImageError:
        if not tiff.is_tiff(path):
            raise
    page = tiff.pages_of(path)[0]
    return (page.height, page.width), page.orientation


def shown(image: np.ndarray, chosen: Sequence[int] = ()) -> np.ndarray:
    """Return the three channels of an image, uint8 (H, W, C), that pictures show: (H, W, 3).

    `chosen` are their indices. By default they are the first three; two channels are shown as red
    and green.
    """
    if chosen:
        return image[..., list(chosen)]
    if image.shape[2] == 2:
        return np.concatenate([image, np.zeros_like(image[..., :1])], axis=2)
    return image if image.shape[2] == 3 else image[..., :3]


def files_of(path: Path | str, how: Reading) -> list[Path]:
    """Return the files of an image, one a channel where the task says so.

    `path` is the first one. The others may have another suffix. Raises `DataError` for a missing
    one.
    """
    path = Path(path)
    if not how.files:
        return [path]
    volume, number = split_slice(path) or (path, None)
    if not stem_of(volume).endswith(how.files[0]):
        raise DataError(
            f"{path}: its name does not end in {how.files[0]}, as the file of the first of "
            f"{how.channels} channels does; give that file",
            "channels",
        )
    stem = stem_of(volume).removesuffix(how.files[0])
    others = [_beside(volume, stem + end) for end in how.files[1:]]
    return [path, *(slice_of(o, number) for o in others)] if number is not None else [path, *others]


def with_all_files(items: Sequence[Item], how: Reading, faults: list[Fault]) -> list[Item]:
    """Return the items that have a file for each channel; the others are added to `faults`."""
    found = []
    for item in items:
        try:
            files_of(item.image, how)
            found.append(item)
        except DataError as error:
            detail, _, remedy = str(error).removeprefix(f"{item.image}: ").rpartition("; ")
            faults.append(Fault("no partner", str(item.image), detail, remedy))
    return found


def _beside(path: Path, stem: str) -> Path:
    """Return the image file with a stem beside `path`, of the same suffix if there is one."""
    own = path.name[len(stem_of(path)) :]
    for suffix in (own, *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
        if (file := path.with_name(stem + suffix)).is_file():
            return file
    raise DataError(
        f"{path}: the file of another channel is missing: {stem}{own}; add it",
        "channel-missing",
    )


def _values(path: Path | str, how: Reading) -> Iterator[np.ndarray]:
    """Yield the channels of an image as they are stored: uint8 or uint16 (H, W, C) of each file.

    Raises `DataError` if they are not the declared ones.
    """
    first, *others = files_of(path, how)
    values = _samples(first, 1 if how.files else how.channels, how.window)
    yield values
    height, width = values.shape[:2]
    for file in others:
        values = _samples(file, 1, how.window)
        if values.shape[:2] != (height, width):
            raise DataError(
                f"{file}: is {values.shape[1]}x{values.shape[0]} px, but the first channel, "
                f"{first.name}, is {width}x{height}; save all channels at one size",
                "size-mismatch",
            )
        yield values


def _samples(path: Path, wanted: int, window: tuple[float, float] | None) -> np.ndarray:
    """Return the stored channels of one file, uint8 or uint16 (H, W, `wanted`), upright."""
    if is_medical(path):
        pixels = medical.read(path, window)
        found = pixels.shape[2] if pixels.ndim == 3 else 1
        if found != wanted:
            raise images.wrong_channels(path, found, wanted)
        return pixels if pixels.ndim == 3 else pixels[..., None]
    with images.decoding(path):
        if wanted > 1 and tiff.is_tiff(path):
            pages = tiff.pages_of(path)
            found = tiff.channels_of(pages)
            if found != wanted:
                raise images.wrong_channels(path, found, wanted)
            return tiff.read(path, pages)
        with Image.open(path) as image:
            found = _bands(image)
            if found != wanted:
                raise images.wrong_channels(path, found, wanted)
            picture = images.upright(image, path, alpha=True)
    if isinstance(picture, Image.Image) and picture.mode == "F":
        return images.as_rgb(picture)[..., :1]
    if isinstance(picture, Image.Image) and picture.mode in ("P", "PA", "CMYK", "YCbCr", "LAB"):
        picture = picture.convert("RGB")
    values = np.asarray(picture)
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype != np.uint8:
        values = values.clip(0, 65535).astype(np.uint16)
    return values if values.ndim == 3 else values[..., None]


def _bands(image: Image.Image) -> int:
    """Return the number of channels of an opened image; palettes and inks count as RGB."""
    if image.mode in ONE_CHANNEL or image.mode.startswith("I"):
        return 1
    return len(image.getbands()) if image.mode in ("LA", "RGBA") else 3


def _is_deep(path: Path) -> bool:
    """Return whether a file has channels of more than 8 bits, by its header."""
    if is_medical(path):
        return False
    with images.decoding(path):
        if tiff.is_tiff(path):
            return any(page.bits > 8 for page in tiff.pages_of(path))
        with Image.open(path) as image:
            return images.is_deep(image)

"""TIFFs of several channels, most of which Pillow cannot read: its libtiff reads them as grey ones.

Samples of 8 or 16 bits, interleaved or plane by plane, in strips or tiles, or a page a channel. A
copy of the header in memory describes the same compressed data as grey images, so that every
lossless compression that Pillow's libtiff has is read.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

MAGIC = (b"II*\0", b"MM\0*", b"II+\0")  # the last one is of files above 4 GB
MOST_PAGES = 64  # that are looked at: a damaged file can have pages without end

# Tags of TIFF 6.0
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION = 254, 256, 257, 258, 259
PHOTOMETRIC, FILL_ORDER = 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 317, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339

GREY, PALETTE, SEPARATE, DIFFERENCES = 1, 3, 2, 2  # values of PHOTOMETRIC, PLANAR and PREDICTOR
RGB = 2
REDUCED_OR_MASK = 5  # bits of SUBFILE: a page that is a smaller copy, or a transparency mask
LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, LZMA, Zstandard

_UNTURNED = {  # orientation -> what makes an array (H, W, C) upright
    2: lambda v: v[:, ::-1],
    3: lambda v: v[::-1, ::-1],
    4: lambda v: v[::-1],
    5: lambda v: v.swapaxes(0, 1),
    6: lambda v: np.rot90(v, -1),
    7: lambda v: v[::-1, ::-1].swapaxes(0, 1),
    8: lambda v: np.rot90(v),
}


@dataclass(frozen=True)
class Page:
    """One page's header: how its samples are stored."""

    width: int
    height: int
    samples: int
    bits: int
    compression: int
    is_planar: bool
    has_differences: bool  # each sample is stored as the difference to its left neighbour
    offsets: tuple[int, ...]  # of the strips or tiles
    counts: tuple[int, ...]  # their bytes
    block: tuple[int, int]  # (height, width) of a tile, or of a strip
    is_tiled: bool
    orientation: int
    photometric: int
    extra: tuple[int, ...]  # what the samples beyond grey or RGB are; 1 and 2: an alpha channel

    @property
    def has_alpha(self) -> bool:
        """Whether its last sample is declared as an alpha channel."""
        return bool(self.extra) and self.extra[-1] in (1, 2)


def is_tiff(path: Path | str) -> bool:
    """Return whether a file begins as a TIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in MAGIC


def pages_of(path: Path | str) -> list[Page]:
    """Return the headers of a TIFF's pages, without smaller copies and transparency masks.

    Raises `ValueError`, and errors of Pillow, for damaged files and for samples that are not
    unsigned integers of 8 or 16 bits.
    """
    with open(path, "rb") as file:
        return [_page(tags) for tags in _directories(file)]


def channels_of(pages: Sequence[Page]) -> int:
    """Return the number of channels that `read` finds: the pages of a stack, or the samples."""
    first = pages[0]
    is_stack = len(pages) > 1 and all(
        (page.samples, page.width, page.height) == (1, first.width, first.height) for page in pages
    )
    return len(pages) if is_stack else first.samples


def read(path: Path | str, pages: Sequence[Page]) -> np.ndarray:
    """Return the channels of a TIFF with these pages, upright: uint8 or uint16 (H, W, C).

    C is `channels_of(pages)`. Raises `ValueError`, and errors of Pillow, for files that are damaged
    or compressed with losses.
    """
    if channels_of(pages) != len(pages) or len(pages) == 1:
        pages = pages[:1]
    with open(path, "rb") as file:
        order = file.read(2)
        size = file.seek(0, io.SEEK_END)
        values = np.concatenate([_samples(file, order, page, size) for page in pages], axis=2)
    turn = _UNTURNED.get(pages[0].orientation)
    return np.ascontiguousarray(turn(values) if turn else values)


def _directories(file: BinaryIO) -> Iterator[ImageFileDirectory_v2]:
    header = file.read(8)
    if header[:4] not in MAGIC:
        raise ValueError("it is no TIFF")
    header += file.read(8) if header[2:4] == b"+\0" else b""
    tags = ImageFileDirectory_v2(header)
    places: set[int] = set()
    while tags.next and len(places) < MOST_PAGES:
        if tags.next in places:
            raise ValueError("its pages form a loop")
        places.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        if not _number(tags, SUBFILE, 0) & REDUCED_OR_MASK:
            yield tags
    if not places:
        raise ValueError("it has no pages")


def _numbers(tags: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in values):
        raise ValueError(f"its tag {tag} holds no numbers")
    return values


def _number(tags: ImageFileDirectory_v2, tag: int, default: int | None = None) -> int:
    values = _numbers(tags, tag)
    if values:
        return values[0]
    if default is None:
        raise ValueError(f"its tag {tag} is missing")
    return default


def _page(tags: ImageFileDirectory_v2) -> Page:
    width, height = _number(tags, WIDTH), _number(tags, HEIGHT)
    samples, bits = _number(tags, SAMPLES, 1), set(_numbers(tags, BITS)) or {1}
    if width < 1 or height < 1 or samples < 1:
        raise ValueError("it has no pixels")
    if len(bits) > 1 or bits - {8, 16} or set(_numbers(tags, SAMPLE_FORMAT)) - {1}:
        raise ValueError(
            "its channels are not whole numbers of 8 or 16 bits without sign: save them as such"
        )
    if _number(tags, FILL_ORDER, 1) != 1:
        raise ValueError("its bits are stored in reverse: save it in the usual order")
    predictor = _number(tags, PREDICTOR, 1)
    if predictor not in (1, DIFFERENCES):
        raise ValueError(f"its predictor {predictor} is for floats")
    is_tiled = TILE_OFFSETS in tags
    block = (
        (_number(tags, TILE_HEIGHT), _number(tags, TILE_WIDTH))
        if is_tiled
        else (min(height, max(1, _number(tags, STRIP_ROWS, height))), width)
    )
    if min(block) < 1:
        raise ValueError("its tiles have no pixels")
    return Page(
        width,
        height,
        samples,
        bits.pop(),
        _number(tags, COMPRESSION, 1),
        samples > 1 and _number(tags, PLANAR, 1) == SEPARATE,
        predictor == DIFFERENCES,
        _numbers(tags, TILE_OFFSETS if is_tiled else STRIP_OFFSETS),
        _numbers(tags, TILE_BYTES if is_tiled else STRIP_BYTES),
        block,
        is_tiled,
        _number(tags, ORIENTATION, 1),
        _number(tags, PHOTOMETRIC, GREY),
        _numbers(tags, EXTRA_SAMPLES),
    )


def _samples(file: BinaryIO, order: bytes, page: Page, size: int) -> np.ndarray:
    """Return a page's samples, uint8 or uint16 (H, W, C); `size` is the file's, in bytes."""
    if page.compression not in LOSSLESS:
        raise ValueError(
            f"its compression (code {page.compression}) is not read for several channels: "
            "save it without, or with deflate or LZW"
        )
    if page.photometric == PALETTE:
        raise ValueError("its colours are in a palette: save it as grey or RGB")
    planes = page.samples if page.is_planar else 1
    across, down = -(-page.width // page.block[1]), -(-page.height // page.block[0])
    blocks = across * down
    if len(page.offsets) != planes * blocks or len(page.counts) != planes * blocks:
        raise ValueError("its header names other strips or tiles than the image has")
    if min(page.counts) < 0 or sum(page.counts) > size:
        raise ValueError("its strips or tiles are larger than the file")
    data = []
    for offset, count in zip(page.offsets, page.counts):
        file.seek(offset)
        data.append(file.read(count))
        if len(data[-1]) < count:
            raise ValueError("the file ends early")
    if page.is_planar:
        parts = [data[k * blocks : (k + 1) * blocks] for k in range(planes)]
        found = [_grey(order, page, part, 1) for part in parts]
        return np.stack(found, axis=2)
    rows = _grey(order, page, data, page.samples)
    values = rows.reshape(page.height, page.width, page.samples)
    if page.has_differences and page.samples > 1:
        for left in range(0, page.width, page.block[1]):
            part = values[:, left : left + page.block[1]]
            np.cumsum(part, axis=1, dtype=part.dtype, out=part)
    return values


def _grey(order: bytes, page: Page, data: Sequence[bytes], samples: int) -> np.ndarray:
    """Return strips or tiles, decoded as a grey image `samples` times as wide as the page.

    It is uint8 or uint16 (H, W * samples). Differences between neighbours are undone where there is
    one sample; libtiff would take those of another channel for neighbours.
    """
    undone = page.has_differences and samples == 1
    tags = {
        WIDTH: [page.width * samples],
        HEIGHT: [page.height],
        BITS: [page.bits],
        COMPRESSION: [page.compression],
        PHOTOMETRIC: [GREY],
        SAMPLES: [1],
        **({PREDICTOR: [DIFFERENCES]} if undone else {}),
    }
    counts = [len(part) for part in data]
    if page.is_tiled:
        tags |= {TILE_WIDTH: [page.block[1] * samples], TILE_HEIGHT: [page.block[0]]}
        tags |= {TILE_OFFSETS: counts, TILE_BYTES: counts}
    else:
        tags |= {STRIP_ROWS: [page.block[0]], STRIP_OFFSETS: counts, STRIP_BYTES: counts}
    with Image.open(io.BytesIO(_file(order.decode(), tags, data))) as image:
        values = np.asarray(image)
    return np.array(values, dtype=np.uint8 if page.bits == 8 else np.uint16)


def _file(order: str, tags: dict[int, list[int]], data: Sequence[bytes]) -> bytes:
    """Return a TIFF with these tags, all as 32-bit numbers, and strips or tiles."""
    sign = "<" if order == "II" else ">"
    after = 8 + 2 + 12 * len(tags) + 4  # the place behind the directory
    lists = sum(4 * len(numbers) for numbers in tags.values() if len(numbers) > 1)
    starts = np.cumsum([after + lists, *(len(part) for part in data)])[:-1].tolist()
    entries, rest = b"", b""
    for tag, numbers in sorted(tags.items()):
        if tag in (STRIP_OFFSETS, TILE_OFFSETS):
            numbers = starts
        packed = struct.pack(f"{sign}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, rest = struct.pack(f"{sign}I", after + len(rest)), rest + packed
        entries += struct.pack(f"{sign}HHI", tag, 4, len(numbers)) + packed
    head = order.encode() + struct.pack(f"{sign}HI", 42, 8)
    count = struct.pack(f"{sign}H", len(tags))
    return head + count + entries + bytes(4) + rest + b"".join(data)

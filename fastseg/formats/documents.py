"""JSON label files and the bitmaps in them, read with limits: the files may be malicious.

A file is parsed as a whole without embedded images, or item by item where it holds the labels of
all images. Every error is a `Bad` with its place, which a reader turns into a fault.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import io
import json
import mmap
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.issues import Fault
from ..errors import brief
from ..utils.json_stream import JsonError, entries
from .base import fault, parsed_number

# Limits of what is parsed. Python's lists need about 25 times the space of a point's text.
MAX_BYTES = 32 << 20  # of a JSON file of one image, without its embedded image
MAX_ITEM = 128 << 20  # characters of one item of a list
MAX_SIDE, MAX_PIXELS = 100_000, 1 << 30  # px of an image as stated: larger ones are mistakes
MAX_BITMAP = 1 << 26  # px of a bitmap; Pillow warns of larger ones
MAX_BITMAPS = 1 << 28  # px of all bitmaps of an image together, each cut to its labelled part
MAX_NAME = 4096  # characters of a label or a path
BEGINNING = 4096  # bytes in which a list begins; before it there are only spaces

# LabelMe and its relatives keep a copy of the image as base64 text in the label file.
EMBEDDED = re.compile(rb'(?<!\\)"imageData"\s*:\s*"')

BITMAP_ERRORS = (  # what Pillow raises for damaged files, and for those that are too large
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class Bad(Exception):
    """An entry that cannot be used, at a `place` in the file; never leaves a reader."""

    def __init__(self, place: str, detail: str, remedy: str, kind: str = "label file"):
        super().__init__(detail)
        self.place, self.detail, self.remedy, self.kind = place, detail, remedy, kind

    def fault(self, file: Path) -> Fault:
        """Return the fault of this entry of `file`."""
        return fault(file, self.place, self.detail, self.remedy, self.kind)


def document(file: Path) -> dict[str, Any]:
    """Return the JSON object that a file of at most `MAX_BYTES` holds, without embedded images.

    The image's base64 text is not read: it is "" in what is returned. Raises `Bad`.
    """
    try:
        text = _without_images(file).decode("utf-8-sig")
        value = json.loads(text)
    except OSError as error:
        raise Bad("", f"cannot be read ({error.strerror or error})", "check the file") from None
    except UnicodeDecodeError:
        raise Bad("", "is not UTF-8 text", "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, f"line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise _not_json(str(error)) from None
    except RecursionError:
        raise _not_json("nested too deeply") from None
    if not isinstance(value, dict):
        raise Bad("$", f"is {kind_of(value)}, not an object", "export the labels again")
    return value


def _not_json(reason: str, place: str = "") -> Bad:
    return Bad(place, f"is not valid JSON: {brief(reason)}", "export the labels again")


def _without_images(file: Path) -> bytes:
    """Return a file's bytes without embedded images. Raises `OSError` and `Bad`."""
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return b""
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            parts, start, kept = [], 0, 0
            while match := EMBEDDED.search(content, start):
                end = content.find(b'"', match.end())
                kept += match.end() - start
                if end < 0 or kept > MAX_BYTES:
                    break
                parts.append(content[start : match.end()])
                start = end
            if kept + len(content) - start > MAX_BYTES:
                raise Bad(
                    "",
                    f"holds more than {MAX_BYTES >> 20} MB of labels",
                    "export the labels again, one file an image",
                )
            return b"".join([*parts, content[start:]])


def items(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield place and value of each item of the list that a JSON file holds, one at a time.

    An object in place of the list is its only item. Memory is bounded by `MAX_ITEM`.
    Raises `Bad` where the rest of the file cannot be parsed.
    """
    if not _is_list(file):
        yield "$", document(file)
        return
    place = "$[0]"
    try:
        for _, index, value in entries(file, largest=MAX_ITEM):
            yield f"$[{index}]", value
            place = f"$[{index + 1}]"
    except JsonError as error:
        raise Bad(place, brief(error), "export the labels again") from None
    except OSError as error:
        raise Bad("", f"cannot be read ({error.strerror or error})", "check the file") from None


def _is_list(file: Path) -> bool:
    """Return whether a file begins with a list; files that cannot be read do not."""
    try:
        with file.open("rb") as opened:
            return opened.read(BEGINNING).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    except OSError:
        return False


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", dict: "an object", list: "a list", str: "text"}
    return kinds.get(type(value), "a number")


def listed(value: object, place: str) -> list[Any]:
    """Return `value` if it is a list. Raises `Bad`."""
    if not isinstance(value, list):
        raise Bad(place, f"is {kind_of(value)}, not a list", "export the labels again")
    return value


def mapped(value: object, place: str) -> dict[str, Any]:
    """Return `value` if it is an object. Raises `Bad`."""
    if not isinstance(value, dict):
        raise Bad(place, f"is {kind_of(value)}, not an object", "export the labels again")
    return value


def named(value: object, place: str, what: str) -> str:
    """Return `value` if it is text that can be shown and be a file's name, else raise `Bad`.

    `what` says what it names.
    """
    if not isinstance(value, str):
        raise Bad(place, f"{what} is {kind_of(value)}, not text", f"state the {what}")
    # control characters and halves of surrogate pairs: neither can be printed on one line
    is_odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in value)
    if is_odd or not value.strip() or len(value) > MAX_NAME:
        raise Bad(place, f"{what} '{brief(value)}' is no name", f"correct the {what}")
    return value


def numbered(value: object, place: str) -> float:
    """Return `value` if it is a finite number. Raises `Bad`."""
    number = parsed_number(value)
    if number is None:
        shown = brief(value) if isinstance(value, (int, float)) else kind_of(value)
        raise Bad(place, f"is {shown}, not a number", "draw this region again")
    return number


def size_of(height: object, width: object, places: tuple[str, str]) -> tuple[int, int]:
    """Return (height, width) in px. Raises `Bad` unless both are whole, positive and possible."""
    sides = []
    for value, place in zip((height, width), places):
        side = parsed_number(value)
        if side is None or side != int(side) or not 0 < side <= MAX_SIDE:
            shown = brief(value) if isinstance(value, (int, float)) else kind_of(value)
            raise Bad(place, f"is {shown}, no size in px", "export the labels again")
        sides.append(int(side))
    if sides[0] * sides[1] > MAX_PIXELS:
        raise Bad(
            places[0],
            f"an image of {sides[1]} x {sides[0]} px is too large",
            "export the labels again",
        )
    return sides[0], sides[1]


def points(value: object, place: str, least: int) -> np.ndarray:
    """Return a list of [x, y] as float64 (n, 2). Raises `Bad`, also for fewer than `least`."""
    pairs = listed(value, place)
    if len(pairs) < least:
        raise Bad(place, f"has {len(pairs)} points, fewer than {least}", "draw this region again")
    fast = _fast_points(pairs)
    if fast is not None:
        return fast
    found = np.empty((len(pairs), 2))
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Bad(f"{place}[{index}]", "is no pair [x, y]", "draw this region again")
        for axis in (0, 1):
            found[index, axis] = numbered(pair[axis], f"{place}[{index}][{axis}]")
    return found


def _fast_points(pairs: list[Any]) -> np.ndarray | None:
    """Return pairs of finite numbers as float64 (n, 2); None if any is something else.

    Ten times as fast as looking at each number, which only says where the wrong one is.
    """
    if not pairs or set(map(type, pairs)) != {list} or set(map(len, pairs)) != {2}:
        return None
    flat = list(chain.from_iterable(pairs))
    if not set(map(type, flat)) <= {int, float}:
        return None
    try:
        found = np.array(flat, dtype=np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return found if np.isfinite(found).all() else None


def inside(ring: np.ndarray, size: tuple[int, int], place: str) -> None:
    """Raise `Bad` if a point (n, 2) is more than 1 px outside an image of `size`."""
    height, width = size
    outside = (ring < -1).any(axis=1) | (ring[:, 0] > width + 1) | (ring[:, 1] > height + 1)
    if outside.any():
        index = int(np.flatnonzero(outside)[0])
        x, y = ring[index]
        raise Bad(
            f"{place}[{index}]",
            f"point ({x:.6g}, {y:.6g}) is outside the image of {width} x {height} px",
            "move it into the image, or draw this region again",
            "outside image",
        )


def base64_bytes(value: object, place: str, most: int) -> bytes:
    """Return what base64 text holds, at most `most` bytes. Raises `Bad`."""
    if not isinstance(value, str):
        raise Bad(place, f"is {kind_of(value)}, not base64 text", "draw this region again")
    if len(value) > most * 4 // 3 + 1024:
        raise Bad(place, "holds more data than its bitmap can need", "draw this region again")
    try:
        return base64.b64decode(value, validate=False)
    except (binascii.Error, ValueError):
        raise Bad(place, "is not base64 text", "draw this region again") from None


def inflated(data: bytes, place: str, most: int) -> bytes:
    """Return what zlib data hold, at most `most` bytes. Raises `Bad`."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most)
    except zlib.error:
        raise Bad(place, "holds no zlib data", "draw this region again") from None
    if stream.unconsumed_tail:
        raise Bad(place, "holds more data than its bitmap can need", "draw this region again")
    return content


def most_bytes(size: tuple[int, int]) -> int:
    """Return how many bytes a PNG of at most this size, (height, width), can need.

    Four channels of eight bits, and a tenth more for data that cannot be compressed.
    """
    return min(int((size[0] + 1) * (size[1] + 1) * 4.4), 5 * MAX_BITMAP) + 65536


def png_bitmap(data: bytes, place: str, most: tuple[int, int]) -> np.ndarray:
    """Return a PNG as bool (h, w): where it is opaque if it has transparency, else not black.

    Raises `Bad` if it is damaged; and before it is decoded, if it is larger than `most`, (height,
    width), or than `MAX_BITMAP`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            area = picture.height * picture.width
            if picture.height > most[0] or picture.width > most[1] or area > MAX_BITMAP:
                raise Bad(
                    place,
                    f"its bitmap of {picture.width} x {picture.height} px is larger than "
                    f"{most[1]} x {most[0]} px, or than {MAX_BITMAP >> 20} million px",
                    "draw this region again",
                )
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                return np.asarray(picture.convert("RGBA"))[..., 3] > 0
            values = np.asarray(picture)
    except BITMAP_ERRORS:
        raise Bad(place, "holds no PNG that can be decoded", "draw this region again") from None
    return np.asarray(values != 0 if values.ndim == 2 else values.any(axis=2))


def cut(bitmap: np.ndarray, offset: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a bitmap, bool (h, w), cut to its labelled part, and the offset (x, y) of that."""
    rows, columns = np.any(bitmap, axis=1), np.any(bitmap, axis=0)
    if not rows.any():
        return np.zeros((0, 0), bool), offset
    top, bottom = _extent(rows)
    left, right = _extent(columns)
    # a copy, so that the rest can be freed
    return bitmap[top:bottom, left:right].copy(), (offset[0] + left, offset[1] + top)


def _extent(filled: np.ndarray) -> tuple[int, int]:
    return int(filled.argmax()), len(filled) - int(filled[::-1].argmax())


class Budget:
    """The memory that an image's bitmaps may take together."""

    def __init__(self) -> None:
        self.left = MAX_BITMAPS

    def take(self, count: int, place: str) -> None:
        """Count the px of a bitmap. Raises `Bad` when all are too large together."""
        self.left -= count
        if self.left < 0:
            raise Bad(
                place,
                f"the bitmaps of this image hold more than {MAX_BITMAPS >> 20} million px",
                "merge the regions of each class",
            )

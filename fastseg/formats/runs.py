"""Run lengths of COCO: lists of numbers, or the compressed text of pycocotools.

They are decoded here, not by pycocotools: files may be malicious, and every number is checked
before memory is taken for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

# Characters of compressed run lengths: 48 + five bits of a number, 32 if more follow; see
# rleToString in pycocotools. Numbers of more characters than this do not fit into 64 bits.
BASE, BITS, MORE, MAX_CHARACTERS = 48, 5, 32, 12
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow reads no larger images


def encoded_rle(pixels: np.ndarray) -> dict[str, Any]:
    """Return the compressed run lengths of pixels, bool (H, W), as {"size": [H, W], "counts"}."""
    from pycocotools import mask as coco_mask

    found: Any = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": list(pixels.shape), "counts": found["counts"].decode("ascii")}


class WrongError(ValueError):
    """An entry that cannot be used: what is wrong, what to do, and where below the entry."""

    def __init__(
        self,
        detail: str,
        remedy: str = "correct or remove it",
        place: str = "",
        kind: str = "label file",
    ):
        super().__init__(detail)
        self.detail, self.remedy, self.place, self.kind = detail, remedy, place, kind


def packed_rle(value: dict[str, Any]) -> tuple[int, int, bytes | str]:
    """Return (height, width, run lengths), int64 bytes or compressed text.

    Raises `WrongError` for anything but run lengths.
    """
    size, counts = value.get("size"), value.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 1 <= side < 2**31 for side in size)
    ):
        raise WrongError("is not [height, width] in px", place=".segmentation.size")
    place = ".segmentation.counts"
    if isinstance(counts, str):
        return size[0], size[1], counts
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise WrongError("is neither a list of whole numbers nor text", place=place)
    try:
        return size[0], size[1], np.array(counts, dtype=np.int64).tobytes()
    except OverflowError:
        raise WrongError("has a run that is longer than the image", place=place) from None


def unpacked_rle(
    packed: tuple[int, int, bytes | str], expected: tuple[int, int] | None
) -> tuple[tuple[int, int], np.ndarray, tuple[int, int]]:
    """Return the size, (height, width), of run lengths, and their pixels, cut to those that are
    set, as bool (h, w) with the offset (x, y).

    Raises `WrongError` for run lengths that do not fit the size, or a size that is not `expected`.
    """
    height, width, runs = packed
    size = height, width
    if expected is not None and size != expected:
        raise WrongError(
            f"is of {width} x {height} px, but its image of {expected[1]} x {expected[0]} px",
            place=".segmentation.size",
        )
    if height * width > MAX_PIXELS:
        raise WrongError(f"is of {width} x {height} px", place=".segmentation.size")
    counts = decoded_runs(runs) if isinstance(runs, str) else np.frombuffer(runs, dtype=np.int64)
    # no run may be longer than the image, so that the sum cannot overflow
    is_within = ((counts >= 0) & (counts <= height * width)).all()
    if not is_within or int(counts.sum()) != height * width:
        raise WrongError(
            f"does not add up to the {height * width} px of its image", place=".segmentation.counts"
        )
    return size, *cut_bitmap(pixels_of_runs(counts, size))


def decoded_runs(text: str) -> np.ndarray:
    """Return the run lengths, int64 (n,), of the compressed text of pycocotools.

    Raises `WrongError` for other text.
    """
    place = ".segmentation.counts"
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - BASE
    except UnicodeEncodeError:
        raise WrongError("is not compressed run lengths", place=place) from None
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * MORE or codes[-1] & MORE:
        raise WrongError("is not compressed run lengths", place=place)
    ends = np.flatnonzero(codes & MORE == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise WrongError("has a run that is longer than the image", place=place)
    within = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & MORE - 1) << BITS * within, starts)
    is_negative = codes[ends] & MORE >> 1 != 0  # the highest bit is the sign
    values -= np.where(is_negative, np.int64(1) << BITS * lengths, 0)
    # from the fourth on, differences to the one before the previous one
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def pixels_of_runs(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W), of run lengths down the columns, which begin with unset."""
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T


def cut_bitmap(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the smallest part of a bitmap, bool (H, W), with all set pixels; its offset (x, y)."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return pixels[:0, :0], (0, 0)
    inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(inside), (int(columns[0]), int(rows[0]))

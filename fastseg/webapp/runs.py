"""Masks on their way to the browser and back, as runs of equal codes; see static/editor/runs.js.

PNG would do, but a browser reads it through a canvas, where colour management and alpha change
codes; runs of a 12-megapixel mask are some hundred kilobytes.
"""

from __future__ import annotations

import struct

import numpy as np

from ..errors import AppError

RUNS, PLAIN = b"FSR1", b"FSP1"


def encode(codes: np.ndarray) -> bytes:
    """Return codes, uint8 (H, W), as bytes."""
    height, width = codes.shape
    flat = np.ascontiguousarray(codes).reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    if 5 * ends.size + 4 > flat.size:
        return PLAIN + struct.pack("<II", height, width) + flat.tobytes()
    lengths = np.diff(ends, prepend=0).astype("<u4")
    head = struct.pack("<III", height, width, ends.size)
    return RUNS + head + lengths.tobytes() + flat[ends - 1].tobytes()


def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return the codes, uint8 (H, W), of bytes that the editor sent for an image of `size`.

    Raises `AppError` for damaged bytes and for another size: no more than `size` is allocated.
    """
    damaged = AppError("the mask is damaged; reload the page", "bad-request")
    if len(data) < 12 or data[:4] not in (RUNS, PLAIN):
        raise damaged
    found = struct.unpack_from("<II", data, 4)
    if found != tuple(size):
        raise AppError(
            f"the mask is {found[1]} x {found[0]} px and the image {size[1]} x {size[0]}; "
            "reload the page",
            "mask-size",
        )
    pixels = size[0] * size[1]
    if data[:4] == PLAIN:
        if len(data) != 12 + pixels:
            raise damaged
        return np.frombuffer(data, np.uint8, offset=12).reshape(size).copy()
    count = struct.unpack_from("<I", data, 12)[0] if len(data) >= 16 else 0
    if len(data) != 16 + 5 * count or count > pixels:
        raise damaged
    lengths = np.frombuffer(data, "<u4", count, 16)
    if int(lengths.sum(dtype=np.uint64)) != pixels:
        raise damaged
    return np.repeat(np.frombuffer(data, np.uint8, count, 16 + 4 * count), lengths).reshape(size)


def rows_of(mask: np.ndarray) -> list[int]:
    """Return a mask, bool (H, W), as a flat list of y, first x, x after the last one."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    y, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return np.stack([y, starts, ends], axis=1).reshape(-1).tolist()

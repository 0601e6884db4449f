"""How images look: perceptual hashes that are nearly equal for pictures that look the same."""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

HASH_SIDE = 16  # of a perceptual hash of 16 x 16 bits
PICTURE_SIDE = 4 * HASH_SIDE  # px of the grey picture that is hashed
# Two hashes (256 bits) that differ in at most this many bits are of one picture, perhaps re-saved.
# A convention; scripts/planting.py measures how many faults it finds and how often it is wrong.
MAX_HASH_DISTANCE = 10


def look_of(pixels: np.ndarray) -> str:
    """Return the perceptual hash of a picture, uint8 (H, W, 3), in hexadecimal."""
    return _hash(Image.fromarray(pixels))


def views_of(pixels: np.ndarray) -> list[str]:
    """Return the perceptual hashes of a picture, uint8 (H, W, 3), in the 8 ways to lay it down.

    The first one is `look_of` it; then it is mirrored, rotated by quarter turns, and both.
    """
    grey = Image.fromarray(pixels).convert("L")
    small = grey.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    laid = [small, small.transpose(Image.Transpose.TRANSPOSE)]
    turned = [view for one in laid for view in (one, one.transpose(Image.Transpose.ROTATE_180))]
    mirrored = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in turned]
    return [_hash(view) for view in (*turned, *mirrored)]


def _hash(picture: Image.Image) -> str:
    return str(imagehash.phash(picture, hash_size=HASH_SIDE))


def bits_of(looks: Sequence[str]) -> np.ndarray:
    """Return hashes as bytes, uint8 (N, 32)."""
    joined = bytes.fromhex("".join(looks))
    return np.frombuffer(joined, np.uint8).reshape(len(looks), HASH_SIDE**2 // 8)


def distances(bits: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return in how many bits hashes, uint8 (N, 32), differ from one, uint8 (32,)."""
    different = bits ^ one
    if hasattr(np, "bitwise_count"):  # numpy 2: several times as quick
        return np.bitwise_count(different.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return np.unpackbits(different, axis=1).sum(axis=1)

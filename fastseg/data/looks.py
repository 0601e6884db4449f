"""How images look: perceptual hashes that are nearly equal for pictures that look the same."""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

HASH_SIDE = 16  # of a perceptual hash of 16 x 16 bits
# Two hashes (256 bits) that differ in at most this many bits are of one picture, perhaps re-saved.
# A convention; scripts/planting.py measures how many faults it finds and how often it is wrong.
MAX_HASH_DISTANCE = 10


def look_of(pixels: np.ndarray) -> str:
    """Return the perceptual hash of a picture, uint8 (H, W, 3), in hexadecimal."""
    return str(imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIDE))


def bits_of(looks: Sequence[str]) -> np.ndarray:
    """Return hashes as bytes, uint8 (N, 32)."""
    joined = bytes.fromhex("".join(looks))
    return np.frombuffer(joined, np.uint8).reshape(len(looks), HASH_SIDE**2 // 8)


def distances(bits: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return in how many bits hashes, uint8 (N, 32), differ from one, uint8 (32,)."""
    return np.unpackbits(bits ^ one, axis=1).sum(axis=1)

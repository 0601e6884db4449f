"""Whether image files look like masks: large areas of one value, few values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.decoding import is_lossy
from ..data.images import read_raw
from ..data.slices import is_nifti
from ..errors import DataError

SAMPLE = 5  # files of a folder that are looked at
WINDOW = 768  # px in the middle of an image
# Conventions, between photographs (at most 0.6, few of them more) and masks (at least 0.9)
FLAT = 0.8
MAX_VALUES = 300  # a mask has fewer colours, but for blended edges
PEAKS, PEAK_WIDTH, PEAK_SHARE = 4, 16, 0.97  # of greys in JPEG masks


def spaced(files: Sequence[Path], most: int) -> list[Path]:
    """Return up to `most` of the files, evenly spaced."""
    if len(files) <= most:
        return list(files)
    step = (len(files) - 1) / (most - 1)
    return [files[round(i * step)] for i in range(most)]


def with_slices(files: Sequence[Path]) -> list[Path]:
    """Return the files, with volumes as their slices. Volumes that cannot be read are left out."""
    if not any(map(is_nifti, files)):
        return list(files)
    from ..data.medical import slices_of

    found: list[Path] = []
    for file in files:
        try:
            found += slices_of(file)
        except DataError:
            continue  # listing the items names it
    return found


def mask_share(files: Sequence[Path]) -> float:
    """Return the share, 0 to 1, of a sample of image files that look like masks.

    Files that cannot be read count as neither.
    """
    found = [
        like for file in spaced(with_slices(files), SAMPLE) if (like := _is_mask(file)) is not None
    ]
    return sum(found) / len(found) if found else 0.0


@lru_cache(maxsize=4096)
def _is_mask(file: Path) -> bool | None:
    try:
        values = read_raw(file)
    except DataError:
        return None
    top, left = (max(0, (side - WINDOW) // 2) for side in values.shape[:2])
    part = values[top : top + WINDOW, left : left + WINDOW].astype(np.int32)
    packed = part if part.ndim == 2 else part[..., 0] << 16 | part[..., 1] << 8 | part[..., -1]
    if is_lossy(file):
        return _is_lossy_mask(part if part.ndim == 2 else part[..., :3].mean(axis=2).astype(int))
    flat = float((packed[:, 1:] == packed[:, :-1]).mean()) if packed.shape[1] > 1 else 1.0
    return flat >= FLAT and len(np.unique(packed)) <= MAX_VALUES


def _is_lossy_mask(grey: np.ndarray) -> bool:
    """Return whether greys gather around a few values, with wide areas of each."""
    counts = np.bincount(grey.reshape(-1).clip(0, 255), minlength=256)
    left, near = counts.copy(), 0
    for _ in range(PEAKS):
        peak = int(left.argmax())
        around = slice(max(0, peak - PEAK_WIDTH // 2), peak + PEAK_WIDTH // 2 + 1)
        near += int(left[around].sum())
        left[around] = 0
        if near >= PEAK_SHARE * counts.sum():
            break
    else:
        return False
    close = np.abs(np.diff(grey, axis=1)) <= 2
    return float(close.mean()) >= FLAT

"""What is measured: images, which an export predicts, or masks, which are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.decoding import is_lossy
from ..data.images import read_raw
from ..errors import DataError
from ..tasks import SegmentationTask

LOOKED_AT = 5  # files, evenly spaced, that say whether all are masks
FEW_VALUES = 64  # of a mask; photographs have more, but for very small ones
# Levels within which a pixel of a JPEG has a colour of its mask, and the share of such pixels: less
# in colours, whose edges JPEG blurs. Conventions.
NEAR, NEARLY_ALL, MOSTLY = 32, 0.99, 0.9


def are_masks(task: SegmentationTask, files: Sequence[Path]) -> bool:
    """Return whether files are masks of a task, by its decoding of some of them.

    Raises `DataError` if that cannot be said, as of black pictures alone.
    """
    step = max(1, len(files) // LOOKED_AT)
    votes = {vote for file in files[::step] if (vote := _is_mask(task, file)) is not None}
    if len(votes) == 1:
        return votes.pop()
    what = "some of these files are masks, and some images" if votes else "images or masks?"
    raise DataError(
        f"{files[0]}: {what}; say which they are with --images or --masks", "images-or-masks"
    )


def _is_mask(task: SegmentationTask, file: Path) -> bool | None:
    """Return whether a file is a mask; None for one that may be either.

    A file of few values is a mask even if the task gives these no meaning: reading it as a mask
    then says so, where a prediction would be of a picture that nobody meant.
    """
    try:
        values = read_raw(file)
    except DataError:  # of several channels, or damaged: reading it as an image says so
        return False
    colours = values[..., :3] if values.ndim == 3 else values[..., None]
    if (colours == colours[:1, :1]).all():
        return None
    if task.masks == "threshold":
        grey = colours[..., 0]
        ends = (grey < NEAR) | (grey > 255 - NEAR)
        spread = np.ptp(colours.astype(int), axis=2).max()
        return bool(ends.mean() >= NEARLY_ALL and spread < NEAR)
    if not is_lossy(file) and _has_few(colours):
        return True
    if task.masks != "colours" or colours.shape[2] != 3:
        return False
    palette = np.array([*task.palette, *(c for c in task.codes if isinstance(c, tuple))])
    distance = np.abs(colours[:, :, None].astype(int) - palette).max(axis=3).min(axis=2)
    return bool((distance < NEAR).mean() >= MOSTLY)


def _has_few(colours: np.ndarray) -> bool:
    return len(np.unique(colours.reshape(-1, colours.shape[2]), axis=0)) <= FEW_VALUES


def require_size(mask: Path | str, codes: np.ndarray, predicted: np.ndarray) -> None:
    """Raise `DataError` unless a mask's codes (H, W) are of the size of its prediction."""
    if codes.shape != predicted.shape:
        raise DataError(
            f"{mask}: the mask is not of its image's size; "
            f"export it at {predicted.shape[1]}x{predicted.shape[0]}",
            "size-mismatch",
        )

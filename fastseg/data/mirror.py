"""The mirror image, for augmentation and for predictions averaged over both."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

ArrayT = TypeVar("ArrayT")  # np.ndarray or torch.Tensor


def mirrored(x: ArrayT, shift: int = 0) -> ArrayT:
    """Return an array or tensor with its last axis mirrored, moved `shift` places to the right.

    A negative shift moves it to the left. Empty places repeat the edge. Mirroring twice
    with the same shift gives `x` again, except at its edge.
    """
    width: int = x.shape[-1]  # type: ignore[attr-defined]
    places = width - 1 - np.clip(np.arange(width) - shift, 0, width - 1)
    return x[..., places]  # type: ignore[index]

"""The mirror image, for augmentation and for predictions averaged over both."""

from __future__ import annotations

import torch


def mirrored(x: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """Return `x` with its last axis mirrored, moved `shift` places to the right.

    A negative shift moves it to the left. Empty places repeat the edge. Mirroring twice
    with the same shift gives `x` again, except at its edge.
    """
    x = x.flip(-1)
    if not shift:
        return x
    edge = -1 if shift < 0 else 0
    filling = x[..., edge, None].expand(*x.shape[:-1], abs(shift))
    return torch.cat([filling, x[..., :-shift]] if shift > 0 else [x[..., -shift:], filling], -1)

"""Views of an image that a prediction can be averaged over, with their exact inverses."""

from __future__ import annotations

import torch


def mirrored(x: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """Mirror the last axis and move the result `shift` places to the right (left where negative), its rim repeated.

    Mirroring twice with one shift gives back all but the rim: the map is its own inverse.
    """
    x = x.flip(-1)
    if not shift:
        return x
    rim = (0, -1)[shift < 0]
    filling = x[..., rim, None].expand(*x.shape[:-1], abs(shift))
    return torch.cat([filling, x[..., :-shift]] if shift > 0 else [x[..., -shift:], filling], -1)

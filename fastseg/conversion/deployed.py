"""The network as one module of torch, from an image of any size to class codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..exports.card import Card
from ..models.network import Network


class Deployed(torch.nn.Module):
    """What `conversion.graph` does in ONNX: resizing, normalisation, network, class codes.

    Input "images", uint8 (N, H, W, C); outputs codes, uint8 (N, H, W) or (N,), and logits,
    float32 (N, classes, h, w) or (N, classes).
    """

    def __init__(self, network: Network, card: Card):
        super().__init__()
        network.precision = "float32"
        self.network = network.eval()
        self.size, self.resize = (card.size[0], card.size[1]), card.resize
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1) * 255)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes and the logits of images."""
        logits = self.logits(self.resized(images.permute(0, 3, 1, 2).float()))
        scores = logits
        if self.network.spec.has_masks:
            size = images.shape[1:3]
            scores = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return scores.argmax(1).to(torch.uint8), logits

    def logits(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the logits of `planes`, 0 to 255, float32 (N, C, h, w) at the card's size."""
        return self.network((planes - self.mean) / self.std)

    def resized(self, planes: torch.Tensor) -> torch.Tensor:
        """Return `planes`, float32 (N, C, H, W), at the card's size, as whole numbers.

        See `conversion.graph` for why it multiplies by matrices.
        """
        matrix = _weights if self.resize == "squish" else _selection
        down, across = (
            matrix(have, want, planes.device) for have, want in zip(planes.shape[2:], self.size)
        )
        halfway = (planes @ across.T + 0.5).floor()
        return (down @ halfway + 0.5).floor()


def _weights(have: int, want: int, device: torch.device) -> torch.Tensor:
    """Return the weight of each of `have` pixels in each of `want`, float32 (want, have)."""
    centres = (torch.arange(want, device=device)[:, None] + 0.5) * (have / want)
    places = torch.arange(have, device=device) + 0.5
    reduction = torch.sym_max(have / want, 1.0)
    heights = (1 - (places - centres).abs() / reduction).clamp_min(0)
    return heights / heights.sum(1, keepdim=True)


def _selection(have: int, want: int, device: torch.device) -> torch.Tensor:
    """Return 1 where one of `have` pixels becomes one of `want` around the centre, else 0."""
    wanted = torch.arange(want, device=device)[:, None] + (have - want) // 2
    return (torch.arange(have, device=device) == wanted).float()

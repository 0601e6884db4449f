"""Random flips, affine maps and light, on whole batches: one exact flip and at most one resampling an image."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage, TensorMask
from fastai.vision.augment import RandTransform

from .masks import IGNORE


class Augment(RandTransform):
    """Augment training batches: images float (B, 3, H, W) from 0 to 1, masks int64 (B, H, W), alike.

    `rotate` is in degrees; `zoom` and `light` are shares: scales from 1 - zoom to 1 + zoom, brightness and contrast
    likewise. Flips are exact (no resampling); where `rotate` and `zoom` are 0 nothing is resampled at all.
    """

    split_idx, order = 0, 20

    def __init__(self, flip: bool = True, rotate: float = 0.0, zoom: float = 0.0, light: float = 0.0):
        super().__init__(p=1.0)
        self.flip, self.rotate, self.zoom, self.light = flip, rotate, zoom, light

    def before_call(self, b, split_idx: int) -> None:
        self.do = True
        x = b[0] if isinstance(b, tuple) else b
        count, device = len(x), x.device

        def uniform(limit: float) -> torch.Tensor:
            return (torch.rand(count, device=device) * 2 - 1) * limit

        self.flipped = torch.rand(count, device=device) < (0.5 if self.flip else 0.0)
        self.brightness, self.contrast = uniform(self.light), 1 + uniform(self.light)
        self.grid = None
        if self.rotate or self.zoom:
            height, width = x.shape[-2:]
            angle, scale = uniform(math.radians(self.rotate)), 1 / (1 + uniform(self.zoom))
            shift = (torch.rand(count, 2, device=device) - 0.5) * self.zoom
            cos, sin, aspect = angle.cos() * scale, angle.sin() * scale, height / width
            theta = torch.stack([torch.stack([cos, -sin * aspect, shift[:, 0]], 1),
                                 torch.stack([sin / aspect, cos, shift[:, 1]], 1)], 1)
            self.grid = F.affine_grid(theta, (count, 1, height, width), align_corners=False)

    def encodes(self, x: TensorImage):
        pixels = self._flip(x.as_subclass(torch.Tensor))
        if self.grid is not None:
            pixels = F.grid_sample(pixels, self.grid.to(pixels.dtype), mode="bilinear", padding_mode="reflection",
                                   align_corners=False)
        if self.light:
            mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
            pixels = (pixels - mean) * self.contrast.view(-1, 1, 1, 1) + mean + self.brightness.view(-1, 1, 1, 1)
            pixels = pixels.clamp(0, 1)
        return TensorImage(pixels)

    def encodes(self, x: TensorMask):  # noqa: F811 - fastai dispatches on the annotation
        codes = self._flip(x.as_subclass(torch.Tensor))
        if self.grid is not None:  # beyond the border nothing is known: unlabelled, not reflected
            shifted = (codes.float() - IGNORE)[:, None]
            codes = F.grid_sample(shifted, self.grid, mode="nearest", padding_mode="zeros", align_corners=False)
            codes = (codes[:, 0] + IGNORE).round().long()
        return TensorMask(codes)

    def _flip(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.flipped.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)

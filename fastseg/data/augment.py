"""Augmentation of batches: an exact flip, at most one resampling, light, colour, blur."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from fastai.torch_core import TensorCategory, TensorImage, TensorMask
from fastai.vision.augment import RandTransform

from ..types import IGNORE, Recipe
from .mirror import mirrored
from .reading import RGB

KERNEL_SIGMAS = 4  # radius of a Gaussian's kernel; 0.006 % of its weight is outside


class Augment(RandTransform):
    """Augment training batches: images float (B, C, H, W) from 0 to 1, masks int64 (B, H, W).

    `rotate` is in degrees. `zoom` and `light` are shares: scales from 1 - zoom to 1 + zoom, and
    brightness and contrast likewise. `colour` is the same for saturation, which only RGB images
    have, and, half of it, for each channel (white balance). Flips are exact; where `rotate` and
    `zoom` are 0, nothing is resampled.
    A mirrored mask moves `flip_shift` px to the right (see `Recipe`).
    `cutout` is the side of a grey box laid over the image, as a share of the image's side
    (arXiv:1708.04552); the mask keeps its classes there. Where sharpness is the label, `blur_share`
    of the images are blurred by a Gaussian of a sigma drawn from `blur_sigma`, in px, and labelled
    `blur_class`.
    """

    split_idx, order = 0, 20

    def __init__(
        self,
        flip: bool = True,
        rotate: float = 0.0,
        zoom: float = 0.0,
        light: float = 0.0,
        colour: float = 0.0,
        flip_shift: int = 0,
        cutout: float = 0.0,
        blur_share: float = 0.0,
        blur_sigma: tuple[float, float] = (0.4, 2.0),
        blur_class: int = 0,
    ):
        super().__init__(p=1.0)
        self.blur_share, self.blur_sigma, self.blur_class = blur_share, blur_sigma, blur_class
        self.flip, self.rotate, self.zoom, self.light, self.colour = (
            flip,
            rotate,
            zoom,
            light,
            colour,
        )
        self.flip_shift, self.cutout = flip_shift, cutout

    @classmethod
    def of(cls, recipe: Recipe) -> Augment:
        """Return the augmentation of a recipe."""
        return cls(
            recipe.flip,
            recipe.rotate,
            recipe.zoom,
            recipe.light,
            recipe.colour,
            recipe.flip_shift,
            recipe.cutout,
            recipe.blur_share,
            recipe.blur_sigma,
            recipe.blur_class,
        )

    def before_call(self, b: Any, split_idx: int) -> None:
        """Draw the changes of a batch; fastai calls this once before images and masks."""
        self.do = True
        x = b[0] if isinstance(b, tuple) else b
        count, device, (height, width) = len(x), x.device, x.shape[-2:]

        def uniform(limit: float) -> torch.Tensor:
            return (torch.rand(count, device=device) * 2 - 1) * limit

        self.flipped = torch.rand(count, device=device) < (0.5 if self.flip else 0.0)
        self.brightness, self.contrast = uniform(self.light), 1 + uniform(self.light)
        self.saturation = 1 + uniform(self.colour)
        self.gains = 1 + (torch.rand(count, x.shape[1], device=device) - 0.5) * self.colour
        self.blurred = torch.rand(count, device=device) < self.blur_share
        self.sigma = torch.empty(count, device=device).uniform_(*self.blur_sigma)
        self.grid = self.box = None
        if self.rotate or self.zoom:
            angle, scale = uniform(math.radians(self.rotate)), 1 / (1 + uniform(self.zoom))
            shift = (torch.rand(count, 2, device=device) - 0.5) * self.zoom
            cos, sin, aspect = angle.cos() * scale, angle.sin() * scale, height / width
            theta = torch.stack(
                [
                    torch.stack([cos, -sin * aspect, shift[:, 0]], 1),
                    torch.stack([sin / aspect, cos, shift[:, 1]], 1),
                ],
                1,
            )
            self.grid = F.affine_grid(theta, (count, 1, height, width), align_corners=False)
        if self.cutout:
            rows = (
                torch.arange(height, device=device) / height
                - torch.rand(count, 1, device=device) * (1 + self.cutout)
                + self.cutout
            )
            columns = (
                torch.arange(width, device=device) / width
                - torch.rand(count, 1, device=device) * (1 + self.cutout)
                + self.cutout
            )
            inside = [(places >= 0) & (places < self.cutout) for places in (rows, columns)]
            self.box = (inside[0][:, :, None] & inside[1][:, None])[:, None]

    # fastai selects one by the annotation of `x`; a return annotation would convert the result.
    def encodes(self, x: TensorImage):  # type: ignore[no-untyped-def]
        pixels = self._flip(x.as_subclass(torch.Tensor))
        if self.grid is not None:
            pixels = F.grid_sample(
                pixels,
                self.grid.to(pixels.dtype),
                mode="bilinear",
                padding_mode="reflection",
                align_corners=False,
            )
        if self.blur_share:
            pixels = torch.where(self.blurred.view(-1, 1, 1, 1), blur(pixels, self.sigma), pixels)
        if self.colour:
            if pixels.shape[1] == RGB:
                grey = pixels.mean(dim=1, keepdim=True)
                pixels = (pixels - grey) * self.saturation.view(-1, 1, 1, 1) + grey
            pixels = pixels * self.gains[:, :, None, None]
        if self.light:
            mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
            pixels = (
                (pixels - mean) * self.contrast.view(-1, 1, 1, 1)
                + mean
                + self.brightness.view(-1, 1, 1, 1)
            )
        if self.colour or self.light:
            pixels = pixels.clamp(0, 1)
        if self.box is not None:
            pixels = torch.where(self.box, pixels.new_tensor(0.5), pixels)
        return TensorImage(pixels)

    def encodes(self, x: TensorMask):  # type: ignore[no-untyped-def,no-redef]  # noqa: F811
        codes = self._flip(x.as_subclass(torch.Tensor), self.flip_shift)
        if self.grid is not None:
            # Pad masks with 255 (unlabelled): subtract 255, pad with 0, add 255.
            shifted = (codes.float() - IGNORE)[:, None]
            codes = F.grid_sample(
                shifted, self.grid, mode="nearest", padding_mode="zeros", align_corners=False
            )
            codes = (codes[:, 0] + IGNORE).round().long()
        return TensorMask(codes)

    def encodes(self, x: TensorCategory):  # type: ignore[no-untyped-def,no-redef]  # noqa: F811
        if not self.blur_share:
            return x
        return TensorCategory(
            torch.where(self.blurred, self.blur_class, x.as_subclass(torch.Tensor))
        )

    def _flip(self, x: torch.Tensor, shift: int = 0) -> torch.Tensor:
        return torch.where(self.flipped.view(-1, *[1] * (x.ndim - 1)), mirrored(x, shift), x)


def blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return a batch, float (B, C, H, W), blurred by Gaussians of sigmas, float (B,), in px."""
    count, channels, height, width = x.shape
    radius = max(1, math.ceil(KERNEL_SIGMAS * float(sigma.max())))
    places = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = (-0.5 * (places / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    x = F.pad(x, (radius,) * 4, mode="replicate").reshape(
        1, count * channels, height + 2 * radius, width + 2 * radius
    )
    x = F.conv2d(x, kernel[..., None], groups=count * channels)
    return F.conv2d(x, kernel[..., None, :], groups=count * channels).view(
        count, channels, height, width
    )

"""Augmentation of batches: an exact flip, at most one resampling, light, colour, blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorCategory, TensorImage, TensorMask
from fastai.vision.augment import RandTransform

from ..types import IGNORE, Recipe
from .mirror import mirrored
from .reading import RGB

KERNEL_SIGMAS = 4  # radius of a Gaussian's kernel; 0.006 % of its weight is outside
DRAWS = 12  # random numbers of an image, and one more for each of its channels
Seed = tuple[int, ...]


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

    What is drawn for an image depends on its own seed alone, which the loader gives by `expect`:
    not on the batch that it is in, nor on the process that trains on it. Without seeds, they are
    drawn by torch.
    """

    split_idx, order = 0, 20
    seeds: list[list[Seed]] | None = None  # of the images of the coming batches

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "seeds"}

    def expect(self, seeds: Sequence[Sequence[Seed]]) -> None:
        """Draw for the coming batches by these seeds, one for each image."""
        self.seeds = [list(batch) for batch in reversed(seeds)]

    def _uniform(self, count: int, draws: int) -> torch.Tensor:
        """Return random numbers from 0 to 1, float32 (count, draws), for each image of a batch."""
        seeds = self.seeds.pop() if self.seeds else []
        if len(seeds) != count:
            seeds = [(seed,) for seed in torch.randint(2**62, (count,)).tolist()]
        return torch.from_numpy(
            np.stack([np.random.default_rng(seed).random(draws, np.float32) for seed in seeds])
        )

    def before_call(self, b: Any, split_idx: int) -> None:
        """Draw the changes of a batch; fastai calls this once before images and masks."""
        self.do = True
        x = b[0] if isinstance(b, tuple) else b
        count, device, (height, width) = len(x), x.device, x.shape[-2:]
        drawn = self._uniform(count, DRAWS + x.shape[1]).to(device)
        mirror, bright, contrast, saturation, blurred, sigma, angle, scale = drawn[:, :8].unbind(1)
        shift, corner, gains = drawn[:, 8:10], drawn[:, 10:12], drawn[:, 12:]

        def around_zero(share: torch.Tensor, limit: float) -> torch.Tensor:
            return (share * 2 - 1) * limit

        self.flipped = mirror < (0.5 if self.flip else 0.0)
        self.brightness = around_zero(bright, self.light)
        self.contrast = 1 + around_zero(contrast, self.light)
        self.saturation = 1 + around_zero(saturation, self.colour)
        self.gains = 1 + (gains - 0.5) * self.colour
        self.blurred = blurred < self.blur_share
        low, high = self.blur_sigma
        self.sigma = low + (high - low) * sigma
        self.grid = self.box = None
        if self.rotate or self.zoom:
            angle = around_zero(angle, math.radians(self.rotate))
            scale = 1 / (1 + around_zero(scale, self.zoom))
            shift = (shift - 0.5) * self.zoom
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
            inside = [
                self._inside_box(side, corner[:, axis : axis + 1])
                for axis, side in enumerate((height, width))
            ]
            self.box = (inside[0][:, :, None] & inside[1][:, None])[:, None]

    def _inside_box(self, side: int, corner: torch.Tensor) -> torch.Tensor:
        """Return which rows, or columns, of `side` px are in the grey box, bool (B, side)."""
        places = torch.arange(side, device=corner.device) / side
        places = places - corner * (1 + self.cutout) + self.cutout
        return (places >= 0) & (places < self.cutout)

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
            # One kernel size for all: a result must not depend on the other images of a batch.
            soft = blur(pixels, self.sigma, self.blur_sigma[1])
            pixels = torch.where(self.blurred.view(-1, 1, 1, 1), soft, pixels)
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


def blur(x: torch.Tensor, sigma: torch.Tensor, largest: float | None = None) -> torch.Tensor:
    """Return a batch, float (B, C, H, W), blurred by Gaussians of sigmas, float (B,), in px.

    The kernels are cut where one of the sigma `largest` is (default: of the largest in the batch).
    """
    count, channels, height, width = x.shape
    largest = float(sigma.max()) if largest is None else largest
    radius = max(1, math.ceil(KERNEL_SIGMAS * largest))
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

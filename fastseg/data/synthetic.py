"""Shapes and textures for drawing synthetic samples: masks and weights as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]  # (height, width) in px
Point = Sequence[float] | np.ndarray  # (x, y) in px


def grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel coordinates (x, y), each float32 (H, W)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return x, y


def ellipse(size: Size, centre: Point, radii: Point, angle: float = 0.0) -> np.ndarray:
    """Return a filled ellipse, bool (H, W).

    `centre` and `radii` are (x, y) in px, `angle` is in radians.
    """
    return radius(size, centre, radii, angle) <= 1


def radius(size: Size, centre: Point, radii: Point, angle: float = 0.0) -> np.ndarray:
    """Return each pixel's elliptic radius, float32 (H, W): 0 at `centre`, 1 on the ellipse."""
    x, y = grid(size)
    x, y = x - centre[0], y - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.hypot((x * cos + y * sin) / radii[0], (y * cos - x * sin) / radii[1])


def polygon(size: Size, points: Sequence[Point] | np.ndarray) -> np.ndarray:
    """Return a filled polygon, bool (H, W), through `points` (x, y) in px."""
    canvas = Image.new("1", size[::-1])
    ImageDraw.Draw(canvas).polygon([(float(px), float(py)) for px, py in points], fill=1)
    return np.array(canvas)


def bar(
    size: Size, start: np.ndarray, angle: float, near: float, far: float, half: float
) -> np.ndarray:
    """Return a straight bar, bool (H, W), 2 * `half` px wide.

    It reaches from `near` to `far` px from `start`, (x, y), along `angle`, in radians.
    """
    along, across = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    return polygon(
        size,
        [
            start + along * t + across * half * s
            for t, s in ((near, 1), (far, 1), (far, -1), (near, -1))
        ],
    )


def clouds(size: Size, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Return smooth noise, float32 (H, W) from 0 to 1, whose blotches are about `scale` px wide."""
    small = [max(2, int(side / scale) + 2) for side in size]
    noise = Image.fromarray((rng.random(small) * 255).astype(np.uint8)).resize(
        size[::-1], Image.Resampling.BICUBIC
    )
    return np.asarray(noise, dtype=np.float32) / 255


def mix(
    image: np.ndarray, colour: Sequence[float] | np.ndarray, weight: np.ndarray | float
) -> np.ndarray:
    """Blend `colour` into `image`, float (H, W, 3), by `weight`, (H, W) from 0 to 1."""
    weight = np.asarray(weight, dtype=np.float32)[..., None]
    return image * (1 - weight) + np.asarray(colour, dtype=np.float32) * weight


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return `image`, (H, W) or (H, W, 3) from 0 to 255, blurred by a Gaussian, as float32.

    `sigma` is in px.
    """
    pixels = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32)


def soften(mask: np.ndarray, sigma: float = 0.8) -> np.ndarray:
    """Return a mask, bool (H, W), as float32 from 0 to 1, its edges blurred by `sigma` px."""
    return blur(mask * np.uint8(255), sigma) / 255


def strokes(
    size: Size, lines: Sequence[tuple[Sequence[Point] | np.ndarray, float]], sigma: float = 0.6
) -> np.ndarray:
    """Return drawn lines as weights, float32 (H, W); each line is (points, width in px)."""
    canvas = Image.new("L", size[::-1])
    pen = ImageDraw.Draw(canvas)
    for points, width in lines:
        pen.line(
            [(float(px), float(py)) for px, py in points],
            fill=255,
            width=max(1, round(width)),
            joint="curve",
        )
    return blur(np.asarray(canvas), sigma) / 255


def grain(image: np.ndarray, rng: np.random.Generator, strength: float = 5.0) -> np.ndarray:
    """Add sensor noise of `strength` grey levels and return uint8."""
    noise = rng.normal(0, strength, image.shape[:2] + (1,) * (image.ndim - 2))
    return np.clip(image + noise, 0, 255).astype(np.uint8)

"""Coronal brain slices: is the slice sharp or blurred?"""
from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Drawing, Recipe
from .classification import ClassificationTask

if TYPE_CHECKING:
    import numpy as np


def draw(rng: np.random.Generator, label: int) -> Drawing:
    """Draw one slice, 121x121 grey: a folded cortex with ventricles; label 0 is blurred by 1.5 to 4 px."""
    import numpy as np

    from ..drawing import blur, clouds, ellipse, grid, radius
    size = 121, 121
    x, y = grid(size)
    centre = 60 + rng.uniform(-2, 2, 2)
    radii = rng.uniform(44, 50), rng.uniform(36, 42)
    head = radius(size, centre, radii)
    bend = 3.2 * (clouds(size, rng, 12) - 0.5) + 1.6 * (clouds(size, rng, 6) - 0.5)
    angle = np.arctan2(y - centre[1], x - centre[0])
    folds = np.sin(angle * rng.integers(17, 24) + 6 * bend + 14 * head) * np.clip((head - 0.45) * 2.4, 0, 1)
    cortex = np.exp(-((head - 0.88 - 0.07 * np.sin(angle * 18 + 4 * bend)) / 0.07) ** 2)
    ribbon = np.exp(-(folds / 0.33) ** 2) * np.clip((head - 0.5) * 3, 0, 1)
    image = 215 * np.maximum(cortex, ribbon) * (head < 1)
    middle = np.abs(x - centre[0] + 1.5 * bend)
    image *= 1 - np.exp(-((middle / 1.4) ** 2)) * (y < centre[1])
    for side in (-1, 1):
        ganglion = centre + (side * rng.uniform(14, 18), rng.uniform(4, 9))
        image = np.maximum(image, 190 * ellipse(size, ganglion, rng.uniform(5, 9, 2), side * 0.5))
        ventricle = centre + (side * rng.uniform(4, 6), rng.uniform(-9, -5))
        image[ellipse(size, ventricle, (rng.uniform(3, 5), rng.uniform(6, 9)), side * -0.5)] = 12
    image = blur(image * rng.uniform(0.85, 1.15), 0.45)
    if label == 0:
        image = blur(image, rng.uniform(1.5, 4.0))
    return np.clip(image + rng.normal(0, 1.5, size) * (head < 1.1), 0, 255).astype(np.uint8), label


task = ClassificationTask(
    name="mri",
    classes=("blurred", "sharp"),
    folders={"train": ("train",), "valid": ("validation", "valid", "val")},
    table="subjects.tsv",
    columns=("Subject", "Label"),
    # Sharpness is the label: nothing may resample, blur or relight a slice, so it is cropped or padded and only flipped.
    recipe=Recipe(size=(121, 121), resize="crop", rotate=0.0, zoom=0.0, light=0.0, loss="ce", epochs=6, bs=16),
    draw=draw,
    sample_splits={"train": 0.8, "valid": 0.2},
    sample_name="sub-OASIS1{:04d}",
)

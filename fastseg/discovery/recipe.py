"""A recipe that fits the data: each value with the reason for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..utils.text import counted
from .mask_values import Objects

# All of these are conventions, from the recipes of the built-in tasks.
LONG_SIDE = 320  # px of the longer side, if objects are large enough at that
LARGEST_SIDE = 1024  # px: larger inputs take minutes for an epoch on a CPU
LEAST_OBJECT = 10  # px that the smallest objects should have at the model's size
FINE_OBJECT = 12  # px: smaller objects need masks at full resolution, not at a quarter
MULTIPLE = 32  # of sides: backbones halve the size five times
SMALL_IMAGE = 32  # px: the smallest input
STEPS, CLASSIFY_STEPS = 1500, 600  # of training: images / batch size x epochs
LEAST_EPOCHS, MOST_EPOCHS = 5, 60
BATCH, LEAST_BATCH = 16, 2
BYTES_A_PIXEL = 1500  # of activations and their gradients, for each pixel of a batch, at stride 4
FINE_FACTOR = 3  # as many at full resolution
MEMORY_SHARE = 0.25  # of the memory that a batch may take
IMBALANCE = 100  # times as many pixels as the rarest class: then Dice counts as much
STRONG_IMBALANCE = 1000
IMAGE_IMBALANCE = 3  # times as many images as the rarest class
CLASSIFY_SIDE = 224  # px: the size of ImageNet's images


@dataclass
class Advice:
    """Values of a recipe, each with a comment that says why."""

    values: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, why: str) -> None:
        self.values[key], self.why[key] = value, why


def segmentation(
    sizes: Sequence[tuple[int, int]], objects: Objects, classes: Sequence[str], images: int
) -> Advice:
    """Return the recipe of a task with masks; `sizes` are (height, width) in px of images."""
    advice = Advice()
    height, width = _typical(sizes)
    smallest = min(objects.small.items(), key=lambda pair: pair[1], default=None)
    scale, why = _scale(height, width, smallest, classes)
    size = _side(height, scale), _side(width, scale)
    advice.set("size", list(size), why)
    factor = 1
    if smallest is not None and smallest[1] * scale < FINE_OBJECT:
        factor = FINE_FACTOR
        advice.set(
            "decoder_options",
            {"stride": 1, "channels": [128, 64, 32, 16, 16]},
            f"masks at full resolution: {classes[smallest[0]]} is about "
            f"{max(1, round(smallest[1] * scale))} px wide at this size",
        )
    _batch_and_epochs(advice, size, images, factor, STEPS)
    _loss(advice, objects, classes)
    _sides(advice, classes)
    return advice


def classification(
    sizes: Sequence[tuple[int, int]], counts: Mapping[str, int], classes: Sequence[str]
) -> Advice:
    """Return the recipe of a task without masks; `counts` are the images of each class."""
    advice = Advice()
    height, width = _typical(sizes)
    scale = min(1.0, CLASSIFY_SIDE / max(height, width))
    size = _side(height, scale), _side(width, scale)
    advice.set(
        "size",
        list(size),
        f"images are mostly {height} x {width} px (height x width)"
        + (f", reduced to a longer side of {CLASSIFY_SIDE} px" if scale < 1 else ""),
    )
    images = sum(counts.values())
    _batch_and_epochs(advice, size, images, 1, CLASSIFY_STEPS)
    least, most = min(counts.values(), default=1), max(counts.values(), default=1)
    if most > IMAGE_IMBALANCE * max(1, least):
        why = f"the commonest class has {most / max(1, least):.0f} times the images of the rarest"
        advice.set("loss", "wce", f"{why}: rare ones weigh more")
    else:
        advice.set("loss", "ce", "classes have similar numbers of images")
    _sides(advice, classes)
    return advice


def _typical(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the median height and width."""
    heights, widths = sorted(h for h, _ in sizes), sorted(w for _, w in sizes)
    return heights[len(heights) // 2], widths[len(widths) // 2]


def _scale(
    height: int, width: int, smallest: tuple[int, float] | None, classes: Sequence[str]
) -> tuple[float, str]:
    """Return the factor from the images' size to the model's, and why."""
    longer = max(height, width)
    scale = min(1.0, LONG_SIDE / longer)
    why = f"images are mostly {height} x {width} px (height x width)"
    if smallest is None:
        return scale, why
    name, side = classes[smallest[0]], smallest[1]
    needed = LEAST_OBJECT / max(side, 0.5)
    if scale < needed and scale < 1:
        scale = min(1.0, needed, max(LARGEST_SIDE / longer, scale))
    kept = f"the smallest objects ({name}) are {side:.0f} px wide, {side * scale:.0f} at this size"
    return scale, f"{why}; {kept}"


def _side(side: int, scale: float) -> int:
    """Return a side at the model's size: as it is, or a multiple of 32 where it is reduced."""
    if scale == 1:
        return max(SMALL_IMAGE, side)
    return max(SMALL_IMAGE, round(side * scale / MULTIPLE) * MULTIPLE)


def _batch_and_epochs(
    advice: Advice, size: tuple[int, int], images: int, factor: int, wanted: int
) -> None:
    memory = memory_bytes()
    each = size[0] * size[1] * BYTES_A_PIXEL * factor
    batch = BATCH
    while batch > LEAST_BATCH and (batch * each > MEMORY_SHARE * memory or batch * 4 > images):
        batch //= 2
    few = " and the few images" if BATCH * 4 > images else ""
    needed = max(1, round(batch * each / 2**20))
    advice.set(
        "bs",
        batch,
        f"about {needed:,} MB of this machine's {memory / 2**30:.0f} GB{few}",
    )
    steps = max(1.0, 0.8 * images / batch)
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(wanted / steps)))
    advice.set(
        "epochs",
        epochs,
        f"{counted(images, 'image')} in batches of {batch}: about {round(steps * epochs):,} steps",
    )


def memory_bytes() -> int:
    """Return this machine's memory; 8 GB if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 * 2**30


def _loss(advice: Advice, objects: Objects, classes: Sequence[str]) -> None:
    shares = {code: share for code, share in objects.share.items() if share > 0}
    if len(shares) < 2:
        return
    rare, common = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    ratio = shares[common] / shares[rare]
    why = f"{classes[common]} has {ratio:,.0f} times the pixels of {classes[rare]}"
    if ratio > STRONG_IMBALANCE:
        advice.set("loss", "focal+dice", f"{why}: focal loss and Dice keep the rare class")
    elif ratio > IMBALANCE:
        advice.set("loss", "ce+dice", f"{why}: Dice keeps the rare class")
    else:
        advice.set("loss", "ce+dice", f"{why}: no strong imbalance")


def _sides(advice: Advice, classes: Sequence[str]) -> None:
    """Leave mirroring out where classes are left and right."""
    words = {word for name in classes for word in name.lower().replace("_", " ").split()}
    if {"left", "right"} <= words:
        advice.set("flip", False, "classes are left and right: a mirror image would swap them")

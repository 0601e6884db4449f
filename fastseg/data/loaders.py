"""From a task and a folder to fastai DataBlocks and DataLoaders."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IntToFloatTensor
from fastai.vision.augment import CropPad, PadMode, Resize, ResizeMethod
from fastai.vision.core import PILImage
from fasttransform import Transform
from PIL.Image import Image
from torch import Tensor

from ..types import Dataset, Item
from ..utils.choices import check_size
from ..utils.device import device_of
from .augment import Augment
from .cache import Pixels
from .split import splitter


def datablock(
    task: Dataset,
    size: tuple[int, int],
    seed: int = 42,
    augment: bool = True,
    pixels: Pixels | None = None,
    fold: tuple[int, int] | None = None,
) -> DataBlock:
    """Return a task's `DataBlock`: items from a folder, pixels at `size`, labels by the task, grouped split, augmentation.

    `size` is (height, width) in px. Raises `DataError` for sizes below 32 px.
    """
    check_size(size)
    recipe, pixels = task.recipe, pixels or Pixels(task, size)
    changes = [Augment.of(recipe)] if augment else []
    # What `Pixels` reads is at that size already; this is for the arrays and pictures that fastai's own predict is given.
    resize = (
        Resize(size, method=ResizeMethod.Squish)
        if recipe.resize == "squish"
        else CropPad(size, pad_mode=PadMode.Zeros)
    )
    images = TransformBlock(type_tfms=Opened(pixels), batch_tfms=IntToFloatTensor)
    return DataBlock(
        blocks=(images, task.label_block()),
        get_items=partial(labelled, task),
        get_x=Read(pixels, "image"),
        get_y=Read(pixels, "label"),
        splitter=splitter(task, seed, fold),
        item_tfms=resize,
        batch_tfms=changes,
    )


class Read:
    """Call one of the methods of `Pixels` on an item: without the `self` that fastai's transforms stumble over."""

    def __init__(self, pixels: Pixels, method: str):
        self.pixels, self.method = pixels, method

    def __call__(self, item):
        return getattr(self.pixels, self.method)(item)


class Opened(Transform):
    """Make fastai's image of an array, tensor, bytes or picture, or of a file that fastai's own predict is given.

    fastai opens files itself, as 8-bit images and without EXIF. Here they are read as the task reads them.
    """

    input_types = (
        Path,
        str,
        Tensor,
        np.ndarray,
        bytes,
        Image,
    )  # from which of them a prediction can start

    def __init__(self, pixels: Pixels):
        super().__init__()
        self.pixels = pixels

    def encodes(self, source):
        return PILImage.create(
            self.pixels.image(source) if isinstance(source, (Path, str)) else source
        )


def labelled(task: Dataset, data: Path | str) -> list[Item]:
    """Return the items that a fit may see: all but those of a test folder."""
    return [item for item in task.items(data) if item.split != "test"]


def dataloaders(
    task: Dataset,
    data: Path | str,
    pixels: Pixels,
    bs: int,
    seed: int = 42,
    device: str | None = None,
    fold: tuple[int, int] | None = None,
) -> DataLoaders:
    """Return the task's `DataLoaders` on `device`; the last incomplete training batch is kept unless it holds one image.

    Worker processes decode only where the images do not fit into memory and a GPU leaves the cores free for them.
    """
    where = device_of(device)
    block = datablock(task, pixels.size, seed, pixels=pixels, fold=fold)
    items = labelled(task, data)
    train, _ = splitter(task, seed, fold)(items)
    bs = min(bs, len(train))
    cached = all(("image", item.image) in pixels.kept for item in items)
    workers = 0 if where.type == "cpu" or cached else min(8, os.cpu_count() or 1)
    return block.dataloaders(
        data, bs=bs, val_bs=bs, device=where, drop_last=len(train) % bs == 1, num_workers=workers
    )

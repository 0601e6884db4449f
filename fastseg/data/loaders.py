"""From a task and a folder to fastai DataBlocks and DataLoaders, with decoded images kept in memory."""

from __future__ import annotations

import os
import threading
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
from ..utils.device import cache_bytes, device_of
from .augment import Augment
from .images import resized, resized_codes
from .split import splitter


class Pixels:
    """Images and labels at the training size, uint8, decoded once: what fits into `budget` bytes stays in memory.

    Pickles without what it keeps, so that exports hold no image. Threads may share it.
    """

    def __init__(self, task: Dataset, size: tuple[int, int], budget: int | None = None):
        self.task, self.size, self.budget = (
            task,
            tuple(size),
            cache_bytes() if budget is None else budget,
        )
        self._forget()

    def _forget(self) -> None:
        self.kept: dict[tuple[str, Path], np.ndarray] = {}
        self.used, self._lock = 0, threading.Lock()

    def __getstate__(self) -> dict:
        return {"task": self.task, "size": self.size, "budget": self.budget}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def image(self, item: Item | Path | str) -> np.ndarray:
        """Return an item's or file's pixels at the training size, uint8 (h, w, 3)."""
        return self._get("image", item, lambda: self.task.image(item))

    def label(self, item: Item) -> np.ndarray | str:
        """Return an item's codes at the training size, uint8 (h, w), or its class by name."""
        if not self.task.has_masks:
            return self.task.class_name(item)
        return self._get("label", item, lambda: self.task.label(item))

    def keep(self, item: Item, image: np.ndarray, label: np.ndarray | int) -> None:
        """Keep what was decoded for another purpose, at the training size, while it fits."""
        self._get("image", item, lambda: image)
        if self.task.has_masks:
            self._get("label", item, lambda: label)

    def _get(self, part: str, item: Item | Path | str, read) -> np.ndarray:
        key = part, getattr(item, part, item)
        found = self.kept.get(key) if isinstance(key[1], Path) else None
        if found is not None:
            return found
        how = self.task.recipe.resize
        small = (
            resized(read(), self.size, how)
            if part == "image"
            else resized_codes(read(), self.size, how)
        )
        with self._lock:
            if (
                isinstance(item, Item)
                and key not in self.kept
                and self.used + small.nbytes <= self.budget
            ):
                self.kept[key] = small
                self.used += small.nbytes
        return small


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

"""From a task and a folder to fastai DataBlocks and DataLoaders."""
from __future__ import annotations

from functools import partial
from pathlib import Path

from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.vision.augment import CropPad, PadMode, Resize, ResizeMethod
from fastai.vision.data import ImageBlock, MaskBlock

from .augment import Augment
from .backbones import device_of
from .errors import DataError
from .tasks import Item, Task

MIN_SIZE, MAX_SIZE = 32, 8192  # px; below, nothing is left at a backbone's deepest level; above, no memory holds a batch


def check_size(size: tuple[int, int]) -> None:
    """Raise `DataError` unless both sides, in px, are from 32 to 8192."""
    if min(size) < MIN_SIZE:
        raise DataError(f"size {size[0]}x{size[1]} is too small; both sides need at least {MIN_SIZE} px")
    if max(size) > MAX_SIZE:
        raise DataError(f"size {size[0]}x{size[1]} is too large; both sides can have at most {MAX_SIZE} px")


def datablock(task: Task, size: tuple[int, int], seed: int = 42, augment: bool = True) -> DataBlock:
    """Return a task's `DataBlock`: items from a folder, labels by the task, grouped split, resizing, augmentation.

    `size` is (height, width) in px. Raises `DataError` for sizes below 32 px.
    """
    check_size(size)
    recipe = task.recipe
    labels = (MaskBlock(codes=list(task.classes)) if task.kind == "segment"
              else CategoryBlock(vocab=list(task.classes), sort=False))
    resize = (Resize(size, method=ResizeMethod.Squish) if recipe.resize == "squish"
              else CropPad(size, pad_mode=PadMode.Zeros))
    changes = [Augment(recipe.flip, recipe.rotate, recipe.zoom, recipe.light)] if augment else []
    return DataBlock(blocks=(ImageBlock, labels), get_items=partial(labelled, task), get_x=Read(task, "image"),
                     get_y=Read(task, "label" if task.kind == "segment" else "class_name"),
                     splitter=partial(task.split, seed=seed), item_tfms=resize, batch_tfms=changes)


class Read:
    """Call one of a task's methods on an item: picklable, and without the `self` that fastai's transforms stumble over."""

    def __init__(self, task: Task, method: str):
        self.task, self.method = task, method

    def __call__(self, item):
        return getattr(self.task, self.method)(item)


def labelled(task: Task, data: Path | str) -> list[Item]:
    """Return the items that a fit may see: all but those of a test folder."""
    return [item for item in task.items(data) if item.split != "test"]


def dataloaders(task: Task, data: Path | str, size: tuple[int, int], bs: int, seed: int = 42,
                device: str | None = None) -> DataLoaders:
    """Return the task's `DataLoaders` on `device`; the last incomplete training batch is kept unless it holds one image.

    Decoding runs in this process on CPUs, where the model needs the cores, and in workers beside a GPU.
    """
    where = device_of(device)
    block = datablock(task, size, seed)
    train, _ = task.split(labelled(task, data), seed)
    bs = min(bs, len(train))
    return block.dataloaders(data, bs=bs, val_bs=bs, device=where, drop_last=len(train) % bs == 1,
                             num_workers=0 if where.type == "cpu" else None)

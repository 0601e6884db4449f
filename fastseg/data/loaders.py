"""From a task and a folder to fastai DataBlocks and DataLoaders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IntToFloatTensor
from fastai.torch_core import TensorImage
from fastai.vision.augment import CropPad, PadMode, Resize, ResizeMethod
from fastai.vision.core import PILImage
from fasttransform import Transform
from PIL.Image import Image
from torch import Tensor

from ..errors import DataError, ModelError
from ..types import Dataset, Item
from ..utils.choices import check_size
from ..utils.device import device_of
from .augment import Augment, Seed
from .cache import Pixels
from .channels import shown
from .images import resized
from .reading import RGB
from .split import Fold, splitter

MAX_WORKERS = 8  # decoding processes; a convention: each one needs memory for its own Python


def datablock(
    task: Dataset,
    size: tuple[int, int],
    seed: int = 42,
    augment: bool = True,
    pixels: Pixels | None = None,
    fold: Fold | None = None,
) -> DataBlock:
    """Return a task's fastai `DataBlock`, whose source is a data folder.

    Items, labels and the split by groups are the task's; pixels are read at `size`, (height, width)
    in px, and augmented by the recipe. `fold` is (number, folds) of a cross-validation, or a
    function from items to the two parts; a ledger in the data folder comes before the split by
    `seed`. Raises `DataError` for sizes out of range.
    """
    check_size(size)
    recipe, pixels = task.recipe, pixels or Pixels(task, size)
    changes = [Augment.of(recipe)] if augment else []
    # `Pixels` already returns this size; this is for arrays passed to fastai's own predict.
    resize = (
        Resize(size, method=ResizeMethod.Squish)
        if recipe.resize == "squish"
        else CropPad(size, pad_mode=PadMode.Zeros)
    )
    source = _Source(task, seed, fold)
    images = TransformBlock(type_tfms=OpenImage(pixels), batch_tfms=IntToFloatTensor)
    return DataBlock(
        blocks=(images, task.label_block()),
        get_items=partial(_Source.items, source),  # fastai binds methods to its own object
        get_x=CallPixels(pixels, "image"),
        get_y=CallPixels(pixels, "label"),
        splitter=partial(_Source.parts, source),
        item_tfms=resize,
        batch_tfms=changes,
    )


class _Source:
    """The items of a data folder and their split, which may be the one of its ledger."""

    def __init__(self, task: Dataset, seed: int, fold: Fold | None):
        self.task, self.seed, self.fold = task, seed, fold
        self.data: Path | str | None = None

    def items(self, data: Path | str) -> list[Item]:
        self.data = data
        return items_for_fit(self.task, data)

    def parts(self, items: list[Item]) -> tuple[list[int], list[int]]:
        return splitter(self.task, self.seed, self.fold, self.data)(items)


class CallPixels:
    """Call a method of `Pixels` on an item: fastai treats `self` of bound methods as an input."""

    def __init__(self, pixels: Pixels, method: str):
        self.pixels, self.method = pixels, method

    def __call__(self, item: Item | Path | str) -> np.ndarray | str:
        return getattr(self.pixels, self.method)(item)


class ChannelImage(TensorImage):
    """An image of other than three channels, (C, H, W); fastai shows three of them."""

    def show(self, ctx: Any = None, **options: Any) -> Any:
        """Draw its channels `shown_channels`, or the first ones, as fastai draws images."""
        array = self.as_subclass(Tensor).movedim(0, -1).cpu().numpy()
        picture = shown(array, getattr(self, "shown_channels", ()))
        return TensorImage(torch.from_numpy(picture).movedim(-1, 0)).show(ctx=ctx, **options)


class OpenImage(Transform):
    """Make a fastai image from an array, tensor, bytes, picture, or a file passed to its predict.

    fastai would open files as 8-bit images and without EXIF; the task reads them here. Images of
    other than three channels, which Pillow has no mode for, become tensors.
    """

    input_types = (Path, str, Tensor, np.ndarray, bytes, Image)  # what a prediction can start from

    def __init__(self, pixels: Pixels):
        super().__init__()
        self.pixels = pixels

    def encodes(self, source):  # type: ignore[no-untyped-def]  # fastai dispatches on annotations
        if isinstance(source, (Path, str)):
            source = self.pixels.image(source)
        if self.pixels.task.channels == RGB:
            return PILImage.create(source)
        return self._tensor(source)

    def _tensor(self, source: object) -> ChannelImage:
        """Return an image, an array (H, W, C) or a tensor (C, H, W), as uint8 at the size."""
        if isinstance(source, Tensor):
            source = source.movedim(0, -1).numpy()
        if not isinstance(source, np.ndarray):
            raise DataError(
                f"an image of {self.pixels.task.channels} channels is a file, or an array uint8 "
                "(height, width, channels)",
                "image-array",
            )
        array = resized(
            self.pixels.task.image(source), self.pixels.size, self.pixels.task.recipe.resize
        )
        image = ChannelImage(torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, 2, 0))))
        image.shown_channels = self.pixels.task.shown_channels
        return image


class SeededDL(TfmdDL):
    """fastai's loader, whose random choices are functions of an epoch's seed and of the image.

    Each pass over the data has a seed, `epoch_seed`, drawn by `rng`; a `view_seed` takes its place
    for images. `share` divides each batch between processes: row i goes to process i % size. Then
    `bs` is what this process gets, and `whole_bs` the size of the batch of all.
    """

    rank, size = 0, 1
    whole_bs: int = 0  # 0: this process has all of `bs`
    epoch_seed = 0
    view_seed: int | None = None

    def __len__(self) -> int:
        whole = self.whole_bs or self.bs
        return self.n // whole if self.drop_last else -(-self.n // whole)

    def get_idxs(self) -> list[int]:
        """Return the images of this process, in order; fastai calls this before each pass."""
        order, whole = list(super().get_idxs()), self.whole_bs or self.bs
        self.epoch_seed = self.rng.getrandbits(62)
        starts = range(0, len(self) * whole, whole)
        self.counts = [len(order[start : start + whole]) for start in starts]
        # A process that gets no row of a small batch computes one in vain: it has to meet the
        # others in each collective operation.
        self.shares = [
            order[start : start + whole][self.rank :: self.size] or order[start : start + 1]
            for start in starts
        ]
        if self.shuffle:
            for change in self.after_batch.fs:
                if isinstance(change, Augment):
                    change.expect([self.image_seeds(i) for i in range(len(starts))])
        return [image for share in self.shares for image in share]

    def image_seeds(self, batch: int) -> list[Seed]:
        """Return a seed for each image of this process in a batch of the current pass."""
        seed = self.epoch_seed if self.view_seed is None else self.view_seed
        return [(seed, image) for image in self.shares[batch]]

    def step_seed(self, batch: int) -> Seed:
        """Return a seed for a batch of the current pass; all processes have the same."""
        return (self.epoch_seed, batch, 1)


@contextmanager
def shared(dls: DataLoaders, rank: int, size: int) -> Iterator[None]:
    """Divide each batch of the loaders between `size` processes while the block runs.

    Raises `ModelError` if a batch has fewer images than there are processes.
    """
    for loader in dls.loaders[:1]:
        if loader.bs < size:
            raise ModelError(
                f"batches of {loader.bs} images cannot be divided between {size} processes; "
                f"give --bs {size} or more, or start fewer processes",
                "too-many-processes",
            )
    for loader in dls.loaders:
        whole = loader.bs
        loader.rank, loader.size, loader.whole_bs = rank, size, whole
        loader.bs = max(1, len(range(rank, whole, size)))
    try:
        yield
    finally:
        for loader in dls.loaders:
            loader.bs = loader.whole_bs
            loader.rank, loader.size, loader.whole_bs = 0, 1, 0


def set_batch_size(dls: DataLoaders, bs: int) -> None:
    """Give the loaders of `dataloaders` batches of up to `bs` images, as if made with it."""
    count = dls.train.n
    for loader in dls.loaders:
        loader.bs = min(bs, count)
    dls.train.drop_last = count % dls.train.bs == 1


def items_for_fit(task: Dataset, data: Path | str) -> list[Item]:
    """Return the items that a fit may use: all except those of a test folder."""
    return [item for item in task.items(data) if item.split != "test"]


def dataloaders(
    task: Dataset,
    data: Path | str,
    pixels: Pixels,
    bs: int,
    seed: int = 42,
    device: str | None = None,
    fold: Fold | None = None,
) -> DataLoaders:
    """Return the task's `DataLoaders` on `device`, with batches of up to `bs` images.

    The last, incomplete training batch is left out if it has one image, which batch normalisation
    cannot train on. Worker processes decode only if the images are not kept and a GPU does the
    training.
    """
    where = device_of(device)
    block = datablock(task, pixels.size, seed, pixels=pixels, fold=fold)
    items = items_for_fit(task, data)
    train, _ = splitter(task, seed, fold, data)(items)
    bs = min(bs, len(train))
    here = where.type == "cpu" or pixels.holds(items)
    workers = 0 if here else min(MAX_WORKERS, os.cpu_count() or 1)
    return block.dataloaders(
        data,
        dl_type=SeededDL,
        bs=bs,
        val_bs=bs,
        device=where,
        drop_last=len(train) % bs == 1,
        num_workers=workers,
    )

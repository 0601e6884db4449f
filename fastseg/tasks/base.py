"""What a task is: how its files lie on disk, what its labels mean, how it is split, and its fastai DataBlock.

Kinds of tasks. A `SegmentationTask` has masks: one class for each pixel. A `ClassificationTask` has one
class for each image. What differs between the two kinds is an attribute or a method of these two classes.
`kind` is only the text that a card stores; no code compares it with a text.

Work that needs modules which a task may not import (`metrics`, `inference`, `evaluation`, `report`) is done
by one pair of classes for each purpose, with one table from `kind` to class:

    inference.prediction.PREDICTIONS   what is read from the network's logits
    inference.outputs.OUTPUTS          what `predict` writes
    evaluation.scores.SCORES           how predictions are compared with labels
    report.views.VIEWS                 how images, labels and predictions are shown

A third kind is a third subclass of `Task` and one entry in each of these tables.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.issues import Fault, refuse
from ..errors import DataError, TaskError
from ..formats.recognise import advice
from ..types import Colour, Drawing, Item, Recipe
from ..utils.io import read_json

if TYPE_CHECKING:
    import numpy as np
    from fastai.data.block import DataBlock, TransformBlock

    from ..data.decoding import Decoded

MADE = "masks.json"  # beside masks that were made, not drawn: how


@dataclass(frozen=True, kw_only=True)
class Task:
    """The part that all tasks share. Use `SegmentationTask` or `ClassificationTask`."""

    name: str
    classes: tuple[str, ...]
    recipe: Recipe
    draw: Callable[[np.random.Generator], Drawing] | None = None  # one synthetic example
    sample_splits: Mapping[str | None, float] = field(default_factory=lambda: {None: 1.0})
    sample_name: str = "image_{:03d}"
    depth: int | None = (
        None  # bits that the values of 16-bit images have; None: each image is scaled by its own
    )

    # Only segmentation tasks set these two.
    background: int | None = field(default=None, init=False, repr=False)
    palette: tuple[Colour, ...] | None = field(default=None, init=False, repr=False)

    kind = "abstract"  # what cards store
    purpose = "does nothing"  # follows the task's name in messages
    has_masks = False  # labels and predictions are masks; decoders, windows and overlays need them
    unit = "images"  # what has a class, and what the figures count
    main_figure = ""  # name of the figure that decides which of two exports is better
    imbalance_limit = math.inf  # factor by which the most common class may exceed the rarest one
    grouped = False  # whether no group may be in both training and validation

    def __reduce__(
        self,
    ):  # pickled by name: exports hold no code, and load wherever the task's file is found
        from . import get

        return (get, (self.name,)) if self.depth is None else (with_depth, (self.name, self.depth))

    def definition(self) -> str:
        """Return a digest of the task's fields and of the files that its code stands in; it changes when the task is edited.

        Results that were stored under one definition do not hold for another. Functions of other modules that the task's own
        code calls are not part of it.
        """
        modules = {f"{__package__}.{self.name}", *(cls.__module__ for cls in type(self).__mro__)}
        modules |= {
            value.__module__
            for value in (getattr(self, entry.name) for entry in fields(self))
            if callable(value) and hasattr(value, "__module__")
        }
        digest = hashlib.sha256(json.dumps(_as_json(self)).encode(errors="surrogateescape"))
        for module in sorted(modules):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file and Path(file).is_file():
                digest.update(Path(file).read_bytes())
        return digest.hexdigest()

    def items(self, data: Path | str) -> list[Item]:
        """Return every labelled image below `data`, in a stable order. Raises `DataError` naming the file at fault."""
        items, faults = self.listed(data)
        refuse(faults)
        if not items:
            foreign = advice(Path(data))
            raise DataError(
                f"{data}: no {self.name} data found; expected {self.expected()}"
                + (f"; {foreign}" if foreign else ""),
                "no-data",
            )
        return items

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        """Return the labelled images below `data` that can be used, in a stable order, and what is wrong with names and tables."""
        raise NotImplementedError

    def binary_faults(
        self, data: Path | str, values: Iterable[tuple[str, Collection[int]]]
    ) -> dict[str, Fault]:
        """Return what is wrong with the codes of all masks together, by source; `values` has each mask's source and codes."""
        return {}

    def adapted(self, data: Path | str) -> Task:
        """Return the task as the data need it: with the bit depth of all labelled 16-bit images, which is logged, and with what
        masks.json, where a tool made the masks, says of how they may be mirrored.
        """
        note = Path(data) / MADE
        shift = read_json(note).get("flip_shift") if note.is_file() else None
        task = (
            self
            if shift is None
            else replace(self, recipe=replace(self.recipe, flip_shift=int(shift)))
        )
        return scaled(task, (item.image for item in self.items(data)))

    def label(self, item: Item) -> np.ndarray | int:
        """Return the item's label: codes, uint8 (H, W) with 255 unlabelled, or a class index."""
        raise NotImplementedError

    def class_name(self, item: Item) -> str:
        """Return the name of an item's class; for tasks without masks."""
        return self.classes[int(self.label(item))]

    def examine_label(self, item: Item) -> Decoded | None:
        """Return the item's mask with what is wrong with it; None for a class index, which cannot be wrong.

        Raises `DataError` if the mask cannot be read.
        """
        return None

    def label_block(self) -> TransformBlock:
        """Return fastai's block of the labels."""
        raise NotImplementedError

    def main_value(self, figures: Mapping[str, Any]) -> Any:
        """Return the main figure from a tree of figures, of their intervals or of bootstrap samples."""
        raise NotImplementedError

    def image(self, item: Item | Path | str | np.ndarray) -> np.ndarray:
        """Return an item's, file's or array's pixels: uint8 (H, W, 3), 16-bit values scaled by the range of `depth` bits.

        Raises `DataError` for files and arrays that are no image.
        """
        from ..data.images import read_image

        if not hasattr(item, "shape"):
            return read_image(getattr(item, "image", item), self.depth)
        if (
            str(item.dtype) != "uint8"
            or len(item.shape) != 3
            or item.shape[2] != 3
            or 0 in item.shape
        ):
            raise DataError(
                f"an image as an array is uint8 (height, width, 3), not {item.dtype} {tuple(item.shape)}",
                "image-array",
            )
        return item

    def image_near(
        self, item: Item | Path | str | np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Return an image at `size`, (height, width), as the model sees it, uint8 (h, w, 3), and its own (height, width)."""
        from ..data.images import read_near, resized

        if (
            hasattr(item, "shape")
            or self.recipe.resize != "squish"
            or type(self).image is not Task.image
        ):
            pixels = self.image(item)
            own = pixels.shape[:2]
        else:
            pixels, own = read_near(getattr(item, "image", item), size, self.depth)
        return resized(pixels, size, self.recipe.resize), own

    def folder(self, data: Path | str) -> Path:
        """Return `data` as a path if it is a folder that holds something, else raise `DataError` with the remedy."""
        root = Path(data)
        if root.is_file():
            raise DataError(
                f"{root}: is a file; give the folder that holds the {self.name} data ({self.expected()})",
                "no-data",
            )
        if not root.is_dir() or not any(p for p in root.iterdir() if p.name != "README.md"):
            state = (
                "is empty"
                if root.is_dir()
                else "is not a folder"
                if root.exists()
                else "does not exist"
            )
            raise DataError(
                f"{root}: {state}; put the {self.name} data there ({self.expected()}) or make a synthetic "
                f"set: fastseg sample {self.name} {root}",
                "no-data",
            )
        return root

    def expected(self) -> str:
        """Say in a few words how the data should lie."""
        raise NotImplementedError

    def split(
        self, items: Sequence[Item], seed: int = 42, valid_share: float = 0.2
    ) -> tuple[list[int], list[int]]:
        """Return the indices of the training and the validation items; groups stay on one side.

        Items that their folder places stay there; the others (all of them, if no folder is for validation) are drawn
        by `seed`. Raises `DataError` if either side would be empty.
        """
        has_valid = any(item.split == "valid" for item in items)
        loose = [
            i
            for i, item in enumerate(items)
            if item.split is None or (item.split == "train" and not has_valid)
        ]
        groups = sorted({items[i].group for i in loose})
        if loose and not has_valid and len(groups) < 2:
            raise DataError(
                f"{items[loose[0]].image.parent}: not enough images to split: {len(loose)} in "
                f"{len(groups)} group; at least 2 groups are needed, one to train and one to validate",
                "split",
            )
        random.Random(seed).shuffle(groups)
        sizes = Counter(items[i].group for i in loose)
        drawn, count = set(), 0
        for group in groups[:-1]:
            if count >= valid_share * len(loose):
                break
            drawn.add(group)
            count += sizes[group]
        valid = {i for i in loose if items[i].group in drawn} | {
            i for i, item in enumerate(items) if item.split == "valid"
        }
        train = [i for i, item in enumerate(items) if item.split != "test" and i not in valid]
        sides = [{items[i].group: items[i] for i in side} for side in (train, valid)]
        shared = sorted(sides[0].keys() & sides[1].keys()) if self.grouped else []
        refuse(
            [
                Fault(
                    "group on both sides",
                    str(sides[1][group].image),
                    f"{group} is also in {sides[0][group].image.parent}",
                    "keep each subject or set on one side of the split",
                )
                for group in shared
            ]
        )
        if not train or not valid:
            raise DataError(
                f"not enough images to split: {len(train)} to train, {len(valid)} to validate; "
                "both parts need at least one",
                "split",
            )
        return train, sorted(valid)

    def fold(
        self, items: Sequence[Item], number: int, folds: int, seed: int = 42
    ) -> tuple[list[int], list[int]]:
        """Return the indices of the training and the validation items of one of `folds` parts; groups stay on one side.

        Every item but those of a test folder is validated in one fold. Raises `DataError` if there are too few groups.
        """
        usable = [i for i, item in enumerate(items) if item.split != "test"]
        groups = sorted({items[i].group for i in usable})
        if not 2 <= folds <= len(groups):
            raise DataError(
                f"{len(usable)} images in {len(groups)} groups cannot be divided into {folds} folds; "
                f"give --folds from 2 to {len(groups)}",
                "folds",
            )
        random.Random(seed).shuffle(groups)
        sizes, filled, part = Counter(items[i].group for i in usable), [0] * folds, {}
        for group in sorted(
            groups, key=lambda g: -sizes[g]
        ):  # large groups first, each into the emptiest fold
            part[group] = filled.index(min(filled))
            filled[part[group]] += sizes[group]
        valid = [i for i in usable if part[items[i].group] == number]
        return [i for i in usable if part[items[i].group] != number], valid

    def datablock(
        self, size: int | tuple[int, int] | None = None, seed: int = 42, augment: bool = True
    ) -> DataBlock:
        """Return a fastai `DataBlock` over a data folder: `task.datablock().dataloaders("data/eye", bs=8)`.

        For 16-bit images, use `task.adapted("data/eye").datablock()`, which scales all of them by one range.
        """
        from ..data.loaders import datablock

        size = (size, size) if isinstance(size, int) else tuple(size or self.recipe.size)
        return datablock(self, size, seed, augment)

    def sample(self, folder: Path | str, n: int = 40, seed: int = 0) -> Path:
        """Write `n` synthetic examples below `folder` in the task's own layout; the same seed gives the same files.

        Raises `DataError` if the folder holds files already, `TaskError` if `n` is too small to split.
        """
        folder = Path(folder)
        if folder.exists() and (
            not folder.is_dir() or any(p for p in folder.iterdir() if p.name != "README.md")
        ):
            raise DataError(
                f"{folder}: is not empty; a sample is never mixed into other files: name another folder",
                "not-empty",
            )
        if n < 4:
            raise TaskError(f"a sample of {n} is too small; make at least 4", "sample-size")
        total, start, reached = sum(self.sample_splits.values()), 0, 0.0
        for split, share in self.sample_splits.items():
            reached += share
            end = round(reached / total * n)
            self._write_sample(folder, split, range(start, end), seed)
            start = end
        return folder

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        raise NotImplementedError


def with_depth(name: str, depth: int) -> Task:
    """Return the task called `name` for 16-bit images of `depth` bits: what pickles of it call."""
    from . import get

    return replace(get(name), depth=depth)


def scaled(task: Task, files: Iterable[Path]) -> Task:
    """Return `task` with the bit depth that `choose_depth` gives for these image files."""
    from ..data.depth import choose_depth, largest_values

    depth = choose_depth(task.depth, largest_values(files))
    return task if depth == task.depth else replace(task, depth=depth)


def _as_json(value: object) -> object:
    """Return a field's value as lists and strings that are equal in each process: no addresses, no order of sets."""
    if is_dataclass(value) and not isinstance(value, type):
        return [(entry.name, _as_json(getattr(value, entry.name))) for entry in fields(value)]
    if isinstance(value, Mapping):
        return sorted([repr(key), _as_json(entry)] for key, entry in value.items())
    if isinstance(value, (tuple, list)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', '')}"
    return repr(value)

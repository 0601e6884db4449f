"""The split of labelled images into training and validation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import DataError
from ..types import Dataset, Item
from .issues import Fault, refuse
from .state import LEDGER

SPLIT_WORDS = {  # names of folders, subsets and files -> the split that they stand for
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}

DEFAULT_SEED = 42  # of splits where none is given
Splitter = Callable[[list[Item]], tuple[list[int], list[int]]]
Fold = tuple[int, int] | Splitter  # (number, folds) of a cross-validation, or any other split


def splitter(
    task: Dataset,
    seed: int,
    fold: Fold | None = None,
    data: Path | str | None = None,
    record: bool = True,
) -> Splitter:
    """Return the function from items to the indices of training and validation.

    It is the task's split by `seed`, or, with `fold` = (number, folds), one of a cross-validation,
    or `fold` itself if it is a function. Where the folder `data` has a ledger of parts (see
    `data.parts`), the ledger decides in place of the seed, and a cross-validation divides its
    training part alone; new images are recorded there unless `record` is false.
    """
    if callable(fold):
        return fold
    if fold is None:
        drawn: Splitter = partial(task.split, seed=seed)
    else:
        drawn = partial(task.fold, number=fold[0], folds=fold[1], seed=seed)
    return drawn if data is None else _ByLedger(task, Path(data), drawn, fold is not None, record)


@dataclass(frozen=True)
class _ByLedger:
    """The split of the ledger of a data folder; `drawn` where there is none."""

    task: Dataset
    data: Path
    drawn: Splitter
    is_fold: bool
    record: bool

    def __call__(self, items: list[Item]) -> tuple[list[int], list[int]]:
        if not (self.data / LEDGER).is_file():
            return self.drawn(items)
        from .parts import Ledger  # here: listing tasks and files needs no numpy

        ledger = Ledger.of(self.data)
        assert ledger is not None
        train, valid, _ = ledger.assign(
            items, reading=self.task.reading, grouped=self.task.grouped, record=self.record
        )
        if self.is_fold:
            chosen = [items[i] for i in train]
            train, valid = ([train[i] for i in side] for side in self.drawn(chosen))
        if not train or not valid:
            raise DataError(
                f"{self.data / LEDGER}: not enough images: {len(train)} to train, {len(valid)} to "
                "validate; label more, or start with new parts by moving this file away",
                "split",
            )
        return train, valid


def drawn_split(
    items: Sequence[Item],
    seed: int,
    valid_share: float,
    grouped: bool,
    copies: Sequence[Sequence[int]] = (),
) -> tuple[list[int], list[int]]:
    """Return the indices of the training and the validation items; groups stay on one side.

    Items whose folder is for training or validation stay there; the others (all of them, if no
    folder is for validation) are drawn by `seed`, and groups with `copies` of one picture are
    drawn together. `grouped`: whether a group whose folders put it on both sides is a fault.
    Raises `DataError` for it, and if either side would be empty.
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
            f"{len(groups)} group; at least 2 groups are needed, "
            "one to train and one to validate",
            "split",
        )
    random.Random(seed).shuffle(groups)
    joined = _joined_groups(items, loose, copies, 2)
    sizes = Counter(joined[items[i].group] for i in loose)
    drawn: set[str] = set()
    count = 0
    for group in dict.fromkeys(joined[group] for group in groups[:-1]):
        if count >= valid_share * len(loose) or count + sizes[group] == len(loose):
            break
        drawn.add(group)
        count += sizes[group]
    valid = {i for i in loose if joined[items[i].group] in drawn} | {
        i for i, item in enumerate(items) if item.split == "valid"
    }
    train = [i for i, item in enumerate(items) if item.split != "test" and i not in valid]
    sides = [{items[i].group: items[i] for i in side} for side in (train, valid)]
    shared = sorted(sides[0].keys() & sides[1].keys()) if grouped else []
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


def _joined_groups(
    items: Sequence[Item], usable: Sequence[int], copies: Sequence[Sequence[int]], least: int
) -> dict[str, str]:
    """Return for each group of the usable items the first of the groups that copies of pictures
    join it with; itself without copies, and where they would leave fewer than `least` groups.
    """
    alone = {group: group for group in sorted({items[i].group for i in usable})}
    leads, allowed = dict(alone), set(usable)

    def first(group: str) -> str:
        while leads[group] != group:
            leads[group] = group = leads[leads[group]]
        return group

    for places in copies:
        names = sorted({first(items[i].group) for i in places if i in allowed})
        leads.update(dict.fromkeys(names[1:], names[0] if names else ""))
    joined = {group: first(group) for group in alone}
    return joined if len(set(joined.values())) >= least else alone


def drawn_fold(
    items: Sequence[Item],
    number: int,
    folds: int,
    seed: int,
    copies: Sequence[Sequence[int]] = (),
) -> tuple[list[int], list[int]]:
    """Return the indices of the training and the validation items of one of `folds` parts.

    Groups stay on one side, and so do groups with `copies` of one picture. Every item but those of
    a test folder is validated in one fold. Raises `DataError` if there are too few groups.
    """
    usable = [i for i, item in enumerate(items) if item.split != "test"]
    joined = _joined_groups(items, usable, copies, max(2, folds))
    groups = sorted(set(joined.values()))
    if not 2 <= folds <= len(groups):
        raise DataError(
            f"{len(usable)} images in {len(groups)} groups cannot be divided into {folds} "
            f"folds; give --folds from 2 to {len(groups)}",
            "folds",
        )
    random.Random(seed).shuffle(groups)
    sizes = Counter(joined[items[i].group] for i in usable)
    filled, part = [0] * folds, {}
    # Large groups first, each into the emptiest fold.
    for group in sorted(groups, key=lambda g: -sizes[g]):
        part[group] = filled.index(min(filled))
        filled[part[group]] += sizes[group]
    part_of = {i: part[joined[items[i].group]] for i in usable}
    valid = [i for i in usable if part_of[i] == number]
    return [i for i in usable if part_of[i] != number], valid

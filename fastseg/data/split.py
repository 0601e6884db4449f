"""The split of labelled images into training and validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..types import Dataset, Item

Splitter = Callable[[list[Item]], tuple[list[int], list[int]]]


def splitter(task: Dataset, seed: int, fold: tuple[int, int] | None = None) -> Splitter:
    """Return the function from items to the indices of training and validation.

    It is the task's split by `seed`, or, with `fold` = (number, folds), one of a cross-validation.
    """
    if fold is None:
        return partial(task.split, seed=seed)
    return partial(task.fold, number=fold[0], folds=fold[1], seed=seed)

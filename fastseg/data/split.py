"""What divides labelled images into training and validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..types import Dataset


def splitter(task: Dataset, seed: int, fold: tuple[int, int] | None = None) -> Callable:
    """Return what divides items into training and validation: the task's split, or part `fold[0]` of `fold[1]`."""
    return (
        partial(task.split, seed=seed)
        if fold is None
        else partial(task.fold, number=fold[0], folds=fold[1], seed=seed)
    )

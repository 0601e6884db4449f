"""One run of `study --how-many`: a fit on a part of the training images, and its scores."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.split import splitter
from ..errors import DataError, ModelError
from ..evaluation.scores import ImageScore
from ..exports.record import record_of
from ..learners.options import FitOptions
from ..learners.preparation import learner_of
from ..tasks import Item, Task
from ..types import IGNORE
from ..utils.io import read_json, write_json
from .trials import free_memory, scored, silence
from .work import SentTask


@dataclass(frozen=True)
class Subset:
    """A job: the share of the training images, the seed, the file for its result, and the digest of
    the images and labels that the result is of.
    """

    share: float
    seed: int
    file: str
    digest: str


@dataclass(frozen=True)
class Part:
    """Takes a share of the training images, by groups; the held-out images are always the same.

    Parts of one seed are nested: a smaller one is in each larger one. An epoch shows the images of
    a part as often as needed to be as long as an epoch of all of them: fits on parts take equally
    many steps, so that the curve shows what images are worth, not what longer training is.
    """

    task: Task
    data: Path  # whose ledger says what is held out, if it has one, see `data.parts`
    split_seed: int
    seed: int
    share: float

    def parts(self, items: Sequence[Item]) -> tuple[list[int], list[int]]:
        """Return the indices of all training images, and of the held-out ones."""
        return splitter(self.task, self.split_seed, data=self.data)(list(items))

    def __call__(self, items: Sequence[Item]) -> tuple[list[int], list[int]]:
        train, held_out = self.parts(items)
        part = self.chosen(items, train)
        return part * max(1, round(len(train) / len(part))), held_out

    def chosen(self, items: Sequence[Item], train: Sequence[int]) -> list[int]:
        """Return the indices of the part's images, each once, given those of all training images.

        At least one image is chosen.
        """
        groups: dict[str, list[int]] = {}
        for i in train:
            groups.setdefault(items[i].group, []).append(i)
        names = sorted(groups)
        random.Random(self.seed).shuffle(names)
        wanted, part = self.share * len(train), list[int]()
        for name in names:
            # a group that would lead farther away from the wanted number ends the part
            if part and len(part) + len(groups[name]) / 2 > wanted:
                break
            part += groups[name]
        return sorted(part)


@dataclass(frozen=True)
class SubsetTraining:
    """What workers do: one fit a job, without an export; the scores go to the job's file."""

    task: SentTask
    data: str
    options: dict[str, Any]

    def start(self) -> Callable[[Subset], str]:
        """Return the function that trains on one part and returns the name of its file."""
        task = self.task.received()

        def train_one(job: Subset) -> str:
            try:
                with silence():
                    _train(job, task, self.data, FitOptions(**{**self.options, "seed": job.seed}))
            finally:
                free_memory()
            return job.file

        return train_one


def _train(job: Subset, task: Task, data: str, options: FitOptions) -> None:
    """Train and judge one part, and write the result. Raises `FastsegError` kinds."""
    split = Part(task, Path(data), options.seed_of_split, job.seed, job.share)
    learn = learner_of(task, data, options, split)
    from .loop import train

    train(learn, options)
    if not all(math.isfinite(row["valid_loss"]) for row in record_of(learn).history):
        raise ModelError(
            f"training diverged with seed {job.seed} on {job.share:.3g} of the images; "
            "try a lower --vary lr=",
            "diverged",
        )
    scores = scored(learn, task, data, options)
    part = list(dict.fromkeys(learn.dls.train_ds.items))
    result = {
        "of": job.digest,
        "images": len(part),
        "showing": showing(task, part).tolist(),
        "scores": [[image.name, scores.to_json(image)] for image in scores.images],
    }
    os.makedirs(os.path.dirname(job.file), exist_ok=True)
    write_json(Path(job.file), result)


def showing(task: Task, items: Sequence[Item]) -> np.ndarray:
    """Return how many of the items show each class: int64 (C,)."""
    counts = np.zeros(len(task.classes), dtype=np.int64)
    for item in items:
        seen = np.unique(np.asarray(task.label(item)))
        counts[seen[seen != IGNORE]] += 1
    return counts


def result_of(job: Subset) -> dict[str, Any] | None:
    """Return a run's result; None if it is not there, damaged, or of other images."""
    if not Path(job.file).is_file():
        return None
    try:
        found = read_json(Path(job.file))
    except DataError:
        return None
    return found if found.get("of") == job.digest else None


def scores_in(result: dict[str, Any], scores: Any, items: dict[str, Item]) -> list[ImageScore]:
    """Return the scores of a run's result. `scores` are of the task, `items` by name."""
    return [scores.from_json(items[name], name, values) for name, values in result["scores"]]

"""The course of a training: how many epochs, at which rate, on what part of the images. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ModelError
from ..tasks import Task


@dataclass(frozen=True)
class Course:
    """How a learner is trained. `Course.of(task, ...)` takes from the task's recipe what is not given."""

    epochs: int
    freeze_epochs: int = 0  # of the head alone, before the others, when the backbone is pretrained
    lr: float | str | None = (
        None  # a rate, "auto" for the range test's suggestion, None for the learner's own
    )
    ema: float = 0.0  # share of the average of weights that a step keeps; 0: no averaging
    windows: float = (
        0.0  # share of the epochs that see windows of the images, half their height and width
    )
    progressive: float = (
        0.0  # share of the epochs, the first ones, that see the images at half size
    )
    mixup: float = 0.0  # alpha of the beta distribution that images are mixed by (arXiv:1710.09412); 0: not mixed
    patience: int = (
        0  # epochs without a better score after which training ends with the best weights; 0: never
    )
    seconds: float | None = (
        None  # that training may take; the cycle is shortened where epochs take longer than planned
    )

    @classmethod
    def of(cls, task: Task, **given) -> Course:
        """Return the recipe's course with what is given and not None put in its place. Raises `ModelError`."""
        names = ("epochs", "freeze_epochs", "ema", "windows", "progressive", "mixup")
        course = cls(
            **{name: getattr(task.recipe, name) for name in names}
            | {k: v for k, v in given.items() if v is not None}
        )
        if (
            course.epochs < 0
            or course.freeze_epochs < 0
            or course.epochs + course.freeze_epochs == 0
        ):
            raise ModelError(
                f"--epochs {course.epochs} with --freeze-epochs {course.freeze_epochs} trains nothing; give at least one",
                "no-epoch",
            )
        if course.windows and not task.has_masks:
            raise ModelError(f"{task.name} {task.purpose}: it takes no --windows", "no-windows")
        if task.recipe.resize != "squish" and course.progressive:
            raise ModelError(
                f"{task.name} images are never resampled, since that would change their labels: it takes no --progressive",
                "no-progressive",
            )
        for name, highest in (
            ("ema", 0.9999),
            ("windows", 1.0),
            ("progressive", 1.0),
            ("mixup", 10.0),
        ):
            if not 0 <= getattr(course, name) <= highest:
                raise ModelError(
                    f"--{name} {getattr(course, name)} is not from 0 to {highest}", "option-range"
                )
        if course.lr != "auto":
            rate_of(course.lr, task.recipe.lr)
        return course


def rate_of(lr: float | str | None, default: float) -> float:
    """Return a learning rate as a number, the default for None. Raises `ModelError` unless it is positive."""
    try:
        rate = default if lr is None else float(lr)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ModelError(
            f"learning rate '{lr}' is not a positive number; give one such as 1e-3, or auto",
            "learning-rate",
        )
    return rate

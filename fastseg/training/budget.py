"""Plans a training that fits into a given time: a measured step tells how many epochs, and at which size."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..utils.io import read_json, write_json
from .course import Course

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

PLAN = "plan.json"
FEWEST_EPOCHS = 5  # fewer teach too little: a smaller size is the better bargain
RESERVE = 0.1  # of the time, for measuring and drawing at the end, and for steps that take longer than the measured ones


def epoch_seconds(learn: Learner) -> float:
    """Return the measured seconds of one epoch: training steps and validation. The learner is left as it was."""
    from ..utils.speed import step_seconds

    # A forward pass takes a third of a step; the optimizer, data and augmentation take a tenth of one.
    return step_seconds(learn.model, learn.loss_func, *learn.dls.one_batch()) * (
        1.1 * len(learn.dls.train) + 0.4 * len(learn.dls.valid)
    )


def write_plan(work: Path, size: tuple[int, int], course: Course) -> None:
    """Keep what was planned: a fit that is interrupted goes on by the same plan."""
    write_json(work / PLAN, {"size": size, "course": asdict(course)})


def read_plan(work: Path) -> dict | None:
    """Return what was planned for this work before it was interrupted, or None. Raises `ModelError` if it is damaged."""
    return read_json(work / PLAN) if (work / PLAN).is_file() else None


def planned(
    learn: Learner, course: Course, rebuilt: Callable[[tuple[int, int]], Learner], seconds: float
) -> tuple[Learner, Course]:
    """Return a learner and a course that take `seconds` from now, with the closing measurement.

    Where fewer than `FEWEST_EPOCHS` would fit, `rebuilt` rebuilds the learner at a smaller size, at least half.
    Raises `ModelError` if not even one epoch fits then.
    """
    deadline, size = time.monotonic() + seconds, learn.origin.size

    def fitting(learn: Learner) -> tuple[float, int]:
        epoch = epoch_seconds(learn)
        return epoch, int(
            (deadline - time.monotonic()) * (1 - RESERVE) / epoch
        ) - course.freeze_epochs

    epoch, epochs = fitting(learn)
    if epochs < FEWEST_EPOCHS:
        scale = max(0.5, (max(epochs, 0.1) / FEWEST_EPOCHS) ** 0.5)
        smaller = tuple(max(32, round(side * scale / 32) * 32) for side in size)
        if smaller < size:
            learn = rebuilt(smaller)
            epoch, epochs = fitting(learn)
    left = deadline - time.monotonic()
    if epochs < 1:
        raise ModelError(
            f"an epoch takes {epoch:.1f} s at {learn.origin.size[0]}x{learn.origin.size[1]} px, too long for what loading "
            f"left of the time budget ({max(0, left):.1f} s); give more time, or a smaller --size or --arch",
            "time-budget",
        )
    log.info(
        "an epoch takes %.1f s at %dx%d px: %d fit into the time budget",
        epoch,
        *learn.origin.size,
        epochs + course.freeze_epochs,
    )
    return learn, replace(course, epochs=epochs, seconds=left * (1 - RESERVE))

"""Plans a training that fits into a given time: number of epochs, and size of the images."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines.distributed import world
from ..errors import ModelError
from ..exports.record import record_of
from ..types import Recipe
from ..utils.io import read_json, write_json

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

PLAN = "plan.json"
FEWEST_EPOCHS = 5  # a choice: rather than train fewer, the images are made smaller
# Share of the time that the plan reserves for the final measurement and pictures. What they need
# less, by the first validation, goes to epochs.
RESERVE = 0.1
SMALLEST_SCALE = 0.5  # of the sides; a choice: below it, small objects disappear
SIZE_STEP = 32  # px: sides are multiples of the stride of a backbone's deepest level
# Cost of an epoch in measured steps: the optimizer, the data and augmentation add a tenth to a
# training step, and a forward pass takes a third of one.
STEPS_A_TRAINING_BATCH = 1.1
STEPS_A_VALIDATION_BATCH = 0.4


@dataclass(frozen=True)
class Plan:
    """A training that fits into the time budget: size (height, width) in px, epochs, seconds."""

    size: tuple[int, int]
    epochs: int
    seconds: float

    def write(self, folder: Path) -> None:
        """Write plan.json: an interrupted fit is resumed with the same plan."""
        course = {"epochs": self.epochs, "seconds": self.seconds}
        write_json(folder / PLAN, {"size": self.size, "course": course})

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """Return the plan in a folder, or None. Raises `FastsegError` kinds if it is damaged."""
        if not (folder / PLAN).is_file():
            return None
        found = read_json(folder / PLAN)
        try:
            height, width = found["size"]
            return cls((height, width), found["course"]["epochs"], found["course"]["seconds"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"{folder / PLAN}: holds no plan; start again with --no-resume",
                "damaged-checkpoint",
            ) from None

    @classmethod
    def shared(cls, plan: Plan | None) -> Plan | None:
        """Return the plan of the first of the processes that train together, or None."""
        found = world().from_first(plan and [*plan.size, plan.epochs, plan.seconds])
        return found and cls((found[0], found[1]), found[2], found[3])


def reserve_of(seconds: float) -> float:
    """Return what is reserved for the closing measurement after `seconds` of epochs."""
    return seconds * RESERVE / (1 - RESERVE)


def epoch_seconds(learn: Learner) -> float:
    """Return the measured seconds of one epoch with its validation. The learner is unchanged.

    Processes that train together measure their parts of a batch at the same time; the slowest
    counts.
    """
    from ..learners.precision import step_seconds

    together = world()
    x, y = learn.dls.one_batch()
    own = slice(together.rank if together.rank < len(x) else 0, None, together.size)

    steps = STEPS_A_TRAINING_BATCH * len(learn.dls.train)
    steps += STEPS_A_VALIDATION_BATCH * len(learn.dls.valid)
    step = step_seconds(learn.model, learn.loss_func, x[own], y[own])
    return max(together.from_all(step)) * steps


def plan_training(
    learn: Learner,
    recipe: Recipe,
    rebuilt: Callable[[tuple[int, int]], Learner],
    seconds: float,
) -> tuple[Learner, Plan]:
    """Return a learner and its plan for `seconds` from now, with the closing measurement.

    Where fewer than `FEWEST_EPOCHS` would fit, `rebuilt` makes the learner again at a smaller size,
    at least half; not where the recipe crops images to the size, since that would cut parts of them
    away. Raises `ModelError` if not even one epoch fits.
    """
    deadline = time.monotonic() + seconds
    frozen = recipe.freeze_epochs if record_of(learn).is_pretrained else 0

    def fitting_epochs(epoch: float) -> int:
        fitting = int((deadline - time.monotonic()) * (1 - RESERVE) / epoch) - frozen
        return world().from_first(fitting)

    epoch = epoch_seconds(learn)
    epochs = fitting_epochs(epoch)
    size = record_of(learn).size
    if epochs < FEWEST_EPOCHS and recipe.resize == "squish":
        smaller = _smaller_size(size, epochs)
        if smaller < size:
            log.info("images are reduced from %dx%d to %dx%d px: more epochs fit", *size, *smaller)
            with _quiet():  # the same data and network were named before
                learn, size = rebuilt(smaller), smaller
            epoch = epoch_seconds(learn)
            epochs = fitting_epochs(epoch)
    left = world().from_first(deadline - time.monotonic())
    for_epochs = left * (1 - RESERVE)
    if epochs < 1:
        missing = (frozen + 1) * epoch / (1 - RESERVE) - left
        smaller_size = "--size or " if recipe.resize == "squish" else ""
        raise ModelError(
            f"the time budget leaves {max(0, for_epochs):.1f} s for epochs, after loading and what "
            f"is reserved for the evaluation; at least {frozen + 1} of {epoch:.1f} s at "
            f"{size[0]}x{size[1]} px must fit; give at least {math.ceil(missing)} s more, or a "
            f"smaller {smaller_size}--arch",
            "time-budget",
        )
    log.info(
        "an epoch takes %.1f s at %dx%d px; planned for the time budget: %s%d epochs",
        epoch,
        *size,
        f"{frozen} with the head only, then " if frozen else "",
        epochs,
    )
    return learn, Plan(size, epochs, for_epochs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Log only warnings."""
    package = logging.getLogger(__package__.partition(".")[0])
    level = package.level
    package.setLevel(logging.WARNING)
    try:
        yield
    finally:
        package.setLevel(level)


def _smaller_size(size: tuple[int, int], epochs: int) -> tuple[int, int]:
    """Return the size at which `FEWEST_EPOCHS` take as long as `epochs` now; time ~ area."""
    scale = max(SMALLEST_SCALE, (max(epochs, 0.1) / FEWEST_EPOCHS) ** 0.5)
    height, width = (max(SIZE_STEP, round(side * scale / SIZE_STEP) * SIZE_STEP) for side in size)
    return height, width

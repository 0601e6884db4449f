"""One trial of a search: a fit on a part of the training images, judged on another part of them."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.split import splitter
from ..errors import ModelError, is_out_of_memory
from ..exports.record import record_of
from ..learners.options import FitOptions
from ..learners.preparation import learner_of
from ..tasks import Item, Task
from ..utils.progress import hidden
from .work import SentTask, no_foreground

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..evaluation.scores import Scores

log = logging.getLogger(__name__)

# Trials whose course is known before others are compared with it, and the share of the epochs that
# each trial gets in any case: early in a one-cycle the order of settings is mostly chance.
FEWEST_COURSES, LEAST_SHARE = 3, 1 / 3
State = Literal["complete", "pruned", "time", "failed"]


@dataclass(frozen=True)
class Trial:
    """A job: a setting, the scores by epoch of the complete trials, and the seconds it may take."""

    number: int
    setting: dict[str, Any]
    courses: list[list[float]] = field(default_factory=list)
    seconds: float | None = None
    is_pruned: bool = True  # whether it may be


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    `value` is the task's main figure on the inner validation images at their own size, `course` the
    score after each epoch at the training size. `needed` are the seconds that it would have taken.
    """

    number: int
    state: State
    seconds: float
    value: float | None = None
    course: list[float] = field(default_factory=list)
    needed: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class InnerSplit:
    """Divides the training images alone, by groups and seed; the held-out images are in no part."""

    task: Task
    seed: int
    data: Path | None = None  # whose ledger says what is held out, if it has one

    def parts(self, items: Sequence[Item]) -> tuple[list[int], list[int], list[int]]:
        """Return the indices of inner training, inner validation, and held-out images.

        Raises `DataError` if there are too few groups.
        """
        train, held_out = splitter(self.task, self.seed, data=self.data)(list(items))
        inner = [replace(items[i], split=None) for i in train]  # as if no folder divided them
        learn, judge = self.task.split(inner, self.seed)
        return [train[i] for i in learn], sorted(train[i] for i in judge), held_out

    def __call__(self, items: Sequence[Item]) -> tuple[list[int], list[int]]:
        return self.parts(items)[:2]


@dataclass(frozen=True)
class Trials:
    """What workers of a search do: one trial a job, without an export."""

    task: SentTask
    data: str
    options: dict[str, Any]  # of all trials
    seed: int

    def start(self) -> Callable[[Trial], Outcome]:
        task = self.task.received()
        split = InnerSplit(task, self.seed, Path(self.data))

        def run(trial: Trial) -> Outcome:
            began = time.monotonic()
            options = FitOptions(**{**self.options, "seed": self.seed, **trial.setting})
            try:
                with silence():
                    return _trained(trial, task, self.data, options, split, began)
            except ModelError as error:
                return _failed(trial, began, str(error))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                return _failed(trial, began, "out of memory")
            finally:
                free_memory()

        return run


def _failed(trial: Trial, began: float, problem: str) -> Outcome:
    return Outcome(trial.number, "failed", time.monotonic() - began, problem=problem)


@contextmanager
def silence() -> Iterator[None]:
    """Leave out bars, lines for each epoch, and what each fit says about data and network."""
    package = logging.getLogger("fastseg")
    before = package.level
    package.setLevel(logging.ERROR)
    try:
        with hidden():
            yield
    finally:
        package.setLevel(before)


def free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trained(
    trial: Trial, task: Task, data: str, options: FitOptions, split: InnerSplit, began: float
) -> Outcome:
    """Train and judge one trial. Raises `ModelError` if it cannot be trained."""
    learn = learner_of(task, data, options, split)
    from .loop import train
    from .watch import Watch

    recipe, record = options.recipe(task), record_of(learn)
    epochs = recipe.epochs + (recipe.freeze_epochs if record.is_pretrained else 0)
    watch = Watch(
        epochs, began, trial.seconds, pruner(trial.courses, epochs) if trial.is_pruned else None
    )
    learn.add_cb(watch)
    train(learn, options)
    value = None
    if watch.state == "complete":
        value = judged(learn, task, data, options)
        if value is None:
            raise no_foreground(data, "the images that trials are judged by", task)
    seconds = time.monotonic() - began
    return Outcome(
        trial.number, watch.state, seconds, value, watch.course, watch.needed, watch.problem
    )


def judged(learn: Learner, task: Task, data: str, options: FitOptions) -> float | None:
    """Return the main figure over a learner's validation images, at their own size.

    At the training size, settings of different sizes could not be compared.
    """
    value = task.main_value(scored(learn, task, data, options).metrics())
    return None if value is None or not math.isfinite(value) else float(value)


def scored(learn: Learner, task: Task, data: str, options: FitOptions) -> Scores[Any]:
    """Return the scores of a learner's validation images, at their own size."""
    from ..evaluation.run import score_images
    from ..evaluation.scores import scores_of
    from ..exports.write import card_for
    from ..inference.predictor import Predictor
    from ..utils.device import device_of, fixed_precision
    from ..utils.speed import ComputeOption

    device = device_of(options.device)
    precision = fixed_precision(device, options.precision)
    card = card_for(learn, Path(data), epochs=len(record_of(learn).history))
    predictor = Predictor(
        card, lambda: learn.model, ComputeOption("torch", precision), str(device), alone=False
    )
    items = list(learn.dls.valid_ds.items)
    return scores_of(task, [score for score, _ in score_images(predictor, items, Path(data))])


def pruner(courses: Sequence[Sequence[float]], epochs: int) -> Callable[[int, float], bool]:
    """Return a function of epoch (from 0) and score: whether a trial is below the median so far.

    It is Optuna's MedianPruner over the complete trials' `courses`, which came with the job: only
    the process that runs the search uses the database.
    """
    import optuna

    from .database import quiet

    with quiet():
        study = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=FEWEST_COURSES, n_warmup_steps=math.ceil(epochs * LEAST_SHARE)
            ),
        )
        for course in courses:
            values = {step: value for step, value in enumerate(course) if math.isfinite(value)}
            study.add_trial(optuna.trial.create_trial(value=course[-1], intermediate_values=values))
        trial = study.ask()

    def is_below(epoch: int, score: float) -> bool:
        trial.report(score, epoch)
        return trial.should_prune()

    return is_below

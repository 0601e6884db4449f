"""Training a learner by fastai's one-cycle policy, and the range test for its rate."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.learner import CancelEpochException, Learner

from ..data.cache import Pixels
from ..data.pairing import images_below
from ..data.unlabelled import unlabelled_in
from ..engines.collectives import bytes_from_first
from ..engines.distributed import world
from ..errors import DataError, ModelError, is_out_of_memory, needs_two_images
from ..exports.record import record_of
from ..learners.options import FitOptions, random_freeze, rate_of, unlabelled_in_processes
from ..models.frozen import maps_kept
from ..tasks import Item, Task
from ..types import Recipe
from ..utils.allocator import freed_memory_kept
from ..utils.device import cache_bytes
from . import checkpoint
from .budget import reserve_of
from .callbacks import AverageWeights, HalfSize, MixPairs, Reporter, TimeBudget, Windows
from .consistency import ENOUGH_STEPS, Consistency
from .distributed import training_together
from .progress import ProgressFile

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
WINDOW_SIDE = 0.5  # of the image's sides, as the help of --windows says
# The early half of a pretrained backbone learns with a tenth of the rate, a choice: it is general.
BACKBONE_DIVISOR = 10
# With --freeze, an image has so many views, each with its own augmentation, and epochs repeat them.
# More views cost a pass of the backbone each, and memory. A choice.
VIEWS = 4


def range_test(learn: Learner) -> tuple[float, list[float], list[float]]:
    """Return the learning rate that fastai's `lr_find` suggests, and the rates and losses it tried.

    The weights do not change.
    """
    with (
        _model_dir(learn),
        learn.no_bar(),
        learn.no_logging(),
        _silence_libraries(),
        _errors_explained(learn),
    ):
        suggestion = float(learn.lr_find(show_plot=False).valley)
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return suggestion, rates[: len(losses)], losses


@contextmanager
def _model_dir(learn: Learner, folder: Path | None = None) -> Iterator[None]:
    """Let fastai keep weights, such as the best ones so far, in `folder` or a temporary one.

    By default fastai writes them next to the user's files.
    """
    before = learn.path
    with tempfile.TemporaryDirectory() as temporary:
        learn.path = folder or Path(temporary)
        try:
            yield
        finally:
            learn.path = before


def train(
    learn: Learner,
    options: FitOptions,
    folder: Path | None = None,
    seconds: float | None = None,
) -> Learner:
    """Train by fastai's one-cycle policy: first the head alone if the backbone is pretrained.

    After unfreezing, the backbone learns with a tenth of the rate (its early half) to the full rate
    (decoder). With `seconds`, the cycle is shortened or extended to fill them (`TimeBudget`). In
    `folder` a checkpoint is written after each epoch. If one exists already, training resumes from
    it and reaches, on the same CPU, the same weights as without the interruption. Processes that
    are joined (`engines.distributed`) share each batch; only the first one gets `folder`.
    `learn.record` gets the course and the history. Raises `ModelError` if no epoch is trained.
    With `options.freeze`, only the head is trained, in all epochs.
    """
    with _frozen(learn, options), freed_memory_kept():
        return _train(learn, options, folder, seconds)


@contextmanager
def _frozen(learn: Learner, options: FitOptions) -> Iterator[None]:
    """Keep the backbone as it is in the block, with its features in memory, if the options say so.

    Features get what the decoded images leave of `options.cache`, divided between the processes.
    Raises `ModelError` for random weights.
    """
    if not options.freeze:
        yield
        return
    record = record_of(learn)
    if not record.is_pretrained:
        raise random_freeze()
    budget = _room(learn, options) // world().size
    log.info("the backbone is frozen; the head alone trains over cached features")
    # fastai trains the batch normalisation of frozen layers unless it is told not to.
    train_bn, learn.train_bn, learn.opt = learn.train_bn, False, None
    learn.freeze()
    try:
        with maps_kept(learn.model, record.size, budget) as maps:
            yield
    finally:
        learn.train_bn = train_bn
    log.info(
        "the backbone computed %d images; features kept of %d: %.0f MB",
        maps.computed,
        len(maps.kept),
        maps.bytes / 2**20,
    )


def _train(
    learn: Learner, options: FitOptions, folder: Path | None, seconds: float | None
) -> Learner:
    """Train as `train` says."""
    began = time.monotonic()
    record = record_of(learn)
    task = record.task
    recipe = options.recipe(task)
    saved = _checkpoint(learn, folder)
    if saved:
        _resume_precision(learn, saved)
        began -= saved["seconds"]
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    frozen = recipe.freeze_epochs if record.is_pretrained else 0
    others = _without_labels(learn, options)
    history = saved["history"] if saved else []
    cbs = [Reporter(), *([MixPairs(recipe.mixup)] if recipe.mixup else [])]
    if folder:
        cbs.append(ProgressFile(folder, (frozen, recipe.epochs), history, _history_rows))
    views = VIEWS if options.freeze else 0
    with training_together(learn, options.seed, views):
        lr = saved["lr"] if saved else _rate(learn, options)
    with (
        training_together(learn, options.seed, views) as repeatable,
        learn.added_cbs(cbs),
        _model_dir(learn, folder),
        _silence_libraries(),
        _errors_explained(learn),
    ):
        for stage, epochs in enumerate((frozen, recipe.epochs)):
            if not epochs or (saved and saved["stage"] > stage):
                continue
            repeatable.stage = stage
            resumed = saved if saved and saved["stage"] == stage else None
            if stage and not options.freeze:
                learn.unfreeze()
            else:
                learn.freeze()
            if stage:
                chosen = _callbacks(learn, task, recipe, options.patience)
                if others:
                    chosen.append(_consistency(learn, others, options, recipe, chosen))
                if seconds:
                    left = seconds - (time.monotonic() - began)
                    chosen.append(TimeBudget(left, reserve_of(seconds), _cheaper_epochs(recipe)))
            else:
                chosen = _windows(task, recipe, epochs)
            if saved or folder:
                before = {"lr": lr, "history": history}
                chosen.append(
                    checkpoint.Checkpoint(
                        folder and folder / CHECKPOINT,
                        stage,
                        resumed,
                        before,
                        began,
                        _history_rows,
                    )
                )
            first = resumed["epoch"] if resumed else 0
            with learn.added_cbs(chosen), _start_at_epoch(learn, first):
                sliced = stage and record.is_pretrained
                learn.fit_one_cycle(epochs, slice(lr / BACKBONE_DIVISOR, lr) if sliced else lr)
            history = [*history, *_history_rows(learn)]
    if not history:
        raise ModelError(
            "no epoch was trained (head-only epochs need pretrained weights); "
            "give --epochs 1 or more",
            "no-epoch",
        )
    record.history = history
    record.course = {
        **options.in_card(task),
        "lr": lr,
        "freeze_epochs": frozen,
        "trained_epochs": len(history),
        **({"unlabelled": len(others)} if others else {}),
        "seconds": round(time.monotonic() - began, 1),
    }
    return learn


def _room(learn: Learner, options: FitOptions) -> int:
    """Return the bytes that the decoded images of the data leave of `options.cache`."""
    record, count = record_of(learn), len(learn.dls.train_ds) + len(learn.dls.valid_ds)
    decoded = count * math.prod(record.size) * (record.task.channels + 1)
    return max(0, (cache_bytes() if options.cache is None else options.cache) - decoded)


def _without_labels(learn: Learner, options: FitOptions) -> list[Item]:
    """Return the images of `options.unlabelled` that can be used.

    Raises `DataError` if there are none, and `ModelError` for several processes.
    """
    if options.unlabelled is None:
        return []
    if world().size > 1:
        raise unlabelled_in_processes()
    record = record_of(learn)
    tests = [item for item in record.task.items(record.data) if item.split == "test"]
    own = dict.fromkeys([*learn.dls.train_ds.items, *learn.dls.valid_ds.items, *tests])
    labels = [item.label for item in [*own, *_labelled_in(record.task, Path(options.unlabelled))]]
    masks = [label for label in labels if isinstance(label, Path)]
    found = unlabelled_in(options.unlabelled, list(own), masks, record.task.reading)
    found.tell(options.unlabelled)
    return found.items


def _labelled_in(task: Task, folder: Path) -> list[Item]:
    """Return the images with labels of the data sets of the task: a folder, and those below it."""
    places = {folder, *(p for file in images_below(folder) for p in file.parents)}
    items: list[Item] = []
    for place in sorted(places - {*folder.parents}):
        try:
            items += task.listed(place)[0]
        except DataError:  # photographs alone: nothing to pair
            continue
    return items


def _consistency(
    learn: Learner, others: Sequence[Item], options: FitOptions, recipe: Recipe, cbs: list[Callback]
) -> Consistency:
    """Return the callback that learns from `others`, by the average among the callbacks `cbs`."""
    (teacher,) = (cb for cb in cbs if isinstance(cb, AverageWeights))
    steps = len(learn.dls.train)
    if recipe.epochs * steps < ENOUGH_STEPS:
        log.warning(
            "%d steps are few for images without labels, and a few make the result much worse than "
            "none: give --epochs %d, for %d steps, or leave --unlabelled out",
            recipe.epochs * steps,
            math.ceil(ENOUGH_STEPS / steps),
            ENOUGH_STEPS,
        )
    record = record_of(learn)
    pixels = Pixels(record.task, record.size, _room(learn, options))
    return Consistency(
        others,
        pixels,
        teacher,
        options.augmenting(record.task).recipe,
        options.seed,
        round(recipe.windows * recipe.epochs),
    )


def _checkpoint(learn: Learner, folder: Path | None) -> dict[str, Any] | None:
    """Return the content of the checkpoint in the first process's folder, or None."""
    path = folder and folder / CHECKPOINT
    data = path.read_bytes() if path and path.is_file() else None
    data = bytes_from_first(data, world(), learn.dls.device)
    where = path or f"the checkpoint of the first process ({CHECKPOINT})"
    return None if data is None else checkpoint.loads(data, where, learn.dls.device)


def _rate(learn: Learner, options: FitOptions) -> float:
    """Return the highest learning rate, from the options, the range test or the recipe."""
    if options.lr != "auto":
        return rate_of(options.lr, learn.lr)
    rate, _, _ = range_test(learn)
    log.info("learning rate %.2e, from the range test", rate)
    return rate


def _resume_precision(learn: Learner, saved: dict[str, Any]) -> None:
    """Train in the precision of the interrupted training, even if another is quicker now."""
    # Checkpoints of earlier versions have no precision; they used the machine's default.
    before = saved.get("precision", record_of(learn).precision)
    if before not in (None, learn.model.precision):
        log.info("training continues in %s, as before the interruption", before)
    learn.model.precision = before


@contextmanager
def _start_at_epoch(learn: Learner, first: int) -> Iterator[None]:
    """Let fastai's loop begin at an epoch; its SkipToEpoch would record the skipped epochs."""

    def epochs() -> None:
        number = first
        while number < learn.n_epoch:  # which a time budget changes
            learn.epoch = number
            learn._with_events(learn._do_epoch, "epoch", CancelEpochException)
            number += 1

    learn._do_fit = epochs
    try:
        yield
    finally:
        del learn._do_fit


def _history_rows(learn: Learner) -> list[dict[str, float]]:
    """Return each epoch's losses, metrics and mean learning rate from the last call of fit."""
    rows, names = learn.recorder.values, learn.recorder.metric_names[1:-1]
    rates = np.array_split(np.array(learn.recorder.lrs, dtype=float), max(1, len(rows)))
    return [
        {**dict(zip(names, map(float, row))), "lr": float(np.mean(rate))}
        for row, rate in zip(rows, rates)
    ]


def _callbacks(learn: Learner, task: Task, recipe: Recipe, patience: int | None) -> list[Callback]:
    """Return the callbacks for training the complete network."""
    chosen = _windows(task, recipe, round(recipe.windows * recipe.epochs))
    if recipe.progressive:
        chosen.append(HalfSize(round(recipe.progressive * recipe.epochs)))
    if recipe.ema:
        chosen.append(AverageWeights(recipe.ema))
    if patience:
        score = learn.recorder.metrics[0].name if learn.metrics else "valid_loss"
        watched = dict(monitor=score, comp=np.less if score == "valid_loss" else np.greater)
        if world().is_first:  # whose weights are exported
            chosen.append(SaveModelCallback(**watched, fname="best"))
        chosen.append(EarlyStoppingCallback(**watched, patience=patience))
    return chosen


def _cheaper_epochs(recipe: Recipe) -> int:
    """Return how many epochs begin with parts of images, or with small ones."""
    return round(max(recipe.windows, recipe.progressive) * recipe.epochs)


def _windows(task: Task, recipe: Recipe, epochs: int) -> list[Callback]:
    if not recipe.windows or not epochs or not task.has_masks:
        return []
    return [Windows(WINDOW_SIDE, epochs, task.background)]


@contextmanager
def _errors_explained(learn: Learner) -> Iterator[None]:
    """Convert torch's errors about batches of one image and about memory into clear ones."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = record_of(learn).size
        bs = learn.dls.train.whole_bs or learn.dls.bs
        raise ModelError(
            f"out of memory with batches of {bs} images of {height}x{width} px: lower "
            f"--bs first, to {max(1, bs // 2)} (or give --bs auto), then --size; on a CPU also "
            "--cache",
            "out-of-memory",
        ) from error
    except ValueError as error:
        if not needs_two_images(error):
            raise
        raise ModelError(
            "this model normalises over a batch and needs 2 images or more in each: raise --bs, "
            "or add training images, or choose --decoder unet",
            "batch-of-one",
        ) from error


@contextmanager
def _silence_libraries() -> Iterator[None]:
    """Silence the libraries' warnings; fastai's prints go to standard error, once."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr if world().is_first else None):
        warnings.filterwarnings("ignore", category=UserWarning, module="torch|fastai|timm")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield

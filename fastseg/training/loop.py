"""Training a learner by fastai's one-cycle policy, and the range test for its rate."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.learner import CancelEpochException, Learner

from ..errors import ModelError
from ..tasks import get
from ..utils.device import is_out_of_memory
from . import checkpoint
from .callbacks import AverageWeights, HalfSize, Reporter, TimeBudget, Windows
from .course import Course, rate_of

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


def range_test(learn: Learner) -> tuple[float, list[float], list[float]]:
    """Return the learning rate that fastai's `lr_find` suggests (its valley), and the rates and losses that it tried.

    The weights are left as they were.
    """
    with _model_dir(learn), learn.no_bar(), learn.no_logging(), _quiet(), _explained(learn):
        suggestion = float(learn.lr_find(show_plot=False).valley)
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return suggestion, rates[: len(losses)], losses


@contextmanager
def _model_dir(learn: Learner, folder: Path | None = None):
    """Let fastai keep weights, for instance the best ones so far, in `folder` or a temporary one, not beside the user's files."""
    before = learn.path
    with tempfile.TemporaryDirectory() as temporary:
        learn.path = folder or Path(temporary)
        try:
            yield
        finally:
            learn.path = before


def train(learn: Learner, course: Course, folder: Path | None = None) -> Learner:
    """Train by fastai's one-cycle policy: first the head alone for `freeze_epochs` if the backbone is pretrained.

    After unfreezing, the backbone learns with a tenth of the rate (its early half) to the full rate (decoder). In `folder` a
    checkpoint is written after each epoch, and where there is one already, training goes on from it: with the same weights in
    the end as without the interruption, on the same CPU.
    """
    start = time.monotonic()
    pretrained = not learn.weights_origin.startswith("random")
    saved = checkpoint.read(folder / CHECKPOINT, learn.dls.device) if folder else None
    if saved:
        _resume_precision(learn, saved)
    lr = (
        saved["lr"]
        if saved
        else range_test(learn)[0]
        if course.lr == "auto"
        else rate_of(course.lr, learn.lr)
    )
    if course.lr == "auto" and not saved:
        log.info("learning rate %.2e, from the range test", lr)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    frozen = course.freeze_epochs if pretrained else 0
    began = start - (saved["seconds"] if saved else 0)
    history = saved["history"] if saved else []
    cbs = [Reporter(), *([MixUp(course.mixup)] if course.mixup else [])]
    with learn.added_cbs(cbs), _model_dir(learn, folder), _quiet(), _explained(learn):
        for stage, epochs in enumerate((frozen, course.epochs)):
            if not epochs or (saved and saved["stage"] > stage):
                continue
            goes_on = saved if saved and saved["stage"] == stage else None
            learn.unfreeze() if stage else learn.freeze()
            left = course.seconds - (time.monotonic() - began) if course.seconds else None
            chosen = _callbacks(learn, course, left) if stage else _windows(learn, course, epochs)
            if folder:
                chosen.append(
                    checkpoint.Checkpoint(
                        folder / CHECKPOINT,
                        stage,
                        goes_on,
                        {"lr": lr, "history": history},
                        began,
                        _rows,
                    )
                )
            with learn.added_cbs(chosen), _beginning(learn, goes_on["epoch"] if goes_on else 0):
                learn.fit_one_cycle(epochs, slice(lr / 10, lr) if stage and pretrained else lr)
            history = [*history, *_rows(learn)]
    if not history:
        raise ModelError(
            "no epoch was trained (head-only epochs need pretrained weights); give --epochs 1 or more",
            "no-epoch",
        )
    learn.history = history
    learn.fitted = {
        **asdict(course),
        "lr": lr,
        "freeze_epochs": frozen,
        "trained_epochs": len(learn.history),
        "seconds": round(time.monotonic() - began, 1),
    }
    return learn


def _resume_precision(learn: Learner, saved: dict) -> None:
    """Train in the precision that the interrupted training had, even if another is measured to be quicker now."""
    before = saved.get(
        "precision", learn.origin.precision
    )  # earlier versions trained in the machine's default
    if before not in (None, learn.model.precision):
        log.info("training goes on in %s, as before the interruption", before)
    learn.model.precision = before


@contextmanager
def _beginning(learn: Learner, first: int):
    """Let fastai's loop begin at an epoch: its own SkipToEpoch would record the epochs that it skips."""

    def epochs():
        for number in range(first, learn.n_epoch):
            learn.epoch = number
            learn._with_events(learn._do_epoch, "epoch", CancelEpochException)

    learn._do_fit = epochs
    try:
        yield
    finally:
        del learn._do_fit


def _rows(learn: Learner) -> list[dict[str, float]]:
    """Return what the last call of fit recorded: each epoch's losses, metrics and mean learning rate."""
    rows, names = learn.recorder.values, learn.recorder.metric_names[1:-1]
    rates = np.array_split(np.array(learn.recorder.lrs, dtype=float), max(1, len(rows)))
    return [
        {**dict(zip(names, map(float, row))), "lr": float(np.mean(rate))}
        for row, rate in zip(rows, rates)
    ]


def _callbacks(learn: Learner, course: Course, seconds: float | None) -> list[Callback]:
    chosen = _windows(learn, course, round(course.windows * course.epochs))
    if course.progressive:
        chosen.append(HalfSize(round(course.progressive * course.epochs)))
    if course.ema:
        chosen.append(AverageWeights(course.ema))
    if course.patience:
        score = learn.recorder.metrics[0].name if learn.metrics else "valid_loss"
        watched = dict(monitor=score, comp=np.less if score == "valid_loss" else np.greater)
        chosen += [
            SaveModelCallback(**watched, fname="best"),
            EarlyStoppingCallback(**watched, patience=course.patience),
        ]
    if seconds is not None:
        chosen.append(TimeBudget(seconds))
    return chosen


def _windows(learn: Learner, course: Course, epochs: int) -> list[Callback]:
    task = get(learn.origin.task) if hasattr(learn, "origin") else None
    if not course.windows or not epochs or task is None or not task.has_masks:
        return []
    return [Windows(0.5, epochs, task.background)]


@contextmanager
def _explained(learn: Learner):
    """Say in fastseg's words what torch says of batches of one image, and of too little memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = learn.origin.size if hasattr(learn, "origin") else ("?", "?")
        raise ModelError(
            f"out of memory with batches of {learn.dls.bs} images of {height}x{width} px: lower --bs first, to "
            f"{max(1, learn.dls.bs // 2)}, then --size; on a CPU also --cache",
            "out-of-memory",
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            "this model normalises over a batch and needs 2 images or more in each: raise --bs, or add training images, "
            "or choose --decoder unet",
            "batch-of-one",
        ) from error


@contextmanager
def _quiet():
    """Silence the libraries' warnings, and keep what fastai prints of best and last epochs off standard output."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.filterwarnings("ignore", category=UserWarning, module="torch|fastai|timm")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield

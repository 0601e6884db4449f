"""progress.json beside the checkpoint: how far a training is, for whoever watches it."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback
from fastai.learner import Learner

from ..exports.card import PROGRESS
from ..utils.io import write_json

PAUSE = 0.5  # s between two writes, at least
FIRST_BATCHES = 2  # of a stage, whose time says little: caches are empty
KEPT = 200  # latest batches whose mean time counts
ENOUGH = 20.0  # s of batches that say what the next ones take, where no epoch is complete yet
CALM = 15.0  # s after which two thirds of a change of the estimate are shown


class ProgressFile(Callback):
    """Write progress.json into a folder while a learner trains.

    `epochs` are those of each stage of the training: of the head alone, and of all. `history` are
    the rows of earlier epochs, and `rows(learn)` gives those of the current stage. "epoch" and
    "epochs" in the file count the current stage, "done" is the share of the whole training.
    """

    order = 95  # after the checkpoint: an epoch that it tells of is kept

    def __init__(
        self,
        folder: Path,
        epochs: Sequence[int],
        history: Sequence[Mapping[str, float]],
        rows: Callable[[Learner], list[dict[str, float]]],
    ):
        self.path, self.epochs, self.rows = folder / PROGRESS, epochs, rows
        self.history = [dict(row) for row in history]
        self.stage = 0
        self.said = 0.0
        self.time = TimeLeft()

    def before_fit(self) -> None:
        # With --freeze, the head alone is trained in the last stage, too.
        self.frozen = self.opt.frozen_idx > 0 and self.epochs[0] > 0
        self.stage = 0 if self.frozen else len(self.epochs) - 1
        self.own: list[dict[str, float]] = []
        self.time.start(time.monotonic())

    def after_batch(self) -> None:
        now = time.monotonic()
        self.time.seen(self.training, now)
        if now - self.said > PAUSE:
            self._write()

    def after_epoch(self) -> None:
        self.own = self.rows(self.learn)
        self._write()

    def after_fit(self) -> None:
        self.history += self.rows(self.learn)
        self.own = []

    def _write(self) -> None:
        self.said = time.monotonic()
        train, valid = len(self.dls.train), len(self.dls.valid)
        batch = self.iter + 1 + (0 if self.training else train)
        before, later = sum(self.epochs[: self.stage]), sum(self.epochs[self.stage + 1 :])
        done = (before + self.epoch) * (train + valid) + batch
        total = (before + self.n_epoch + later) * (train + valid)
        left = self.n_epoch - self.epoch - 1
        loss = float(self.learn.smooth_loss) if self.training else math.nan
        write_json(
            self.path,
            {
                "pid": os.getpid(),
                "time": time.time(),
                "head_only": self.frozen,
                "head_epochs": sum(self.epochs[:-1]),
                "epoch": self.epoch + 1,
                "epochs": self.n_epoch,
                "later_epochs": later,
                "done": round(done / total, 4) if total else 0,
                "batch": batch,
                "batches": train + valid,
                "loss": loss if math.isfinite(loss) else None,
                "history": [_finite(row) for row in (*self.history, *self.own)],
                # what later stages take is not known yet: more of the network learns in them
                "seconds_left": None
                if later
                else self.time.left(
                    left * train + max(0, train - batch),
                    left * valid + min(valid, train + valid - batch),
                    train,
                    self.said,
                ),
            },
        )


class TimeLeft:
    """The seconds that a stage of a training still takes, by the times of its latest batches."""

    def __init__(self) -> None:
        # by whether they trained: those that only judge are quicker
        self.times = {True: deque[float](maxlen=KEPT), False: deque[float](maxlen=KEPT)}
        self.start(0.0)

    def start(self, now: float) -> None:
        """Begin a stage at a time, in s: its training batches take longer than earlier ones."""
        self.times[True].clear()
        self.count = 0
        self.last, self.shown = now, now
        self.end: float | None = None

    def seen(self, is_training: bool, now: float) -> None:
        """Take notice of the end of a batch."""
        self.count += 1
        if self.count > FIRST_BATCHES or not is_training:
            self.times[is_training].append(now - self.last)
        self.last = now

    def left(self, train: int, valid: int, epoch: int, now: float) -> float | None:
        """Return the seconds that so many batches of training and of judging will take.

        None as long as it has no foundation: before a whole epoch of `epoch` training batches was
        seen, or some time of a long one. The estimate follows changes slowly.
        """
        learnt, judged = self.times[True], self.times[False]
        is_founded = learnt and (self.count > epoch + 1 or sum(learnt) >= ENOUGH)
        if not is_founded:
            return None
        each = sum(learnt) / len(learnt)
        other = sum(judged) / len(judged) if judged else each
        end = now + train * each + valid * other
        share = 1 - math.exp((self.shown - now) / CALM)
        self.end = end if self.end is None else self.end + share * (end - self.end)
        self.shown = now
        return round(max(0.0, self.end - now), 1)


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    """Return a row of history for JSON, which has no nan."""
    values: dict[str, Any] = {key: float(value) for key, value in row.items()}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}

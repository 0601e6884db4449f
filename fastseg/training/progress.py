"""progress.json beside the checkpoint: how far a training is, for whoever watches it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback
from fastai.learner import Learner

from ..exports.card import PROGRESS
from ..utils.io import write_json

PAUSE = 0.5  # s between two writes, at least
FIRST_BATCHES = 2  # whose time says little: caches are empty


class ProgressFile(Callback):
    """Write progress.json into a folder while a learner trains.

    `epochs` are those of each stage of the training. `history` are the rows of earlier epochs, and
    `rows(learn)` gives those of the current stage. What is written is what `read` describes.
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
        self.seen: list[float] = []

    def before_fit(self) -> None:
        self.frozen = self.opt.frozen_idx > 0
        self.stage = 0 if self.frozen else len(self.epochs) - 1
        self.own: list[dict[str, float]] = []
        self.seen = [time.monotonic()]

    def after_batch(self) -> None:
        self.seen.append(time.monotonic())
        if self.seen[-1] - self.said > PAUSE:
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
        done = self.epoch * (train + valid) + batch
        later = sum(self.epochs[self.stage + 1 :])
        left = (self.n_epoch + later) * (train + valid) - done
        loss = float(self.learn.smooth_loss) if self.training else math.nan
        write_json(
            self.path,
            {
                "pid": os.getpid(),
                "time": time.time(),
                "head_only": self.frozen,
                "epoch": sum(self.epochs[: self.stage]) + self.epoch + 1,
                # a time budget changes those of the current stage
                "epochs": sum(self.epochs[: self.stage]) + self.n_epoch + later,
                "batch": batch,
                "batches": train + valid,
                "loss": loss if math.isfinite(loss) else None,
                "history": [_finite(row) for row in (*self.history, *self.own)],
                "seconds_left": self._seconds_left(left),
            },
        )

    def _seconds_left(self, batches: int) -> float | None:
        """Return the seconds that so many batches will take, by the times of those seen so far."""
        seen = self.seen[FIRST_BATCHES:] if len(self.seen) > 2 * FIRST_BATCHES else self.seen
        if len(seen) < 2:
            return None
        return round(batches * (seen[-1] - seen[0]) / (len(seen) - 1), 1)


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    """Return a row of history for JSON, which has no nan."""
    values: dict[str, Any] = {key: float(value) for key, value in row.items()}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}

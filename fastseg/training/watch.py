"""The callback that ends a trial early: pruned, out of time, or diverged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastai.callback.core import Callback
from fastai.learner import CancelFitException

if TYPE_CHECKING:
    from .trials import State


TOLERANCE = 1.2  # by which the expected time of a trial may be too long: the first epoch is slow


class Watch(Callback):
    """Keep the score after each epoch, and end the fit if it is not worth its time.

    It ends if `is_below(epoch, score)` says so, if the loss is not a number, or if the time since
    `began` is more than `seconds`, or will clearly be more with the epochs left. `epochs` are those
    of both stages, of the head alone and of the complete network.
    """

    order = 95  # after all callbacks that record or store the epoch

    def __init__(
        self,
        epochs: int,
        began: float,
        seconds: float | None,
        is_below: Callable[[int, float], bool] | None,
    ):
        self.epochs, self.began, self.seconds, self.is_below = epochs, began, seconds, is_below
        self.state: State = "complete"
        self.course: list[float] = []
        self.spent = 0.0  # on epochs
        self.needed: float | None = None
        self.problem = ""

    def before_fit(self) -> None:
        self.last = time.monotonic()
        if self.state != "complete":  # it ended in the stage before
            raise CancelFitException

    def after_epoch(self) -> None:
        if hasattr(self.learn, "lr_finder"):  # the range test
            return
        row = dict(zip(self.recorder.metric_names[1:], self.recorder.values[-1]))
        score = float(row[self.recorder.metrics[0].name])
        self.course.append(score if math.isfinite(score) else 0.0)
        now, done = time.monotonic(), len(self.course)
        self.spent += now - self.last
        self.last = now
        self.needed = now - self.began + (self.epochs - done) * self.spent / done
        if not math.isfinite(float(row["valid_loss"])):
            self._end("failed", "training diverged (the loss is not a number)")
        if self.seconds is not None and (
            self.needed > self.seconds * TOLERANCE or now - self.began > self.seconds
        ):
            self._end("time", f"would take {self.needed:.0f} s")
        if self.is_below and done < self.epochs and self.is_below(done - 1, self.course[-1]):
            self._end("pruned", f"below the median after {done} of {self.epochs} epochs")

    def _end(self, state: State, problem: str) -> None:
        self.state, self.problem = state, problem
        raise CancelFitException

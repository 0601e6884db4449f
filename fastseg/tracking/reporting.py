"""Hands what a fit reports to a tracker, and survives its failures.

A tracker may wait for a network for minutes, or fail in any way. So it works in a thread of its
own. Its first failure is told in one line, and then it is left alone; training goes on.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ..errors import ModelError, brief
from .base import Row, Run, State
from .choice import tracker_class

log = logging.getLogger(__name__)

START_SECONDS = 30.0  # that training waits for a tracker at most: then its place can be told first
FINISH_SECONDS = 60.0  # that a fit waits at its end for what is still to be sent
INTERRUPTED_SECONDS = 10.0  # the same of a fit that was interrupted
PAUSE = 2.0  # s between two times that rows are handed over, at least


class Reporting:
    """A run of a tracker, for one fit. Nothing that it does raises an error after it was made."""

    def __init__(self, name: str, run: Run, opened: Callable[[str], object]):
        """Import the tracker's package. Raises `ModelError` if that cannot be done.

        `opened` is called with the run's id, in the thread.
        """
        self.name, self.opened = name, opened
        try:
            # Here, not in the thread: two threads that import the same libraries can block.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.tracker = tracker_class(name)(run)
        except ImportError as error:
            raise ModelError(
                f"--track {name}: the package cannot be imported ({brief(error)}); install the "
                f"extra again: pip install 'fastseg[{name}]', or leave --track out",
                "broken-tracker",
            ) from error
        self.is_off = False
        self.step = 0  # batches so far
        self.before = 0  # batches of earlier folds
        self._rows: list[Row] = []
        self._handed = time.monotonic()
        self._calls: SimpleQueue[Callable[[], object] | threading.Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"track {name}", daemon=True)

    def start(self) -> None:
        """Open the run, and say where it is written to."""
        self._thread.start()
        self._calls.put(self._open)
        self._wait(START_SECONDS)

    def _open(self) -> None:
        self.opened(self.tracker.start())
        log.info("%s: %s", self.name, self.tracker.place)

    def row(self, values: Mapping[str, float], step: int, epoch: int | None = None) -> None:
        """Add figures; those of batches are handed over every few seconds, and with an epoch."""
        self.step = max(self.step, step)
        self._rows.append(Row(dict(values), step, epoch))
        if epoch is not None or time.monotonic() - self._handed > PAUSE:
            self._hand_over()

    def _hand_over(self) -> None:
        rows, self._rows = self._rows, []
        self._handed = time.monotonic()
        if rows and not self.is_off:
            self._calls.put(lambda: self.tracker.log(rows))

    def export(
        self,
        name: str,
        values: Mapping[str, float],
        pictures: Sequence[Path],
        files: Sequence[Path],
    ) -> None:
        """Add the final figures, the pictures and the files of an export."""
        self._hand_over()
        step = self.step
        self._calls.put(lambda: self.tracker.summarise(values, step))
        for picture in pictures:
            self._calls.put(partial(self.tracker.show, picture.stem, picture, step))
        self._calls.put(lambda: self.tracker.keep(name, files))

    def finish(self, state: State) -> None:
        """Close the run, and wait a limited time until all is sent."""
        self._hand_over()
        self._calls.put(lambda: self.tracker.finish(state))
        seconds = FINISH_SECONDS if state == "finished" else INTERRUPTED_SECONDS
        if not self._wait(seconds):
            log.warning(
                "%s: not everything is sent after %.0f s; the fit does not wait for the rest",
                self.name,
                seconds,
            )
        self.is_off = True
        self._calls.put(None)

    def _wait(self, seconds: float) -> bool:
        """Wait until all calls so far are done; return whether they are."""
        done = threading.Event()
        self._calls.put(done)
        return done.wait(seconds)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if isinstance(call, threading.Event):
                call.set()
                continue
            if self.is_off:
                continue
            try:
                call()
            except BaseException as error:  # whatever a foreign package raises
                if self.is_off:  # the fit has given it up meanwhile, and said so
                    continue
                self.is_off = True
                log.warning(
                    "%s: failed, and is left out from now on; the fit goes on (%s: %s)",
                    self.name,
                    type(error).__name__,
                    brief(error),
                )

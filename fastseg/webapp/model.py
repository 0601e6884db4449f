"""An export that loads on a thread behind the first page, and predicts one image at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AppError, FastsegError, is_out_of_memory

if TYPE_CHECKING:
    from ..inference.predictor import Predictor


class Model:
    """An export that loads on a thread. `state` is "loading", "ready" or "failed"."""

    def __init__(self, folder: Path, stamp: int, device: str | None):
        self.folder, self.stamp, self.state = folder, stamp, "loading"
        self.error: FastsegError | None = None
        self._turn = threading.Condition()  # one prediction at a time: each takes all cores
        self._is_busy, self._people = False, 0
        self._found: Any = None
        self._device = device
        self._thread = threading.Thread(target=self._load, name=f"load {folder}", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        from ..inference.loading import load

        try:
            self._found = load(self.folder, self._device)
            self.state = "ready"
        except FastsegError as error:
            self.error, self.state = error, "failed"
        except (MemoryError, RuntimeError) as error:
            what = "out of memory" if is_out_of_memory(error) else str(error)
            self.error = AppError(f"{self.folder}: cannot be loaded ({what})", "not-ready")
            self.state = "failed"

    def predictor(self) -> Predictor:
        """Return the predictor; waits for it. Raises the error that loading ended with."""
        self._thread.join()
        if self.error:
            raise self.error
        if self._found is None:  # an error of fastseg itself, which the thread printed
            raise AppError(f"{self.folder}: cannot be loaded; see the terminal", "not-ready")
        return self._found

    def call(self, work: Callable[[Predictor], Any], behind: bool = False) -> Any:
        """Return `work(predictor)`, one call at a time.

        Work `behind` the pages lets that of people go first; a plain lock, released and taken
        again at once, would let people wait for all of it.
        """
        predictor = self.predictor()
        with self._turn:
            self._people += not behind
            try:
                self._turn.wait_for(lambda: not (self._is_busy or (behind and self._people)))
            finally:
                self._people -= not behind
            self._is_busy = True
        try:
            return work(predictor)
        finally:
            with self._turn:
                self._is_busy = False
                self._turn.notify_all()

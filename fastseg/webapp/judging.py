"""Figures with intervals of the exports, by `fastseg evaluate`, one after the other."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Container, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.run import FOLDER
from ..exports.card import CARD, METRICS, Card
from ..exports.earlier import AGAIN
from .jobs import NICENESS

if TYPE_CHECKING:
    from ..corrections.log import Correction
    from ..tasks import Task
    from .workspace import Workspace

log = logging.getLogger(__name__)

PAUSE = 1.0  # s between two looks whether a training still runs


class Judging:
    """Evaluates exports in processes of their own, while no training runs."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.failed: dict[tuple[Path, int], str] = {}  # why, by export and time of its card
        self._again: dict[tuple[Path, int], float] = {}  # the corrections that it was wanted for
        self._queue: deque[Path] = deque()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def want(self, export: Path) -> None:
        """Evaluate an export on the images that it held out, unless that was done or failed."""
        with self._lock:
            if export in self._queue or _key(export) in self.failed or self._closed.is_set():
                return
            self._queue.append(export)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="judging")
                self._thread.start()

    def want_again(self, export: Path, corrected: float) -> None:
        """Evaluate an export again, once for labels corrected up to a time, in s since 1970."""
        key = _key(export)
        with self._lock:
            if self._again.get(key, 0) >= corrected:
                return
            self._again[key] = corrected
        self.want(export)

    def is_waiting(self, export: Path) -> bool:
        """Return whether an export is evaluated, or will be."""
        with self._lock:
            return export in self._queue

    def close(self) -> None:
        """End what runs; nothing that counts is lost."""
        self._closed.set()
        with self._lock:
            process, thread = self._process, self._thread
        if process is not None:
            process.kill()
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._closed.is_set():
                    self._thread = None
                    return
                export = self._queue[0]
            while self.workspace.training.is_running and not self._closed.wait(PAUSE):
                pass
            self._evaluate(export)
            with self._lock:
                self._queue.popleft()

    def _evaluate(self, export: Path) -> None:
        command = [sys.executable, "-m", "fastseg", "evaluate", str(export), "--json"]
        with self._lock:
            if self._closed.is_set():
                return
            self._process = process = subprocess.Popen(
                [*command, "--data", str(self.workspace.data)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        with suppress(OSError, AttributeError):  # not on Windows
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        said, _ = process.communicate()
        with self._lock:
            self._process = None
            if process.returncode and not self._closed.is_set():
                self.failed[_key(export)] = _reason(said)


def judged(export: Path) -> dict[str, Any] | None:
    """Return the figures that `evaluate` wrote for an export's held-out images, with intervals."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((export / FOLDER / METRICS).read_text(encoding="utf-8"))
        if found.get("split") == "valid" and "intervals" in found:
            return dict(found)
    return None


def compared(task: Task, export: Path) -> dict[str, Any] | None:
    """Return how an export compares with the one that it was trained on from, see `change`."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((export / AGAIN).read_text(encoding="utf-8"))
        return change(task, found.get("comparison"))
    return None


def change(task: Task, comparison: Any) -> dict[str, Any] | None:
    """Return the paired difference of a comparison of `fit --from`, new minus earlier, in short.

    `difference` and its `interval` (None for one image) are of the task's main figure, on so many
    `images`. None without a comparison.
    """
    with suppress(KeyError, TypeError):  # files may hold anything
        value = task.main_value(comparison["difference"])
        ends = task.main_value(comparison["intervals"])
        if isinstance(value, float):
            interval = None if ends is None else [float(end) for end in ends]
            return {"difference": value, "interval": interval, "images": comparison["images"]}
    return None


def judged_at(export: Path, card: Card) -> float:
    """Return when an export was judged last, in s since 1970; 0 if that is not known."""
    with suppress(OSError):
        if judged(export) is not None:
            return (export / FOLDER / METRICS).stat().st_mtime
    with suppress(ValueError):
        return datetime.fromisoformat(card.created).timestamp()
    return 0


def corrected_at(rows: Iterable[Correction], names: Container[str]) -> float:
    """Return when one of these images was corrected last, in s since 1970; 0 if never."""
    found = 0.0
    for row in rows:
        if row.image in names:
            with suppress(ValueError):
                found = max(found, datetime.fromisoformat(row.when).timestamp())
    return found


def _key(export: Path) -> tuple[Path, int]:
    try:
        return export, (export / CARD).stat().st_mtime_ns
    except OSError:
        return export, 0


def _reason(said: bytes) -> str:
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "it could not be evaluated; see: fastseg evaluate"

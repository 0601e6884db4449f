"""One training at a time, as `fastseg fit` in a process of its own.

The pages only look at files: the process goes on when the browser is closed, and also when the
server is killed; the next server sees it. A server that is closed in order interrupts it, and the
fit keeps its checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import AppError, DataError
from ..exports.card import CARD, PROGRESS, is_unfinished, work_of
from ..exports.earlier import keep as keep_export
from ..utils.io import read_json
from ..utils.locks import write_lock
from ..utils.user_cache import cache_path, make_cache_folder

if TYPE_CHECKING:
    from .workspace import Workspace

log = logging.getLogger(__name__)

NICENESS = 5  # of the training: pages come first, and lose nothing while nobody looks
SECONDS_TO_STOP = 60  # that an interrupted training gets to end; then it is killed
LOG_CHARACTERS = 4000  # of the training's output that the page shows


@dataclass
class Outcome:
    """How the last training of this server ended: "finished", "stopped" or "failed"."""

    state: str
    code: str = ""
    message: str = ""
    corrections: dict[str, Any] = field(default_factory=dict)


class Training:
    """The training of a workspace. All methods are thread-safe."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.out = workspace.out
        self.outcome: Outcome | None = None
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        make_cache_folder()
        self._log = cache_path("training", str(self.out.resolve()))
        self._answer = self._log.with_suffix(".answer")

    # What is going on

    def state(self) -> str:
        """Return "running", "stopping", "elsewhere" (not started here), "interrupted" or "idle"."""
        with self._lock:
            if self._process is not None:
                return "stopping" if self._is_stopping else "running"
        if self.is_busy():
            return "elsewhere"
        return "interrupted" if is_unfinished(self.out) else "idle"

    @property
    def is_running(self) -> bool:
        """Whether a training of this server runs."""
        return self._process is not None

    def is_busy(self) -> bool:
        """Return whether a fit, of whatever process, writes to the export's folder."""
        try:
            with write_lock(self.out):
                return False
        except DataError:
            return True

    def progress(self) -> dict[str, Any] | None:
        """Return what the fit, running or interrupted, wrote last, with its number of the fold."""
        files = sorted(work_of(self.out).glob(f"learner_*/{PROGRESS}"), key=_changed)
        for file in reversed(files):
            with suppress(DataError):  # it may be deleted just now
                return {**read_json(file), "fold": int(file.parent.name.split("_")[1]) + 1}
        return None

    def output(self) -> str:
        """Return the end of what the training of this app printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - LOG_CHARACTERS))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    # What is asked for

    def start(self, arguments: Sequence[str], keep: bool = True) -> None:
        """Start `fastseg fit` with more arguments. With `keep`, an export there is copied first.


        Raises `AppError` if a training runs already, or if the task cannot be trained here.
        """
        task = self.workspace.task
        if task.declared and task.home is None:
            raise AppError(
                f"{task.name} is known from its export alone; start fastseg app with the folder of "
                "its data, which has a task.toml",
                "no-task-file",
            )
        with self._lock:
            if self._process is not None or self.is_busy():
                raise AppError(f"a training to {self.out} runs already; stop it first", "busy")
            if keep and (self.out / CARD).is_file():
                keep_export(self.out)
            command = [
                *(sys.executable, "-m", "fastseg", "fit"),
                *(str(task.home or task.name), "--out", str(self.out), "--json", *arguments),
            ]
            with self._log.open("wb") as said, self._answer.open("wb") as answer:
                self._process = self._started(command, said, answer)
            self.outcome, self._is_stopping = None, False
            threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def stop(self) -> None:
        """Interrupt the training: it keeps its checkpoint. Raises `AppError` if none runs."""
        with self._lock:
            if self._process is not None:
                self._is_stopping = True
                self._process.send_signal(signal.SIGTERM)
                return
        pid = (self.progress() or {}).get("pid")
        if self.is_busy() and isinstance(pid, int) and _is_fit(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            return
        raise AppError("no training runs, or it has not begun yet", "no-training")

    def close(self) -> None:
        """Interrupt the training of this server, if one runs, and wait until it has ended."""
        with self._lock:
            process = self._process
        if process is None:
            return
        log.info("the training is interrupted; it keeps its last checkpoint")
        with suppress(AppError):
            self.stop()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # How it works

    @staticmethod
    def _started(
        command: Sequence[str], said: IO[bytes], answer: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for the server, which passes it on.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        with suppress(OSError, AttributeError):  # not on Windows
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the training, and say how it ended."""
        code = process.wait()
        outcome = self._outcome(code)
        with self._lock:
            if self._is_stopping and outcome.state == "failed":
                outcome = Outcome("stopped")
            self.outcome, self._process = outcome, None
        if code == 0:
            self.workspace.trained()

    def _outcome(self, code: int) -> Outcome:
        try:
            told = json.loads(self._answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        if code == 0:
            return Outcome("finished", corrections=self._corrections(told))
        if "error" not in told:
            last = self.output().strip().rpartition("\n")[2]
            return Outcome("failed", "internal", last or f"the training ended with code {code}")
        error = told["error"]
        if error["code"] == "interrupted":
            return Outcome("stopped")
        return Outcome("failed", error["code"], error["message"], self._corrections(told))

    def _corrections(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what a fit says about earlier corrections, and about the export it began with."""
        from .judging import change

        pins, again = told.get("pins") or {}, told.get("again") or {}
        wanted = ("text", "came_back", "not_learned", "never_trained")
        found = {name: pins[name] for name in wanted if name in pins}
        compared = change(self.workspace.task, again.get("comparison"))
        if not compared:
            return found
        return {**found, "compared": compared, "favour": again["comparison"].get("favour", "")}


def _is_fit(pid: int) -> bool:
    """Return whether a process is one of fastseg, as far as this system can say."""
    try:
        return b"fastseg" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0

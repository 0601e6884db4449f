"""Jobs in this process, or in several processes of this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import FastsegError, ModelError
from ..utils import progress
from ..utils.threads import cores, limit_threads
from .base import MOST_DEATHS, Engine, Work, worker_died

PR_SET_PDEATHSIG = 1  # of prctl(2)
SECONDS_TO_END = 5.0  # that a worker gets to end by itself
Numbered = tuple[int, Any]


@dataclass
class Worker:
    """A process, the pipe to it, and the job that it has; None before it says that it started."""

    process: Any
    pipe: Connection
    job: Numbered | None = None
    has_started: bool = False


class LocalEngine(Engine):
    """`workers` processes of this machine, each with its share of the cores; 1: this process."""

    name = "local"

    def __init__(self, workers: int = 1):
        self.workers, self.is_here = workers, workers == 1
        self._crew: list[Worker] = []

    def run(self, work: Work, jobs: Iterable[Any]) -> Iterator[Numbered]:
        numbered: Iterator[Numbered] = enumerate(jobs)
        first = next(numbered, None)
        if first is None:  # nothing to start a worker for
            return
        numbered = chain([first], numbered)
        if self.is_here:
            call = work.start()
            for number, job in numbered:
                yield number, call(job)
            return
        try:
            yield from self._run_in_processes(work, numbered)
        finally:
            self._dismiss()

    def _run_in_processes(self, work: Work, left: Iterator[Numbered]) -> Iterator[Numbered]:
        again = deque[Numbered]()
        deaths, failed_starts = Counter[int](), 0
        self._crew = [self._hired(work) for _ in range(self.workers)]
        while True:
            idle = [worker for worker in self._crew if worker.has_started and worker.job is None]
            for worker in idle:
                worker.job = again.popleft() if again else next(left, None)
                if worker.job is not None:
                    _send(worker, worker.job)
            if not any(worker.job for worker in self._crew) and (
                idle or all(worker.has_started for worker in self._crew)
            ):
                return
            ready = wait([worker.pipe for worker in self._crew])
            for place, worker in enumerate(self._crew):
                if worker.pipe not in ready:
                    continue
                try:
                    said, value = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    how = _ending(worker.process.exitcode)
                    if not worker.has_started and (worker.process.exitcode or 0) > 0:
                        raise _cannot_start() from None
                    failed_starts += not worker.has_started
                    if worker.job is not None:
                        deaths[worker.job[0]] += 1
                        again.append(worker.job)
                    if failed_starts >= MOST_DEATHS or max(deaths.values(), default=0) >= (
                        MOST_DEATHS
                    ):
                        raise worker_died(how) from None
                    self._crew[place] = self._hired(work)
                    continue
                if said == "failed":
                    raise value
                if said == "done":
                    assert worker.job is not None
                    number, worker.job = worker.job[0], None
                    yield number, value
                worker.has_started = True

    def _hired(self, work: Work) -> Worker:
        """Start a worker. Each is a new Python: forks of a process with threads can hang."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        threads = max(1, cores() // self.workers)
        process = spawn.Process(target=_serve, args=(theirs, work, threads), daemon=True)
        try:
            process.start()
        except RuntimeError as error:  # the caller's script has no guard
            if "bootstrapping" not in str(error):
                raise
            raise _cannot_start() from None
        theirs.close()  # so that the end of the worker ends the pipe
        return Worker(process, ours)

    def __exit__(self, *_: Any) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        """End all workers: idle ones by themselves, the others at once."""
        for worker in self._crew:
            worker.pipe.close()
            if worker.job is not None or not worker.has_started:
                worker.process.terminate()
        for worker in self._crew:
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._crew = []


def _cannot_start() -> ModelError:
    return ModelError(
        "worker processes cannot start: each one imports the script that started them, so the "
        'script must be a file, and call fastseg below if __name__ == "__main__":',
        "no-main-guard",
    )


def _send(worker: Worker, job: Numbered) -> None:
    with suppress(OSError):  # it has died; `wait` reports its pipe next
        worker.pipe.send(job[1])


def _ending(code: int | None) -> str:
    """Return how a process ended, from its exit code."""
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(pipe: Connection, work: Work, threads: int) -> None:
    """Run in a worker: do the jobs that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends workers
    _end_with_parent()
    limit_threads(threads)
    progress.hide()
    try:
        call: Callable[[Any], Any] = work.start()
        answer: tuple[str, Any] = ("started", None)
    except Exception as error:
        answer = ("failed", _sendable(error))
    with suppress(EOFError, ConnectionError):  # the parent is done
        pipe.send(answer)
        while answer[0] != "failed":
            job = pipe.recv()
            try:
                answer = ("done", call(job))
            except Exception as error:
                answer = ("failed", _sendable(error))
            pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    """Return a user's mistake as it is, and a defect as its traceback: not every one pickles."""
    if isinstance(error, (FastsegError, MemoryError)):
        return error
    return RuntimeError(f"in a worker process:\n{traceback.format_exc()}")


def _end_with_parent() -> None:
    """Let the system end this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

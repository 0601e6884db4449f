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
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import FastsegError, ModelError
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
        self.workers = workers
        self._crew: list[Worker] = []

    @property
    def in_process(self) -> bool:
        return self.workers == 1

    def run(self, work: Work, jobs: Iterable[Any]) -> Iterator[Numbered]:
        if self.workers == 1:
            call = work.start()
            for number, job in enumerate(jobs):
                yield number, call(job)
            return
        try:
            yield from self._run_in_processes(work, jobs)
        finally:
            self._end_workers()

    def _run_in_processes(self, work: Work, jobs: Iterable[Any]) -> Iterator[Numbered]:
        left, again = enumerate(jobs), deque[Numbered]()
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
            raise ModelError(
                "a script that uses --workers or workers= must call fastseg below "
                'if __name__ == "__main__": since each worker imports it',
                "no-main-guard",
            ) from None
        theirs.close()  # so that the end of the worker ends the pipe
        return Worker(process, ours)

    def __exit__(self, *_: Any) -> None:
        self._end_workers()

    def _end_workers(self) -> None:
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
    try:
        call: Callable[[Any], Any] = work.start()
        pipe.send(("started", None))
        while True:
            pipe.send(("done", call(pipe.recv())))
    except (FastsegError, MemoryError) as error:
        pipe.send(("failed", error))
    except (EOFError, BrokenPipeError):  # the parent is done
        return
    except Exception:  # a defect: trying again would not help, and not every exception pickles
        pipe.send(("failed", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))


def _end_with_parent() -> None:
    """Let the system end this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

"""What engines and work are."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..errors import DataError, ModelError

# A job that ended this many workers is given up. A convention: more than one worker that was
# stopped from outside, and few enough that a job that always ends its worker does not hold up.
MOST_DEATHS = 8


class Work(Protocol):
    """What workers do. It is pickled and sent to each worker once."""

    def start(self) -> Callable[[Any], Any]:
        """Load what the jobs need, once in each worker; return the function that does one job.

        Jobs and results are pickled. A `FastsegError` of either function ends the run.
        """
        ...


class Engine(ABC):
    """Workers, and how jobs get to them. Used as a context manager; leaving it ends the workers."""

    name: str
    workers: int
    num_gpus: float = 0  # that each worker holds
    is_here = False  # jobs are done in this process, and nothing is pickled

    @abstractmethod
    def run(self, work: Work, jobs: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the job, its result), as jobs end, in any order.

        `jobs` is consumed lazily: few jobs wait in memory. A job whose worker died is given to
        another one. Raises `ModelError` "worker-died" for a job that ends every worker, and the
        `FastsegError` of a worker.
        """

    def run_long(self, work: Work, jobs: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Like `run`, for jobs that take minutes, or that depend on the results of earlier ones.

        A job is taken from `jobs` only when a worker is idle, after the results so far were
        yielded. No worker waits while another one has two jobs.
        """
        return self.run(work, jobs)

    def require_sight(self, *paths: Path) -> None:
        """Raise `DataError` if a machine's workers cannot read all these files and folders."""
        for path in paths:
            node = self.blind_node([Path(os.path.abspath(path))])
            if node is not None:
                raise DataError(
                    f"{path}: machine {node} of the cluster does not have it; put it on a file "
                    "system that all machines mount at the same path, or use --engine local",
                    "not-on-cluster",
                )

    def blind_node(self, paths: Sequence[Path]) -> str | None:
        """Return the name of a machine whose workers cannot read all these paths, if there is one.

        The paths are absolute.
        """
        return None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


def in_order(engine: Engine, work: Work, jobs: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of jobs in the order of the jobs; early ones wait in memory."""
    waiting: dict[int, Any] = {}
    due = 0
    for number, result in engine.run(work, jobs):
        waiting[number] = result
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def worker_died(how: str) -> ModelError:
    """Return the error for workers that end again and again."""
    return ModelError(
        f"worker processes ended again and again ({how}): out of memory? "
        "Give fewer --workers, or a smaller --bs where the command has it",
        "worker-died",
    )

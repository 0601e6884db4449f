"""Threads: how many there may be, and the results of a pool of them in order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

T = TypeVar("T")


def results_in_order(futures: Iterable[Future[T]], count: int) -> Iterator[T]:
    """Yield the futures' results in order; up to `count` of them are submitted ahead.

    `futures` is consumed lazily: if it is a generator that submits work, few results wait
    in memory. An exception of a future is raised where its result would be yielded.
    """
    pending: deque[Future[T]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def cores() -> int:
    """Return how many processor threads this process may compute with.

    That is the limit that was set for it (`--threads`, OMP_NUM_THREADS), or its processors.
    """
    # Another thread may be importing torch: then it has no such function yet.
    torch_count = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if torch_count is not None:
        return torch_count()
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let this process compute with `count` threads."""
    os.environ.update({"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)})
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def ahead(things: Iterable[T], count: int) -> Generator[T, None, None]:
    """Yield from `things`, which a thread of its own computes, up to `count` in advance."""
    iterator, end = iter(things), object()
    with ThreadPoolExecutor(1) as pool:
        futures = (pool.submit(next, iterator, end) for _ in repeat(None))
        try:
            for thing in results_in_order(futures, count):
                if thing is end:
                    return
                yield thing  # type: ignore[misc]  # it is not the end
        finally:
            pool.shutdown(cancel_futures=True)
            getattr(iterator, "close", lambda: None)()

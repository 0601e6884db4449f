"""Results of a thread pool in order, with a bounded number of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
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

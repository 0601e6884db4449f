"""Results of threads in order, with a bounded number of them computed ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def results_in_order(futures: Iterable[Future[T]], count: int) -> Iterator[T]:
    """Yield the futures' results in order, `count` of them under way while one is waited for."""
    pending: deque[Future[T]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()

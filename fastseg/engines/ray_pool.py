"""Long jobs on Ray: a pool of actors, each with one job at a time.

Ray Data takes all jobs at once and may queue two of them for one actor while another is idle.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..utils.threads import limit_threads
from .base import MOST_DEATHS, Work, worker_died
from .ray import Failure, Numbered, _as_result, _explained


class LongActor:
    """One worker. Errors are results: exceptions of an actor would lose their type."""

    def __init__(self, work: Any, threads: int):
        limit_threads(threads)
        self.work = work
        self.call: Callable[[Any], Any] | None = None

    def do(self, packed: bytes) -> bytes:
        """Do one job, and return its result; both are pickled."""
        try:
            self.call = self.call or pickle.loads(self.work).start()
            result = self.call(pickle.loads(packed))
        except Exception as error:
            result = _as_result(error)
        return pickle.dumps(result)


def run_pool(
    work: Work, jobs: Iterable[Any], count: int, threads: int, num_gpus: float
) -> Iterator[Numbered]:
    """Yield (number of the job, its result) as jobs end, of up to `count` actors."""
    import ray

    described = ray.put(pickle.dumps(work))
    hire = ray.remote(num_cpus=threads, num_gpus=num_gpus, max_restarts=0)(LongActor).remote
    left, again = enumerate(jobs), deque[Numbered]()
    deaths = Counter[int]()
    idle: list[Any] = []
    busy: dict[Any, tuple[Numbered, Any]] = {}
    try:
        while True:
            while len(busy) < count:
                job = again.popleft() if again else next(left, None)
                if job is None:
                    break
                actor = idle.pop() if idle else hire(described, threads)
                busy[actor.do.remote(pickle.dumps(job[1]))] = job, actor
            if not busy:
                return
            ready, _ = ray.wait(list(busy), num_returns=1)
            for reference in ready:
                job, actor = busy.pop(reference)
                try:
                    result = pickle.loads(ray.get(reference))
                except ray.exceptions.RayActorError as error:
                    deaths[job[0]] += 1
                    if deaths[job[0]] >= MOST_DEATHS:
                        raise worker_died("killed") from error
                    again.append(job)
                    continue
                except ray.exceptions.RayError as error:
                    raise _explained(error) from error
                idle.append(actor)
                if isinstance(result, Failure):
                    raise result.error
                yield job[0], result
    finally:
        for actor in [*idle, *(actor for _, actor in busy.values())]:
            ray.kill(actor)

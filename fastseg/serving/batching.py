"""Images that wait, and the threads that predict them in batches.

A thread takes whole batches from file to answer, as `Predictor.stream` does. It never waits for
more images than there are, unless `latency` says so: images that came while all threads were busy
are a batch already.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FastsegError, ServeError
from ..utils.choices import INT8
from ..utils.threads import cores
from .exports import Version
from .options import ServeOptions

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from .metrics import Metrics

log = logging.getLogger(__name__)

# (most images of a batch, ms that the first one waits for others), by runtime. On CPUs, four images
# at once take a fifth less work than one by one, and eight hardly less than four (mobilenetv2_100,
# 96 x 128 px: 4.6, 3.6, 3.5 ms an image on one core). To wait for them costs more than it saves:
# under load they are there. On GPUs, a batch is much faster than its images.
DEFAULTS = {"onnx": (4, 0.0), INT8: (4, 0.0), "torch": (8, 5.0)}
SMOOTHING = 0.1  # of the mean seconds an image takes, for Retry-After


@dataclass(eq=False)
class Job:
    """An image to predict. `finish` makes the answer, on the thread that predicts."""

    version: Version
    path: Path
    finish: Callable[[Prediction], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    entered: float = field(default_factory=time.monotonic)
    is_given_up: bool = False  # nobody waits for it any more
    waited: float = 0.0  # s in the queue
    batch: int = 0  # images it was computed with, itself included

    def done(self, result: Any) -> None:
        """Hand a result, or an exception, to the event loop."""
        self.loop.call_soon_threadsafe(self._set, result)

    def _set(self, result: Any) -> None:
        if self.future.done() or self.is_given_up:
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Batcher:
    """The queue of all exports and its threads. `submit` is called on the event loop."""

    def __init__(self, options: ServeOptions, metrics: Metrics):
        self.options, self.metrics = options, metrics
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._is_closed = False
        self._busy = 0  # threads that compute
        self._threads: list[threading.Thread] = []
        self._seconds = 0.0  # that an image takes, a mean of the last ones
        metrics.watch_queue(lambda: len(self._jobs))

    def start(self, workers: int) -> None:
        """Start the threads."""
        for number in range(workers):
            thread = threading.Thread(target=self._work, name=f"predict {number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads when nothing waits any more."""
        with self._ready:
            self._is_closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def require_room(self) -> None:
        """Raise `ServeError` if the queue is full of images that somebody waits for."""
        if len(self._jobs) < self.options.max_queue:
            return
        with self._ready:
            self._jobs = deque(job for job in self._jobs if not job.is_given_up)
        if len(self._jobs) >= self.options.max_queue:
            raise ServeError(
                f"{self.options.max_queue} images wait already; try again later", "queue-full"
            )

    @property
    def retry_after(self) -> int:
        """Seconds after which the images that wait now are probably done."""
        return max(1, math.ceil(len(self._jobs) * self._seconds / max(1, len(self._threads))))

    def submit(self, version: Version, path: Path, finish: Callable[[Prediction], Any]) -> Job:
        """Put an image into the queue. Raises `ServeError` if it is full."""
        loop = asyncio.get_running_loop()
        job = Job(version, path, finish, loop, loop.create_future())
        self.require_room()  # only the event loop adds images
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        return job

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._predict(batch)
            except BaseException as error:  # of the server itself: no thread may be lost to it
                log.exception("a batch of %d failed", len(batch))
                for job in batch:
                    job.done(error)
            finally:
                with self._ready:
                    self._busy -= 1

    def _next_batch(self) -> list[Job]:
        """Wait for images of one version, and return them; none when the queue is closed."""
        with self._ready:
            while True:
                self._ready.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    return []
                first = self._jobs.popleft()
                if not first.is_given_up:
                    break
            runtime = first.version.predictor.runtime
            batch, latency = DEFAULTS[runtime]
            most = self.options.batch or batch
            wait = latency if self.options.latency is None else self.options.latency
            found, end = [first], first.entered + wait / 1000
            self._take(found, most)
            while len(found) < most and not self._is_closed and time.monotonic() < end:
                self._ready.wait(end - time.monotonic())
                self._take(found, most)
            self._busy += 1
        now = time.monotonic()
        for job in found:
            job.waited, job.batch = now - job.entered, len(found)
        return found

    def _take(self, found: list[Job], most: int) -> None:
        """Move images of the same version from the queue to `found`."""
        if len(found) >= most:
            return
        kept: deque[Job] = deque()
        while self._jobs and len(found) < most:
            job = self._jobs.popleft()
            if job.is_given_up:
                continue
            (found if job.version is found[0].version else kept).append(job)
        self._jobs.extendleft(reversed(kept))

    def _predict(self, batch: list[Job]) -> None:
        began = time.monotonic()
        jobs = {job.path: job for job in batch}
        # One image alone may have all cores; else each thread takes one.
        threads = cores() if self._busy == 1 and not self._jobs else 1
        try:
            results = batch[0].version.predictor.predict_batch(
                list(jobs), lambda path, prediction: _finish(jobs[path], prediction), threads
            )
        except Exception as error:
            if len(batch) == 1:
                raise
            log.warning("a batch of %d failed (%s); its images follow alone", len(batch), error)
            for job in batch:  # one of them may be the cause
                try:
                    self._predict([job])
                except Exception as own:
                    job.done(own)
            return
        seconds = (time.monotonic() - began) / len(batch)
        self._seconds += (SMOOTHING if self._seconds else 1) * (seconds - self._seconds)
        self.metrics.batch_size.observe(len(batch))
        for path, fault in results:
            if fault is not None:  # an image that cannot be read; the others are answered already
                jobs[path].done(fault)


def _finish(job: Job, prediction: Prediction) -> None:
    """Hand the answer of an image to who waits for it, or the error why there is none."""
    if job.is_given_up:
        return
    try:
        job.done(job.finish(prediction))
    except FastsegError as error:
        job.done(error)
    except Exception as error:
        log.exception("an answer could not be made")
        job.done(error)

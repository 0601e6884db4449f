"""What the routes need: exports and their files, the queue, the limits, the figures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import FastsegError, ServeError
from ..utils.http import Json
from .answers import JSON, Answer, Asked, answering
from .batching import Batcher
from .bodies import Bodies, Scratch, without_path
from .entrance import failure, trace_of
from .exports import Served, Version
from .keys import Keys
from .metrics import Metrics
from .options import ServeOptions

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0  # between two looks at the files of the exports


class Service:
    """A server's exports, queue, limits and metrics."""

    def __init__(self, exports: Mapping[str, Served], keys: Keys, options: ServeOptions):
        self.exports, self.keys, self.options = exports, keys, options
        self.metrics = Metrics()
        self.batcher = Batcher(options, self.metrics)
        self.bodies, self.scratch = Bodies(options), Scratch()
        self.is_draining = False
        self.failure: Exception | None = None  # why an export could not be loaded at the start
        self.on_loaded: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Load the exports, then look after their files until it is cancelled.

        `failure` is set, and `on_failure` called, if one cannot be loaded.
        """
        try:
            for one in self.exports.values():
                await self._refresh(one)
                if one.fault:
                    raise one.fault
        except Exception as error:
            self.failure = error
            return self.on_failure()
        self.batcher.start(max(one.version.predictor.workers for one in self.exports.values()))
        self.on_loaded()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for one in self.exports.values():
                try:
                    await self._refresh(one)
                except Exception:  # the server goes on with what it has
                    log.exception("export %s: its files could not be looked at", one.name)

    async def _refresh(self, one: Served) -> None:
        result = await run_in_threadpool(one.refresh)
        if result is not None:
            self.metrics.loaded(one, result)

    def readiness(self) -> dict[str, Any]:
        """Return the state of the server and its exports, see `models.Readiness`."""
        states = {
            name: {
                "ready": one.current is not None,
                "model": one.current.model if one.current else None,
                "fault": str(one.fault) if one.fault else None,
            }
            for name, one in self.exports.items()
        }
        ready = all(state["ready"] for state in states.values()) and not self.is_draining
        return {"ready": ready, "draining": self.is_draining, "exports": states}

    async def predict(self, request: Request, version: Version, asked: Asked) -> Response:
        """Return the answer to a request. Raises `FastsegError`."""
        trace = trace_of(request.scope)
        self.batcher.require_room()
        urls = await self.bodies.addresses(request)
        if urls is not None:
            if asked.media != JSON:
                raise ServeError("addresses are answered in JSON; ask for json or rle", "urls-json")
            found = await asyncio.gather(
                *(self._fetched(request, version, asked, url) for url in urls)
            )
            refused = [one for one in found if isinstance(one, FastsegError)]
            full = next((one for one in refused if one.code == "queue-full"), None)
            if full and len(refused) == len(found):  # the client should send all of it again
                raise full
            results = [one.value if isinstance(one, Answer) else failure(one) for one in found]
            return Json({"results": results})
        async with self.scratch.file() as path:
            trace.bytes = await self.bodies.receive(request, path, version.predictor.task)
            answer = await self._computed(request, version, asked, path)
        trace.needs_review = answer.needs_review
        return Response(answer.body, media_type=answer.media)

    async def _fetched(
        self, request: Request, version: Version, asked: Asked, url: str
    ) -> Answer | FastsegError:
        async with self.scratch.file() as path:
            try:
                await self.bodies.fetch(url, path, version.predictor.task)
                return await self._computed(request, version, asked, path)
            except FastsegError as error:
                return error

    async def _computed(
        self, request: Request, version: Version, asked: Asked, path: Any
    ) -> Answer:
        trace = trace_of(request.scope)
        job = self.batcher.submit(version, path, answering(version, asked))
        gone = asyncio.create_task(_until_gone(request))
        try:
            done, _ = await asyncio.wait(
                (job.future, gone),
                timeout=self.options.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if job.future not in done:
                if gone in done:
                    raise ClientDisconnect
                raise ServeError(
                    f"no result within {self.options.timeout:g} s; try again later", "slow-result"
                )
            result: Answer = job.future.result()
        except FastsegError as error:
            raise without_path(error, path) from None
        finally:
            job.is_given_up = True
            gone.cancel()
        trace.queue_ms, trace.batch = round(job.waited * 1000, 1), job.batch
        trace.images += 1
        trace.pixels += result.pixels
        self.metrics.queue_seconds.observe(job.waited)
        self.metrics.images.labels(version.name).inc()
        self.metrics.pixels.labels(version.name).inc(result.pixels)
        return result


async def _until_gone(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""The routes of the server, and what they need: exports, queue, limits, metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Optional

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, PackageLoader
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from .. import __version__
from ..errors import FastsegError, choose
from ..utils.http import Json
from . import models
from .answers import JPEG, JSON, PNG, Answer, Asked, answering, asked_for
from .batching import Batcher
from .bodies import Bodies, Scratch, without_path
from .entrance import Entrance, Trace, dumped, failure, refusal, trace_of
from .exports import Served, Version
from .keys import Keys
from .metrics import Metrics
from .options import ServeError, ServeOptions

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0  # between two looks at the files of the exports
FAILURES: dict[int | str, dict[str, Any]] = {
    code: {"model": models.Failure, "description": text}
    for code, text in {
        400: "A request that cannot be understood.",
        401: "No valid key.",
        403: "Addresses, without --allow-urls.",
        404: "No such export.",
        406: "A media type that is not offered.",
        408: "The body took too long.",
        413: "Too many bytes or pixels.",
        415: "Not an image, or no such type of body.",
        422: "An image that cannot be decoded, or fetched.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "An error of fastseg itself.",
        503: "Not loaded yet, or no result in time.",
    }.items()
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": BINARY["schema"]},
            }
        },
        JSON: {"schema": models.Addresses.model_json_schema()},
    },
}


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
            return Json({"results": found})
        async with self.scratch.file() as path:
            trace.bytes = await self.bodies.receive(request, path, version.predictor.task)
            answer = await self._computed(request, version, asked, path)
        trace.needs_review = answer.needs_review
        return Response(answer.body, media_type=answer.media)

    async def _fetched(self, request: Request, version: Version, asked: Asked, url: str) -> Any:
        async with self.scratch.file() as path:
            try:
                await self.bodies.fetch(url, path, version.predictor.task)
                return (await self._computed(request, version, asked, path)).value
            except FastsegError as error:
                return failure(error)

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


def make_app(service: Service) -> FastAPI:
    """Return the app of a service, with the entrance before all of it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(service.run())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await run_in_threadpool(service.batcher.close)
            service.scratch.close()

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = ServeError("?as= is json, rle, mask or overlay", "bad-request")
        return refusal(error, trace_of(request.scope), service.batcher.retry_after)

    app = FastAPI(
        title="fastseg",
        version=__version__,
        description="Predictions of exports. Errors are JSON: a stable code, and one line of text.",
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Entrance, keys=service.keys, metrics=service.metrics)],
        exception_handlers={
            FastsegError: refuse,
            HTTPException: refuse,
            RequestValidationError: refuse,
        },
    )
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    def schema(model: Any) -> dict[str, Any]:
        return {"model": model, "description": "What was asked for."}

    answers: dict[int | str, dict[str, Any]] = {
        200: schema(models.Result | models.Results) | {"content": {PNG: BINARY, JPEG: BINARY}}
    }

    @app.post(
        "/v1/{export}/predict",
        summary="Predict an image",
        description="The body is an image, a form with one file, or a list of addresses. The "
        "answer is by ?as=: json (measures), rle (measures and run lengths), mask (the file that "
        "fastseg predict writes), overlay (JPEG, or PNG with Accept: image/png); else by Accept.",
        responses={**answers, **FAILURES},
        response_class=Response,
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        export: str,
        form: Annotated[
            Optional[models.Form], Query(alias="as", description="By default, Accept decides.")
        ] = None,
    ) -> Response:
        trace: Trace = trace_of(request.scope)
        name = choose("export", export, service.exports, ServeError, listed=0)
        trace.export = name
        version = service.exports[name].version
        asked = asked_for(form and form.value, request.headers.get("accept"), version)
        trace.form = asked.form
        return await service.predict(request, version, asked)

    @app.get("/v1", summary="The exports", responses={401: FAILURES[401], 503: FAILURES[503]})
    async def exports() -> models.ExportList:
        return models.ExportList(exports=[_info(one.version) for one in service.exports.values()])

    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> models.Health:
        return models.Health(status="ok")

    @app.get(
        "/readyz",
        summary="Whether requests should come: exports are loaded, and the server does not end",
        responses={503: {"model": models.Readiness}},
        response_model=models.Readiness,
    )
    async def readyz() -> Response:
        found = service.readiness()
        return Response(dumped(found), 200 if found["ready"] else 503, media_type=JSON)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        text = await run_in_threadpool(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(await run_in_threadpool(_page, app.openapi()))


def _info(version: Version) -> models.ExportInfo:
    task, card = version.predictor.task, version.predictor.card
    values = {
        "name": version.name,
        "task": task.name,
        "kind": task.kind,
        "classes": card.classes,
        "palette": card.palette,
        "size": version.predictor.size,
        "model": version.model,
    }
    return models.ExportInfo.model_validate(values)


def _page(document: dict[str, Any]) -> str:
    """Return the page of the OpenAPI document; it needs no script and loads nothing."""
    templates = Environment(
        loader=PackageLoader("fastseg.serving", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("docs.html").render(document=document)

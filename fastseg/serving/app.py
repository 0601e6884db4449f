"""The routes of the server, and the page that describes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Optional

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, PackageLoader
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from .. import __version__
from ..errors import FastsegError, ServeError, choose
from . import models
from .answers import JPEG, JSON, PNG, asked_for
from .entrance import Entrance, Trace, dumped, refusal, trace_of
from .exports import Version
from .service import Service

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
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
# image/* is accepted, too; generators of clients do not know such patterns.
BODY = {
    "required": True,
    "content": {
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
    document = app.openapi()  # FastAPI keeps it
    document["components"]["securitySchemes"] = SECURITY
    document["security"] = [*({name: []} for name in SECURITY), *([] if service.keys else [{}])]
    for route in app.routes:  # load balancers ask by HEAD; FastAPI's routes do not know it
        if isinstance(route, Route) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    def schema(model: Any) -> dict[str, Any]:
        return {"model": model, "description": "What was asked for."}

    answers: dict[int | str, dict[str, Any]] = {
        200: schema(models.Result | models.Results) | {"content": {PNG: BINARY, JPEG: BINARY}}
    }

    @app.post(
        "/v1/{export}/predict",
        operation_id="predict",
        summary="Predict an image",
        description="The body is an image (image/* works, too), a form with one file, or a list of "
        "addresses. The answer is by ?as=: json (measures), rle (measures and run lengths), mask "
        "(the file that fastseg predict writes), overlay (JPEG, or PNG with Accept: image/png); "
        "else by Accept.",
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

    @app.get(
        "/v1",
        operation_id="exports",
        summary="The exports",
        responses={401: FAILURES[401], 503: FAILURES[503]},
    )
    async def exports() -> models.ExportList:
        return models.ExportList(exports=[_info(one.version) for one in service.exports.values()])

    @app.get("/healthz", operation_id="healthz", summary="Whether the process answers")
    async def healthz() -> models.Health:
        return models.Health(status="ok")

    @app.get(
        "/readyz",
        operation_id="readyz",
        summary="Whether requests should come: exports are loaded, and the server does not end",
        responses={503: {"model": models.Readiness}},
        response_model=models.Readiness,
    )
    async def readyz() -> Response:
        found = service.readiness()
        return Response(dumped(found), 200 if found["ready"] else 503, media_type=JSON)

    @app.get(
        "/metrics",
        operation_id="metrics",
        summary="Figures for Prometheus",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        text = await run_in_threadpool(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("docs")  # relative: a proxy may serve all of it below a path

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
    schemas = document["components"]["schemas"]
    enums = {name: schema["enum"] for name, schema in schemas.items() if "enum" in schema}
    return templates.get_template("docs.html").render(document=document, enums=enums)

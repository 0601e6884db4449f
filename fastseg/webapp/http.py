"""Requests as calls of plain functions: what was asked, limits of bodies, errors as JSON.

A handler gets an `Asked`, runs on a thread, and returns a JSON value or a Starlette response. It
raises `FastsegError` for what the user can correct.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import AppError, FastsegError, brief
from ..utils.http import Json, limited
from ..utils.io import is_disk_full

if TYPE_CHECKING:
    from .workspace import Workspace

log = logging.getLogger(__name__)

MOST_DIGITS = 100  # of a number in an address: far above any that means something
JSON_BYTES = 2**20  # most bytes of a JSON body, unless the route permits more
# HTTP's status of errors whose code says more than "bad request"
STATUS = {
    "no-such-image": 404,
    "no-such-page": 404,
    "no-such-result": 404,
    "edited-meanwhile": 409,
    "busy": 409,
    "interrupted-fit": 409,
    "too-large": 413,
    "outside-data": 403,
    "not-ready": 503,
    "disk-full": 507,
}


@dataclass(frozen=True)
class Asked:
    """A request: values of its path and query, and the object of its JSON body."""

    workspace: Workspace
    path: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None  # the body of an `upload`

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text from the body or the query. Raises `AppError` if it is none."""
        value = self.body.get(name, self.query.get(name, default))
        if not isinstance(value, str):
            raise AppError(f"{name}: give a text", "bad-request")
        return value

    def number(
        self, name: str, default: float | None = None, low: float = 0, high: float = 1e9
    ) -> float:
        """Return a number from the body or the query. Raises `AppError` outside its limits."""
        value = self.body.get(name, self.query.get(name, default))
        try:
            if isinstance(value, bool):
                raise ValueError
            found = float(value)
        except (TypeError, ValueError):
            raise AppError(f"{name}: give a number", "bad-request") from None
        if not low <= found <= high:
            raise AppError(f"{name}: give a number from {low:g} to {high:g}", "bad-request")
        return found


Handler = Callable[[Asked], Any]


def get(path: str, handler: Handler) -> Route:
    """Return the route of a question: `handler` answers it and changes nothing."""

    async def endpoint(request: Request) -> Response:
        return await _answer(handler, _asked(request))

    return Route(path, endpoint, methods=["GET"])


def post(path: str, handler: Handler, limit: int = JSON_BYTES) -> Route:
    """Return the route of a change, asked for by a JSON object of up to `limit` bytes."""

    async def endpoint(request: Request) -> Response:
        return await _answer(handler, _asked(request, await _json_of(request, limit)))

    return Route(path, endpoint, methods=["POST"])


def upload(path: str, handler: Handler, limit: int) -> Route:
    """Return the route of one file of up to `limit` bytes, sent as the body itself.

    `Asked.file` is a private temporary file, which is deleted after the answer.
    """

    async def endpoint(request: Request) -> Response:
        handle, name = tempfile.mkstemp(prefix="fastseg-")
        file = Path(name)
        try:
            with os.fdopen(handle, "wb") as opened:
                async for chunk in limited(request, limit):
                    _write(opened, chunk)
            return await _answer(handler, _asked(request, file=file))
        finally:
            with suppress(FileNotFoundError):  # the handler may have moved it
                file.unlink()

    return Route(path, endpoint, methods=["POST"])


def _write(opened: IO[bytes], chunk: bytes) -> None:
    try:
        opened.write(chunk)
        opened.flush()
    except OSError as error:
        raise (_disk_full() if is_disk_full(error) else error) from error


def _disk_full() -> AppError:
    return AppError(
        "the disk of the computer on which fastseg app runs is full; free some space there, then "
        "try again",
        "disk-full",
    )


async def _answer(handler: Handler, asked: Asked) -> Response:
    value = await run_in_threadpool(_checked, handler, asked)
    return value if isinstance(value, Response) else Json(value)


def _checked(handler: Handler, asked: Asked) -> Any:
    """Call a handler. Raises `AppError` for numbers that are too long to be any it could mean."""
    texts = [*asked.path.values(), *asked.query.values()]
    if any(_is_too_long(text) for text in texts if isinstance(text, str)):
        raise AppError("a number has too many digits", "bad-request")
    try:
        return handler(asked)
    except (FastsegError, OSError) as error:
        if is_disk_full(error):
            raise _disk_full() from error
        raise


def _is_too_long(text: str) -> bool:
    return len(text) > MOST_DIGITS and text.partition("-")[0].isdecimal()


def _asked(
    request: Request, body: Mapping[str, Any] | None = None, file: Path | None = None
) -> Asked:
    return Asked(
        request.app.state.workspace,
        request.path_params,
        dict(request.query_params),
        body or {},
        request.headers,
        file,
    )


async def _json_of(request: Request, limit: int) -> Mapping[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise AppError("the body is not application/json", "bad-request")
    body = await body_of(request, limit)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise AppError("the body is not JSON", "bad-request") from None
    if not isinstance(value, dict):
        raise AppError("the body is not a JSON object", "bad-request")
    return value


async def body_of(request: Request, limit: int) -> bytes:
    """Return a request's body. Raises `AppError` if it has more bytes than `limit`."""
    return b"".join([chunk async for chunk in limited(request, limit)])


def error_response(error: Exception, status: int | None = None) -> Response:
    """Return an error as {"error": {"code", "message"}}, with HTTP's status."""
    if isinstance(error, FastsegError):
        status = status or STATUS.get(error.code, 400)
        told = {"code": error.code, "message": str(error)}
        return Json({"error": told, **error.details}, status)
    if isinstance(error, HTTPException):
        code = {404: "no-such-page", 405: "wrong-method"}.get(error.status_code, "bad-request")
        return Json({"error": {"code": code, "message": brief(error.detail)}}, error.status_code)
    return Json(
        {"error": {"code": "internal", "message": "an error of fastseg itself; see the terminal"}},
        500,
    )


async def told(request: Request, error: Exception) -> Response:
    """Answer with an error as JSON; Starlette logs the ones that are not the user's."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    return error_response(error)

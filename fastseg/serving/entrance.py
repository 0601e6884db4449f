"""What every request passes first: its id, its key, its line in the log, its metrics.

Errors become {"error": {"code", "message"}} with HTTP's status here.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import DataError, FastsegError, FetchError, ServeError, brief
from ..utils.http import Json
from .keys import Keys
from .logs import FIELDS
from .metrics import Metrics

log = logging.getLogger("fastseg.serving.requests")

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")  # without a key
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # of a request, if the client gives one
GONE = 499  # the client has left; nginx's number, for log and metrics only
STATUS = {  # of errors whose code says more than their class
    "wrong-key": 401,
    "no-urls": 403,
    "no-such-page": 404,
    "unknown-export": 404,
    "wrong-method": 405,
    "not-offered": 406,
    "slow-body": 408,
    "too-large": 413,
    "not-an-image": 415,
    "wrong-content-type": 415,
    "queue-full": 429,
    "uploads-full": 429,
    "not-loaded": 503,
    "slow-result": 503,
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@dataclass
class Trace:
    """What the log says of a request; handlers fill it in."""

    id: str
    export: str | None = None
    form: str | None = None
    bytes: int | None = None  # of the image
    images: int = 0
    pixels: int = 0
    queue_ms: float | None = None
    batch: int | None = None
    needs_review: bool | None = None
    error: str | None = None  # its code


def trace_of(scope: Mapping[str, Any]) -> Trace:
    """Return the trace of a request."""
    found: Trace = scope["fastseg.trace"]
    return found


def status_of(error: FastsegError) -> int:
    """Return HTTP's status of an error."""
    # 422: an image that cannot be used, or fetched
    fallback = 422 if isinstance(error, (DataError, FetchError)) else 400
    return STATUS.get(error.code, fallback)


def failure(error: Exception) -> dict[str, Any]:
    """Return an error as JSON: {"error": {"code", "message"}}."""
    if isinstance(error, FastsegError):
        return {"error": {"code": error.code, "message": str(error)}}
    return {"error": {"code": "internal", "message": "an error of fastseg itself; see its log"}}


def refusal(error: Exception, trace: Trace, retry_after: int | None = None) -> Response:
    """Return the answer to a request that failed, and note its code."""
    if isinstance(error, HTTPException):
        code = {404: "no-such-page", 405: "wrong-method"}.get(error.status_code, "bad-request")
        error = ServeError(brief(error.detail), code)
    value = failure(error)
    trace.error = value["error"]["code"]
    status = status_of(error) if isinstance(error, FastsegError) else 500
    answer = Json(value, status)
    if status in (429, 503):
        answer.headers["Retry-After"] = str(retry_after or 1)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


class Entrance:
    """ASGI middleware; see the module's text."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics):
        self.app, self.keys, self.metrics = app, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send) if scope["type"] == "lifespan" else None
        began, headers = time.monotonic(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        trace = Trace(given if ID.fullmatch(given) else secrets.token_hex(8))
        scope["fastseg.trace"] = trace
        status = GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                found = MutableHeaders(scope=message)
                found["X-Request-ID"] = trace.id
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
            await send(message)

        app = self.app
        if self.keys and scope["path"] not in OPEN and not self.keys.admit(headers):
            wrong = ServeError(
                "give a key, as Authorization: Bearer KEY or X-API-Key: KEY", "wrong-key"
            )
            app = refusal(wrong, trace)
        try:
            await app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception as error:
            log.exception("request %s failed", trace.id)
            if status == GONE:  # no answer was begun
                await refusal(error, trace)(scope, receive, send_with_headers)
        finally:
            self._note(scope, trace, status, time.monotonic() - began)

    def _note(self, scope: Scope, trace: Trace, status: int, seconds: float) -> None:
        export = trace.export or ""
        self.metrics.requests.labels(export, str(status)).inc()
        self.metrics.seconds.labels(export).observe(seconds)
        if scope["path"] in OPEN and status == 200:
            return  # probes come every few seconds
        route = getattr(scope.get("route"), "path", None)  # a path could be anything
        fields = {
            "event": "request",
            "id": trace.id,
            "method": scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other",
            "route": route,
            "export": trace.export,
            "code": status,
            "error": trace.error,
            "form": trace.form,
            "bytes": trace.bytes,
            "images": trace.images,
            "pixels": trace.pixels,
            "queue_ms": trace.queue_ms,
            "batch": trace.batch,
            "needs_review": trace.needs_review,
            "ms": round(seconds * 1000, 1),
        }
        log.info("request", extra={FIELDS: fields})


def dumped(value: Any) -> bytes:
    """Return a JSON value as bytes."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")

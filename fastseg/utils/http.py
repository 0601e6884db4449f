"""What the two servers share, `fastseg app` and `fastseg serve`: ports, uvicorn, bodies with a
limit, the comparison of secrets.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from ..errors import AppError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

BACKLOG = 256  # connections that wait to be accepted


class Json(JSONResponse):
    """JSON in ASCII: file names that are not UTF-8 have no other form in it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def same(given: str, secret: str) -> bool:
    """Compare in a time that does not depend on where the texts differ."""
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


def is_address(name: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server at `host`."""
    name = host.strip("[]").lower()
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def address_of(host: str, port: int) -> str:
    """Return the URL of a server; for every address of this machine, the machine's name."""
    shown = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    return f"http://{shown}:{port}/"


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises `AppError` if that is not possible."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends small parts at once (TCP_NODELAY) only where the protocol is named. Else the
        # end of an answer waits for the client's delayed acknowledgement: 40 ms on Linux.
        found = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(BACKLOG)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise AppError(
            f"{host}:{port}: cannot be used ({error.strerror or error}); "
            "choose another --port, or leave it out",
            "port",
        ) from None
    return found


def uvicorn_server(
    app: ASGIApp, started: Callable[[], None], seconds_to_end: float, **options: Any
) -> uvicorn.Server:
    """Return a uvicorn server that calls `started` when it answers, and gives open requests
    `seconds_to_end` when it is closed. `options` are more of `uvicorn.Config`.
    """
    import uvicorn

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    return Announced(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=int(seconds_to_end),
            **options,
        )
    )


async def limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the chunks of a body. Raises `AppError` once there are more bytes than `limit`."""
    said = request.headers.get("content-length", "0")
    count = int(said) if said.isdecimal() else 0
    too_large = AppError(f"the limit is {limit / 2**20:.3g} MiB", "too-large")
    if count > limit:
        raise too_large
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > limit:
            raise too_large
        yield chunk

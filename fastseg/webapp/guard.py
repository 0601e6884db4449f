"""Who may ask: each request passes here before any page sees it.

- The Host must be one of this server (against DNS rebinding).
- Other sites may not ask at all, and a change must come from a page of this server (against CSRF):
  Origin and Sec-Fetch-Site, which browsers send and pages cannot set, say so. A program shows the
  token as `Authorization: Bearer TOKEN`, which no other site can.
- Whoever asks has the cookie that the token of the printed URL, or the password, gave.

All answers forbid inline scripts and styles, framing, and guessing of types.
"""

from __future__ import annotations

import secrets
import socket
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import AppError
from ..utils.http import is_address, is_loopback, same
from .http import error_response

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "worker-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: browsers would send the Origin "null" with forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
OPEN = ("/login", "/static/app.css", "/static/tokens.css", "/static/favicon.svg")
SAFE = ("GET", "HEAD")
LONGEST_PORT = 5  # digits


class Keys:
    """What opens the app: the token of the URL or a password, and the cookie that they give."""

    def __init__(self, port: int, password: str | None = None):
        self.token = secrets.token_urlsafe(24)
        self.password = password
        self._session = secrets.token_urlsafe(32)
        # Browsers send the cookies of all ports of a host, so the port is in the name.
        self.cookie = f"fastseg_{port}"

    def has_cookie(self, header: str) -> bool:
        """Return whether a Cookie header has this server's cookie."""
        pairs = (part.strip().partition("=") for part in header.split(";"))
        return any(name == self.cookie and same(value, self._session) for name, _, value in pairs)

    def has_token(self, header: str) -> bool:
        """Return whether an Authorization header has the token."""
        kind, _, value = header.partition(" ")
        return kind.lower() == "bearer" and same(value.strip(), self.token)

    def admit(self, response: Response) -> Response:
        """Give the cookie along with a response."""
        response.set_cookie(self.cookie, self._session, httponly=True, samesite="strict", path="/")
        return response


class Hosts:
    """The values of the Host header that mean this server."""

    def __init__(self, host: str, port: int):
        self.names = {"127.0.0.1", "localhost", "::1", host.strip("[]").lower()}
        self.port = port
        self.is_loopback = is_loopback(host)
        if not self.is_loopback:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def has(self, header: str) -> bool:
        """Return whether a Host header means this server."""
        name, port = _host_and_port(header)
        if port != self.port:
            return False
        # An address cannot be rebound, only a name can.
        return name in self.names or (not self.is_loopback and is_address(name))


def _host_and_port(header: str) -> tuple[str, int]:
    name, found, port = header.rpartition(":")
    if not found or not port.isdecimal() or header.endswith("]"):
        name, port = header, "80"
    # int() raises ValueError for thousands of digits; no port has more than 5
    number = int(port) if len(port) <= LONGEST_PORT else 0
    return name.strip("[]").lower(), number


class Guard:
    """ASGI middleware that lets only permitted requests through; see the module's text."""

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Hosts):
        self.app, self.keys, self.hosts = app, keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no page uses web sockets
            return None
        headers = Headers(scope=scope)
        response = self._refusal(scope, headers)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
                found.setdefault("Cache-Control", "no-store")
            await send(message)

        await (response or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that may not pass; None if it may."""
        if not self.hosts.has(headers.get("host", "")):
            return error_response(
                AppError("this is not the host of this server", "wrong-host"), 421
            )
        path, is_safe = scope["path"], scope["method"] in SAFE
        has_token = self.keys.has_token(headers.get("authorization", ""))
        if not has_token and self._is_foreign(headers, is_safe):
            return error_response(
                AppError("this request came from another site", "other-site"), 403
            )
        if has_token or path in OPEN or self.keys.has_cookie(headers.get("cookie", "")):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if is_safe and self.keys.password is None and given and same(given, self.keys.token):
            # Not a redirect: after a link from another site, the browser would follow it without
            # the new cookie, which is for this site only.
            return self.keys.admit(HTMLResponse(_entered(path)))
        if path.startswith("/api/"):
            return error_response(AppError("log in first", "not-logged-in"), 401)
        if self.keys.password is not None:
            return RedirectResponse("/login", 303)
        return HTMLResponse(_CLOSED, 401)

    def _is_foreign(self, headers: Headers, is_safe: bool) -> bool:
        """Return whether a request comes from another site, or a change from an unknown one."""
        site = headers.get("sec-fetch-site")
        if is_safe:  # a link to a page may come from anywhere, pictures and answers may not
            is_link = headers.get("sec-fetch-mode") == "navigate"
            return site in ("cross-site", "same-site") and not is_link
        origin = headers.get("origin")
        if origin is not None:
            scheme, _, place = origin.partition("://")
            return scheme not in ("http", "https") or place != headers.get("host")
        return site != "same-origin"


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>fastseg</title>'
    '<meta name="viewport" content="width=device-width">'
    '<link rel="icon" href="/static/favicon.svg"><link rel="stylesheet" '
    'href="/static/tokens.css"><link rel="stylesheet" href="/static/app.css">{head}'
    "<main><h1>fastseg</h1><p>{text}</p></main></html>"
)
_CLOSED = _PAGE.format(
    head="", text="Open the address that <code>fastseg app</code> printed in the terminal."
)


def _entered(path: str) -> str:
    inside = path if path.isascii() and path.replace("/", "").isalnum() else "/"
    return _PAGE.format(
        head=f'<meta http-equiv="refresh" content="0;url={inside}">',
        text=f'<a href="{inside}">Go on</a>',
    )

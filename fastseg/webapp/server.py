"""The server of the app: puts the pages together, binds a port, and ends in order."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from .. import __version__
from ..corrections.locate import require_files
from ..errors import AppError, FastsegError
from ..utils.http import address_of, bound, is_loopback, uvicorn_server
from ..utils.progress import hidden
from .guard import Guard, Hosts, Keys
from .http import error_response, told
from .login import login_routes
from .page import Page, pages
from .workspace import Workspace

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
# The first free one of these, if none is asked for: what a browser keeps belongs to the port, such
# as strokes that a killed server never got.
PORTS = range(8765, 8785)
SECONDS_TO_END = 5  # that open requests get when the server is closed


def environment() -> Environment:
    """Return the environment of the app's templates, which escapes every name."""
    found = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("fastseg.webapp", "templates"),
                PackageLoader("fastseg.report", "templates"),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["version"] = __version__
    return found


def make_app(workspace: Workspace, keys: Keys, hosts: Hosts) -> Starlette:
    """Return the app of a workspace: its pages, their requests, the guard before all of them."""
    templates = environment()
    routes: list[BaseRoute] = [
        Route("/", lambda request: RedirectResponse(first_page(workspace).address, 303)),
        Route("/static/tokens.css", _tokens(templates)),
        Mount("/static", StaticFiles(directory=str(files("fastseg.webapp") / "static"))),
        *login_routes(keys, templates),
    ]
    for page in pages():
        routes += page.routes
        if page.has_page:
            routes.append(Route(page.address, _page_endpoint(page, templates)))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await run_in_threadpool(workspace.close)

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, keys=keys, hosts=hosts)],
        exception_handlers={FastsegError: told, HTTPException: _not_found(templates), 500: told},
    )
    app.state.workspace = workspace
    return app


def first_page(workspace: Workspace) -> Page:
    """Return the page that opens first."""
    return next(page for page in pages() if page.in_nav and page.has_page)


def render(templates: Environment, name: str, **values: Any) -> HTMLResponse:
    """Return a template as a response; bytes of names that are not UTF-8 become "?"."""
    text = templates.get_template(name).render(**values)
    return HTMLResponse(text.encode("utf-8", "replace"))


def _page_endpoint(page: Page, templates: Environment) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        workspace: Workspace = request.app.state.workspace
        audit = workspace.audit()
        return render(
            templates,
            f"{page.name}.html",
            page=page,
            nav=[one for one in pages() if one.in_nav and (one.in_audit or not audit)],
            workspace=workspace,
            task=workspace.task,
            audit=audit,
            **page.context(workspace),
        )

    return endpoint


def _tokens(templates: Environment) -> Callable[[Request], Response]:
    """Return the endpoint of the colours, which are those of the report."""
    text = templates.get_template("tokens.css").render()
    return lambda request: Response(
        text, media_type="text/css", headers={"Cache-Control": "no-cache"}
    )


def _not_found(templates: Environment) -> Callable[[Request, Exception], Any]:
    async def endpoint(request: Request, error: Exception) -> Response:
        is_page = request.method == "GET" and not request.url.path.startswith(("/api/", "/static/"))
        if not is_page:
            return error_response(error)
        text = templates.get_template("missing.html").render(nav=[p for p in pages() if p.in_nav])
        return HTMLResponse(text, 404)

    return endpoint


class Server:
    """A server that has its port, and does not answer yet. `url` opens the app."""

    def __init__(
        self,
        workspace: Workspace,
        host: str = HOST,
        port: int | None = None,
        password: str | None = None,
    ):
        if not is_loopback(host) and not password:
            raise AppError(
                f"--host {host}: other machines would reach the app; give --password too",
                "password-needed",
            )
        self.workspace = workspace
        self._socket = _bound_to_any(host) if port is None else bound(host, port)
        self._running: uvicorn.Server | None = None
        self.port: int = self._socket.getsockname()[1]
        self.keys = Keys(self.port, password)
        self.address = address_of(host, self.port)
        self.app = make_app(workspace, self.keys, Hosts(host, self.port))

    @property
    def url(self) -> str:
        """The address to open; with the token, unless there is a password."""
        return self.address if self.keys.password else f"{self.address}?token={self.keys.token}"

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Answer until Ctrl-C or SIGTERM; `started` is called when the app can be opened."""
        self._running = uvicorn_server(self.app, started, SECONDS_TO_END)
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: self.stop())  # the terminal was closed
        try:
            with hidden():  # bars of threads would draw over each other
                self._running.run(sockets=[self._socket])
        except KeyboardInterrupt:  # uvicorn repeats the signal when all is closed
            pass
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Let `run`, on another thread, end."""
        if self._running is not None:
            self._running.should_exit = True


def _bound_to_any(host: str) -> socket.socket:
    """Return a socket that listens at the first free port of `PORTS`, or at any other."""
    for port in PORTS:
        with suppress(AppError):
            return bound(host, port)
    return bound(host, 0)


def open_app(
    name: str | None = None,
    data: Path | str | None = None,
    *,
    export: Path | str | None = None,
    host: str = HOST,
    port: int | None = None,
    password: str | None = None,
    device: str | None = None,
) -> Server:
    """Return the server of a task, a data folder or an export; `run` starts it.

    Raises `FastsegError` kinds.
    """
    workspace = Workspace.opened(name, data, export, device)
    try:
        require_files(workspace.task, workspace.data)
        return Server(workspace, host, port, password)
    except FastsegError:
        workspace.close()
        raise

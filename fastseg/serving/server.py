"""The server of `fastseg serve`: its port, connections that are never used, and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import ServeError
from ..utils.http import address_of, bound, is_loopback, uvicorn_server
from ..utils.progress import hidden
from .exports import served
from .keys import VARIABLE, read_keys
from .options import ServeOptions, require_packages

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
SECONDS_TO_END = 30  # that open requests get when the server is closed
KEEP_ALIVE = 15  # s that a connection may wait for its next request
HEADER_SECONDS = 20.0  # s for a request's header to arrive; above `KEEP_ALIVE`
ANSWER_SECONDS = 120.0  # s for a client to take an answer
LOOK_SECONDS = 1.0  # between two looks at the connections
FILES = 65_536  # open files that the process may have, if the system lets it


class Server:
    """A server that has its port, and does not answer yet. `address` is its URL."""

    def __init__(
        self,
        exports: Sequence[str],
        host: str = HOST,
        port: int = PORT,
        key_file: Path | None = None,
        no_keys: bool = False,
        options: ServeOptions | None = None,
    ):
        require_packages()
        from .app import make_app
        from .service import Service

        keys, options = read_keys(key_file), options or ServeOptions()
        if not is_loopback(host) and not keys and not no_keys:
            raise ServeError(
                f"--host {host}: other machines would reach the server; give --key-file or "
                f"{VARIABLE}, or --no-keys if something else guards it",
                "keys-needed",
            )
        found = served(exports, options)
        self._socket = bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.address = address_of(host, self.port)
        self.service = Service(found, keys, options)
        self.app = make_app(self.service)
        self._running: Any = None

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Answer until Ctrl-C or SIGTERM; `started` is called when exports are loaded.

        Raises the `FastsegError` of an export that cannot be loaded at the start.
        """
        # h11, whatever else is installed: it limits the size of headers
        running = uvicorn_server(
            self.app,
            lambda: None,
            SECONDS_TO_END,
            http="h11",
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._running = running
        setattr(running, "handle_exit", self._on_signal)  # noqa: B010 - a method of its class
        self.service.on_loaded, self.service.on_failure = started, self.stop
        _permit_files()
        try:
            with hidden():
                asyncio.run(self._serve(running))
        except KeyboardInterrupt:  # uvicorn repeats the signal when all is closed
            pass
        finally:
            self._socket.close()
            self.service.scratch.close()
        if self.service.failure is not None:
            raise self.service.failure

    async def _serve(self, running: Any) -> None:
        looking = asyncio.create_task(_close_unused(running.server_state.connections))
        try:
            await running.serve(sockets=[self._socket])
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    def stop(self) -> None:
        """Let `run`, on another thread, end."""
        self.service.is_draining = True
        if self._running is not None:
            self._running.should_exit = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Let probes see that the server ends, for `drain` seconds; a second signal ends it now."""
        is_first = not self.service.is_draining
        self.service.is_draining = True
        if is_first and self.service.options.drain:
            timer = threading.Timer(self.service.options.drain, self.stop)
            timer.daemon = True
            timer.start()
        else:
            self.stop()


async def _close_unused(connections: set[Any]) -> None:
    """Close connections whose next request, or whose client's reading of an answer, takes too long.

    uvicorn limits neither the time of a header nor that of reading.
    """
    since: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        for one in list(connections):
            cycle = one.cycle
            if cycle is not None and not cycle.response_complete:  # it is in a handler's hands
                since.pop(one, None)
                continue
            known, start = since.get(one, (None, now))
            if one not in since or known is not cycle:
                since[one] = (cycle, now)
                continue
            is_reading = one.transport.get_write_buffer_size() > 0
            if now - start > (ANSWER_SECONDS if is_reading else HEADER_SECONDS):
                one.transport.abort()


def _permit_files() -> None:
    """Let the process open as many files as it may: each connection is one."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))

"""One run at a time writes to a destination, wherever it is and on whichever machine runs."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import DataError, FastsegError
from ..utils.storage import Store
from .shards import STATE

LOCK = f"{STATE}/lock"
BEAT, STALE = 15.0, 60.0  # seconds between signs of life; without one for so long, a lock is free


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Hold the lock of a destination: a file there, renewed while the run lives.

    Raises `DataError` "busy" if another run holds it. The lock of a run that was killed is free at
    once on its own machine, and after a minute on others.
    """
    token = secrets.token_hex(8)
    if not store.create(LOCK, _sign(token)):
        data = store.read_if_there(LOCK)
        if data is not None and _is_alive(data):
            raise DataError(
                f"{store.place}: another fastseg run is writing there; wait until it is done, or "
                f"choose another --out (after a crash of its machine, wait {STALE:.0f} s)",
                "busy",
            )
        store.write(LOCK, _sign(token))
    stopped = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, token, stopped), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stopped.set()
        beating.join()
        store.delete(LOCK)


def _sign(token: str) -> bytes:
    facts = {"token": token, "host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({**facts, "time": f"{time.time():.3f}"}).encode()


def _beat(store: Store, token: str, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT):
        try:
            store.write(LOCK, _sign(token))
        except FastsegError:  # the network is down for a moment: the run itself will notice
            continue


def _is_alive(data: bytes) -> bool:
    try:
        facts: dict[str, Any] = json.loads(data)
        host, pid, then = facts["host"], int(facts["pid"]), float(facts["time"])
    except (ValueError, KeyError, TypeError):
        return False
    if host == socket.gethostname():
        return _runs(pid)
    return time.time() - then < STALE


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

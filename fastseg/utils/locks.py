"""Locks: one run at a time writes to a file or folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DataError
from .user_cache import writable_cache_path


@contextmanager
def write_lock(place: Path) -> Iterator[None]:
    """Hold `place`, a file or folder to be written, against other runs on this machine; a run that dies lets go of it.

    Raises `DataError` if another run holds it.
    """
    lock = FileLock(writable_cache_path("lock", str(place.resolve())), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{place}: another fastseg run is writing there; wait until it is done, or choose another --out",
            "busy",
        ) from None
    try:
        yield
    finally:
        lock.release()

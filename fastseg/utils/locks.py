"""Locks: one run at a time writes to a file or folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DataError
from .user_cache import cache_path, make_cache_folder


@contextmanager
def waiting_lock(place: Path, seconds: float) -> Iterator[None]:
    """Hold a lock of `place` like `write_lock`, but wait up to so many seconds for it.

    For short work, such as saving one file. It is another lock than that of `write_lock`.
    """
    make_cache_folder()
    lock = FileLock(cache_path("lock", "short", str(place.resolve())), timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{place}: another fastseg process has been writing there for {seconds:.0f} s; "
            "try again",
            "busy",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_lock(place: Path) -> Iterator[None]:
    """Hold the lock of `place`, a file or folder, against other runs on this machine.

    The lock file is in the user's cache, not next to `place`. The system releases it when the
    process ends, even if it crashes. Raises `DataError` at once if another run holds the lock.
    """
    make_cache_folder()
    lock = FileLock(cache_path("lock", str(place.resolve())), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{place}: another fastseg run is writing there; "
            "wait until it is done, or choose another --out",
            "busy",
        ) from None
    try:
        yield
    finally:
        lock.release()

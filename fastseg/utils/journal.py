"""Runs beside each other and after an interruption: one run at a time writes to a place, and finished work is known again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from ..errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")
FORGOTTEN = 30 * 86400  # seconds after which the journal of a run that nobody finished is removed


def cached_path(name: str, *parts: object) -> Path:
    """Return a path in the user's cache, which need not exist yet, named by what `parts` are."""
    key = hashlib.sha256(
        json.dumps(parts, sort_keys=True, default=str).encode(errors="surrogateescape")
    ).hexdigest()[:32]
    return user_cache_path("fastseg") / f"{key}.{name}"


def _private(name: str, *parts: object) -> Path:
    """Return a path in the user's cache, named by what `parts` are; the user's own folders are not littered."""
    path = cached_path(name, *parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder of your own",
            "not-writable",
        ) from None
    return path


@contextmanager
def claimed(place: Path) -> Iterator[None]:
    """Hold `place`, a file or folder to be written, against other runs on this machine; a run that dies lets go of it.

    Raises `DataError` if another run holds it.
    """
    lock = FileLock(_private("lock", str(place.resolve())), timeout=0)
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


class Journal:
    """What a long run has finished, one JSON line a piece: a run of the same `what` that was interrupted goes on from there.

    `done` maps keys, see `stamp`, to what `add` was given for them. Leaving it without an error removes it: the run is done.
    """

    def __init__(self, *what: object):
        self.path = _private("journal", *what)
        self.done: dict[str, object] = {}
        for old in self.path.parent.glob("*.journal"):
            if time.time() - old.stat().st_mtime > FORGOTTEN:
                old.unlink(missing_ok=True)
        if self.path.is_file():
            with self.path.open(encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    try:
                        key, value = json.loads(line)
                    except ValueError:  # the line that was being written when the run died
                        continue
                    self.done[key] = value

    def __enter__(self) -> Journal:
        self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
        self._file.write("\n" if self.done else "")  # ends a line that was cut off
        return self

    def __exit__(self, kind, *_) -> None:
        self._file.close()
        if kind is None:
            self.path.unlink(missing_ok=True)

    def add(self, key: str, value: object) -> None:
        """Note a finished piece."""
        self._file.write(json.dumps([key, value]) + "\n")
        self._file.flush()


def resumed(
    journal: Journal, keys: Sequence[str], work: Callable[[list[int]], Iterator[object]]
) -> Iterator[object]:
    """Yield a result for each key, in order: what the journal has, else the next of `work`, which is given the others' indices.

    Results are as JSON holds them, and noted in the journal; a `DataError` in place of one is not, and so is tried again.
    """
    left = [i for i, key in enumerate(keys) if key not in journal.done]
    if len(left) < len(keys):
        log.info(
            "%d of %d images were done before the interruption", len(keys) - len(left), len(keys)
        )
    fresh = work(left)
    for key in keys:
        if key in journal.done:
            yield journal.done[key]
            continue
        result = next(fresh)
        if not isinstance(result, DataError):
            journal.add(key, result)
        yield result


def ahead(futures: Iterable[Future[T]], count: int) -> Iterator[T]:
    """Yield the futures' results in order, `count` of them under way while one is waited for."""
    pending: deque[Future[T]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def stamp(*files: Path | object) -> str:
    """Return a key that names files and changes with them, by their sizes and times; what is not a file is named as it is."""
    parts = []
    for file in files:
        try:
            facts = Path(file).stat() if isinstance(file, Path) else None
        except OSError:
            facts = None
        parts.append([str(file), facts and facts.st_size, facts and facts.st_mtime_ns])
    return json.dumps(parts)


def listing(files: Iterable[Path]) -> str:
    """Return a short digest of many files' names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(stamp(file).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]

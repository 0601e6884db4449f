"""Journals: what an interrupted run has finished, so that the same run continues from there."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DataError
from .user_cache import writable_cache_path

log = logging.getLogger(__name__)
FORGOTTEN = 30 * 86400  # seconds after which the journal of a run that nobody finished is removed


class Journal:
    """What a long run has finished, one JSON line a piece: a run of the same `what` that was interrupted goes on from there.

    `done` maps keys, see `stamp`, to what `add` was given for them. Leaving it without an error removes it: the run is done.
    """

    def __init__(self, *what: object):
        self.path = writable_cache_path("journal", *what)
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


def files_digest(files: Iterable[Path]) -> str:
    """Return a short digest of many files' names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(stamp(file).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]

"""Journals: results of a long run on disk, so that it can continue after an interruption."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DataError
from .user_cache import cache_path, make_cache_folder

log = logging.getLogger(__name__)

# Journals of abandoned runs are deleted after 30 days: a convention, long enough for a
# holiday, short enough to save disk space.
MAX_AGE_SECONDS = 30 * 86400


class Journal:
    """The results that a run has finished, one JSON line each.

    `what` are JSON values that identify the run: all that its results depend on, except the files
    in the keys. A run with equal `what` reuses the results of an interrupted one.

    `done` maps keys (see `stamp`) to the values given to `add`. Used as a context manager: leaving
    it without an error deletes the file, since the run is complete; with `keep`, it stays, for runs
    that are repeated when some of their files have changed.
    """

    def __init__(self, *what: object, keep: bool = False):
        self.path = cache_path("journal", *what)
        self.keep = keep
        self.done: dict[str, Any] = {}  # JSON values
        make_cache_folder()
        _delete_old(self.path.parent)
        try:
            lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return
        for line in lines:
            try:
                key, value = json.loads(line)
            except ValueError:  # the line that was being written when the run was killed
                continue
            self.done[key] = value

    def __enter__(self) -> Journal:
        self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
        self._file.write("\n" if self.done else "")  # ends a line that was cut off
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and not self.keep:
            self.path.unlink(missing_ok=True)

    def add(self, key: str, value: object) -> None:
        """Write the result of `key` to disk. `value` is a JSON value."""
        self._file.write(json.dumps([key, value]) + "\n")
        self._file.flush()


def _delete_old(folder: Path) -> None:
    """Delete the journals in `folder` that are older than `MAX_AGE_SECONDS`."""
    for journal in folder.glob("*.journal"):
        try:
            if time.time() - journal.stat().st_mtime > MAX_AGE_SECONDS:
                journal.unlink()
        except FileNotFoundError:  # another run has finished and deleted its journal
            continue


def resumed(
    journal: Journal,
    keys: Sequence[str],
    work: Callable[[list[int]], Iterator[Any]],
) -> Iterator[Any]:
    """Yield the result of each key, in order: from the journal, else newly computed by `work`.

    `work` is called once, with the indices of the keys that the journal lacks, and yields their
    results in that order. New results are added to the journal, except a `DataError` instead of
    a result: that key is tried again by the next run.
    """
    left = [i for i, key in enumerate(keys) if key not in journal.done]
    done = len(keys) - len(left)
    if done:
        verb = "was" if done == 1 else "were"
        log.info("%d of %d images %s done in an earlier run", done, len(keys), verb)
    computed = work(left)
    for key in keys:
        if key in journal.done:
            yield journal.done[key]
            continue
        result = next(computed)
        if not isinstance(result, DataError):
            journal.add(key, result)
        yield result


def stamp(*files: object) -> str:
    """Return a key of paths that changes with the files' sizes and modification times.

    Values that are not paths, such as a class index, become part of the key unchanged.
    """
    parts = []
    for file in files:
        try:
            facts = file.stat() if isinstance(file, Path) else None
        except NotADirectoryError:  # a part of a file, such as a slice of a volume
            facts = Path(str(file)).parent.stat()
        except OSError:  # reported when the file is read
            facts = None
        parts.append([str(file), facts and facts.st_size, facts and facts.st_mtime_ns])
    return json.dumps(parts)


def files_digest(groups: Iterable[Sequence[object]]) -> str:
    """Return a digest, 16 characters, of many files' names, sizes and modification times.

    Each group is what `stamp` takes: files, and values that count as they are.
    """
    digest = hashlib.sha256()
    for files in groups:
        digest.update(stamp(*files).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]

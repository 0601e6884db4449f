"""Completes or undoes what an interrupted process left, so that versions and log agree."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from ..data.state import masks_in, state_of
from ..errors import DataError, FastsegError
from ..utils.io import delete_unfinished, read_json
from .log import WITHDRAWN, Correction, Log
from .places import ClassMaskFiles, Place, staging
from .renames import CONTENT

log = logging.getLogger(__name__)

PENDING = ".json"
STALE = 3600  # seconds; a label is staged for less than one
Find = Callable[[str], Place]


def repair(root: Path, rows: Log, find: Find) -> bool:
    """Make DIR/corrections.csv agree with the versions, and complete masks of single classes.

    Returns whether such masks were completed: a listing from before does not know them. The caller
    holds the lock of the folder. `find` returns the place of an image's label.
    """
    _delete_unfinished(root)
    known = rows.rows()
    found = list(_with_pending(root, known, find))
    found = _with_missing_rows(root, found, find)
    if found != known:
        rows.write(found)
    for pending in _files(root, PENDING):
        pending.unlink(missing_ok=True)
    places = [_place(find, name) for name in masks_in(root)]
    unfinished = [place for place in places if isinstance(place, ClassMaskFiles)]
    for place in unfinished:
        place.finish()
    return bool(unfinished)


def _delete_unfinished(root: Path) -> None:
    """Delete files that were being written, and labels that never took their place."""
    for folder in ("versions", "predictions"):  # only the holder of the lock writes there
        delete_unfinished(state_of(root) / folder, deep=True)
    oldest = time.time() - STALE  # newer ones may be another process's
    for left in staging(root).iterdir() if staging(root).is_dir() else ():
        if left.stat().st_mtime < oldest:
            left.unlink(missing_ok=True)


def _place(find: Find, name: str) -> Place | None:
    try:
        return find(name)
    except FastsegError:  # its image was removed
        return None


def _files(root: Path, suffix: str) -> Iterator[Path]:
    folder = state_of(root) / "versions"
    for file in sorted(folder.rglob(f"*{suffix}")) if folder.is_dir() else ():
        if file.is_file() and not file.name.startswith(".") and file.stem.isdecimal():
            yield file


def _with_pending(root: Path, known: list[Correction], find: Find) -> Iterator[Correction]:
    """Yield the rows, and those of labels that took their place before their row was written."""
    yield from known
    there = {(row.image, row.version) for row in known}
    for pending in _files(root, PENDING):
        try:
            values = read_json(pending)
            row = Correction(**values["row"])
        except (DataError, KeyError, TypeError):
            continue
        place = _place(find, row.image)
        if (row.image, row.version) in there or place is None:
            continue
        if place.fingerprint() == values.get("fingerprint"):
            yield row


def _with_missing_rows(root: Path, rows: list[Correction], find: Find) -> list[Correction]:
    """Return the rows with one for each version that has none, and without those of lost files."""
    folder = state_of(root) / "versions"
    versions: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in _files(root, ""):
        if file.suffix != PENDING:
            name = file.parent.relative_to(folder).as_posix()
            versions[name][int(file.stem)] = file
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.image] = max(row.version, newest.get(row.image, 0))
    kept: list[Correction] = []
    lost: list[Correction] = []
    for row in rows:
        is_newest = row.version == newest[row.image]
        # a label that was taken away leaves a version without one
        is_there = is_newest or row.version in versions[row.image] or row.action == WITHDRAWN
        (kept if is_there else lost).append(row)
    if lost:
        log.warning(
            "%s: %d versions are no longer there, and are left out of the list; the first is "
            "version %d of %s",
            root,
            len(lost),
            lost[0].version,
            lost[0].image,
        )
    there = {(row.image, row.version) for row in kept}
    for name in sorted({*versions, *_corrected(root)}):
        place, files = _place(find, name), versions[name]
        if place is None:
            continue
        last = max(files, default=0)  # before a first label, there is no file
        unnamed = [number for number in sorted(files) if number and (name, number) not in there]
        kept += [_unnamed(name, number, files[number]) for number in unnamed]
        if last >= newest.get(name, 0):
            kept += _current(place, name, last, files.get(last), folder / name / CONTENT)
    return kept


def _corrected(root: Path) -> Iterator[str]:
    """Yield the images that were ever corrected, also those without a version's file."""
    folder = state_of(root) / "versions"
    for file in folder.rglob(CONTENT) if folder.is_dir() else ():
        yield file.parent.relative_to(folder).as_posix()


def _current(
    place: Place, name: str, last: int, version: Path | None, content: Path
) -> list[Correction]:
    """Return the row of the current label, if it is newer than the last version that has a file."""
    try:
        current = place.read()
        before = place.decode(version) if version else None
    except DataError:
        return []
    if current is None:
        if before is None:
            return []
        return [replace(_unnamed(name, last + 1, version or content), action=WITHDRAWN)]
    if before is not None and np.array_equal(current, before):
        return []
    return [_unnamed(name, last + 1, version or content)]


def _unnamed(name: str, number: int, file: Path) -> Correction:
    """Return the row of a version of which nothing is known."""
    when = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
    row = Correction(name, number, "corrected", "", "", 0.0, "", 0)
    return replace(row, when=when.isoformat(timespec="seconds"))

"""Files by name, and atomic writing. No numpy here."""

from __future__ import annotations

import csv
import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError, brief

TEMPORARY = re.compile(r"\.[a-z0-9_]{8}(\.[^.]*)?")  # names by `tempfile.mkstemp`
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
# Temporary files are private. Outputs follow the user's umask; to read it, it must be set.
_UMASK = os.umask(0)
os.umask(_UMASK)


def name_below(root: Path | str, file: Path) -> str:
    """Return `file` relative to `root`, with slashes.

    Links are not followed, so that linked images keep their names.
    """
    return Path(os.path.relpath(os.path.abspath(file), os.path.abspath(root))).as_posix()


def portable_path(path: Path | str, base: Path | str) -> str:
    """Return `path` relative to `base`, with slashes, for files that others will read.

    It does not reveal the user's folders: it is only the name if the relative path would go through
    the root of the file system or next to the home folder: it would reveal as much as an absolute
    path.
    """
    target, start = Path(os.path.abspath(path)), Path(base).resolve()
    for place in (target, target.resolve()):
        if place.anchor != start.anchor:
            continue
        shared = Path(os.path.commonpath([place, start]))
        if shared != Path(shared.anchor) and shared not in Path.home().parents:
            return Path(os.path.relpath(place, start)).as_posix()
    return target.name


def require_folder(folder: Path) -> None:
    """Raise `DataError` if results cannot be written to `folder`, which may not exist yet.

    It is called before long work.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{there}: is a file, not a folder; choose another --out", "out-is-file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{there}: cannot be written; choose another --out", "not-writable")


def not_writable(path: Path, error: OSError) -> DataError:
    """Return the error for a file or folder that cannot be written, with its remedy."""
    remedy = "; free some space on that disk" if is_disk_full(error) else ""
    return DataError(
        f"{path}: cannot be written ({error.strerror or error}){remedy}", "not-writable"
    )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it on success, delete it on failure."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise not_writable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def delete_unfinished(folder: Path, deep: bool = False) -> None:
    """Delete the temporary files of `atomic_file` in a folder whose writers were killed, and in its
    subfolders if `deep`.

    Call it only while no one else writes to the folder.
    """
    for file in folder.glob("**/.*" if deep else ".*") if folder.is_dir() else ():
        if TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, says that the disk is full.

    torch's writer of checkpoints raises no OSError; its messages are compared.
    """
    while error is not None:
        text = str(error)
        if (
            getattr(error, "errno", None) == errno.ENOSPC
            or "No space left" in text
            or "inline_container" in text
            or "StreamWriter" in text
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def swap_folders(one: Path, other: Path) -> bool:
    """Swap two folders in one step, and return whether the system can do that.

    An interruption cannot leave it half done.
    """
    call = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return (
        call is not None
        and call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0
    )


def has_files(folder: Path) -> bool:
    """Return whether a folder exists and contains more than a README.md."""
    return folder.is_dir() and any(path.name != "README.md" for path in folder.iterdir())


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `out`; replace `out` with it on success, delete it on failure.

    The caller holds the `write_lock` of `out`. Raises `DataError` if nothing can be written there.
    """
    target = out.resolve()
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists() and not swap_folders(part, target):
            shutil.rmtree(target)
        if part.exists() and not target.exists():
            part.rename(target)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error})", "not-writable"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, value: object) -> Path:
    """Write a value as JSON atomically. Raises `DataError` if it cannot be written."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `DataError` for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({brief(error)})", "damaged-json") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: cannot be read (not an object)", "damaged-json")
    return value


def write_rows(
    path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None
) -> Path:
    """Write rows as CSV atomically, under the names `columns`, by default those of the first row;
    nan is empty.

    File names that are not UTF-8 are written as the bytes that they are.
    """
    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns) if columns else None
        if writer:
            writer.writeheader()
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(
                {
                    key: "" if isinstance(value, float) and value != value else value
                    for key, value in row.items()
                }
            )
    return path

"""Exports from elsewhere, in the user's cache: one folder for each content, complete and checked.

A folder is written under a temporary name, checked by the card's SHA-256, and renamed: processes
can fetch the same export at the same time, and an interruption leaves nothing half-written.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

from ..errors import DataError, ExportError
from ..utils.io import not_writable, read_json, write_json
from ..utils.user_cache import cache_path, make_cache_folder
from .card import CARD, HISTORY, METRICS, MODEL, ONNX, read_card, sha256

log = logging.getLogger(__name__)

# What is taken from elsewhere, and given to others: no pickle, and no picture of the data.
SHARED = (CARD, MODEL, ONNX, METRICS, HISTORY)
MAX_BYTES = 8 * 2**30  # of an export; the largest backbones of timm have weights of 5 GB
MAX_CARD = 64 * 2**20  # bytes; a million names of held-out images
STALE = 86_400.0  # seconds after which what a killed process was fetching is deleted


def cache_folder() -> Path:
    """Return the folder of fetched exports. It may not exist."""
    return user_cache_path("fastseg") / "exports"


def is_cached(folder: Path) -> bool:
    """Return whether an export's folder is in the cache: it is only read."""
    return folder.absolute().parent == cache_folder().absolute()


def require_own(folder: Path, what: str) -> Path:
    """Return `folder`. Raises `ExportError` "read-only-export" if it is in the cache.

    `what` says what would be written, and what to do, such as "results are not written there; ...".
    """
    if is_cached(folder):
        raise ExportError(f"{folder}: is a fetched export in the cache; {what}", "read-only-export")
    return folder


def damaged(name: str, file: str, reason: str) -> ExportError:
    """Return the error for a file of an export from elsewhere, which is not used."""
    return ExportError(
        f"{name}: {file} {reason}; nothing of it is used: get it again, or ask who made it",
        "exchanged-file",
    )


def verify(folder: Path, name: str) -> None:
    """Check a fetched export: its card, and each file by the card's SHA-256.

    Files that the card does not name are deleted. `name` is the export's address. Raises
    `ExportError`.
    """
    if (folder / CARD).is_file() and (folder / CARD).stat().st_size > MAX_CARD:
        raise damaged(name, CARD, f"is larger than {MAX_CARD // 2**20} MiB")
    try:
        card = read_card(folder)
    except ExportError as error:
        text = str(error).replace(str(folder / CARD), f"{name}: {CARD}")
        raise ExportError(text.replace(str(folder), name), error.code) from None
    for file in SHARED[1:]:
        path, expected = folder / file, card.sha256.get(file)
        if not expected and file != MODEL:
            path.unlink(missing_ok=True)
        elif path.is_file():
            if sha256(path) != expected:
                raise damaged(name, file, "is not the file that the card names")
        elif file == MODEL:
            raise damaged(name, file, "is missing")


def known(of: str) -> dict[str, str]:
    """Return what was noted of an address, or of a folder's key; {} if nothing was."""
    with suppress(DataError):  # it was never fetched
        return {key: str(value) for key, value in read_json(cache_path("export.json", of)).items()}
    return {}


def note(of: str, **values: str) -> None:
    """Keep `values` for `known`. Raises `DataError`."""
    write_json(cache_path("export.json", of), values)


def intact(key: str, name: str) -> Path | None:
    """Return the folder of an export in the cache if it is there.

    `key` is the SHA-256 of its card, or of the archive that it was in. A folder whose files were
    changed, the card included, is deleted: the export can be fetched again.
    """
    folder = cache_folder() / key
    if not folder.is_dir():
        return None
    try:
        verify(folder, name)
        if sha256(folder / CARD) not in (key, known(key).get("card")):
            raise damaged(name, CARD, "is not the one that was fetched")
    except ExportError as error:
        log.warning("%s (the copy in the cache; it was deleted)", error)
        with temporary() as aside:
            folder.rename(aside / "damaged")
        return None
    return folder


def keep(key: str, name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder of an export that `fill` writes into an empty one, after a check.

    If the cache has an intact one of that key, that one is returned, but what `fill` writes is
    checked, too. Raises `ExportError`.
    """
    target = cache_folder() / key
    with temporary() as place:
        folder = place / "export"
        folder.mkdir()
        fill(folder)
        verify(folder, name)
        if (card := sha256(folder / CARD)) != key:  # the key is that of an archive
            note(key, card=card)
        try:
            folder.rename(target)
        except OSError:
            if not (target / CARD).is_file():  # otherwise another process was quicker
                raise
    return target


@contextmanager
def temporary() -> Iterator[Path]:
    """Yield an empty folder in the cache, which is deleted at the end. Raises `DataError`."""
    root = cache_folder()
    make_cache_folder()
    try:
        root.mkdir(exist_ok=True)
        for left in root.glob(".part-*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        place = Path(tempfile.mkdtemp(prefix=".part-", dir=root))
    except OSError as error:
        raise not_writable(root, error) from error
    try:
        yield place
    except OSError as error:
        raise not_writable(root, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)

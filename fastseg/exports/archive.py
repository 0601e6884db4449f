"""Exports in zip archives, which may be malicious: only the known files are unpacked."""

from __future__ import annotations

import logging
import stat
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile, ZipInfo
from zlib import error as DamagedStream

from ..errors import ExportError, brief
from .cache import MAX_BYTES, SHARED
from .card import CARD, PICKLE

log = logging.getLogger(__name__)

MAX_MEMBERS = 1000  # an export has some 20 files; a card of so many members is no export
# An archive may unpack to so many times its own bytes. Weights, which are nearly all of them,
# shrink by less than half; a bomb of zeros grows by a thousand.
MAX_RATIO, FREE_BYTES = 100, 2**24
CHUNK = 2**20
DAMAGED = (BadZipFile, DamagedStream, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpack(archive: Path, name: str, folder: Path) -> None:
    """Write the files of the export in a zip archive into `folder`; `name` is its address.

    The files are at the top of the archive, or in one folder. Others are left out, pickles too.
    Raises `ExportError` "damaged-archive", "unsafe-archive" (names that lead out of the folder,
    links, names twice, bombs), and "no-export".
    """
    try:
        with ZipFile(archive) as opened:
            members = _safe_members(opened, name, archive.stat().st_size)
            for file, member in members.items():
                with opened.open(member) as source, (folder / file).open("xb") as target:
                    copy(source, target, name)
    except DAMAGED as error:
        raise ExportError(
            f"{name}: cannot be read as a zip archive ({brief(error)}); get it again, or make it "
            "with: fastseg pack EXPORT",
            "damaged-archive",
        ) from None


def _safe_members(opened: ZipFile, name: str, size: int) -> dict[str, ZipInfo]:
    """Return the members of an archive that make up an export, by their file's name."""
    members = opened.infolist()
    if len(members) > MAX_MEMBERS:
        raise _unsafe(name, f"it has {len(members)} members")
    found: dict[str, ZipInfo] = {}
    for member in members:
        _require_safe(member, name)
        if member.filename in found:
            raise _unsafe(name, f"{brief(member.filename)} is in it twice")
        found[member.filename] = member
    cards = sorted(
        (path for path in map(PurePosixPath, found) if path.name == CARD),
        key=lambda path: len(path.parts),
    )
    if not cards or len(cards[0].parts) > 2 or [len(c.parts) for c in cards[:2]] == [2, 2]:
        raise ExportError(
            f"{name}: holds no export ({CARD} is not at its top, or in one folder); make it with: "
            "fastseg pack EXPORT",
            "no-export",
        )
    root = cards[0].parent
    if (root / PICKLE).as_posix() in found:
        log.info("%s: %s is left out: a pickle can run any code", name, PICKLE)
    chosen = {file: found[path] for file in SHARED if (path := (root / file).as_posix()) in found}
    total = sum(member.file_size for member in chosen.values())
    if total > min(MAX_BYTES, MAX_RATIO * size + FREE_BYTES):
        raise _unsafe(name, f"it would unpack to {total / 2**20:.0f} MiB")
    return chosen


def _require_safe(member: ZipInfo, name: str) -> None:
    """Raise `ExportError` for a member that could be written elsewhere, or lead elsewhere."""
    path = member.orig_filename
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or ":" in path or ".." in parts or "\0" in path:
        raise _unsafe(name, f"{brief(path)} leads out of its folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe(name, f"{brief(path)} is a link or a device")


def _unsafe(name: str, reason: str) -> ExportError:
    return ExportError(f"{name}: is not unpacked: {reason}", "unsafe-archive")


def copy(source: IO[bytes], target: IO[bytes], name: str) -> None:
    """Copy a file of an export of at most `MAX_BYTES`. Raises `ExportError` "too-large"."""
    left = MAX_BYTES
    while chunk := source.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            raise too_large(name)
        target.write(chunk)


def too_large(name: str) -> ExportError:
    """Return the error for an export that is larger than `MAX_BYTES`."""
    return ExportError(f"{name}: is larger than {MAX_BYTES // 2**30} GiB", "too-large")

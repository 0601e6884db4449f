"""`fastseg pack`: an export as one zip file, the same bytes for the same export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from ..errors import ExportError
from ..exports.card import sha256
from ..utils.io import atomic_file
from ..utils.storage import ARCHIVE
from .files import shared_files

EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time in the format: the same for each file
MODE = 0o100644 << 16  # a regular file that everyone may read
UNIX = 3  # the system by whose rules the mode is read, whichever system writes it


@dataclass(frozen=True)
class Packed:
    """The result of `pack`."""

    file: Path
    sha256: str
    files: dict[str, str]  # name -> SHA-256 of what is in it


def pack(export: Path | str, out: Path | str | None = None) -> Packed:
    """Write an export to one zip file, by default NAME.zip, without its pickle and pictures, with a
    model card.

    Nothing is compressed, and no time or owner is in it: the same export has the same bytes, on
    every machine. Every command reads it in place of an export's folder. Raises `ExportError`,
    and `DataError` if it cannot be written.
    """
    made = shared_files(export, "FILE.zip")
    path = Path(out) if out is not None else Path(f"{made.folder.resolve().name}{ARCHIVE}")
    if path.suffix.lower() != ARCHIVE:
        raise ExportError(f"{path}: give a name that ends in {ARCHIVE}", "output-suffix")
    with atomic_file(path) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        for name in made.names:
            member = ZipInfo(name, EARLIEST)
            member.external_attr, member.create_system = MODE, UNIX
            content = made.read(name)
            if isinstance(content, bytes):
                archive.writestr(member, content)
                continue
            member.file_size = content.stat().st_size
            with content.open("rb") as source, archive.open(member, "w") as target:
                while chunk := source.read(2**20):
                    target.write(chunk)
    return Packed(path, sha256(path), made.files)

"""DIR/corrections.csv: one row for each saved version of a label."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from uuid import uuid4

from ..data.state import CORRECTIONS, state_of
from ..errors import DataError
from ..utils.io import atomic_file, write_rows
from .places import move_file, staging

log = logging.getLogger(__name__)

# What a person did who took the last decision back, so that the image is to be reviewed again: the
# label from before is back (an action of `ACTIONS`), or an image that had none has none again.
REOPENED, WITHDRAWN = "reopened", "withdrawn"
ACTIONS = ("corrected", "accepted", "new", "restored", "audited", "predicted", REOPENED)


@dataclass(frozen=True)
class Correction:
    """One version of an image's label: what was done, by whom, when, and from which export."""

    image: str  # path below the data folder, with slashes
    version: int  # from 1; 0 is the label before the first correction
    action: str  # one of `ACTIONS`, or `WITHDRAWN`: a version without a label
    by: str  # the name that the person gave
    when: str  # ISO 8601, UTC
    seconds: float  # that it took
    source: str  # the export that made the prediction: its folder's name, 12 digits of its sha256
    pixels: int  # that were changed; for a class, 1 if it was


COLUMNS = tuple(entry.name for entry in fields(Correction))


class Log:
    """The rows of DIR/corrections.csv. Writers hold the lock of the data folder."""

    def __init__(self, root: Path):
        self.path = root / CORRECTIONS
        # Whether the rows that were read last are not all: the file is gone, or was damaged.
        self.is_damaged = False
        self._stamp: tuple[int, int, int] | None = None
        self._rows: list[Correction] = []

    def rows(self) -> list[Correction]:
        """Return all rows, oldest first. The file is parsed again only if it changed.

        Lines that are no rows are left out, with a warning. Raises `DataError` if the file cannot
        be read.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            versions = state_of(self.path.parent) / "versions"
            self.is_damaged = versions.is_dir() and any(versions.iterdir())
            self._stamp, self._rows = None, []
            return []
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp != self._stamp:
            self._rows = self._read()
            self._stamp = stamp
        return list(self._rows)

    def _read(self) -> list[Correction]:
        found, wrong = [], []
        try:
            with self.path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                reader = csv.DictReader(file)
                is_headed = {*COLUMNS} <= {*(reader.fieldnames or ())}
                for number, row in enumerate(reader, 2):
                    parsed = _parsed(row)
                    if parsed is None:
                        wrong.append(number)
                    else:
                        found.append(parsed)
        except (OSError, csv.Error) as error:
            raise DataError(
                f"{self.path}: cannot be read ({error}); correct it, or move it away: the versions "
                "of the labels are kept",
                "damaged-corrections",
            ) from None
        self.is_damaged = bool(wrong) or not is_headed
        if not is_headed:
            log.warning("%s: the first row does not name its columns: it was damaged", self.path)
        elif wrong:
            log.warning(
                "%s: %d rows are left out, since a value is missing or wrong; the first is row %d",
                self.path,
                len(wrong),
                wrong[0],
            )
        return found

    def write(self, rows: Iterable[Correction]) -> None:
        """Write all rows atomically. Raises `DataError` if they cannot be written.

        A file that was damaged is kept in DIR/.fastseg/damaged.
        """
        if self.is_damaged and self.path.is_file():
            aside = state_of(self.path.parent) / "damaged" / f"{uuid4().hex[:8]}_{self.path.name}"
            with atomic_file(aside) as temporary:
                shutil.copyfile(self.path, temporary)
            log.warning("%s: the damaged file is kept as %s", self.path, aside)
        # in the hidden folder first: a killed process leaves nothing among the user's files
        new = write_rows(staging(self.path.parent) / f"{uuid4().hex}.csv", map(asdict, rows))
        move_file(new, self.path)
        self._stamp, self.is_damaged = None, False


def _parsed(row: dict[str, str]) -> Correction | None:
    try:
        return Correction(
            row["image"],
            int(row["version"]),
            row["action"],
            row["by"] or "",
            row["when"],
            float(row["seconds"]),
            row["source"] or "",
            int(row["pixels"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def reviewed(rows: Iterable[Correction]) -> set[str]:
    """Return the images that a person has decided on, and did not take the decision back."""
    last = {row.image: row.action for row in rows}
    return {name for name, action in last.items() if action not in (REOPENED, WITHDRAWN)}

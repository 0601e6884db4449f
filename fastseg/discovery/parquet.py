"""Data sets in parquet files: images with masks or classes, as `datasets` writes them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.issues import Fault, refuse
from ..formats.parquet import Columns, Row, columns_of, extract, find
from ..utils.text import counted
from .evidence import Notes, listed
from .survey import Survey


@dataclass
class Packed:
    """The parquet files below a folder, and their rows."""

    labels: str  # the folder with the files, below the root; "." is the root
    columns: Columns
    rows: list[Row]

    @property
    def masks(self) -> list[Path]:
        """The masks of the rows, in the user's cache."""
        return [row.mask for row in self.rows if row.mask is not None]

    @property
    def layout(self) -> dict[str, Any]:
        """The layout of a task with masks."""
        return {"images": ".", "format": "parquet", "labels": self.labels}


def packed_in(survey: Survey, notes: Notes) -> Packed | None:
    """Return what the parquet files of a folder hold; None if there are none.

    Raises `DataError` for files that cannot be used, and if pyarrow is missing.
    """
    files = find(survey.root)
    if not files:
        return None
    columns = columns_of(files[0])
    place = Path(os.path.commonpath([file.parent for file in files]))
    # A single file is named itself where its folder is the root: folders are never "".
    target = files[0] if place == survey.root and len(files) == 1 else place
    faults: list[Fault] = []
    rows = extract(target, faults)
    refuse(faults)
    splits = Counter(row.split or "no split" for row in rows)
    notes.say(
        "layouts",
        f"{counted(len(files), 'parquet file')} with {counted(len(rows), 'row')} ("
        + ", ".join(f"{count} {split}" for split, count in splits.items())
        + f"): images in column {columns.image}"
        + (f", masks in column {columns.mask}" if columns.mask else ""),
    )
    return Packed(os.path.relpath(target, survey.root).replace(os.sep, "/"), columns, rows)


def classes_in(survey: Survey, notes: Notes) -> dict[str, Any] | None:
    """Return the definition of a task whose classes are a column of parquet files, or None."""
    packed = packed_in(survey, notes)
    if packed is None or not packed.columns.label:
        return None
    values = [row.label for row in packed.rows if row.label is not None]
    names = list(packed.columns.names)
    if not names and all(isinstance(value, int) for value in values):
        names = [f"class {index}" for index in range(max(map(int, values), default=-1) + 1)]
    names = names or sorted({str(value) for value in values})
    if len(names) < 2:
        return None
    notes.say("classes", f"column {packed.columns.label}: {listed(names, 8)}")
    folder = str(Path(packed.labels).parent) if packed.labels.endswith(".parquet") else ""
    return {
        "kind": "classify",
        "classes": names,
        "labels": "parquet",
        "folders": {"all": folder or packed.labels},
    }

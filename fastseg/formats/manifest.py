"""Manifests: tables (CSV, TSV or parquet) with a row an image: its path, its label, its split.

Read as a stream, with nothing kept but the rows' paths: they may have hundreds of thousands.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.issues import Fault
from ..data.split import SPLIT_WORDS
from ..data.tables import TAB_SUFFIX, dialect_of
from ..errors import brief
from .parquet import pyarrow

SPLIT = "split"  # the column that may say "train", "valid" or "test"
PARQUET_SUFFIX = ".parquet"
ROWS = 10_000  # of a parquet file in memory at a time
NO_TEXT = ("struct", "binary", "large_binary", "list")  # types of columns that hold the images


@dataclass(frozen=True)
class Row:
    """A row: an image that exists, the text of its label, and where it stands."""

    image: Path
    name: str  # as the table has it
    label: str
    split: str | None
    place: str


def read(table: Path, columns: Sequence[str], faults: list[Fault]) -> Iterator[Row]:
    """Yield the rows of a manifest, in its order. `columns` are the image's and the label's.

    Paths are relative to the table's folder. Rows that cannot be used are added to `faults`:
    without image or label, of images that do not exist or are listed twice, of unknown splits.
    Raises `DataError` if a parquet file needs pyarrow and it is missing.
    """
    first: dict[str, str] = {}
    kind = "row" if table.suffix.lower() == PARQUET_SUFFIX else "line"
    for number, values in _cells(table, columns, faults):
        name, label, split = values
        place = f"{kind} {number}"
        wrong = None
        if not name:
            wrong = "table", f"has no {columns[0]}", "add it, or remove the row"
        elif name in first:
            detail = f"{brief(name)} is listed in {first[name]}, too"
            wrong = "doubled name", detail, "keep one of the rows"
        elif split.lower() not in SPLIT_WORDS and split:
            detail = f"{SPLIT} is {brief(split)}"
            wrong = "table", detail, "write train, valid or test, or leave it empty"
        elif not label:
            detail = f"{brief(name)} has no {columns[1]}"
            wrong = "no partner", detail, "add it, or remove the row"
        if wrong is None:
            first[name] = place
            image = file_in(table, name, place, faults)
            if image is not None:
                yield Row(image, name, label, SPLIT_WORDS.get(split.lower()), place)
        else:
            faults.append(Fault(wrong[0], str(table), *wrong[1:], place))


def file_in(table: Path, name: str, place: str, faults: list[Fault]) -> Path | None:
    """Return the file that a cell names, relative to the table; None, and a fault, without it."""
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in path.split("/"):
        detail = f"{brief(name)} leaves the folder of the table"
        remedy = "write paths below it, or link the other folder into it"
        faults.append(Fault("table", str(table), detail, remedy, place))
        return None
    file = os.path.join(table.parent, path)
    if not os.path.isfile(file):
        remedy = f"add it below {table.parent}, or remove the row"
        detail = f"{brief(name)} does not exist"
        faults.append(Fault("no partner", str(table), detail, remedy, place))
        return None
    return Path(file)


def _cells(
    table: Path, columns: Sequence[str], faults: list[Fault]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of image, label and split of each row that has any."""
    try:
        if table.suffix.lower() == PARQUET_SUFFIX:
            yield from _of_parquet(table, columns, faults)
        else:
            yield from _of_text(table, columns, faults)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = f"cannot be read ({brief(getattr(error, 'strerror', None) or error)})"
        faults.append(Fault("table", str(table), detail, "save it as a table in UTF-8"))


def _of_text(
    table: Path, columns: Sequence[str], faults: list[Fault]
) -> Iterator[tuple[int, list[str]]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        dialect = dialect_of(header.rstrip("\r\n"), table.suffix.lower(), columns)
        reader = csv.reader(file, **dialect)
        names = [cell.strip() for cell in next(reader, [])]
        if not _has_columns(table, names, columns, faults):
            return
        places = [names.index(name) if name in names else -1 for name in (*columns, SPLIT)]
        for row in reader:
            cells = [row[at].strip() if 0 <= at < len(row) else "" for at in places]
            if any(cells):
                yield reader.line_num, cells


def _of_parquet(
    table: Path, columns: Sequence[str], faults: list[Fault]
) -> Iterator[tuple[int, list[str]]]:
    parquet, problems = pyarrow()
    number = 0
    try:
        with parquet.ParquetFile(table) as file:
            schema = file.schema_arrow
            names = [field.name for field in schema if not str(field.type).startswith(NO_TEXT)]
            if not _has_columns(table, names, columns, faults):
                return
            used = [name for name in (*columns, SPLIT) if name in names]
            for batch in file.iter_batches(ROWS, columns=used):
                for values in batch.to_pylist():
                    cells = (values.get(name) for name in (*columns, SPLIT))
                    yield number, ["" if cell is None else str(cell) for cell in cells]
                    number += 1
    except problems as error:
        detail = f"cannot be read ({brief(error)})"
        faults.append(Fault("table", str(table), detail, "replace it"))


def _has_columns(
    table: Path, names: Sequence[str], columns: Sequence[str], faults: list[Fault]
) -> bool:
    missing = [name for name in columns if name not in names]
    if missing:
        separators = "tabs" if table.suffix.lower() == TAB_SUFFIX else "tabs, commas or semicolons"
        detail = f"column {' and '.join(missing)} missing"
        remedy = f"it needs {' and '.join(columns)}, and may have {SPLIT}"
        if table.suffix.lower() != PARQUET_SUFFIX:
            remedy += f", separated by {separators}"
        faults.append(Fault("table", str(table), detail, remedy, "line 1"))
    return not missing

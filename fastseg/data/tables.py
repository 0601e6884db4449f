"""Tables of images and their labels: separated by tabs, commas or semicolons."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, brief
from ..utils.io import atomic_file
from .issues import Fault, refuse

TAB, SEPARATORS = "\t", ("\t", ",", ";")
COMMA_SUFFIX, TAB_SUFFIX = ".csv", ".tsv"
Cell = tuple[str, str]  # the label as the table has it, and "line n"


def read_table(
    table: Path, columns: tuple[str, str], faults: list[Fault]
) -> dict[str, Cell] | None:
    """Return {name: (label text, "line n")} in the table's order, or None if it cannot be read.

    The header tells the separator; in a .tsv file it is the tab. What cannot be used goes to
    `faults`.
    """

    def wrong(detail: str, remedy: str, place: str = "") -> None:
        faults.append(Fault("table", str(table), detail, remedy, place))

    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = _rows(file.read(), table.suffix.lower(), columns) or [(1, [])]
    except FileNotFoundError:
        wrong("no such table", f"write one with the columns {', '.join(columns)}")
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        wrong(f"cannot be read as a table ({brief(error)})", "save it as UTF-8")
        return None
    missing = [column for column in columns if column not in header[1]]
    if missing:
        separators = "tabs" if table.suffix.lower() == TAB_SUFFIX else "tabs, commas or semicolons"
        wrong(
            f"column {' and '.join(missing)} missing",
            f"it needs {' and '.join(columns)}, separated by {separators}",
            "line 1",
        )
        return None
    name_at, label_at = map(header[1].index, columns)
    found: dict[str, Cell] = {}
    for number, line in lines:
        name, label = (line[at].strip() if at < len(line) else "" for at in (name_at, label_at))
        if not any(cell.strip() for cell in line):
            continue
        if not name:
            wrong(f"has no {columns[0]}", "add it, or remove the line", f"line {number}")
        elif name in found:
            wrong(f"{name} is listed twice", "keep one line", f"line {number}")
        else:
            found[name] = label, f"line {number}"
    return found


def _rows(text: str, suffix: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the number of the line where each row ends, and its cells."""
    first = text.partition("\n")[0].rstrip("\r")
    reader = csv.reader(io.StringIO(text, newline=""), **dialect_of(first, suffix, columns))
    rows = [(reader.line_num, row) for row in reader]
    if rows:
        rows[0] = rows[0][0], [cell.strip() for cell in rows[0][1]]
    return rows


def dialect_of(header: str, suffix: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return the options of `csv.reader` for a table of this first line and suffix."""
    choices = (TAB,) if suffix == TAB_SUFFIX else SEPARATORS
    return _dialect(max(choices, key=lambda one: len({*columns} & {*_cells(header, one)})))


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for row in csv.reader([line], **_dialect(separator)) for cell in row]


def _dialect(separator: str) -> dict[str, Any]:
    # Quotation marks in tables with tabs are a part of the text.
    return {
        "delimiter": separator,
        "quoting": csv.QUOTE_NONE if separator == TAB else csv.QUOTE_MINIMAL,
    }


def cell(table: Path, columns: tuple[str, str], name: str) -> str | None:
    """Return the label text that a table has for a name; None if it has none."""
    found = read_table(table, columns, []) if table.is_file() else None
    return found[name][0] if found and name in found else None


def set_cell(table: Path, columns: tuple[str, str], name: str, text: str) -> None:
    """Write a name's label text into a table atomically; a row is added if it has none.

    With an empty text, a row whose other cells are empty is removed. All other lines, columns, the
    separator and the ends of lines stay as they are. Raises `DataError` if the table cannot be
    read, lacks a column, or cannot hold the text.
    """
    if not table.is_file():
        write_table(table, columns, [(name, text)])
        return
    faults: list[Fault] = []
    if read_table(table, columns, faults) is None:
        refuse(faults)
    content = table.read_bytes()
    mark = "\ufeff" if content.startswith(codecs.BOM_UTF8) else ""
    lines = list(io.StringIO(content.decode("utf-8-sig"), newline=""))
    dialect = dialect_of(lines[0].rstrip("\r\n"), table.suffix.lower(), columns)
    end = lines[0][len(lines[0].rstrip("\r\n")) :] or "\n"
    reader, start = csv.reader(iter(lines), **dialect), 0
    header: list[str] = []
    for row in reader:
        header = header or [value.strip() for value in row]
        name_at, label_at = map(header.index, columns)
        if start and name_at < len(row) and row[name_at].strip() == name:
            row += [""] * (label_at + 1 - len(row))
            row[label_at] = text
            is_empty = not any(value.strip() for at, value in enumerate(row) if at != name_at)
            new = [] if is_empty else [_line(row, dialect, end, table)]
            lines[start : reader.line_num] = new
            break
        start = reader.line_num
    else:
        row = [""] * len(header)
        row[name_at], row[label_at] = name, text
        lines[-1] = lines[-1].rstrip("\r\n") + end
        lines.append(_line(row, dialect, end, table))
    with atomic_file(table) as temporary:
        temporary.write_bytes((mark + "".join(lines)).encode())


def _line(row: Sequence[str], dialect: dict[str, Any], end: str, table: Path) -> str:
    line = io.StringIO(newline="")
    try:
        csv.writer(line, lineterminator=end, **dialect).writerow(row)
    except csv.Error as error:
        raise DataError(
            f"{table}: cannot hold '{brief(row)}' ({error}); rename it", "not-representable"
        ) from None
    return line.getvalue()


def write_table(path: Path, columns: tuple[str, str], rows: Iterable[tuple[str, object]]) -> Path:
    """Write (name, label) rows atomically: with commas to a .csv file, else with tabs."""
    with atomic_file(path) as temporary:
        if path.suffix.lower() == COMMA_SUFFIX:
            with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as f:
                csv.writer(f, lineterminator="\n").writerows([columns, *rows])
        else:
            lines = [TAB.join(columns), *(f"{name}{TAB}{label}" for name, label in rows)]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

"""Groups of images for `evaluate --by`: by the item, by file name, or by a column of a table."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DataError, TaskError, brief
from ..tasks import Item
from ..utils.io import name_below

log = logging.getLogger(__name__)

GroupOf = Callable[[Item], str]

FIELDS = ("group", "source", "split")  # of an item
DELIMITERS = ",\t;"
NO_MATCH, NOT_LISTED, EMPTY = "no match", "not listed", "empty"  # groups of images without a value


def group_function(
    by: str | None,
    table: Path | str | None,
    items: Sequence[Item],
    root: Path,
    is_complete: bool = False,
) -> GroupOf | None:
    """Return the function that gives an item's group; None without `by`.

    `by` is group, source, split, folder, or a regular expression whose match (or first group) in
    the file's name is the group; with `table`, a CSV or TSV file whose first column names images,
    it is one of its columns. Raises `TaskError` or `DataError` if no image has a group, and with
    `is_complete` if the table does not list all of them.
    """
    if not by:
        if table is not None:
            raise TaskError(
                "--table needs --by with the name of one of its columns", "table-without-by"
            )
        return None
    if table is not None:
        return _by_column(Path(table), by, items, root, is_complete)
    if by in FIELDS:
        return lambda item: str(getattr(item, by) or "none").lstrip("/")
    if by == "folder":
        return lambda item: item.image.parent.name
    return _by_pattern(by, items)


def _by_pattern(by: str, items: Sequence[Item]) -> GroupOf:
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise TaskError(
            f"--by {by}: is neither group, source, split nor folder, "
            f"nor a regular expression ({error})",
            "no-such-group",
        ) from None
    if not any(pattern.search(item.image.stem) for item in items):
        raise TaskError(
            f"--by {by}: is neither group, source, split nor folder, and no file name matches "
            f"this pattern (for example {items[0].image.stem})",
            "no-such-group",
        )

    def group(item: Item) -> str:
        match = pattern.search(item.image.stem)
        if not match:
            return NO_MATCH
        return match.group(1) or "" if pattern.groups else match.group()

    return group


def _by_column(
    table: Path, column: str, items: Sequence[Item], root: Path, is_complete: bool
) -> GroupOf:
    """Group by a table's column; its rows name an image with its folder, its suffix, or neither."""
    values = _column_values(table, column)
    names = [_names(item, root) for item in items]
    # A name that images of several folders share says nothing: cat/1.jpg and dog/1.jpg.
    shared = Counter(name for own in names for name in own)

    def listed(item: Item) -> str | None:
        own = (name for name in _names(item, root) if shared[name] == 1)
        return next((values[name] for name in own if name in values), None)

    absent = [item for item in items if listed(item) is None]
    missing = len(absent)
    if missing == len(items):
        begins = brief(next(iter(values))) if values else "nothing"
        raise DataError(
            f"{table}: names none of these images in its first column "
            f"(one of them is {items[0].image.name}, the table begins with {begins}); "
            "put file names, with or without suffix, there, or paths where names are not unique",
            "table-names-no-image",
        )
    if missing and is_complete:
        raise DataError(
            f"{table}: does not list {missing} of these {len(items)} images, for example "
            f"{absent[0].image.name}; add a row for each",
            "incomplete-table",
        )
    if missing:
        log.warning(
            "%s: does not list %d of these %d images; they are the group '%s'",
            table,
            missing,
            len(items),
            NOT_LISTED,
        )

    def group(item: Item) -> str:
        value = listed(item)
        return NOT_LISTED if value is None else value or EMPTY

    return group


def _names(item: Item, root: Path) -> tuple[str, ...]:
    """Return what may name an item in a table, the best one first, each once."""
    path = name_below(root, item.image)
    return tuple(dict.fromkeys((path, item.image.name, item.image.stem)))


def _column_values(table: Path, column: str) -> dict[str, str]:
    """Return {image as the table names it: value}.

    A path, for example from predictions.csv, is also found by its file name if that is unique.
    """
    header, *rows = _read_table(table) or [[]]
    if header[1:].count(column) != 1:
        others = "it has one column only"
        if len(header) > 1:
            others = f"it has {', '.join(header[1:])} after the image in the first column"
        raise DataError(
            f"{table}: has {'two columns' if column in header[1:] else 'no column'} {column}; "
            f"{brief(others)}; columns are separated by commas, tabs or semicolons",
            "no-such-column",
        )
    place = header.index(column, 1)
    values: dict[str, str] = {}
    for row in rows:
        value = row[place] if place < len(row) else ""
        if values.setdefault(row[0], value) != value:
            both = f"'{brief(values[row[0]])}' and '{brief(value)}'"
            raise DataError(
                f"{table}: lists {brief(row[0])} twice, as {both}; keep one row an image",
                "repeated-row",
            )
    counts = Counter(Path(key).name for key in values)
    unique = {Path(key).name: value for key, value in values.items() if counts[Path(key).name] == 1}
    return values | {name: value for name, value in unique.items() if name not in values}


def _read_table(table: Path) -> list[list[str]]:
    """Return the rows of a table, the header first; empty rows are left out."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count))
            return [[cell.strip() for cell in row] for row in reader if row]
    except OSError as error:
        raise DataError(
            f"{table}: cannot be read ({error.strerror}); check the path", "unreadable-table"
        ) from None
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{table}: cannot be read as a table ({brief(error)}); "
            "save it as CSV or TSV, with a header, in UTF-8",
            "unreadable-table",
        ) from None

"""Images with a class each: a folder a class, or a table with a column of images and of labels."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import DataError
from ..utils.text import counted
from .evidence import Notes, Question, listed
from .pairings import stem
from .survey import Survey, role, split_of

MAX_TABLE_BYTES = 100_000_000
SEPARATORS = ("\t", ",", ";")
FOUND_SHARE = 0.8  # of a table's lines that must name an image
MAX_CLASSES = 254
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "classes", "class_name", "y")
NOT_LABELS = ("split", "fold", "set", "subset", "partition", "width", "height", "usage")


@dataclass(frozen=True)
class Table:
    """A table beside images: where it is, its columns, and where its images are."""

    path: str
    columns: tuple[str, str]
    labels: tuple[str, ...]  # of each line
    images: int  # lines that name an image


def by_table(survey: Survey, notes: Notes) -> dict[str, Any] | None:
    """Return the definition of a task whose labels are in tables, or None."""
    tables = [
        table
        for path in survey.others(".csv", ".tsv", ".txt")
        if (table := _table(survey, path, notes)) is not None
    ]
    if not tables:
        return None
    first = tables[0]
    name = PurePosixPath(first.path).name
    same = [t for t in tables if PurePosixPath(t.path).name == name and t.columns == first.columns]
    values = sorted({label for table in same for label in table.labels}, key=_numbers_first)
    if len(values) < 2:
        raise DataError(
            f"{survey.path(first.path)}: column {first.columns[1]} has the label {values[0]} only; "
            "give a table with two labels or more, or another --label-column",
            "one-class",
        )
    folders: dict[str, Any] = {}
    for table in same:
        parent = str(PurePosixPath(table.path).parent)
        parent = "" if parent == "." else parent
        split = split_of(parent)
        folders[split or "all"] = parent or "."
        notes.say(
            "labels",
            f"{table.path}: {counted(len(table.labels), 'line')}, {table.images:,} name an image; "
            f"columns {table.columns[0]} and {table.columns[1]}"
            + (f", split {split}" if split else ""),
        )
    if len(folders) > 1:
        folders.pop("all", None)
    _note_counts(Counter(label for table in same for label in table.labels), notes)
    return {
        "kind": "classify",
        "classes": _class_names(values, notes),
        "labels": "table",
        "table": name,
        "columns": list(first.columns),
        "folders": folders,
    }


def _numbers_first(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


def _class_names(values: Sequence[str], notes: Notes) -> list[str]:
    """Return the classes: the labels themselves, or names for indices from 0."""
    if list(values) == [str(index) for index in range(len(values))]:
        notes.say("classes", f"labels are the indices 0 to {len(values) - 1}: rename the classes")
        return [f"class {index}" for index in range(len(values))]
    notes.say("classes", f"{len(values)} labels: {listed(values, 8)}")
    return list(values)


def _note_counts(counts: Counter[str], notes: Notes) -> None:
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(8))
    notes.say("labels", f"images by label: {shown}")


def _table(survey: Survey, path: str, notes: Notes) -> Table | None:
    """Return a table's columns if it names images, else None. Asks which column has the labels."""
    rows = _rows(survey, path)
    if len(rows) < 3:
        return None
    header, lines = rows[0], [row for row in rows[1:] if any(cell.strip() for cell in row)]
    if len(header) < 2 or len(set(header)) < len(header):
        return None
    parent = str(PurePosixPath(path).parent)
    names = _names_below(survey, "" if parent == "." else parent)
    columns = {
        name: [row[at].strip() if at < len(row) else "" for row in lines]
        for at, name in enumerate(header)
    }
    found = {
        name: sum(_name_of(cell) in names for cell in cells) for name, cells in columns.items()
    }
    image = max(found, key=lambda name: found[name])
    if found[image] < FOUND_SHARE * len(lines):
        return None
    label = _label_column(path, image, columns, notes)
    return (
        None if label is None else Table(path, (image, label), tuple(columns[label]), found[image])
    )


def _rows(survey: Survey, path: str) -> list[list[str]]:
    file = survey.path(path)
    try:
        if file.stat().st_size > MAX_TABLE_BYTES:
            return []
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    first = text.partition("\n")[0]
    separator = "\t" if path.lower().endswith(".tsv") else max(SEPARATORS, key=first.count)
    if separator not in first:
        return []
    try:
        reader = csv.reader(
            io.StringIO(text),
            delimiter=separator,
            quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        )
        rows = list(reader)
    except csv.Error:
        return []
    rows[0] = [cell.strip() for cell in rows[0]]
    return rows


def _name_of(cell: str) -> str:
    return cell.replace("\\", "/").rpartition("/")[2]


def _names_below(survey: Survey, parent: str) -> set[str]:
    """Return the names and stems of the images in a folder and below it."""
    found: set[str] = set()
    for folder in survey.with_images():
        if not parent or folder.path == parent or folder.path.startswith(f"{parent}/"):
            found.update(folder.images)
            found.update(map(stem, folder.images))
    return found


def _label_column(path: str, image: str, columns: dict[str, list[str]], notes: Notes) -> str | None:
    """Return the column of labels: one whose values repeat. Asks if there are several."""
    given = notes.given.get("label_column")
    if given is not None:
        if given not in columns:
            raise DataError(
                f"{path}: has no column {given}; its columns are {', '.join(columns)}",
                "no-such-column",
            )
        return given
    fitting = [
        name
        for name, cells in columns.items()
        if name != image and name.lower() not in NOT_LABELS and _are_labels(cells)
    ]
    if not fitting:
        return None
    if len(fitting) == 1:
        return fitting[0]
    named = [name for name in fitting if name.lower() in LABEL_COLUMNS]
    if len(named) == 1:
        shown = listed([name for name in fitting if name not in named])
        notes.say("labels", f"column {named[0]} has the labels, by its name; {shown} could, too")
        return named[0]
    readings = {
        name: f"{name} has the labels ({listed(sorted(set(columns[name])), 4)})" for name in fitting
    }
    question = Question("label_column", f"{path} has several columns that may be labels", readings)
    return notes.decide(question)


def _are_labels(cells: Sequence[str]) -> bool:
    values = set(cells)
    if not 2 <= len(values) <= min(MAX_CLASSES, max(2, len(cells) // 2)) or "" in values:
        return False
    return not all(_is_fraction(value) for value in values)


def _is_fraction(text: str) -> bool:
    try:
        return "." in text and float(text) is not None
    except ValueError:
        return False


def by_folders(survey: Survey, notes: Notes) -> dict[str, Any] | None:
    """Return the definition of a task with a folder for each class, or None."""
    splits: dict[str | None, dict[str, int]] = {}
    bases: dict[str | None, str] = {}
    for folder in survey.with_images():
        parts = folder.path.split("/") if folder.path else []
        at = next((i for i, part in enumerate(parts) if split_of(part)), None)
        base, rest = (parts[: at + 1], parts[at + 1 :]) if at is not None else ([], parts)
        split = split_of(parts[at]) if at is not None else None
        if not rest:
            if split != "test" and (split or parts == []):
                return None  # images that are in no folder of a class
            continue
        bases[split] = "/".join(base)
        counts = splits.setdefault(split, {})
        counts[rest[0]] = counts.get(rest[0], 0) + len(folder.images)
    if None in splits and len(splits) == 1:
        bases, splits = _below_single(splits, survey)
    classes = sorted({name for counts in splits.values() for name in counts}, key=_numbers_first)
    if len(classes) < 2 or len(classes) > MAX_CLASSES or any(map(role, classes)):
        return None  # folders named images and masks are no classes
    for split, counts in splits.items():
        where = bases[split] or "."
        shown = ", ".join(f"{name} {count:,}" for name, count in list(sorted(counts.items()))[:8])
        notes.say("labels", f"{where}/ has a folder for each class: {shown}")
    notes.say("classes", f"{len(classes)} folders: {listed(classes, 8)}")
    return {
        "kind": "classify",
        "classes": classes,
        "labels": "folders",
        "folders": {split or "all": bases[split] or "." for split in _in_order(splits)},
    }


def _in_order(splits: dict[str | None, dict[str, int]]) -> list[str | None]:
    return sorted(splits, key=["train", "valid", "test", None].index)


def _below_single(
    splits: dict[str | None, dict[str, int]], survey: Survey
) -> tuple[dict[str | None, str], dict[str | None, dict[str, int]]]:
    """Return bases and classes below the only folder of a root, such as images/cat, images/dog."""
    if len(splits[None]) != 1:
        return {None: ""}, splits
    base = next(iter(splits[None]))
    counts: dict[str, int] = {}
    for folder in survey.with_images():
        rest = folder.path.removeprefix(f"{base}/").split("/")
        if folder.path == base:
            return {None: ""}, splits
        counts[rest[0]] = counts.get(rest[0], 0) + len(folder.images)
    return {None: base}, {None: counts}

"""Class names, colours and codes from the files that labelling tools leave beside the data."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.colours import from_hexadecimal
from ..types import Colour
from .survey import Survey

MAX_BYTES = 2_000_000
MAX_CLASSES = 1000
_VOID = (
    "void unlabeled unlabelled ignore ignored __ignore__ _ignore_ dontcare dont_care "
    "not_labeled not_labelled unlabeled_area"
)
VOID_NAMES = frozenset(_VOID.split())
_BACKGROUND = "background _background_ __background__ bg back backgr other others"
BACKGROUND_NAMES = frozenset(_BACKGROUND.split())
TEXT_NAMES = (
    "labelmap.txt",
    "class_names.txt",
    "classnames.txt",
    "classes.txt",
    "class.txt",
    "labels.txt",
    "label_names.txt",
    "label_colors.txt",
    "label_colours.txt",
    "label_colours.txt",
    "colors.txt",
    "codes.txt",
    "obj.names",
    "classes.names",
)
YAML_NAMES = ("data", "dataset", "info", "classes", "labels", "coco")
JSON_NAMES = ("meta", "classes", "labels", "id2label", "label2id", "class_names", "class_dict")
TABLE_NAMES = ("class_dict", "classes", "class", "labels", "colors", "label_colors", "objectinfo")


@dataclass(frozen=True)
class ClassFile:
    """The classes that a file declares: in order, by code, or by colour."""

    path: str
    names: tuple[str, ...]  # in the file's order
    codes: Mapping[int, str] = field(default_factory=dict)  # where the file states codes
    colours: Mapping[Colour, str] = field(default_factory=dict)  # where it states colours


def is_void(name: str) -> bool:
    """Return whether a class name stands for unlabelled pixels."""
    return re.sub(r"[\s\-']+", "_", name.strip().lower()) in VOID_NAMES


def is_background(name: str) -> bool:
    return re.sub(r"[\s\-]+", "_", name.strip().lower()) in BACKGROUND_NAMES


def class_files(survey: Survey) -> list[ClassFile]:
    """Return the class files of a folder, those with colours and codes first."""
    found = []
    for path in survey.others(".txt", ".names", ".yaml", ".yml", ".json", ".csv", ".tsv"):
        parse = _parser_of(PurePosixPath(path).name.lower())
        if parse is None:
            continue
        text = _text_of(survey.path(path))
        if not text:
            continue
        try:
            declared = parse(path, text)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, AttributeError):
            continue  # not a class file, but a file of that name
        if declared is not None and 1 <= len(declared.names) <= MAX_CLASSES:
            found.append(declared)
    return sorted(
        found, key=lambda file: (not file.colours and not file.codes, file.path.count("/"))
    )


def _text_of(file: Path) -> str:
    try:
        return "" if file.stat().st_size > MAX_BYTES else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _parser_of(name: str) -> Callable[[str, str], ClassFile | None] | None:
    base, _, suffix = name.rpartition(".")
    if name in TEXT_NAMES or (
        suffix == "txt" and re.search(r"class_?names?$|label_?names?$", base)
    ):
        return _from_text
    if suffix in ("yaml", "yml") and base in YAML_NAMES:
        return _from_yaml
    if suffix == "json" and base in JSON_NAMES:
        return _from_json
    if suffix in ("csv", "tsv") and any(base.startswith(known) for known in TABLE_NAMES):
        return _from_table
    return None


def _made(path: str, entries: Sequence[tuple[str, int | None, Colour | None]]) -> ClassFile | None:
    """Return the class file of (name, code, colour) entries; names are kept once."""
    names = tuple(dict.fromkeys(name for name, _, _ in entries if name))
    if not names:
        return None
    return ClassFile(
        path,
        names,
        {code: name for name, code, _ in entries if code is not None},
        {colour: name for name, _, colour in entries if colour is not None},
    )


def _from_text(path: str, text: str) -> ClassFile | None:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or len(lines) > MAX_CLASSES:
        return None
    entries = [_entry(line) for line in lines]
    if any(len(name) > 100 or "/" in name and "." in name for name, _, _ in entries):
        return None  # a list of files
    has_codes = all(code is not None for _, code, _ in entries)
    if not has_codes:
        entries = [
            (line if colour is None else name, None, colour)
            for line, (name, _, colour) in zip(lines, entries)
        ]
    if has_codes or any(colour for _, _, colour in entries):
        return _made(path, entries)
    if is_void(entries[0][0]) and entries[0][0].startswith("__"):
        # LabelMe numbers its class file from -1: __ignore__ is 255, the next one is 0
        return _made(
            path,
            [
                (name, number - 1 if number else 255, None)
                for number, (name, _, _) in enumerate(entries)
            ],
        )
    return _made(path, entries)


def _entry(line: str) -> tuple[str, int | None, Colour | None]:
    """Return name, code and colour of a line, in one of the forms that tools write."""
    if match := re.fullmatch(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(:.*)?", line):
        return match[1].strip(), None, _colour(match[2], match[3], match[4])  # CVAT's labelmap.txt
    number = r"(\d{1,3})[\s,;]+"
    if match := re.fullmatch(rf"{number}{number}(\d{{1,3}})[\s,;]+(\D.*)", line):
        return match[4].strip(), None, _colour(match[1], match[2], match[3])  # CamVid
    if match := re.fullmatch(r"(\D.*?)[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})", line):
        return match[1].strip(), None, _colour(match[2], match[3], match[4])
    if match := re.fullmatch(r"(\d{1,5})\s*[:=,;\s]\s*(\D.*)", line):
        return match[2].strip(), int(match[1]), None
    if match := re.fullmatch(r"(\D.*?)\s*[:=,;]\s*(\d{1,5})", line):
        return match[1].strip(), int(match[2]), None
    return line, None, None


def _colour(red: object, green: object, blue: object) -> Colour | None:
    levels = tuple(int(str(level)) for level in (red, green, blue))
    return levels if max(levels) <= 255 and min(levels) >= 0 else None  # type: ignore[return-value]


def _stated_colour(value: object) -> Colour | None:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        return _colour(*value)
    return from_hexadecimal(value)


def _from_yaml(path: str, text: str) -> ClassFile | None:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return _from_value(path, value)


def _from_json(path: str, text: str) -> ClassFile | None:
    return _from_value(path, json.loads(text))


def _from_value(path: str, value: Any) -> ClassFile | None:
    """Return the classes of a parsed file: names by code, or entries with names and colours."""
    if isinstance(value, dict):
        for key in ("names", "label_names", "class_names", "classes", "labels", "id2label"):
            if isinstance(value.get(key), (list, dict)):
                return _from_value(path, value[key])
        if value and all(str(key).isdecimal() for key in value):
            return _made(path, [(_name(entry), int(key), None) for key, entry in value.items()])
        if value and all(type(entry) is int for entry in value.values()):
            return _made(path, [(str(name), code, None) for name, code in value.items()])
        if value and all(_stated_colour(entry) for entry in value.values()):
            return _made(path, [(str(name), None, _stated_colour(c)) for name, c in value.items()])
        return None
    if not isinstance(value, list) or not value:
        return None
    entries: list[tuple[str, int | None, Colour | None]] = []
    for entry in value:
        if isinstance(entry, dict):
            code = next(
                (entry[k] for k in ("code", "value", "label_id") if type(entry.get(k)) is int), None
            )
            entries.append((_name(entry), code, _stated_colour(entry.get("color"))))
        else:
            entries.append((_name(entry), None, None))
    return _made(path, entries)


def _name(entry: Any) -> str:
    if isinstance(entry, dict):
        return str(next((entry[k] for k in ("title", "name", "label") if k in entry), ""))
    return str(entry)


def _from_table(path: str, text: str) -> ClassFile | None:
    """Return the classes of a table with a column of names, and of codes or of r, g, b."""
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.endswith("tsv") else ","))
    if not rows or len(rows) > MAX_CLASSES:
        return None
    lower = {str(key).strip().lower(): key for key in rows[0]}
    name = next((lower[k] for k in ("name", "class_name", "class", "label") if k in lower), None)
    code = next((lower[k] for k in ("idx", "id", "code", "index", "value") if k in lower), None)
    levels = [lower[k[:]] for k in ("r", "g", "b") if k in lower] or [
        lower[k] for k in ("red", "green", "blue") if k in lower
    ]
    if name is None or (code is None and len(levels) < 3):
        return None
    entries = [
        (
            str(row[name]).strip(),
            int(row[code]) if code is not None else None,
            _colour(*(str(row[k]).strip() for k in levels)) if len(levels) == 3 else None,
        )
        for row in rows
    ]
    return _made(path, entries)

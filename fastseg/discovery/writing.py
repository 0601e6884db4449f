"""task.toml as text: a definition with comments that say where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit

from .groups import Grouping

WIDTH = 96  # columns of a comment

HEAD = (
    "What `fastseg new` found in this folder. Edit it: classes can be renamed, in all places, and",
    "values changed. Paths are relative to this folder, which stands wherever a task's name does:",
    "    fastseg check DIR    fastseg show DIR    fastseg fit DIR",
)
# Top-level keys in the order of the file, each with the subject of its evidence
KEYS = (
    ("name", "name"),
    ("kind", ""),
    ("classes", "classes"),
    ("palette", ""),
    ("background", "background"),
    ("masks", "masks"),
    ("ignore", "ignore"),
    ("labels", "labels"),
    ("table", ""),
    ("columns", ""),
    ("group", "group"),
    ("output", ""),
    ("depth", ""),
    ("channels", "channels"),
    ("channel_files", "channels"),
    ("shown_channels", ""),
    ("alpha", "alpha"),
    ("window", "window"),
)
RECIPE_HEAD = "How it is trained: all fields of Recipe; options of `fastseg fit` replace them."
LIST_WIDTH = 90  # columns up to which a list stays on one line


def text_of(
    definition: Mapping[str, Any],
    evidence: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
    grouping: Grouping | None,
) -> str:
    """Return the text of a task.toml. `reasons` are those of the recipe's values."""
    lines = [*(f"# {line}" for line in HEAD), ""]
    lines += _comments(evidence.get("images", ()))
    told: set[str] = set()
    for key, subject in KEYS:
        if key == "group" and grouping is not None and "group" not in definition:
            lines += _comments([f"{grouping}. To keep each group on one side of the split:"])
            lines.append(f"# group = {_value(grouping.pattern)}")
        if key not in definition:
            continue
        if subject and subject not in told:
            lines += _comments(evidence.get(subject, ()))
            told.add(subject)
        lines += _line(key, definition[key])
    if "ignore" not in definition and evidence.get("ignore"):
        lines += _comments(evidence["ignore"])
    if definition.get("codes"):
        lines += ["", "# mask value -> class", "[codes]"]
        lines += [f"{_key(key)} = {_value(name)}" for key, name in definition["codes"].items()]
    if definition.get("layouts"):
        lines += ["", *_comments(evidence.get("layouts", ()))]
        for number, layout in enumerate(definition["layouts"]):
            lines += [*([""] if number else []), "[[layouts]]"]
            lines += [f"{key} = {_value(value)}" for key, value in layout.items()]
    if definition.get("folders"):
        lines += ["", "[folders]"]
        lines += [f"{key} = {_value(value)}" for key, value in definition["folders"].items()]
    lines += ["", f"# {RECIPE_HEAD}", "[recipe]"]
    for key, value in definition["recipe"].items():
        lines += _comments([reasons[key]] if key in reasons else [])
        lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> list[str]:
    """Return a key with its value; a long list has one entry a line."""
    short = f"{key} = {_value(value)}"
    if not isinstance(value, list) or len(short) <= LIST_WIDTH:
        return [short]
    return [f"{key} = [", *(f"    {_value(entry)}," for entry in value), "]"]


def _value(value: Any) -> str:
    if isinstance(value, str) and "\\" in value and "'" not in value:
        return f"'{value}'"  # a pattern reads better without doubled backslashes
    return tomlkit.item(value).as_string() if not isinstance(value, dict) else _inline(value)


def _inline(value: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{_key(key)} = {_value(entry)}" for key, entry in value.items()) + "}"


def _key(key: str) -> str:
    plain = key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key)
    return key if plain else tomlkit.item(key).as_string()


def _comments(lines: Sequence[str]) -> list[str]:
    """Return comment lines of at most `WIDTH` columns, without control characters."""
    found: list[str] = []
    for line in lines:
        clean = "".join(c if c.isprintable() else "?" for c in line)
        row = "#"
        for word in clean.split():
            if len(row) + 1 + len(word) > WIDTH and row != "#":
                found.append(row)
                row = "#  "
            row += f" {word}"
        found.append(row)
    return found

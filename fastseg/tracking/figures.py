"""Names and numbers for trackers: of nested settings and metrics, and of an export's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exports.card import sha256
from .base import Setting

INTERVALS = "intervals"
ENDS = ("low", "high")  # of an interval


def settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Return nested settings flat: {"recipe": {"lr": 1}} is {"recipe.lr": 1}; others are texts."""
    found: dict[str, Setting] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= settings(value, f"{name}.")
        elif value is not None:
            found[name] = value if isinstance(value, (bool, int, float, str)) else _text(value)
    return found


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics flat: "class iris/dice", and the ends of its interval, "class iris/dice_low".

    Figures of means have names such as "mean_foreground/dice", and single ones "total/accuracy".
    """
    found = dict(_numbers({key: value for key, value in metrics.items() if key != INTERVALS}))
    for name, ends in _pairs(metrics.get(INTERVALS, {})):
        for end, value in zip(ENDS, ends):
            found[f"{name}_{end}"] = value
    return {_title(name): value for name, value in found.items()}


def _title(name: str) -> str:
    """Return the name under which trackers show a figure, in groups by what is before the slash."""
    if name.startswith("classes/"):
        return f"class {name.removeprefix('classes/')}"
    return name if "/" in name else f"total/{name}"


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _pairs(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[float]]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)) and all(isinstance(n, (int, float)) for n in value):
            yield f"{prefix}{key}", [float(number) for number in value]


def printable_name(name: str) -> str:
    """Return a name as MLflow accepts it: letters, digits, and _ - . : / and spaces."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def file_sums(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    return {file.name: sha256(file) for file in files}

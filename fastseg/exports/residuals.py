"""What a card keeps of measures, see `measuring.calibration`: cards may be malicious."""

from __future__ import annotations

import re
from typing import Any


def _is_residuals(value: Any) -> bool:
    """Return whether a value is what `metrics.conformal.Residuals.to_json` returns."""
    if not isinstance(value, dict) or set(value) - {"labelled"} != {
        "scale",
        "count",
        "images",
        "bias",
        "spread",
        "scores",
    }:
        return False
    counts, numbers = (value["count"], value["images"]), (value["bias"], value["spread"])
    labelled = value.get("labelled", 0)
    if not (
        value["scale"] in ("image", "object", "uncertainty")
        and all(type(count) is int and 1 <= count <= 10**9 for count in counts)
        and type(labelled) is int
        and 0 <= labelled <= 10**9
        and all(type(n) in (int, float) and abs(n) <= 1e12 for n in numbers)
        and isinstance(value["scores"], str)
        and re.fullmatch(r"[0-9.e+\- ]{1,4000}", value["scores"])
    ):
        return False
    scores = [float(text) for text in value["scores"].split()]
    return 1 <= len(scores) <= counts[0] and 0 <= scores[0] and scores == sorted(scores)


def is_measures(value: Any) -> bool:
    """Return whether a value is {} or what `measuring.calibration.calibrated` returns."""
    if not isinstance(value, dict) or set(value) - {"whole", "objects", "between", "found"}:
        return False
    parts = [value.get(name, {}) for name in ("whole", "objects")]
    if not all(isinstance(part, dict) for part in (*parts, value.get("between", {}))):
        return False
    of_classes = [entries for part in parts for entries in part.values()]
    return (
        all(isinstance(entries, dict) for entries in of_classes)
        and all(_is_residuals(entry) for entries in of_classes for entry in entries.values())
        and all(map(_is_residuals, value.get("between", {}).values()))
        and isinstance(value.get("found", {}), dict)
    )

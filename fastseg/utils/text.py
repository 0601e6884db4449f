"""Words of messages."""

from __future__ import annotations

import re


def counted(number: int, what: str) -> str:
    """Return "1 mask", "2 masks"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else plural}"


def figure(value: float) -> str:
    """Return a number with four digits, or all before the point: "0.3546", "42.29", "17,420"."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def natural_key(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that orders numbers within texts by value: image2 before image10."""
    return [
        (0, float(part), "") if part.isdecimal() else (1, 0.0, part)
        for part in re.split(r"(\d+)", text)
    ]

"""Words of messages."""

from __future__ import annotations

import re


def counted(number: int, what: str) -> str:
    """Return "1 mask", "2 masks"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else plural}"


def natural_key(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that orders numbers within texts by value: image2 before image10."""
    return [
        (0, float(part), "") if part.isdecimal() else (1, 0.0, part)
        for part in re.split(r"(\d+)", text)
    ]

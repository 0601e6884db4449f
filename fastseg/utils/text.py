"""Words of messages."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """Return "1 mask", "2 masks"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else plural}"

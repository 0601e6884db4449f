"""The page Data: the images by part, with their labels."""

from __future__ import annotations

from typing import Any

from ..http import Asked, get
from ..page import Page
from ..workspace import PARTS

MOST = 500  # images in an answer


def summary(asked: Asked) -> dict[str, Any]:
    """Return how many images each part has."""
    listing = asked.workspace.listing(fresh=True)
    parts = [entry.part for entry in listing.entries]
    return {
        "images": len(parts),
        "parts": {part: parts.count(part) for part in PARTS if part in parts},
        "fault": str(listing.fault) if listing.fault else None,
    }


def images(asked: Asked) -> dict[str, Any]:
    """Return the images `from` to `from + count`, of a `part` if it is given."""
    start, count = int(asked.number("from", 0)), int(asked.number("count", 100, 1, MOST))
    part = asked.text("part", "")
    chosen = [
        entry for entry in asked.workspace.listing().entries if not part or entry.part == part
    ]
    return {
        "total": len(chosen),
        "images": [
            {"id": entry.id, "name": entry.name, "part": entry.part}
            for entry in chosen[start : start + count]
        ],
    }


page = Page(
    "data",
    "Data",
    10,
    routes=(get("/api/data", summary), get("/api/data/images", images)),
)

"""The page Data: the images by part, with their labels, faults and suspected label errors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..faults import UNLABELLED, Found
from ..http import Asked, get
from ..listing import PARTS, Entry
from ..page import Page
from ..workspace import Workspace

if TYPE_CHECKING:
    from ...corrections.audit import AuditState

MOST = 500  # images in an answer
ANY = "any"  # of the faults
SUSPECT = "suspect"


def summary(asked: Asked) -> dict[str, Any]:
    """Return how many images each part has, what the check found, and start it if it is needed."""
    workspace = asked.workspace
    listing = workspace.listing(fresh=True)
    if listing.entries:
        workspace.checking.start()
    checking = workspace.checking
    found = checking.found
    parts = Counter(entry.part for entry in listing.entries)
    return {
        "folder": str(workspace.data),
        "audit": _audit(workspace.audit()),
        "images": len(listing.entries),
        "parts": {part: parts[part] for part in PARTS if parts[part]},
        "fault": str(listing.fault) if listing.fault else None,
        "check": {
            "state": checking.state,
            "error": checking.error,
            "kinds": _without_unlabelled(found.kinds) if found else {},
            "general": found.general if found else [],
            "stops": bool(found and found.stops),
        },
        "classes": _images_of_classes(workspace, found),
        "suspects": len(workspace.checking.suspects()),
    }


def _audit(audit: AuditState | None) -> dict[str, Any] | None:
    if audit is None:
        return None
    total = len(audit.plan.sample)
    return {"export": audit.exporter, "total": total, "done": total - len(audit.left)}


def _images_of_classes(workspace: Workspace, found: Found | None) -> list[int] | None:
    """Return how many images have each class; None as long as that is not known."""
    if found is None:
        return None
    counts = Counter(code for codes in found.classes.values() for code in codes)
    return [counts[code] for code in range(len(workspace.task.classes))]


def _without_unlabelled(kinds: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in kinds.items() if kind != UNLABELLED}


def images(asked: Asked) -> dict[str, Any]:
    """Return the images `from` to `from + count` of those that are asked for.

    They can be chosen by `part`, `class` (an index), `fault` (a kind, or "any"), and `text` in
    their name; `suspect=1` are those whose label may be wrong, the most suspect ones first.
    """
    workspace = asked.workspace
    start, count = int(asked.number("from", 0)), int(asked.number("count", 100, 1, MOST))
    chosen = _chosen(asked)
    found, suspects = workspace.checking.found, workspace.checking.suspects()
    return {
        "total": len(chosen),
        "images": [_shown(entry, found, suspects) for entry in chosen[start : start + count]],
    }


def _chosen(asked: Asked) -> list[Entry]:
    workspace, found = asked.workspace, asked.workspace.checking.found or Found("")
    part, fault, text = asked.text("part", ""), asked.text("fault", ""), asked.text("text", "")
    chosen = list(workspace.listing().entries)
    if part:
        chosen = [entry for entry in chosen if entry.part == part]
    if text:
        chosen = [entry for entry in chosen if text.casefold() in entry.name.casefold()]
    if asked.query.get("class", ""):
        code = int(asked.number("class", 0, 0, len(workspace.task.classes) - 1))
        chosen = [entry for entry in chosen if code in found.classes.get(entry.id, ())]
    if fault:
        chosen = [
            entry
            for entry in chosen
            if any(fault in (ANY, one["kind"]) for one in _faults(entry, found))
        ]
    if asked.query.get(SUSPECT) == "1":
        order = {name: place for place, name in enumerate(workspace.checking.suspects())}
        chosen = sorted(
            (entry for entry in chosen if entry.name in order), key=lambda entry: order[entry.name]
        )
    return chosen


def _faults(entry: Entry, found: Found | None) -> list[dict[str, Any]]:
    """Return the faults of an image; that it waits for a label, which its part says, is none."""
    return [
        fault
        for fault in (found.faults.get(entry.id, ()) if found else ())
        if fault["kind"] != UNLABELLED
    ]


def _shown(entry: Entry, found: Found | None, suspects: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": entry.id, "name": entry.name, "part": entry.part}
    if faults := _faults(entry, found):
        shown["faults"] = faults
    if entry.name in suspects:
        row = suspects[entry.name]
        shown["suspect"] = {"labelled": row.get("labelled"), "predicted": row.get("predicted")}
    return shown


def image(asked: Asked) -> dict[str, Any]:
    """Return what is known of one image."""
    workspace = asked.workspace
    entry = workspace.entry(asked.path["id"])
    if entry.item is not None and not workspace.task.has_masks:
        label: str | None = workspace.task.class_name(entry.item)
    else:
        label = None
    found = workspace.checking.found
    codes = found.classes.get(entry.id) if found else None
    return {
        **_shown(entry, found, workspace.checking.suspects()),
        "label": label,
        "classes": codes,
        "has_label": entry.item is not None,
        "group": entry.item.group.strip("/") if entry.item and workspace.task.grouped else "",
    }


page = Page(
    "data",
    "Data",
    10,
    in_audit=True,
    routes=(
        get("/api/data", summary),
        get("/api/data/images", images),
        get("/api/images/{id}", image),
    ),
)

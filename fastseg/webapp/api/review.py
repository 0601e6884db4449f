"""The page Review: which image a person should look at next, and how long the rest will take."""

from __future__ import annotations

import statistics
from typing import Any

from ...corrections.log import reviewed
from ...errors import AppError
from ..http import Asked, get
from ..listing import Entry
from ..ordering import Expected
from ..page import Page
from .editor import context

ORDERS = ("error", "next", "name")
KINDS = ("", "new", "labelled")
NAMED = 3  # images that a message names
MOST = 2000  # images in an answer
PACE = 30  # last corrections whose median is the pace


def queue(asked: Asked) -> dict[str, Any]:
    """Return the images that nobody has reviewed yet, in the order to look at them.

    Those that the export sends to review come first, then by expected error; images whose error is
    not known yet come last, in their own order. With the order "next", the images without a label
    come first, as `corrections.order` advises. The images of an audit come before all. `kind`
    leaves only those without ("new") or with a label ("labelled"). Images without a label that
    would never train are left out.
    """
    workspace = asked.workspace
    order = asked.text("order", "error")
    if order not in ORDERS:
        raise AppError(f"order: give one of {', '.join(ORDERS)}", "bad-request")
    kind = asked.text("kind", "")
    if kind not in KINDS:
        raise AppError("kind: give one of new, labelled, or nothing", "bad-request")
    rows = workspace.labels.store.all()
    done = reviewed(rows)
    listing = workspace.listing(fresh=asked.text("fresh", "0") == "1")
    state = workspace.audit()
    apart = None if state else workspace.ordering.apart()
    hidden = apart.found if apart else {}
    waits = [e for e in listing.entries if e.name not in done and e.name not in hidden]
    new = sum(entry.item is None for entry in waits)
    left = [entry for entry in waits if not kind or (entry.item is None) == (kind == "new")]
    expected = workspace.ordering.expected()
    found = expected.found if expected else {}
    if order != "name":
        left.sort(key=lambda entry: _place(found.get(entry.id)))
    advice = workspace.ordering.advice() if order == "next" else None
    advised = advice.order if advice else {}
    if advised:  # stable: the others stay in the order of their expected errors
        left.sort(key=lambda entry: advised.get(entry.name, (len(advised), ""))[0])
    audit = {f"images/{name}" for name in state.left} if state else set()
    if audit:  # a random sample, whose error a certificate states: it comes before all others
        left.sort(key=lambda entry: entry.name not in audit)
    worked = [row.seconds for row in rows[-PACE:] if row.seconds > 0]
    return {
        "images": [
            {
                **_told(entry, found.get(entry.id)),
                "reason": advised.get(entry.name, (0, ""))[1],
                "is_audit": entry.name in audit,
            }
            for entry in left[:MOST]
        ],
        "advice": None if advice is None else {"is_done": advice.is_done, "error": advice.error},
        "audit": None
        if state is None
        else {
            "total": len(state.plan.sample),
            "command": state.command,
            "sentences": state.sentences,
        },
        "left": len(left),
        "counts": {"new": new, "labelled": len(waits) - new},
        "apart": [{"name": name, "why": why} for name, why in hidden.items()][:NAMED],
        "apart_count": len(hidden),
        "apart_is_done": apart is None or apart.is_done,
        "reviewed": len(done & {entry.name for entry in listing.entries}),
        "pace": statistics.median(worked) if worked else None,
        "pass": None
        if expected is None
        else {
            "done": len(found) + expected.faults,
            "total": expected.total,
            "is_done": expected.is_done,
            "error": expected.error,
        },
        # images that only wait for a label are no fault of a listing: they are in the queue
        "fault": None if listing.fault is None else str(listing.fault),
    }


def _place(expected: Expected | None) -> tuple[bool, bool, float]:
    if expected is None:
        return True, True, 0.0
    return False, not expected.needs_review, -expected.error


def _told(entry: Entry, expected: Expected | None) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "part": entry.part,
        "expected_error": expected.error if expected else None,
        "needs_review": expected.needs_review if expected else None,
    }


page = Page(
    "review",
    "Review",
    40,
    in_audit=True,
    routes=(get("/api/review/queue", queue),),
    context=context,
)

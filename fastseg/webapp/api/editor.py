"""The page Editor: one image's label, its versions, the model's prediction and proposals."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from starlette.responses import Response

from ...corrections.encoding import can_be_unlabelled
from ...corrections.log import REOPENED
from ...data.colours import hexadecimal
from ...data.images import JPEG_QUALITY
from ...errors import AppError, FastsegError
from ...types import IGNORE
from ..http import Asked, get, post, upload
from ..labels import Label
from ..listing import Entry
from ..page import Page
from ..runs import decode, encode, rows_of
from ..workspace import Workspace
from .images import picture_response

EXACT = 4_000_000  # px up to which the editor shows a PNG; larger ones would take seconds
LARGEST = 512 * 2**20  # bytes of a mask's body: a plain mask of 512 megapixels
ACTIONS = ("corrected", "accepted", "restored", "audited", REOPENED)
LONGEST_NAME = 80  # characters of a person's name
MOST_SECONDS = 86400.0


def entry_of(asked: Asked) -> Entry:
    """Return the image that a request is about."""
    return asked.workspace.entry(asked.path["id"])


def state(asked: Asked) -> dict[str, Any]:
    """Return what the editor shows beside an image."""
    workspace, entry = asked.workspace, entry_of(asked)
    rows = workspace.labels.history(entry)
    expected = workspace.ordering.expected()
    known = expected.found.get(entry.id) if expected else None
    return {
        "id": entry.id,
        "name": entry.name,
        "part": entry.part,
        "versions": [
            {"version": row.version, "action": row.action, "by": row.by, "when": row.when}
            for row in rows
        ],
        "was_labelled": workspace.labels.was_labelled(entry),  # before the newest version
        "has_model": expected is not None and not expected.error,
        "expected_error": known.error if known else None,
    }


def picture(asked: Asked) -> Response:
    """Return an image as people see it, 8 bits and upright: as PNG, a large one as JPEG."""
    workspace, entry = asked.workspace, entry_of(asked)
    pixels = workspace.task.shown(workspace.task.image(entry.item or entry.path))
    image = Image.fromarray(pixels)
    if pixels.shape[0] * pixels.shape[1] <= EXACT:
        return picture_response(image, "PNG", compress_level=1)
    return picture_response(image, "JPEG", quality=JPEG_QUALITY)


def label(asked: Asked) -> Response:
    """Return a label as runs, or a class as JSON: the "current" one, "prediction", or a version.

    Of the current one, the headers tell the base for saving, and where it comes from.
    """
    workspace, entry = asked.workspace, entry_of(asked)
    which = asked.text("which", "current")
    headers = {}
    found: Label | None
    if which == "current":
        opened = workspace.labels.open(entry)
        found = opened.label
        headers = {
            "X-Label-Base": opened.base,
            "X-Label-Origin": opened.origin,
            "X-Label-Fault": quote(opened.fault, errors="replace"),
        }
    elif which == "prediction":
        found = workspace.predictions.label(entry)
    elif which.isdecimal():
        found = workspace.labels.version(entry, int(which))
    else:
        raise AppError("which: give current, prediction, or a version's number", "bad-request")
    if isinstance(found, np.ndarray) and found.ndim == 2:
        return Response(encode(found), media_type="application/octet-stream", headers=headers)
    index = b"null" if found is None else str(int(found)).encode()
    return Response(index, media_type="application/json", headers=headers)


def save(asked: Asked) -> dict[str, Any]:
    """Save the label in the body, or the class in the query, and return its base."""
    workspace, entry = asked.workspace, entry_of(asked)
    action = asked.text("action", "corrected")
    if action not in ACTIONS:
        raise AppError(f"action: give one of {', '.join(ACTIONS)}", "bad-request")
    base = workspace.labels.save(
        entry,
        _label_in(asked, workspace, entry),
        base=_base(asked.text("base")),
        amend=asked.text("amend", "0") == "1",
        action=action,
        by=_person(asked.text("by", "")),
        seconds=round(asked.number("seconds", 0, 0, MOST_SECONDS), 1),
    )
    item = entry.item
    if item is None or item.origin or not workspace.task.has_masks:
        workspace.changed()  # the label is in another place now; listing again takes time
    return {"base": base, "version": int(base.partition("-")[0])}


def withdraw(asked: Asked) -> dict[str, Any]:
    """Take the label of an image away that had none before its first correction."""
    workspace, entry = asked.workspace, entry_of(asked)
    base, by = asked.body.get("base"), asked.body.get("by", "")
    if not isinstance(base, str) or not isinstance(by, str):
        raise AppError('give {"base": text, "by": text}', "bad-request")
    workspace.labels.withdraw(entry, base=_base(base), by=_person(by))
    workspace.changed()
    return {}


def _person(name: str) -> str:
    return " ".join(name.split())[:LONGEST_NAME]


def _base(text: str) -> str:
    number, found, _ = text.partition("-")
    if not (number.isdecimal() and found):
        raise AppError("base: give the one that the label came with", "bad-request")
    return text


def _label_in(asked: Asked, workspace: Workspace, entry: Entry) -> Label:
    task = workspace.task
    if not task.has_masks:
        return int(asked.number("class", None, 0, len(task.classes) - 1))
    if asked.file is None:
        raise AppError("the request has no mask", "bad-request")
    height, width = workspace.labels.size(entry)
    if asked.file.stat().st_size > 16 + height * width:  # a mask needs no more
        raise AppError("the mask is larger than the image; reload the page", "mask-size")
    codes = decode(asked.file.read_bytes(), (height, width))
    wrong = np.setdiff1d(np.unique(codes), [*range(len(task.classes)), IGNORE])
    if wrong.size:
        raise AppError(f"the mask has the code {wrong[0]}, which is no class", "mask-value")
    return codes


def propose(asked: Asked) -> dict[str, Any]:
    """Return the regions that the model proposes for a `point` or a `box`, in image px."""
    workspace, entry = asked.workspace, entry_of(asked)
    if not workspace.task.has_masks:
        raise AppError("the model proposes regions for masks only", "bad-request")
    point, box = asked.body.get("point"), asked.body.get("box")
    wanted = asked.body.get("code")
    if wanted is not None and wanted not in range(len(workspace.task.classes)):
        wanted = None
    looks = workspace.predictions.looks(entry)
    model = workspace.model()
    if point is not None:
        x, y = _numbers(point, 2)
        found = model.call(lambda _: looks.region_at((x, y), wanted))
    else:
        left, top, right, bottom = _numbers(box, 4)
        found = model.call(lambda _: looks.regions_in((left, top, right, bottom)))
    return {"parts": [{"code": code, "runs": rows_of(mask)} for code, mask in found]}


def _numbers(value: Any, count: int) -> list[int]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(each) in (int, float) and abs(each) < 1e6 for each in value)
    ):
        raise AppError(
            'give {"point": [x, y]} or {"box": [left, top, right, bottom]}', "bad-request"
        )
    return [round(each) for each in value]


def context(workspace: Workspace) -> Mapping[str, Any]:
    """Return what the templates of the editor and the queue need."""
    from ...report.painting import class_colours

    task = workspace.task
    with suppress(FastsegError):
        workspace.model()  # loads while the page opens
    return {
        "settings": {
            "project": workspace.project,
            "masks": task.has_masks,
            "background": task.background,
            "unlabelled": can_be_unlabelled(task),
            "classes": [
                {"code": code, "name": name, "colour": hexadecimal(colour)}
                for code, (name, colour) in enumerate(zip(task.classes, class_colours(task)))
            ],
        }
    }


page = Page(
    "editor",
    "Editor",
    45,
    in_nav=False,
    path="/edit/{id}",
    routes=(
        get("/api/editor/{id}", state),
        get("/api/editor/{id}/picture", picture),
        get("/api/editor/{id}/label", label),
        upload("/api/editor/{id}/label", save, LARGEST),
        post("/api/editor/{id}/withdraw", withdraw),
        post("/api/editor/{id}/propose", propose),
    ),
    context=context,
)

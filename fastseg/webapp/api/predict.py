"""The page Predict: images are sent one by one, and their results come back one by one."""

from __future__ import annotations

from typing import Any

from starlette.responses import FileResponse, Response, StreamingResponse

from ...errors import AppError, brief
from ...inference.uploads import MAX_BYTES
from ..http import Asked, get, post, upload
from ..page import Page


def about(asked: Asked) -> dict[str, Any]:
    """Return the exports that can predict, and the limits."""
    workspace = asked.workspace
    names = [folder.name for folder in workspace.exports()]
    current = workspace.out.name if workspace.out.name in names else next(iter(names), None)
    return {
        "exports": names,
        "current": current,
        "most_bytes": MAX_BYTES,
        "why_no_adding": workspace.labels.why_no_adding(),
    }


def new(asked: Asked) -> dict[str, Any]:
    """Begin a batch for an `export`, by default the current one; its model starts to load."""
    workspace = asked.workspace
    export = workspace.export(asked.text("export", "") or None)
    workspace.model(export)
    return {"batch": workspace.batches.new(export).id, "export": export.name}


def results(asked: Asked) -> dict[str, Any]:
    """Return all results of a batch, for a page that was loaded again."""
    batch = asked.workspace.batches.get(asked.path["batch"])
    return {"batch": batch.id, "export": batch.export.name, "results": list(batch.shown)}


def add(asked: Asked) -> dict[str, Any]:
    """Predict one image, the body, of the given `name`."""
    batches = asked.workspace.batches
    batch = batches.get(asked.path["batch"])
    assert asked.file is not None  # an upload has one
    return batches.add(batch, asked.file, asked.text("name", "image"))


def picture(asked: Asked) -> Response:
    """Return a picture of a result: image, codes or uncertainty; small or large."""
    batch = asked.workspace.batches.get(asked.path["batch"])
    number = asked.path["number"]
    if not (number.isascii() and number.isdecimal()):
        raise AppError(f"{brief(number)}: is no number of a result", "bad-request")
    path = batch.picture(int(number), asked.path["kind"], asked.query.get("size", "small"))
    return FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})


def correct(asked: Asked) -> dict[str, Any]:
    """Copy the image of a result (`number`) into the data, to be corrected in the editor."""
    batch = asked.workspace.batches.get(asked.path["batch"])
    number = int(asked.number("number", high=1e6))
    path = batch.file(number)
    entry = asked.workspace.labels.add(path, asked.text("name", path.name), batch.export)
    told = {"id": entry.id, "name": entry.name, "has_label": entry.item is not None}
    batch.shown[number]["entry"] = told
    return told


def archive(asked: Asked) -> Response:
    """Return all results as a zip file, as `fastseg predict` writes them."""
    batches = asked.workspace.batches
    batch = batches.get(asked.path["batch"])
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in asked.workspace.task.name)
    return StreamingResponse(
        batches.archive(batch),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}_predictions.zip"'},
    )


page = Page(
    "predict",
    "Predict",
    30,
    routes=(
        get("/api/predict", about),
        post("/api/predict/new", new),
        get("/api/predict/{batch}/results", results),
        upload("/api/predict/{batch}/images", add, MAX_BYTES),
        post("/api/predict/{batch}/correct", correct),
        get("/api/predict/{batch}/{number}/{kind}", picture),
        get("/api/predict/{batch}/zip", archive),
    ),
)

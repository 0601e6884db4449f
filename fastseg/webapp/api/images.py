"""Pictures of the data, and what the task is: requests that several pages make."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...data.colours import hexadecimal
from ...errors import FastsegError
from ...types import IGNORE
from ..http import Asked, get
from ..page import Page
from ..workspace import Workspace

JPEG_QUALITY = 90  # of pictures at full size


def about(asked: Asked) -> dict[str, Any]:
    """Return the task: its classes with their colours as they are shown."""
    from ...report.painting import class_colours

    task = asked.workspace.task
    return {
        "task": task.name,
        "has_masks": task.has_masks,
        "background": task.background,
        "unlabelled": IGNORE,
        "classes": [
            {"name": name, "colour": hexadecimal(colour)}
            for name, colour in zip(task.classes, class_colours(task))
        ],
    }


def model(asked: Asked) -> dict[str, Any]:
    """Return whether the model is loaded, and start to load it."""
    workspace = asked.workspace
    try:
        export = workspace.export()
        found = workspace.model(export)
    except FastsegError as error:
        audit = workspace.audit()
        by = f"labels by export {audit.exporter}" if audit else "no model yet"
        return {"state": "none", "error": str(error), "text": by}
    told = str(found.error) if found.error else None
    return {"state": found.state, "error": told, "export": export.name}


def picture(asked: Asked) -> Response:
    """Return an image at its own size, upright, as PNG (`format=png`: exact) or JPEG."""
    workspace = asked.workspace
    entry = workspace.entry(asked.path["id"])
    pixels = workspace.task.shown(workspace.task.image(entry.item or entry.path))
    kind = "PNG" if asked.query.get("format") == "png" else "JPEG"
    options = {"compress_level": 1} if kind == "PNG" else {"quality": JPEG_QUALITY}
    return picture_response(Image.fromarray(pixels), kind, **options)


def overlay(asked: Asked) -> Response:
    """Return an image's label as a PNG of colours: transparent background, at its own size."""
    workspace = asked.workspace
    entry = workspace.entry(asked.path["id"])
    codes = label_of(workspace, entry.id)
    return picture_response(coloured(workspace, codes), "PNG", compress_level=1)


def label_of(workspace: Workspace, id: str) -> np.ndarray | None:
    """Return an image's mask, uint8 (H, W), 255 unlabelled; None if it has none."""
    entry = workspace.entry(id)
    if entry.item is None or not workspace.task.has_masks:
        return None
    return np.asarray(workspace.task.label(entry.item), dtype=np.uint8)


def coloured(workspace: Workspace, codes: np.ndarray | None) -> Image.Image:
    """Return codes as a picture in the classes' colours; other pixels are transparent."""
    from ...report.painting import class_colours

    task = workspace.task
    if codes is None:
        codes = np.full((1, 1), IGNORE, np.uint8)
    made = Image.fromarray(codes, "P")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(task.classes)] = class_colours(task)
    made.putpalette(colours.tobytes())
    alpha = bytearray(256)
    for code in range(len(task.classes)):
        alpha[code] = 0 if code == task.background else 255
    made.info["transparency"] = bytes(alpha)
    return made


def picture_response(made: Image.Image, kind: str, **options: Any) -> Response:
    """Return a picture, encoded as "PNG" or "JPEG" with Pillow's options, as a response."""
    buffer = io.BytesIO()
    made.save(buffer, kind, **options)
    return Response(
        buffer.getvalue(),
        media_type=f"image/{kind.lower()}",
        headers={"Cache-Control": "private, no-cache"},
    )


async def thumbnail(request: Request) -> Response:
    """Return a small picture of an image, with its label over it if `labels=1`."""
    workspace: Workspace = request.app.state.workspace
    return await workspace.thumbnails.response(
        request.path_params["id"],
        request.query_params.get("labels") == "1",
        request.headers.get("if-none-match"),
    )


page = Page(
    "images",
    has_page=False,
    in_nav=False,
    routes=(
        get("/api/task", about),
        get("/api/model", model),
        Route("/api/images/{id}/thumbnail", thumbnail),
        get("/api/images/{id}/picture", picture),
        get("/api/images/{id}/overlay", overlay),
    ),
)

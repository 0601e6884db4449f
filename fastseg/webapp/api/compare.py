"""The page Compare: two exports on the same held-out images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from starlette.responses import Response

from ...data.images import resized_codes
from ...errors import AppError
from ..http import Asked, get, post
from ..page import Page
from .images import coloured, picture_response

SIDE = 1200  # px of the longer side of predictions that the page shows


def about(asked: Asked) -> dict[str, Any]:
    """Return the exports that can be compared, and the last comparison."""
    names = [folder.name for folder in asked.workspace.exports()]
    return {"exports": names, **asked.workspace.comparing.told()}


def start(asked: Asked) -> dict[str, Any]:
    """Compare the exports `first` and `second`."""
    workspace = asked.workspace
    first, second = workspace.export(asked.text("first")), workspace.export(asked.text("second"))
    if first == second:
        raise AppError("choose two different exports", "bad-request")
    workspace.comparing.start(first, second)
    return about(asked)


def prediction(asked: Asked) -> Response:
    """Return an export's prediction of an image: colours over a transparent background."""
    workspace = asked.workspace
    entry = workspace.entry(asked.path["id"])
    export = workspace.export(asked.path["export"])
    found = workspace.model(export).call(lambda predictor: predictor.predict(entry.path))
    if found.codes is None:
        return picture_response(Image.new("L", (1, 1)), "PNG")
    scale = min(1, SIDE / max(found.size))
    size = max(1, round(found.size[0] * scale)), max(1, round(found.size[1] * scale))
    codes = resized_codes(np.asarray(found.codes), size, "squish")
    return picture_response(coloured(workspace, codes), "PNG", compress_level=1)


page = Page(
    "compare",
    "Compare",
    50,
    routes=(
        get("/api/compare", about),
        post("/api/compare/start", start),
        get("/api/compare/{export}/{id}", prediction),
    ),
)

"""Shared parts of the HTML pages: the template environment, pictures as data URLs, colours as
CSS.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from ..types import Colour
from ..utils.io import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def environment() -> Environment:
    """Return the environment of the package's templates, which escapes every name."""
    return Environment(
        loader=PackageLoader("fastseg.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def jpeg(pixels: np.ndarray, quality: int = 85) -> str:
    """Return pixels, uint8 (H, W, 3), as the data URL of a JPEG."""
    return address(Image.fromarray(pixels), "JPEG", quality=quality)


def layer(where: np.ndarray, colour: Colour) -> str:
    """Return the data URL of a PNG that is `colour` where `where`, bool (H, W), is True, and
    transparent elsewhere.
    """
    picture = Image.fromarray(where.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *colour])
    return address(picture, "PNG", transparency=0, bits=1)


def address(picture: Image.Image, kind: str, **options: object) -> str:
    """Return a picture as a data URL, encoded as `kind` ("JPEG", "PNG") with Pillow's
    `options`.
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return data_address(kind.lower(), buffer)


def svg(figure: Figure) -> str:
    """Return a figure as the data URL of an SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white")
    return data_address("svg+xml", buffer)


def data_address(kind: str, buffer: io.BytesIO) -> str:
    """Return an encoded image as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_page(page: str, path: Path) -> Path:
    """Write a page atomically; bytes of file names that are not UTF-8 become question marks."""
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return path

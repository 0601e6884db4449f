"""Images that others send: their size and kind are checked before they are decoded."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from ..data import tiff
from ..errors import AppError
from ..tasks import Task
from .download import FORMATS, MAX_BYTES, MAX_PIXELS

MAX_NAME = 100  # characters of a file's name that are kept
SUFFIXES = {  # of the formats: what is decoded is the content, whatever the name says
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
}

__all__ = ["MAX_BYTES", "kind_of", "safe_name"]


def kind_of(file: Path, name: str, task: Task, most_pixels: int = MAX_PIXELS) -> str:
    """Return the suffix of an uploaded image by its content; only its header is read.

    The limits are those of `segment --url`, unless `most_pixels` is given. Raises `AppError` for
    other files, for images of too many pixels, and where an image of the task is more than one
    file.
    """
    if task.channel_files:
        raise AppError(
            f"images of {task.name} are several files each; use fastseg predict", "not-an-image"
        )
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            kind = str(image.format)
    except UnidentifiedImageError:
        width, height = _size_of_tiff(file, name)
        kind = "TIFF"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many(name, most_pixels) from None
    except Exception:  # decoders raise many kinds of errors on damaged headers
        raise _no_image(name) from None
    if width * height > most_pixels:
        raise _too_many(name, most_pixels)
    return SUFFIXES[kind]


def safe_name(name: str, suffix: str, taken: Collection[str]) -> str:
    """Return a file name like the uploaded one, without folders, that none of `taken` has.

    Names differ in more than their suffix: their results must not have the same name.
    """
    stem = PurePosixPath(name.replace("\\", "/")).stem
    stem = re.sub(r"[^\w .()+-]+", "_", stem).strip(" .")[:MAX_NAME] or "image"
    stems, number, chosen = {Path(other).stem.casefold() for other in taken}, 1, stem
    while chosen.casefold() in stems:
        number += 1
        chosen = f"{stem}_{number}"
    return f"{chosen}{suffix}"


def _size_of_tiff(file: Path, name: str) -> tuple[int, int]:
    """Return (width, height) of a TIFF that Pillow cannot read, of all its channels together."""
    try:
        pages = tiff.pages_of(file) if tiff.is_tiff(file) else []
    except Exception:  # as above
        pages = []
    if not pages:
        raise _no_image(name)
    return max(page.width for page in pages) * tiff.channels_of(pages), max(
        page.height for page in pages
    )


def _no_image(name: str) -> AppError:
    return AppError(
        f"{name}: is not an image that can be read here; send JPEG, PNG, WebP, BMP, GIF or TIFF",
        "not-an-image",
    )


def _too_many(name: str, most: int) -> AppError:
    return AppError(
        f"{name}: has too many pixels; the limit is {most / 10**6:g} megapixels", "too-large"
    )

"""Writes labels in the format of a task's mask files; what they decode to is compared.

Pixels whose class did not change keep the value that the file had: a mask of 150 codes that a task
reads as four classes keeps its codes where nobody painted. Only stray values, which have no meaning
and count as unlabelled, are replaced by one that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.decoding import is_lossy
from ..data.images import JPEG_QUALITY, codes_to_colours, read_raw
from ..errors import DataError
from ..tasks import SegmentationTask, Task
from ..types import IGNORE
from ..utils.io import atomic_file

LOSSLESS = (".png", ".apng", ".tif", ".tiff", ".bmp", ".dib", ".tga", ".webp", ".pgm", ".ppm")
WRITABLE = (*LOSSLESS, ".jpg", ".jpeg")  # suffixes of masks that are written in their own format
# Tried in this order until the mask decodes to the label; 100 changes a value by a level or two.
QUALITIES = (JPEG_QUALITY, 97, 100)


def can_be_unlabelled(task: Task) -> bool:
    """Return whether the task's label files have a value for unlabelled pixels."""
    if not isinstance(task, SegmentationTask) or task.masks == "threshold":
        return False
    return any(
        layout.format or IGNORE in task.meaning(layout.source).values() for layout in task.layouts
    )


def write_mask(
    task: SegmentationTask,
    source: str,
    label: np.ndarray,
    path: Path,
    before: Path | None,
    shown: Path,
) -> None:
    """Write a label, class indices uint8 (H, W), as a mask file of the task at `path`.

    `before` is the mask that it replaces, whose mode and values it keeps where it can; `source`
    names the layout whose codes it has. Messages name the file `shown`. Raises `DataError` with
    code "not-representable" if no way of writing it decodes to the label.
    """
    reason = "cannot be written so that it is read back as it is"
    values = _values(task, source, label)
    if values is None:
        reason = "has unlabelled pixels, and no mask value of the task stands for them"
    else:
        for image, options in _candidates(task, source, label, values, path, before):
            try:
                _save(image, path, options)
            except DataError:  # the disk is full: an earlier candidate takes no space from others
                path.unlink(missing_ok=True)
                raise
            try:
                decoded = task.examine_mask(path, source)
            except DataError as error:
                reason = f"cannot be read back ({error})"
                continue
            if not decoded.stopping and np.array_equal(decoded.codes, label):
                return
        path.unlink(missing_ok=True)
        if is_lossy(path):
            reason = "is changed by the compression of a JPEG"
    raise DataError(
        f"{shown}: the label {reason}; save masks as PNG, and declare a value for unlabelled "
        "pixels (ignore) if there are any",
        "not-representable",
    )


def write_regions(there: np.ndarray, path: Path) -> None:
    """Write the mask of one class, bool (H, W), as 0 and 255, in the format of the suffix."""
    options = {"quality": 100, "subsampling": 0} if is_lossy(path) else {}
    _save(Image.fromarray(there.astype(np.uint8) * np.uint8(255)), path, options)


def _save(image: Image.Image, path: Path, options: dict[str, Any]) -> None:
    if path.suffix.lower() == ".webp":
        options = {"lossless": True, "exact": True, **options}
    with atomic_file(path) as temporary:
        image.save(temporary, **options)


def _values(task: SegmentationTask, source: str, label: np.ndarray) -> np.ndarray | None:
    """Return the label in the task's own mask values: codes (H, W), greys, or colours (H, W, 3).

    None if there is no value for a class index in it.
    """
    present = {int(index) for index in np.unique(label)}
    if task.masks == "threshold":
        return None if IGNORE in present else label * np.uint8(255)
    meaning = task.meaning(source)
    if task.masks == "colours":
        unlabelled = next((value for value, index in meaning.items() if index == IGNORE), None)
        if IGNORE in present and unlabelled is None:
            return None
        pixels = codes_to_colours(label, task.palette)
        if unlabelled is not None:
            pixels[label == IGNORE] = unlabelled
        return pixels
    values: dict[int, int] = {}
    for value, index in meaning.items():  # the first of several values of a class
        if isinstance(value, int):
            values.setdefault(index, value)
    if present - values.keys():
        return None
    lookup = np.zeros(256, dtype=np.int32)
    lookup[list(values)] = list(values.values())
    return lookup[label]


def _candidates(
    task: SegmentationTask,
    source: str,
    label: np.ndarray,
    values: np.ndarray,
    path: Path,
    before: Path | None,
) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Yield ways of writing a label, the one that keeps most of the former mask first."""
    if is_lossy(path):
        image = _as_image(values, "")
        for quality in QUALITIES:
            yield image, {"quality": quality, "subsampling": 0}
        return
    if before is not None:
        try:
            with Image.open(before) as opened:
                mode, palette = opened.mode, opened.getpalette()
            decoded = task.examine_mask(before, source)
            raw = read_raw(before)
        except (DataError, OSError):
            mode = ""
        else:
            if decoded.codes.shape == label.shape:
                kept = _kept(task, label, values, decoded.codes, decoded.unknown, raw)
                if kept is not None:
                    yield _as_image(kept, mode, palette), {}
            yield _as_image(values, mode, palette), {}
    yield _as_image(values, ""), {}


def _kept(
    task: SegmentationTask,
    label: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    unknown: np.ndarray | None,
    raw: np.ndarray,
) -> np.ndarray | None:
    """Return the new values with the former ones, `raw`, where the class stays the same."""
    same = codes == label
    if unknown is not None:
        same &= ~unknown
    if task.masks == "colours":
        if raw.ndim != 3 or raw.shape[2] < 3:
            return None
        return np.where(same[..., None], raw[..., :3], values)
    plane = raw if raw.ndim == 2 else raw[..., 0]
    return np.where(same, plane, values)


def _as_image(values: np.ndarray, mode: str, palette: list[int] | None = None) -> Image.Image:
    """Return values as a picture, of Pillow's `mode` if they fit it."""
    top = int(values.max())
    if values.ndim == 3:
        return Image.fromarray(values.astype(np.uint8))
    if top > 255 or mode.startswith("I"):
        return Image.fromarray(values.astype(np.uint16))
    plane = values.astype(np.uint8)
    if mode == "P" and palette:
        image = Image.fromarray(plane)
        image.putpalette(palette)
        return image
    if mode in ("RGB", "RGBA"):
        return Image.fromarray(np.repeat(plane[..., None], 3, axis=2))
    if mode == "1" and top <= 1:
        return Image.fromarray(plane.astype(bool))
    return Image.fromarray(plane)

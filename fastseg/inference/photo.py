"""`segment`: marks the classes of an export on one photograph, with a legend, and its regions.

Without an export it is the one of the task surfaces: walls, floor and dining tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import save_image
from ..errors import ExportError, FetchError
from ..exports.card import Card, is_unfinished
from ..exports.read import as_trained, opened
from ..tasks import SegmentationTask
from ..tasks.base import with_depth_of
from ..tasks.surfaces import task as SURFACES
from ..utils.choices import check_runtime
from .download import fetch_image
from .tiling import tiles_for

MAX_NAMED = 4  # classes that the legend names if none was found

if TYPE_CHECKING:
    from .prediction import Prediction
    from .regions import Region


@dataclass(frozen=True)
class Segmented:
    """A segmented photograph: the overlay written, and each class's share of the pixels, 0 to 1."""

    path: Path
    shares: dict[str, float]
    size: tuple[int, int]  # height, width
    prediction: Prediction

    def regions(self) -> list[Region]:
        """Return the connected regions of each class but the background, the largest first."""
        from .regions import regions

        task = self.prediction.task
        return regions(
            self.prediction.labels, self.prediction.calibrated, task.classes, task.background
        )


def segment(
    file: Path | str | None = None,
    *,
    url: str | None = None,
    out: Path | str = "output",
    surname: str | None = None,
    name: str | None = None,
    export: Path | str | None = None,
    device: str = "cpu",
    allow_private: bool = False,
    tiles: int | None = None,
    runtime: str = "auto",
    precision: str | None = None,
) -> Segmented:
    """Segment one image file or URL and write an overlay at its size.

    `export` is any export of a task with masks, by default the one of surfaces. The overlay is
    OUT/{surname}_{name}__{time}.jpg. `surname` defaults to the task's name, `name` to the image's
    own. `tiles` a side are for large photographs, see `Predictor.predict` (default: by its size).
    `runtime` and `precision` are as for `fastseg.load`. Raises `FastsegError` kinds.
    """
    if (file is None) == (url is None):
        raise FetchError("give either an image file or --url, and not both", "file-and-url")
    check_runtime(runtime, precision)
    task, folder, card = _open_export(export)
    task = as_trained(task, card)
    if url is not None:
        image = fetch_image(url, allow_private, task.depth, task.alpha)
    else:
        path = Path(file or "")
        task = with_depth_of(task, [path])
        image = task.image(path)
    from .loading import load

    predictor = load(folder, device, runtime=runtime, precision=precision, images=1)
    height, width = image.shape[:2]
    prediction = predictor.predict(image, tiles or tiles_for((height, width), predictor.size))
    # Free the network's working memory: large photographs need it below.
    del predictor
    counts = np.bincount(prediction.labels.reshape(-1), minlength=len(task.classes))
    shares = {label: float(count / counts.sum()) for label, count in zip(task.classes, counts)}
    stem = name or Path(str(file or url).split("?")[0].rstrip("/")).stem
    who, when = _safe_file_part(surname or task.name), f"{datetime.now():%Y%m%d-%H%M%S}"
    target = Path(out) / f"{who}_{_safe_file_part(stem)}__{when}.jpg"
    picture = with_legend(task, task.overlay(task.shown(image), prediction.labels), shares)
    return Segmented(save_image(target, picture), shares, (height, width), prediction)


def _open_export(export: Path | str | None) -> tuple[SegmentationTask, Path, Card]:
    name = SURFACES.name
    usual = Path("exports") / name
    if export is None and not usual.exists() and not is_unfinished(usual):
        raise ExportError(
            f"exports/{name}: no export yet; take a ready one over with: fastseg adopt {name} "
            f"(or train one with: fastseg fit {name})",
            "no-export",
        )
    task, folder, card = opened(SURFACES if export is None else None, export)
    if not isinstance(task, SegmentationTask):
        raise ExportError(
            f"{folder}: {task.name} {task.purpose}, and this command paints masks; "
            f"use fastseg predict {folder} FILE",
            "no-masks",
        )
    return task, folder, card


def _any_of(task: SegmentationTask) -> str:
    """Return the foreground classes as a short text: "wall, floor or dining table"."""
    names = [name for i, name in enumerate(task.classes) if i != task.background]
    if len(names) > MAX_NAMED:
        return "class"
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _safe_file_part(text: str) -> str:
    """Return a text as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:60] or "image"


def with_legend(
    task: SegmentationTask, pixels: np.ndarray, shares: dict[str, float]
) -> Image.Image:
    """Return the picture with a legend in its lower left corner: a swatch, name and share for each
    class shown.
    """
    picture = Image.fromarray(pixels)
    shown = [
        i for i, label in enumerate(task.classes) if shares[label] > 0 and i != task.background
    ]
    full = [
        (task.palette[i], f"{task.classes[i]}  {shares[task.classes[i]]:.1%}") for i in shown
    ] or [(task.palette[task.background or 0], f"no {_any_of(task)} found")]
    brief = [(task.palette[i], f"{shares[task.classes[i]]:.0%}") for i in shown]
    largest = max(11, round(min(picture.size) / 28))
    for lines, size in [
        *((full, size) for size in range(largest, 6, -1)),
        *((brief, size) for size in range(largest, 6, -1) if brief),
    ]:
        font, gap = ImageFont.load_default(size), size // 2
        width = max(font.getlength(text) for _, text in lines) + 2 * size + 2 * gap
        height = len(lines) * (size + gap) + gap
        if width + 2 * gap <= picture.width and height + 2 * gap <= picture.height:
            break
    else:  # no legend fits; the shares are printed to the terminal
        return picture
    left, top = gap, picture.height - height - gap
    shade = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(shade)
    pen.rounded_rectangle((left, top, left + width, top + height), radius=gap, fill=(0, 0, 0, 170))
    for i, (colour, text) in enumerate(lines):
        y = top + gap + i * (size + gap)
        pen.rectangle(
            (left + gap, y, left + gap + size, y + size),
            fill=(*colour, 255),
            outline=(255, 255, 255, 255),
        )
        pen.text(
            (left + 2 * gap + size, y + size / 2),
            text,
            fill=(255, 255, 255, 255),
            font=font,
            anchor="lm",
        )
    return Image.alpha_composite(picture.convert("RGBA"), shade).convert("RGB")

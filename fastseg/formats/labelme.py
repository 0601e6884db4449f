"""LabelMe's JSON files: one an image, with shapes in px.

Shapes are drawn as LabelMe 5 draws them in `shapes_to_label`: polygons and boxes with Pillow,
circles from centre and one point of the edge, lines 10 px wide, points as discs of radius 5 px,
masks as they are. Later shapes lie on top. By LabelMe's convention, the label `__ignore__` means
unlabelled, and `_background_` the background.

An embedded image (`imageData`) is skipped without being read; flags and groups are ignored.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..data.issues import Fault, refuse
from ..errors import brief
from ..types import IGNORE, Colour
from ..utils.io import write_json
from . import documents
from .base import Format, Labelled, Region, ToWrite
from .documents import Bad
from .outlines import Outline, outlines
from .recognise import files_of

IGNORED, BACKGROUND = "__ignore__", "_background_"  # LabelMe's own names
LINE_WIDTH, POINT_RADIUS = 10, 5  # px, as in LabelMe's `shape_to_mask`
LABELS_FILE = "labels.txt"  # what users give to LabelMe's --labels
VERSION = "5.5.0"  # the version of LabelMe whose files are written
# Shapes drawn as bitmaps -> fewest and most points
DRAWN = {"circle": (2, 2), "line": (2, 2), "linestrip": (2, None), "point": (1, 1)}
POLYGONS = (None, "", "polygon", "oriented_rectangle", "rotation")


class LabelMeFormat(Format):
    """LabelMe's JSON files."""

    name = "labelme"
    title = "LabelMe"
    rule = "outline"
    unlabelled, background = IGNORED, BACKGROUND
    order = "later shapes in the file lie on top"
    is_writable = True

    def find(self, folder: Path) -> list[Path]:
        """Return the JSON files with shapes in `folder` and below, sorted."""
        return files_of(self.title, folder)

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        """Return the names in labels.txt if it lies beside the files or one folder above.

        Else the labels that shapes have, by first use. `__ignore__` is no class.
        Raises `DataError` for files that cannot be parsed.
        """
        declared = _declared(files)
        if declared is not None:
            return declared
        used: dict[str, Colour | None] = {}
        for file in files:
            try:
                shapes = documents.listed(documents.document(file).get("shapes"), "$.shapes")
                for index, shape in enumerate(shapes):
                    used.setdefault(_label(shape, f"$.shapes[{index}]"))
            except Bad as bad:
                refuse([bad.fault(file)])
        used.pop(IGNORED, None)
        return used

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        """Yield the labelled image of each file."""
        for file in files:
            try:
                yield _labelled(file, documents.document(file), faults)
            except Bad as bad:
                faults.append(bad.fault(file))

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write a JSON file beside each image, and labels.txt.

        A polygon encloses what lies in it: shapes that fill it are drawn later. A part with holes
        of background is written as a mask, which keeps every pixel.
        """
        written = [_write_labels(out, classes, background)]
        for image in images:
            path = out / PurePosixPath(image.name).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            shapes = []
            for outline in outlines(image.codes, self.rule, background):
                shape = _shape(outline, _label_of(outline.code, classes, background))
                if image.scores is not None:  # LabelMe keeps keys that it does not know
                    shape["score"] = float(image.scores.get(outline.code, 0))
                shapes.append(shape)
            height, width = image.codes.shape
            content = {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": PurePosixPath(image.name).name,
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
            written.append(write_json(path, content))
        return written


def _declared(files: Sequence[Path]) -> dict[str, Colour | None] | None:
    """Return the names in labels.txt, or None if there is none."""
    folders = {file.parent: None for file in files}
    for folder in [*folders, *(folder.parent for folder in folders)]:
        file = folder / LABELS_FILE
        if not file.is_file():
            continue
        try:
            with file.open("rb") as opened:
                text = opened.read(documents.MAX_NAME * 256).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            refuse([Bad("", f"cannot be read as text ({error})", "save it as UTF-8").fault(file)])
        names = {line.strip(): None for line in text.splitlines() if line.strip()}
        return {name: None for name in names if name != IGNORED}
    return None


def _label(shape: object, place: str) -> str:
    fields = documents.mapped(shape, place)
    return documents.named(fields.get("label"), f"{place}.label", "label")


def _labelled(file: Path, content: dict[str, Any], faults: list[Fault]) -> Labelled:
    """Return the labels of a file; shapes that cannot be used are added to `faults`."""
    image = documents.named(content.get("imagePath"), "$.imagePath", "image's name")
    shapes = documents.listed(content.get("shapes"), "$.shapes")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = None
    if height is not None or width is not None:  # versions before 3.5 state none
        size = documents.size_of(height, width, ("$.imageHeight", "$.imageWidth"))
    regions, budget = [], documents.Budget()
    for index, shape in enumerate(shapes):
        try:
            regions.append(_region(shape, f"$.shapes[{index}]", size, budget))
        except Bad as bad:
            faults.append(bad.fault(file))
    return Labelled(
        file,
        (image,),
        size,
        tuple(regions),
        image_place="$.imagePath",
        size_place="$.imageHeight",
    )


def _region(
    shape: object, place: str, size: tuple[int, int] | None, budget: documents.Budget
) -> Region:
    """Return a shape as a region. Raises `Bad`."""
    label = _label(shape, place)
    fields = documents.mapped(shape, place)
    kind = fields.get("shape_type")
    at = f"{place}.points"
    if kind in POLYGONS:
        ring = documents.points(fields.get("points"), at, 3)
        return Region(label, (ring,), place=place)
    if kind == "rectangle":
        return Region(label, (_box(fields.get("points"), at),), place=place)
    if kind == "mask":
        bitmap, offset = _mask(fields, place, size)
    elif isinstance(kind, str) and kind in DRAWN:
        bitmap, offset = _drawn(kind, fields.get("points"), at, size)
    else:
        raise Bad(
            f"{place}.shape_type",
            f"'{brief(kind)}' is no shape that LabelMe draws",
            "draw this region as a polygon",
        )
    budget.take(bitmap.size, place)
    return Region(label, bitmap=bitmap, offset=offset, place=place)


def _box(value: object, place: str) -> np.ndarray:
    """Return the corners of a box, float64 (4, 2), of two opposite corners or of all four.

    LabelMe writes two; tools that took over its format write four.
    """
    found = documents.points(value, place, 2)
    if len(found) == 2:
        (left, top), (right, bottom) = found.min(axis=0), found.max(axis=0)
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if len(found) != 4:
        raise Bad(place, f"has {len(found)} points, a box has 2", "draw this region again")
    return found


def _drawn(
    kind: str, value: object, place: str, size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a circle, line or point as a bitmap, bool (h, w), and its offset. Raises `Bad`."""
    least, most = DRAWN[kind]
    found = documents.points(value, place, least)
    if most is not None and len(found) > most:
        raise Bad(place, f"has {len(found)} points, a {kind} has {most}", "draw this region again")
    frame = size or (documents.MAX_SIDE, documents.MAX_SIDE)
    documents.inside(found, frame, place)
    if kind in ("line", "linestrip"):
        around = float(LINE_WIDTH)
        low, high = found.min(axis=0) - around, found.max(axis=0) + around
    else:
        radius = math.dist(*found) if kind == "circle" else float(POINT_RADIUS)
        low, high = found[0] - radius, found[0] + radius
    # whole numbers, cut off as Pillow does, so that an offset moves the drawing and nothing else
    box = [int(edge) for edge in (*low, *high)]
    left, top = max(0, box[0]), max(0, box[1])
    width = max(0, min(frame[1], box[2] + 1) - left)
    height = max(0, min(frame[0], box[3] + 1) - top)
    if width * height > documents.MAX_BITMAP:
        raise Bad(place, f"a {kind} of {width} x {height} px is too large", "draw it again")
    canvas = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(canvas)
    if kind in ("line", "linestrip"):
        line = [(int(x) - left, int(y) - top) for x, y in found]
        drawing.line(line, fill=1, width=LINE_WIDTH)
    else:
        moved = [edge - start for edge, start in zip(box, (left, top, left, top))]
        drawing.ellipse(moved, outline=1, fill=1)
    return documents.cut(np.asarray(canvas), (left, top))


def _mask(
    fields: dict[str, Any], place: str, size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a mask shape as a bitmap, bool (h, w), and its offset. Raises `Bad`."""
    corners = documents.points(fields.get("points"), f"{place}.points", 2)
    if len(corners) != 2:
        raise Bad(f"{place}.points", "a mask's box has 2 points", "draw this region again")
    frame = size or (documents.MAX_SIDE, documents.MAX_SIDE)
    documents.inside(corners, frame, f"{place}.points")
    (left, top), (right, bottom) = corners.round().astype(int).tolist()
    stated = bottom - top + 1, right - left + 1
    if min(stated) < 1:
        raise Bad(f"{place}.points", "the mask's box is empty", "draw this region again")
    at = f"{place}.mask"
    # a box with fractions, which newer versions write, may be a pixel smaller than its mask
    most = stated[0] + 1, stated[1] + 1
    data = documents.base64_bytes(fields.get("mask"), at, documents.most_bytes(most))
    bitmap = documents.png_bitmap(data, at, most)
    if bitmap.shape != stated and (corners == corners.round()).all():
        raise Bad(
            at,
            f"its bitmap is of {bitmap.shape[1]} x {bitmap.shape[0]} px, its box of "
            f"{stated[1]} x {stated[0]} px",
            "draw this region again",
        )
    return documents.cut(bitmap, (left, top))


def _label_of(code: int, classes: Sequence[str], background: int | None) -> str:
    if code == IGNORE:
        return IGNORED
    return BACKGROUND if code == background else classes[code]


def _write_labels(out: Path, classes: Sequence[str], background: int | None) -> Path:
    """Write labels.txt, as LabelMe's converters expect it: `__ignore__` and background first."""
    names = [name for code, name in enumerate(classes) if code != background]
    first = [IGNORED] if background is None else [IGNORED, BACKGROUND]
    path = out / LABELS_FILE
    path.write_text("\n".join([*first, *names]) + "\n", encoding="utf-8")
    return path


def _shape(outline: Outline, label: str) -> dict[str, Any]:
    """Return an outline as a shape of LabelMe."""
    if outline.ring is not None:
        return {
            "label": label,
            "points": [[round(float(x), 2), round(float(y), 2)] for x, y in outline.ring],
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
    assert outline.bitmap is not None
    left, top = outline.offset
    height, width = outline.bitmap.shape
    stream = io.BytesIO()
    Image.fromarray(outline.bitmap).save(stream, "PNG")
    return {
        "label": label,
        "points": [[left, top], [left + width - 1, top + height - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(stream.getvalue()).decode("ascii"),
    }


format = LabelMeFormat()

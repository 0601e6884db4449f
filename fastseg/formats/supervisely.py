"""Supervisely's projects: meta.json with the classes, and DATASET/ann/NAME.jpg.json an image.

Polygons are drawn as Supervisely does with OpenCV: an outline belongs to its region, that of a
hole to the hole. Bitmaps are PNGs, compressed once more. Later objects lie on top. Boxes, lines
and points are refused: they do not say which pixels belong to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import ImageColor

from ..data.issues import Fault, refuse
from ..errors import brief
from ..types import Colour
from . import documents
from .base import Format, Labelled, Region
from .documents import Bad
from .geometry import patch
from .recognise import files_of

META = "meta.json"  # of a project, up to LEVELS folders above its label files
LEVELS = 4
# Datasets and tags of these names divide a project, by Supervisely's own convention
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}


class SuperviselyFormat(Format):
    """Supervisely's projects of images."""

    name = "supervisely"
    title = "Supervisely"
    rule = "outline"
    order = "later objects in the file lie on top"

    def find(self, folder: Path) -> list[Path]:
        """Return the JSON files with objects in `folder` and below, sorted; not meta.json."""
        return files_of(self.title, folder)

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        """Return the classes of meta.json with their colours; without it, by first use.

        Raises `DataError` for files that cannot be parsed.
        """
        metas = dict.fromkeys(meta for file in files if (meta := _meta_of(file)) is not None)
        found: dict[str, Colour | None] = {}
        for file in metas or files:
            try:
                content = documents.document(file)
                if metas:
                    found.update(_declared(content))
                else:
                    objects = documents.listed(content.get("objects"), "$.objects")
                    for index, one in enumerate(objects):
                        found.setdefault(_label(one, f"$.objects[{index}]"))
            except Bad as bad:
                refuse([bad.fault(file)])
        return found

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        """Yield the labelled image of each file."""
        for file in files:
            try:
                yield _labelled(file, documents.document(file), faults)
            except Bad as bad:
                faults.append(bad.fault(file))


def _meta_of(file: Path) -> Path | None:
    """Return meta.json of the project that a label file belongs to."""
    for folder in list(file.parents)[:LEVELS]:
        if (folder / META).is_file():
            return folder / META
    return None


def _declared(meta: dict[str, Any]) -> dict[str, Colour | None]:
    """Return the classes of a project with their colours. Raises `Bad`."""
    found: dict[str, Colour | None] = {}
    for index, one in enumerate(documents.listed(meta.get("classes"), "$.classes")):
        place = f"$.classes[{index}]"
        fields = documents.mapped(one, place)
        name = documents.named(fields.get("title"), f"{place}.title", "class")
        try:
            red, green, blue = ImageColor.getrgb(str(fields.get("color"))[:32])[:3]
            found[name] = red, green, blue
        except ValueError:
            found[name] = None
    return found


def _label(one: object, place: str) -> str:
    fields = documents.mapped(one, place)
    return documents.named(fields.get("classTitle"), f"{place}.classTitle", "class")


def _labelled(file: Path, content: dict[str, Any], faults: list[Fault]) -> Labelled:
    """Return the labels of a file; objects that cannot be used are added to `faults`."""
    stated = documents.mapped(content.get("size"), "$.size")
    size = documents.size_of(
        stated.get("height"), stated.get("width"), ("$.size.height", "$.size.width")
    )
    regions, budget = [], documents.Budget()
    for index, one in enumerate(documents.listed(content.get("objects"), "$.objects")):
        try:
            regions.append(_region(one, f"$.objects[{index}]", size, budget))
        except Bad as bad:
            faults.append(bad.fault(file))
    return Labelled(
        file,
        _image_names(file),
        size,
        tuple(regions),
        split=_split(content.get("tags"), file),
        size_place="$.size",
    )


def _image_names(file: Path) -> tuple[str, ...]:
    """Return where the image of DATASET/ann/NAME.jpg.json may be, relative to that file."""
    name = PurePosixPath(file.name).stem
    return f"../img/{name}", name


def _split(tags: object, file: Path) -> str | None:
    """Return the part that an image's tag or else its dataset's name says."""
    listed = tags if isinstance(tags, list) else []
    names = [tag.get("name") for tag in listed if isinstance(tag, dict)]
    for name in [*names, file.parent.parent.name]:
        if isinstance(name, str) and name.lower() in SPLITS:
            return SPLITS[name.lower()]
    return None


def _region(one: object, place: str, size: tuple[int, int], budget: documents.Budget) -> Region:
    """Return an object as a region. Raises `Bad`."""
    label = _label(one, place)
    fields = documents.mapped(one, place)
    # files of older versions do not say it
    kind = fields.get("geometryType") or ("bitmap" if fields.get("bitmap") else "polygon")
    if kind == "polygon":
        region = _polygon(fields, label, place, size)
    elif kind == "bitmap":
        region = _bitmap(fields, label, place, size)
    else:
        raise Bad(
            place,
            f"'{brief(label)}' is of the shape '{brief(kind)}', which does not say which pixels "
            "belong to it",
            "draw it as a polygon or a bitmap, or delete it",
        )
    if region.bitmap is not None:
        budget.take(region.bitmap.size, place)
    return region


def _polygon(fields: dict[str, Any], label: str, place: str, size: tuple[int, int]) -> Region:
    at = f"{place}.points"
    rings = documents.mapped(fields.get("points"), at)
    outer = documents.points(rings.get("exterior"), f"{at}.exterior", 3)
    holes = [
        documents.points(ring, f"{at}.interior[{index}]", 3)
        for index, ring in enumerate(documents.listed(rings.get("interior", []), f"{at}.interior"))
    ]
    region = Region(label, (outer,), place=place)
    if not holes:
        return region
    for ring, name in [(outer, "exterior"), *((hole, "interior") for hole in holes)]:
        documents.inside(ring, size, f"{at}.{name}")
    if size[0] * size[1] > documents.MAX_BITMAP:
        raise Bad(at, "the image is too large for polygons with holes", "draw it as a bitmap")
    # `Region.holes` would leave the outline of a hole to the region around it
    return _without(region, Region(label, tuple(holes)), size)


def _without(region: Region, hole: Region, size: tuple[int, int]) -> Region:
    """Return a region as the bitmap that is left when the pixels of `hole` are taken away."""
    found = patch(region, size, SuperviselyFormat.rule)
    if found is None:
        return Region(region.label, bitmap=np.zeros((0, 0), bool), place=region.place)
    x, y, inside = found
    inside = inside.copy()
    taken = patch(hole, size, SuperviselyFormat.rule)
    if taken is not None:
        left, top, cut_out = taken
        whole = np.zeros(size, bool)
        whole[top : top + cut_out.shape[0], left : left + cut_out.shape[1]] = cut_out
        inside &= ~whole[y : y + inside.shape[0], x : x + inside.shape[1]]
    return Region(region.label, bitmap=inside, offset=(x, y), place=region.place)


def _bitmap(fields: dict[str, Any], label: str, place: str, size: tuple[int, int]) -> Region:
    at = f"{place}.bitmap"
    bitmap = documents.mapped(fields.get("bitmap"), at)
    origin = documents.points([bitmap.get("origin")], f"{at}.origin", 1)
    documents.inside(origin, size, f"{at}.origin")  # so that it is no giant number
    most = documents.most_bytes(size)
    packed = documents.base64_bytes(bitmap.get("data"), f"{at}.data", most)
    data = documents.inflated(packed, f"{at}.data", most)
    pixels = documents.png_bitmap(data, f"{at}.data", size)
    cut, offset = documents.cut(pixels, (int(origin[0, 0]), int(origin[0, 1])))
    return Region(label, bitmap=cut, offset=offset, place=place)


format = SuperviselyFormat()

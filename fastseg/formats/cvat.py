"""CVAT for images 1.1: one XML file with the polygons, masks and ellipses of all its images.

Read as a stream by defusedxml: entities and document types are refused. Written as masks, which are
exact: CVAT imports them as "CVAT for images 1.1".
"""

from __future__ import annotations

import math
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.saxutils import escape, quoteattr
from xml.sax.xmlreader import AttributesImpl

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser
from scipy import ndimage

from ..data.colours import from_hexadecimal, hexadecimal
from ..data.issues import Fault, refuse
from ..data.split import SPLIT_WORDS
from ..errors import brief
from ..types import IGNORE, Colour
from .base import IGNORED, Format, Labelled, Region, ToWrite, fault
from .geometry import ellipse

HEAD = 65536  # bytes read of a file to recognise it
CHUNK = 65536  # bytes parsed at a time
MAX_DEPTH = 32  # levels of elements; CVAT's own files have up to 8
MAX_NAME = 1000  # characters of a label's name

# Shapes that do not say which pixels belong to them -> why
WITHOUT_AREA = {
    "box": "a box, which says nothing about the pixels in its corners",
    "cuboid": "a cuboid, which says nothing about the pixels in its corners",
    "points": "points, which have no area",
    "polyline": "a polyline, which has no area",
    "skeleton": "a skeleton, which has no area",
}
SHAPES = ("polygon", "mask", "ellipse", *WITHOUT_AREA)
VIDEO = "CVAT for video"


class _WrongError(Exception):
    """An entry cannot be used: what is wrong, the remedy, and the kind of the fault."""

    def __init__(self, detail: str, remedy: str, kind: str = "label file"):
        super().__init__(detail)
        self.detail, self.remedy, self.kind = detail, remedy, kind


@dataclass
class _Image:
    """An image element while its shapes are being read."""

    name: str
    size: tuple[int, int] | None
    subset: str
    line: int
    regions: list[tuple[int, Region]] = field(default_factory=list)  # z_order, region


class _Handler(ContentHandler):
    """Collects labels, images and faults from the events of the parser."""

    def __init__(self, file: Path, faults: list[Fault]):
        super().__init__()
        self.file, self.faults = file, faults
        self.line: Callable[[], int] = lambda: 1  # the parser's current line
        self.path: list[str] = []
        self.text: list[str] = []
        self.label: dict[str, str] = {}  # of the label element being read
        self.labels: dict[str, Colour | None] = {}
        self.used: dict[str, None] = {}  # label names in the order of first use
        self.subset = ""  # of the task
        self.image: _Image | None = None
        self.images: deque[_Image] = deque()
        self.is_video = False
        self.is_empty = True  # no element has begun

    def startElement(self, tag: str, attrs: AttributesImpl) -> None:
        attributes = dict(attrs.items())
        self.is_empty = False
        self.path.append(tag)
        if len(self.path) > MAX_DEPTH:
            raise SAXException(f"more than {MAX_DEPTH} levels of elements")
        if len(self.path) == 1 and tag != "annotations":
            raise SAXException(f"its root is <{brief(tag)}>, not <annotations>")
        self.text = []
        if self.path[-2:] == ["labels", "label"]:
            self.label = {}
        elif tag == "track" and len(self.path) == 2:
            self._refuse_video()
        elif tag == "image" and len(self.path) == 2:
            self._start_image(attributes)
        elif self.image is not None and len(self.path) == 3 and tag in SHAPES:
            self._add_shape(tag, attributes)

    def characters(self, content: str) -> None:
        is_wanted = self.path[-2:-1] in (["label"], ["task"]) and len(self.text) < MAX_NAME
        if is_wanted:
            self.text.append(content)

    def endElement(self, tag: str) -> None:
        text = "".join(self.text).strip()[:MAX_NAME]
        if self.path[-3:-1] == ["labels", "label"]:
            self.label[tag] = text
        elif self.path == ["annotations", "meta", "task", "subset"]:
            self.subset = text
        elif self.path[-2:] == ["labels", "label"]:
            name = self.label.get("name", "")
            if name and not self.label.get("parent"):  # sublabels of skeletons have a parent
                self.labels.setdefault(name, from_hexadecimal(self.label.get("color", "")))
        elif tag == "image" and len(self.path) == 2 and self.image is not None:
            self.images.append(self.image)
            self.image = None
        self.path.pop()
        self.text = []

    def _fault(self, wrong: _WrongError, line: int | None = None) -> None:
        place = f"line {self.line() if line is None else line}"
        self.faults.append(fault(self.file, place, wrong.detail, wrong.remedy, wrong.kind))

    def _refuse_video(self) -> None:
        if not self.is_video:  # one fault a file
            self._fault(
                _WrongError(f'holds tracks: it is "{VIDEO}"', 'export it as "CVAT for images 1.1"')
            )
        self.is_video = True

    def _start_image(self, attributes: Mapping[str, str]) -> None:
        try:
            size = _size(attributes)
            name = attributes.get("name", "").replace("\\", "/")
            if not name:
                raise _WrongError(
                    "an image without a name", "export the task again, or add its name"
                )
        except _WrongError as wrong:
            self._fault(wrong)
            return
        self.image = _Image(name, size, attributes.get("subset", ""), self.line())

    def _add_shape(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self.image is None:
            return
        name = attributes.get("label", "").strip()
        try:
            region = _region(tag, name, attributes, self.image, f"line {self.line()}")
            order = _number(attributes, "z_order", 0)
        except _WrongError as wrong:
            self._fault(wrong)
            return
        self.used[name] = None
        self.image.regions.append((int(order), region))


def _region(
    tag: str, name: str, attributes: Mapping[str, str], image: _Image, place: str
) -> Region:
    """Return the region of a shape. Raises `_WrongError`."""
    if tag in WITHOUT_AREA:
        raise _WrongError(
            f"{image.name}: " + (f"'{brief(name)}' is " if name else "") + WITHOUT_AREA[tag],
            "outline it in CVAT as a polygon or a mask, or delete it",
        )
    if not name:
        raise _WrongError(
            f"{image.name}: a {tag} has no label", "give it a label in CVAT", "unknown class"
        )
    if tag == "mask":
        bitmap, offset = _bitmap(attributes, image)
        return Region(name, bitmap=bitmap, offset=offset, place=place)
    ring = _ellipse(attributes) if tag == "ellipse" else _points(attributes.get("points", ""))
    return Region(name, polygons=(ring,), place=place)


def _number(attributes: Mapping[str, str], name: str, default: float | None = None) -> float:
    """Return a finite number. Raises `_WrongError` for anything else."""
    text = attributes.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e9:
        raise _WrongError(f"{name} is '{brief(text or '')}', not a number", "correct it")
    return value


def _whole(attributes: Mapping[str, str], name: str) -> int:
    value = _number(attributes, name)
    if value != int(value):
        raise _WrongError(f"{name} is {value:g}, not a whole number", "correct it")
    return int(value)


def _size(attributes: Mapping[str, str]) -> tuple[int, int] | None:
    """Return (height, width) in px, or None if neither is stated. Raises `_WrongError`."""
    if "width" not in attributes and "height" not in attributes:
        return None
    height, width = _whole(attributes, "height"), _whole(attributes, "width")
    if height < 1 or width < 1:
        raise _WrongError(f"an image of {width} x {height} px", "correct its width and height")
    return height, width


def _points(text: str) -> np.ndarray:
    """Return "x,y;x,y;x,y" as float64 (n, 2). Raises `_WrongError`."""
    pairs = text.strip().strip(";").split(";")
    try:
        points = np.array([pair.split(",") for pair in pairs], dtype=np.float64)
    except ValueError:
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2:
        raise _WrongError(f"points are '{brief(text)}', not x,y;x,y;...", "correct them")
    if not np.isfinite(points).all():
        raise _WrongError("points that are not finite numbers", "correct them")
    if len(points) < 3:
        raise _WrongError(
            f"a polygon of {len(points)} point{'s' * (len(points) > 1)}", "draw at least three"
        )
    return points


def _ellipse(attributes: Mapping[str, str]) -> np.ndarray:
    """Return a polygon, float64 (n, 2), in place of an ellipse. Raises `_WrongError`."""
    cx, cy, rx, ry = (_number(attributes, name) for name in ("cx", "cy", "rx", "ry"))
    if rx <= 0 or ry <= 0:
        raise _WrongError(f"an ellipse of radii {rx:g} and {ry:g}", "draw it again, or delete it")
    return ellipse((cx, cy), (rx, ry), _number(attributes, "rotation", 0.0))


def _bitmap(attributes: Mapping[str, str], image: _Image) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a mask, bool (h, w), and its corner (x, y). Raises `_WrongError`."""
    left, top, width, height = (
        _whole(attributes, name) for name in ("left", "top", "width", "height")
    )
    if image.size is None:
        raise _WrongError(f"{image.name}: has a mask, but no width and height", "add them")
    rows, columns = image.size
    if width < 1 or height < 1:
        raise _WrongError(f"a mask of {width} x {height} px", "draw it again, or delete it")
    if left < 0 or top < 0 or left + width > columns or top + height > rows:
        raise _WrongError(
            f"a mask from {left}, {top} to {left + width}, {top + height}, "
            f"and the image has {columns} x {rows} px",
            "correct it",
            "outside image",
        )
    text = attributes.get("rle", "")
    try:
        runs = np.array(text.split(","), dtype=np.int64)
    except (ValueError, OverflowError):
        raise _WrongError(f"rle is '{brief(text)}', not whole numbers", "correct it") from None
    # A sum of many large runs could overflow: none may be larger than the mask.
    if (runs < 0).any() or (runs > width * height).any() or runs.sum() != width * height:
        raise _WrongError(
            f"rle does not cover its {width} x {height} px exactly", "export the task again"
        )
    values = np.arange(len(runs)) % 2 == 1  # the first run is outside
    return np.repeat(values, runs).reshape(height, width), (left, top)


def _names(image: _Image, subset: str) -> tuple[str, ...]:
    """Return where an image may be: CVAT exports images in images/, or images/SUBSET/."""
    places = (*((f"images/{subset}/", f"{subset}/") if subset else ()), "images/", "")
    return tuple(f"{place}{image.name}" for place in places)


def _labelled(image: _Image, handler: _Handler) -> Labelled:
    subset = image.subset or handler.subset
    ordered = sorted(image.regions, key=lambda entry: entry[0])  # stable: then file order
    return Labelled(
        handler.file,
        _names(image, subset),
        image.size,
        tuple(region for _, region in ordered),
        f"line {image.line}",
        SPLIT_WORDS.get(subset.lower()),
    )


def _parse(file: Path, handler: _Handler) -> Iterator[_Image]:
    """Yield the images of a file as they are parsed. Raises `_WrongError` for bad XML."""
    parser = DefusedExpatParser(forbid_dtd=True)
    parser.setContentHandler(handler)
    handler.line = lambda: int(parser.getLineNumber() or 1)
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                parser.feed(chunk)
                while handler.images:
                    yield handler.images.popleft()
        parser.close()
        if handler.is_empty:
            raise SAXException("it has no element")
    except DefusedXmlException as error:
        what = re.sub(r"(?<!^)([A-Z])", r" \1", type(error).__name__).lower()
        raise _WrongError(f"has a document type or entities ({what})", "remove them") from None
    except SAXParseException as error:
        raise _WrongError(
            f"is not XML ({brief(error.getMessage())})", "export the task again"
        ) from None
    except SAXException as error:
        raise _WrongError(f"cannot be used ({brief(error)})", "export the task again") from None
    except (OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise _WrongError(f"cannot be read ({brief(error)})", "export the task again") from None
    while handler.images:
        yield handler.images.popleft()


def _whole_fault(file: Path, handler: _Handler, wrong: _WrongError) -> Fault:
    return fault(file, f"line {handler.line()}", wrong.detail, wrong.remedy, wrong.kind)


class CvatFormat(Format):
    """CVAT for images 1.1."""

    name = "cvat"
    title = "CVAT"
    rule = "area"
    order = "shapes with a higher z_order lie on top, then later ones in the file"
    unlabelled = IGNORED
    is_writable = True

    def find(self, folder: Path) -> list[Path]:
        return sorted(
            file
            for file in folder.rglob("*.[xX][mM][lL]")
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
            and _is_cvat(file)
        )

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        declared: dict[str, Colour | None] = {}
        used: dict[str, Colour | None] = {}
        for file in files:
            handler = _Handler(file, [])
            try:
                deque(_parse(file, handler), maxlen=0)
            except _WrongError as wrong:
                refuse([_whole_fault(file, handler, wrong)])
            declared.update({n: c for n, c in handler.labels.items() if n not in declared})
            used.update(dict.fromkeys(handler.used))
        found = declared or used
        found.pop(IGNORED, None)
        return found

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        for file in files:
            handler = _Handler(file, faults)
            try:
                for image in _parse(file, handler):
                    yield _labelled(image, handler)
            except _WrongError as wrong:
                faults.append(_whole_fault(file, handler, wrong))

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write annotations.xml: one mask for each connected area of each class.

        The background is no label: it is what no mask covers. Unlabelled pixels get the label
        __ignore__. The format has no place for scores.
        """
        target, body = out / "annotations.xml", out / ".annotations.body"
        count, has_ignored = 0, False
        # The labels stand before the images, and whether __ignore__ is one is known after them.
        with body.open("w", encoding="utf-8") as file:
            for count, image in enumerate(images, 1):
                has_ignored |= bool((image.codes == IGNORE).any())
                file.write(_image_xml(count - 1, image, classes, background))
        labels = [pair for code, pair in enumerate(zip(classes, palette)) if code != background]
        if has_ignored:
            labels.append((IGNORED, (240, 240, 240)))
        with target.open("wb") as whole, body.open("rb") as part:
            whole.write(_head_xml(labels, count).encode())
            shutil.copyfileobj(part, whole)
            whole.write(b"</annotations>\n")
        body.unlink()
        return [target]


def _is_cvat(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return False
    return bool(
        re.search(r"<annotations[\s>]", head)
        and re.search(r"<(image|meta|track|version)[\s>]", head)
    )


def _head_xml(labels: Sequence[tuple[str, Colour]], images: int) -> str:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", f"      <size>{images}</size>", "      <labels>"]
    for name, colour in labels:
        lines += [
            "        <label>",
            f"          <name>{escape(name)}</name>",
            f"          <color>{hexadecimal(colour)}</color>",
            "          <type>any</type>",
            "          <attributes></attributes>",
            "        </label>",
        ]
    return "\n".join([*lines, "      </labels>", "    </task>", "  </meta>", ""])


def _image_xml(number: int, image: ToWrite, classes: Sequence[str], background: int | None) -> str:
    height, width = image.codes.shape
    lines = [
        f'  <image id="{number}" name={quoteattr(image.name)} width="{width}" height="{height}">'
    ]
    for code in np.unique(image.codes).tolist():
        if code != background:
            label = IGNORED if code == IGNORE else classes[code]
            lines += _masks_xml(image.codes == code, label)
    return "\n".join([*lines, "  </image>", ""])


def _masks_xml(area: np.ndarray, label: str) -> Iterator[str]:
    """Yield a mask element for each connected part of an area, bool (H, W)."""
    parts, _ = ndimage.label(area, structure=np.ones((3, 3)))
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
        part = parts[rows, columns] == number
        flat = part.reshape(-1)
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
        rle = ", ".join(map(str, [0, *runs] if flat[0] else runs))
        yield (
            f'    <mask label={quoteattr(label)} source="auto" occluded="0" rle="{rle}" '
            f'left="{columns.start}" top="{rows.start}" width="{part.shape[1]}" '
            f'height="{part.shape[0]}" z_order="0">\n    </mask>'
        )


format = CvatFormat()

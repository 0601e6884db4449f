"""COCO instances: one JSON file with images, categories, and an annotation for each object.

Annotations are polygons or run lengths (RLE), plain or compressed. They may come before their
images, in any order, so each is checked as it is parsed and kept in a temporary file until its
image's turn: memory holds some bytes an annotation, not the outlines.
"""

from __future__ import annotations

import json
import marshal
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..data.issues import Fault, refuse
from ..errors import brief
from ..types import IGNORE, Colour
from ..utils.json_stream import JsonError, entries
from ..utils.progress import bar
from .base import Format, Labelled, Region, ToWrite, fault, parsed_number
from .geometry import LEAST_IOU, Rings, area, draw, polygons_of

HEAD = 65536  # bytes read at either end of a file to recognise it
LISTS = re.compile(rb'"images"\s*:\s*\[|"image_id"\s*:')
OBJECTS = re.compile(rb'"annotations"\s*:\s*\[|"categories"\s*:\s*\[')
# other files of the same data set: captions, joints of bodies, panoptic segments
OTHERS = re.compile(rb'"(caption|keypoints|segments_info)"\s*:')
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
SPLIT = re.compile(r"(?:^|[^a-z])((train|val|valid|validation|test)\d*)(?![a-z0-9])", re.I)

IGNORED = "__ignore__"  # category of unlabelled pixels, as LabelMe names it
MAX_FAULTS = 1000  # of one file that are listed one by one
LEAST_CLASS_IOU = 0.99  # of each class with its annotations drawn back; else RLE is written
FILE_NAME = "annotations.json"

# Characters of compressed run lengths: 48 + five bits of a number, 32 if more follow; see
# rleToString in pycocotools. Numbers of more characters than this do not fit into 64 bits.
BASE, BITS, MORE, MAX_CHARACTERS = 48, 5, 32, 12


class WrongError(ValueError):
    """An entry that cannot be used: what is wrong, what to do, and where below the entry."""

    def __init__(
        self,
        detail: str,
        remedy: str = "correct or remove it",
        place: str = "",
        kind: str = "label file",
    ):
        super().__init__(detail)
        self.detail, self.remedy, self.place, self.kind = detail, remedy, place, kind


class CocoFormat(Format):
    """COCO instances.

    With `exact`, annotations are written as RLE, which keeps every pixel, and none as polygons.
    """

    name = "coco"
    title = "COCO"
    rule = "area"
    order = "smaller regions lie on top of larger ones, and crowds below all"
    is_writable = True

    def __init__(self, exact: bool = False):
        self.exact = exact

    def find(self, folder: Path) -> list[Path]:
        return json_files(folder, is_instances)

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        faults: list[Fault] = []
        found = {
            name: colour
            for file in files
            for name, colour in declared_categories(file, faults).colours.items()
        }
        refuse(faults)
        found.pop(IGNORED, None)
        return found

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        with tempfile.TemporaryFile() as spool:
            # all are parsed first: progress bars cannot be nested
            for one in [Annotations(file, spool, faults).parsed() for file in files]:
                yield from one.labelled()

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write annotations.json.

        Each connected part of a class is an annotation, so that tools open it as one object, with
        its own box, area and score: a polygon where that keeps the class, and compressed RLE where
        the part has holes, which COCO's polygons cannot have. Unlabelled pixels are a crowd of the
        category __ignore__. The background is no category.
        """
        writer = _Writer(classes, palette, background, self.exact)
        return [writer.write(images, out / FILE_NAME)]


def json_files(folder: Path, wanted: Any) -> list[Path]:
    """Return the JSON files in `folder` and below whose beginning and end are `wanted`, sorted."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() == ".json"
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
        and wanted(_ends(file))
    ]


def is_instances(content: bytes) -> bool:
    """Return whether the beginning and end of a file are those of COCO instances."""
    known = LISTS.search(content) and OBJECTS.search(content)
    return bool(known) and not OTHERS.search(content)


def _ends(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(HEAD)
            size = opened.seek(0, 2)
            if size > HEAD:
                opened.seek(max(HEAD, size - HEAD))
                content += opened.read(HEAD)
    except OSError:
        return b""
    return content


def parsed(file: Path, faults: list[Fault]) -> Iterator[tuple[str, int, Any]]:
    """Yield (key, index, value) of a label file, see `json_stream`; its faults go to `faults`.

    Progress is shown on a terminal.
    """
    try:
        with bar() as progress:
            task = progress.add_task(f"reading {file.name}", total=file.stat().st_size)
            yield from entries(file, lambda count: progress.advance(task, count))
    except (JsonError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        faults.append(
            fault(file, "", f"cannot be read: it {brief(reason)}", "export it again, as JSON")
        )


def split_of(file: Path) -> tuple[str | None, str]:
    """Return the split that a label file's name, or its folder's, says, and the word that says it.

    instances_val2017.json: ("valid", "val2017"). (None, "") if they say nothing.
    """
    for name in (file.stem, file.parent.name):
        match = SPLIT.search(name)
        if match:
            return SPLITS[match[2].lower()], match[1]
    return None, ""


class Categories:
    """The categories of a file: ids, names and colours."""

    def __init__(self, file: Path, faults: list[Fault]):
        self.file, self.faults = file, faults
        self.names: dict[int | str, str] = {}
        self.colours: dict[str, Colour | None] = {}

    def add(self, index: int, value: Any) -> None:
        """Add an entry of the file; one that cannot be used is a fault."""
        number = value.get("id") if isinstance(value, dict) else None
        name = value.get("name") if isinstance(value, dict) else None
        if not is_id(number) or not isinstance(name, str) or not name:
            self.faults.append(
                fault(
                    self.file,
                    f"$.categories[{index}]",
                    "is no category: it needs an id and a name",
                    "correct it",
                )
            )
            return
        self.names[number] = name
        self.colours.setdefault(name, as_colour(value.get("color")))


def declared_categories(file: Path, faults: list[Fault]) -> Categories:
    """Return the categories of a file; what is wrong with them goes to `faults`."""
    categories = Categories(file, faults)
    for key, index, value in parsed(file, faults):
        if key == "categories":
            categories.add(index, value)
    return categories


def as_colour(value: Any) -> Colour | None:
    """Return a colour from [r, g, b] or "#rrggbb"; None for anything else."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    levels = value if isinstance(value, list) and len(value) == 3 else []
    if not levels or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        return None
    return levels[0], levels[1], levels[2]


def is_id(value: Any) -> TypeGuard[int | str]:
    """Return whether a value can be an id: a whole number or a text."""
    return type(value) in (int, str)


def size_of(value: dict[str, Any]) -> tuple[int, int] | None:
    """Return the (height, width) that an image states, or None if it states none.

    Raises `WrongError` for anything but positive whole numbers.
    """
    height, width = value.get("height"), value.get("width")
    if height is None and width is None:
        return None
    rows, columns = parsed_number(height), parsed_number(width)
    if rows is None or columns is None or min(rows, columns) < 1 or rows % 1 or columns % 1:
        raise WrongError(f"says that it is {brief(width)} x {brief(height)} px")
    return int(rows), int(columns)


@dataclass
class StatedImage:
    """An image of the file, while its annotations are collected."""

    name: str
    size: tuple[int, int] | None
    index: int  # in the list of images


@dataclass
class Annotations:
    """The annotations of one file: parsed into `spool`, then yielded image by image."""

    file: Path
    spool: IO[bytes]
    faults: list[Fault]
    images: dict[int | str, StatedImage] = field(default_factory=dict)
    offsets: array[int] = field(default_factory=lambda: array("q"))  # of annotations in `spool`
    owners: array[int] = field(default_factory=lambda: array("q"))  # numbers of their images
    numbers: dict[int | str, int] = field(default_factory=dict)  # image id -> number
    listed: int = 0  # faults
    more: int = 0  # faults that are not listed
    boxes: int = 0  # annotations without an outline
    first_box: str = ""  # place of the first one
    others: int = 0  # annotations of the other format

    other: ClassVar[str] = "coco_panoptic"  # the format of annotations that are not of this one

    def __post_init__(self) -> None:
        self.categories = Categories(self.file, self.faults)

    def parsed(self) -> Annotations:
        """Parse the file, and return itself."""
        self.spool.seek(0, 2)
        readers = {"images": self._add_image, "annotations": self._add_annotation}
        seen, before = set(), len(self.faults)
        for key, index, value in parsed(self.file, self.faults):
            seen.add(key)
            if index < 0 and key in ("images", "annotations", "categories"):
                self._fault(f"$.{key}", WrongError("is not a list", "export it again"))
            elif key == "categories":
                self.categories.add(index, value)
            elif key in readers:
                try:
                    readers[key](index, value)
                except WrongError as wrong:
                    self._fault(f"$.{key}[{index}]{wrong.place}", wrong)
        self.offsets.append(self.spool.tell())
        if self.others:
            wrong = WrongError("has annotations of another kind", f"use the format {self.other}")
            self._fault("", wrong)
        elif not seen & {"images", "annotations"} and len(self.faults) == before:
            wrong = WrongError("has neither images nor annotations", "choose another format")
            self._fault("", wrong)
        return self

    def _fault(self, place: str, wrong: WrongError) -> None:
        if self.listed >= MAX_FAULTS:
            self.more += 1
            return
        self.listed += 1
        self.faults.append(fault(self.file, place, wrong.detail, wrong.remedy, wrong.kind))

    def _add_image(self, index: int, value: Any) -> None:
        number = value.get("id") if isinstance(value, dict) else None
        name = value.get("file_name") if isinstance(value, dict) else None
        if not is_id(number) or not isinstance(name, str) or not name:
            raise WrongError("is no image: it needs an id and a file_name")
        if number in self.images:
            first = self.images[number].index
            raise WrongError(f"has the id of $.images[{first}]", "give each image its own id")
        self.images[number] = StatedImage(name, size_of(value), index)

    def _add_annotation(self, index: int, value: Any) -> None:
        if not isinstance(value, dict) or not is_id(value.get("image_id")):
            raise WrongError("is no annotation: it needs an image_id")
        content = self._packed(index, value)
        if content is not None:
            image = value["image_id"]
            self.owners.append(self.numbers.setdefault(image, len(self.numbers)))
            self.offsets.append(self.spool.tell())
            marshal.dump((index, content), self.spool)

    def _packed(self, index: int, value: dict[str, Any]) -> Any:
        """Return what is needed of an annotation, for `marshal`; None for one that is left out.

        Raises `WrongError` for one that cannot be used.
        """
        if "segments_info" in value:
            self.others += 1
            return None
        category = value.get("category_id")
        if not is_id(category):
            raise WrongError("is no annotation: it needs a category_id")
        outline = value.get("segmentation")
        if outline is None or outline == [] or outline == [[]]:
            self.boxes += 1
            self.first_box = self.first_box or f"$.annotations[{index}]"
            return None
        packed = _packed_rle(outline) if isinstance(outline, dict) else _packed_rings(outline)
        is_crowd = value.get("iscrowd") in (1, True)
        return category, is_crowd, parsed_number(value.get("score")), packed

    def labelled(self) -> Iterator[Labelled]:
        """Yield the images with their regions, larger ones first."""
        split, word = split_of(self.file)
        owners = np.asarray(self.owners, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(self.numbers) + 1))
        for number, image in self.images.items():
            own = self.numbers.pop(number, None)
            records = [] if own is None else order[starts[own] : starts[own + 1]].tolist()
            size, regions = self._regions(image.size, map(self._record, records))
            # names are often relative to a folder that is named like the file
            names = (f"{word}/{image.name}",) if word and not image.name.startswith("/") else ()
            place = f"$.images[{image.index}]"
            names = (*names, image.name)
            yield Labelled(self.file, names, size, tuple(regions), place, split)
        for own in self.numbers.values():
            for record in map(self._record, order[starts[own] : starts[own + 1]].tolist()):
                wrong = WrongError("belongs to an image that is not in the list", "add the image")
                self._fault(f"$.annotations[{record[0]}]", wrong)
        self._last_faults()

    def _record(self, number: int) -> Any:
        self.spool.seek(self.offsets[number])
        return marshal.loads(self.spool.read(self.offsets[number + 1] - self.offsets[number]))

    def _regions(
        self, size: tuple[int, int] | None, records: Iterable[tuple[int, Any]]
    ) -> tuple[tuple[int, int] | None, list[Region]]:
        """Return the size of an image, as its bitmaps state it if it does not, and its regions."""
        found = []
        for index, (category, is_crowd, score, packed) in records:
            place = f"$.annotations[{index}]"
            try:
                label = self._label(category)
                if isinstance(packed, list):
                    rings = tuple(np.frombuffer(ring).reshape(-1, 2) for ring in packed)
                    region = Region(label, rings, is_crowd=is_crowd, score=score, place=place)
                else:
                    size, bitmap, offset = _unpacked_rle(packed, size)
                    region = Region(label, (), (), bitmap, offset, is_crowd, score, place)
                found.append(region)
            except WrongError as wrong:
                self._fault(f"{place}{wrong.place}", wrong)
        return size, sorted(found, key=lambda region: (not region.is_crowd, -area(region)))

    def _label(self, category: int | str) -> str:
        if category not in self.categories.names:
            raise WrongError(
                f"has category_id {brief(category)}, which is not in the list of categories"
            )
        return self.categories.names[category]

    def _last_faults(self) -> None:
        """Add the faults that are listed once for the file."""
        if self.boxes:
            count = f", and {self.boxes - 1} more" if self.boxes > 1 else ""
            self.faults.append(
                fault(
                    self.file,
                    self.first_box,
                    f"has a box, but no outline{count}; masks cannot be drawn from boxes",
                    "label outlines, or remove these annotations",
                )
            )
        if self.more:
            self.faults.append(
                fault(
                    self.file,
                    "",
                    f"has {self.more} more entries that cannot be used",
                    "correct the first ones",
                )
            )


def _packed_rings(outline: Any) -> list[bytes]:
    """Return polygons as float64 bytes. Raises `WrongError` for anything but polygons."""
    if not isinstance(outline, list):
        raise WrongError("is neither a list of polygons nor run lengths", place=".segmentation")
    packed = []
    for number, ring in enumerate(outline):
        place = f".segmentation[{number}]"
        if not isinstance(ring, list) or not set(map(type, ring)) <= {int, float}:
            raise WrongError("is not a list of numbers", place=place)
        if len(ring) % 2:
            raise WrongError("has an odd number of coordinates", place=place)
        if len(ring) < 6:
            raise WrongError(f"is a polygon of {len(ring) // 2} points", place=place)
        try:
            points = np.array(ring, dtype=np.float64)
        except OverflowError:
            raise WrongError("has a coordinate too large for a number", place=place) from None
        if not np.isfinite(points).all():
            raise WrongError("has a coordinate that is not a finite number", place=place)
        packed.append(points.tobytes())
    return packed


def _packed_rle(value: dict[str, Any]) -> tuple[int, int, bytes | str]:
    """Return (height, width, run lengths), int64 bytes or compressed text.

    Raises `WrongError` for anything but run lengths.
    """
    size, counts = value.get("size"), value.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 1 <= side < 2**31 for side in size)
    ):
        raise WrongError("is not [height, width] in px", place=".segmentation.size")
    place = ".segmentation.counts"
    if isinstance(counts, str):
        return size[0], size[1], counts
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise WrongError("is neither a list of whole numbers nor text", place=place)
    try:
        return size[0], size[1], np.array(counts, dtype=np.int64).tobytes()
    except OverflowError:
        raise WrongError("has a run that is longer than the image", place=place) from None


def _unpacked_rle(
    packed: tuple[int, int, bytes | str], expected: tuple[int, int] | None
) -> tuple[tuple[int, int], np.ndarray, tuple[int, int]]:
    """Return the size, (height, width), of run lengths, and their pixels, cut to those that are
    set, as bool (h, w) with the offset (x, y).

    Raises `WrongError` for run lengths that do not fit the size, or a size that is not `expected`.
    """
    height, width, runs = packed
    size = height, width
    if expected is not None and size != expected:
        raise WrongError(
            f"is of {width} x {height} px, but its image of {expected[1]} x {expected[0]} px",
            place=".segmentation.size",
        )
    if height * width > 2 * (Image.MAX_IMAGE_PIXELS or 2**27):  # Pillow reads no larger images
        raise WrongError(f"is of {width} x {height} px", place=".segmentation.size")
    counts = decoded_runs(runs) if isinstance(runs, str) else np.frombuffer(runs, dtype=np.int64)
    # no run may be longer than the image, so that the sum cannot overflow
    is_within = ((counts >= 0) & (counts <= height * width)).all()
    if not is_within or int(counts.sum()) != height * width:
        raise WrongError(
            f"does not add up to the {height * width} px of its image", place=".segmentation.counts"
        )
    return size, *cut_bitmap(pixels_of_runs(counts, size))


def decoded_runs(text: str) -> np.ndarray:
    """Return the run lengths, int64 (n,), of the compressed text of pycocotools.

    Raises `WrongError` for other text.
    """
    place = ".segmentation.counts"
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - BASE
    except UnicodeEncodeError:
        raise WrongError("is not compressed run lengths", place=place) from None
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * MORE or codes[-1] & MORE:
        raise WrongError("is not compressed run lengths", place=place)
    ends = np.flatnonzero(codes & MORE == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise WrongError("has a run that is longer than the image", place=place)
    within = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & MORE - 1) << BITS * within, starts)
    is_negative = codes[ends] & MORE >> 1 != 0  # the highest bit is the sign
    values -= np.where(is_negative, np.int64(1) << BITS * lengths, 0)
    # from the fourth on, differences to the one before the previous one
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def pixels_of_runs(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W), of run lengths down the columns, which begin with unset."""
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T


def cut_bitmap(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the smallest part of a bitmap, bool (H, W), with all set pixels; its offset (x, y)."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return pixels[:0, :0], (0, 0)
    inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(inside), (int(columns[0]), int(rows[0]))


@dataclass
class _Piece:
    """A connected part of a class, to be written as one annotation."""

    code: int
    pixels: np.ndarray  # bool (h, w)
    offset: tuple[int, int]  # (x, y) of its upper left pixel
    rings: Rings  # in px of the image

    def region(self, as_polygon: bool) -> Region:
        """Return the region that a reader gets."""
        if as_polygon and not self.rings[1]:
            return Region("", (self.rings[0],))
        return Region("", bitmap=self.pixels, offset=self.offset)


class _Writer:
    """Writes one file of instances, the annotations through a temporary file."""

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
        exact: bool,
    ):
        self.background, self.exact = background, exact
        coded = [code for code in range(len(classes)) if code != background]
        self.ids = {code: number for number, code in enumerate(coded, start=1)}
        self.ids[IGNORE] = len(coded) + 1
        self.categories = [
            {"id": self.ids[code], "name": classes[code], "color": list(palette[code])}
            for code in coded
        ]
        self.count = 0  # annotations
        self.has_unlabelled = False

    def write(self, images: Iterable[ToWrite], file: Path) -> Path:
        """Write the images' annotations to `file`, and return it."""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as spool,
            file.open("w", encoding="utf-8") as out,
        ):
            out.write('{"info": {"description": "masks as annotations"}, "licenses": [],\n')
            out.write('"images": [')
            for number, image in enumerate(images, start=1):
                height, width = image.codes.shape
                row = {"id": number, "file_name": image.name, "height": height, "width": width}
                out.write((",\n" if number > 1 else "\n") + json.dumps(row))
                for annotation in self._annotations(number, image):
                    spool.write((",\n" if self.count > 1 else "\n") + json.dumps(annotation))
            if self.has_unlabelled:
                self.categories.append({"id": self.ids[IGNORE], "name": IGNORED})
            out.write(f'\n],\n"categories": {json.dumps(self.categories)},\n"annotations": [')
            spool.seek(0)
            for block in iter(lambda: spool.read(1 << 20), ""):
                out.write(block)
            out.write("\n]}\n")
        return file

    def _annotations(self, image_id: int, image: ToWrite) -> Iterator[dict[str, Any]]:
        pieces = [piece for code in self.ids for piece in self._pieces(image.codes, code)]
        inexact = set(self.ids) if self.exact else self._inexact(image.codes, pieces)
        for piece in pieces:
            (height, width), (x, y) = piece.pixels.shape, piece.offset
            self.count += 1
            annotation: dict[str, Any] = {
                "id": self.count,
                "image_id": image_id,
                "category_id": self.ids[piece.code],
                "bbox": [x, y, width, height],
                "area": int(np.count_nonzero(piece.pixels)),
                "iscrowd": int(piece.code == IGNORE),
            }
            region = piece.region(piece.code not in inexact)
            if region.bitmap is None:
                annotation["segmentation"] = [region.polygons[0].round(2).reshape(-1).tolist()]
            else:
                annotation["segmentation"] = _compressed(piece, image.codes.shape)
            if image.scores is not None and piece.code in image.scores:
                annotation["score"] = round(float(image.scores[piece.code]), 4)
            yield annotation

    def _pieces(self, codes: np.ndarray, code: int) -> Iterator[_Piece]:
        mask = codes == code
        if not mask.any():
            return
        if code == IGNORE:  # one crowd, which nobody edits
            self.has_unlabelled = True
            pixels, offset = cut_bitmap(mask)
            yield _Piece(code, pixels, offset, (np.zeros((0, 2)), [np.zeros((0, 2))]))
            return
        for outer, holes, pixels, offset in _parts(mask, 1 if self.exact else LEAST_IOU):
            yield _Piece(code, pixels, offset, (outer, holes))

    def _inexact(self, codes: np.ndarray, pieces: Sequence[_Piece]) -> set[int]:
        """Return the classes that polygons do not keep: drawn back, they differ too much."""
        inexact = {IGNORE}
        while True:
            drawn = np.full(
                codes.shape, IGNORE if self.background is None else self.background, np.uint8
            )
            regions = [(piece.code, piece.region(piece.code not in inexact)) for piece in pieces]
            for code, region in sorted(regions, key=lambda pair: -area(pair[1])):
                draw(drawn, region, code, CocoFormat.rule)
            wrong = {
                code
                for code in self.ids
                if code not in inexact and not _is_kept(drawn == code, codes == code)
            }
            if not wrong and self.background is not None:
                background = drawn == self.background, codes == self.background
                wrong = set() if _is_kept(*background) else set(self.ids) - inexact
            if not wrong:
                return inexact
            inexact |= wrong


def _is_kept(drawn: np.ndarray, wanted: np.ndarray) -> bool:
    return (drawn & wanted).sum() >= LEAST_CLASS_IOU * (drawn | wanted).sum()


def _parts(
    mask: np.ndarray, least: float
) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray, tuple[int, int]]]:
    """Yield the connected parts of a mask: rings as `polygons_of`, pixels and their offset."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        pixels = pieces[box] == number
        x, y = box[1].start, box[0].start
        ((outer, holes),) = polygons_of(pixels, CocoFormat.rule, least)
        yield outer + (x, y), [hole + (x, y) for hole in holes], pixels, (x, y)


def _compressed(piece: _Piece, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the compressed run lengths of a part of an image of `size`, (height, width)."""
    (x, y), (height, width) = piece.offset, piece.pixels.shape
    whole = np.zeros((size[0], size[1]), dtype=np.uint8, order="F")
    whole[y : y + height, x : x + width] = piece.pixels
    encoded: Any = coco_mask.encode(whole)
    return {"size": [size[0], size[1]], "counts": encoded["counts"].decode("ascii")}


format = CocoFormat()

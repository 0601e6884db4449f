"""COCO instances: one JSON file with images, categories, and an annotation for each object.

Annotations are polygons or run lengths (RLE), plain or compressed. They may come before their
images, in any order, so each is checked as it is parsed and kept in a temporary file until its
image's turn: memory holds some bytes an annotation, not the outlines.
"""

from __future__ import annotations

import marshal
import re
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard

import numpy as np

from ..data.issues import Fault, refuse
from ..errors import brief
from ..types import Colour
from ..utils.json_stream import JsonError, entries
from ..utils.progress import bar
from .base import Format, Labelled, Region, ToWrite, fault, parsed_number
from .coco_writer import BACKGROUND, IGNORED, Writer
from .geometry import area, fill
from .runs import MAX_PIXELS, WrongError, packed_rle, unpacked_rle

HEAD = 65536  # bytes read at either end of a file to recognise it
LISTS = re.compile(rb'"images"\s*:\s*\[|"image_id"\s*:')
OBJECTS = re.compile(rb'"annotations"\s*:\s*\[|"categories"\s*:\s*\[')
# other files of the same data set: captions, joints of bodies, panoptic segments
OTHERS = re.compile(rb'"(caption|keypoints|segments_info)"\s*:')
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
SPLIT = re.compile(r"(?:^|[^a-z])((train|val|valid|validation|test)\d*)(?![a-z0-9])", re.I)

# Annotations whose areas tell the rule of drawing, which share of them must agree, and how nearly,
# in parts of the difference between the rules. Conventions: in LabelMe's files, all agree exactly.
MAX_VOTES, RULE_SHARE, RULE_SLACK = 50, 0.8, 0.1
MAX_FAULTS = 1000  # of one file that are listed one by one
FILE_NAME = "annotations.json"


class CocoFormat(Format):
    """COCO instances.

    Polygons are drawn as pycocotools draws them; those of a file whose stated areas are counts of
    pixels with the outline, as LabelMe's converter writes them, as LabelMe draws them.

    With `exact`, annotations are written as RLE, which keeps every pixel, and none as polygons.
    """

    name = "coco"
    title = "COCO"
    rule = "area"
    order = "smaller regions lie on top of larger ones, and crowds below all"
    is_writable = True
    unlabelled, background = IGNORED, BACKGROUND

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
        writer = Writer(classes, palette, background, self.exact)
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
        if not is_id(number) or not isinstance(name, str) or not name or not name.isprintable():
            wrong, remedy = "is no category: it needs an id and a name", "correct it"
        elif self.names.get(number, name) != name:
            wrong, remedy = f"has the id of '{brief(self.names[number])}'", "give each its own id"
        else:
            self.names[number] = name
            self.colours.setdefault(name, as_colour(value.get("color")))
            return
        self.faults.append(fault(self.file, f"$.categories[{index}]", wrong, remedy))


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
            detail, remedy = "has annotations of another kind", f"use the format {self.other}"
            self._fault("", WrongError(detail, remedy))
        elif not seen & {"images", "annotations"} and len(self.faults) == before:
            detail, remedy = "has neither images nor annotations", "choose another format"
            self._fault("", WrongError(detail, remedy))
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
        packed = packed_rle(outline) if isinstance(outline, dict) else _packed_rings(outline)
        is_crowd = value.get("iscrowd") in (1, True)
        score, stated = parsed_number(value.get("score")), parsed_number(value.get("area"))
        return category, is_crowd, score, stated, packed

    def _rule(self, records: Callable[[int | str], list[int]]) -> str | None:
        """Return the rule that stated areas follow: LabelMe's converter states how many pixels
        LabelMe draws, with the outline.
        """
        votes = (
            vote
            for number, image in islice(self.images.items(), MAX_VOTES)
            for vote in self._votes(image.size, map(self._record, records(number)))
        )
        sample = list(islice(votes, MAX_VOTES))
        return "outline" if sample and np.mean(sample) > RULE_SHARE else None

    def _votes(
        self, size: tuple[int, int] | None, records: Iterable[tuple[int, Any]]
    ) -> Iterator[bool]:
        """Yield, for polygons of an image, whether their stated area is a count of pixels drawn by
        the rule "outline", and not by "area".
        """
        if size is None or size[0] * size[1] > MAX_PIXELS:
            return
        for _, (_, _, _, stated, packed) in records:
            if isinstance(packed, list) and stated is not None:
                region = Region("", _rings(packed))
                inside, outline = (
                    int(np.count_nonzero(fill(region, size, rule))) for rule in ("area", "outline")
                )
                yield abs(stated - outline) <= RULE_SLACK * abs(outline - inside)

    def labelled(self) -> Iterator[Labelled]:
        """Yield the images with their regions, larger ones first."""
        split, word = split_of(self.file)
        owners = np.asarray(self.owners, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(self.numbers) + 1))

        def records(number: int | str) -> list[int]:
            own = self.numbers.get(number)
            return [] if own is None else order[starts[own] : starts[own + 1]].tolist()

        rule = self._rule(records)
        for number, image in self.images.items():
            size, regions = self._regions(image.size, map(self._record, records(number)))
            # names are often relative to a folder that is named like the file
            names = (f"{word}/{image.name}",) if word and not image.name.startswith("/") else ()
            place = f"$.images[{image.index}]"
            names = (*names, image.name)
            yield Labelled(self.file, names, size, tuple(regions), place, split, rule=rule)
        for number in self.numbers.keys() - self.images.keys():
            for index, _ in map(self._record, records(number)):
                wrong = WrongError("belongs to an image that is not in the list", "add the image")
                self._fault(f"$.annotations[{index}]", wrong)
        self._last_faults()

    def _record(self, number: int) -> Any:
        self.spool.seek(self.offsets[number])
        return marshal.loads(self.spool.read(self.offsets[number + 1] - self.offsets[number]))

    def _regions(
        self, size: tuple[int, int] | None, records: Iterable[tuple[int, Any]]
    ) -> tuple[tuple[int, int] | None, list[Region]]:
        """Return the size of an image, as its bitmaps state it if it does not, and its regions."""
        found = []
        for index, (category, is_crowd, score, _, packed) in records:
            place = f"$.annotations[{index}]"
            try:
                label = self._label(category)
                if isinstance(packed, list):
                    region = Region(
                        label, _rings(packed), is_crowd=is_crowd, score=score, place=place
                    )
                else:
                    size, bitmap, offset = unpacked_rle(packed, size)
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


def _rings(packed: Sequence[bytes]) -> tuple[np.ndarray, ...]:
    return tuple(np.frombuffer(ring).reshape(-1, 2) for ring in packed)


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


format = CocoFormat()

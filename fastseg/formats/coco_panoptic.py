"""COCO panoptic: a JSON file, and a PNG for each image whose colours are the ids of segments.

The PNG files are in a folder named like the JSON file, or next to it. Pixels of id 0 are
unlabelled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy import ndimage

from ..data.issues import Fault
from ..errors import brief
from ..types import Colour
from .base import Format, Labelled, Region
from .coco import OTHERS, Annotations, CocoFormat, is_id, json_files
from .runs import WrongError

PNG_FOLDERS = ("", "panoptic")  # next to the JSON file, where no folder is named like it
VOID = ""  # label of the crowd that pixels of id 0 become


class CocoPanopticFormat(Format):
    """COCO panoptic segmentation, which has no overlaps."""

    name = "coco_panoptic"
    title = "COCO panoptic"
    order = "segments do not overlap"

    def find(self, folder: Path) -> list[Path]:
        return json_files(folder, is_panoptic)

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        return CocoFormat().classes(files)

    def also(self, files: Sequence[Path]) -> list[Path]:
        return [
            picture
            for file in files
            for folder in _folders(file)
            if folder.is_dir()
            for picture in sorted(folder.iterdir())
            if picture.suffix.lower() == ".png"
        ]

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        with tempfile.TemporaryFile() as spool:
            # all are parsed first: progress bars cannot be nested
            for one in [_Segments(file, spool, faults).parsed() for file in files]:
                yield from one.labelled()


def is_panoptic(content: bytes) -> bool:
    """Return whether the beginning and end of a file are those of COCO panoptic."""
    match = OTHERS.search(content)
    return match is not None and b'"segments_info"' in content and b'"image_id"' in content


def _folders(file: Path) -> list[Path]:
    """Return the folders in which the PNG files of a JSON file may be."""
    named = file.with_suffix("")
    return [named] if named.is_dir() else [file.parent / name for name in PNG_FOLDERS]


class _Segments(Annotations):
    """The annotations of a panoptic file: the segments of a PNG file each."""

    other: ClassVar[str] = "coco"

    def _packed(self, index: int, value: dict[str, Any]) -> Any:
        if "segments_info" not in value:
            self.others += 1
            return None
        name, segments = value.get("file_name"), value["segments_info"]
        if not isinstance(name, str) or not name:
            raise WrongError("has no file_name", "add the name of its PNG file")
        if not isinstance(segments, list):
            raise WrongError("is not a list", place=".segments_info")
        found = {}
        for number, segment in enumerate(segments):
            ids = (
                [segment.get(key) for key in ("id", "category_id")]
                if isinstance(segment, dict)
                else [None, None]
            )
            if type(ids[0]) is not int or not is_id(ids[1]):
                place = f".segments_info[{number}]"
                raise WrongError("is no segment: it needs an id and a category_id", place=place)
            found[ids[0]] = (number, ids[1], segment.get("iscrowd") in (1, True))
        return name, found

    def _regions(
        self, size: tuple[int, int] | None, records: Iterable[tuple[int, Any]]
    ) -> tuple[tuple[int, int] | None, list[Region]]:
        found: list[Region] = []
        for index, (name, segments) in records:
            place = f"$.annotations[{index}]"
            try:
                ids = _read_ids(self._picture(name), size)
                size = ids.shape[0], ids.shape[1]
                found += self._segments(ids, segments, place)
            except WrongError as wrong:
                self._fault(f"{place}{wrong.place}", wrong)
        return size, found

    def _votes(
        self, size: tuple[int, int] | None, records: Iterable[tuple[int, Any]]
    ) -> Iterator[bool]:
        return iter(())  # there are no polygons

    def _segments(
        self, ids: np.ndarray, segments: dict[int, tuple[int, Any, bool]], place: str
    ) -> Iterator[Region]:
        """Yield a region for each segment that is in the picture of ids, int32 (H, W)."""
        present, numbers = np.unique(ids, return_inverse=True)
        boxes = ndimage.find_objects(numbers.reshape(ids.shape) + 1)
        for number, box in zip(present.tolist(), boxes):
            bitmap, offset = ids[box] == number, (box[1].start, box[0].start)
            if number == 0:
                yield Region(VOID, bitmap=bitmap, offset=offset, is_crowd=True, place=place)
                continue
            if number not in segments:
                raise WrongError(
                    f"does not describe segment {number} of its PNG file", place=".segments_info"
                )
            position, category, is_crowd = segments[number]
            where = f"{place}.segments_info[{position}]"
            yield Region(
                self._label(category), (), (), bitmap, offset, is_crowd=is_crowd, place=where
            )

    def _picture(self, name: str) -> Path:
        """Return the PNG file of a name. Raises `WrongError` for one that is absent or elsewhere.

        It is in one of the folders or below, where links do not lead out of them.
        """
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in name or not name.isprintable():
            raise WrongError(
                f"names {brief(name)}, which is outside the data folder", place=".file_name"
            )
        for folder in _folders(self.file):
            file = folder / parts
            if os.path.isfile(file):
                if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
                    raise WrongError(
                        f"names {brief(name)}, a link out of the data folder", place=".file_name"
                    )
                return file
        raise WrongError(
            f"names {brief(name)}, which is not in {_folders(self.file)[0]}",
            "add the file, or remove the annotation",
            ".file_name",
            "no partner",
        )


def _read_ids(file: Path, expected: tuple[int, int] | None) -> np.ndarray:
    """Return the ids of a PNG file, int32 (H, W). Raises `WrongError` if they cannot be read.

    The size is checked before pixels are decoded.
    """
    try:
        with Image.open(file) as image:
            size = image.size[::-1]
            if expected is not None and size != expected:
                raise WrongError(
                    f"is of {expected[1]} x {expected[0]} px, but {file.name} of "
                    f"{size[1]} x {size[0]} px",
                    "use the files of one export",
                    ".file_name",
                    "size mismatch",
                )
            colours = np.asarray(image.convert("RGB")).astype(np.int32)
    except WrongError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise WrongError(
            f"names {file}, which cannot be read ({brief(error)})", "replace the file", ".file_name"
        ) from None
    return colours @ np.array([1, 256, 65536], dtype=np.int32)


format = CocoPanopticFormat()

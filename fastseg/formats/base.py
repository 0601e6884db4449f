"""What a label format is: `Format`, which yields `Labelled` images with their `Region`s.

Readers only parse: they neither open images nor draw. `cache` finds the images, checks sizes and
points, and draws the regions as a mask of codes. Label files may be malicious: readers limit what
they parse, and every entry that cannot be used becomes a `Fault` with its place in the file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.issues import Fault
from ..types import Colour

if TYPE_CHECKING:
    import numpy as np

# LabelMe's names of unlabelled pixels and of the background. Other tools have none for unlabelled
# pixels, so that fastseg writes LabelMe's, and reads it.
IGNORED, BACKGROUND = "__ignore__", "_background_"


@dataclass(frozen=True)
class Region:
    """One labelled area of an image: polygons, or a bitmap.

    Coordinates are x, y in px, float64 (n, 2); pixel (0, 0) covers 0 to 1 in both. Where
    `Labelled.is_relative`, they are shares of the image's width and height, 0 to 1.
    """

    label: str  # the class, by its name in the label file
    polygons: tuple[np.ndarray, ...] = ()  # outer rings; the region is their union
    holes: tuple[np.ndarray, ...] = ()  # rings that are cut out of this region
    bitmap: np.ndarray | None = None  # bool (h, w) in place of polygons
    offset: tuple[int, int] = (0, 0)  # (x, y) in px of the bitmap's upper left corner
    is_crowd: bool = False  # its pixels are unlabelled, as in COCO's iscrowd
    score: float | None = None  # confidence of a prediction, 0 to 1
    place: str = ""  # where in the label file: a JSON path such as $.shapes[3], or "line 7"


@dataclass(frozen=True)
class Labelled:
    """The labels of one image as a file states them."""

    file: Path  # the label file
    # Names or paths of the image, relative ones; the first that exists. "a.*": with any suffix
    images: tuple[str, ...]
    size: tuple[int, int] | None  # (height, width) in px as stated; None if it states none
    regions: tuple[Region, ...]  # in drawing order: later ones lie on top
    place: str = ""  # where in the label file: $.images[3], or "line 7"
    split: str | None = None  # "train", "valid", "test", where the file itself says so
    is_relative: bool = False  # coordinates are shares of the image's size
    rule: str | None = None  # how polygons become pixels; None: `Format.rule`
    # Where the file names the image, and states its size, if not at `place`.
    image_place: str = ""
    size_place: str = ""


@dataclass(frozen=True)
class ToWrite:
    """One image with its mask, as writers get it."""

    image: Path  # the image file
    name: str  # path to write in the label file, relative, with slashes
    codes: np.ndarray  # uint8 (H, W): class indices, 255 = unlabelled
    # Score of each class in this image, 0 to 1, by class index, where a prediction has them.
    scores: Mapping[int, float] | None = None


class Format(ABC):
    """One format of label files: finds, reads and writes them."""

    name: ClassVar[str]  # as in --to, --format and task.toml, the module's name
    title: ClassVar[str]  # the tool's own name, for messages
    # How polygons become pixels, as the tool itself draws them: "outline" (Pillow and OpenCV:
    # points are pixel centres, and the outline belongs to the region) or "area" (pycocotools:
    # points are positions, and pixels whose centre is inside belong to it).
    rule: ClassVar[str] = "area"
    # Labels that the tool itself gives a meaning, which the task's classes need not name.
    unlabelled: ClassVar[str] = ""  # its pixels are unlabelled, such as LabelMe's __ignore__
    background: ClassVar[str] = ""  # its pixels are the background, such as _background_
    # Which region lies on top where regions overlap, in words, for the guide and for messages.
    order: ClassVar[str] = "later ones in the file lie on top"

    @abstractmethod
    def find(self, folder: Path) -> list[Path]:
        """Return the label files of this format in `folder` and below, sorted; none if there are
        none.

        Fast: looks at names, and at the beginning and end of files. Hidden files and folders are
        skipped.
        """

    @abstractmethod
    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        """Return the class names that the label files declare or use, with their colours if they
        state any, in the order of the file (or by first use).

        Raises `DataError` for files that cannot be parsed.
        """

    @abstractmethod
    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        """Yield the labelled images of the label files, one at a time.

        Entries that cannot be used are added to `faults`, with file and place; so are files that
        cannot be parsed. Memory is bounded: large files are parsed as a stream.
        """

    def also(self, files: Sequence[Path]) -> list[Path]:
        """Return the further files that decide what label files say: class lists, pictures of ids.

        If one of them changes, masks are drawn again.
        """
        return []

    # Formats that can be written override this, and set `is_writable`.
    is_writable: ClassVar[bool] = False

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write label files below the existing folder `out`, and return them.

        `images` is a stream: writers keep only what they must. The caller copies the images to
        `out / name` and replaces `out` as a whole.
        """
        raise NotImplementedError


def fault(file: Path, place: str, detail: str, remedy: str, kind: str = "label file") -> Fault:
    """Return the fault of an entry of a label file."""
    return Fault(kind, str(file), detail, remedy, place)


def parsed_number(value: Any) -> float | None:
    """Return a finite number, or None for anything else (text, bool, NaN, infinity)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None

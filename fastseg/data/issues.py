"""What can be wrong with a dataset: the kinds of faults; a fault with its file and its remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError

KINDS = {  # kind -> (does it stop a fit?, what it is)
    "unreadable": (True, "files that cannot be decoded completely"),
    "no partner": (True, "images without label, labels without image"),
    "doubled name": (True, "files of one name in one folder"),
    "size mismatch": (True, "masks that are not of their image's size"),
    "exif rotation": (True, "images that viewers turn, with masks drawn on the unturned image"),
    "exif flip": (
        False,
        "images that viewers turn upside down or mirror, with masks that have no EXIF orientation",
    ),
    "0/255 mask": (True, "0/255 masks where class codes are expected, or the reverse"),
    "lossy mask": (True, "masks of codes saved as JPEG, which changes codes"),
    "unknown codes": (True, "masks with codes outside the classes"),
    "unknown colours": (True, "masks in colours that no class has"),
    "table": (True, "lines of a table that cannot be used"),
    "label file": (True, "label files of other tools, or entries in them, that cannot be used"),
    "unknown class": (True, "labels of a class that the task does not have"),
    "outside image": (True, "regions with points outside their image"),
    "unlabelled image": (False, "images that no label file names: they are left out"),
    "split": (True, "data that cannot be divided into training and validation"),
    "one class": (True, "labels to train on that are all of one class"),
    "group on both sides": (True, "subjects or sets in training and validation"),
    "image mode": (
        False,
        "images of floats, inks, transparency or a palette, masks of 16 bits: they are converted",
    ),
    "bit depth": (
        False,
        "16-bit images that do not fit the range of the others: clipped, or nearly black",
    ),
    "stray codes": (False, "a few pixels of codes outside the classes: they count as unlabelled"),
    "blended colours": (
        False,
        "masks with colours between those of the classes: the nearest one counts",
    ),
    "empty mask": (False, "masks without any foreground"),
    "misaligned mask": (False, "masks whose outlines do not match the edges of the image"),
    "duplicate": (False, "the same picture more than once"),
    "duplicate across the split": (
        False,
        "the same picture in training and validation: scores are too optimistic",
    ),
    "outlier size": (False, "images of another size or shape than the rest"),
    "rare class": (False, "classes that few or no images have"),
    "imbalance": (False, "classes with far less area, or images, than others"),
}


@dataclass(frozen=True)
class Fault:
    """One fault of a dataset. `place` says where in the file; "" for the complete file."""

    kind: str
    file: str
    detail: str
    remedy: str
    place: str = ""
    count: int = 1  # number of affected files
    waits: bool = False  # an image, or a folder of images, that only lacks a label

    @property
    def stops(self) -> bool:
        """Whether a fit would refuse these data."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return f"{self.file}{place}: {self.detail}; {self.remedy}"


def waiting(faults: Sequence[Fault]) -> int:
    """Return how many images only wait for a label, where nothing else stops a fit; 0 otherwise."""
    stops = [fault for fault in faults if fault.stops]
    return sum(fault.count for fault in stops) if all(fault.waits for fault in stops) else 0


def refuse(
    faults: Sequence[Fault | DataError],
    listed_by: str = "",
    count: int | None = None,
    labelled_by: str = "",
) -> None:
    """Raise the first of `faults`, if any, as a `DataError` that says how many more there are.

    There are `count` of them, where `faults` has not all. `listed_by` is the command that lists
    all of them, and `labelled_by` the one that lets images wait for a label, where all only lack
    one.
    Its code is the error's own, or the fault's kind with hyphens: "size-mismatch", "0-255-mask".
    """
    if faults:
        first, more = faults[0], (len(faults) if count is None else count) - 1
        code = first.code if isinstance(first, DataError) else re.sub("[ /]", "-", first.kind)
        rest = f"; {listed_by} lists all" if listed_by else ""
        others = f" ({more} more with faults{rest})" if more else ""
        waiting = labelled_by and all(isinstance(one, Fault) and one.waits for one in faults)
        remedy = f"; to label images without a label: {labelled_by}" if waiting else ""
        raise DataError(f"{first}{others}{remedy}", code)

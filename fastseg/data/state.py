"""Where a data folder keeps what people decide about its labels: DIR/.fastseg, corrections.csv.

Its name begins with a dot, so that nothing in it is taken for an image or a mask. No numpy here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ..types import STATE

LEDGER = f"{STATE}/split.csv"  # see `data.parts`
CLASSES = f"{STATE}/classes.csv"  # of images whose task has no table: columns image, class
CORRECTIONS = "corrections.csv"  # below the data folder itself, for people
CLASS_COLUMNS = ("image", "class")


def state_of(root: Path) -> Path:
    """Return the folder of a data folder's state, which may not exist."""
    return root / STATE


def mask_of(root: Path, name: str) -> Path:
    """Return where the label of an image is whose task has no mask file for it.

    It is a PNG of class indices; 255 is unlabelled. `name` is the image's path below `root`.
    """
    return state_of(root) / "masks" / f"{name}.png"


def masks_in(root: Path) -> dict[str, Path]:
    """Return {image's path below `root`: its mask in DIR/.fastseg/masks}, sorted by name."""
    folder = state_of(root) / "masks"
    found = {}
    for file in sorted(folder.rglob("*.png")) if folder.is_dir() else ():
        if not file.name.startswith("."):  # one that is being written
            found[file.relative_to(folder).as_posix().removesuffix(".png")] = file
    return found


def classes_in(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (image's path below `root`, class name) of DIR/.fastseg/classes.csv."""
    file = root / CLASSES
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        for row in csv.DictReader(opened):
            if all(row.get(column) for column in CLASS_COLUMNS):
                yield row["image"], row["class"]

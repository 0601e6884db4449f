"""Images without labels for a training: those that look like no image of the data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..types import Item
from .contents import all_views_of, in_threads, looks_of
from .decoding import is_lossy
from .images import read_raw
from .looks import MAX_HASH_DISTANCE, bits_of, distances
from .pairing import images_below
from .reading import PLAIN, Reading

log = logging.getLogger(__name__)

# Distinct values or colours. Masks without loss have one a class, and photographs have hundreds.
# `discovery.mask_detection` judges whole folders; of single files, it takes 31 of 450 photographs
# of eyes for masks, and this none.
FEW_COLOURS = 32
SAMPLE = 128  # rows and columns of an image whose colours are counted


@dataclass(frozen=True)
class Unlabelled:
    """The images of a folder that can be used, and how many of it were left out, by reason."""

    items: list[Item]
    labels: int  # files that are masks, or have as few colours as masks
    unreadable: int
    copies: int  # of the data's own images

    def tell(self, folder: Path | str) -> None:
        """Say how many images are used, and how many are not."""
        left_out = [
            f"{count} {what}"
            for count, what in (
                (self.copies, "that look the same as images of the data"),
                (self.labels, "that are masks, or have as few colours"),
                (self.unreadable, "that cannot be read"),
            )
            if count
        ]
        log.log(
            logging.WARNING if self.unreadable else logging.INFO,
            "%s: %d image%s without labels%s",
            folder,
            len(self.items),
            "" if len(self.items) == 1 else "s",
            f"; left out: {', '.join(left_out)}" if left_out else "",
        )


def images_without_labels(folder: Path | str) -> list[Path]:
    """Return the image files in a folder and its subfolders. Raises `DataError` for none."""
    files = images_below(Path(folder))
    if files:
        return files
    what = "holds no images" if Path(folder).is_dir() else "is no folder"
    raise DataError(
        f"{folder}: {what}; --unlabelled needs a folder with images like those of the data",
        "unlabelled-folder",
    )


def unlabelled_in(
    folder: Path | str, own: Sequence[Item], labels: Iterable[Path], reading: Reading = PLAIN
) -> Unlabelled:
    """Return the images of a folder that look the same as none of `own`, those of the data.

    `own` must have the held-out images: what the network learns from a copy of one would make its
    score look better. Mirrored and rotated copies count, as in `data.parts`. The files `labels` are
    masks, which may be in the folder, too; other files of at most `FEW_COLOURS` colours are taken
    for masks, unless the data's own images have so few. Raises `DataError` if nothing is left.
    """
    files = images_without_labels(folder)
    masks = {label.resolve() for label in labels}
    others = [file for file in files if file.resolve() not in masks]
    if not _has_few_colours(own[0].image):
        are_masks = in_threads(_has_few_colours, others)
        others = [file for file, is_mask in zip(others, are_masks) if not is_mask]
    items = [Item(image=file, label=0) for file in others]
    known = bits_of([look for look in looks_of(own, reading) if look])
    used, unreadable, copies = [], 0, 0
    for item, views in zip(items, all_views_of(items, reading)):
        if not views:
            unreadable += 1
        elif len(known) and _is_near(known, views):
            copies += 1
        else:
            used.append(item)
    found = Unlabelled(used, len(files) - len(items), unreadable, copies)
    if not used:
        raise DataError(
            f"{folder}: none of its {len(files)} images can be used: {copies} look the same as "
            f"images of the data, {found.labels} are masks or have as few colours, and "
            f"{unreadable} cannot be read; give others",
            "unlabelled-left-out",
        )
    return found


def _has_few_colours(file: Path) -> bool:
    """Return whether an image without loss has at most `FEW_COLOURS` colours, in a sample of it."""
    if is_lossy(file):
        return False
    try:
        values = read_raw(file)
    except DataError:  # it is counted with those that cannot be read
        return False
    rows, columns = (max(1, side // SAMPLE) for side in values.shape[:2])
    sample = values[::rows, ::columns]
    pixels = sample.reshape(sample.shape[0] * sample.shape[1], -1)
    return len(np.unique(pixels, axis=0)) <= FEW_COLOURS


def _is_near(known: np.ndarray, views: Sequence[str]) -> bool:
    """Return whether one of the views of a picture looks the same as a known one, uint8 (N, 32)."""
    return any(int(distances(known, bits).min()) <= MAX_HASH_DISTANCE for bits in bits_of(views))

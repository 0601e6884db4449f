"""Writes the images and masks of a task in the format of another tool: `fastseg convert`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..data.issues import Fault, refuse
from ..errors import DataError, TaskError
from ..tasks import Item, SegmentationTask, Task, get
from ..tasks.converted import Entry, choose_target, further_files, unique_names, write_dataset
from ..utils.io import atomic_folder, require_folder
from ..utils.locks import write_lock
from ..utils.progress import track


@dataclass(frozen=True)
class Converted:
    """The folder that was written, and counts of its images by split ("" without a split)."""

    out: Path
    format: str
    splits: dict[str, int]
    files: list[Path]  # label files or masks, lists of classes, task.toml

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(self.splits.values())


def convert(
    source: str | Path | Task, out: Path | str, to: str, data: Path | str | None = None
) -> Converted:
    """Write the labelled images of a task to the new folder `out`, in the format `to`.

    `source` is a task, its name, or a folder with a task.toml; `data` is the folder of its data.
    Images are copied unchanged; `out/task.toml` has classes, colours, splits and recipe, so that
    `out` is a task of its own. Formats: "png" (masks of class codes), "voc", and those of
    `formats` that can be written. Unlabelled pixels stay unlabelled for fastseg: 255 in masks,
    regions called "__ignore__" or crowds in label files. The data are read only. Raises
    `TaskError` for tasks without masks and unknown formats, `DataError` for faults of the data,
    and if `out` is not empty.
    """
    task, out = get(source), Path(out)
    if not isinstance(task, SegmentationTask):
        raise TaskError(
            f"{task.name} {task.purpose}: it has no masks to convert; name a task with masks",
            "no-masks",
        )
    to = choose_target(to)
    folder = Path(data or task.default_data)
    items = task.items(folder)
    _require_new(out, folder)
    names = unique_names([item.image for item in items], folder)
    entries = [
        Entry(
            item.image,
            name,
            item.split,
            partial(_read, task, item),
            further_files(task, item.image, name),
        )
        for item, name in zip(items, names)
    ]
    with write_lock(out), atomic_folder(out) as part:
        written = write_dataset(task, to, _shown(entries), part)
        files = [out / file.relative_to(part) for file in written]
    return Converted(out, to, dict(Counter(item.split or "" for item in items)), files)


def _shown(entries: list[Entry]) -> list[Entry]:
    """Return the entries; reading them advances a progress bar."""
    steps = track(range(len(entries)), "converting", len(entries))

    def read(entry: Entry) -> tuple[np.ndarray, Mapping[int, float] | None]:
        next(steps, None)
        return entry.read()

    return [
        Entry(entry.image, entry.name, entry.split, partial(read, entry), entry.more)
        for entry in entries
    ]


def _read(task: SegmentationTask, item: Item) -> tuple[np.ndarray, None]:
    """Return an item's codes. Raises `DataError` if they do not fit the image."""
    codes = task.label(item)
    size = task.image(item).shape[:2]
    if codes.shape != size:
        refuse(
            [
                Fault(
                    "size mismatch",
                    item.shown_label,
                    f"is {codes.shape[1]} x {codes.shape[0]} px, "
                    f"and {item.image.name} is {size[1]} x {size[0]}",
                    "draw the mask on the image's own pixels",
                )
            ]
        )
    return codes, None


def _require_new(out: Path, data: Path) -> None:
    """Raise `DataError` if `out` holds files, or is inside the data or around them."""
    if out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"{out}: is not empty; a data set is never mixed into other files: name a new folder",
            "not-empty",
        )
    source, target = data.resolve(), out.resolve()
    if source in (target, *target.parents) or target in source.parents:
        raise DataError(
            f"{out}: is inside the folder of data, or contains it; name another folder",
            "output-in-data",
        )
    require_folder(out)

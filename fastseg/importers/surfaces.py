"""OpenSurfaces and Open Images as a dataset of surfaces: their labels become the task's codes."""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.decoding import GREY_THRESHOLD
from ..data.images import read_image, read_raw, save_image
from ..data.pairing import image_files
from ..errors import DataError, TaskError, brief
from ..tasks import Task, get
from ..tasks.surfaces import mapping
from ..types import IGNORE
from ..utils.io import atomic_folder, has_files, require_folder
from ..utils.locks import write_lock
from ..utils.progress import track

# The files by which OpenSurfaces and Open Images are recognised
NAMES, INSTANCES = "label-name-colors.csv", "*annotations-object-segmentation.csv"
EXAMPLE = f"train-{INSTANCES.lstrip('*')}"
OBJECTS = (1, 2, 3)  # codes of wall, floor and dining table

# A picture, and the function that returns its codes, uint8, at a size (height, width)
Labelled = list[tuple[Path, Callable[[tuple[int, int]], np.ndarray]]]


@dataclass(frozen=True)
class GatheredDataset:
    """The dataset that was made: its folder, its source, and counts of pictures and pixels."""

    out: Path
    source: str
    images: int
    pixels: dict[str, int]


def gather(task: str | Task, data: Path | str, out: Path | str | None = None) -> GatheredDataset:
    """Write `out`/images and `out`/masks from OpenSurfaces or Open Images in `data`.

    `data` has the files as distributed. `out` is data/surfaces by default. OpenSurfaces:
    photos/, photos-labels/ (object names in the green channel) and label-name-colors.csv, as its
    own script makes them. Open Images: images in any folder below `data`, masks/ and a
    ...annotations-object-segmentation.csv. Pixels without a label become 255, so that nothing is
    learnt from them; pictures without a wall, floor or dining table are left out. `out` is written
    atomically. Raises `TaskError`, `DataError`.
    """
    task = get(task)
    if task.name != "surfaces":
        raise TaskError(
            f"only surfaces has other datasets to gather from, not {task.name}", "gather-task"
        )
    data, out = Path(data), Path(out or f"data/{task.name}")
    if not data.is_dir():
        raise DataError(
            f"{data}: is no folder; give the one that holds {NAMES} or a file such as {EXAMPLE}",
            "no-such-path",
        )
    if has_files(out) or out.is_file():
        raise DataError(
            f"{out}: is not empty; "
            "gather into a new folder with --out, and train on it with --data",
            "not-empty",
        )
    source, labelled = _find_labelled(data)
    require_folder(out)
    with write_lock(out), atomic_folder(out) as part:
        images, counts = _write_dataset(labelled, part, len(task.classes))
        if not images:
            raise DataError(
                f"{data}: none of its pictures has a wall, a floor or a dining table",
                "nothing-to-gather",
            )
        if (out / "README.md").is_file():
            shutil.copyfile(out / "README.md", part / "README.md")
    return GatheredDataset(
        out, source, images, {name: int(count) for name, count in zip(task.classes, counts)}
    )


def _find_labelled(data: Path) -> tuple[str, Labelled]:
    """Return which of the two datasets is in `data`, and its labelled pictures."""
    if (data / NAMES).is_file():
        return "opensurfaces", _opensurfaces(data)
    tables = sorted(data.rglob(INSTANCES))
    if tables:
        return "openimages", _openimages(data, tables)
    raise DataError(
        f"{data}: holds neither {NAMES} (OpenSurfaces) nor a file such as {EXAMPLE} (Open Images)",
        "unknown-dataset",
    )


def _write_dataset(labelled: Labelled, folder: Path, classes: int) -> tuple[int, np.ndarray]:
    """Write images/ and masks/ of the pictures that have a class of the task's.

    Returns how many there are, and their pixels of each class, int64 (classes,).
    """
    counts, images = np.zeros(classes, dtype=np.int64), 0
    for file, codes_of in track(labelled, "gathering", len(labelled)):
        height, width = read_image(file).shape[:2]
        codes = codes_of((height, width))
        if not np.isin(codes, range(1, classes)).any():
            continue
        save_image(folder / "masks" / f"{file.stem}.png", codes)
        (folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "images" / file.name)
        counts += np.bincount(codes.reshape(-1), minlength=256)[:classes]
        images += 1
    return images, counts


def _opensurfaces(data: Path) -> Labelled:
    """Return the labelled pictures of OpenSurfaces."""
    known, lookup = mapping("opensurfaces"), np.zeros(256, dtype=np.uint8)
    lookup[0] = IGNORE  # no shape was drawn there
    for row in _read_rows(data / NAMES, ("name_name", "green_color")):
        parts = [part.strip().lower() for part in row["name_name"].split("/")]
        try:
            lookup[int(row["green_color"])] = next(
                (known[part] for part in parts if part in known), 0
            )
        except (ValueError, IndexError):
            raise DataError(
                f"{data / NAMES}: green_color is {brief(row['green_color'])}, "
                "not a number from 1 to 255",
                "table",
            ) from None
    masks = {file.stem: file for file in _image_paths(data / "photos-labels")}
    return [
        (photo, partial(_opensurfaces_codes, masks[photo.stem], lookup))
        for photo in _image_paths(data / "photos")
        if photo.stem in masks
    ]


def _opensurfaces_codes(mask: Path, lookup: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = read_raw(mask)
    if values.ndim != 3 or values.shape[2] < 3:
        raise DataError(
            f"{mask}: is not in colours; OpenSurfaces keeps the object's name in the green channel",
            "not-colours",
        )
    return _resize_codes(lookup[values[..., 1]], size)


def _openimages(data: Path, tables: list[Path]) -> Labelled:
    """Return the pictures of Open Images in which an instance of the task's objects is labelled."""
    instances: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for table in tables:
        for row in _read_rows(table, ("MaskPath", "ImageID", "LabelName")):
            instances[row["ImageID"]].append((row["LabelName"], row["MaskPath"]))
    pictures = {file.stem: file for file in data.rglob("*.jpg") if file.is_file()}
    masks = {file.name: file for file in data.rglob("*.png") if file.is_file()}
    known = mapping("openimages")
    return [
        (
            pictures[name],
            partial(
                _instance_codes,
                [(known.get(label, 0), masks[path]) for label, path in labelled if path in masks],
            ),
        )
        for name, labelled in sorted(instances.items())
        if name in pictures and any(known.get(label) in OBJECTS for label, _ in labelled)
    ]


def _instance_codes(labelled: list[tuple[int, Path]], size: tuple[int, int]) -> np.ndarray:
    """Return the codes of a picture from (code, mask file) of its instances, at `size`."""
    codes = np.full(size, IGNORE, dtype=np.uint8)
    # the task's classes are drawn last, over objects that stand on them
    for code, mask in sorted(labelled, key=lambda pair: pair[0] in OBJECTS):
        is_object = (read_image(mask)[..., 0] > GREY_THRESHOLD).astype(np.uint8)
        codes[_resize_codes(is_object, size) > 0] = code
    return codes


def _resize_codes(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return codes at `size`, (height, width).

    Both sources label smaller copies of their pictures.
    """
    if codes.shape == size:
        return codes
    return np.asarray(Image.fromarray(codes).resize(size[::-1], Image.Resampling.NEAREST))


def _image_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: does not exist; "
            "OpenSurfaces has photos/ and photos-labels/, which its own script makes",
            "no-such-path",
        )
    return image_files(folder)


def _read_rows(table: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV table. Raises `DataError` if it lacks one of `columns`."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in columns if column not in (rows.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{table}: has no column {' and '.join(missing)}; "
                    "is it the file that the dataset ships?",
                    "no-such-column",
                )
            yield from rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table}: cannot be read ({brief(error)}); fetch it again", "unreadable-table"
        ) from None

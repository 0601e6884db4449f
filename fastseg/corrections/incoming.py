"""`fastseg add`: corrections.zip, which a model's HTML page downloads, comes into a data folder.

The archive has images, their labels and what the model predicted, and corrections.json, which says
what belongs together. It may come from anyone: names, sizes and values are checked.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..data.images import read_raw
from ..data.pairing import is_image
from ..errors import DataError, brief
from ..tasks import Task
from ..utils.io import has_files
from ..utils.progress import track
from .log import Correction
from .places import Label
from .store import Corrections

ABOUT = "corrections.json"
SCHEMA = 1  # of corrections.json: raised when a field changes its meaning
ACTIONS = ("corrected", "accepted")
LARGEST_ABOUT = 64 * 2**20  # bytes of corrections.json: a line for each of 100,000 images
LARGEST_FILE = 512 * 2**20  # bytes of an image or a mask
LONGEST = 200  # characters of a name
MOST_SECONDS = 86400.0


@dataclass(frozen=True)
class Added:
    """What `add` did."""

    saved: list[Correction] = field(default_factory=list)
    known: list[str] = field(default_factory=list)  # images that had this very label already
    replaced: list[str] = field(default_factory=list)  # saved ones that had another label before
    refused: dict[str, str] = field(default_factory=dict)  # image -> why


@dataclass(frozen=True)
class _Entry:
    """One image of an archive, as corrections.json has it."""

    image: str
    label: str | int  # the file of a mask, or a class index
    prediction: str | int
    action: str
    seconds: float


def add(
    task: Task | str | Path,
    archive: Path | str,
    data: Path | str | None = None,
    export: Path | str | None = None,
) -> Added:
    """Add the images and labels of a corrections.zip to a data folder, and say which.

    Images that are not there yet are copied into the layout of the task's data; labels become new
    versions, with the prediction that they correct, as if they were corrected in the app. An image
    that cannot be added is refused, with the reason, and the others are added. `data` and `export`
    are those of `Corrections`. Raises `DataError` if the archive is damaged or of another task.
    """
    store, archive = Corrections(task, data, export), Path(archive)
    if data is None and not has_files(store.root):
        raise DataError(
            f"{store.root}: has no data of {store.task.name}; name its folder with --data",
            "no-data-to-add-to",
        )
    added = Added()
    with TemporaryDirectory() as folder:
        with _reading(archive):
            opened = zipfile.ZipFile(archive)
        with opened:
            with _reading(archive):
                about = _about(opened, store.task)
                entries = list(_entries(about["images"], store.task))
            by, source = brief(about.get("by", "")), brief(about.get("source", ""))
            for entry in track(entries, "adding", len(entries)):
                with _reading(archive):
                    file, label, prediction = _extract(opened, entry, Path(folder))
                try:
                    image, labels = store.add(file), (_read(label), _read(prediction))
                    _save(store, image, labels, entry, by, source, added)
                except DataError as error:
                    # the files that it names are temporary
                    added.refused[file.name] = str(error).replace(f"{folder}/", "")
                file.unlink()
    return added


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Convert the errors of a damaged or malicious archive to `DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{archive}: no such file; check the path", "no-such-path") from None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        NotImplementedError,  # a compression that Python lacks
        RuntimeError,  # a password
    ) as error:
        raise DataError(
            f"{archive}: is not a corrections.zip that can be read ({brief(error)}); "
            "download it again",
            "damaged-corrections-zip",
        ) from None


def _about(opened: zipfile.ZipFile, task: Task) -> dict[str, Any]:
    """Return what corrections.json says. Raises `DataError` if it is of another task."""
    about: dict[str, Any] = json.loads(_content(opened, ABOUT, LARGEST_ABOUT))
    if about["schema"] != SCHEMA:
        raise ValueError(f"it has version {about['schema']}, and this fastseg reads {SCHEMA}")
    if about["task"] != task.name or about["classes"] != list(task.classes):
        classes = ", ".join(map(str, about["classes"]))
        raise DataError(
            f"{opened.filename}: is of the task {brief(about['task'])} with the classes "
            f"{brief(classes)}, not of {task.name} with {', '.join(task.classes)}; "
            "name the task or folder that the export was trained on",
            "corrections-task",
        )
    return about


def _entries(rows: list[dict[str, Any]], task: Task) -> Iterator[_Entry]:
    """Yield the entries. Raises `ValueError`, `KeyError` or `TypeError` for other values."""
    kind = str if task.has_masks else int
    for row in rows:
        seconds = min(max(float(row["seconds"]), 0.0), MOST_SECONDS)
        entry = _Entry(row["image"], row["label"], row["prediction"], row["action"], seconds)
        name = PurePosixPath(entry.image).name
        if not is_image(Path(name)) or name.startswith(".") or "\\" in name or len(name) > LONGEST:
            raise ValueError(f"{name} is not the name of an image")
        if {type(entry.label), type(entry.prediction)} != {kind} or entry.action not in ACTIONS:
            raise ValueError(f"the entry of {name} is damaged")
        yield entry


def _extract(
    opened: zipfile.ZipFile, entry: _Entry, folder: Path
) -> tuple[Path, Path | int, Path | int]:
    """Write an image, its label and prediction below a folder; classes are returned as they are."""

    def written(name: str | int, place: str) -> Path | int:
        if isinstance(name, int):
            return name
        (folder / place).write_bytes(_content(opened, name, LARGEST_FILE))
        return folder / place

    image = folder / PurePosixPath(entry.image).name
    image.write_bytes(_content(opened, entry.image, LARGEST_FILE))
    return image, written(entry.label, ".label.png"), written(entry.prediction, ".prediction.png")


def _save(
    store: Corrections,
    image: Path,
    labels: tuple[Label, Label],
    entry: _Entry,
    by: str,
    source: str,
    added: Added,
) -> None:
    """Save a label, unless the image was corrected to this very label before."""
    label, prediction = labels
    known = store.label(image)
    if store.history(image) and known is not None and np.array_equal(known, label):
        added.known.append(image.name)
        return
    added.saved.append(
        store.save(
            image,
            label,
            action=entry.action,
            by=by,
            seconds=entry.seconds,
            source=source,
            prediction=prediction,
        )
    )
    if known is not None:
        added.replaced.append(image.name)


def _content(opened: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a file's content. Raises `ValueError` if it is too large, `KeyError` if missing."""
    if opened.getinfo(name).file_size > most:
        raise ValueError(f"{name} is larger than {most // 2**20} MiB")
    return opened.read(name)


def _read(label: Path | int) -> Label:
    """Return a label: a class index, or the codes in a mask's file, uint8 (H, W)."""
    if isinstance(label, int):
        return label
    codes = read_raw(label)
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise DataError(f"{label}: is not a mask of codes with 8 bits", "not-codes")
    return codes

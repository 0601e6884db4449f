"""The labels of a data folder with all their versions, as they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import numpy as np

from ..data.slices import split_slice
from ..data.state import state_of
from ..errors import DataError, brief
from ..formats.paths import size_of
from ..tasks import Task, get
from ..utils.io import name_below
from ..utils.locks import waiting_lock
from .locate import Listing, require_files
from .log import Correction, Log
from .places import Label, Place, indices
from .renames import follow_renames
from .repair import repair

WAIT = 30.0  # seconds to wait for another process that saves; a save takes less than one
FIRST = 0  # the version before the first correction


class History:
    """The labels of a task's data folder, with all their versions: what there is to read.

    `data` is the folder (default: the task's own). Thread-safe. What an interrupted process left
    unfinished is completed when it is opened, and versions follow renamed images.
    """

    def __init__(self, task: Task | str | Path, data: Path | str | None = None):
        self.task = get(task)
        self.root = Path(data or self.task.default_data)
        self._log = Log(self.root)
        self._listing: Listing | None = None
        self._guard = RLock()
        if state_of(self.root).is_dir():
            with self._locked():
                if follow_renames(self.task, self.root, self._log, self._images):
                    self._listing = None
                self._repair()

    def label(self, image: Path | str) -> Label | None:
        """Return the current label of an image: uint8 (H, W), 255 unlabelled, a class index, or
        None if it has none.

        (H, W) is the size at which the image is shown, EXIF honoured. Raises `DataError` for a
        label that cannot be used, and with code "size-mismatch" for one of another size.
        """
        name = self._name(image)
        label = self._place(name).read()
        if isinstance(label, np.ndarray) and label.shape != self.size(image):
            height, width = self.size(image)
            raise DataError(
                f"{self.root / name}: its mask is {label.shape[1]}x{label.shape[0]} px, but it is "
                f"shown at {width}x{height}",
                "size-mismatch",
            )
        return label

    def size(self, image: Path | str) -> tuple[int, int]:
        """Return the (height, width) at which an image is shown, and which its mask has."""
        path = self.root / self._name(image)
        if self.task.reading.is_plain and split_slice(path) is None:
            return size_of(path)[0]
        height, width = self.task.image(path).shape[:2]
        return height, width

    def history(self, image: Path | str) -> list[Correction]:
        """Return the versions of an image's label, newest last; none if it was never corrected."""
        name = self._name(image)
        self._repair_if_damaged()
        return [row for row in self._log.rows() if row.image == name]

    def newest(self, image: Path | str) -> int:
        """Return the number of the current version: 0 before the first correction."""
        self._repair_if_damaged()
        return self._newest(self._name(image))

    def version(self, image: Path | str, number: int) -> Label:
        """Return one version of a label; 0 is the one before the first correction.

        Raises `DataError` with code "no-version" if there is none.
        """
        name = self._name(image)
        newest, place = self._newest(name), self._place(name)
        label: Label | None = None
        if number == newest:
            label = place.read()
        if label is None and (file := self._version_file(name, number)):
            label = place.decode(file)
        if label is None:
            raise DataError(f"{self.root / name}: has no version {number}", "no-version")
        return label

    def had_label(self, image: Path | str) -> bool:
        """Return whether an image that was corrected had a label before the first correction."""
        return self._version_file(self._name(image), FIRST) is not None

    def prediction(self, image: Path | str, number: int) -> Label | None:
        """Return the prediction that a version corrects, as a label; None if there was none."""
        folder = state_of(self.root) / "predictions" / self._name(image)
        if (folder / f"{number}.png").is_file():
            return indices(folder / f"{number}.png", len(self.task.classes))
        if (folder / f"{number}.txt").is_file():
            return int((folder / f"{number}.txt").read_text(encoding="utf-8"))
        return None

    def has_prediction(self, image: Path | str, number: int) -> bool:
        """Return whether a version corrects a prediction."""
        folder = state_of(self.root) / "predictions" / self._name(image)
        return any((folder / f"{number}{suffix}").is_file() for suffix in (".png", ".txt"))

    def all(self) -> list[Correction]:
        """Return all rows of corrections.csv, oldest first."""
        self._repair_if_damaged()
        return self._log.rows()

    def unlabelled(self) -> list[Path]:
        """Return the images in the task's image folders that have no label, sorted by path."""
        return self._listed().unlabelled()

    def refresh(self) -> None:
        """Look at the folder's files again: others may have added or removed some."""
        with self._guard:
            self._listing = None

    # What these need

    def _name(self, image: Path | str) -> str:
        """Return an image's path below the data folder.

        A relative path is one below the data folder, or one that leads there. Raises `DataError`
        for paths and links that lead out of it, and for files that do not exist.
        """
        path = Path(image)
        if not path.is_absolute() and not Path(os.path.abspath(path)).is_relative_to(
            os.path.abspath(self.root)
        ):
            path = self.root / path
        volume = split_slice(path)
        file = volume[0] if volume else path
        name = name_below(self.root, path)
        inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(self.root))
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if not inside or hidden:
            require_files(self.task, self.root)
            raise DataError(
                f"{brief(image)}: is not an image of the data folder {self.root}", "outside-data"
            )
        if not file.is_file():
            raise DataError(f"{path}: no such image; check the path", "no-such-image")
        return name

    def _listed(self) -> Listing:
        with self._guard:
            if self._listing is None:
                self._listing = Listing.of(self.task, self.root)
            return self._listing

    def _images(self) -> list[Path]:
        """Return all images of the task's folders, with a label or without."""
        listing = self._listed()
        return [*(item.image for item in listing.items.values()), *listing.unlabelled()]

    def _place(self, name: str) -> Place:
        with self._guard:
            return self._listed().place(name)

    def _newest(self, name: str) -> int:
        return max((row.version for row in self._log.rows() if row.image == name), default=FIRST)

    def _repair_if_damaged(self) -> None:
        self._log.rows()
        if self._log.is_damaged:
            with self._locked():
                self._repair()

    def _repair(self) -> None:
        """Complete what an interrupted process left; the caller holds the lock of the folder."""
        if repair(self.root, self._log, self._place):
            self._listing = None

    def _versions(self, name: str) -> Path:
        return state_of(self.root) / "versions" / name

    def _version_file(self, name: str, number: int) -> Path | None:
        folder = self._versions(name)
        files = sorted(folder.glob(f"{number}.*")) if folder.is_dir() else []
        return next((file for file in files if file.suffix != ".json"), None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._guard, waiting_lock(state_of(self.root), WAIT):
            yield

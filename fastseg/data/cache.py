"""Decoded images and labels at the training size, kept while they fit, shared by processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..types import Dataset, Item
from ..utils.device import cache_bytes
from ..utils.shared_file import SharedFile, folder_of
from .images import resized, resized_codes

log = logging.getLogger(__name__)

# What torchrun tells all processes of a run, and no other run.
RUN = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")

# The open files of this process: one for each folder, since closing a file releases all its locks.
_files: WeakValueDictionary[Path, SharedFile] = WeakValueDictionary()
_opening = threading.Lock()


class Pixels:
    """Images and labels at the training size, uint8, decoded once.

    Up to `budget` bytes (default: `utils.device.cache_bytes`) are kept in a temporary file, see
    `utils.shared_file`: on one machine, all processes of a run share it, and the budget. They are
    the worker processes of a `DataLoader`, the processes that torchrun starts, and those with the
    same `run`, a name of your choice. An image that is kept is decoded once, whichever process asks
    first. Pickles without the decoded images, so that exports contain none. Thread-safe.
    """

    def __init__(
        self,
        task: Dataset,
        size: tuple[int, int],
        budget: int | None = None,
        run: str | None = None,
    ):
        self.task = task
        self.size = (size[0], size[1])
        self.budget = cache_bytes() if budget is None else budget
        self.run = run_of_environment() if run is None else run
        self._begin(None)

    def _begin(self, folder: Path | None) -> None:
        self._file: SharedFile | None = None
        self._folder = folder  # of the file
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A process that this one starts opens the same file; an export must not know it.
        starts_process = get_spawning_popen() is not None
        file = self._open() if starts_process else None
        return {
            "task": self.task,
            "size": self.size,
            "budget": self.budget,
            "run": self.run if starts_process else None,
            "folder": file.folder if file else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state.pop("folder", None)
        self.__dict__.update({"run": None, **state})
        self._begin(folder)

    @property
    def used(self) -> int:
        """Bytes that are kept, of all processes together."""
        file = self._open()
        return file.used if file else 0

    def holds(self, items: Sequence[Item]) -> bool:
        """Return whether the images of all these items are kept."""
        file = self._open()
        return file is not None and all(_key("image", item) in file for item in items)

    def image(self, item: Item | Path | str) -> np.ndarray:
        """Return an item's or file's pixels at the training size, uint8 (h, w, C)."""
        if isinstance(item, Item):
            return self._get_or_read("image", item, lambda: self.task.image(item))
        return self._shrink("image", self.task.image(item))

    def label(self, item: Item) -> np.ndarray | str:
        """Return an item's codes at the training size, uint8 (h, w), or its class by name."""
        if not self.task.has_masks:
            return self.task.class_name(item)
        return self._get_or_read("label", item, lambda: self.task.label(item))

    def keep(self, item: Item, image: np.ndarray, label: np.ndarray | int) -> None:
        """Keep an image and its label that were already decoded, if there is room."""
        if self.budget:
            self._get_or_read("image", item, lambda: image)
            if self.task.has_masks:
                self._get_or_read("label", item, lambda: label)

    def _get_or_read(
        self, part: str, item: Item, read: Callable[[], np.ndarray | int]
    ) -> np.ndarray:
        """Return an item's "image" or "label", from the file or from `read`."""
        file = self._open()
        if file is None:
            return self._shrink(part, read())
        shape = (*self.size, self.task.channels) if part == "image" else self.size
        return file.get(_key(part, item), shape, lambda: self._shrink(part, read()))

    def _open(self) -> SharedFile | None:
        """Return the file, opened by the first call; None where nothing is kept."""
        if self._file is None and self.budget:
            with self._lock:
                if self._file is None and self.budget:
                    self._file = self._opened()
                    self.budget = self._file.budget if self._file else 0
        return self._file

    def _opened(self) -> SharedFile | None:
        folder = self._folder
        if folder is None and self.run is not None:
            described = [self.run, self.task.definition(), self.size]
            folder = folder_of(hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32])
        height, width = self.size
        area = height * width * (self.task.channels + self.task.has_masks)
        count = self.budget // area * (1 + self.task.has_masks)
        try:
            return _file_of(folder, self.budget, max(1, count))
        except OSError as error:
            log.warning(
                "decoded images cannot be kept in temporary files (%s): they are decoded in each "
                "epoch; set TMPDIR to a folder with space",
                error.strerror or error,
            )
            return None

    def _shrink(self, part: str, pixels: Any) -> np.ndarray:
        resize = resized if part == "image" else resized_codes
        return resize(pixels, self.size, self.task.recipe.resize)


def _key(part: str, item: Item) -> str:
    return f"{part} {item.image if part == 'image' else item.label}"


def _file_of(folder: Path | None, budget: int, count: int) -> SharedFile:
    with _opening:
        file = _files.get(folder) if folder else None
        if file is None:
            file = SharedFile(budget, count, folder)
            _files[file.folder] = file
        return file


def run_of_environment() -> str | None:
    """Return what identifies the run of several processes on this machine, or None.

    It is what torchrun sets, or `torch.distributed` needs: a LOCAL_WORLD_SIZE or WORLD_SIZE above
    1, and the run's id, address and port.
    """
    count = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "")
    if not count.isdecimal() or int(count) < 2:
        return None
    return " ".join(os.environ.get(name, "") for name in RUN)

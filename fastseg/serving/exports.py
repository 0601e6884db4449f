"""Exports that are served: loaded, and loaded again when their files are replaced.

A request keeps the version that it began with. Files that cannot be loaded leave the version
before them in use.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ExportError, FastsegError, ServeError, brief, is_out_of_memory
from ..exports.card import CARD, MODEL, ONNX
from ..exports.int8 import PARITY, conversion_folder
from ..exports.read import opened
from ..metrics.risk import review_threshold
from ..tasks import SegmentationTask, Task
from ..utils.choices import INT8
from .options import ServeOptions

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ATTEMPTS = 3  # to load an export whose files change while they are read

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, eq=False)
class Version:
    """An export as its files were at one time, ready to predict."""

    name: str
    predictor: Predictor
    threshold: float | None  # of the expected error, above which a person should look
    stamp: Stamp

    @property
    def model(self) -> str:
        """The beginning of the SHA-256 of its weights."""
        return self.predictor.digest[:12]


class Served:
    """An export by its name in addresses. `current` is None until it is loaded."""

    def __init__(self, name: str, folder: Path, options: ServeOptions):
        self.name, self.folder, self.options = name, folder, options
        self.current: Version | None = None
        self.fault: FastsegError | None = None
        self._seen: Stamp | None = None  # of the files that were tried last

    def refresh(self) -> bool | None:
        """Load the export if its files are not those that were tried last.

        Return whether that worked, None if nothing changed. It takes seconds: call it on a thread.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        try:
            self.current, self.fault = self._load(), None
        except FastsegError as error:
            self.fault = error
        except (MemoryError, RuntimeError) as error:
            what = "out of memory" if is_out_of_memory(error) else brief(error)
            self.fault = ServeError(f"{self.folder}: cannot be loaded ({what})", "not-loaded")
        if self.fault:
            self._seen = stamp
            if self.current:
                log.warning(
                    "export %s: the earlier version is still served: %s", self.name, self.fault
                )
            return False
        self._seen = self.version.stamp
        log.info("export %s: loaded, model %s", self.name, self.version.model)
        return True

    @property
    def version(self) -> Version:
        """The version in use. Raises `ServeError` if there is none yet."""
        if self.current is None:
            raise ServeError(f"{self.name}: is not loaded yet; try again", "not-loaded")
        return self.current

    def _stamp(self) -> Stamp:
        """Return what changes when the export is replaced, or one of its files is."""
        files = [self.folder / name for name in (CARD, MODEL, ONNX)]
        if self.options.runtime == INT8:
            files.append(conversion_folder(self.folder, INT8) / PARITY)
        return tuple(_stamp(file) for file in files)

    def _load(self) -> Version:
        from ..inference.loading import load

        options = self.options
        for _ in range(ATTEMPTS):
            stamp = self._stamp()
            predictor = load(
                self.folder,
                options.device,
                runtime=options.runtime,
                precision=options.precision,
                images=1,
            )
            predictor.warm_up()  # all of it is in memory then: files may change afterwards
            _warm_up_pictures(predictor.task)
            if self._stamp() == stamp:
                threshold = review_threshold(predictor.card.review, options.error_rate)
                return Version(self.name, predictor, threshold, stamp)
        raise ExportError(
            f"{self.folder}: its files change while they are read; replace the folder in one step",
            "export-changes",
        )


def _warm_up_pictures(task: Task) -> None:
    """Draw an overlay, which imports scipy."""
    if isinstance(task, SegmentationTask):
        task.overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def served(exports: Sequence[str], options: ServeOptions) -> dict[str, Served]:
    """Return the exports by name; nothing is loaded. An export is a folder, or a task for its
    export; NAME=EXPORT gives another name than the folder's.

    Raises `ExportError` for folders that hold no export, `ServeError` for names.
    """
    found: dict[str, Served] = {}
    for given in exports:
        name, is_named, place = given.partition("=")
        if not is_named:
            name, place = "", given
        _, folder, card = opened(place)
        review_threshold(card.review, options.error_rate)
        if folder.suffix == ".pkl":
            raise ServeError(
                f"{folder}: is a pickle, which can run any code; serve its folder {folder.parent}",
                "no-pickle",
            )
        name = name or folder.resolve().name
        if not NAME.fullmatch(name):
            raise ServeError(
                f"{brief(name)}: is no name for an address; give one of letters, digits, . _ - as "
                f"NAME={place}",
                "export-name",
            )
        if name in found:
            raise ServeError(
                f"{name}: names {found[name].folder} and {folder}; call one NAME={place}",
                "export-name",
            )
        found[name] = Served(name, folder, options)
    return found

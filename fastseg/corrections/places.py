"""Where the label of an image is, and how it is written there: what is read back is what was saved.

A place reads the current label, keeps a copy of it as a version, and stages a new one: the new
label is written to a hidden file first, decoded, and compared. Only then does it take its place, in
one step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np

from ..data import class_masks, tables
from ..data.class_masks import ClassFiles
from ..data.decoding import decode_codes
from ..data.images import save_image
from ..data.state import CLASS_COLUMNS, CLASSES, classes_in, state_of
from ..errors import DataError
from ..tasks import ClassificationTask, SegmentationTask
from ..types import IGNORE
from ..utils.io import atomic_file, write_rows
from .encoding import write_mask, write_regions

Label = np.ndarray | int
CLASS_SUFFIX = ".txt"  # of versions that are a class


@dataclass(frozen=True)
class Staged:
    """A label that is written, but not in its place yet."""

    fingerprint: str  # of the place when the label is in it
    file: Path | None = None
    value: int | None = None


class Place(ABC):
    """Where one image's label is."""

    suffix: str  # of the files of its versions

    @abstractmethod
    def read(self) -> Label | None:
        """Return the current label; None if there is none. Raises `DataError` if it is faulty."""

    @abstractmethod
    def decode(self, version: Path) -> Label:
        """Return the label that a version's file holds."""

    @abstractmethod
    def archive(self, version: Path) -> bool:
        """Copy the current label to a version's file; return False if there is none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what tells the current content from another one; "" if there is none."""

    @abstractmethod
    def stage(self, label: Label, folder: Path) -> Staged:
        """Write a label to a new file in `folder`, and check that it decodes to the same.

        Raises `DataError` with code "not-representable" if it does not.
        """

    @abstractmethod
    def put(self, staged: Staged) -> None:
        """Let a staged label take its place, in one step."""

    @abstractmethod
    def clear(self) -> None:
        """Remove the label, of an image that had none before its first correction."""

    def finish(self) -> None:  # noqa: B027 - most places have nothing left to do
        """Do what is left to do after `put`; it is safe to be repeated."""


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes atomically."""
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def move_file(source: Path, target: Path) -> None:
    """Let a file take the place of another, in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError:  # another disk, by a link or a mount
        copy_file(source, target)
        source.unlink(missing_ok=True)


def _content(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _digest(label: np.ndarray) -> str:
    return hashlib.sha256(f"{label.shape}".encode() + label.tobytes()).hexdigest()


def _unique(folder: Path, suffix: str) -> Path:
    return folder / f"{uuid4().hex}{suffix}"


def indices(file: Path, classes: int) -> np.ndarray:
    """Return the class indices of a PNG, uint8 (H, W), 255 = unlabelled."""
    known = {index: index for index in (*range(classes), IGNORE)}
    return decode_codes(file, known).accepted()


@dataclass
class MaskFile(Place):
    """A mask file of the task's own, which has what the layout `source` declares."""

    task: SegmentationTask
    file: Path
    source: str

    def __post_init__(self) -> None:
        self.suffix = self.file.suffix

    def read(self) -> np.ndarray | None:
        return self.decode(self.file) if self.file.exists() else None

    def decode(self, version: Path) -> np.ndarray:
        return self.task.decode(version, self.source)

    def archive(self, version: Path) -> bool:
        if not self.file.exists():
            return False
        copy_file(self.file, version)
        return True

    def fingerprint(self) -> str:
        return _content(self.file)

    def stage(self, label: Label, folder: Path) -> Staged:
        before = self.file if self.file.exists() else None
        staged = _unique(folder, self.suffix)
        write_mask(self.task, self.source, np.asarray(label), staged, before, self.file)
        return Staged(_content(staged), staged)

    def put(self, staged: Staged) -> None:
        assert staged.file is not None
        move_file(staged.file, self.file)

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)


@dataclass
class DrawnMask(Place):
    """Class indices in DIR/.fastseg/masks, for images without a mask file that can be written."""

    task: SegmentationTask
    file: Path
    # Returns the label as long as there is no such file, or None: from a label file, or a volume
    before: Callable[[], np.ndarray | None]

    suffix = ".png"

    def read(self) -> np.ndarray | None:
        return self.decode(self.file) if self.file.exists() else self.before()

    def decode(self, version: Path) -> np.ndarray:
        return indices(version, len(self.task.classes))

    def archive(self, version: Path) -> bool:
        label = self.read()
        if label is None:
            return False
        save_image(version, label)
        return True

    def fingerprint(self) -> str:
        label = self.read()
        return "" if label is None else _digest(label)

    def stage(self, label: Label, folder: Path) -> Staged:
        staged = save_image(_unique(folder, ".png"), np.asarray(label))
        return Staged(_digest(np.asarray(label)), staged)

    def put(self, staged: Staged) -> None:
        assert staged.file is not None
        move_file(staged.file, self.file)

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)


@dataclass
class ClassMaskFiles(DrawnMask):
    """One mask file a class. They cannot be replaced in one step: DIR/.fastseg/masks has the label
    first, and until all of them are written.
    """

    staging: Path = Path()  # for files that are not in their place yet
    files: ClassFiles = field(default_factory=dict)  # class index -> file that there is
    others: ClassFiles = field(default_factory=dict)  # of classes without a file

    def stage(self, label: Label, folder: Path) -> Staged:
        if self.task.background is not None and (np.asarray(label) == IGNORE).any():
            raise DataError(
                f"{self.file}: the label has unlabelled pixels, which masks of single classes "
                "cannot have; label them",
                "not-representable",
            )
        return super().stage(label, folder)

    def clear(self) -> None:
        label = self.read()
        if label is not None and not self.file.exists():  # if killed, `finish` has the whole label
            move_file(save_image(_unique(self.staging, ".png"), label), self.file)
        for file in self.files.values():
            file.unlink(missing_ok=True)
        super().clear()

    def finish(self) -> None:
        """Write the masks of the classes from the one of all of them, which is deleted then."""
        if not self.file.exists():
            return
        label = self.decode(self.file)
        wanted = {**self.others, **self.files}
        present = {int(code) for code in np.unique(label)} - {IGNORE}
        chosen = {*self.files, *(code for code in present if code != self.task.background)}
        if not chosen:  # an image without any mask would not be listed
            chosen = {next(code for code in wanted if code != self.task.background)}
        for code in sorted(chosen):
            staged = _unique(self.staging, wanted[code].suffix)
            write_regions(label == code, staged)
            move_file(staged, wanted[code])
        written = {code: wanted[code] for code in chosen}
        if np.array_equal(class_masks.combined(written, self.task.background), label):
            self.file.unlink(missing_ok=True)


@dataclass
class TableCell(Place):
    """The cell of a table that has an image's class."""

    task: ClassificationTask
    table: Path
    name: str  # of the image, in the table

    suffix = CLASS_SUFFIX

    def read(self) -> int | None:
        text = tables.cell(self.table, self.task.columns, self.name)
        return self.task.label_texts().get(text or "")

    def decode(self, version: Path) -> int:
        return _class_in(version, len(self.task.classes))

    def archive(self, version: Path) -> bool:
        label = self.read()
        if label is None:
            return False
        with atomic_file(version) as temporary:
            temporary.write_text(f"{label}\n", encoding="utf-8")
        return True

    def fingerprint(self) -> str:
        label = self.read()
        return "" if label is None else str(label)

    def stage(self, label: Label, folder: Path) -> Staged:
        return Staged(str(int(label)), value=int(label))

    def put(self, staged: Staged) -> None:
        assert staged.value is not None
        text = self._text(staged.value)
        before = tables.cell(self.table, self.task.columns, self.name)
        if before is not None and self.task.label_texts().get(before) == staged.value:
            return  # it may say the same in another way
        tables.set_cell(self.table, self.task.columns, self.name, text)

    def clear(self) -> None:
        tables.set_cell(self.table, self.task.columns, self.name, "")

    def _text(self, label: int) -> str:
        """Return a class as the table has it: by name if it has names, else as the task says."""
        rows = tables.read_table(self.table, self.task.columns, []) or {}
        if any(text in self.task.classes for text, _ in rows.values()):
            return self.task.classes[label]
        return self.task.label_text(label)


@dataclass
class ClassEntry(TableCell):
    """The class of an image in DIR/.fastseg/classes.csv, where a folder's name has it, or none."""

    root: Path = Path()
    before: int | None = None  # by its folder

    def read(self) -> int | None:
        named = dict(classes_in(self.root)).get(self.name)
        return self.task.classes.index(named) if named in self.task.classes else self.before

    def put(self, staged: Staged) -> None:
        assert staged.value is not None
        self._write({**dict(classes_in(self.root)), self.name: self.task.classes[staged.value]})

    def clear(self) -> None:
        self._write({k: v for k, v in classes_in(self.root) if k != self.name})

    def _write(self, named: dict[str, str]) -> None:
        rows = (dict(zip(CLASS_COLUMNS, row)) for row in sorted(named.items()))
        write_rows(self.root / CLASSES, rows)


def _class_in(version: Path, classes: int) -> int:
    try:
        label = int(version.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        label = -1
    if not 0 <= label < classes:
        raise DataError(f"{version}: holds no class of the task; remove it", "damaged-version")
    return label


def staging(root: Path) -> Path:
    """Return the folder for labels that are not in their place yet."""
    return state_of(root) / "staged"

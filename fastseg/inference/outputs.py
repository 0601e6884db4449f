"""What `predict` writes: one mask per image for segmentation, one table for classification.

An `Output` is made before torch is imported, and finds what is wrong with names and folders.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ..data.images import read_raw, save_image
from ..data.pairing import IMAGE_SUFFIXES, image_files
from ..data.slices import is_medical, real_file, split_slice, stem_of
from ..data.state import CORRECTIONS
from ..errors import DataError, TaskError
from ..exports.card import CARD
from ..tasks import ClassificationTask, SegmentationTask, Task
from ..tasks.base import MADE
from ..tasks.converted import (
    Entry,
    choose_target,
    further_files,
    refuse_slices,
    unique_names,
    write_dataset,
)
from ..tasks.layouts import Layout
from ..types import STATE
from ..utils.io import atomic_file, atomic_folder, write_rows

if TYPE_CHECKING:
    from .prediction import ClassPrediction, MaskPrediction, Prediction

DESCRIBED, FAILED = "predictions.csv", "failed.csv"
# Names of folders of results, or their ends.
MASKS, OVERLAYS, PROBABILITIES, CODES = "_inf_masks", "overlays", "probabilities", "codes"
SCORES = "scores"  # key of a row that is not a column of predictions.csv
CORRECTED = "_corrected"  # end of the name of the task that annotations to correct declare
TABLE_SUFFIXES = (".tsv", ".txt", ".csv")
PARENTS = 3  # levels above images and results that are searched for true masks

# Masks have long runs of a value: run-length matching at the lowest level is 5 times faster than
# the default, and the files are no larger.
QUICK_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}


def mask_options(suffix: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` for masks in files of this suffix."""
    return QUICK_PNG if suffix == ".png" else {}


TaskT = TypeVar("TaskT", bound=Task)
PredictionT = TypeVar("PredictionT", bound="Prediction")
Row = Any  # JSON values


class Output(ABC, Generic[TaskT, PredictionT]):
    """Where the results of one kind of task go, and how they are written."""

    def __init__(
        self,
        task: TaskT,
        overlay: bool = False,
        probabilities: bool = False,
        format: str | None = None,
    ):
        self.task, self.overlay, self.probabilities = task, overlay, probabilities
        self.format = None if format is None else choose_target(format)

    @abstractmethod
    def plan(self, files: Sequence[Path], out: Path | str | None) -> None:
        """Choose where results of these image files go.

        Raises `DataError` for what must not be overwritten.
        """

    @abstractmethod
    def place(self, targets: Mapping[Path, Path]) -> None:
        """Set where results go, by image file, in place of `plan`; nothing is checked."""

    @abstractmethod
    def require_free(self, out: Path, inputs: set[Path], results: set[Path]) -> None:
        """Raise `DataError` if results of images in the folders `inputs` must not go to `out`.

        `results` are the folders below `out` that get results.
        """

    @property
    @abstractmethod
    def places(self) -> list[Path]:
        """The files or folders to be written, which no other run may write to at the same time."""

    @abstractmethod
    def write_image_results(
        self, file: Path, prediction: PredictionT, threshold: float | None
    ) -> tuple[Row, list[Path]]:
        """Write what belongs to one image; return what `write_tables` needs of it, and the files
        written.
        """

    @abstractmethod
    def write_tables(self, rows: Mapping[Path, Row]) -> list[Path]:
        """Write what belongs to all images together and return the files written.

        `rows` are those that `write_image_results` returned.
        """

    @abstractmethod
    def failed_path(self, file: Path) -> Path | None:
        """Return the table that lists an image if it cannot be read; None where there is none."""

    def is_own(self, path: Path) -> bool:
        """Return whether fastseg, or the layout of the task's data, puts a file or folder of this
        name among images.
        """
        if path.is_dir():
            return path.name.endswith(MASKS) or path.name in (
                OVERLAYS,
                PROBABILITIES,
                CODES,
                STATE,
            )
        return path.name in ("README.md", MADE, CORRECTIONS) or path.name.endswith(
            (DESCRIBED, FAILED)
        )


class MaskOutput(Output[SegmentationTask, "MaskPrediction"]):
    """Masks in the task's own format; overlays, probabilities and label files if asked for."""

    def plan(self, files: Sequence[Path], out: Path | str | None) -> None:
        self._out = None if out is None else Path(out)
        self._is_one_file = _is_image_file(self._out)
        if self.format:
            refuse_slices(files)
        if self._is_one_file:
            self._check_one_file(files)
            if self.format:
                raise DataError(
                    f"{out}: is one file, and --format writes a folder; give a folder as --out",
                    "one-file-for-many",
                )
        self._has_spacing = any(map(is_medical, files))
        self._targets: dict[Path, Path] = {}
        owners: dict[Path, Path] = {}
        inputs = {real_file(file).resolve().parent for file in files}
        results = set()
        if self._out is not None:
            results = {(self._out.parent if self._is_one_file else self._out).resolve()}
        taken, around = self._labelled_folders(inputs, results)
        for file in files:
            target = self._target(file)
            if target in owners:
                raise DataError(
                    f"{file} and {owners[target]}: both would be written to {target}; predict them "
                    "into different folders (--out), or give a glob such as 'images/*.jpg'",
                    "same-target",
                )
            self._require_free_folder(target.parent, taken, around)
            self._targets[file], owners[target] = target, file
        for folder in {target.parent for target in owners} if self.format else ():
            self._require_no_labels(folder / str(self.format))

    def place(self, targets: Mapping[Path, Path]) -> None:
        self._is_one_file, self._has_spacing = False, False
        self._targets = dict(targets)

    def require_free(self, out: Path, inputs: set[Path], results: set[Path]) -> None:
        taken, around = self._labelled_folders(inputs, {out.resolve()})
        for folder in results:
            self._require_free_folder(folder, taken, around)

    def _require_free_folder(self, folder: Path, taken: set[Path], around: set[Path]) -> None:
        if (folder / CARD).is_file():
            raise DataError(f"{folder}: holds an export; choose another --out", "holds-export")
        for place in (folder, *([folder / OVERLAYS] if self.overlay else [])):
            if place.resolve() in taken or _is_among(place.resolve(), around):
                raise DataError(
                    f"{place}: holds input images or their true masks, and nothing is written "
                    "among them; choose another --out",
                    "output-in-data",
                )

    def _require_no_labels(self, folder: Path) -> None:
        """Raise `DataError` if a folder holds files: people may have corrected them."""
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"{folder}: is not empty, and corrected labels are never overwritten; "
                "choose another --out, or remove it",
                "not-empty",
            )

    def _check_one_file(self, files: Sequence[Path]) -> None:
        out, suffix = self._out or Path(), self.task.suffix
        if len(files) > 1:
            raise DataError(
                f"{out}: is one file, but {len(files)} images are to be predicted; "
                "give a folder as --out",
                "one-file-for-many",
            )
        if out.suffix.lower() != suffix:
            raise DataError(
                f"{out}: {self.task.name} results are written as {suffix} files; "
                f"name it {out.stem}{suffix}",
                "output-suffix",
            )

    def _target(self, file: Path) -> Path:
        if self._out is None:
            return Path(f"{_folder_name(file)}{MASKS}") / f"{self._stem(file)}{self.task.suffix}"
        if self._is_one_file:
            return self._out
        return self._out / f"{self._stem(file)}{self.task.suffix}"

    def _stem(self, file: Path) -> str:
        """Return the name of an image's results: of several files a channel, their common part."""
        ends = self.task.channel_files
        volume = real_file(file)
        if not ends or not stem_of(volume).endswith(ends[0]):
            return stem_of(file)
        return stem_of(volume).removesuffix(ends[0]) + stem_of(file)[len(stem_of(volume)) :]

    def _labelled_folders(
        self, folders: set[Path], results: set[Path]
    ) -> tuple[set[Path], set[Path]]:
        """Return the folders of the inputs, and those around them and around the results that hold
        true masks; and folders whose subfolders may hold some, too.
        """
        roots = {
            root
            for folder in folders | results
            for root in (folder, *list(folder.parents)[:PARENTS])
        }
        plain = [layout.masks for layout in self.task.layouts if not layout.format]
        nested = [place for layout in self.task.layouts for place in _nested(layout, self.task)]
        masks = {root / place for root in roots for place in (*plain, *nested)}
        return (
            folders | {mask.resolve() for mask in masks if mask.is_dir() and image_files(mask)},
            {root / place for root in roots for place in nested if (root / place).is_dir()},
        )

    @property
    def places(self) -> list[Path]:
        targets = self._targets.values()
        return sorted({target if self._is_one_file else target.parent for target in targets})

    def write_image_results(
        self, file: Path, prediction: MaskPrediction, threshold: float | None
    ) -> tuple[Row, list[Path]]:
        target = self._targets[file]
        pixels = self.task.render(prediction)
        written = [save_image(target, pixels, **mask_options(target.suffix))]
        if self.overlay:
            pixels = self.task.overlay(prediction.image, prediction.codes)
            written.append(save_image(target.parent / OVERLAYS / f"{target.stem}.jpg", pixels))
        if self.probabilities:
            path = target.parent / PROBABILITIES / f"{target.stem}.npz"
            with atomic_file(path) as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=prediction.probabilities.astype(np.float16),
                    classes=np.array(self.task.classes),
                )
            written.append(path)
        row = {"image": str(file), "mask": target.name, **prediction.described(threshold)}
        if self._has_spacing or is_medical(file):
            row |= _spacing_columns(file)
        if self.format:
            codes = self._codes_path(target)
            if codes != target:
                written.append(save_image(codes, prediction.codes, **QUICK_PNG))
            row[SCORES] = mean_scores(prediction.calibrated, prediction.codes)
        return row, written

    def _codes_path(self, target: Path) -> Path:
        """Return the PNG file of codes that belongs to a mask: the mask itself if it has them."""
        if self.task.output == "codes":
            return target
        return target.parent / CODES / f"{target.stem}.png"

    def write_tables(self, rows: Mapping[Path, Row]) -> list[Path]:
        if self._is_one_file:
            return []
        by_folder: dict[Path, dict[Path, Row]] = defaultdict(dict)
        for file, row in rows.items():
            by_folder[self._targets[file].parent][file] = row
        written = []
        for folder, found in by_folder.items():
            columns = ({k: v for k, v in row.items() if k != SCORES} for row in found.values())
            written.append(write_rows(folder / DESCRIBED, columns))
            if self.format:
                written += self._write_labels(found, folder / self.format)
        return written + self._write_volumes(rows)

    def _write_volumes(self, rows: Mapping[Path, Row]) -> list[Path]:
        """Write the masks of volumes of which every slice was predicted as NIfTI volumes, too."""
        volumes = {found[0]: None for file in rows if (found := split_slice(file))}
        written = []
        for volume in volumes if self.task.output == "codes" else ():
            from ..data.medical import label_volume, slices_of

            files = slices_of(volume)
            if not rows.keys() >= {*files}:
                continue
            masks = [read_raw(self._targets[file]).astype(np.uint8) for file in files]
            ending = volume.name[len(stem_of(volume)) :]
            target = self._targets[files[0]].parent / f"{self._stem(volume)}{ending}"
            with atomic_file(target) as temporary:
                temporary.write_bytes(label_volume(volume, masks))
            written.append(target)
        return written

    def _write_labels(self, rows: Mapping[Path, Row], out: Path) -> list[Path]:
        """Write copies of the images with their predictions as labels to correct."""
        names = unique_names(list(rows), next(iter(rows)).parent)
        entries = [
            Entry(
                file,
                name,
                None,
                partial(_read_prediction, self._codes_path(self._targets[file]), row[SCORES]),
                further_files(self.task, file, name),
            )
            for (file, row), name in zip(rows.items(), names)
        ]
        task = f"{self.task.name}{CORRECTED}"
        with atomic_folder(out) as part:
            written = write_dataset(self.task, str(self.format), entries, part, task)
            return [out / file.relative_to(part) for file in written]

    def failed_path(self, file: Path) -> Path | None:
        return None if self._is_one_file else self._targets[file].parent / FAILED


class TableOutput(Output[ClassificationTask, "ClassPrediction"]):
    """One table of classes, and one of probabilities."""

    def __init__(
        self,
        task: ClassificationTask,
        overlay: bool = False,
        probabilities: bool = False,
        format: str | None = None,
    ):
        if format:
            raise TaskError(
                f"{task.name} {task.purpose}: it has no regions to correct, so it takes no "
                "--format; its table has the classes",
                "no-masks",
            )
        if overlay or probabilities:
            raise TaskError(
                f"{task.name} {task.purpose}: it takes no --overlay, "
                f"and its probabilities are always in {DESCRIBED}",
                "no-overlay",
            )
        super().__init__(task)

    def plan(self, files: Sequence[Path], out: Path | str | None) -> None:
        self._names = self.task.names_of(files)
        counts = Counter(self._names.values())
        twice = next((file for file, name in self._names.items() if counts[name] > 1), None)
        if twice is not None:
            raise DataError(
                f"{twice}: another image has the same name, and the table holds one row a name; "
                "predict their folders one by one",
                "same-target",
            )
        table = Path(self.task.table).name
        path = Path(out) if out else Path(f"{_folder_name(files[0])}_inf_{table}")
        if path.is_dir() or not path.suffix:
            path = path / table
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise DataError(
                f"{path}: {self.task.name} results are a table; "
                f"name it {path.stem}.tsv, or give a folder",
                "output-suffix",
            )
        if path.exists() and image_files(path.parent):
            raise DataError(
                f"{path}: is among images and may contain their labels; choose another --out",
                "output-in-data",
            )
        usual = Path(table).stem
        prefix = path.stem.removesuffix(usual) if path.stem.endswith(usual) else f"{path.stem}_"
        self._path, self._described = path, path.with_name(prefix + DESCRIBED)
        self._failed = path.with_name(prefix + FAILED)
        self._true_tables = list(dict.fromkeys(file.parent / self.task.table for file in files))

    def place(self, targets: Mapping[Path, Path]) -> None:
        return None  # all results are in tables

    def require_free(self, out: Path, inputs: set[Path], results: set[Path]) -> None:
        if out.is_dir() and image_files(out):
            raise DataError(
                f"{out}: holds images and may hold their labels; choose another --out",
                "output-in-data",
            )

    @property
    def places(self) -> list[Path]:
        return [self._path]

    def write_image_results(
        self, file: Path, prediction: ClassPrediction, threshold: float | None
    ) -> tuple[Row, list[Path]]:
        return [prediction.index, {"image": str(file), **prediction.described(threshold)}], []

    def write_tables(self, rows: Mapping[Path, Row]) -> list[Path]:
        if not rows:
            return []
        names = self._names
        labels = {names[file]: label for file, (label, _) in rows.items()}
        described = {names[file]: columns for file, (_, columns) in rows.items()}
        # Where the images' folder has a table, the order of its rows is kept.
        listed = [
            name
            for table in self._true_tables
            if table.is_file()
            for name in self.task.read_table(table, []) or {}
            if name in labels
        ]
        order = [*listed, *sorted(labels.keys() - set(listed))]
        return [
            self.task.write_table(self._path, {name: labels[name] for name in order}),
            write_rows(self._described, (described[name] for name in order)),
        ]

    def failed_path(self, file: Path) -> Path | None:
        return self._failed

    def is_own(self, path: Path) -> bool:
        table = Path(self.task.table).name
        is_table = path.name == table or path.name.endswith(f"_inf_{table}")
        return super().is_own(path) or (is_table and not path.is_dir())


OUTPUTS: dict[str, type[Output[Any, Any]]] = {
    SegmentationTask.kind: MaskOutput,
    ClassificationTask.kind: TableOutput,
}


def _nested(layout: Layout, task: SegmentationTask) -> list[str]:
    """Return the folders of a layout whose subfolders hold masks; the data folder is none."""
    places = [layout.labels] if layout.format else []
    if layout.deep or layout.list_file or layout.class_masks == "folders":
        places.append(layout.masks)
    if layout.class_masks == "folders":
        places += [str(Path(layout.masks) / name) for name in task.classes]
    return [place for place in places if place]


def _is_among(place: Path, folders: set[Path]) -> bool:
    """Return whether a folder is in one of `folders` and holds images or masks."""
    inside = any(folder.resolve() in place.parents for folder in folders)
    return inside and place.is_dir() and bool(image_files(place))


def mean_scores(probabilities: np.ndarray, codes: np.ndarray) -> dict[int, float]:
    """Return the mean probability of each class in `codes`, over the pixels that it wins.

    `probabilities` is float (C, h, w), at any size: a class that wins no pixel there gets its
    highest one.
    """
    best = probabilities.argmax(0)
    found = {}
    for code in np.unique(codes).tolist():
        won = probabilities[code][best == code]
        found[code] = round(float(won.mean() if won.size else probabilities[code].max()), 4)
    return found


def _read_prediction(
    path: Path, scores: Mapping[int | str, float]
) -> tuple[np.ndarray, dict[int, float]]:
    """Return codes and scores; the journal of an interrupted run has class indices as text."""
    return read_raw(path).astype(np.uint8), {int(code): value for code, value in scores.items()}


def _spacing_columns(file: Path) -> dict[str, float | str]:
    """Return the columns of predictions.csv with the distance of neighbouring pixels in mm."""
    from ..data.medical import spacing_of

    down, across = (is_medical(file) and spacing_of(file)) or ("", "")
    return {"mm_down": down, "mm_across": across}


def _is_image_file(out: Path | None) -> bool:
    return out is not None and out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir()


def _folder_name(file: Path) -> str:
    return real_file(file).resolve().parent.name or "images"

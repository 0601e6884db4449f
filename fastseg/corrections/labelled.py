"""The folder of `label`: predictions, the labels that people correct, and their errors."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images import read_raw
from ..errors import DataError
from ..inference.outputs import CODES, CORRECTED, DESCRIBED
from ..metrics.figures import confusion
from ..metrics.risk import actual_error
from ..tasks import ClassificationTask, SegmentationTask, Task, get
from ..tasks.converted import CLASS_TABLE, IMAGES, unique_names, write_classes
from ..utils.io import atomic_folder
from .log import Log, reviewed
from .store import Corrections

MASKS, CLASSES = "png", "classes"  # folders of the data to correct, below the one of `label`


@dataclass(frozen=True)
class Predicted:
    """One image of the folder, and what the export predicted for it."""

    file: Path
    name: str  # in the data folder to correct, without folders
    expected_error: float
    label: str  # the file with the label, below the folder of `label`; for a class, its name
    prediction: str  # the file with the predicted class indices, or the class


def data_of(task: Task, out: Path) -> Path:
    """Return the data folder with the predicted labels, which people correct."""
    return out / (MASKS if task.has_masks else CLASSES)


def predicted_in(task: Task, out: Path) -> list[Predicted]:
    """Return the predictions that `predict` wrote to `out`, in the order of predictions.csv.

    Raises `DataError` if the table is missing or damaged.
    """
    try:
        rows = list(_rows(out / DESCRIBED))
        files = [Path(row["image"]) for row in rows]
        names = unique_names(files, files[0].parent)
        errors = [float(row["expected_error"]) for row in rows]
        if isinstance(task, SegmentationTask):
            codes = "" if task.output == "codes" else f"{CODES}/"
            return [
                Predicted(
                    file,
                    name,
                    error,
                    f"{MASKS}/masks/{Path(name).stem}.png",
                    f"{codes}{Path(row['mask']).stem}.png",
                )
                for file, name, error, row in zip(files, names, errors, rows)
            ]
        return [
            Predicted(file, name, error, row["class"], row["class"])
            for file, name, error, row in zip(files, names, errors, rows)
        ]
    except (KeyError, ValueError, IndexError):
        raise DataError(
            f"{out / DESCRIBED}: is damaged; remove {out} and run the command again",
            "damaged-table",
        ) from None


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", "unreadable-table") from None


def write_start(task: Task, out: Path) -> None:
    """Write the data folder of a task without masks; `predict` wrote that of masks."""
    if not isinstance(task, ClassificationTask):
        return
    images = [(image.file, image.name, image.prediction) for image in predicted_in(task, out)]
    name = f"{task.name}{CORRECTED}"  # as `predict` calls that of masks
    with atomic_folder(data_of(task, out)) as folder:
        write_classes(task, images, folder, name)


def audited_images(data: Path) -> set[str]:
    """Return the names of the images in a data folder whose label a person has saved."""
    return {Path(name).name for name in reviewed(Log(data).rows())}


def errors_of(
    task: Task, out: Path, predicted: Sequence[Predicted], sample: Sequence[str]
) -> dict[str, float]:
    """Return the errors of the predictions of some images, by name: compared with the labels as
    people left them.

    Raises `DataError` for labels that cannot be used.
    """
    by_name = {image.name: image for image in predicted}
    data = data_of(task, out)
    corrected = Corrections(get(data), data)
    if isinstance(task, SegmentationTask):
        return {name: _mask_error(task, corrected, out, by_name[name]) for name in sample}
    return {name: _class_error(task, corrected, by_name[name]) for name in sample}


def _class_error(task: Task, corrected: Corrections, image: Predicted) -> float:
    truth = corrected.label(f"{IMAGES}/{image.name}")
    if not isinstance(truth, int):
        raise DataError(
            f"{corrected.root / CLASS_TABLE}: gives {image.name} no class of the task; classes are "
            f"{', '.join(task.classes)}",
            "unknown-class",
        )
    return float(task.classes[truth] != image.prediction)


def _mask_error(
    task: SegmentationTask, corrected: Corrections, out: Path, image: Predicted
) -> float:
    truth = corrected.label(f"{IMAGES}/{image.name}")
    said = np.asarray(read_raw(out / image.prediction))
    if not isinstance(truth, np.ndarray) or truth.shape != said.shape:
        raise DataError(
            f"{out / image.label}: is missing, or not of its image's size ({said.shape[1]}x"
            f"{said.shape[0]} px); restore it from {out / image.prediction}",
            "mask-size",
        )
    return actual_error(confusion(truth, said, len(task.classes)), task.background)

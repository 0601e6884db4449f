"""The folder of `label`: predictions, the labels that people correct, and their errors."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images import read_raw
from ..errors import DataError, brief
from ..inference.outputs import CODES, DESCRIBED
from ..metrics.figures import confusion
from ..metrics.risk import actual_error
from ..tasks import SegmentationTask, Task, get
from ..tasks.converted import unique_names
from ..utils.io import write_rows
from .log import Log, reviewed
from .store import Corrections

PNG, CLASSES = "png", "classes.csv"
COLUMNS = ("image", "class", "audited")


@dataclass(frozen=True)
class Predicted:
    """One image of the folder, and what the export predicted for it."""

    file: Path
    name: str  # in the data folder to correct, without folders
    expected_error: float
    label: str  # the file with the label, below the folder of `label`; for a class, its name
    prediction: str  # the file with the predicted class indices, or the class


def predicted_in(task: Task, folder: Path, out: Path) -> list[Predicted]:
    """Return the predictions that `predict` wrote to `out`, in the order of predictions.csv.

    Raises `DataError` if the table is missing or damaged.
    """
    try:
        rows = list(_rows(out / DESCRIBED))
        if isinstance(task, SegmentationTask):
            files = [Path(row["image"]) for row in rows]
            codes = "" if task.output == "codes" else f"{CODES}/"
            return [
                Predicted(
                    file,
                    name,
                    float(row["expected_error"]),
                    f"{PNG}/masks/{Path(name).stem}.png",
                    f"{codes}{Path(row['mask']).stem}.png",
                )
                for file, name, row in zip(files, unique_names(files, files[0].parent), rows)
            ]
        return [
            Predicted(
                folder / Path(row["image"]).name,
                Path(row["image"]).name,
                float(row["expected_error"]),
                row["class"],
                row["class"],
            )
            for row in rows
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
    """Write classes.csv, for tasks without masks: the table that people correct."""
    if isinstance(task, SegmentationTask):
        return
    rows = _rows(out / DESCRIBED)
    write_rows(
        out / CLASSES,
        ({"image": row["image"], "class": row["class"], "audited": ""} for row in rows),
    )


def audited_masks(data: Path) -> set[str]:
    """Return the names of the images in a data folder whose label a person has saved."""
    return {Path(name).name for name in reviewed(Log(data).rows())}


def audited_images(task: Task, out: Path) -> set[str]:
    """Return the names of the images that people have looked at, by corrections.csv of the data
    folder, or by the column "audited" of classes.csv.
    """
    if isinstance(task, SegmentationTask):
        return audited_masks(out / PNG)
    return {
        Path(row["image"]).name for row in _rows(out / CLASSES) if (row["audited"] or "").strip()
    }


def errors_of(
    task: Task, out: Path, predicted: Sequence[Predicted], sample: Sequence[str]
) -> dict[str, float]:
    """Return the errors of the predictions of some images, by name: compared with the labels as
    people left them.

    Raises `DataError` for labels that cannot be used.
    """
    by_name = {image.name: image for image in predicted}
    if isinstance(task, SegmentationTask):
        corrected = Corrections(get(out / PNG), out / PNG)
        return {name: _mask_error(task, corrected, out, by_name[name]) for name in sample}
    classes = {Path(row["image"]).name: row["class"] for row in _rows(out / CLASSES)}
    wrong = next((name for name in sample if classes.get(name) not in task.classes), None)
    if wrong is not None:
        raise DataError(
            f"{out / CLASSES}: gives {wrong} the class '{brief(classes.get(wrong, ''))}'; classes "
            f"are {', '.join(task.classes)}",
            "unknown-class",
        )
    return {name: float(classes[name] != by_name[name].prediction) for name in sample}


def _mask_error(
    task: SegmentationTask, corrected: Corrections, out: Path, image: Predicted
) -> float:
    truth = corrected.label(f"images/{image.name}")
    said = np.asarray(read_raw(out / image.prediction))
    if not isinstance(truth, np.ndarray) or truth.shape != said.shape:
        raise DataError(
            f"{out / image.label}: is missing, or not of its image's size ({said.shape[1]}x"
            f"{said.shape[0]} px); restore it from {out / image.prediction}",
            "mask-size",
        )
    return actual_error(confusion(truth, said, len(task.classes)), task.background)

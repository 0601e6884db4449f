"""Metrics of an export over a labelled dataset, at the images' own sizes, in one streamed pass."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from . import metrics
from .bundle import find, load
from .card import Card
from .errors import DataError, TaskError
from .files import name_below
from .prediction import Prediction, Predictor
from .progress import track
from .tasks import Item, Task, get

SPLITS = ("valid", "train", "test", "all")
Visit = Callable[[Item, Prediction, "np.ndarray | int"], None]


def evaluate(task: str | Task, data: Path | str | None = None, *, split: str = "valid",
             export: Path | str | None = None, device: str | None = None, bs: int = 8, tta: bool | None = None) -> dict:
    """Return the metrics of an export on one split of a labelled dataset, as `metrics.segmentation` or `.classification`.

    `data` defaults to the folder that the export was trained on (data/TASK unless it was told otherwise); "valid" is
    what training held out, by the card. `tta` averages each image with its mirror image (default: what the card says).
    Raises `FastsegError` kinds.
    """
    task = get(task)
    folder = find(task, export)
    predictor = load(folder, device, tta=tta)
    items, root = items_of(predictor.card, task, data, split)
    result = measure(predictor, items, bs)
    return {"task": task.name, "export": str(folder), "data": str(root), "split": split, "images": len(items),
            "weights": predictor.card.weights_origin, **result}


def items_of(card: Card, task: Task, data: Path | str | None, split: str) -> tuple[list[Item], Path]:
    """Return the labelled items of a split, and the data folder. Validation items are those the card names."""
    if split not in SPLITS:
        raise TaskError(f"unknown split '{split}' (valid: {', '.join(SPLITS)})")
    root = Path(data or card.data)
    if data is None and not root.is_dir():
        root = Path("data") / task.name
        if not root.is_dir():
            raise DataError(f"{card.data}: the data that this export was trained on are not there; name them with --data")
    items = task.items(root)
    held_out = set(card.valid_files)
    names = [name_below(root, item.image) for item in items]
    if split == "all":
        return items, root
    if split == "test":
        chosen = [item for item in items if item.split == "test"]
        remedy = f"this {task.name} data has no labelled test folder; choose another --split"
    elif split == "valid":
        chosen = [item for item, name in zip(items, names) if name in held_out]
        folds = card.training.get("folds")
        remedy = (f"this export joins {folds} learners, and every image trained some of them; its metrics.json holds the scores "
                  "of each image by the learner that never saw it; judge it on other data with --split all" if folds else
                  "none of the images that this export's training held out is here; use the data it was trained on, or --split all")
    else:
        chosen = [item for item, name in zip(items, names) if name not in held_out and item.split != "test"]
        remedy = "no training images are here"
    if not chosen:
        raise DataError(f"{root}: {remedy}")
    return chosen, root


class Tally:
    """What predictions and truths add up to: pixel counts for segmentation, each image's probabilities for classification."""

    def __init__(self, task: Task):
        self.task = task
        self.counts = np.zeros((len(task.classes), len(task.classes)), dtype=np.int64)
        self.truths: list[int] = []
        self.probabilities: list[np.ndarray] = []

    def add(self, item: Item, prediction: Prediction, truth: np.ndarray | int) -> None:
        """Count one image. Raises `DataError` if its mask is not of its size."""
        if self.task.kind == "classify":
            self.truths.append(int(truth))
            self.probabilities.append(prediction.probabilities)
            return
        if truth.shape != prediction.codes.shape:
            raise DataError(f"{item.label}: the mask is not of its image's size; export it at "
                            f"{prediction.codes.shape[1]}x{prediction.codes.shape[0]}")
        self.counts += metrics.confusion(truth, prediction.codes, len(self.task.classes))

    def metrics(self) -> dict:
        """Return the metrics of all that was added."""
        if self.task.kind == "segment":
            return metrics.segmentation(self.counts, self.task.classes, self.task.background)
        return metrics.classification(np.array(self.truths), np.array(self.probabilities), self.task.classes)


def measure(predictor: Predictor, items: Sequence[Item], bs: int = 8, visit: Visit | None = None, tally: Tally | None = None) -> dict:
    """Return the metrics of `predictor` on labelled `items`; `visit(item, prediction, truth)` sees each image in passing.

    A given `tally` goes on counting: the metrics are of all that it holds.
    """
    task = predictor.task
    tally = tally or Tally(task)
    for item, prediction in track(predictor.stream(items, bs), "evaluating", len(items)):
        if isinstance(prediction, DataError):
            raise prediction
        truth = task.label(item)
        tally.add(item, prediction, truth)
        if visit:
            visit(item, prediction, truth)
    return tally.metrics()

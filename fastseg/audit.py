"""The quick look before a training: every image and mask decoded whole and kept; the first fault ends it."""
from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import numpy as np

from .errors import DataError
from .faults import refuse
from .masks import IGNORE
from .progress import track
from .runs import ahead
from .tasks import Item, Task, get

log = logging.getLogger(__name__)

Split = Callable[[list[Item]], tuple[list[int], list[int]]]
Keep = Callable[[Item, "np.ndarray", "np.ndarray | int"], None]


@dataclass
class Facts:
    """What a check found: counts over all labelled images of one data folder."""

    images: int = 0
    splits: dict[str, int] = field(default_factory=dict)  # images to train and to validate, by the seed
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # (height, width) -> images
    classes: dict[str, int] = field(default_factory=dict)  # class -> pixels, or images for classification
    learnt: np.ndarray = field(default_factory=lambda: np.zeros(0))  # as `classes`, in the training part alone: int64 (classes,)
    unlabelled: int = 0  # pixels
    warnings: list[str] = field(default_factory=list)


def survey(task: str | Task, data: Path | str | None = None, split: Split | int = 42, keep: Keep | None = None) -> Facts:
    """Decode every image and label of a task's data and return the facts.

    `split` divides the items into training and validation: the seed of the task's own split, or a function of the items.
    `keep(item, image, label)` sees what was decoded, on several threads, so that a fit need not decode it again.
    Raises `DataError` for the first fault, naming file, value and remedy, and how many more files have faults.
    """
    task = get(task)
    data = Path(data or f"data/{task.name}")
    items = task.items(data)
    train, valid = task.split(items, split) if isinstance(split, int) else split(items)
    facts = Facts(len(items), {"train": len(train), "valid": len(valid)}, Counter(), Counter({c: 0 for c in task.classes}))
    faults, stray = [], []
    learnt = np.zeros(len(task.classes), dtype=np.int64)
    in_training = {items[i].image for i in train}
    for item, size, counts, fault in _examined(task, items, keep):
        if fault:
            faults.append(fault)
            continue
        facts.sizes[size] += 1
        for name, count in zip(task.classes, counts):
            facts.classes[name] += int(count)
        if item.image in in_training:
            learnt += counts[: len(task.classes)]
        facts.unlabelled += int(counts[IGNORE]) if len(counts) > IGNORE else 0
        if len(counts) > IGNORE and counts[IGNORE] and not getattr(task, "unlabelled", None):
            stray.append(item)
    refuse(faults)
    facts.learnt = learnt
    present = [name for name, count in zip(task.classes, learnt) if count]
    if len(present) < 2:
        raise DataError(f"{data}: every label to train on is of one class ({', '.join(present) or 'none'}); "
                        "there is nothing to tell apart: add labels of another class")
    for name in sorted(set(task.classes) - set(present)):
        facts.warnings.append(f"{data}: class {name} never occurs in the training part; it cannot be learnt")
    if stray:
        facts.warnings.append(f"{stray[0].label} and {len(stray) - 1} other masks hold a few stray pixels outside the "
                              "classes; they count as unlabelled")
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _examined(task: Task, items: list[Item], keep: Keep | None) -> Iterator[tuple[Item, tuple[int, int], np.ndarray, DataError | str | None]]:
    workers = min(8, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from track(ahead((pool.submit(_examine, task, item, keep) for item in items), 2 * workers), "checking the data", len(items))


def _examine(task: Task, item: Item, keep: Keep | None) -> tuple[Item, tuple[int, int], np.ndarray, DataError | str | None]:
    """Return an item with its size, its count of each code (256,) or of each class, and its fault if any."""
    try:
        image, label = task.image(item), task.label(item)
    except DataError as error:
        return item, (0, 0), np.zeros(0), error
    height, width = image.shape[:2]
    if keep and (task.kind == "classify" or label.shape == (height, width)):
        keep(item, image, label)
    if task.kind == "classify":
        return item, (height, width), np.eye(len(task.classes), dtype=int)[label], None
    if label.shape != (height, width):
        return item, (height, width), np.zeros(0), (
            f"{item.label}: is {label.shape[1]}x{label.shape[0]} px, but its image {item.image.name} is "
            f"{width}x{height}; export the mask at the image's size")
    return item, (height, width), np.bincount(label.reshape(-1), minlength=256), None

"""The check before training: every image and mask is decoded once; a fault stops the fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import numpy as np

from ..data.issues import Fault, refuse
from ..data.pairing import pairing_note
from ..errors import DataError
from ..tasks import Item, SegmentationTask, Task, get
from ..types import IGNORE
from ..utils.progress import track
from ..utils.threads import results_in_order

log = logging.getLogger(__name__)

MAX_WORKERS = 8  # decoding threads: each holds one full-size image in memory

Split = Callable[[list[Item]], tuple[list[int], list[int]]]
Keep = Callable[[Item, "np.ndarray", "np.ndarray | int"], None]


@dataclass
class Facts:
    """What a check found: counts over all labelled images of one data folder."""

    images: int = 0
    splits: dict[str, int] = field(default_factory=dict)  # "train" and "valid" -> images
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # (height, width) -> images
    classes: dict[str, int] = field(default_factory=dict)  # class -> pixels, or images
    # like `classes`, of the training part alone: int64 (classes,)
    learnt: np.ndarray = field(default_factory=lambda: np.zeros(0))
    unlabelled: int = 0  # pixels
    warnings: list[str] = field(default_factory=list)


def survey(
    task: str | Task,
    data: Path | str | None = None,
    split: Split | int = 42,
    keep: Keep | None = None,
) -> Facts:
    """Decode every image and label of a task's data and return the facts.

    `split` divides the items into training and validation: the seed of the task's own split, or a
    function of the items. `keep(item, image, label)` is called on several threads with what was
    decoded, so that a fit does not decode it again. Raises `DataError` for the first fault, naming
    file, value and remedy, and how many more files have faults.
    """
    task = get(task)
    data = Path(data or task.default_data)
    items = task.items(data)
    train, valid = task.split(items, split) if isinstance(split, int) else split(items)
    facts = Facts(
        images=len(items),
        splits={"train": len(train), "valid": len(valid)},
        sizes=Counter(),
        classes=Counter({name: 0 for name in task.classes}),
        learnt=np.zeros(len(task.classes), dtype=np.int64),
    )
    in_training = {items[i].image for i in train}
    faults: list[Fault | DataError] = []
    values: list[tuple[str, set[int]]] = []
    stray, binary = [], []
    for found in _examine_all(task, items, keep):
        if found.fault:
            faults.append(found.fault)
            continue
        facts.sizes[found.size] += 1
        for name, count in zip(task.classes, found.counts):
            facts.classes[name] += int(count)
        if found.item.image in in_training:
            facts.learnt += found.counts[: len(task.classes)]
        facts.unlabelled += int(found.counts[IGNORE]) if len(found.counts) > IGNORE else 0
        values.append((found.item.source, found.values))
        stray += [found.item] if found.is_stray else []
        binary += [found.item] if found.values == {0, IGNORE} else []
    command = task.check_command(data)
    refuse(faults, command)
    refuse(list(task.binary_faults(data, values).values()), command)
    facts.warnings += _missing_classes(task, data, facts.learnt)
    facts.warnings += _mask_warnings(task, stray, binary)
    note = pairing_note(items)
    if note:
        log.info(note)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _missing_classes(task: Task, data: Path, learnt: np.ndarray) -> list[str]:
    """Return a warning that names the classes without pixels, or images, in the training part.

    `learnt` are the counts of the classes there, int64 (C,). Raises `DataError` if fewer than two
    classes occur.
    """
    present = [name for name, count in zip(task.classes, learnt) if count]
    if len(present) < 2:
        raise DataError(
            f"{data}: every label to train on is of one class ({', '.join(present) or 'none'}); "
            "there is nothing to tell apart: add labels of another class",
            "one-class",
        )
    missing = sorted(set(task.classes) - set(present))
    if not missing:
        return []
    some = (
        f"class {missing[0]} never occurs in the training part; it"
        if len(missing) == 1
        else f"{len(missing)} classes never occur in the training part ({', '.join(missing)}); they"
    )
    return [f"{data}: {some} cannot be learnt"]


def _mask_warnings(task: Task, stray: list[Item], binary: list[Item]) -> Iterator[str]:
    """Yield warnings about masks with stray pixels, and about masks with only 0 and 255."""
    if stray:
        yield (
            f"masks with a few stray pixels outside the classes: {len(stray)}, such as "
            f"{stray[0].shown_label}; these pixels count as unlabelled"
        )
    if isinstance(task, SegmentationTask) and any(
        task.meaning(item.source).get(IGNORE) == IGNORE for item in binary
    ):
        yield (
            f"masks with 0 and 255 only: {len(binary)}, such as {binary[0].shown_label}; 255 "
            "counts as unlabelled, since other masks hold other codes: "
            "if it means a class there, remap it"
        )


@dataclass
class _Examined:
    """The result of examining one item."""

    item: Item
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of 256 codes, or of classes
    values: set[int] = field(default_factory=set)  # the codes that the mask file holds
    is_stray: bool = False
    fault: Fault | DataError | None = None


def _examine_all(task: Task, items: list[Item], keep: Keep | None) -> Iterator[_Examined]:
    """Yield the result for each item, in order; threads decode the items."""
    workers = min(MAX_WORKERS, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from track(
            results_in_order(
                (pool.submit(_examine, task, item, keep) for item in items), 2 * workers
            ),
            "checking the data",
            len(items),
        )


def _examine(task: Task, item: Item, keep: Keep | None) -> _Examined:
    """Decode an item, pass it to `keep`, and return its counts or its fault."""
    try:
        image = task.image(item)
        decoded = task.examine_label(item)
    except DataError as error:
        return _Examined(item, fault=error)
    height, width = image.shape[:2]
    if decoded is None:
        label = task.label(item)
        if keep:
            keep(item, image, label)
        return _Examined(item, (height, width), np.eye(len(task.classes), dtype=int)[label])
    faults = decoded.stopping
    if decoded.codes.shape != (height, width):
        faults.append(
            Fault(
                "size mismatch",
                item.shown_label,
                f"is {decoded.codes.shape[1]}x{decoded.codes.shape[0]} px, but its image "
                f"{item.image.name} is {width}x{height}",
                "export the mask at the image's size",
            )
        )
    if faults:
        return _Examined(item, (height, width), fault=faults[0])
    if keep:
        keep(item, image, decoded.codes)
    return _Examined(
        item,
        (height, width),
        np.bincount(decoded.codes.reshape(-1), minlength=256),
        set(decoded.values),
        decoded.unknown is not None
        and any(fault.kind == "stray codes" for fault in decoded.faults),
    )

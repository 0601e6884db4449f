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

from ..data.issues import Fault, refuse
from ..data.pairing import pairing_note
from ..errors import DataError
from ..tasks import Item, Task, get
from ..types import IGNORE
from ..utils.progress import track
from ..utils.threads import results_in_order

log = logging.getLogger(__name__)

Split = Callable[[list[Item]], tuple[list[int], list[int]]]
Keep = Callable[[Item, "np.ndarray", "np.ndarray | int"], None]


@dataclass
class Facts:
    """What a check found: counts over all labelled images of one data folder."""

    images: int = 0
    splits: dict[str, int] = field(
        default_factory=dict
    )  # images to train and to validate, by the seed
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # (height, width) -> images
    classes: dict[str, int] = field(
        default_factory=dict
    )  # class -> pixels, or images for classification
    learnt: np.ndarray = field(
        default_factory=lambda: np.zeros(0)
    )  # as `classes`, in the training part alone: int64 (classes,)
    unlabelled: int = 0  # pixels
    warnings: list[str] = field(default_factory=list)


def survey(
    task: str | Task,
    data: Path | str | None = None,
    split: Split | int = 42,
    keep: Keep | None = None,
) -> Facts:
    """Decode every image and label of a task's data and return the facts.

    `split` divides the items into training and validation: the seed of the task's own split, or a function of the items.
    `keep(item, image, label)` sees what was decoded, on several threads, so that a fit need not decode it again.
    Raises `DataError` for the first fault, naming file, value and remedy, and how many more files have faults.
    """
    task = get(task)
    data = Path(data or f"data/{task.name}")
    items = task.items(data)
    train, valid = task.split(items, split) if isinstance(split, int) else split(items)
    facts = Facts(
        len(items),
        {"train": len(train), "valid": len(valid)},
        Counter(),
        Counter({c: 0 for c in task.classes}),
    )
    learnt = np.zeros(len(task.classes), dtype=np.int64)
    in_training = {items[i].image for i in train}
    faults: list[Fault | DataError] = []
    values: list[tuple[str, set[int]]] = []
    stray, binary = [], []
    for look in _examined(task, items, keep):
        if look.fault:
            faults.append(look.fault)
            continue
        facts.sizes[look.size] += 1
        for name, count in zip(task.classes, look.counts):
            facts.classes[name] += int(count)
        if look.item.image in in_training:
            learnt += look.counts[: len(task.classes)]
        facts.unlabelled += int(look.counts[IGNORE]) if len(look.counts) > IGNORE else 0
        values.append((look.item.source, look.values))
        stray += [look.item] if look.is_stray else []
        binary += [look.item] if look.values == {0, IGNORE} else []
    refuse(faults)
    refuse(list(task.binary_faults(data, values).values()))
    facts.learnt = learnt
    present = [name for name, count in zip(task.classes, learnt) if count]
    if len(present) < 2:
        raise DataError(
            f"{data}: every label to train on is of one class ({', '.join(present) or 'none'}); "
            "there is nothing to tell apart: add labels of another class",
            "one-class",
        )
    for name in sorted(set(task.classes) - set(present)):
        facts.warnings.append(
            f"{data}: class {name} never occurs in the training part; it cannot be learnt"
        )
    if stray:
        facts.warnings.append(
            f"masks with a few stray pixels outside the classes: {len(stray)}, such as {stray[0].label}; "
            "these pixels count as unlabelled"
        )
    if any(task.meaning(item.source).get(IGNORE) == IGNORE for item in binary):
        facts.warnings.append(
            f"masks with 0 and 255 only: {len(binary)}, such as {binary[0].label}; 255 counts as unlabelled, "
            "since other masks hold other codes: if it means a class there, remap it"
        )
    note = pairing_note(items)
    if note:
        log.info(note)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


@dataclass
class _Look:
    """What one look at an item found."""

    item: Item
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(
        default_factory=lambda: np.zeros(0)
    )  # of each code (256,), or of each class
    values: set[int] = field(default_factory=set)  # the codes that the mask file holds
    is_stray: bool = False
    fault: Fault | DataError | None = None


def _examined(task: Task, items: list[Item], keep: Keep | None) -> Iterator[_Look]:
    workers = min(8, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from track(
            results_in_order(
                (pool.submit(_examine, task, item, keep) for item in items), 2 * workers
            ),
            "checking the data",
            len(items),
        )


def _examine(task: Task, item: Item, keep: Keep | None) -> _Look:
    try:
        image = task.image(item)
        decoded = task.examine_label(item)
    except DataError as error:
        return _Look(item, fault=error)
    height, width = image.shape[:2]
    if decoded is None:
        label = task.label(item)
        if keep:
            keep(item, image, label)
        return _Look(item, (height, width), np.eye(len(task.classes), dtype=int)[label])
    faults = decoded.stopping
    if decoded.codes.shape != (height, width):
        faults.append(
            Fault(
                "size mismatch",
                str(item.label),
                f"is {decoded.codes.shape[1]}x{decoded.codes.shape[0]} px, but its image "
                f"{item.image.name} is {width}x{height}",
                "export the mask at the image's size",
            )
        )
    if faults:
        return _Look(item, (height, width), fault=faults[0])
    if keep:
        keep(item, image, decoded.codes)
    return _Look(
        item,
        (height, width),
        np.bincount(decoded.codes.reshape(-1), minlength=256),
        set(decoded.values),
        decoded.unknown is not None
        and any(fault.kind == "stray codes" for fault in decoded.faults),
    )

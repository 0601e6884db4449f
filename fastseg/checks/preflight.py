"""The check before training: every image and mask is decoded once; a fault stops the fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import numpy as np

from ..data.issues import Fault, refuse
from ..data.pairing import pairing_note
from ..data.split import splitter
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


@dataclass
class Tally:
    """What one process found in its part of the images: of a fixed size, however many they are.

    Places are indices of items. Pickles, to be sent to the other processes.
    """

    counts: np.ndarray  # of the classes: int64 (classes,)
    learnt: np.ndarray  # the same of the training part
    unlabelled: int = 0  # pixels
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    # (source, codes in the mask file) -> masks
    values: Counter[tuple[str, frozenset[int]]] = field(default_factory=Counter)
    stray: int = 0  # masks with a few stray pixels
    first_stray: int | None = None
    first_binary: dict[str, int] = field(default_factory=dict)  # source -> mask of 0 and 255 alone
    faults: int = 0
    first_fault: tuple[int, Fault | DataError] | None = None

    def add(self, place: int, found: _Examined, in_training: bool) -> None:
        """Count what was found in one item."""
        if found.fault:
            self.faults += 1
            self.first_fault = self.first_fault or (place, found.fault)
            return
        counts = found.counts[: len(self.counts)]
        self.counts += counts
        self.learnt += counts if in_training else 0
        self.unlabelled += int(found.counts[IGNORE]) if len(found.counts) > IGNORE else 0
        self.sizes[found.size] += 1
        self.values[found.item.source, frozenset(found.values)] += 1
        if found.is_stray:
            self.stray += 1
            self.first_stray = place if self.first_stray is None else self.first_stray
        if found.values == {0, IGNORE}:
            self.first_binary.setdefault(found.item.source, place)

    def merge(self, other: Tally) -> None:
        """Add what another process found in its part."""
        self.counts, self.learnt = self.counts + other.counts, self.learnt + other.learnt
        self.unlabelled += other.unlabelled
        self.sizes += other.sizes
        self.values += other.values
        self.stray, self.faults = self.stray + other.stray, self.faults + other.faults
        self.first_stray = _lower(self.first_stray, other.first_stray)
        for source, place in other.first_binary.items():
            self.first_binary[source] = min(place, self.first_binary.get(source, place))
        found = [one for one in (self.first_fault, other.first_fault) if one]
        self.first_fault = min(found, key=lambda one: one[0], default=None)


def _lower(one: int | None, other: int | None) -> int | None:
    places = [place for place in (one, other) if place is not None]
    return min(places, default=None)


def survey(
    task: str | Task,
    data: Path | str | None = None,
    split: Split | int = 42,
    keep: Keep | None = None,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[Tally], Sequence[Tally]] | None = None,
) -> Facts:
    """Decode every image and label of a task's data and return the facts.

    `split` divides the items into training and validation: the seed of the task's own split, or a
    function of the items. `keep(item, image, label)` is called on several threads with what was
    decoded, so that a fit does not decode it again.

    Of several processes, process r of n decodes each n-th image with `share` = (r, n); `gather`
    sends its tally to all, and returns those of all in the order of the processes, such as
    `torch.distributed.all_gather_object`. Every process then returns the same facts, or raises the
    same error. Raises `DataError` for the first fault, naming file, value and remedy, and how many
    more files have faults.
    """
    task = get(task)
    data = Path(data or task.default_data)
    items = task.items(data)
    divide = splitter(task, split, data=data) if isinstance(split, int) else split
    train, valid = divide(items)
    tally = _tally(task, items, train, keep, share)
    if gather is not None:
        first, *others = gather(tally)
        tally = first
        for other in others:
            tally.merge(other)
    command = task.check_command(data)
    if tally.first_fault:
        refuse([tally.first_fault[1]], command, tally.faults)
    masks = (values for values, count in tally.values.items() for _ in range(count))
    refuse(list(task.binary_faults(data, masks).values()), command)
    facts = Facts(
        images=len(items),
        splits={"train": len(train), "valid": len(valid)},
        sizes=tally.sizes,
        classes=dict(zip(task.classes, map(int, tally.counts))),
        learnt=tally.learnt,
        unlabelled=tally.unlabelled,
    )
    facts.warnings += _missing_classes(task, data, facts.learnt)
    facts.warnings += _mask_warnings(task, items, tally)
    note = pairing_note(items)
    if note:
        log.info(note)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _tally(
    task: Task, items: list[Item], train: Sequence[int], keep: Keep | None, share: tuple[int, int]
) -> Tally:
    """Return what is found in the items of one share."""
    zeros = np.zeros(len(task.classes), dtype=np.int64)
    tally = Tally(zeros, zeros.copy())
    in_training = np.zeros(len(items), dtype=bool)
    in_training[np.asarray(train, dtype=np.int64)] = True
    places = range(share[0], len(items), share[1])
    found = _examine_all(task, (items[place] for place in places), len(places), keep)
    for place, examined in zip(places, found):
        tally.add(place, examined, bool(in_training[place]))
    return tally


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


def _mask_warnings(task: Task, items: Sequence[Item], tally: Tally) -> Iterator[str]:
    """Yield warnings about masks with stray pixels, and about masks with only 0 and 255."""
    if tally.first_stray is not None:
        yield (
            f"masks with a few stray pixels outside the classes: {tally.stray}, such as "
            f"{items[tally.first_stray].shown_label}; these pixels count as unlabelled"
        )
    if isinstance(task, SegmentationTask) and any(
        task.meaning(source).get(IGNORE) == IGNORE for source in tally.first_binary
    ):
        binary = sum(count for (_, values), count in tally.values.items() if values == {0, IGNORE})
        yield (
            f"masks with 0 and 255 only: {binary}, such as "
            f"{items[min(tally.first_binary.values())].shown_label}; 255 "
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


def _examine_all(
    task: Task, items: Iterable[Item], count: int, keep: Keep | None
) -> Iterator[_Examined]:
    """Yield the result for each item, in order; threads decode the items."""
    workers = min(MAX_WORKERS, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from track(
            results_in_order(
                (pool.submit(_examine, task, item, keep) for item in items), 2 * workers
            ),
            "checking the data",
            count,
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

"""The check of a dataset: decodes every file and reports each fault with its remedy."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data.decoding import is_lossy
from ..data.depth import depth_of, largest_values, misfit
from ..data.issues import KINDS, Fault
from ..data.looks import MAX_HASH_DISTANCE, bits_of, distances
from ..data.pairing import IMAGE_SUFFIXES, pairing_note
from ..data.slices import real_file
from ..data.split import DEFAULT_SEED, splitter
from ..engines.base import Engine, in_order
from ..engines.choice import engine_of
from ..errors import DataError
from ..metrics.agreement import agreement
from ..tasks import Item, Task, get
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.threads import cores, results_in_order
from .image import Finding, examine

log = logging.getLogger(__name__)

CHUNK = 64  # images that a worker examines at a time
# Conventions; scripts/planting.py measures how many faults they find and how often they are wrong
# (the figures are in checks/image.py).
# Hashes are cut into bands and compared only if one band is equal. Hashes that differ in fewer bits
# than there are bands always have an equal band, so no duplicate is missed.
HASH_BANDS = 16
# A mask is misaligned if its score (`image.misalignment`) is at least MIN_OFFSET, and above the
# dataset's median by OFFSET_SPREAD times (upper quartile - median): some data fit edges badly.
MIN_OFFSET, OFFSET_SPREAD = 1.75, 4.0
# A class is rare if at most RARE_IMAGES images, or this share of the images, contain it. With two
# images or fewer, no class is called rare.
RARE_IMAGES, RARE_SHARE = 1, 0.01
# A size is unusual if its area or aspect ratio differs from the median by this factor. If more
# than `MAX_UNUSUAL_SHARE` of the images are, it is normal for this dataset; fewer than
# `MIN_IMAGES_FOR_SIZES` images have no usual size.
AREA_RATIO, SHAPE_RATIO = 4.0, 1.5
MAX_UNUSUAL_SHARE, MIN_IMAGES_FOR_SIZES = 0.1, 10


# places of an item and of the one that it is a copy of, and how
Duplicate = tuple[int, int, str]


@dataclass
class Audit:
    """What `check` found. `faults` are those that stop a fit first, then by kind and file."""

    task: str
    data: str
    images: int
    faults: list[Fault]
    classes: dict[str, int]  # pixels, or images, of each class, in the labels that a fit would take
    unlabelled: int  # pixels, in the same labels
    counted: int  # labels that a fit would take
    sizes: dict[str, int]  # "width x height" -> images, commonest first
    # bit depth by which a fit scales images of more than 8 bits; None: no such images
    depth: int | None = None
    deep: int = 0  # how many images have more than 8 bits
    findings: list[Finding] = field(repr=False, default_factory=list)
    items: list[Item] = field(repr=False, default_factory=list)
    # of pictures that are labelled twice, see `metrics.agreement`
    agreement: dict[str, Any] | None = None
    # the task itself: one of a folder is not found by its name
    checked: Task | None = field(repr=False, default=None)

    @property
    def kinds(self) -> dict[str, int]:
        """How many files have a fault of each kind."""
        counts: Counter[str] = Counter()
        for fault in self.faults:
            counts[fault.kind] += fault.count
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    @property
    def stops(self) -> bool:
        """Whether a fit would refuse the data."""
        return any(fault.stops for fault in self.faults)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "task": self.task,
            "data": self.data,
            "images": self.images,
            "kinds": self.kinds,
            "stops": self.stops,
            "classes": self.classes,
            "unlabelled": self.unlabelled,
            "counted": self.counted,
            "sizes": self.sizes,
            "depth": self.depth,
            "agreement": self.agreement,
            "faults": [
                {
                    "kind": f.kind,
                    "stops": f.stops,
                    "file": f.file,
                    "place": f.place,
                    "detail": f.detail,
                    "remedy": f.remedy,
                    "count": f.count,
                }
                for f in self.faults
            ],
        }


def check(
    task: str | Task,
    data: Path | str | None = None,
    *,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    keep: bool = False,
) -> Audit:
    """Examine every image and label below `data` (default: data/TASK) and return all faults.

    `engine`, `workers` and `address` say who examines them, see `engines.choice.engine_of`.
    An interrupted check continues where it stopped, unless files or the task changed. With `keep`,
    findings are kept in the user's cache, and the next check with `keep` examines only the files
    that have changed.
    Memory grows by about a kilobyte per image. Raises `DataError` only if there are no data of the
    task.
    """
    task = given = get(task)
    root = Path(data or task.default_data)
    items, faults = task.listed(root)
    if not items and not faults:
        task.items(root)  # says what was expected
    largest = largest_values((item.image for item in items), task.reading)
    task = replace(task, depth=task.depth or depth_of(largest))
    with (
        write_lock(root.resolve() / ".check"),
        Journal(
            "check", __version__, task.definition(), str(root.resolve()), keep, keep=keep
        ) as journal,
        engine_of(engine, workers, address) as who,
    ):
        who.require_sight(root)
        findings = list(_examine_all(task, items, journal, who))
    _warn_of_hidden_images(root, items)
    note = pairing_note(items)
    if note:
        log.info(note)
    faults += _binary_faults(task, root, items, findings)
    _refuse_all_jpegs(findings)
    faults += [fault for finding in findings for fault in finding.faults]
    pairs = list(_duplicates(items, findings))
    faults += [
        *_depth_faults(largest, task.depth),
        *_duplicate_faults(items, pairs),
        *_misaligned_masks(findings),
        *_unusual_sizes(findings),
        *_class_balance_faults(task, root, findings),
        *_groups_on_both_sides(task, items),
    ]
    faults += _split_faults(task, root, items, findings, faults)
    order = list(KINDS)
    faults.sort(key=lambda fault: (order.index(fault.kind), fault.file, fault.place))
    counted = [np.asarray(f.counts) for f in findings if len(f.counts)]
    counts = np.sum(counted or [np.zeros(len(task.classes))], axis=0)
    sizes = Counter(f"{f.size[1]} x {f.size[0]}" for f in findings if f.size[0])
    return Audit(
        task.name,
        str(root),
        len(items),
        faults,
        {name: int(n) for name, n in zip(task.classes, counts)},
        sum(f.unlabelled for f in findings),
        len(counted),
        dict(sizes.most_common()),
        task.depth if largest else None,
        len(largest),
        findings,
        items,
        agreement(task, items, _pictures(pairs)),
        given,
    )


def _warn_of_hidden_images(root: Path, items: Sequence[Item]) -> None:
    hidden = sum(
        file.name.startswith(".") and file.suffix.lower() in IMAGE_SUFFIXES
        for folder in {real_file(item.image).parent for item in items}
        for file in folder.iterdir()
    )
    if hidden:
        log.warning(
            "%s: %d image files whose names begin with a dot are not looked at, here or by fit; "
            "rename them if they belong",
            root,
            hidden,
        )


def _depth_faults(largest: Mapping[Path, int], depth: int | None) -> Iterator[Fault]:
    """Yield a fault for each image of more than 8 bits that does not fit the range of `depth`."""
    for file, value in largest.items():
        why = misfit(value, depth) if depth is not None else ""
        if why:
            remedy = "save it in the range of the others, or as 8 bits, if it is not meant"
            yield Fault("bit depth", str(file), why, remedy)


def _binary_faults(
    task: Task, root: Path, items: Sequence[Item], findings: Sequence[Finding]
) -> list[Fault]:
    """Return a fault for each source whose masks are all 0/255 masks.

    The pixel counts of such masks are cleared.
    """
    found = task.binary_faults(
        root, ((item.source, finding.values) for item, finding in zip(items, findings))
    )
    for item, finding in zip(items, findings):
        if item.source in found:
            finding.counts, finding.unlabelled = (), 0
            finding.faults = [fault for fault in finding.faults if fault.kind != "empty mask"]
    return list(found.values())


def _refuse_all_jpegs(findings: Sequence[Finding]) -> None:
    """Add a fault to every JPEG mask if JPEG compression changed the codes of at least one.

    In the other masks it may have changed codes into other valid codes, which cannot be detected.
    """
    jpegs = [finding for finding in findings if finding.values and is_lossy(str(finding.label))]
    changed = [f for f in jpegs if any(fault.kind == "lossy mask" for fault in f.faults)]
    for finding in jpegs if changed else []:
        if not any(fault.stops for fault in finding.faults):
            finding.faults.append(
                Fault(
                    "lossy mask",
                    str(finding.label),
                    "is a JPEG, whose compression changes codes, as it did in "
                    f"{Path(str(changed[0].label)).name}",
                    "export masks of codes as PNG",
                )
            )
            finding.counts, finding.unlabelled = (), 0


def _examine_all(
    task: Task, items: Sequence[Item], journal: Journal, engine: Engine
) -> Iterator[Finding]:
    """Yield the finding of each item, in order; findings in the journal are reused."""

    def work(left: list[int]) -> Iterator[dict[str, Any]]:
        if engine.is_here:
            return _examine_on_threads(task, (items[i] for i in left))
        starts = range(0, len(left), CHUNK)
        chunks = ([items[i] for i in left[start : start + CHUNK]] for start in starts)
        return chain.from_iterable(in_order(engine, Examination(task), chunks))

    keys = [stamp(*item.files) for item in items]
    yield from map(Finding.from_json, track(resumed(journal, keys, work), "checking", len(keys)))


@dataclass(frozen=True)
class Examination:
    """What workers do for `check`: examine some items. See `engines.base.Work`."""

    task: Task

    def start(self) -> Callable[[Sequence[Item]], list[dict[str, Any]]]:
        """Return the function that examines items, on threads."""
        return self._examine

    def _examine(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        return list(_examine_on_threads(self.task, items))


def _examine_on_threads(task: Task, items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """Yield the findings of items as JSON values, in order."""
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        jobs = (pool.submit(_examine_as_json, task, item) for item in items)
        yield from results_in_order(jobs, 2 * workers)


def _examine_as_json(task: Task, item: Item) -> dict[str, Any]:
    return examine(task, item).to_json()


def _duplicate_faults(items: Sequence[Item], pairs: Iterable[Duplicate]) -> Iterator[Fault]:
    for one, other, how in pairs:
        yield _duplicate(items[one], items[other], how)


def _pictures(pairs: Iterable[Duplicate]) -> list[list[int]]:
    """Return the places of the items of each picture that is there more than once."""
    first: dict[int, int] = {}
    for one, other, _ in pairs:
        first[one] = first.setdefault(other, other)
    pictures: dict[int, list[int]] = defaultdict(list)
    for place, lead in sorted(first.items()):
        pictures[lead].append(place)
    return list(pictures.values())


def _duplicates(items: Sequence[Item], findings: Sequence[Finding]) -> Iterator[Duplicate]:
    """Yield duplicate pictures: the same bytes, or nearly the same perceptual hash.

    Hashes are compared only between images of different groups or splits.
    """
    first: dict[str, int] = {}
    same = np.full(len(items), -1)
    for i, finding in enumerate(findings):
        if finding.digest:
            same[i] = first.setdefault(finding.digest, i)
    for i, original in enumerate(same):
        if original not in (-1, i):
            yield i, int(original), "is the same file as"
    unique = [i for i in range(len(items)) if same[i] == i and findings[i].hash]
    if not unique:
        return
    bits = bits_of([findings[i].hash for i in unique])
    bands = bits.reshape(len(unique), HASH_BANDS, -1)
    reported: set[int] = set()
    for band in range(HASH_BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, key in enumerate(bands[:, band]):
            near = buckets[key.tobytes()]
            if row not in reported and near:
                others = np.array(near)
                distance = distances(bits[others], bits[row])
                for other in others[distance <= MAX_HASH_DISTANCE]:
                    one, two = items[unique[row]], items[unique[other]]
                    # a sharp and a blurred picture have the same hash, but different classes
                    other_class = isinstance(one.label, int) and one.label != two.label
                    if (one.group != two.group or one.split != two.split) and not other_class:
                        reported.add(row)
                        yield unique[row], unique[int(other)], "looks the same as"
                        break
            near.append(row)


def _duplicate(item: Item, other: Item, how: str) -> Fault:
    crosses = item.split != other.split
    return Fault(
        "duplicate across the split" if crosses else "duplicate",
        str(item.image),
        f"{how} {other.image}",
        f"keep one of them: one trains, the other judges ({item.split} and {other.split})"
        if crosses
        else "keep one of them; or both, if two people labelled them: a fit learns from both",
    )


def _misaligned_masks(findings: Sequence[Finding]) -> Iterator[Fault]:
    """Yield masks whose outlines fit the image's edges much better at another position."""
    offsets = np.array([finding.offset for finding in findings])
    if not len(offsets):
        return
    middle, upper = np.percentile(offsets, [50, 75])
    limit = max(MIN_OFFSET, middle + OFFSET_SPREAD * (upper - middle))
    for finding in findings:
        if finding.offset > limit:
            x, y = finding.shift
            yield Fault(
                "misaligned mask",
                str(finding.label),
                f"its outlines fit the image's edges better {abs(x)} px to the "
                f"{'right' if x >= 0 else 'left'} and {abs(y)} px {'down' if y >= 0 else 'up'} "
                f"(score {finding.offset:.1f}, limit {limit:.1f})",
                "look at both: the mask may be another image's, or moved",
            )


def _unusual_sizes(findings: Sequence[Finding]) -> Iterator[Fault]:
    """Yield images whose size or shape differs from that of most images."""
    known = [
        finding
        for finding in findings
        if finding.size[0] and not any(fault.stops for fault in finding.faults)
    ]
    if len(known) < MIN_IMAGES_FOR_SIZES:
        return
    sizes = np.array([finding.size for finding in known], dtype=float)
    area, shape = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
    area, shape = area / np.median(area), shape / np.median(shape)
    away = (np.maximum(area, 1 / area) > AREA_RATIO) | (np.maximum(shape, 1 / shape) > SHAPE_RATIO)
    if away.mean() > MAX_UNUSUAL_SHARE:
        return
    ((commonest, count),) = Counter(finding.size for finding in known).most_common(1)
    height, width = (
        commonest if count > len(known) / 2 else np.median(sizes, axis=0).round().astype(int)
    )
    usual = (
        f"most are {width}x{height}"
        if count > len(known) / 2
        else f"the median is {width}x{height}"
    )
    for finding in (known[i] for i in np.flatnonzero(away)):
        yield Fault(
            "outlier size",
            finding.image,
            f"is {finding.size[1]}x{finding.size[0]} px, {usual}",
            "look whether it belongs here",
        )


def _class_balance_faults(task: Task, root: Path, findings: Sequence[Finding]) -> Iterator[Fault]:
    """Yield classes that few or no images contain, and the largest imbalance of two classes."""
    known = np.array([finding.counts for finding in findings if len(finding.counts)])
    if not len(known):
        return
    classes = [i for i in range(len(task.classes)) if i != task.background]
    has = (known > 0).sum(axis=0)
    for i in classes:
        if len(known) > 2 and has[i] <= max(RARE_IMAGES, RARE_SHARE * len(known)):
            yield Fault(
                "rare class",
                str(root),
                f"{'no image has' if not has[i] else f'only {has[i]} of {len(known)} images have'} "
                f"{task.classes[i]}",
                "label more of it; otherwise the model cannot learn it",
                f"class {task.classes[i]}",
            )
    there = [i for i in classes if has[i]]
    counts = known.sum(axis=0)
    if len(there) > 1:
        most, least = max(there, key=lambda i: counts[i]), min(there, key=lambda i: counts[i])
        if counts[most] > task.imbalance_limit * counts[least]:
            yield Fault(
                "imbalance",
                str(root),
                f"there is {counts[most] / counts[least]:.0f} times as much "
                f"{task.classes[most]} as {task.classes[least]}",
                "label more of the rarer one: class weights cannot replace examples",
                f"class {task.classes[least]}",
            )


def _split_faults(
    task: Task,
    root: Path,
    items: Sequence[Item],
    findings: Sequence[Finding],
    faults: Sequence[Fault],
) -> Iterator[Fault]:
    """Yield why the items cannot be split, or why the training part has too few classes.

    Nothing is yielded if other faults already stop a fit.
    """
    if any(fault.stops for fault in faults):
        return
    try:
        train, _ = splitter(task, DEFAULT_SEED, data=root, record=False)(list(items))
    except DataError as error:
        detail, _, remedy = str(error).partition("; ")
        yield Fault("split", str(root), detail, remedy or "add images")
        return
    present = {i for index in train for i, count in enumerate(findings[index].counts) if count}
    if len(present) < 2:
        named = ", ".join(task.classes[i] for i in present) or "none"
        yield Fault(
            "one class",
            str(root),
            f"every label to train on is of one class ({named})",
            "add labels of another class",
        )


def _groups_on_both_sides(task: Task, items: Sequence[Item]) -> Iterator[Fault]:
    """Yield each group with images in both a training and a validation folder, once."""
    if not task.grouped:
        return
    sides: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in items:
        if item.split in ("train", "valid"):
            sides[item.group].setdefault(item.split, item)
    for group, sides_of in sides.items():
        if len(sides_of) > 1:
            yield Fault(
                "group on both sides",
                str(sides_of["valid"].image),
                f"{group} is in training, too ({sides_of['train'].image})",
                "keep each subject or set on one side of the split",
            )

"""The audit of a dataset: every file decoded whole, every fault named with its place and its remedy, none of it fatal to the audit."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from os import cpu_count
from pathlib import Path

import numpy as np

from .. import __version__
from ..data.decoding import is_lossy
from ..data.depth import depth_of, largest_values, misfit
from ..data.issues import KINDS, Fault
from ..data.pairing import IMAGE_SUFFIXES, pairing_note
from ..errors import DataError
from ..tasks import Item, Task, get
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.threads import results_in_order
from .image import Finding, examine

log = logging.getLogger(__name__)

BITS = (
    10  # of 256 that the perceptual hashes of one picture may differ in: re-saved, resized or relit
)
BANDS = 16  # hashes that differ in fewer bits than there are bands agree in one of them
OFFSET, SPREAD = (
    1.75,
    4.0,
)  # misalignment to be told: at least this, and so many quartile ranges above the data's own median
FEW, FEW_SHARE, MANY_SHARE = (
    2,
    0.01,
    0.1,
)  # images of a rare class; more outlier sizes than this are normal for this dataset
SMALL, LONG = (
    4.0,
    1.5,
)  # times the median area, and the median shape, beyond which a size is an outlier


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
    depth: int | None = (
        None  # bits of the values of the images of more than 8 bits, by which a fit scales them; None: there are none
    )
    deep: int = 0  # how many images have more than 8 bits
    findings: list[Finding] = field(repr=False, default_factory=list)
    items: list[Item] = field(repr=False, default_factory=list)

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

    def plain(self) -> dict:
        """Return it as JSON can hold it."""
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


def check(task: str | Task, data: Path | str | None = None) -> Audit:
    """Examine every image and label below `data` (default: data/TASK) and return all that is wrong.

    An audit that was interrupted goes on where it stopped, unless files changed. Memory grows by about a kilobyte an image.
    Raises `DataError` only if no data of the task are there at all.
    """
    task = get(task)
    root = Path(data or f"data/{task.name}")
    items, faults = task.listed(root)
    if not items and not faults:
        task.items(root)  # says what was expected
    largest = largest_values(item.image for item in items)
    task = replace(task, depth=task.depth or depth_of(largest))
    with (
        write_lock(root.resolve() / ".check"),
        Journal("check", __version__, task.definition(), str(root.resolve())) as journal,
    ):
        findings = list(_examined(task, items, journal))
    hidden = sum(
        file.name.startswith(".") and file.suffix.lower() in IMAGE_SUFFIXES
        for folder in {item.image.parent for item in items}
        for file in folder.iterdir()
    )
    if hidden:
        log.warning(
            "%s: %d image files whose names begin with a dot are not looked at, here or by fit; rename them if they belong",
            root,
            hidden,
        )
    note = pairing_note(items)
    if note:
        log.info(note)
    faults += _binary(task, root, items, findings)
    _refuse_all_jpegs(findings)
    faults += [fault for finding in findings for fault in finding.faults]
    faults += [
        Fault(
            "bit depth",
            str(file),
            why,
            "save it in the range of the others, or as 8 bits, if it is not meant",
        )
        for file, value in largest.items()
        if (why := misfit(value, task.depth))
    ]
    faults += [
        *_doubled(items, findings),
        *_misaligned(findings),
        *_outliers(findings),
        *_uneven(task, root, findings),
        *_shared(task, items),
    ]
    faults += _undividable(task, root, items, findings, faults)
    order = list(KINDS)
    faults.sort(key=lambda fault: (order.index(fault.kind), fault.file, fault.place))
    counted = [f.counts for f in findings if len(f.counts)]
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
    )


def _binary(
    task: Task, root: Path, items: Sequence[Item], findings: Sequence[Finding]
) -> list[Fault]:
    """Return a fault for each source whose masks are 0/255 masks, which shows over all of them only; nothing is counted in these."""
    found = task.binary_faults(
        root, ((item.source, finding.values) for item, finding in zip(items, findings))
    )
    for item, finding in zip(items, findings):
        if item.source in found:
            finding.counts, finding.unlabelled = (), 0
            finding.faults = [fault for fault in finding.faults if fault.kind != "empty mask"]
    return list(found.values())


def _refuse_all_jpegs(findings: Sequence[Finding]) -> None:
    """Where JPEG compression changed the codes of some masks, it changed others too, into codes that have a meaning."""
    jpegs = [finding for finding in findings if finding.values and is_lossy(str(finding.label))]
    lossy = next(
        (
            finding
            for finding in jpegs
            if any(fault.kind == "lossy mask" for fault in finding.faults)
        ),
        None,
    )
    for finding in jpegs if lossy else []:
        if not any(fault.stops for fault in finding.faults):
            finding.faults.append(
                Fault(
                    "lossy mask",
                    str(finding.label),
                    "is a JPEG, whose compression changes codes, as it did in "
                    f"{Path(str(lossy.label)).name}",
                    "export masks of codes as PNG",
                )
            )
            finding.counts, finding.unlabelled = (), 0


def _examined(task: Task, items: Sequence[Item], journal: Journal) -> Iterator[Finding]:
    workers = cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:

        def work(left: list[int]) -> Iterator[dict]:
            chosen = (items[i] for i in left)
            return results_in_order(
                (pool.submit(_plainly, task, item) for item in chosen), 2 * workers
            )

        keys = [stamp(item.image, item.label) for item in items]
        yield from map(Finding.of, track(resumed(journal, keys, work), "checking", len(keys)))


def _plainly(task: Task, item: Item) -> dict:
    return examine(task, item.image, item.label, item.source).plain()


def _doubled(items: Sequence[Item], findings: Sequence[Finding]) -> Iterator[Fault]:
    """Yield pictures that are there again: equal bytes, or nearly equal perceptual hashes of images of different groups."""
    first: dict[str, int] = {}
    same = np.full(len(items), -1)
    for i, finding in enumerate(findings):
        if finding.digest:
            same[i] = first.setdefault(finding.digest, i)
    for i, (original, item) in enumerate(zip(same, items)):
        if original not in (-1, i):
            yield _again(item, items[original], "is the same file as")
    unique = [i for i in range(len(items)) if same[i] == i and findings[i].hash]
    if not unique:
        return
    bits = np.array([np.frombuffer(bytes.fromhex(findings[i].hash), np.uint8) for i in unique])
    bands = bits.reshape(len(unique), BANDS, -1)
    told: set[int] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, key in enumerate(bands[:, band]):
            near = buckets[key.tobytes()]
            if row not in told and near:
                others = np.array(near)
                distance = np.unpackbits(bits[others] ^ bits[row], axis=1).sum(axis=1)
                for other in others[distance <= BITS]:
                    one, two = items[unique[row]], items[unique[other]]
                    labelled_apart = (
                        isinstance(one.label, int) and one.label != two.label
                    )  # sharp and blurred look alike to a hash
                    if (one.group != two.group or one.split != two.split) and not labelled_apart:
                        told.add(row)
                        yield _again(one, two, "looks the same as")
                        break
            near.append(row)


def _again(item: Item, other: Item, how: str) -> Fault:
    crosses = item.split != other.split
    return Fault(
        "duplicate across the split" if crosses else "duplicate",
        str(item.image),
        f"{how} {other.image}",
        "keep one of them"
        + (f": one trains, the other judges ({item.split} and {other.split})" if crosses else ""),
    )


def _misaligned(findings: Sequence[Finding]) -> Iterator[Fault]:
    offsets = np.array([finding.offset for finding in findings])
    if not len(offsets):
        return
    middle, upper = np.percentile(offsets, [50, 75])
    limit = max(OFFSET, middle + SPREAD * (upper - middle))
    for finding in findings:
        if finding.offset > limit:
            x, y = finding.shift
            yield Fault(
                "misaligned mask",
                str(finding.label),
                f"its outlines fit the image's edges better {abs(x)} px to the "
                f"{'right' if x >= 0 else 'left'} and {abs(y)} px {'down' if y >= 0 else 'up'} (score {finding.offset:.1f}, "
                f"limit {limit:.1f})",
                "look at both: the mask may be another image's, or moved",
            )


def _outliers(findings: Sequence[Finding]) -> Iterator[Fault]:
    known = [
        finding
        for finding in findings
        if finding.size[0] and not any(fault.stops for fault in finding.faults)
    ]
    if len(known) < 10:
        return
    sizes = np.array([finding.size for finding in known], dtype=float)
    area, shape = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
    area, shape = area / np.median(area), shape / np.median(shape)
    away = (np.maximum(area, 1 / area) > SMALL) | (np.maximum(shape, 1 / shape) > LONG)
    if away.mean() > MANY_SHARE:
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


def _uneven(task: Task, root: Path, findings: Sequence[Finding]) -> Iterator[Fault]:
    known = np.array([finding.counts for finding in findings if len(finding.counts)])
    if not len(known):
        return
    classes = [i for i in range(len(task.classes)) if i != task.background]
    has = (known > 0).sum(axis=0)
    for i in classes:
        if has[i] <= max(FEW - 1, FEW_SHARE * len(known)) and len(known) > FEW:
            yield Fault(
                "rare class",
                str(root),
                f"{'no image has' if not has[i] else f'only {has[i]} of {len(known)} images have'} "
                f"{task.classes[i]}",
                "label more of it, or expect nothing of it",
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
                f"there is {counts[most] / counts[least]:.0f} times as much {task.classes[most]} as "
                f"{task.classes[least]}",
                "label more of the rarer one; fit weighs classes, but cannot make examples",
                f"class {task.classes[least]}",
            )


def _undividable(
    task: Task,
    root: Path,
    items: Sequence[Item],
    findings: Sequence[Finding],
    faults: Sequence[Fault],
) -> Iterator[Fault]:
    """Yield why no fit can divide the items, or learn from the part to train on, unless other faults say it already."""
    if any(fault.stops for fault in faults):
        return
    try:
        train, _ = task.split(items)
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


def _shared(task: Task, items: Sequence[Item]) -> Iterator[Fault]:
    """Yield, once, each group whose images are both in a training and in a validation folder."""
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

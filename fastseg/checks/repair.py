"""The repaired copy of a dataset; what cannot be repaired is set aside, each change is listed."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..data import images
from ..data.channels import files_of
from ..data.issues import Fault
from ..data.pairing import image_files
from ..errors import DataError
from ..tasks import ClassificationTask, Item, SegmentationTask, Task, get
from ..tasks.base import MADE
from ..types import IGNORE
from ..utils.io import atomic_folder, name_below, require_folder, write_rows
from ..utils.locks import write_lock
from ..utils.progress import track
from .dataset import Audit, check

UNDO = {  # EXIF orientations that swap width and height -> the inverse operation
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ASIDE, LOG = "set_aside", "changes.csv"
REPAIRABLE = {"0/255 mask", "stray codes", "blended colours", "image mode", "exif rotation"}
# Faults of the dataset, not of one image; and faults that a person must decide on: one unusual bit
# depth may mean that all other images are wrong. For both, images are copied unchanged.
OF_NO_IMAGE = {"rare class", "imbalance", "table", "split", "one class"}
UNDECIDED = {"bit depth"}
BOTH_SIDES = "group on both sides"

Change = dict[str, str]  # a row of changes.csv: file, fault, change


@dataclass(frozen=True)
class Repaired:
    """A repaired copy: its changes.csv, and how many of the labelled images remain in it."""

    log: Path
    remaining: int
    images: int
    set_aside: int  # number of files
    unusable: str  # why a fit would refuse the copy; "" if it would accept it


def fix(audit: Audit, out: Path | str) -> Repaired:
    """Write a copy of the audited data to `out`, a new folder, without the faults of `audit`.

    Codes of grey masks are remapped, stray codes and blended colours take the nearest class, images
    of unusual modes become 8-bit RGB PNG, EXIF orientations that the mask does not follow are
    removed, tables lose the lines that cannot be used, and images of groups on both sides of the
    split go to training. What cannot be repaired, and duplicate pictures, are put into
    set_aside/, which no fit reads. The copy is written atomically. Raises `DataError` if `out`
    is not empty or is inside the data, or if the data are 0/255 masks of more than two classes:
    it is unknown which class 255 means.
    """
    out, task, root = Path(out), get(audit.task), Path(audit.data)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; the repaired copy needs a new folder", "not-empty")
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(
            f"{out}: is inside the data; choose a folder outside them", "output-in-data"
        )
    for fault in audit.faults:
        of_all = fault.kind == "0/255 mask" and fault.file == audit.data
        if of_all and len(task.classes) > 2:
            raise DataError(str(fault), "0-255-mask")
    require_folder(out)
    with write_lock(out), atomic_folder(out) as part:
        changes = list(_Copy(task, audit, root, part).changes())
        if any(change["fault"] in ("image mode", "exif rotation") for change in changes):
            changes += _set_new_duplicates_aside(task, root, part)
        nothing = _change("", "", "nothing was wrong: the copy is the source")
        write_rows(part / LOG, changes or [nothing])
        if (root / MADE).is_file():
            shutil.copyfile(root / MADE, part / MADE)
        left, _ = task.listed(part)
        aside = sum(path.is_file() for path in (part / ASIDE).rglob("*"))
        unusable = _unusable(task, part) if left else ""
    return Repaired(out / LOG, len(left), len(audit.items), aside, unusable)


def _unusable(task: Task, folder: Path) -> str:
    """Return why a fit would refuse a folder's names, tables or split; "" if it accepts them."""
    try:
        task.split(task.items(folder))
    except DataError as error:
        return str(error)
    return ""


def _change(file: Path | str, fault: str, change: str) -> Change:
    return {"file": str(file), "fault": fault, "change": change}


class _Copy:
    """The copy of an audited dataset from `root` to `out`, item by item."""

    def __init__(self, task: Task, audit: Audit, root: Path, out: Path):
        self.task = replace(task, depth=audit.depth)
        self.audit, self.root, self.out = audit, root, out
        self.faults: dict[str, list[Fault]] = defaultdict(list)  # by file
        for fault in audit.faults:
            self.faults[fault.file].append(fault)
        self.is_binary = any(fault.kind == "0/255 mask" for fault in self.faults[str(root)])
        self.both_sides = {
            item.group
            for item in audit.items
            if any(fault.kind == BOTH_SIDES for fault in self.faults[str(item.image)])
        }
        training = [item for item in audit.items if item.split == "train"]
        self.training_names = {(item.image.parent, item.image.stem) for item in training}
        # the first training item of each group
        self.training_item = {item.group: item for item in reversed(training)}
        self.copied: set[Path] = set()
        self.tables: dict[Path, dict[str, int]] = defaultdict(dict)  # folder -> stem -> class

    def changes(self) -> Iterator[Change]:
        """Copy or repair every item, set the others aside, and yield what was changed."""
        for item in track(self.audit.items, "copying", len(self.audit.items)):
            self.copied |= set(_image_and_mask(item))
            yield from self._copy(item)
        yield from self._write_tables()
        yield from self._set_lone_files_aside()
        yield from self._set_unlabelled_aside()

    def _copy(self, item: Item) -> Iterator[Change]:
        own = [fault for file in _image_and_mask(item) for fault in self.faults[str(file)]]
        if self.is_binary and isinstance(item.label, Path):
            own.append(Fault("0/255 mask", str(item.label), "", ""))
        copyable = REPAIRABLE | OF_NO_IMAGE | UNDECIDED | {BOTH_SIDES}
        reason = next((fault for fault in own if fault.kind not in copyable), None)
        moves = item.group in self.both_sides and item.split == "valid"
        folders = None
        if moves and reason is None:
            folders, reason = self._training_folders(item)
        if reason is not None:
            for file in _image_and_mask(item):
                yield _copy_to_set_aside(file, self.root, self.out, reason.kind, reason.detail)
            return
        if folders is not None:
            text = "moved to training with the rest of its group"
            yield _change(item.image, BOTH_SIDES, text)
        else:
            folders = [self._target_folder(file) for file in _image_and_mask(item)]
        yield from _copy_image(self.task, item, folders[0], own)
        if isinstance(item.label, Path):
            yield from _copy_mask(self.task, item, item.label, folders[-1], own)
        else:
            self.tables[folders[0]][item.image.stem] = item.label

    def _target_folder(self, file: Path) -> Path:
        return self.out / name_below(self.root, file.parent)

    def _training_folders(self, item: Item) -> tuple[list[Path] | None, Fault | None]:
        """Return where a validation item of a training group is moved to, or why it cannot be."""
        if isinstance(self.task, ClassificationTask):
            return None, Fault(BOTH_SIDES, str(item.image), "", "")
        there = self.training_item[item.group]
        if (there.image.parent, item.image.stem) in self.training_names:
            why = "a training image has its name"
            return None, Fault(BOTH_SIDES, str(item.image), why, "")
        return [self._target_folder(file) for file in _image_and_mask(there)], None

    def _write_tables(self) -> Iterator[Change]:
        if not isinstance(self.task, ClassificationTask):
            return
        for folder, rows in self.tables.items():
            self.task.write_table(folder / self.task.table, rows)
        for fault in self.audit.faults:
            if fault.kind == "table":
                text = f"{fault.place}: {fault.detail}: left out"
                yield _change(fault.file, "table", text)

    def _set_lone_files_aside(self) -> Iterator[Change]:
        """Set aside images and masks without a partner, or with a name that exists twice."""
        for fault in self.audit.faults:
            file = Path(fault.file)
            if fault.kind in ("no partner", "doubled name") and file not in self.copied:
                for lone in image_files(file) if file.is_dir() else [file]:
                    yield _copy_to_set_aside(lone, self.root, self.out, fault.kind, fault.detail)

    def _set_unlabelled_aside(self) -> Iterator[Change]:
        """Set aside the images that a table names without a usable label."""
        if not isinstance(self.task, ClassificationTask):
            return
        for names in self.task.folders.values():
            for folder in (self.root / name for name in names if (self.root / name).is_dir()):
                for image in image_files(folder):
                    target = self.out / ASIDE / name_below(self.root, image)
                    if image not in self.copied and not target.exists():
                        text = "its label cannot be used"
                        yield _copy_to_set_aside(image, self.root, self.out, "table", text)


def _image_and_mask(item: Item) -> list[Path]:
    """Return an item's image and, if it has one, its mask; one file where they are the same."""
    both = [item.image, item.label] if isinstance(item.label, Path) else [item.image]
    return list(dict.fromkeys(both))


def _set_new_duplicates_aside(task: Task, root: Path, copy: Path) -> Iterator[Change]:
    """Set aside pictures in the copy that a repair made equal to others.

    An EXIF orientation or another image mode can hide that two pictures are the same.
    """
    audit = check(task, copy)
    tables: dict[Path, dict[str, int]] = {item.image.parent: {} for item in audit.items}
    twice = {fault.file: fault for fault in audit.faults if fault.kind.startswith("duplicate")}
    for item in audit.items:
        fault = twice.get(str(item.image))
        if fault is None:
            if isinstance(item.label, int):
                tables[item.image.parent][item.image.stem] = item.label
            continue
        for file in _image_and_mask(item):
            name = name_below(copy, file)
            target = copy / ASIDE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
            text = "set aside: repaired, it is another picture's equal"
            yield _change(root / name, fault.kind, text)
    if isinstance(task, ClassificationTask) and twice:
        for folder, rows in tables.items():
            task.write_table(folder / task.table, rows)


def _copy_to_set_aside(file: Path, root: Path, out: Path, kind: str, why: str) -> Change:
    """Copy a file to set_aside/, if it is a file, and return the change."""
    if not file.is_file():  # a link to nothing, or a folder with an image's name
        return _change(file, kind, "left out: it is no file")
    target = out / ASIDE / name_below(root, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return _change(file, kind, f"set aside{f': {why}' if why else ''}")


def _copy_image(task: Task, item: Item, folder: Path, faults: list[Fault]) -> Iterator[Change]:
    """Write an item's image to `folder`; repair it where possible."""
    kinds = {fault.kind for fault in faults if fault.file == str(item.image)}
    image = folder / item.image.name
    folder.mkdir(parents=True, exist_ok=True)
    if not task.reading.is_plain:
        for file in files_of(item.image, task.reading):
            shutil.copyfile(file, folder / file.name)
        return
    if "exif rotation" in kinds:
        also = _copy_unturned(item.image, image, task.depth)
        yield _change(item.image, "exif rotation", f"its EXIF orientation is removed{also}")
    else:
        shutil.copyfile(item.image, image)
    if "image mode" in kinds:
        # if images and masks are in one folder, PNG files are masks
        masks_beside = isinstance(item.label, Path) and item.label.parent == item.image.parent
        target = image.with_suffix(".tif" if masks_beside else ".png")
        images.save_image(target, task.image(image))
        if target != image:
            image.unlink()
        yield _change(item.image, "image mode", f"written as 8-bit RGB to {target.name}")


def _copy_mask(
    task: Task, item: Item, label: Path, folder: Path, faults: list[Fault]
) -> Iterator[Change]:
    """Write an item's mask to `folder`; repair it where possible."""
    kinds = {fault.kind for fault in faults if fault.file == str(label)} & REPAIRABLE
    folder.mkdir(parents=True, exist_ok=True)
    if not kinds or not isinstance(task, SegmentationTask):
        shutil.copyfile(label, folder / label.name)
        return
    values, change = _repaired_values(task, label, item.source, kinds)
    images.save_image((folder / label.name).with_suffix(".png"), values)
    yield _change(label, ", ".join(sorted(kinds)), change)


def _repaired_values(
    task: SegmentationTask, label: Path, source: str, kinds: set[str]
) -> tuple[np.ndarray, str]:
    """Return the values of a mask with the faults of `kinds` repaired, and what was done."""
    decoded = task.examine_mask(label, source)
    if task.masks == "colours":
        codes = decoded.codes
        if decoded.unknown is not None:
            codes = _with_nearest(codes, decoded.unknown)
        painted = images.codes_to_colours(codes, task.palette)
        meaning = task.meaning(source).items()
        void = [colour for colour, index in meaning if index == IGNORE]
        painted[codes == IGNORE] = void[0] if void else images.UNLABELLED_COLOUR
        return painted, "each pixel took the nearest class's colour"
    if task.masks == "threshold":
        grey = images.read_image(label)[..., 0]
        if "0/255 mask" in kinds:
            return np.where(grey > 0, 255, 0).astype(np.uint8), "code 1 became 255"
        return grey, "written as 8-bit grey"
    values = images.read_raw(label)
    values = values if values.ndim == 2 else values[..., 0]
    if "0/255 mask" in kinds:
        return np.where(values == 255, 1, values).astype(np.uint8), "255 became code 1"
    change = "written as grey codes"
    if decoded.unknown is not None:
        values = _with_nearest(values, decoded.unknown)
        change = f"{int(decoded.unknown.sum())} px of unknown codes took their nearest neighbour's"
    return values.astype(np.uint8 if values.max() < 256 else np.uint16), change


def _with_nearest(codes: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return codes (H, W), replaced at `where`, bool (H, W), by the nearest other codes."""
    if not where.any():
        return codes
    rows, columns = ndimage.distance_transform_edt(
        where, return_distances=False, return_indices=True
    )
    return codes[rows, columns]


def _copy_unturned(source: Path, target: Path, depth: int | None) -> str:
    """Copy an image without its EXIF orientation and return what else was changed.

    The pixels of a JPEG are not recompressed.
    """
    with Image.open(source) as image:
        exif = image.getexif()
        orientation = exif.get(images.ORIENTATION, 1)
        if images.is_deep(image) and not image.mode.startswith("I"):
            # Pillow cannot write 16-bit colours
            upright = Image.fromarray(images.read_image(source, depth))
            upright.transpose(UNDO[orientation]).save(target)
            return ", and it is written as 8-bit RGB"
        if image.format == "TIFF":  # Pillow turns these on its own when it loads them
            image.load()
            image.transpose(UNDO[orientation]).save(target)
            return ""
        exif[images.ORIENTATION] = 1
        image.save(target, exif=exif, **({"quality": "keep"} if image.format == "JPEG" else {}))
        return ""

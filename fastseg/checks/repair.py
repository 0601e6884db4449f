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
from ..data.pairing import image_files, images_below, is_image
from ..data.slices import real_file, split_slice
from ..data.state import CLASSES, LEDGER
from ..errors import DataError
from ..tasks import ClassificationTask, Item, SegmentationTask, Task, get
from ..tasks.base import MADE
from ..tasks.converted import task_toml, unique_names
from ..tasks.declared import TASK_FILE, find_file
from ..tasks.layouts import Layout
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
LEFT_OUT = {
    "label file": "left out",
    "unknown class": "unlabelled in the copy",
    "outside image": "cut at the image's border",
    "unlabelled image": "left out",
}
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


def fix(audit: Audit, out: Path | str, keep_copies: bool = False) -> Repaired:
    """Write a copy of the audited data to `out`, a new folder, without the faults of `audit`.

    Codes of grey masks are remapped, stray codes and blended colours take the nearest class, images
    of unusual modes become 8-bit RGB PNG, EXIF orientations that the mask does not follow are
    removed, tables lose the lines that cannot be used, and images of groups on both sides of the
    split go to training. Where masks are drawn from other files, or paired by more than equal
    names, the copy has images/ and masks/ of codes, and a task.toml that says so. What cannot be
    repaired, and duplicate pictures, are put into set_aside/, which no fit reads. With
    `keep_copies`, duplicate pictures stay, each with its own label, unless one trains and the other
    judges: a fit learns from both labels. The copy is written atomically. Raises `DataError` if
    `out` is not empty or is inside the data, or if the data are 0/255 masks of more than two
    classes: it is unknown which class 255 means.
    """
    if keep_copies:
        faults = [fault for fault in audit.faults if fault.kind != "duplicate"]
        audit = replace(audit, faults=faults)
    out, task, root = Path(out), audit.checked or get(audit.task), Path(audit.data)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; the repaired copy needs a new folder", "not-empty")
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(
            f"{out}: is inside the data; choose a folder outside them", "output-in-data"
        )
    volume = next((real_file(i.image) for i in audit.items if split_slice(i.image)), None)
    if volume is not None:
        raise DataError(
            f"{volume}: volumes are not copied and repaired slice by slice; correct the files "
            "that check names",
            "volume-repair",
        )
    if isinstance(task, ClassificationTask) and task.labels == "manifest":
        raise DataError(
            f"{root / task.table}: data of a manifest are not copied and repaired; correct, or "
            "remove from it, the rows that check names",
            "manifest-repair",
        )
    for fault in audit.faults:
        of_all = fault.kind == "0/255 mask" and fault.file == audit.data
        if of_all and len(task.classes) > 2:
            raise DataError(str(fault), "0-255-mask")
    require_folder(out)
    with write_lock(out), atomic_folder(out) as part:
        copy = _copy_of(task, audit, root, part)
        changes = list(copy.changes())
        task = copy.result
        repaired = any(change["fault"] in ("image mode", "exif rotation") for change in changes)
        if repaired and not keep_copies:
            changes += _set_new_duplicates_aside(task, root, part)
        nothing = _change("", "", f"nothing was wrong: {copy.unchanged}")
        write_rows(part / LOG, changes or [nothing])
        for name in (MADE, LEDGER, CLASSES):
            if (root / name).is_file():
                (part / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(root / name, part / name)
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


def _copy_of(task: Task, audit: Audit, root: Path, out: Path) -> _Copy:
    """Return the copy for a task: in the layout of its data, or in a plain one."""
    if isinstance(task, SegmentationTask) and not all(lay.is_plain for lay in task.layouts):
        return _PlainCopy(task, audit, root, out)
    return _Copy(task, audit, root, out)


class _Copy:
    """The copy of an audited dataset from `root` to `out`, item by item, in the same layout."""

    unchanged = "the copy is the source"

    def __init__(self, task: Task, audit: Audit, root: Path, out: Path):
        self.result = task  # the task of the copy
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
        self.tables: dict[Path, dict[str, int]] = defaultdict(dict)  # folder -> name -> class

    def changes(self) -> Iterator[Change]:
        """Copy or repair every item, set the others aside, and yield what was changed."""
        for item in track(self.audit.items, "copying", len(self.audit.items)):
            self.copied |= set(_image_and_mask(item))
            yield from self._copy(item)
        yield from self._write_tables()
        yield from self._set_lone_files_aside()
        yield from self._set_unlabelled_aside()
        yield from self._left_out()
        self._write_task()

    def _copy(self, item: Item) -> Iterator[Change]:
        own = [fault for name in _names(item) for fault in self.faults[name]]
        if self.is_binary and isinstance(item.label, Path) and not item.origin:
            own.append(Fault("0/255 mask", item.shown_label, "", ""))
        copyable = REPAIRABLE | OF_NO_IMAGE | UNDECIDED | {BOTH_SIDES}
        copyable |= {*LEFT_OUT} if item.origin else set()
        reason = next((fault for fault in own if fault.kind not in copyable), None)
        moves = item.group in self.both_sides and item.split == "valid"
        if moves and reason is None:
            reason = self._obstacle(item)
        if reason is not None:
            for file in _image_and_mask(item):
                yield _copy_to_set_aside(file, self.root, self.out, reason.kind, reason.detail)
            return
        if moves:
            text = "moved to training with the rest of its group"
            yield _change(item.image, BOTH_SIDES, text)
        yield from self._write(item, own, moves)

    def _write(self, item: Item, own: list[Fault], moves: bool) -> Iterator[Change]:
        """Copy or repair an item; `moves`: to the folders of training."""
        there = self.training_item[item.group] if moves else item
        folders = [self._target_folder(file) for file in _image_and_mask(there)]
        yield from _copy_image(self.task, item, folders[0], own)
        if isinstance(item.label, Path):
            yield from _copy_mask(self.task, item, item.label, folders[-1], own)
        elif isinstance(self.task, ClassificationTask) and self.task.labels == "table":
            # A repaired image may have another suffix.
            image = folders[0] / item.image.name
            image = image if image.exists() else image.with_suffix(".png")
            folder, name = _table_row(self.task, self.out, image, item)
            self.tables[folder][name] = item.label

    def _target_folder(self, file: Path) -> Path:
        return self.out / name_below(self.root, file.parent)

    def _obstacle(self, item: Item) -> Fault | None:
        """Return why a validation item of a training group cannot be moved to training."""
        if isinstance(self.task, ClassificationTask):
            return Fault(BOTH_SIDES, str(item.image), "", "")
        there = self.training_item[item.group]
        if (there.image.parent, item.image.stem) in self.training_names:
            why = "a training image has its name"
            return Fault(BOTH_SIDES, str(item.image), why, "")
        return None

    def _write_tables(self) -> Iterator[Change]:
        if not isinstance(self.task, ClassificationTask):
            return
        for folder, rows in self.tables.items():
            self.task.write_table(folder / self.task.table, rows)
        for fault in self.audit.faults:
            if fault.kind == "table":
                text = f"{fault.place}: {fault.detail}: left out"
                yield _change(fault.file, "table", text)

    def _left_out(self) -> Iterator[Change]:
        """Yield what the copy lacks without being a file of its own that is set aside."""
        of_items = {name for item in self.audit.items for name in _names(item)}
        handled = {"no partner", "doubled name", "table", *OF_NO_IMAGE}
        for fault in self.audit.faults:
            text = LEFT_OUT.get(fault.kind)
            if fault.stops and fault.kind not in handled and fault.file not in of_items:
                text = text or "its image is left out"
            if fault.kind == "no partner" and fault.place and not is_image(Path(fault.file)):
                text = "left out"  # an entry of a list or a label file
            if text and isinstance(self.task, ClassificationTask):
                text = "left out"
            if text:
                place = f"{fault.place}: " if fault.place else ""
                yield _change(fault.file, fault.kind, f"{place}{fault.detail}: {text}")

    def _write_task(self) -> None:
        """Copy the task.toml, if the task has one."""
        file = self.task.home and find_file(self.task.home)
        if file:
            shutil.copyfile(file, self.out / TASK_FILE)

    def _set_lone_files_aside(self) -> Iterator[Change]:
        """Set aside images and masks without a partner, or with a name that exists twice."""
        for fault in self.audit.faults:
            file = Path(fault.file)
            if fault.kind in ("no partner", "doubled name") and file not in self.copied:
                for lone in filter(is_image, image_files(file) if file.is_dir() else [file]):
                    yield _copy_to_set_aside(lone, self.root, self.out, fault.kind, fault.detail)

    def _set_unlabelled_aside(self) -> Iterator[Change]:
        """Set aside the images that a table names without a usable label."""
        if not isinstance(self.task, ClassificationTask):
            return
        deep = self.task.labels == "folders"
        kind = "unknown class" if deep else "table"
        for names in self.task.folders.values():
            for folder in (self.root / name for name in names if (self.root / name).is_dir()):
                for image in images_below(folder, deep):
                    target = self.out / ASIDE / name_below(self.root, image)
                    if image not in self.copied and not target.exists():
                        text = "its label cannot be used"
                        yield _copy_to_set_aside(image, self.root, self.out, kind, text)


class _PlainCopy(_Copy):
    """A copy with images/ and masks/ of codes, in subfolders for splits, and a task.toml."""

    unchanged = "the masks are written as codes"

    def __init__(self, task: SegmentationTask, audit: Audit, root: Path, out: Path):
        super().__init__(task, audit, root, out)
        names = unique_names([item.image for item in audit.items], root)
        self.names = dict(zip(audit.items, names))
        self.splits = {item.split: None for item in audit.items}
        self.layouts = [
            Layout(*self._folders(split), split) for split in self.splits or {None: None}
        ]
        self.result: Task = replace(
            task, layouts=tuple(self.layouts), masks="codes", codes={}, ignore=()
        )

    def _folders(self, split: str | None) -> tuple[str, str]:
        end = "" if set(self.splits) <= {None} else f"/{split or 'all'}"
        return f"images{end}", f"masks{end}"

    def _obstacle(self, item: Item) -> Fault | None:
        return None  # the names in the copy are unique

    def _write(self, item: Item, own: list[Fault], moves: bool) -> Iterator[Change]:
        images_to, masks_to = self._folders("train" if moves else item.split)
        name = self.names[item]
        yield from _copy_image(self.task, item, self.out / images_to, own, name)
        kinds = {fault.kind for fault in own if fault.file == item.shown_label} & REPAIRABLE
        codes, change = _repaired_codes(self.task, item, kinds)
        images.save_image(self.out / masks_to / f"{Path(name).stem}.png", codes)
        if change:
            yield _change(item.shown_label, ", ".join(sorted(kinds)), change)

    def _write_task(self) -> None:
        assert isinstance(self.task, SegmentationTask)
        text = task_toml(replace(self.task, depth=self.result.depth), self.layouts)
        (self.out / TASK_FILE).write_text(text, encoding="utf-8")


def _table_row(task: ClassificationTask, root: Path, image: Path, item: Item) -> tuple[Path, str]:
    """Return the folder of the table that lists an image below `root`, and how it names it."""
    folder = next(
        folder
        for split, folder in task.data_folders(root)
        if split == item.split and (folder == image.parent or folder in image.parents)
    )
    if folder != image.parent:
        return folder, name_below(folder, image)
    return folder, task.names_of([image], folder)[image]


def _image_and_mask(item: Item) -> list[Path]:
    """Return an item's image and, if it has one, its mask; one file where they are the same.

    A mask that is drawn from other files is left out: it is not the user's.
    """
    has_mask = isinstance(item.label, Path) and not item.origin
    return list(dict.fromkeys([item.image, *([Path(str(item.label))] if has_mask else [])]))


def _names(item: Item) -> list[str]:
    """Return what faults of an item's image and of its mask are listed under."""
    both = [str(item.image), *([item.shown_label] if isinstance(item.label, Path) else [])]
    return list(dict.fromkeys(both))


def _set_new_duplicates_aside(task: Task, root: Path, copy: Path) -> Iterator[Change]:
    """Set aside pictures in the copy that a repair made equal to others.

    An EXIF orientation or another image mode can hide that two pictures are the same.
    """
    audit = check(task, copy)
    tables: dict[Path, dict[str, int]] = defaultdict(dict)
    twice = {fault.file: fault for fault in audit.faults if fault.kind.startswith("duplicate")}
    for item in audit.items:
        fault = twice.get(str(item.image))
        if fault is None:
            if isinstance(task, ClassificationTask) and isinstance(item.label, int):
                folder, row = _table_row(task, copy, item.image, item)
                tables[folder][row] = item.label
            continue
        for file in _image_and_mask(item):
            name = name_below(copy, file)
            target = copy / ASIDE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
            text = "set aside: repaired, it is another picture's equal"
            yield _change(root / name, fault.kind, text)
    if isinstance(task, ClassificationTask) and twice and task.labels == "table":
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


def _copy_image(
    task: Task, item: Item, folder: Path, faults: list[Fault], name: str = ""
) -> Iterator[Change]:
    """Write an item's image to `folder`, by default under its own name; repair it where possible.

    With a `name`, its mask is in another folder.
    """
    kinds = {fault.kind for fault in faults if fault.file == str(item.image)}
    image = folder / (name or item.image.name)
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
        masks_beside = masks_beside and not name
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


def _repaired_codes(task: Task, item: Item, kinds: set[str]) -> tuple[np.ndarray, str]:
    """Return an item's class indices, uint8 (H, W), with the faults of `kinds` repaired, and what
    was done.
    """
    decoded = task.examine_label(item)
    if decoded is None or not isinstance(item.label, Path):
        raise DataError(f"{item.image}: has no mask", "no-mask")
    if "0/255 mask" in kinds:
        values = images.read_raw(item.label)
        values = values if values.ndim == 2 else values[..., 0]
        return (values > 0).astype(np.uint8), "values above 0 became code 1"
    if decoded.unknown is None or not kinds:
        return decoded.codes, "written as codes" if kinds else ""
    count = int(decoded.unknown.sum())
    return (
        _with_nearest(decoded.codes, decoded.unknown),
        f"{count} px of no class took their nearest neighbour's",
    )


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

"""A repaired copy of a dataset: what can be repaired is, the rest is set aside, every change is listed. The source stays as it is."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..data import images as masks
from ..data.issues import Fault
from ..data.pairing import image_files
from ..errors import DataError
from ..tasks import ClassificationTask, Item, SegmentationTask, Task, get
from ..tasks.base import MADE
from ..utils.io import atomic_folder, name_below, require_folder, write_rows
from ..utils.locks import write_lock
from ..utils.progress import track
from .dataset import Audit, check

BACK = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # what undoes an EXIF orientation that turns
ASIDE, LOG = "set_aside", "changes.csv"
REPAIRABLE = {"0/255 mask", "stray codes", "blended colours", "image mode", "exif rotation"}
HARMLESS = {
    "rare class",
    "imbalance",
    "table",
    "split",
    "one class",
}  # what concerns no image of its own
LEFT = {
    "bit depth"
}  # one odd image makes all others misfits: which of them to change is for a person to say


@dataclass(frozen=True)
class Repaired:
    """A repaired copy: its changes.csv, and how many of the labelled images remain in it."""

    log: Path
    remaining: int
    images: int
    set_aside: int  # files, of all kinds
    unusable: str  # why a fit would refuse the copy's names, tables or split; "" if it would not


def fix(audit: Audit, out: Path | str) -> Repaired:
    """Write a copy of the audited data to `out`, a new folder, without the faults that `audit` names; say what remains.

    Codes of grey pictures are remapped, stray codes and blended colours take the nearest class, images of odd modes become 8-bit
    RGB PNG, EXIF orientations that the mask does not follow are removed, tables lose the lines that cannot be used, and images of
    groups on both sides of the split go to training. What cannot be repaired, and pictures that are there twice, lie in
    set_aside/, where no fit looks. The copy is written atomically. Raises `DataError` if `out` holds something or lies in the
    data, or if the data are 0/255 masks of more than two classes: which class 255 stands for cannot be known.
    """
    out, task, root = Path(out), get(audit.task), Path(audit.data)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; the repaired copy needs a new folder", "not-empty")
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(
            f"{out}: lies in the data themselves; choose a folder beside them", "output-in-data"
        )
    guess = next(
        (
            fault
            for fault in audit.faults
            if fault.kind == "0/255 mask" and fault.file == audit.data
        ),
        None,
    )
    if guess is not None and len(task.classes) > 2:
        raise DataError(f"{guess}", "0-255-mask")
    require_folder(out)
    with write_lock(out), atomic_folder(out) as part:
        changes = list(_copied(task, audit, root, part))
        if any(change["fault"] in ("image mode", "exif rotation") for change in changes):
            changes += _the_same_now(task, root, part)
        write_rows(
            part / LOG, changes or [_change("", "", "nothing was wrong: the copy is the source")]
        )
        if (root / MADE).is_file():
            shutil.copyfile(root / MADE, part / MADE)
        left, _ = task.listed(part)
        aside = sum(path.is_file() for path in (part / ASIDE).rglob("*"))
        unusable = _unusable(task, part) if left else ""
    return Repaired(out / LOG, len(left), len(audit.items), aside, unusable)


def _unusable(task: Task, folder: Path) -> str:
    try:
        task.split(task.items(folder))
    except DataError as error:
        return str(error)
    return ""


def _change(file: str, fault: str, change: str) -> dict[str, str]:
    return {"file": file, "fault": fault, "change": change}


def _copied(task: Task, audit: Audit, root: Path, out: Path) -> Iterator[dict[str, str]]:
    """Copy or repair every item, set the others aside, and yield what was changed."""
    faults: dict[str, list[Fault]] = defaultdict(list)
    for fault in audit.faults:
        faults[fault.file].append(fault)
    both_sides = {
        item.group
        for item in audit.items
        if any(fault.kind == "group on both sides" for fault in faults[str(item.image)])
    }
    tables: dict[Path, dict[str, int]] = defaultdict(dict)
    training = {
        (item.image.parent, item.image.stem) for item in audit.items if item.split == "train"
    }
    train_of = {
        item.group: item for item in reversed(audit.items) if item.split == "train"
    }  # the first of each group
    binary = any(fault.kind == "0/255 mask" for fault in faults[str(root)])
    copied = set()
    for item in track(audit.items, "copying", len(audit.items)):
        own = [
            *faults[str(item.image)],
            *(faults[str(item.label)] if isinstance(item.label, Path) else []),
        ]
        if binary and isinstance(item.label, Path):
            own.append(Fault("0/255 mask", str(item.label), "", ""))
        copied |= {item.image, item.label}
        reasons = [
            fault
            for fault in own
            if fault.kind not in REPAIRABLE | HARMLESS | LEFT | {"group on both sides"}
        ]
        if (
            item.group in both_sides
            and item.split == "valid"
            and isinstance(task, ClassificationTask)
        ):
            reasons += [Fault("group on both sides", str(item.image), "", "")]
        if reasons:
            yield from _aside(item, root, out, reasons[0])
            continue
        folder = None
        if item.group in both_sides and item.split == "valid":
            there = train_of[item.group]
            if (there.image.parent, item.image.stem) in training:
                yield from _aside(
                    item,
                    root,
                    out,
                    Fault(
                        "group on both sides", str(item.image), "a training image has its name", ""
                    ),
                )
                continue
            folder = tuple(
                out / name_below(root, file.parent) for file in (there.image, there.label)
            )
            yield _change(
                str(item.image),
                "group on both sides",
                "moved to training with the rest of its group",
            )
        yield from _repaired(replace(task, depth=audit.depth), item, root, out, own, folder)
        if isinstance(task, ClassificationTask):
            tables[out / name_below(root, item.image.parent)][item.image.stem] = int(item.label)
    if isinstance(task, ClassificationTask):
        for folder, rows in tables.items():
            task.write_table(folder / task.table, rows)
        yield from (
            _change(fault.file, "table", f"{fault.place}: {fault.detail}: left out")
            for fault in audit.faults
            if fault.kind == "table"
        )
    for fault in (
        audit.faults
    ):  # images and masks that are no item: without partner, or of a name that is there twice
        file = Path(fault.file)
        if fault.kind in ("no partner", "doubled name") and file not in copied:
            for lone in image_files(file) if file.is_dir() else [file]:
                yield _set_aside(lone, root, out, fault.kind, fault.detail)
    yield from _without_table(task, root, out, copied)


def _the_same_now(task: Task, root: Path, part: Path) -> Iterator[dict[str, str]]:
    """Set aside, in the copy, pictures that repairs made the same as others: turned ones, or ones in other modes, hide it."""
    audit = check(task, part)
    tables = {item.image.parent: {} for item in audit.items}
    twice = {fault.file: fault for fault in audit.faults if fault.kind.startswith("duplicate")}
    for item in audit.items:
        fault = twice.get(str(item.image))
        if fault is None:
            tables[item.image.parent][item.image.stem] = item.label
            continue
        for file in dict.fromkeys(
            file for file in (item.image, item.label) if isinstance(file, Path)
        ):
            target = part / ASIDE / name_below(part, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
            yield _change(
                str(root / name_below(part, file)),
                fault.kind,
                "set aside: repaired, it is another picture's equal",
            )
    if isinstance(task, ClassificationTask) and twice:
        for folder, rows in tables.items():
            task.write_table(folder / task.table, rows)


def _without_table(task: Task, root: Path, out: Path, copied: set) -> Iterator[dict[str, str]]:
    """Set aside the images that a table names without a usable label."""
    if not isinstance(task, ClassificationTask):
        return
    for folders in task.folders.values():
        for folder in (root / name for name in folders if (root / name).is_dir()):
            for image in image_files(folder):
                target = out / ASIDE / name_below(root, image)
                if image not in copied and not target.exists():
                    yield _set_aside(image, root, out, "table", "its label cannot be used")


def _set_aside(file: Path, root: Path, out: Path, kind: str, why: str) -> dict[str, str]:
    """Copy a file to where no fit looks, if it is one, and return the change."""
    if not file.is_file():  # a link to nothing, or a folder with an image's name
        return _change(str(file), kind, "left out: it is no file")
    target = out / ASIDE / name_below(root, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return _change(str(file), kind, f"set aside{f': {why}' if why else ''}")


def _aside(item: Item, root: Path, out: Path, fault: Fault) -> Iterator[dict[str, str]]:
    for file in dict.fromkeys(file for file in (item.image, item.label) if isinstance(file, Path)):
        yield _set_aside(file, root, out, fault.kind, fault.detail)


def _repaired(
    task: Task,
    item: Item,
    root: Path,
    out: Path,
    faults: list[Fault],
    folders: tuple[Path, Path] | None,
) -> Iterator[dict[str, str]]:
    """Write an item's image and mask, repaired where they need it."""
    kinds = {(fault.kind, fault.file) for fault in faults}
    image = (folders[0] if folders else out / name_below(root, item.image.parent)) / item.image.name
    image.parent.mkdir(parents=True, exist_ok=True)
    own = {kind for kind, file in kinds if file == str(item.image)}
    if "exif rotation" in own:
        written = _unturned(item.image, image, task.depth)
        yield _change(str(item.image), "exif rotation", f"its EXIF orientation is removed{written}")
    else:
        shutil.copyfile(item.image, image)
    if "image mode" in own:
        side_by_side = (
            isinstance(item.label, Path) and item.label.parent == item.image.parent
        )  # PNG files are masks there
        target = image.with_suffix(".tif" if side_by_side else ".png")
        masks.save_image(target, masks.read_image(image, task.depth))
        if target != image:
            image.unlink()
        yield _change(str(item.image), "image mode", f"written as 8-bit RGB to {target.name}")
    if not isinstance(item.label, Path):
        return
    mask = (folders[1] if folders else out / name_below(root, item.label.parent)) / item.label.name
    mask.parent.mkdir(parents=True, exist_ok=True)
    own = {kind for kind, file in kinds if file == str(item.label)}
    if not own & REPAIRABLE:
        shutil.copyfile(item.label, mask)
        return
    values, change = _values(task, item, own)
    masks.save_image(mask.with_suffix(".png"), values)
    yield _change(str(item.label), ", ".join(sorted(own & REPAIRABLE)), change)


def _values(task: SegmentationTask, item: Item, kinds: set[str]) -> tuple[np.ndarray, str]:
    """Return a mask's repaired values and what was done."""
    decoded = task.examine_mask(item.label, item.source)
    if task.masks == "colours":
        void = next(
            (
                colour
                for colour, index in task.meaning(item.source).items()
                if index == masks.IGNORE
            ),
            masks.UNLABELLED_COLOUR,
        )
        codes = (
            decoded.codes if decoded.unknown is None else _filled(decoded.codes, decoded.unknown)
        )
        painted = masks.codes_to_colours(codes, task.palette)
        painted[codes == masks.IGNORE] = void
        return painted, "each pixel took the nearest class's colour"
    if task.masks == "threshold":
        grey = masks.read_image(item.label)[..., 0]
        if "0/255 mask" in kinds:
            return np.where(grey > 0, 255, 0).astype(np.uint8), "code 1 became 255"
        return grey, "written as 8-bit grey"
    values = masks.read_raw(item.label)
    values = values if values.ndim == 2 else values[..., 0]
    if "0/255 mask" in kinds:
        return np.where(values == 255, 1, values).astype(np.uint8), "255 became code 1"
    change = "written as grey codes"
    if decoded.unknown is not None:
        values = _filled(values, decoded.unknown)
        change = f"{int(decoded.unknown.sum())} px of unknown codes took their nearest neighbour's"
    return values.astype(np.uint8 if values.max() < 256 else np.uint16), change


def _filled(codes: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return codes with those at `where` replaced by the nearest others."""
    if not where.any():
        return codes
    rows, columns = ndimage.distance_transform_edt(
        where, return_distances=False, return_indices=True
    )
    return codes[rows, columns]


def _unturned(source: Path, target: Path, depth: int | None) -> str:
    """Copy an image without its EXIF orientation and return what else was changed; a JPEG's pixels are not compressed again."""
    with Image.open(source) as image:
        exif = image.getexif()
        orientation = exif.get(0x0112, 1)
        if masks.is_deep(image) and not image.mode.startswith(
            "I"
        ):  # Pillow cannot write 16-bit colours
            Image.fromarray(masks.read_image(source, depth)).transpose(BACK[orientation]).save(
                target
            )
            return ", and it is written as 8-bit RGB"
        if image.format == "TIFF":  # Pillow turns these on its own when it loads them
            image.load()
            image.transpose(BACK[orientation]).save(target)
            return ""
        exif[0x0112] = 1
        image.save(target, exif=exif, **({"quality": "keep"} if image.format == "JPEG" else {}))
        return ""

"""`Layout`: how the images of a dataset and their masks are named and stored; finding them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from os import cpu_count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Union

from ..data import class_masks
from ..data.class_masks import ClassFiles
from ..data.issues import Fault
from ..data.listing import read_list, with_masks
from ..data.pairing import by_key, images_below, key_below, pairs, pairs_by_ends
from ..errors import DataError, TaskError, brief, choose
from ..utils.progress import track
from ..utils.threads import results_in_order

if TYPE_CHECKING:
    from ..types import Colour

MaskValue = Union[int, "Colour", str]  # a code, a colour, or a label of another tool
CLASS_MASKS = ("", "names", "folders")
MANIFEST = ("image", "mask")  # columns of a manifest
PARQUET = "parquet"  # the format of files that hold the images and masks themselves
VERSION = 1  # raise when class masks are combined in another way
MAX_WORKERS = 8  # threads that combine masks


@dataclass(frozen=True)
class Layout:
    """The folders, below the data folder, of images and of masks with the same stems.

    Equal folders mean that masks and images are stored together. `source` names where such data
    come from. If its masks have other codes than the task's, the layout declares `codes` and
    `ignore` of its own, see `SegmentationTask`; layouts of one source declare the same.

    With `format`, the labels are files of another tool (see `formats`) at `labels`: `codes` then
    maps label names to class indices, in addition to the classes' own names, and `ignore` names
    labels that become unlabelled. With the format "parquet", the files at `labels` hold images and
    masks; the masks mean what they mean elsewhere. A `manifest` names all files itself.
    """

    images: str
    masks: str
    split: str | None = None
    source: str = ""
    codes: Mapping[MaskValue, int] | None = None
    ignore: tuple[MaskValue, ...] | None = None
    image_end: str = ""  # end of the stems of images: "_leftImg8bit"
    mask_end: str = ""  # end of the stems of masks: "_mask", ".mask"
    deep: bool = False  # whether subfolders are searched, too; pairs have equal paths
    # A text file below the data folder that lists the images: a stem, or a path to an image (and
    # one to its mask) a line
    list_file: str = ""
    # One mask a class, above 127 where the class is: "names" (7_iris.png), "folders" (iris/7.png)
    class_masks: str = ""
    format: str = ""  # of label files of another tool, such as "coco"
    labels: str = ""  # label file, or the folder with label files
    # A table below the data folder with the columns image, mask and, if it says it, split: paths
    # relative to the table
    manifest: str = ""

    def __str__(self) -> str:
        if self.manifest:
            return f"{self.manifest} (columns {', '.join(MANIFEST)})"
        images, masks = self.images or ".", self.masks or "."
        listed = f" as listed in {self.list_file}" if self.list_file else ""
        if self.format:
            return f"{images}/ + {self.labels} ({self.format}){listed}"
        if self.class_masks == "folders":
            return f"{images}/ + {masks}/CLASS/{listed}"
        ends = f" ({self.image_end or '7'}, {self.mask_end})" if self.mask_end else ""
        if self.class_masks:
            ends = f" (7, 7_CLASS{self.mask_end})"
        both = f"{images}/ + {masks}/" if images != masks else f"{images}/ (side by side)"
        return f"{both}{ends}{listed}"

    @property
    def is_plain(self) -> bool:
        """Whether it is two folders, or one, of files with equal names and nothing else."""
        special = (
            "image_end",
            "mask_end",
            "deep",
            "list_file",
            "class_masks",
            "format",
            "manifest",
        )
        return not any(getattr(self, name) for name in special)

    @property
    def has_drawn_masks(self) -> bool:
        """Whether its masks are drawn from other files, so that they are always class indices."""
        return bool((self.format and self.format != PARQUET) or self.class_masks)

    @property
    def ends(self) -> tuple[str, str]:
        """The ends of the stems of images and of masks."""
        return self.image_end, self.mask_end

    def folders(self, root: Path) -> tuple[Path, Path]:
        """Return the folders of images and of masks below the data folder `root`."""
        return root / self.images, root / self.masks


def check_layout(layout: object, task: str) -> None:
    """Raise `TaskError` for a layout whose fields are of a wrong type or contradict each other.

    `task` begins the message.
    """

    def wrong(what: str, remedy: str) -> TaskError:
        return TaskError(f"{task}: a layout's {what}; {remedy}", "task-layouts")

    if not isinstance(layout, Layout):
        raise wrong(
            f"type is {type(layout).__name__}; layouts is a tuple of Layout",
            'write layouts=(Layout("images", "masks"),)',
        )
    for entry in fields(Layout):
        value = getattr(layout, entry.name)
        if entry.type == "str" and not isinstance(value, str):
            raise wrong(f"{entry.name} is {value!r}", "write a text in quotation marks")
        if entry.type == "bool" and not isinstance(value, bool):
            raise wrong(f"{entry.name} is {value!r}", "write True or False")
    for name in ("list_file", "labels", "manifest"):
        path = PurePosixPath(getattr(layout, name).replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise wrong(f"{name} is {brief(path)}", "give a path below the data folder, without ..")
    for name in ("image_end", "mask_end"):
        if "/" in getattr(layout, name) or "\\" in getattr(layout, name):
            raise wrong(f"{name} has a slash", "it is the end of file names, without suffix")
    if layout.class_masks not in CLASS_MASKS:
        raise wrong(f"class_masks is {brief(layout.class_masks)}", "it is names or folders")
    _check_manifest(layout, wrong)
    if layout.format:
        from ..formats import names

        choose("format", layout.format, [*names(), PARQUET], TaskError)
    if bool(layout.format) != bool(layout.labels):
        given, lacks = ("format", "labels") if layout.format else ("labels", "format")
        raise wrong(f"{given} is given without {lacks}", f"add {lacks}, or remove {given}")
    if layout.format and (layout.class_masks or layout.image_end or layout.mask_end):
        raise wrong(
            "format is given with class_masks, image_end or mask_end",
            "label files name their images: keep format alone",
        )
    together = layout.images == layout.masks and not layout.class_masks
    if together and layout.mask_end and layout.image_end == layout.mask_end:
        raise wrong(
            f"image_end and mask_end are both {layout.mask_end}",
            "in one folder, masks need another end than images",
        )


def _check_manifest(layout: Layout, wrong: Callable[[str, str], TaskError]) -> None:
    """Raise what `wrong` returns if a manifest is not the only field that says where files are."""
    names = ("images", "masks", "image_end", "mask_end", "deep", "list_file", "class_masks")
    others = [name for name in (*names, "format") if layout.manifest and getattr(layout, name)]
    if others:
        remedy = "a manifest names images and masks: keep it alone"
        raise wrong(f"manifest is given with {others[0]}", remedy)


def mask_files(layout: Layout, root: Path, faults: list[Fault]) -> list[tuple[Path, Path]]:
    """Return the (image, mask) files of a layout with one mask an image; see `Layout`.

    Files without a partner and lines of a list that cannot be used are added to `faults`, if there
    are any pairs or a list.
    """
    images, masks = layout.folders(root)
    if layout.list_file:
        return _listed_pairs(layout, root, faults)
    if not images.is_dir() or not masks.is_dir():
        return []
    if layout.is_plain:
        return pairs(images, masks, faults)
    return pairs_by_ends(images, masks, layout.ends, layout.deep, faults)


def _listed_pairs(layout: Layout, root: Path, faults: list[Fault]) -> list[tuple[Path, Path]]:
    file, folders = root / layout.list_file, layout.folders(root)
    if not file.exists():
        return []
    entries = read_list(file, root, folders, layout.ends, layout.deep, faults)
    found = []
    for entry in with_masks(entries, folders, layout.ends, layout.deep):
        if entry.mask is None:
            faults.append(
                Fault(
                    "no partner",
                    str(entry.image),
                    f"has no mask in {folders[1]}",
                    f"add it, or remove the image's line from {file}",
                    f"{file.name}, line {entry.line}",
                    waits=True,
                )
            )
        else:
            found.append((entry.image, entry.mask))
    return found


def listed_images(layout: Layout, root: Path, faults: list[Fault]) -> list[Path] | None:
    """Return the images that a layout's list names; None if it has no list.

    Lines that cannot be used are added to `faults`.
    """
    if not layout.list_file:
        return None
    file = root / layout.list_file
    if not file.exists():
        return []
    entries = read_list(file, root, layout.folders(root), layout.ends, layout.deep, faults)
    return [entry.image for entry in entries]


def class_files(
    layout: Layout, root: Path, classes: Sequence[str], faults: list[Fault]
) -> list[tuple[Path, ClassFiles]]:
    """Return the images of a layout with one mask a class, and the masks of each, sorted by path.

    Images without any mask and masks without an image or of no class are added to `faults`.
    """
    images, masks = layout.folders(root)
    if not images.is_dir() or not masks.is_dir():
        return []
    by_names = layout.class_masks == "names"
    files = images_below(masks, layout.deep) if by_names else []
    chosen = listed_images(layout, root, faults)
    if chosen is None:
        chosen = _images_apart(layout, root, files, classes)
    keyed = by_key(images, chosen, layout.image_end, faults)
    alone: list[Fault] = []
    if by_names:
        rest = [file for file in files if file not in set(chosen)]
        if layout.list_file:  # of the images that are not listed
            rest = [file for file in rest if not _is_other(layout, root, file, keyed)]
        found = class_masks.by_names(keyed, masks, rest, classes, layout.mask_end, alone)
    else:
        others = () if images in (masks, *masks.parents) else (images,)
        found = class_masks.by_folders(
            keyed, masks, classes, layout.mask_end, layout.deep, alone, others
        )
    if layout.list_file:
        alone = [fault for fault in alone if fault.kind != "no partner"]
    if not found:
        faults += [fault for fault in alone if fault.kind == "unknown class"]
        return []
    faults += alone
    faults += [
        Fault(
            "no partner",
            str(image),
            f"has no mask of any class in {masks}",
            "add one, an empty one if there is nothing to see, or remove the file",
            waits=True,
        )
        for key, image in keyed.items()
        if key not in found
    ]
    return [(keyed[key], found[key]) for key in keyed if key in found]


def _is_other(layout: Layout, root: Path, file: Path, keyed: Mapping[str, Path]) -> bool:
    """Return whether a file's name begins with that of no listed image."""
    key = key_below(layout.folders(root)[1], file)
    return not any(key and key.startswith(known) for known in keyed)


def _images_apart(
    layout: Layout, root: Path, files: Sequence[Path], classes: Sequence[str]
) -> list[Path]:
    """Return the image files of a layout with one mask a class, without the masks."""
    images, masks = layout.folders(root)
    found = images_below(images, layout.deep)
    if layout.class_masks == "names":
        if images == masks:
            return class_masks.images_of_names(images, files, classes, layout.ends)
        return [file for file in found if masks not in file.parents or masks in images.parents]
    if images == masks or images in masks.parents:
        return [
            file
            for file in found
            if masks not in file.parents or len(file.relative_to(masks).parts) == 1
        ]
    return found


def combined_masks(
    found: Sequence[ClassFiles], background: int | None, faults: list[Fault]
) -> list[Path | None]:
    """Return the masks of codes, PNG files in the user's cache, that class masks make.

    They are made once, by several threads. Where files cannot be used, the mask is None, and a
    fault is added to `faults`; see `class_masks.combined`.
    """
    workers = min(MAX_WORKERS, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        jobs = (pool.submit(_combined_mask, files, background) for files in found)
        made = list(track(results_in_order(jobs, 2 * workers), "combining masks", len(found)))
    faults += [one for one in made if isinstance(one, Fault)]
    return [None if isinstance(one, Fault) else one for one in made]


def _combined_mask(files: ClassFiles, background: int | None) -> Path | Fault:
    from ..formats.cache import cached_mask

    first = files[min(files)]
    contents = (f"{code} {_content(file)}" for code, file in sorted(files.items()))
    try:
        return cached_mask(
            [f"class masks {VERSION}", str(background), *contents],
            lambda: class_masks.combined(files, background),
            first,
        )
    except DataError as error:
        file = next((f for f in files.values() if str(error).startswith(f"{f}: ")), first)
        detail, _, remedy = str(error).removeprefix(f"{file}: ").partition("; ")
        kinds = {"size-mismatch": "size mismatch", "unknown-codes": "unknown codes"}
        if error.code == "not-writable":
            raise
        return Fault(kinds.get(error.code, "unreadable"), str(file), detail, remedy)


def _content(file: Path) -> str:
    """Return a digest of a file's content; it is read once in a process, unless it changes."""
    status = file.stat()
    return _content_of(str(file), status.st_size, status.st_mtime_ns)


@cache
def _content_of(file: str, size: int, modified: int) -> str:
    from ..formats.cache import content_of

    return content_of(Path(file))

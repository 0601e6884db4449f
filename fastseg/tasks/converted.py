"""Writes images and masks as a folder in the format of another tool, with a task.toml of its own.

`convert` and `predict --format` use it. Formats of label files write themselves (see `formats`);
masks as PNG files, plain or in the folders of Pascal VOC, are written here.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .. import formats
from ..data.slices import real_file, split_slice
from ..errors import DataError, TaskError, choose
from ..formats.base import ToWrite
from ..types import IGNORE, Colour
from ..utils.io import write_rows
from .base import Task
from .classification import ClassificationTask
from .declared import TASK_FILE, definition_of
from .layouts import Layout
from .segmentation import SegmentationTask

if TYPE_CHECKING:
    import numpy as np

IMAGES = "images"  # the folder of the copies
CLASS_TABLE = "classes.csv"
VOID = (224, 224, 192)  # the colour of unlabelled pixels in Pascal VOC's masks
VOC_LISTS = {"train": "train", "valid": "val", "test": "test", None: "trainval"}
HEADER = "# Paths are relative to this folder. Start with: fastseg check . and fastseg fit .\n"


@dataclass(frozen=True)
class Entry:
    """One image to write: its file, the name of the copy, and how to get its mask."""

    image: Path
    name: str  # of the copy, unique, without folders
    split: str | None
    # Returns the codes, uint8 (H, W), and the mean score of each class, 0 to 1, or None.
    read: Callable[[], tuple[np.ndarray, Mapping[int, float] | None]]
    # Further files of the image, such as one a channel, with the names of their copies
    more: tuple[tuple[Path, str], ...] = ()


def targets() -> list[str]:
    """Return the names of the formats that can be written."""
    return sorted(["png", "voc", *(n for n in formats.names() if formats.get(n).is_writable)])


def choose_target(name: str) -> str:
    """Return the name of a format that can be written. Raises `TaskError` for others."""
    return choose("format", name, targets(), TaskError)


def unique_names(images: Sequence[Path], root: Path) -> list[str]:
    """Return a file name for the copy of each image; stems differ, in upper and lower case.

    Images of one stem get their folders below `root` after it: a/7.jpg becomes 7_a.jpg.
    """
    counts = Counter(image.stem.lower() for image in images)
    taken: set[str] = set()
    found = []
    for image in images:
        stem = image.stem
        if counts[stem.lower()] > 1:
            folders = image.parent.relative_to(root).parts if root in image.parents else ()
            stem = "_".join((stem, *folders))
        number, unique = 1, stem
        while unique.lower() in taken or (unique != image.stem and unique.lower() in counts):
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.lower())
        found.append(unique + image.suffix)
    return found


def further_files(task: Task, image: Path, name: str) -> tuple[tuple[Path, str], ...]:
    """Return the files of an image's other channels, with the names of their copies."""
    if not task.channel_files:
        return ()
    first, *others = task.channel_files
    stem, copy = image.stem.removesuffix(first), Path(name).stem.removesuffix(first)
    return tuple(
        (image.with_name(f"{stem}{end}{image.suffix}"), f"{copy}{end}{image.suffix}")
        for end in others
    )


def refuse_slices(images: Sequence[Path]) -> None:
    """Raise `DataError` if an image is a slice of a volume: there is no file to copy."""
    volume = next((real_file(image) for image in images if split_slice(image)), None)
    if volume is not None:
        raise DataError(
            f"{volume}: is a volume, and labels of other tools are of single images; save its "
            "slices as images of their own",
            "volume-labels",
        )


def write_dataset(
    task: SegmentationTask,
    target: str,
    entries: Sequence[Entry],
    out: Path,
    name: str | None = None,
) -> list[Path]:
    """Write images, labels and a task.toml to the existing folder `out`, and return the paths.

    Memory is bounded: one mask at a time is read. The split is written in the way of the format.
    `name` is the new task's; None means that it is the name of the folder.
    """
    refuse_slices([entry.image for entry in entries])
    writer = {"png": _write_png, "voc": _write_voc}.get(target)
    if writer is not None:
        layouts, written = writer(task, entries, out)
    else:
        layouts, written = _write_labels(task, target, entries, out)
    path = out / TASK_FILE
    path.write_text(task_toml(task, layouts, name), encoding="utf-8")
    return [*written, path]


def task_toml(task: SegmentationTask, layouts: Sequence[Layout], name: str | None = None) -> str:
    """Return the text of a task.toml: the classes and recipe of `task` for data in `layouts`."""
    plain = SegmentationTask(
        name=name or task.name,
        classes=task.classes,
        palette=task.palette,
        layouts=tuple(layouts),
        background=task.background,
        output=task.output,
        **_carried(task),
    )
    return _toml_of(plain, name)


def _carried(task: SegmentationTask | ClassificationTask) -> dict[str, Any]:
    """Return what a copy of the data keeps: the recipe, how images are read and grouped."""
    names = ("recipe", "group", "depth", "channels", "channel_files", "shown_channels", "alpha")
    return {name: getattr(task, name) for name in (*names, "window")}


def _toml_of(plain: Task, name: str | None) -> str:
    """Return the text of a task.toml. Without a name, the task's is the folder's: its exports are
    not those of the original.
    """
    import tomlkit

    definition = definition_of(plain) or {}
    if name is None:
        del definition["name"]
    # Tables must follow the values, and empty ones say nothing.
    simple = {k: v for k, v in definition.items() if k not in ("layouts", "recipe") and v != {}}
    for key in ("codes", "ignore"):
        if not simple.get(key):
            simple.pop(key, None)
    tables = {"recipe": _without_none(definition["recipe"])}
    if "layouts" in definition:
        for layout in definition["layouts"]:
            if "format" in layout:
                del layout["masks"]
        tables = {"layouts": definition["layouts"], **tables}
    return HEADER + tomlkit.dumps({**simple, **tables})


def write_classes(
    task: ClassificationTask, images: Sequence[tuple[Path, str, str]], out: Path, name: str
) -> list[Path]:
    """Write copies of images, a table of their classes, and a task.toml to the folder `out`.

    `images` has each image's file, the name of its copy, and its class. `name` is the new task's.
    """
    refuse_slices([file for file, _, _ in images])
    for file, copy, _ in images:
        _copy(out / IMAGES / copy, file, copy, further_files(task, file, copy))
    columns = ("image", "class")
    rows = ({"image": f"{IMAGES}/{copy}", "class": label} for _, copy, label in images)
    table = write_rows(out / CLASS_TABLE, rows)
    plain = ClassificationTask(
        name=name,
        classes=task.classes,
        folders={None: ("",)},
        table=CLASS_TABLE,
        columns=columns,
        image_as="path",
        label_as="name",
        **_carried(task),
    )
    path = out / TASK_FILE
    path.write_text(_toml_of(plain, name), encoding="utf-8")
    return [table, path]


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _by_split(entries: Iterable[Entry]) -> dict[str | None, list[Entry]]:
    found: dict[str | None, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.split, []).append(entry)
    return found


def _copied(entries: Iterable[Entry], out: Path, folder: str) -> Iterator[ToWrite]:
    """Copy each image to `out / folder`, and yield it with its mask."""
    for entry in entries:
        name = str(PurePosixPath(folder) / entry.name)
        codes, scores = entry.read()
        _copy(out / name, entry.image, entry.name, entry.more)
        yield ToWrite(out / name, name, codes, scores)


def _copy(place: Path, image: Path, name: str, more: Iterable[tuple[Path, str]]) -> None:
    """Copy an image to `place`, and its further files beside it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for source, copy in ((image, name), *more):
        try:
            shutil.copyfile(source, place.with_name(copy))
        except OSError as error:
            raise DataError(
                f"{source}: cannot be copied ({error.strerror or error})", "not-copied"
            ) from None


def _write_labels(
    task: SegmentationTask, target: str, entries: Sequence[Entry], out: Path
) -> tuple[list[Layout], list[Path]]:
    """Write label files of a format: a folder for each split, or one data.yaml for YOLO."""
    form = formats.get(target)
    drawing = task.classes, task.palette, task.background
    parts = _by_split(entries)
    if target == "yolo":
        names = {split: f"images/{split or 'train'}" for split in parts}
        if set(parts) == {None}:
            names = {None: "images"}
        images = (
            image for split, group in parts.items() for image in _copied(group, out, names[split])
        )
        written = form.write(images, out, *drawing)
        return [Layout("", "", format=target, labels="data.yaml")], written
    layouts, written = [], []
    for split, group in parts.items():
        folder = "" if set(parts) == {None} else split or "all"
        place = out / folder
        place.mkdir(exist_ok=True)
        files = form.write(_copied(group, place, "images"), place, *drawing)
        labels = _labels_in(form.find(place), place)
        layouts.append(
            Layout(
                folder,
                "",
                split,
                format=target,
                labels=labels.relative_to(out).as_posix(),
            )
        )
        written += files
    return layouts, written


def _labels_in(files: Sequence[Path], place: Path) -> Path:
    """Return the label file that stands for `files`, or their folder if there is one an image."""
    if len(files) == 1 and files[0].parent == place:
        return files[0]
    return Path(os.path.commonpath([file.parent for file in files]))


def _stem(task: SegmentationTask, image: ToWrite) -> str:
    """Return the stem of an image's mask: the image's, without the end of the first channel."""
    return image.image.stem.removesuffix(task.channel_files[0] if task.channel_files else "")


def _write_png(
    task: SegmentationTask, entries: Sequence[Entry], out: Path
) -> tuple[list[Layout], list[Path]]:
    """Write images/ and masks/ of codes, in subfolders for splits, and class_names.txt."""
    from ..data.images import save_image

    parts = _by_split(entries)
    layouts, written = [], []
    for split, group in parts.items():
        end = "" if set(parts) == {None} else f"/{split or 'all'}"
        layout = Layout(f"images{end}", f"masks{end}", split)
        for image in _copied(group, out, layout.images):
            mask = out / layout.masks / f"{_stem(task, image)}.png"
            written.append(save_image(mask, image.codes))
        layouts.append(layout)
    names = out / "class_names.txt"
    names.write_text("".join(f"{name}\n" for name in task.classes), encoding="utf-8")
    return layouts, [*written, names]


def _write_voc(
    task: SegmentationTask, entries: Sequence[Entry], out: Path
) -> tuple[list[Layout], list[Path]]:
    """Write JPEGImages, palette masks in SegmentationClass, lists and labelmap.txt.

    Images keep their own format: JPEG would change their pixels.
    """
    from PIL import Image

    from ..data.images import save_image

    colours = bytearray(768)
    for code, colour in enumerate([*task.palette][:IGNORE]):
        colours[code * 3 : code * 3 + 3] = bytes(colour)
    colours[IGNORE * 3 :] = bytes(VOID)
    layouts, written = [], []
    for split, group in _by_split(entries).items():
        list_file = f"ImageSets/Segmentation/{VOC_LISTS[split]}.txt"
        stems = []
        for image in _copied(group, out, "JPEGImages"):
            mask = Image.fromarray(image.codes)
            mask.putpalette(bytes(colours))
            written.append(
                save_image(out / "SegmentationClass" / f"{_stem(task, image)}.png", mask)
            )
            stems.append(_stem(task, image))
        (out / list_file).parent.mkdir(parents=True, exist_ok=True)
        (out / list_file).write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
        layouts.append(Layout("JPEGImages", "SegmentationClass", split, list_file=list_file))
        written.append(out / list_file)
    labelmap = out / "labelmap.txt"
    labelmap.write_text(_labelmap(task.classes, task.palette), encoding="utf-8")
    return layouts, [*written, labelmap]


def _labelmap(classes: Sequence[str], palette: Sequence[Colour]) -> str:
    """Return labelmap.txt as CVAT writes it."""
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(classes, palette)]
    return "\n".join(lines) + "\n"

"""Which place an image's label has, and which images of a task's folders have none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..data.class_masks import combined
from ..data.pairing import images_and_masks, images_below
from ..data.reading import first_files
from ..data.slices import is_medical, real_file, stem_of
from ..data.state import mask_of
from ..errors import DataError
from ..tasks import ClassificationTask, Item, Layout, SegmentationTask, Task
from ..tasks.corrected import folder_of, is_deep, layout_of
from ..tasks.layouts import PARQUET, class_files
from ..utils.io import name_below
from ..utils.shell import typed
from .encoding import WRITABLE
from .places import ClassEntry, ClassMaskFiles, DrawnMask, MaskFile, Place, TableCell, staging

LOSSLESS_MASK = ".png"


def nothing() -> None:
    """Return no label."""


def no_layout(image: Path, task: Task) -> DataError:
    """Return the error for an image that is in none of the task's image folders."""
    return DataError(
        f"{image}: is in no folder of images of {task.name}; put it where the task expects images "
        f"({task.expected()})",
        "no-layout",
    )


def require_files(task: Task, root: Path) -> None:
    """Raise `DataError` if all images of a task are in parquet files.

    Their pixels are only in the user's cache, so that no label can be saved beside them.
    """
    if isinstance(task, ClassificationTask):
        is_packed = task.labels == PARQUET
        remedy = "write them as files, with a table of their classes"
    else:
        assert isinstance(task, SegmentationTask)
        is_packed = all(layout.format == PARQUET for layout in task.layouts)
        folder = typed(root)
        remedy = f"write them as files (fastseg convert {folder} OUT --to png), and correct those"
    if is_packed:
        raise DataError(
            f"{root}: its images are inside parquet files, where no label can be corrected; "
            f"{remedy}",
            "packed-images",
        )


@dataclass
class Listing:
    """The items of a data folder by image name, and what is derived from them once."""

    task: Task
    root: Path
    items: dict[str, Item]
    _class_files: dict[Layout, dict[Path, dict[int, Path]]] = field(default_factory=dict)
    _table_names: dict[Path, dict[Path, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, root: Path) -> Listing:
        """Read the names, tables and label files of a data folder."""
        items, _ = task.listed(root)
        return cls(task, root, {name_below(root, item.image): item for item in items})

    def place(self, name: str) -> Place:
        """Return where the label of an image is, or would be.

        Raises `DataError` for an image in no folder of the task.
        """
        image, item = self.root / name, self.items.get(name)
        if isinstance(self.task, ClassificationTask):
            return self._class_place(self.task, name, image, item)
        assert isinstance(self.task, SegmentationTask)
        layout = layout_of(self.task, self.root, image, item)
        if layout is None and item is None:
            raise no_layout(image, self.task)
        label = item.label if item is not None and isinstance(item.label, Path) else None
        if layout is not None and layout.class_masks:
            return self._class_masks(self.task, layout, name, image)
        if item is not None and label is not None:
            if not item.origin and self._is_writable(label):
                return MaskFile(self.task, label, item.source)
            return self._drawn(self.task, name, partial(self.task.label, item))
        assert layout is not None
        if layout.has_drawn_masks or layout.list_file or layout.manifest or layout.format:
            return self._drawn(self.task, name)
        return self._new_mask(self.task, layout, name, image)

    def _drawn(
        self, task: SegmentationTask, name: str, before: Callable[[], np.ndarray | None] = nothing
    ) -> DrawnMask:
        return DrawnMask(task, mask_of(self.root, name), before)

    def _is_writable(self, mask: Path) -> bool:
        inside = Path(os.path.realpath(mask.parent)).is_relative_to(os.path.realpath(self.root))
        return inside and not is_medical(mask) and mask.suffix.lower() in WRITABLE

    def _new_mask(self, task: SegmentationTask, layout: Layout, name: str, image: Path) -> Place:
        """Return the place of the mask of an image without one, named as those of the others."""
        images, masks = layout.folders(self.root)
        stem = stem_of(image)
        if not stem.endswith(layout.image_end):
            raise no_layout(image, task)
        others = [
            item
            for item in self.items.values()
            if item.image.parent == image.parent and isinstance(item.label, Path)
        ]
        ends = task.channel_files[:1] or (layout.image_end,)
        is_plain = all(
            i.label.stem
            in (stem_of(i.image), stem_of(i.image).removesuffix(ends[0]) + layout.mask_end)
            for i in others
            if isinstance(i.label, Path)
        )
        side_by_side = images == masks and not layout.mask_end
        is_taken = side_by_side and image.suffix.lower() == LOSSLESS_MASK
        if is_medical(real_file(image)) or is_taken or not is_plain:
            return self._drawn(task, name)
        suffix = LOSSLESS_MASK if side_by_side else _usual_suffix(others, task)
        below = Path(os.path.relpath(image.parent, images))
        mask = masks / below / f"{stem.removesuffix(ends[0])}{layout.mask_end}{suffix}"
        return MaskFile(task, Path(os.path.normpath(mask)), layout.source)

    def _class_masks(
        self, task: SegmentationTask, layout: Layout, name: str, image: Path
    ) -> ClassMaskFiles:
        if layout not in self._class_files:
            found = class_files(layout, self.root, task.classes, [])
            self._class_files[layout] = dict(found)
        files = self._class_files[layout].get(image, {})
        suffix = next((file.suffix for file in files.values()), LOSSLESS_MASK)
        if not self._class_files[layout]:
            suffix = LOSSLESS_MASK
        masks = self.root / layout.masks
        stem = stem_of(image).removesuffix(layout.image_end)
        below = Path(os.path.relpath(image.parent, self.root / layout.images))
        wanted = {}
        for code, label in enumerate(task.classes):
            if layout.class_masks == "names":
                file = masks / below / f"{stem}_{label}{layout.mask_end}{suffix}"
            else:
                file = (
                    masks
                    / self._class_folder(masks, label)
                    / below
                    / (f"{stem}{layout.mask_end}{suffix}")
                )
            wanted[code] = Path(os.path.normpath(file))
        others = {code: file for code, file in wanted.items() if code not in files}
        before = partial(combined, files, task.background) if files else nothing
        mask, staged = mask_of(self.root, name), staging(self.root)
        return ClassMaskFiles(task, mask, before, staged, dict(files), others)

    def _class_folder(self, masks: Path, label: str) -> str:
        """Return the folder of a class as it is spelt on the disk."""
        names = (
            [entry.name for entry in masks.iterdir() if entry.is_dir()] if masks.is_dir() else []
        )
        return next((n for n in names if n.casefold() == label.casefold()), label)

    def _class_place(
        self, task: ClassificationTask, name: str, image: Path, item: Item | None
    ) -> Place:
        found = folder_of(task, self.root, image)
        if found is None and item is None:
            raise no_layout(image, task)
        before = item.label if item is not None and isinstance(item.label, int) else None
        if found is None or task.labels != "table":
            return ClassEntry(task, self.root, name, self.root, before)
        folder = found[1]
        if folder not in self._table_names:
            self._table_names[folder] = task.table_names(folder)
        named = self._table_names[folder].get(image)
        if named is None:
            direct = task.names_of([image], folder)[image]
            named = direct if image.parent == folder else name_below(folder, image)
        return TableCell(task, folder / task.table, named)

    def unlabelled(self) -> list[Path]:
        """Return the images in the task's image folders that have no label, sorted by path."""
        labelled = {os.path.normpath(item.image) for item in self.items.values()}
        if isinstance(self.task, ClassificationTask):
            found = self._images_to_classify(self.task)
        else:
            assert isinstance(self.task, SegmentationTask)
            found = self._images_to_segment(self.task)
        chosen = first_files(sorted({*found}), self.task.channel_files)
        return [image for image in chosen if os.path.normpath(image) not in labelled]

    def _images_to_classify(self, task: ClassificationTask) -> Iterable[Path]:
        if task.labels == PARQUET:
            return []
        split_folders = {folder for _, folder in task.data_folders(self.root)}
        return [
            image
            for folder in split_folders
            for image in images_below(folder)
            if not any(other in image.parents for other in split_folders if folder in other.parents)
        ]

    def _images_to_segment(self, task: SegmentationTask) -> Iterable[Path]:
        """Return the images of the layouts in use; of a split without labels, of its first one."""
        used = {(item.split, item.source) for item in self.items.values()}
        begun: set[tuple[str | None, str]] = set()
        found: list[Path] = []
        masks = {
            os.path.normpath(item.label)
            for item in self.items.values()
            if isinstance(item.label, Path)
        }
        for layout in task.layouts:
            key = layout.split, layout.source
            if layout.format == PARQUET or layout.manifest or key in begun:
                continue
            own = any(
                item.source == layout.source and self._layout_is(layout, item)
                for item in self.items.values()
            )
            if key in used and not own and not layout.format:
                continue
            images = self._images_of(layout, task)
            if images:
                begun.add(key)
                found += [image for image in images if os.path.normpath(image) not in masks]
        return found

    def _layout_is(self, layout: Layout, item: Item) -> bool:
        folder, parent = Path(os.path.normpath(self.root / layout.images)), item.image.parent
        return parent == folder or (is_deep(layout) and folder in parent.parents)

    def _images_of(self, layout: Layout, task: SegmentationTask) -> Sequence[Path]:
        images, masks = layout.folders(self.root)
        if not images.is_dir():
            return []
        if layout.class_masks:
            of_masks = {
                file for files in self._files_of_classes(layout, task) for file in files.values()
            }
            return [
                image
                for image in images_below(images, layout.deep)
                if image not in of_masks and (masks == images or masks not in image.parents)
            ]
        deep = is_deep(layout)
        if layout.format:
            return images_below(images, deep)
        return [
            image
            for image in images_and_masks(images, masks, layout.ends, deep)[0]
            if stem_of(image).endswith(layout.image_end)
        ]

    def _files_of_classes(
        self, layout: Layout, task: SegmentationTask
    ) -> Iterable[dict[int, Path]]:
        if layout not in self._class_files:
            self._class_files[layout] = dict(class_files(layout, self.root, task.classes, []))
        return self._class_files[layout].values()


def _usual_suffix(others: Sequence[Item], task: SegmentationTask) -> str:
    """Return the suffix of most masks in a folder, if new ones can be written with it."""
    counts = Counter(i.label.suffix for i in others if isinstance(i.label, Path))
    usual = [suffix for suffix, _ in counts.most_common() if suffix.lower() in WRITABLE]
    return usual[0] if usual else ".jpg" if task.masks == "threshold" else LOSSLESS_MASK

"""Labels that people saved in DIR/.fastseg: they come before those of label files and folders.

A data folder that has DIR/.fastseg is one that people label step by step: an image without a label
waits for one there, and does not stop a fit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.issues import Fault
from ..data.slices import real_file
from ..data.state import classes_in, masks_in, state_of
from ..types import Item
from ..utils.io import name_below

if TYPE_CHECKING:
    from .classification import ClassificationTask
    from .layouts import Layout
    from .segmentation import SegmentationTask

Listed = tuple[list[Item], list[Fault]]


def with_corrected_masks(
    task: SegmentationTask, root: Path, items: list[Item], faults: list[Fault]
) -> Listed:
    """Return items and faults with the masks of DIR/.fastseg/masks in place of others."""
    if not state_of(root).is_dir():
        return items, faults
    masks = masks_in(root)
    if masks:
        items = [_corrected(root, item, masks) for item in items]
        for name, mask in masks.items():
            image = root / name
            layout = layout_of(task, root, image) if real_file(image).is_file() else None
            if layout is not None:
                items.append(task.item_of(image, mask, layout, root, str(mask)))
    return items, _waiting(items, faults)


def _corrected(root: Path, item: Item, masks: dict[str, Path]) -> Item:
    mask = masks.pop(name_below(root, item.image), None)
    return item if mask is None else replace(item, label=mask, origin=item.shown_label)


def with_corrected_classes(
    task: ClassificationTask, root: Path, items: list[Item], faults: list[Fault]
) -> Listed:
    """Return items and faults with the classes of DIR/.fastseg/classes.csv in place of others."""
    if not state_of(root).is_dir():
        return items, faults
    named = {name: text for name, text in classes_in(root) if text in task.classes}
    found = []
    for item in items:
        text = named.pop(name_below(root, item.image), None)
        found.append(item if text is None else replace(item, label=task.classes.index(text)))
    for name, text in named.items():
        place = folder_of(task, root, root / name)
        if (root / name).is_file() and place is not None:
            split, folder = place
            base = root if task.labels == "folders" else folder
            found.append(task.item_of(root / name, task.classes.index(text), split, base))
    return found, _waiting(found, faults)


def _waiting(items: Sequence[Item], faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without those of images that have a label now; others may wait for one."""
    labelled = {str(item.image) for item in items}
    return [
        as_waiting(fault)
        for fault in faults
        if not (fault.file in labelled and (fault.waits or fault.kind == "unlabelled image"))
    ]


def as_waiting(fault: Fault) -> Fault:
    """Return a fault as one that stops no fit if it is an image that only lacks a label."""
    if not fault.waits:
        return fault
    return replace(fault, kind="unlabelled image", remedy="label it, or leave it: it is not used")


def layout_of(
    task: SegmentationTask, root: Path, image: Path, item: Item | None = None
) -> Layout | None:
    """Return the layout that an image belongs to, by its folder; None if there is none.

    Layouts that have labels come before others, and those of the item's split and source.
    """
    parent = Path(os.path.normpath(real_file(image).parent))

    def has_labels(layout: Layout) -> bool:
        named = layout.labels or layout.manifest or layout.masks
        return (root / named).exists()

    found = [
        layout
        for layout in task.layouts
        if not layout.manifest
        and (item is None or layout.source == item.source)
        and (
            parent == (folder := Path(os.path.normpath(root / layout.images)))
            or (folder in parent.parents and is_deep(layout))
        )
    ]
    if not found:
        return next((layout for layout in task.layouts if layout.manifest), None)
    return min(
        found,
        key=lambda layout: (
            item is not None and layout.split not in (item.split, None),
            not has_labels(layout),
            -len(layout.images),
        ),
    )


def is_deep(layout: Layout) -> bool:
    """Return whether images of a layout may be in subfolders of its folder."""
    return bool(layout.deep or layout.list_file or layout.format)


def folder_of(task: ClassificationTask, root: Path, image: Path) -> tuple[str | None, Path] | None:
    """Return the split and the data folder that an image is in; None if it is in none."""
    parents = {Path(os.path.normpath(parent)) for parent in image.parents}
    found = [
        (split, folder)
        for split, folder in task.data_folders(root)
        if Path(os.path.normpath(folder)) in parents
    ]
    return max(found, key=lambda entry: len(entry[1].parts), default=None)

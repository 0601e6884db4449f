"""Copies new images into the layout of a task's data."""

from __future__ import annotations

from pathlib import Path

from ..data.pairing import images_below, is_image
from ..data.slices import stem_of
from ..errors import DataError
from ..tasks import ClassificationTask, Layout, SegmentationTask, Task
from ..tasks.corrected import is_deep
from ..tasks.layouts import PARQUET
from .locate import Listing, no_layout
from .places import copy_file


def add_image(task: Task, root: Path, listing: Listing, file: Path) -> Path:
    """Copy an image without a label into the task's layout, and return the copy's path.

    An image whose content is there already is returned as it is.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such image; check the path", "no-such-image")
    if not is_image(file):
        raise DataError(f"{file}: is not named as an image", "unreadable-image")
    if not task.channel_files:
        task.image(file)  # it can be decoded
    folder, end = _target(task, root, listing)
    there = _same_content(file, [item.image for item in listing.items.values()])
    there = there or _same_content(file, listing.unlabelled())
    if there is not None:
        return there
    stem = stem_of(file)
    name = file.name if stem.endswith(end) else f"{stem}{end}{file.suffix}"
    taken = next(
        (
            other
            for other in (images_below(folder, deep=False) if folder.is_dir() else ())
            if stem_of(other).casefold() == stem_of(Path(name)).casefold()
        ),
        None,
    )
    if taken is not None:
        raise DataError(
            f"{file}: another image of this name is there, {taken}; rename the new one", "same-name"
        )
    copy_file(file, folder / name)
    return folder / name


def _same_content(file: Path, images: list[Path]) -> Path | None:
    """Return the first of these images that has the bytes of a file."""
    size = file.stat().st_size
    content: bytes | None = None
    for image in images:
        if image.is_file() and image.stat().st_size == size:
            content = file.read_bytes() if content is None else content
            if image.read_bytes() == content:
                return image
    return None


def _target(task: Task, root: Path, listing: Listing) -> tuple[Path, str]:
    """Return the folder for new images, and the end of their stems."""
    end = task.channel_files[0] if task.channel_files else ""
    if isinstance(task, ClassificationTask):
        folders = dict(task.data_folders(root))
        if task.labels == PARQUET:
            raise no_layout(root, task)
        for split in (None, "train"):
            if split in folders:
                return folders[split], end
        names = task.folders.get(None) or task.folders.get("train") or ("",)
        return root / names[0], end
    assert isinstance(task, SegmentationTask)
    layout = _layout_for_new(task, root, listing)
    if layout is None:
        raise no_layout(root, task)
    return root / layout.images, end or layout.image_end


def _layout_for_new(task: SegmentationTask, root: Path, listing: Listing) -> Layout | None:
    """Return the layout of new images: one in use, without a split or for training."""
    usable = [
        layout
        for layout in task.layouts
        if layout.split in (None, "train") and not layout.manifest and layout.format != PARQUET
    ]
    folders = {item.image.parent for item in listing.items.values()}

    def rank(layout: Layout) -> tuple[bool, bool]:
        images = root / layout.images
        in_use = images in folders or (
            is_deep(layout) and any(images in folder.parents for folder in folders)
        )
        return not in_use, not images.is_dir()

    return min(usable, key=rank, default=None)

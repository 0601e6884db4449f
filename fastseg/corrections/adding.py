"""Copies new images into the layout of a task's data."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.channels import files_of
from ..data.contents import digests
from ..data.pairing import images_below, is_image, is_mask
from ..data.parts import Ledger
from ..data.slices import stem_of
from ..errors import DataError, FastsegError
from ..tasks import ClassificationTask, Item, Layout, SegmentationTask, Task
from ..tasks.corrected import is_deep
from ..tasks.layouts import PARQUET
from .locate import Listing, no_layout
from .places import copy_file


def add_image(task: Task, root: Path, listing: Listing, file: Path) -> Path:
    """Copy an image without a label into the task's layout, and return the copy's path.

    An image whose content is there already is returned as it is. Where folders divide the images,
    the ledger of parts says which one, see `data.parts`.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such image; check the path", "no-such-image")
    if not is_image(file):
        raise DataError(f"{file}: is not named as an image", "unreadable-image")
    task.image(file)  # it can be decoded, with all its channels
    there = _same_content(file, [item.image for item in listing.items.values()])
    there = there or _same_content(file, listing.unlabelled())
    if there is not None:
        return there
    folder, end = _target(task, root, lambda: listing, file)
    stem = stem_of(file)
    name = file.name if stem.endswith(end) else f"{stem}{end}{file.suffix}"
    others = images_below(folder, deep=False)
    taken = next((o for o in others if stem_of(o).casefold() == stem_of(Path(name)).casefold()), "")
    if taken:
        raise DataError(
            f"{file}: another image of this name is there, {taken}; rename the new one", "same-name"
        )
    first, *more = files_of(file, task.reading)
    for channel in more:
        copy_file(channel, folder / channel.name)
    copy_file(first, folder / name)
    return folder / name


def folder_for_new(task: Task, data: Path | str, file: Path) -> Path | None:
    """Return the folder below `data` to which a new image is to be copied; None if not known."""
    root = Path(data)
    try:
        found = _target(task, root, lambda: Listing.of(task, root), file) if root.is_dir() else None
    except FastsegError:
        return None
    return found[0] if found else None


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


def _target(task: Task, root: Path, listing: Callable[[], Listing], file: Path) -> tuple[Path, str]:
    """Return the folder for a new image, and the end of its stem.

    `listing` is called only where several layouts can take the image.
    """
    end = task.channel_files[0] if task.channel_files else ""
    side = _side(task, root, file)
    if isinstance(task, ClassificationTask):
        if task.labels == PARQUET:
            raise no_layout(file, task)
        folders = dict(task.data_folders(root))
        for split in (side, None, "train"):
            if split in folders:
                return folders[split], end
        names = task.folders.get(None) or task.folders.get("train") or ("",)
        return root / names[0], end
    assert isinstance(task, SegmentationTask)
    layout = _layout_for_new(task, root, listing, (side, None, "train"))
    if layout is None:
        raise no_layout(file, task)
    name = Path(f"{stem_of(file)}{layout.image_end}{file.suffix}")
    if layout.images == layout.masks and not layout.format and is_mask(name, layout.ends):
        raise DataError(
            f"{file}: would be taken for a mask in {root / layout.images}, where images and masks "
            "are side by side; rename it, or save it as JPEG or TIFF",
            "image-is-mask",
        )
    return root / layout.images, end or layout.image_end


def _side(task: Task, root: Path, file: Path) -> str:
    """Return the part that the ledger gives to a new image."""
    ledger = Ledger.of(root)
    if ledger is None:
        return "train"
    pattern = getattr(task, "group", None)
    match = re.match(pattern, stem_of(file)) if pattern else None
    (content,) = digests([Item(file, 0)], task.reading)
    return ledger.side_for(match.group() if match else None, content)


def _layout_for_new(
    task: SegmentationTask,
    root: Path,
    listing: Callable[[], Listing],
    splits: Sequence[str | None],
) -> Layout | None:
    """Return the layout of new images: one in use, of the first of `splits` that there is."""
    usable = [
        layout
        for layout in task.layouts
        if layout.split in splits and not layout.manifest and layout.format != PARQUET
    ]
    if len(usable) < 2:
        return usable[0] if usable else None
    folders = {item.image.parent for item in listing().items.values()}

    def rank(layout: Layout) -> tuple[bool, int, bool]:
        images = root / layout.images
        in_use = images in folders or (
            is_deep(layout) and any(images in folder.parents for folder in folders)
        )
        return not in_use, splits.index(layout.split), not images.is_dir()

    return min(usable, key=rank, default=None)

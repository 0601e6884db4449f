"""The files of a folder by name: image files of each folder below it, and other files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..data.pairing import is_image
from ..data.state import CORRECTIONS
from ..errors import DataError

MAX_DEPTH = 12  # levels of folders
SKIPPED = ("__MACOSX", "task.toml")

_MASK = (
    "mask masks label labels lbl lbls gt gts groundtruth truth seg segs segm segmentation "
    "segmentations annot annots annotation annotations anno annos target targets matte mattes "
    "gtfine gtcoarse labelids labeltrainids labeled labelled manual semantic"
)
MASK_WORDS = frozenset(_MASK.split())
_IMAGE = (
    "image images img imgs jpegimages jpeg photo photos picture pictures pic pics input inputs "
    "raw rgb frame frames scan scans leftimg8bit original originals orig still stills "
    "stillsraw"
)
IMAGE_WORDS = frozenset(_IMAGE.split())
# Folders and ends of what is neither an image nor a mask of classes
_DERIVED = (
    "instance instances instanceids instancetrainids object overlay overlays visualization "
    "visualisation viz vis preview previews color colour colors colours thumb thumbs depth "
    "disparity"
)
DERIVED_WORDS = frozenset(_DERIVED.split())
SPLITS = {
    "train": ("train", "training", "trn", "tr"),
    "valid": ("valid", "val", "validation", "dev", "validate"),
    "test": ("test", "testing", "tst"),
}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
FILLERS = ("class", "aug", "png", "jpg", "full", "approved")  # of names such as SegmentationClass


@dataclass(frozen=True)
class Folder:
    """The files directly in one folder, by name, sorted."""

    path: str  # below the root, with slashes; "" is the root
    images: tuple[str, ...]
    others: tuple[str, ...]


@dataclass
class Survey:
    """All folders below a root that have files, by path."""

    root: Path
    folders: dict[str, Folder] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many image files there are."""
        return sum(len(folder.images) for folder in self.folders.values())

    def with_images(self) -> list[Folder]:
        """Return the folders with image files, sorted by path."""
        return [folder for _, folder in sorted(self.folders.items()) if folder.images]

    def others(self, *suffixes: str) -> list[str]:
        """Return the paths of other files with one of these suffixes, upper folders first."""
        found = [
            join(folder.path, name)
            for folder in self.folders.values()
            for name in folder.others
            if name.lower().endswith(suffixes)
        ]
        return sorted(found, key=lambda path: (path.count("/"), path))

    def path(self, *parts: str) -> Path:
        """Return the file system's path of a file or folder below the root."""
        return self.root.joinpath(*parts)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; "" is the root."""
    return f"{folder}/{name}" if folder else name


def survey(root: Path) -> Survey:
    """Return the files below a folder by name. Hidden ones are skipped.

    Raises `DataError` if it is no folder, or has no files.
    """
    if not root.is_dir():
        state = "is a file" if root.is_file() else "does not exist"
        raise DataError(f"{root}: {state}; give the folder that holds the data", "no-such-path")
    found = Survey(root)
    for path, images, others in _walk(root, "", ()):
        if images or others:
            found.folders[path] = Folder(path, tuple(images), tuple(others))
    if not found.folders:
        raise DataError(f"{root}: is empty; put images and their labels there", "no-data")
    return found


def _walk(
    folder: Path, path: str, within: tuple[str, ...]
) -> Iterator[tuple[str, list[str], list[str]]]:
    real = os.path.realpath(folder)
    if real in within or len(within) > MAX_DEPTH:  # a link to a folder around itself
        return
    images, others, folders = [], [], []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror})", "unreadable-folder"
        ) from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name in SKIPPED:
            continue
        if _is_folder(entry):
            folders.append(entry.name)
        elif not path and entry.name.startswith("new_") and entry.name.endswith(".png"):
            continue  # the picture of an earlier run in this folder
        elif not path and entry.name == CORRECTIONS:
            continue  # the list of corrected labels
        elif is_image(Path(entry.name)):
            images.append(entry.name)
        else:
            others.append(entry.name)
    yield path, images, others
    for name in folders:
        yield from _walk(folder / name, join(path, name), (*within, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; a link that leads to where nobody may look is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: SegmentationClass, 2_mask, trainannot."""
    whole = name.lower()
    if whole in MASK_WORDS | IMAGE_WORDS | DERIVED_WORDS:
        return [whole]
    found = [word.lower() for word in WORD.findall(name)]
    split: list[str] = []
    for word in found:  # trainannot: a split and a word for masks without a separator
        begin = next(
            (
                name
                for names in SPLITS.values()
                for name in names
                if word.startswith(name) and word[len(name) :] in MASK_WORDS | IMAGE_WORDS
            ),
            None,
        )
        split += [begin, word[len(begin) :]] if begin else [word]
    return split


def role(path: str) -> str | None:
    """Return what a path's words say its files are: "mask", "image", "derived", or None."""
    for component in reversed(path.split("/")):
        found = set(words(component))
        if found & DERIVED_WORDS:
            return "derived"
        if found & MASK_WORDS:
            return "mask"
        if found & IMAGE_WORDS:
            return "image"
    return None


def split_of(path: str) -> str | None:
    """Return the split that the words of a path name, or None."""
    for component in path.split("/"):
        for word in words(component):
            for split, names in SPLITS.items():
                if word in names:
                    return split
    return None


def without_roles(path: str) -> str:
    """Return a folder's path without the words that say what its files are.

    Folders of images and of their masks have the same one: train/images and train/masks.
    """
    parts = []
    for component in path.split("/"):
        rest = [
            word
            for word in words(component)
            if word not in MASK_WORDS | IMAGE_WORDS and word not in FILLERS
        ]
        if rest:
            parts.append("_".join(rest))
    return "/".join(parts)

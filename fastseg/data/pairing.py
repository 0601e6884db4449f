"""Which files are images, and which mask belongs to which image, by their names alone."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..types import Item
from .issues import Fault
from .slices import DICOM, NIFTI, split_slice, stem_of

# Formats of photographs, scans, frames and masks that Pillow reads. Not icons, textures and vector
# graphics, and not the layered files of drawing programs, which may be in the same folder.
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".mpo",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".avif",
    ".jp2",
    ".j2k",
    ".j2c",
    ".jpc",
    ".jpf",
    ".jpx",
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
    ".pfm",
    ".tga",
    ".pcx",
    ".qoi",
    ".sgi",
    ".ras",
    # of the extra `medical`: only where the files can be read
    *(DICOM if find_spec("pydicom") else ()),
    *(NIFTI if find_spec("nibabel") else ()),
)

SEPARATOR = re.compile(r"[_\-. ]")  # between the words of a file name


def is_image(path: Path) -> bool:
    """Return whether a path has an image's suffix and is not hidden."""
    return path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name; hidden files are skipped."""
    return sorted(filter(is_image, folder.iterdir()))


def images_below(folder: Path, deep: bool = True) -> list[Path]:
    """Return the image files in `folder`, and in its subfolders if `deep`, sorted by path.

    Hidden files and folders are skipped. None if there is no such folder.
    """
    if not folder.is_dir():
        return []
    return sorted(_walk(folder)) if deep else image_files(folder)


def _walk(folder: Path, within: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield image files; a link to a folder around itself is not followed."""
    real = folder.resolve()
    if real in within:
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _walk(entry, (*within, real))
        elif is_image(entry):
            yield entry


def normal(name: str) -> str:
    """Return a file name in the form in which accented letters compare equal on all systems."""
    return unicodedata.normalize("NFC", name)


def key_below(folder: Path, file: Path, end: str = "") -> str | None:
    """Return a file's path below `folder` without suffix and without `end`, with slashes.

    None if its stem does not end with `end`.
    """
    stem = normal(stem_of(file))
    if not stem.endswith(normal(end)):
        return None
    parent = Path(os.path.relpath(file.parent, folder)).as_posix()
    stem = stem[: len(stem) - len(normal(end))]
    return stem if parent == "." else f"{normal(parent)}/{stem}"


def by_stem(files: Sequence[Path], faults: list[Fault]) -> dict[str, Path]:
    """Return the first file of each stem; further files of a stem are added to `faults`."""
    found: dict[str, Path] = {}
    for file in files:
        stem = stem_of(file)
        if stem in found:
            faults.append(
                Fault(
                    "doubled name",
                    str(file),
                    f"has the same name as {found[stem].name}",
                    "keep one, or rename it",
                )
            )
        found.setdefault(stem, file)
    return found


def pairs(images: Path, masks: Path, faults: list[Fault]) -> list[tuple[Path, Path]]:
    """Return (image, mask) files of equal stems, sorted by stem; none if either folder has none.

    Files without a partner are added to `faults`. If the folders are equal, PNG files are masks and
    other files are images. A mask with one more word in its name also matches (7.jpg, 7_mask.png).
    If no stems are equal, they are compared without the prefix or suffix that all images, or masks,
    have (img_7.jpg and gt_7.png).
    """
    files, mask_files = image_files(images), image_files(masks)
    if images == masks:
        mask_files = [f for f in files if f.suffix.lower() == ".png"]
        files = [f for f in files if f.suffix.lower() != ".png"]
        if not files or not mask_files:
            return []
    left, right = by_stem(files, faults), by_stem(mask_files, faults)
    right = by_word(left, right)
    if not left.keys() & right.keys():
        left, right = without_affixes(left, right)
    for ours, theirs, what, where in ((left, right, "mask", masks), (right, left, "image", images)):
        faults += [
            Fault(
                "no partner",
                str(ours[stem]),
                f"has no {what} of the same name in {where}",
                "add it, or remove the file",
                waits=what == "mask",
            )
            for stem in sorted(ours.keys() - theirs.keys())
        ]
    return [(left[stem], right[stem]) for stem in sorted(left.keys() & right.keys())]


def pairs_by_ends(
    images: Path, masks: Path, ends: tuple[str, str], deep: bool, faults: list[Fault]
) -> list[tuple[Path, Path]]:
    """Return (image, mask) files whose stems are equal without the declared ends, sorted by path.

    `ends` are those of the stems of images and of masks. If `deep`, subfolders are searched, and
    the paths below `images` and `masks` are equal, too. Files without a declared end are not
    looked at. Files without a partner are added to `faults`.
    """
    image_list, mask_list = images_and_masks(images, masks, ends, deep)
    left = by_key(images, image_list, ends[0], faults)
    right = by_key(masks, mask_list, ends[1], faults)
    for ours, theirs, what, where in ((left, right, "mask", masks), (right, left, "image", images)):
        end = ends[1] if what == "mask" else ends[0]
        faults += [
            Fault(
                "no partner",
                str(ours[key]),
                f"has no {what} {key}{end} in {where}",
                "add it, or remove the file",
                waits=what == "mask",
            )
            for key in sorted(ours.keys() - theirs.keys())
        ]
    return [(left[key], right[key]) for key in sorted(left.keys() & right.keys())]


def images_and_masks(
    images: Path, masks: Path, ends: tuple[str, str], deep: bool
) -> tuple[list[Path], list[Path]]:
    """Return the image files and the mask files of two folders, which may be one folder.

    In one folder, a file is a mask if its stem has the end of masks; if neither kind has an end,
    PNG files are masks. If one folder is in the other, its files are of its own kind.
    """
    found, of_masks = images_below(images, deep), images_below(masks, deep)
    both = set(found) & set(of_masks)
    if images == masks:
        both_masks = {file for file in both if is_mask(file, ends)}
    else:
        both_masks = both if images in masks.parents else set()
    return (
        [file for file in found if file not in both_masks],
        [file for file in of_masks if file not in both or file in both_masks],
    )


def is_mask(file: Path, ends: tuple[str, str]) -> bool:
    """Return whether a file's name is that of a mask, in a folder with images and masks."""
    image_end, mask_end = ends
    stem = normal(stem_of(file))
    if not image_end and not mask_end:
        return file.suffix.lower() == ".png"
    if not mask_end:
        return not stem.endswith(normal(image_end))
    longer = len(image_end) > len(mask_end) and stem.endswith(normal(image_end))
    return stem.endswith(normal(mask_end)) and not longer


def by_key(folder: Path, files: Sequence[Path], end: str, faults: list[Fault]) -> dict[str, Path]:
    """Return the first file of each key, see `key_below`; further ones are added to `faults`.

    Files that are not below `folder`, which a list may name, count by their names alone.
    """
    found: dict[str, Path] = {}
    for file in files:
        key = key_below(folder if folder in file.parents else file.parent, file, end)
        if key is None:
            continue
        if key in found:
            detail = f"has the same name as {found[key].name}"
            faults.append(Fault("doubled name", str(file), detail, "keep one, or rename it"))
        found.setdefault(key, file)
    return found


def by_word(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Return masks keyed by image stem where the mask's stem has one more word (7_mask for 7).

    Other masks keep their stems; so do masks of images that have a mask with the same stem, or
    several masks with one more word.
    """
    found: dict[str, list[str]] = {}
    for stem in masks.keys() - images.keys():
        cuts = [match.span() for match in SEPARATOR.finditer(stem)]
        parts = [(stem[:start], stem[end:]) for start, end in reversed(cuts)] + [
            (stem[end:], stem[:start]) for start, end in cuts
        ]
        image = next(
            (name for name, word in parts if name in images and not any(c.isdigit() for c in word)),
            None,
        )
        if image is not None and image not in masks:
            found.setdefault(image, []).append(stem)
    renamed = {stems[0]: image for image, stems in found.items() if len(stems) == 1}
    return {renamed.get(stem, stem): file for stem, file in masks.items()}


def without_affixes(
    images: dict[str, Path], masks: dict[str, Path]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and masks by stems without a common beginning or end, such as _mask.

    They are returned unchanged if this pairs none of them.
    """
    best, most = (images, masks), 0
    for image_affix in _affixes(list(images)):
        shortened = {_without_affix(stem, image_affix): file for stem, file in images.items()}
        for mask_affix in _affixes(list(masks)):
            labels = {_without_affix(stem, mask_affix): file for stem, file in masks.items()}
            matches = len(shortened.keys() & labels.keys())
            if matches > most and len(shortened) == len(images) and len(labels) == len(masks):
                best, most = (shortened, labels), matches
    return best


def _affixes(stems: list[str]) -> list[tuple[str, str]]:
    """Return each (prefix, suffix) that all stems share, cut at separators, the shortest first.

    ("", "") is one of them.
    """
    beginning = os.path.commonprefix(stems)
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    beginnings = ["", *(beginning[: match.end()] for match in SEPARATOR.finditer(beginning))]
    ends = ["", *(end[match.start() :] for match in reversed(list(SEPARATOR.finditer(end))))]
    return sorted(
        (
            (first, last)
            for first in beginnings
            for last in ends
            if all(len(first) + len(last) < len(stem) for stem in stems)
        ),
        key=lambda pair: len(pair[0]) + len(pair[1]),
    )


def _without_affix(stem: str, affix: tuple[str, str]) -> str:
    beginning, end = affix
    return stem[len(beginning) : len(stem) - len(end)]


def pairing_note(items: Sequence[Item]) -> str | None:
    """Return a note on how differing names were paired; None if all names are equal."""
    for item in items:
        if item.origin or not isinstance(item.label, Path) or split_slice(item.image):
            continue
        if item.label.stem != item.image.stem:
            return (
                "masks are paired with images by parts of their names: "
                f"{item.label.name} with {item.image.name}"
            )
    return None

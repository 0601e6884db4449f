"""Files by name, and whole-or-nothing writing: what needs no pixels, and so no numpy."""
from __future__ import annotations

import csv
import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..data.issues import Fault
from ..errors import DataError, brief

# What Pillow reads of photographs, scans, frames and masks. Not of it: icons, textures, vectors, and the layered files that masks
# are drawn in and that lie beside them.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".mpo", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif",
                  ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tga", ".pcx", ".qoi",
                  ".sgi", ".ras")

SEPARATOR = re.compile(r"[_\-. ]")  # between the words of a file name
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
_UMASK = os.umask(0)  # can only be read by setting it; temporary files are private, outputs follow the user's umask
os.umask(_UMASK)


def is_image(path: Path) -> bool:
    """Return whether a path is named as an image, by its suffix alone, and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name; hidden files are skipped."""
    return sorted(filter(is_image, folder.iterdir()))


def name_below(root: Path | str, file: Path) -> str:
    """Return `file` relative to `root`, with slashes; links are not followed, so linked images keep their names."""
    return Path(os.path.relpath(os.path.abspath(file), os.path.abspath(root))).as_posix()


def by_stem(files: Sequence[Path], faults: list[Fault]) -> dict[str, Path]:
    """Return files by stem, the first of each; the others are added to `faults`."""
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            faults.append(Fault("doubled name", str(file), f"has the same name as {found[file.stem].name}", "keep one, or rename it"))
        found.setdefault(file.stem, file)
    return found


def pairs(images: Path, masks: Path, faults: list[Fault]) -> list[tuple[Path, Path]]:
    """Return (image, mask) files of equal stems, sorted; nothing if either folder has none. Files without a partner go to `faults`.

    When both are one folder, PNG files are masks and the others images. A mask whose name has one word more is a partner too
    (7.jpg and 7_mask.png), and where no stem has an equal, so are stems that are equal without what all images, and all masks,
    begin or end with (img_7.jpg and gt_7.png).
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
        faults += [Fault("no partner", str(ours[stem]), f"has no {what} of the same name in {where}", "add it, or remove the file")
                   for stem in sorted(ours.keys() - theirs.keys())]
    return [(left[stem], right[stem]) for stem in sorted(left.keys() & right.keys())]


def by_word(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Return masks by stem, those that are named like an image with one more word (7_mask for 7) by that image's.

    Masks of images that have one of the same name, or several such masks, keep their own stems.
    """
    found: dict[str, list[str]] = {}
    for stem in masks.keys() - images.keys():
        cuts = [match.span() for match in SEPARATOR.finditer(stem)]
        parts = [(stem[:start], stem[end:]) for start, end in reversed(cuts)] + [(stem[end:], stem[:start]) for start, end in cuts]
        image = next((name for name, word in parts if name in images and not any(c.isdigit() for c in word)), None)
        if image is not None and image not in masks:
            found.setdefault(image, []).append(stem)
    renamed = {stems[0]: image for image, stems in found.items() if len(stems) == 1}
    return {renamed.get(stem, stem): file for stem, file in masks.items()}


def without_affixes(images: dict[str, Path], masks: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and masks by stem without a common beginning or end, such as _mask, if that pairs any of them."""
    best, most = (images, masks), 0
    for image_affix in _affixes(list(images)):
        shortened = {_cut(stem, image_affix): file for stem, file in images.items()}
        for mask_affix in _affixes(list(masks)):
            labels = {_cut(stem, mask_affix): file for stem, file in masks.items()}
            matches = len(shortened.keys() & labels.keys())
            if matches > most and len(shortened) == len(images) and len(labels) == len(masks):
                best, most = (shortened, labels), matches
    return best


def _affixes(stems: list[str]) -> list[tuple[str, str]]:
    """Return the (beginning, end) that all stems share, cut at separators, the shortest first; ("", "") among them."""
    beginning = os.path.commonprefix(stems)
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    beginnings = ["", *(beginning[: match.end()] for match in SEPARATOR.finditer(beginning))]
    ends = ["", *(end[match.start():] for match in reversed(list(SEPARATOR.finditer(end))))]
    return sorted(((first, last) for first in beginnings for last in ends if all(len(first) + len(last) < len(stem) for stem in stems)),
                  key=lambda pair: len(pair[0]) + len(pair[1]))


def _cut(stem: str, affix: tuple[str, str]) -> str:
    beginning, end = affix
    return stem[len(beginning): len(stem) - len(end)]


def pairing_note(items: Sequence) -> str | None:
    """Say by which names images and masks were paired, if they are not equal; None if they are."""
    item = next((item for item in items if isinstance(item.label, Path) and item.label.stem != item.image.stem), None)
    return item and f"masks are paired with images by parts of their names: {item.label.name} with {item.image.name}"


def require_folder(folder: Path) -> None:
    """Raise `DataError`, before long work, if results cannot be written to `folder`, which need not exist yet."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{there}: is a file, not a folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{there}: cannot be written; choose another --out")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that the disk is full; torch's own writer names no such cause."""
    while error is not None:
        text = str(error)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "inline_container" in text or "StreamWriter" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step that no interruption can halve; return False where the system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return call is not None and call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `out`; it takes the place of `out`, which holds nothing worth keeping, on success, and goes on failure.

    `out` is to be claimed before. Raises `DataError` if nothing can be written there.
    """
    target = out.resolve()
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists() and not exchanged(part, target):
            shutil.rmtree(target)
        if part.exists() and not target.exists():
            part.rename(target)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, value: object) -> Path:
    """Write a value as JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return path


def read_json(path: Path) -> dict:
    """Return a JSON file's object. Raises `DataError` if it cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({brief(error)})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: cannot be read (not an object)")
    return value


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as CSV under the names of the first one's columns, nan as an empty field, whole or not at all.

    File names that are not UTF-8 are written as the bytes that they are.
    """
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow({key: "" if isinstance(value, float) and value != value else value for key, value in row.items()})
    return path

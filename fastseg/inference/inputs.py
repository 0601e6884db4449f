"""Finding the images to predict: from files, folders and patterns to image files."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.pairing import image_files, is_image
from ..data.slices import is_nifti, missing_reader
from ..errors import DataError

log = logging.getLogger(__name__)

NAMED = 5  # skipped files that the warning names
LONGEST_NAME = 255  # bytes; the limit of common file systems


def expand(
    paths: Sequence[Path | str], is_own: Callable[[Path], bool]
) -> tuple[list[Path], list[Path]]:
    """Return the image files that files, folders and globs name, in order, each once, and what was
    skipped.

    A file that is named directly is used whatever its suffix is. Other files in a folder are
    skipped, with a warning; fastseg's own files (see `is_own`) are skipped without one.
    Raises `DataError` for a path that holds no image.
    """
    found: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    for path in map(Path, paths):
        found.update(dict.fromkeys(_images_at(path)))
        if path.is_dir():
            others = sorted(p for p in path.iterdir() if not is_image(p) and not is_own(p))
            skipped.update(dict.fromkeys(others))
    left_out = [path for path in skipped if path not in found]
    if left_out:
        _warn_of_skipped(left_out)
    if not any(map(is_nifti, found)):
        return list(found), left_out
    from ..data.medical import slices_of  # for volumes only: it needs numpy

    return [part for path in found for part in slices_of(path)], left_out


def _images_at(path: Path) -> list[Path]:
    """Return the images of one folder, file or pattern. Raises `DataError` if there are none."""
    if len(path.name) > LONGEST_NAME:
        raise DataError(
            f"{path.name[:40]}...: the name is too long for a file; check the path", "no-such-path"
        )
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise _no_images(path)
        return files
    if path.exists():
        return [path]
    files = [file for file in sorted(map(Path, glob.glob(str(path)))) if file.is_file()]
    if not files:
        raise DataError(
            f"{path}: no such file or folder, and no file matches it as a pattern; check the path",
            "no-such-path",
        )
    return files


def _no_images(folder: Path) -> DataError:
    """Return the error for a folder without images; it names a subfolder that has some."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK) and image_files(entry):
            remedy = f"subfolders are not searched; try {entry}"
            break
    else:
        remedy = "give a folder with image files (.jpg, .png, .tif and others that Pillow reads)"
        if missing := missing_reader(folder.iterdir(), folder):
            return missing
    return DataError(f"{folder}: holds no images; {remedy}", "no-images")


def _warn_of_skipped(paths: Sequence[Path]) -> None:
    what = (
        "entry that is hidden or not named as an image"
        if len(paths) == 1
        else "entries that are hidden or not named as images"
    )
    names = ", ".join(f"{path}/" if path.is_dir() else str(path) for path in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    log.warning("skipped %d %s: %s%s", len(paths), what, names, more)

"""Finds the images that label files name, never outside the data folder; sizes of images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..data.pairing import is_image
from ..errors import DataError

ANY_SUFFIX = ".*"  # at the end of a name: any image of this stem, for formats that name no suffix
QUARTER_TURNS = (5, 6, 7, 8)  # values of EXIF's orientation that swap the sides


class OutsideError(DataError):
    """A name in a label file that leads out of the data folder."""

    code = "label-file"


class Lookup:
    """The image files in a folder and below, by name, with their sizes in bytes and their times.

    Hidden files and folders are left out. Images are looked up below `root` only.
    """

    def __init__(self, root: Path, images: Path):
        self.root, self.images = root, images
        self.listing = dict(_walk(images))  # path below `images`, with slashes -> (bytes, ns)
        self._inside = [Path(os.path.realpath(folder)) for folder in (root, images)]
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.listing:
            name = PurePosixPath(path).name
            self._by_name[name].append(path)
            self._by_name[PurePosixPath(name).stem + ANY_SUFFIX].append(path)

    def files(self) -> Iterator[Path]:
        """Yield all images."""
        return (self.images / path for path in self.listing)

    def find(self, names: Iterable[str], beside: Path) -> Path | None:
        """Return the first image of `names` that exists, or None.

        A name is a path below the folder of images, or below `beside`, the folder of the label
        file; else its last part is looked up among all images. A name that ends with ".*", or
        has no suffix, stands for every image suffix. Raises `OutsideError` if a name leads out of
        the data folder, also through a link.
        """
        outside: str | None = None
        for name in names:
            try:
                found = self._direct(name, beside) or self._by_last_part(name)
            except OutsideError:
                outside = outside or name
            else:
                if found is not None:
                    return found
        if outside is not None:
            raise OutsideError(outside)
        return None

    def candidates(self, names: Iterable[str], beside: Path) -> list[str]:
        """Return the paths at which an image would be found, outside of `listing`."""
        return [
            os.path.normpath(beside / _with_slashes(name))
            for name in names
            if _is_plain(name) and not name.endswith(ANY_SUFFIX)
        ]

    def _direct(self, name: str, beside: Path) -> Path | None:
        if not _is_plain(name):
            return None
        is_outside = True
        for folder in (self.images, beside):
            path = _with_slashes(name)
            inside = os.path.relpath(os.path.abspath(folder / path), os.path.abspath(self.images))
            listed = inside.replace(os.sep, "/")
            if listed in self.listing:
                return self._checked(self.images / listed)
            full = Path(os.path.normpath(folder / path))
            if not self._is_inside(Path(os.path.abspath(full))):
                continue
            is_outside = False
            if not name.endswith(ANY_SUFFIX) and full.is_file():
                return self._checked(full)
        if is_outside:
            raise OutsideError(name)
        return None

    def _by_last_part(self, name: str) -> Path | None:
        """Return the image whose path ends with the most parts of `name`.

        None if several have equally many.
        """
        if not _is_plain(name):
            return None
        parts = PurePosixPath(_with_slashes(name)).parts
        if not parts:
            return None
        found = self._by_name.get(parts[-1], [])
        if not found and not is_image(Path(parts[-1])):  # a name without suffix
            found = self._by_name.get(parts[-1] + ANY_SUFFIX, [])
        ranked = sorted(((_shared_end(path, parts), path) for path in found), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return None
        return self._checked(self.images / ranked[0][1])

    def _checked(self, path: Path) -> Path:
        """Return `path`. Raises `OutsideError` if it is a link out of the data folder."""
        if not self._is_inside(Path(os.path.realpath(path))):
            raise OutsideError(str(path))
        return path

    def _is_inside(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._inside) or path.is_relative_to(
            os.path.abspath(self.root)
        )


def _is_plain(name: str) -> bool:
    """Return whether a name can be a file's: neither empty nor with characters no path can have."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name) and "\0" not in name and len(name) < 4096


def _with_slashes(name: str) -> str:
    """Return a name with slashes: label files from Windows have backslashes."""
    return name.replace("\\", "/")


def _shared_end(path: str, parts: Sequence[str]) -> int:
    """Return how many parts before the last one are equal at the ends of two paths."""
    count = 0
    for one, other in zip(PurePosixPath(path).parts[-2::-1], parts[-2::-1]):
        if one != other:
            break
        count += 1
    return count


def _walk(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (path below `folder`, (bytes, time in ns)) of images, sorted within each folder."""
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            entries = sorted(os.scandir(folder / below), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif is_image(Path(entry.name)) and entry.is_file():
                status = entry.stat()
                yield path, (status.st_size, status.st_mtime_ns)


def size_of(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (height, width) of an image as viewers show it, and as it is stored.

    Only its header is read. They differ where EXIF says that the image is to be turned.
    Raises `DataError` if it cannot be read.
    """
    from ..data.channels import stored_size  # here: listing files needs no numpy

    try:
        stored, orientation = stored_size(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        text = " ".join(str(error).split())
        reason = "not an image, or damaged" if "cannot identify" in text else text
        raise DataError(
            f"{path}: cannot be read as an image ({reason}); replace or remove it",
            "unreadable-image",
        ) from None
    return (stored[::-1] if orientation in QUARTER_TURNS else stored), stored

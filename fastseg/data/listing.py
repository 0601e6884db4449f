"""Which images, and which masks, a list file such as train.txt names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import brief
from .issues import Fault
from .pairing import IMAGE_SUFFIXES, images_and_masks, images_below, key_below, normal

# Between the two columns of a line; in names there may be spaces, so each place is tried.
COLUMNS = re.compile(r"\s*[,;\t]\s*|\s+")
Ends = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """A line of a list file: the image, and the mask if the line names one."""

    image: Path
    mask: Path | None
    line: int


@dataclass
class Finder:
    """Finds the files that texts of a list or a table name: in `root`, or in `folder` below it.

    Lists are often made elsewhere, so that their paths begin with foreign folders: the longest end
    of a path that exists counts. A text without an image's suffix is a stem; `end` may follow it.
    """

    root: Path
    folder: Path
    end: str
    deep: bool
    _names: dict[Path, dict[str, Path]] = field(default_factory=dict)
    _stems: dict[str, list[Path]] | None = None  # of all subfolders

    def find(self, text: str, least: int = 0) -> Path | None:
        """Return the file that a text, or its end of `least` characters or more, names, or None."""
        parts = [part for part in re.split(r"[\\/]+", normal(text)) if part not in ("", ".")]
        if not parts or ".." in parts:
            return None
        for start in range(len(parts)):
            if len("/".join(parts[start:])) < least:
                break
            for base in dict.fromkeys((self.root, self.folder)):
                found = self._in(base.joinpath(*parts[start:-1]), parts[-1])
                if found is not None:
                    return found
        alone = self.deep and len(parts[-1]) >= least
        return self._in_subfolders(parts) if alone else None

    def namesakes(self, text: str) -> int:
        """Return how many files in subfolders have the last part of a text as their name."""
        parts = re.split(r"[\\/]+", normal(text))
        self._in_subfolders(parts)
        return len((self._stems or {}).get(parts[-1], []))

    def _in(self, folder: Path, name: str) -> Path | None:
        if folder not in self._names:
            names: dict[str, Path] = {}
            files = images_below(folder, deep=False) if os.path.isdir(folder) else []
            for keys in zip(*(self._keys(file) for file in files)):
                for key, file in zip(keys, files):
                    if key is not None:
                        names.setdefault(key, file)
            self._names[folder] = names
        return self._names[folder].get(name)

    def _keys(self, file: Path) -> tuple[str, str | None, str]:
        """Return the texts that name a file, the best one first: its name; its stem without the
        end, None if it does not have it; its stem.
        """
        return normal(file.name), key_below(file.parent, file, self.end), normal(file.stem)

    def _in_subfolders(self, parts: list[str]) -> Path | None:
        """Return the only file in a subfolder whose path has the longest end of `parts`."""
        if self._stems is None:
            self._stems = {}
            for file in images_below(self.folder):
                for key in set(self._keys(file)) - {None}:
                    self._stems.setdefault(str(key), []).append(file)
        named = self._stems.get(parts[-1], [])
        for start in range(len(parts)):
            end = tuple(parts[start:-1])
            found = [
                file for file in named if file.parent.parts[len(file.parts) - 1 - len(end) :] == end
            ]
            if found:
                return found[0] if len(found) == 1 else None
        return None


def read_list(
    file: Path, root: Path, folders: tuple[Path, Path], ends: Ends, deep: bool, faults: list[Fault]
) -> list[Entry]:
    """Return the entries of a list file in its order.

    A line has the stem of an image, or its path, or the paths of an image and of its mask,
    separated by spaces, tabs, commas or semicolons. Empty lines and lines that begin with # are
    skipped. Only files below `root` are found. `folders` and `ends` are those of images and of
    masks. Lines that cannot be used are added to `faults`.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        detail = f"cannot be read ({brief(getattr(error, 'strerror', None) or error)})"
        faults.append(Fault("label file", str(file), detail, "save it as text in UTF-8"))
        return []
    find_image = Finder(root, folders[0], ends[0], deep)
    find_mask = Finder(root, folders[1], ends[1], deep)
    entries: list[Entry] = []
    first: dict[Path, int] = {}
    # only these ends: str.splitlines() would also cut at characters that names may have
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip().strip(" \t;,").strip()
        if not line or line.startswith("#"):
            continue
        found = _entry(line, number, find_image, find_mask)
        if isinstance(found, Entry):
            found = _swapped(found, folders, ends) or found
        if isinstance(found, Entry) and found.image in first:
            detail = f"{brief(found.image.name)} is listed in line {first[found.image]}, too"
            found = _Wrong("label file", detail, "keep one of the lines")
        if isinstance(found, Entry):
            first[found.image] = number
            entries.append(found)
        else:
            place = f"line {number}"
            faults.append(Fault(found.kind, str(file), found.detail, found.remedy, place))
    return entries


@dataclass(frozen=True)
class _Wrong:
    kind: str
    detail: str
    remedy: str


def _entry(line: str, number: int, images: Finder, masks: Finder) -> Entry | _Wrong:
    if ".." in re.split(r"[\\/\s,;]+", line):
        detail = f"{brief(line)} leaves the data folder"
        return _Wrong("label file", detail, "list files of the data folder, without ..")
    columns: list[tuple[str, str]] = [
        (line[: cut.start()], line[cut.end() :]) for cut in COLUMNS.finditer(line)
    ]
    for left, right in columns:
        image, mask = images.find(left), masks.find(right)
        if image is not None and mask is not None:
            return Entry(image, mask, number)
    image = _only_image(line, columns, images)
    if image is not None:
        return Entry(image, None, number)
    remedy = f"add it below {images.root}, or remove the line"
    if not columns:
        return _Wrong("no partner", f"{brief(line)} does not exist", remedy)
    left, right = columns[0]
    if len(columns) > 1 and images.find(left) is not None and COLUMNS.search(right):
        count = len(columns) + 1
        detail = f"{brief(line)}: has {count} columns"
        return _Wrong("label file", detail, "list an image, or an image and its mask, a line")
    absent = left if images.find(left) is None else right
    return _Wrong("no partner", f"{brief(absent)} does not exist", remedy)


def _only_image(line: str, columns: list[tuple[str, str]], images: Finder) -> Path | None:
    """Return the image that a complete line names, which may have spaces, or None.

    Where a line could have two columns, its end alone is not taken for the image.
    """
    if columns and (any(_is_path(left) for left, _ in columns) or not _is_path(line)):
        return images.find(line, least=len(columns[0][1]) + 1)
    return images.find(line)


def _is_path(text: str) -> bool:
    return Path(text).suffix.lower() in IMAGE_SUFFIXES


def _swapped(entry: Entry, folders: tuple[Path, Path], ends: Ends) -> _Wrong | None:
    """Return what is wrong if a line names the mask first, as far as folders or ends tell."""
    if entry.mask is None:
        return None
    if entry.image == entry.mask:
        detail = f"{brief(entry.image.name)} is listed as image and as mask"
        return _Wrong("label file", detail, "name the image first, then its mask")
    images, masks = folders
    by_folder = (
        images != masks
        and masks in entry.image.parents
        and images in entry.mask.parents
        and not (images in entry.image.parents and masks in entry.mask.parents)
    )
    by_end = (
        ends[0] != ends[1]
        and bool(ends[1])
        and entry.image.stem.endswith(ends[1])
        and not entry.mask.stem.endswith(ends[1])
    )
    if not by_folder and not by_end:
        return None
    detail = f"{brief(entry.image.name)} is a mask, and the line names it as the image"
    return _Wrong("label file", detail, "name the image first, then its mask")


def with_masks(
    entries: list[Entry], folders: tuple[Path, Path], ends: Ends, deep: bool
) -> list[Entry]:
    """Return the entries with the masks of their images' names where the list names none."""
    if all(entry.mask is not None for entry in entries):
        return entries
    images, masks = folders
    index: dict[str | None, Path] = {}
    for file in images_and_masks(images, masks, ends, deep)[1]:
        index.setdefault(key_below(masks, file, ends[1]), file)
    found = []
    for entry in entries:
        keys = [key_below(entry.image.parent, entry.image, ends[0])]
        if images in entry.image.parents:
            keys.insert(0, key_below(images, entry.image, ends[0]))
        named = next((index[key] for key in keys if key is not None and key in index), None)
        found.append(entry if entry.mask else replace(entry, mask=named))
    return found

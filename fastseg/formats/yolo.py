"""YOLO segmentation: data.yaml with the classes and folders, and a text file an image.

A line of labels/x.txt is an outline: the class index, then x and y of each point as shares of the
image's width and height. Holes are joined to their outline by bridges of no width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..data.issues import Fault, refuse
from ..data.pairing import is_image
from ..data.split import SPLIT_WORDS
from ..errors import brief
from ..types import IGNORE, STATE, Colour
from .base import IGNORED, Format, Labelled, Region, ToWrite, fault
from .geometry import LEAST_IOU, area, draw, join_holes, polygons_of

MAX_YAML = 2**20  # bytes of data.yaml
MAX_TEXT = 2**26  # bytes of a label file
HEAD = 4096  # bytes read of a text file to recognise it
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}  # keys of data.yaml
CLASS_FILES = ("classes.txt", "obj.names")
NOT_LABELS = (*CLASS_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt")
LINE = re.compile(r"\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}\s*$")
YAML_NAMES = re.compile(r"^\s*[\"']?names[\"']?\s*:", re.M)
YAML_PARTS = re.compile(r"^\s*[\"']?(train|val|valid|test|nc|path)[\"']?\s*:", re.M)
BOX_NUMBERS = 4  # of a detection line, after the class
DIGITS = 6  # of coordinates: a thousandth of a pixel in an image of 1000 px
LEAST_CLASS_IOU = 0.99  # of each class, also the background, with what is read back


@dataclass(frozen=True)
class _Source:
    """Images and their label files, with what they are: from data.yaml, or found as text files."""

    root: Path  # paths of images are relative to it
    names: Sequence[str] | None  # the classes; None: "class 0", "class 1" and so on
    pairs: Sequence[tuple[str, Path, str | None]]  # image below root, its label file, its split
    lists: Sequence[Path] = ()  # of classes, or of images


class YoloFormat(Format):
    """YOLO segmentation, as ultralytics reads it."""

    name = "yolo"
    title = "YOLO"
    rule = "area"
    order = "larger regions lie below smaller ones"
    unlabelled = IGNORED
    is_writable = True

    def find(self, folder: Path) -> list[Path]:
        """Return the data.yaml files; without any, the text files of outlines."""
        shown = [
            file
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in (".yaml", ".yml", ".txt")
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
            and file.is_file()
        ]
        described = [file for file in shown if file.suffix.lower() != ".txt" and _is_yaml(file)]
        return described or [
            file for file in shown if file.suffix.lower() == ".txt" and _is_text(file)
        ]

    def classes(self, files: Sequence[Path]) -> dict[str, Colour | None]:
        faults: list[Fault] = []
        found: dict[str, Colour | None] = {}
        for source in _sources(files, faults, with_images=False):
            names = source.names
            if names is None:
                used = {index for _, file, _ in source.pairs for index in _indices(file)}
                names = [_unnamed(index) for index in range(max(used, default=-1) + 1)]
            found.update(dict.fromkeys(names))
        refuse(faults)
        found.pop(IGNORED, None)
        return found

    def read(self, files: Sequence[Path], faults: list[Fault]) -> Iterator[Labelled]:
        for source in _sources(files, faults):
            for image, file, split in source.pairs:
                beside = os.path.relpath(source.root / image, file.parent).replace(os.sep, "/")
                labelled = _labelled(file, (image, beside), source.names, split, faults)
                if labelled is not None:
                    yield labelled

    def also(self, files: Sequence[Path]) -> list[Path]:
        """Return the label files and lists that `files` lead to."""
        found: dict[Path, None] = {}
        for source in _sources(files, []):
            found.update(dict.fromkeys(source.lists))
            found.update(dict.fromkeys(file for _, file, _ in source.pairs))
        return [file for file in found if file not in files]

    def write(
        self,
        images: Iterable[ToWrite],
        out: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
    ) -> list[Path]:
        """Write data.yaml, and labels/x.txt for each images/x.png.

        The classes are those of the task without its background; unlabelled pixels become the class
        __ignore__. The format has no place for scores.
        """
        written: list[Path] = []
        indices = [code for code in range(len(classes)) if code != background]
        names = [classes[code] for code in indices]
        folders: dict[str, None] = {}
        for image in images:
            if (image.codes == IGNORE).any() and IGNORED not in names:
                names.append(IGNORED)
            numbers = {code: number for number, code in enumerate(indices)}
            numbers[IGNORE] = len(indices)
            target = out / _label_name(image.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(_lines(image.codes, numbers)), encoding="utf-8")
            written.append(target)
            folders[image.name.rpartition("/")[0]] = None
        described = {
            "path": ".",
            **_parts(list(folders)),
            "names": dict(enumerate(names)),
        }
        target = out / "data.yaml"
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        target.write_text(text, encoding="utf-8")
        return [target, *written]


def _parts(folders: Sequence[str]) -> dict[str, str]:
    """Return the folders of images by the keys of data.yaml, which needs train and val."""
    found = {folder.rpartition("/")[2]: folder for folder in folders}
    parts = {
        key: found[name]
        for key, name in (("train", "train"), ("val", "valid"), ("test", "test"))
        if name in found
    }
    rest = next((folder for name, folder in found.items() if name not in SPLIT_WORDS), "images")
    # Equal folders mean that the images are divided by seed.
    train = parts.get("train", rest)
    return {"train": train, "val": parts.get("val", train), **parts}


def _label_name(image: str) -> str:
    """Return images/a/x.png as labels/a/x.txt."""
    stem = image.rpartition(".")[0] or image
    head, found, tail = f"/{stem}".rpartition("/images/")
    return f"{head}/labels/{tail}.txt".lstrip("/") if found else f"labels/{stem}.txt"


def _lines(codes: np.ndarray, numbers: Mapping[int, int]) -> Iterator[str]:
    """Yield a line for each connected part of each class, the larger ones first.

    Outlines are simplified, unless a class, or the background between them, would lose too much.
    """
    rings = _rings(codes, numbers, LEAST_IOU)
    if _lowest_iou(codes, rings) < LEAST_CLASS_IOU:
        rings = _rings(codes, numbers, 1)
    for code, region in rings:
        text = " ".join(f"{value:.{DIGITS}f}" for value in region.polygons[0].reshape(-1))
        yield f"{numbers[code]} {text}\n"


def _rings(codes: np.ndarray, numbers: Mapping[int, int], least: float) -> list[tuple[int, Region]]:
    """Return the code and the region, of one ring, of each part, the larger ones first.

    Coordinates are as they are written: shares of the size, rounded.
    """
    size = codes.shape[::-1]
    found = [
        (code, Region("", ((join_holes(ring, holes) / size).clip(0, 1).round(DIGITS),)))
        for code in np.unique(codes).tolist()
        if code in numbers
        for ring, holes in polygons_of(codes == code, YoloFormat.rule, least)
    ]
    return sorted(found, key=lambda entry: -area(entry[1]))


def _lowest_iou(codes: np.ndarray, rings: Sequence[tuple[int, Region]]) -> float:
    """Return the lowest IoU of a class with what is read back of its rings."""
    rest = np.setdiff1d(codes, [code for code, _ in rings])  # the background, if there is any
    drawn = np.full_like(codes, rest[0] if rest.size else IGNORE)
    for code, region in rings:
        draw(drawn, region, code, YoloFormat.rule, is_relative=True)
    return min(
        np.count_nonzero((drawn == code) & (codes == code))
        / np.count_nonzero((drawn == code) | (codes == code))
        for code in np.unique(codes).tolist()
    )


def _unnamed(index: int) -> str:
    return f"class {index}"


def _is_yaml(file: Path) -> bool:
    text = _head(file, HEAD * 16)
    return bool(YAML_NAMES.search(text) and YAML_PARTS.search(text))


def _is_text(file: Path) -> bool:
    if file.name.lower() in NOT_LABELS:
        return False
    lines = _head(file, HEAD).splitlines()
    first = next((line for line in lines if line.strip()), "")
    if len(lines) == 1 and len(first) > HEAD - 100:  # cut within a number
        first = first[:1000].rpartition(" ")[0]
    return bool(LINE.match(first[:1000].rpartition(" ")[0] if len(first) > 1000 else first))


def _head(file: Path, size: int) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def _sources(
    files: Sequence[Path], faults: list[Fault], with_images: bool = True
) -> Iterator[_Source]:
    """Yield what each data.yaml describes, and the text files that are given themselves."""
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    for file in files:
        if file.suffix.lower() != ".txt":
            source = _described(file, faults, with_images)
            if source is not None:
                yield source
    by_class_file: dict[Path | None, list[Path]] = {}
    for file in texts:
        by_class_file.setdefault(_class_file(file), []).append(file)
    for class_file, labels in by_class_file.items():
        root = Path(os.path.commonpath([label.parent for label in labels]))
        names = None if class_file is None else _listed_names(class_file, faults)
        pairs = [(_image_name(file, root), file, None) for file in labels]
        yield _Source(root, names, pairs, [class_file] if class_file else [])


def _image_name(file: Path, root: Path) -> str:
    """Return a label file's image, of any suffix, relative to the label files' folder."""
    return f"{file.relative_to(root).with_suffix('').as_posix()}.*"


def _class_file(file: Path) -> Path | None:
    """Return the list of classes in a label file's folder, or above it."""
    for folder in (file.parent, *list(file.parent.parents)[:2]):
        for name in CLASS_FILES:
            if (folder / name).is_file():
                return folder / name
    return None


def _listed_names(file: Path, faults: list[Fault]) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(fault(file, "", f"cannot be read ({brief(error)})", "save it as UTF-8"))
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _described(file: Path, faults: list[Fault], with_images: bool) -> _Source | None:
    """Return what a data.yaml describes; what is wrong with it goes to `faults`."""

    def wrong(detail: str, remedy: str, place: str = "") -> None:
        faults.append(fault(file, place, detail, remedy))

    try:
        text = _text(file, MAX_YAML)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("repeats a value by *, which can be of any size")
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}" if mark else ""
        wrong(f"is not YAML ({brief(error.problem)})", "correct it", place)
        return None
    except (yaml.YAMLError, OSError, ValueError, RecursionError, OverflowError) as error:
        wrong(f"cannot be read ({brief(error)})", "correct it")
        return None
    if not isinstance(value, dict):
        wrong("is not a table of names and folders", "write names:, train: and val:")
        return None
    names = _names(value.get("names"))
    if names is None:
        wrong(
            "names are not class names",
            "write names: [roof, solar panel], or one number: name a line",
            _line_of(text, "names"),
        )
        return None
    pairs: list[tuple[str, Path, str | None]] = []
    if with_images:
        given = [(key, value[key]) for key in SPLITS if value.get(key) is not None]
        if not given:
            wrong("names no folder of images", "write train: images/train and val: images/val")
        # Without folders of their own, training and validation images are divided by seed.
        shared = len({repr(part) for key, part in given if key != "test"}) == 1
        seen: set[str] = set()
        for key, part in given:
            split = None if shared and key != "test" else SPLITS[key]
            try:
                found = list(_pairs(file.parent, value.get("path"), part, split, faults))
            except (ValueError, OSError) as error:
                wrong(f"{key}: {brief(error)}", "correct it", _line_of(text, key))
                continue
            pairs += [pair for pair in found if pair[0] not in seen]
            seen |= {pair[0] for pair in found}
    return _Source(file.parent, names, pairs, sorted(file.parent.glob("*.txt")))


def _text(file: Path, limit: int) -> str:
    """Return a text file. Raises `ValueError` if it is too large, or not UTF-8."""
    if file.stat().st_size > limit:
        raise ValueError(f"more than {limit} bytes")
    return file.read_text(encoding="utf-8-sig")


def _line_of(text: str, key: str) -> str:
    match = re.search(rf"^[\"']?{key}[\"']?\s*:", text, re.M)
    return f"line {text.count(chr(10), 0, match.start()) + 1}" if match else ""


def _names(value: Any) -> list[str] | None:
    """Return the class names of a list, or of a dict by index; None for anything else."""
    if isinstance(value, dict):
        try:
            by_index = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return None
        if sorted(by_index) != list(range(len(value))):
            return None
        value = [by_index[index] for index in range(len(by_index))]
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(name, (str, int, float, bool)) for name in value):
        return None
    names = [str(name) for name in value]
    return names if len(set(names)) == len(names) else None


def _pairs(
    root: Path, path: Any, part: Any, split: str | None, faults: list[Fault]
) -> Iterator[tuple[str, Path, str | None]]:
    """Yield (image below root, label file, split) of one part of data.yaml.

    Raises `ValueError` for what is neither a folder nor a list of images inside `root`.
    """
    for entry in part if isinstance(part, list) else [part]:
        place = _inside(root, path, entry)
        if place.is_dir():
            found = (image for image in place.rglob("*") if STATE not in image.parts)
            images = sorted(image for image in found if is_image(image))
            labels = _partners(images, place, faults)
        elif place.suffix.lower() == ".txt":
            images = list(_listed_images(root, place))
            labels = [_label_file(image) for image in images]
        else:
            images, labels = [place], [_label_file(place)]
        for image, label in zip(images, labels):
            if label.is_file():
                yield image.relative_to(root).as_posix(), label, split


def _partners(images: Sequence[Path], folder: Path, faults: list[Fault]) -> list[Path]:
    """Return the label file of each image; label files without an image go to `faults`."""
    labels = [_label_file(image) for image in images]
    folders = {_label_file(folder / "x").parent, *(label.parent for label in labels)}
    if folder not in folders:
        known = {*labels}
        faults += [
            fault(file, "", "has no image", "add it, or remove the file", "no partner")
            for place in sorted(folders)
            if place.is_dir()
            for file in sorted(place.glob("*.txt"))
            if file not in known and file.name.lower() not in NOT_LABELS
        ]
    return labels


def _inside(root: Path, path: Any, entry: Any) -> Path:
    """Return an entry of data.yaml as an existing path inside `root`. Raises `ValueError`.

    `path` may be the folder on another machine: then the entry is looked for beside data.yaml.
    """
    if not isinstance(entry, str) or not entry or "\0" in entry:
        raise ValueError(f"'{brief(entry)}' is neither a folder nor a list")
    entry = entry.replace("\\", "/")
    bases = [root / path] if isinstance(path, str) and path and "\0" not in path else []
    # Some tools write ../train/images for train/images beside data.yaml.
    candidates = [base / entry for base in (*bases, root)] + [
        root / re.sub(r"^(\.\./)+", "", entry)
    ]
    outside = False
    for candidate in candidates:
        if not candidate.exists():
            continue
        plain = Path(os.path.normpath(candidate))
        if plain == root or root in plain.parents:
            return plain
        outside = True
    if outside:
        raise ValueError(f"{brief(entry)} is outside the folder of data.yaml")
    raise ValueError(f"{brief(entry)} does not exist")


def _listed_images(root: Path, file: Path) -> Iterator[Path]:
    """Yield the images of a list, one a line. Raises `ValueError` for those outside `root`."""
    for number, line in enumerate(_text(file, MAX_TEXT).splitlines(), 1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        if "\0" in name:
            raise ValueError(f"{file.name} (line {number}): not a path")
        # CVAT writes data/images/train/x.jpg for images/train/x.jpg
        candidates = (file.parent / name, root / name, root / name.partition("/")[2])
        plain = [Path(os.path.normpath(candidate)) for candidate in candidates]
        inside = [candidate for candidate in plain if root in candidate.parents]
        if not inside:
            raise ValueError(f"{file.name} (line {number}): {brief(name)} is outside the data")
        found = next((candidate for candidate in inside if candidate.is_file()), None)
        if found is None:
            raise ValueError(f"{file.name} (line {number}): {brief(name)} does not exist")
        yield found


def _label_file(image: Path) -> Path:
    """Return .../images/a/x.png as .../labels/a/x.txt; elsewhere, x.txt beside the image."""
    parts = image.with_suffix(".txt").parts
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i] == "images"), None)
    return Path(*(parts if at is None else (*parts[:at], "labels", *parts[at + 1 :])))


def _indices(file: Path) -> set[int]:
    """Return the class indices of a label file's lines, as far as they are numbers."""
    try:
        lines = _text(file, MAX_TEXT).splitlines()
    except (OSError, ValueError):
        return set()
    firsts = {line.split()[0] for line in lines if line.strip()}
    return {int(first) for first in firsts if re.fullmatch(r"\d{1,4}", first)}


def _labelled(
    file: Path,
    images: tuple[str, ...],
    names: Sequence[str] | None,
    split: str | None,
    faults: list[Fault],
) -> Labelled | None:
    """Return the outlines of one label file; what is wrong goes to `faults`."""
    try:
        lines = _text(file, MAX_TEXT).splitlines()
    except (OSError, ValueError) as error:
        faults.append(fault(file, "", f"cannot be read ({brief(error)})", "save it as UTF-8 text"))
        return None
    regions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            regions.append(_region(line.split(), names, f"line {number}"))
        except _LineError as wrong:
            faults.append(fault(file, f"line {number}", wrong.detail, wrong.remedy, wrong.kind))
    regions.sort(key=area, reverse=True)
    return Labelled(file, images, None, tuple(regions), "", split, is_relative=True)


class _LineError(Exception):
    """A line cannot be used: what is wrong, the remedy, and the kind of the fault."""

    def __init__(self, detail: str, remedy: str, kind: str = "label file"):
        super().__init__(detail)
        self.detail, self.remedy, self.kind = detail, remedy, kind


def _region(words: Sequence[str], names: Sequence[str] | None, place: str) -> Region:
    """Return the region of a line. Raises `_LineError`."""
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        raise _LineError(
            f"'{brief(' '.join(words))}' is not a line of numbers", "correct it"
        ) from None
    if not np.isfinite(values).all():
        raise _LineError("numbers that are not finite", "correct them")
    index = int(values[0])
    if index != values[0] or index < 0 or (names is not None and index >= len(names)):
        last = "" if names is None else f"; classes are 0 to {len(names) - 1}"
        raise _LineError(
            f"class {brief(words[0])} is not in names{last}", "correct it", "unknown class"
        )
    count = len(values) - 1
    if count == BOX_NUMBERS:
        raise _LineError(
            "is a box, which says nothing about the pixels in its corners",
            "label outlines: this is a data set for detection",
        )
    if count % 2:
        raise _LineError(f"has {count} coordinates, an odd number", "write x and y of each point")
    if count < 6:
        raise _LineError(f"an outline of {count // 2} points", "draw at least three")
    name = _unnamed(index) if names is None else names[index]
    return Region(name, polygons=(values[1:].reshape(-1, 2),), place=place)


format = YoloFormat()

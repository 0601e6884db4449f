"""One mask a class: which files belong to an image, and the mask of codes that they make."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import brief
from ..types import IGNORE
from .issues import Fault, refuse
from .pairing import SEPARATOR, images_below, key_below, normal

if TYPE_CHECKING:
    import numpy as np

ClassFiles = dict[int, Path]  # class index -> the file that says where the class is

HALF, DEEP_HALF = 127, 32767  # greys above belong to the class, in masks of 8 and of 16 bits
# Largest value that JPEG makes of black: an empty mask saved with loss. A convention.
LOSSY_BLACK = 16


def by_names(
    images: Mapping[str, Path],
    masks: Path,
    files: Iterable[Path],
    classes: Sequence[str],
    end: str,
    faults: list[Fault],
) -> dict[str, ClassFiles]:
    """Return {key of an image: its class masks} where file names end with a class: 7_iris.png.

    `images` are the images by `pairing.key_below`, `files` the files of the folder `masks`, and
    `end` follows the class in the stems (7_iris_mask.png). Upper and lower case do not matter, and
    a space in a class's name may be any separator. Files of no class are added to `faults`.
    """
    words = sorted(((_word(name), code) for code, name in enumerate(classes)), reverse=True)
    words.sort(key=lambda entry: -len(entry[0]))  # "dining table" before "table"
    found: dict[str, ClassFiles] = {}
    for file in files:
        key = key_below(masks, file, end)
        matches = [] if key is None else _matches(key, words)
        match = next(((k, code) for k, code in matches if k in images), None)
        match = match or (matches[0] if matches else None)
        if match is None:
            faults.append(_unknown(file, _last_word(file.stem, end, images), classes))
        elif match[0] not in images:
            remedy = "add the image, or remove the file"
            detail = f"has no image {brief(match[0])}"
            faults.append(Fault("no partner", str(file), detail, remedy))
        else:
            _add(found.setdefault(match[0], {}), match[1], file, faults)
    return found


def images_of_names(
    folder: Path, files: Sequence[Path], classes: Sequence[str], ends: tuple[str, str]
) -> list[Path]:
    """Return the images among the files of one folder that holds class masks, too.

    A file is a mask if its name is another file's name and a class. So is a file without masks of
    its own whose name ends with a class, or begins with the name of an image: then the image is
    missing, or the class is misspelt.
    """
    words = [(_word(name), code) for code, name in enumerate(classes)]
    keys = {file: key for file in files if (key := key_below(folder, file, ends[0])) is not None}
    known, labelled, masks = set(keys.values()), set[str](), set[Path]()
    for file in files:
        key = key_below(folder, file, ends[1])
        owners = {k for k, _ in _matches(key, words) if k in known} if key is not None else set()
        labelled |= owners
        masks |= {file} if owners else set()
    return [
        file
        for file, key in keys.items()
        if file not in masks
        and (
            key in labelled
            or not _matches(key, words)
            and not any(key[: cut.start()] in labelled for cut in SEPARATOR.finditer(key))
        )
    ]


def _matches(key: str, words: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return (key without the class, class index) for each class that a key ends with."""
    found = []
    for word, code in words:
        cut = len(key) - len(word)
        if cut > 1 and _word(key[cut:]) == word and SEPARATOR.match(key[cut - 1]):
            found.append((key[: cut - 1], code))
    return found


def _word(name: str) -> str:
    return SEPARATOR.sub("_", normal(name)).casefold()


def _last_word(stem: str, end: str, images: Mapping[str, Path]) -> str:
    """Return the part of a stem that should be a class: what follows the name of an image."""
    stem = normal(stem).removesuffix(normal(end))
    names = {Path(key).name for key in images}
    cuts = [cut for cut in SEPARATOR.finditer(stem) if stem[: cut.start()] in names]
    return stem[cuts[-1].end() :] if cuts else SEPARATOR.split(stem)[-1]


def by_folders(
    images: Mapping[str, Path],
    masks: Path,
    classes: Sequence[str],
    end: str,
    deep: bool,
    faults: list[Fault],
    others: Sequence[Path] = (),
) -> dict[str, ClassFiles]:
    """Return {key of an image: its class masks} where each class has a folder: iris/7.png.

    Folders of no class that hold images are added to `faults`, but for `others`.
    """
    codes = {_word(name): code for code, name in enumerate(classes)}
    found: dict[str, ClassFiles] = {}
    for folder in sorted(entry for entry in masks.iterdir() if entry.is_dir()):
        if folder.name.startswith(".") or any(f in (folder, *folder.parents) for f in others):
            continue
        if any(folder in other.parents for other in others):
            continue
        code = codes.get(_word(folder.name))
        files = images_below(folder, deep)
        if code is None:
            if files:
                faults.append(_unknown(folder, folder.name, classes))
            continue
        for file in files:
            key = key_below(folder, file, end)
            if key is not None and key in images:
                _add(found.setdefault(key, {}), code, file, faults)
            elif key is not None:
                remedy = "add the image, or remove the file"
                faults.append(Fault("no partner", str(file), f"has no image {brief(key)}", remedy))
    return found


def _unknown(path: Path, name: str, classes: Sequence[str]) -> Fault:
    near = difflib.get_close_matches(name.casefold(), [c.casefold() for c in classes], 1)
    nearest = next((c for c in classes if near and c.casefold() == near[0]), None)
    hint = f"; the nearest one is {nearest}" if nearest else ""
    return Fault(
        "unknown class",
        str(path),
        f"{brief(name)} is no class of the task{hint}",
        f"rename it, or add the class (classes are {brief(', '.join(classes))})",
    )


def _add(files: ClassFiles, code: int, file: Path, faults: list[Fault]) -> None:
    if code in files:
        detail = f"is of the same image and class as {files[code].name}"
        faults.append(Fault("doubled name", str(file), detail, "keep one of them"))
    files.setdefault(code, file)


def combined(files: ClassFiles, background: int | None) -> np.ndarray:
    """Return the codes of one image's class masks, uint8 (H, W).

    A pixel belongs to a class where its mask is above 127 (32767 for 16 bits), or not 0 if the file
    holds only 0 and 1: its content decides. Of several classes, the later one in the task's order
    lies on top. Pixels of no class are background, or 255, unlabelled, if the task has none.
    Raises `DataError` for files that cannot be read, of other values, or of different sizes.
    """
    import numpy as np

    masks = {code: _where(files[code]) for code in sorted(files)}
    first = next(iter(masks))
    fill = IGNORE if background is None else background
    codes = np.full(masks[first].shape, fill, dtype=np.uint8)
    height, width = masks[first].shape
    for code, there in masks.items():
        size = there.shape
        if size != (height, width):
            detail = (
                f"is {size[1]}x{size[0]} px, but {files[first].name} of the same image is "
                f"{width}x{height}"
            )
            remedy = "export all masks at the image's size"
            refuse([Fault("size mismatch", str(files[code]), detail, remedy)])
        codes[there] = code
    return codes


def _where(file: Path) -> np.ndarray:
    """Return where a class mask has the class, bool (H, W)."""
    from .decoding import is_lossy
    from .images import read_raw

    values = read_raw(file)
    if values.ndim == 3:
        values = values[..., : 3 if values.shape[2] >= 3 else 1].max(axis=2)
    top = int(values.max())
    if top <= 1:
        return values > 0
    if is_lossy(file) and top <= LOSSY_BLACK:
        return values > HALF
    if top <= HALF:
        detail = f"holds values up to {top}, and a mask of one class holds 0 and 1, or 0 and 255"
        remedy = 'write 255 where the class is, or declare masks = "codes" without class_masks'
        refuse([Fault("unknown codes", str(file), detail, remedy)])
    return values > (HALF if top < 256 else DEEP_HALF)


def shown(files: ClassFiles) -> str:
    """Return the files of an image's class masks for messages: the first one's path, all names."""
    first, *others = (files[code] for code in sorted(files))
    return " + ".join([str(first), *(str(Path(*f.parts[-2:])) for f in others)])

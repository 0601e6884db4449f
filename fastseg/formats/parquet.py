"""Data sets of Hugging Face: parquet files that hold images, and masks or classes, as columns.

Not a label format: the files hold the images themselves. They are written once to the user's cache,
as they are in the rows, in a folder named by a digest of the parquet files' contents. Needs the
extra `parquet` (pyarrow); the package `datasets` is not used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from ..data.issues import Fault
from ..data.pairing import IMAGE_SUFFIXES
from ..data.split import SPLIT_WORDS
from ..errors import DataError, brief
from ..utils.progress import track
from ..utils.user_cache import make_cache_folder
from .base import fault
from .cache import content_of

VERSION = 1  # raise when files are extracted in another way
INDEX = "index.json"
BATCH = 16  # rows in memory at a time
MAX_NAME = 100  # characters of a file's name that are kept
INSTALL = 'pip install "fastseg[parquet]"'

IMAGE_NAMES = ("image", "img", "pixel_values", "photo")
MASK_NAMES = ("mask", "label", "labels", "annotation", "segmentation_mask", "segmentation", "seg")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "fine_label")
BEGINNINGS = {  # of image files -> suffix
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


@dataclass(frozen=True)
class Columns:
    """The columns that are used: images, and masks or classes ("" where there are none)."""

    image: str
    mask: str = ""
    label: str = ""
    names: tuple[str, ...] = ()  # of the classes, where the schema has them


@dataclass(frozen=True)
class Row:
    """One row, as files in the user's cache."""

    image: Path
    mask: Path | None
    label: int | str | None  # class index, or its name where the schema has names
    split: str | None  # "train", "valid", "test", by the file's name
    place: str  # the parquet file and the row, from 0


def find(folder: Path) -> list[Path]:
    """Return the parquet files in a folder and below, sorted, without hidden ones."""
    return sorted(
        file
        for file in folder.rglob("*.parquet")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def split_of(file: Path) -> str | None:
    """Return the split that a file's name begins with (train-00000-of-00001), or its folder is."""
    first = re.split(r"[-_.]", file.stem.lower())[0]
    return SPLIT_WORDS.get(first) or SPLIT_WORDS.get(file.parent.name.lower())


def columns_of(file: Path) -> Columns:
    """Return the columns of a parquet file; only its end is read.

    Raises `DataError` if pyarrow is missing, if the file cannot be read, or if it has no images.
    """
    parquet, problems = pyarrow()
    try:
        schema = parquet.read_schema(file)
    except problems as error:
        raise DataError(f"{file}: cannot be read ({brief(error)}); replace it", "parquet") from None
    features = _features(schema)
    images = [
        field.name
        for field in schema
        if _type_of(features, field.name) == "Image" or _is_image_struct(field.type)
    ]
    if not images:
        raise DataError(
            f"{file}: has no column of images, only {brief(', '.join(schema.names))}; "
            "images are columns of bytes and path, as datasets writes them",
            "parquet",
        )
    image = next((name for name in IMAGE_NAMES if name in images), images[0])
    rest = [name for name in images if name != image]
    mask = next((name for name in MASK_NAMES if name in rest), rest[0] if rest else "")
    classes = [name for name in schema.names if _type_of(features, name) == "ClassLabel"]
    label = next((name for name in LABEL_NAMES if name in schema.names and name not in images), "")
    label = classes[0] if classes and label not in classes else label
    names = features.get(label, {}).get("names") if label else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = []
    return Columns(image, mask, label, tuple(names))


def extract(place: Path, faults: list[Fault]) -> list[Row]:
    """Return the rows of a parquet file, or of all in a folder, as files in the user's cache.

    They are written once. Rows and files that cannot be used are added to `faults`. Raises
    `DataError` if pyarrow is missing, or if the cache cannot be written.
    """
    files = [place] if place.is_file() else find(place)
    if not files:
        faults.append(fault(place, "", "has no parquet files", "correct the path", "no partner"))
        return []
    make_cache_folder()
    target = Path(user_cache_path("fastseg")) / "parquet" / _digest(place, files)
    stored = _stored(target)
    if stored is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # another process may be extracting the same
            stored = _stored(target) or _extract_all(files, target)
    faults += stored[1]
    return stored[0]


def _digest(place: Path, files: Sequence[Path]) -> str:
    parts = [VERSION, *((str(file.absolute()), content_of(file)) for file in files)]
    return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def _stored(target: Path) -> tuple[list[Row], list[Fault]] | None:
    """Return what was extracted before; None if there is nothing, or if it is damaged."""
    try:
        index = json.loads((target / INDEX).read_text(encoding="utf-8"))
        rows = [
            Row(target / image, target / mask if mask else None, label, split, where)
            for image, mask, label, split, where in index["rows"]
        ]
        faults = [Fault(*values) for values in index["faults"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    files = [file for row in rows for file in (row.image, row.mask) if file is not None]
    return (rows, faults) if all(file.is_file() for file in files) else None


def _extract_all(files: Sequence[Path], target: Path) -> tuple[list[Row], list[Fault]]:
    """Write all rows to the folder `target`, and return them with all faults."""
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    faults: list[Fault] = []
    try:
        part.mkdir(parents=True)
        taken: set[str] = set()
        rows = [
            row
            for file in track(files, "extracting images", len(files))
            for row in _extract_file(file, part, taken, faults)
        ]
        index = {"rows": rows, "faults": [astuple(one) for one in faults]}
        (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # one that was damaged
        part.rename(target)
    except OSError as error:
        raise DataError(
            f"{target}: images cannot be written ({error.strerror or error}); "
            "make space, or set XDG_CACHE_HOME to a folder that you can write to",
            "not-writable",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _stored(target) or ([], faults)


def _extract_file(
    file: Path, part: Path, taken: set[str], faults: list[Fault]
) -> Iterator[list[Any]]:
    """Write the images of one parquet file, and yield the entries of the index."""
    parquet, problems = pyarrow()
    try:
        columns = columns_of(file)
        opened = parquet.ParquetFile(file)
        used = [name for name in (columns.image, columns.mask, columns.label) if name]
        number = 0
        for batch in opened.iter_batches(BATCH, columns=used):
            for values in batch.to_pylist():
                entry = _extract_row(values, columns, file, number, part, taken, faults)
                if entry is not None:
                    yield entry
                number += 1
    except DataError as error:
        if error.code != "parquet":
            raise
        detail, _, remedy = str(error).removeprefix(f"{file}: ").rpartition("; ")
        faults.append(fault(file, "", detail, remedy))
    except problems as error:
        faults.append(fault(file, "", f"cannot be read ({brief(error)})", "replace it"))


def _extract_row(
    values: Mapping[str, Any],
    columns: Columns,
    file: Path,
    number: int,
    part: Path,
    taken: set[str],
    faults: list[Fault],
) -> list[Any] | None:
    """Write the image and the mask of a row, and return its entry of the index."""
    place, split = f"row {number}", split_of(file)
    contents: list[bytes] = []
    for name in (columns.image, *([columns.mask] if columns.mask else [])):
        content = values[name].get("bytes") if isinstance(values[name], Mapping) else None
        if not isinstance(content, bytes) or not content:
            detail = f"has no bytes in column {brief(name)}"
            faults.append(fault(file, place, detail, "embed the files, or remove the row"))
            return None
        contents.append(content)
    path = values[columns.image].get("path")
    stem = _unique(path if isinstance(path, str) else "", taken)
    written = []
    for kind, content in zip(("images", "masks"), contents):
        name = f"{split or 'all'}/{kind}/{stem}{_suffix(content, path)}"
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(content)
        written.append(name)
    mask = written[1] if len(written) > 1 else None
    label = values.get(columns.label) if columns.label else None
    return [written[0], mask, _label(label, columns), split, f"{file} ({place})"]


def _label(value: Any, columns: Columns) -> int | str | None:
    """Return the class's name if the schema has it, else the value; None for other types."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if isinstance(value, int) and 0 <= value < len(columns.names):
        return columns.names[value]
    return value


def _unique(path: str, taken: set[str]) -> str:
    """Return the stem of a row's files: the image's own one, or the number of the row in all."""
    stem = path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    stem = re.sub(r"[^\w.\-]+", "_", stem).strip(".")[:MAX_NAME]
    number = f"{len(taken):06d}"
    stem = stem or number
    while stem.lower() in taken:
        stem = f"{stem}_{number}"
    taken.add(stem.lower())
    return stem


def _suffix(content: bytes, path: object) -> str:
    """Return the suffix of an image by its first bytes, else by its path, else .png."""
    for beginning, suffix in BEGINNINGS.items():
        if content.startswith(beginning):
            return suffix
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    suffix = Path(path).suffix.lower() if isinstance(path, str) and "\0" not in path else ""
    return suffix if suffix in IMAGE_SUFFIXES else ".png"


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the features that `datasets` describes in a schema; none if they are not there."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(text)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)}


def _type_of(features: Mapping[str, Mapping[str, Any]], name: str) -> object:
    return features.get(name, {}).get("_type")


def _is_image_struct(kind: Any) -> bool:
    names = {field.name for field in kind} if str(kind).startswith("struct") else set()
    return names == {"bytes", "path"}


def pyarrow() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return pyarrow.parquet, and the errors that it raises for damaged files."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(
            f"parquet files need pyarrow, which is not installed: {INSTALL}", "no-pyarrow"
        ) from None
    return parquet, (arrow.ArrowException, OSError, ValueError, KeyError)

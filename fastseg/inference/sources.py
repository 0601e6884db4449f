"""The images that a sharded prediction reads: listed one at a time, from any kind of source.

A source is a folder, file, glob, manifest (.csv, .tsv or .parquet), zip archive or tar shard, as a
path or as a URL. Folders are not searched for subfolders; `**` in a glob does.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.pairing import is_image
from ..data.slices import is_nifti
from ..errors import DataError, brief
from ..utils.storage import ARCHIVE, Entry, Store, is_url, split_address, store_of
from ..utils.threads import results_in_order

MANIFESTS, SHARD = (".csv", ".tsv", ".parquet"), ".tar"
COLUMNS = ("image", "path", "file", "filename", "image_path", "url", "key")  # of a manifest
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # of webdataset: shards-{000000..000099}.tar
MOST_SHARDS = 10**6
WILD = re.compile(r"[*?\[]")
LOOKS = 32  # files of a manifest on a remote store that are looked at, at a time


@dataclass(frozen=True)
class Image:
    """A file to predict, or a tar shard of files (`is_shard`)."""

    address: str  # path or URL, as tables show it
    name: str  # relative name of its results, such as "a/7.jpg"
    size: int = 0  # bytes
    stamp: str = ""  # changes with the content
    is_shard: bool = False


def find(sources: Sequence[str], first_end: str = "") -> Iterator[Image]:
    """Yield the images of sources, in order.

    Where each channel is a file, `first_end` is the end of the names that are listed. Raises
    `DataError` for a source that does not exist or has no image, and for a manifest that names
    absent files.
    """
    for source in sources:
        count = 0
        for image in _images_of(source):
            name = PurePosixPath(image.name)
            if first_end and not name.stem.endswith(first_end) and not image.is_shard:
                continue
            if is_nifti(image.name):
                raise DataError(
                    f"{image.address}: volumes are not predicted in shards; "
                    "leave out --engine and --workers",
                    "no-volumes",
                )
            count += 1
            yield image
        if not count:
            raise DataError(
                f"{source}: holds no images; give a folder, glob, manifest or archive of image "
                "files (subfolders are searched by a glob with **)",
                "no-images",
            )


def is_sharded_source(source: str) -> bool:
    """Return whether only a sharded prediction reads a source: a URL, a manifest, an archive."""
    ends = (*MANIFESTS, ARCHIVE, SHARD)
    return is_url(source) or (source.lower().endswith(ends) and not Path(source).is_dir())


def _images_of(source: str) -> Iterator[Image]:
    plain = source.lower()
    is_there = not is_url(source) and Path(source).exists()
    if plain.endswith(SHARD) and not Path(source).is_dir():
        for shard in [source] if is_there else _expanded(source):
            yield _shard(shard)
    elif WILD.search(source) and not is_there:
        yield from _matching(source)
    elif plain.endswith(MANIFESTS) and not Path(source).is_dir():
        yield from _listed(source)
    elif plain.endswith(ARCHIVE) and not Path(source).is_dir():
        store = store_of(source if source.startswith("zip://") else f"zip://::{source}")
        yield from _entries(store, deep=True)
    else:
        store, name = split_address(source.rstrip("/") or source)
        found = store.entry(name) if is_image(Path(name)) else None
        if found:
            yield Image(source, name, found.size, found.stamp)
        else:
            yield from _entries(store_of(source.rstrip("/") or source), deep=False)


def _entries(store: Store, deep: bool, matches: re.Pattern[str] | None = None) -> Iterator[Image]:
    for entry in store.entries(deep):
        wanted = matches.fullmatch(entry.name) if matches else is_image(Path(entry.name))
        if wanted and not PurePosixPath(entry.name).name.startswith("."):
            yield Image(store.address(entry.name), clean(entry.name), entry.size, entry.stamp)


def _matching(pattern: str) -> Iterator[Image]:
    """Yield what a glob matches; names are relative to the part before the first wildcard."""
    first = WILD.search(pattern)
    root = pattern[: first.start() if first else None].rpartition("/")[0]
    rest = pattern[len(root) :].lstrip("/")
    place = root or ("/" if pattern.startswith("/") else ".")
    named = is_image(Path(pattern)) or not PurePosixPath(rest).name.strip("*")
    found = False
    for image in _entries(store_of(place), "/" in rest, _translated(rest)):
        if named and not is_image(Path(image.name)):
            continue
        found = True
        address = image.address if root else image.name
        yield Image(address, image.name, image.size, image.stamp)
    if not found:
        raise DataError(f"{pattern}: no file matches this pattern; check it", "no-such-path")


def _translated(pattern: str) -> re.Pattern[str]:
    """Return a glob as a regular expression: `*` within a folder, `**` across folders."""
    parts = []
    for token in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern):
        parts.append(
            {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token)
            or (token.replace("[!", "[^") if token.startswith("[") else re.escape(token))
        )
    return re.compile("".join(parts))


def _expanded(source: str) -> list[str]:
    """Return the shards of a name with braces: shards-{00..02}.tar; or that match a glob."""
    found = BRACES.search(source)
    if found:
        low, high = int(found[1]), int(found[2])
        if not 0 <= high - low < MOST_SHARDS:
            raise DataError(
                f"{source}: {{{found[1]}..{found[2]}}} names no shards; give the lower number "
                f"first, and at most {MOST_SHARDS} shards",
                "no-shards",
            )
        width = len(found[1])
        before, after = source[: found.start()], source[found.end() :]
        return [f"{before}{number:0{width}d}{after}" for number in range(low, high + 1)]
    if WILD.search(source):
        return [image.address for image in _matching(source)]
    return [source]


def _shard(address: str) -> Image:
    store, name = split_address(address)
    found = store.entry(name)
    if found is None:
        raise DataError(f"{address}: no such file; check the address", "no-such-path")
    return Image(address, name.removesuffix(SHARD), found.size, found.stamp, is_shard=True)


def _listed(manifest: str) -> Iterator[Image]:
    """Yield the images of a manifest. Raises `DataError` for the first one that is absent."""
    store, name = split_address(manifest)
    if store.entry(name) is None:
        raise DataError(f"{manifest}: no such file; check the path", "no-such-path")
    folder = store.place
    rows = _parquet_rows if name.lower().endswith(".parquet") else _csv_rows
    texts = rows(store, name, manifest)
    with ThreadPoolExecutor(LOOKS) as pool:
        looked = (pool.submit(_look, manifest, folder, *row) for row in texts)
        yield from results_in_order(looked, 4 * LOOKS)


def _look(manifest: str, folder: str, number: int, text: str) -> Image:
    """Return one row of a manifest as an image, after a look at the file."""
    is_relative = not (is_url(text) or Path(text).is_absolute())
    address = _joined(folder, text) if is_relative else text
    where, name = split_address(address)
    found: Entry | None = where.entry(name)
    if found is None:
        raise DataError(
            f"{manifest}: row {number} names {brief(text)}, which does not exist; correct the row, "
            "or remove it (names are relative to the manifest's folder)",
            "absent-image",
        )
    own = PurePosixPath(text).as_posix() if is_relative else name
    return Image(address, clean(own), found.size, found.stamp)


def _joined(folder: str, name: str) -> str:
    """Return the address of a file named relative to a folder's address.

    Object stores would take "." and ".." literally.
    """
    if not is_url(folder) or "::" in folder:
        return store_of(folder).address(name)
    protocol, _, path = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(path, name))}"


def clean(name: str) -> str:
    """Return a relative name without parts that lead out of a folder: archives may have some."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _csv_rows(store: Store, name: str, manifest: str) -> Iterator[tuple[int, str]]:
    delimiter = "\t" if name.lower().endswith(".tsv") else ","
    with store.open(name) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        try:
            reader = csv.reader(text, delimiter=delimiter)
            header = next(reader, [])
            column = _column(header, manifest)
            for number, row in enumerate(reader, 2):
                if row:
                    yield number, _cell(row[column] if column < len(row) else "", manifest, number)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{manifest}: cannot be read as a table ({brief(error)}); save it as UTF-8",
                "unreadable-table",
            ) from None


def _parquet_rows(store: Store, name: str, manifest: str) -> Iterator[tuple[int, str]]:
    parquet = pyarrow_parquet(manifest)
    with store.open(name) as raw:
        try:
            table = parquet.ParquetFile(raw)
            column = table.schema_arrow.names[_column(table.schema_arrow.names, manifest)]
            number = 1
            for batch in table.iter_batches(batch_size=10_000, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield number, _cell(value, manifest, number)
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
            raise DataError(
                f"{manifest}: cannot be read as parquet ({brief(error)})", "unreadable-table"
            ) from None


def pyarrow_parquet(what: str) -> Any:
    """Return the module pyarrow.parquet. Raises `DataError` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{what}: parquet files need pyarrow; install the extra parquet: "
            "pip install 'fastseg[parquet]'",
            "no-parquet",
        ) from None
    return pyarrow.parquet


def _column(names: Sequence[str], manifest: str) -> int:
    """Return the place of the column that names images: a usual name, or the only one."""
    lower = [name.strip().lower() for name in names]
    for name in COLUMNS:
        if name in lower:
            return lower.index(name)
    if len(names) == 1 and not is_image(Path(names[0])):
        return 0
    raise DataError(
        f"{manifest}: has no column of images; name one 'image' in the first row"
        + (f" (columns: {brief(', '.join(names))})" if names else ""),
        "no-such-column",
    )


def _cell(value: object, manifest: str, number: int) -> str:
    text = str(value or "").strip()
    if not text:
        raise DataError(f"{manifest}: row {number} names no image; fill it in", "absent-image")
    return text


def siblings(image: Image, ends: Sequence[str]) -> list[str]:
    """Return the addresses of the files of an image's other channels."""
    if not ends:
        return []
    stem, dot, suffix = image.address.rpartition(".")
    return [f"{stem.removesuffix(ends[0])}{end}{dot}{suffix}" for end in ends[1:]]

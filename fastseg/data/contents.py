"""What images hold: digests of their files, and perceptual hashes of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from os import cpu_count
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import DataError
from ..types import Item
from .channels import files_of, read_near, shown
from .looks import views_of
from .reading import PLAIN, Reading
from .slices import split_slice

LOOK_SIDE = 128  # px at which images are hashed: a JPEG is decoded at a part of its size
BUFFER = 1 << 20  # bytes that are hashed at a time
MAX_WORKERS = 8
S = TypeVar("S")
T = TypeVar("T")
Stamps = tuple[tuple[str, int, int], ...]  # the path, size in bytes and time of change of files


def digests(items: Sequence[Item], reading: Reading = PLAIN) -> list[str]:
    """Return the SHA-256 of the content of each item's image: of all its files, or of the slice.

    Raises `DataError` for an image that cannot be read.
    """
    return in_threads(lambda item: _digest(item.image, reading), items)


def _digest(image: Path, reading: Reading) -> str:
    slice_of = split_slice(image)
    return _content(_stamps(image, reading), slice_of[1] if slice_of else -1)


def _stamps(image: Path, reading: Reading) -> Stamps:
    """Return the files of an image as they are now: what is computed holds until they change."""
    slice_of = split_slice(image)
    files = [slice_of[0]] if slice_of and not reading.files else files_of(image, reading)
    stamps = []
    for file in files:
        part = split_slice(file)
        try:
            status = (part[0] if part else file).stat()
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); check the path", "no-such-image"
            ) from None
        stamps.append((str(part[0] if part else file), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


@lru_cache(maxsize=1 << 18)
def _content(files: Stamps, number: int) -> str:
    """Return the digest of files, read once in a process unless they change."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        with open(file, "rb") as opened:
            while block := opened.read(BUFFER):
                digest.update(block)
    if number >= 0:
        digest.update(f"slice {number}".encode())
    return digest.hexdigest()


def looks_of(items: Sequence[Item], reading: Reading = PLAIN) -> list[str]:
    """Return the perceptual hash of each item's image; "" for one that cannot be read."""
    return [next(iter(views), "") for views in all_views_of(items, reading)]


def all_views_of(items: Sequence[Item], reading: Reading = PLAIN) -> list[tuple[str, ...]]:
    """Return the perceptual hashes of each item's image, mirrored and rotated: see `views_of`.

    Empty for an image that cannot be read: the check of the data says so.
    """

    def views(item: Item) -> tuple[str, ...]:
        try:
            return _views(item.image, _stamps(item.image, reading), reading)
        except DataError:
            return ()

    return in_threads(views, items)


@lru_cache(maxsize=1 << 16)
def _views(image: Path, files: Stamps, reading: Reading) -> tuple[str, ...]:
    """Return the hashes of an image, read once in a process unless its `files` change."""
    pixels, _ = read_near(image, (LOOK_SIDE, LOOK_SIDE), reading)
    return tuple(views_of(np.ascontiguousarray(shown(pixels))))


def in_threads(work: Callable[[S], T], values: Sequence[S]) -> list[T]:
    """Return `work` of each value, for work that reads files."""
    with ThreadPoolExecutor(min(MAX_WORKERS, cpu_count() or 1)) as pool:
        return list(pool.map(work, values))

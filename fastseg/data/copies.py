"""Images with the same content: one picture that is there, and perhaps labelled, several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from ..errors import DataError
from ..types import Item
from .contents import digests
from .reading import PLAIN, Reading
from .slices import split_slice

BLOCK = 4096  # bytes at the start and in the middle that are compared before whole files are


def copies(items: Sequence[Item], reading: Reading = PLAIN) -> list[list[int]]:
    """Return the places of items whose images have the same bytes, two or more in each list.

    Only files of equal size are opened, and only those whose first and middle blocks are equal are
    read, so that it takes little time where there are no copies. Slices of volumes have none;
    neither have files that cannot be read.
    """
    found = [[i for i, item in enumerate(items) if split_slice(item.image) is None]]
    keys: tuple[Callable[[Item], Hashable], ...] = (
        lambda item: item.image.stat().st_size,
        lambda item: _blocks(item.image),
        lambda item: digests([item], reading)[0],
    )
    for key in keys:
        found = [same for places in found for same in _equal(places, items, key)]
    return found


def _equal(
    places: Iterable[int], items: Sequence[Item], key: Callable[[Item], Hashable]
) -> list[list[int]]:
    """Return the places of items with equal keys, two or more in each list."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i in places:
        try:
            groups[key(items[i])].append(i)
        except (OSError, DataError):  # whoever decodes the file says what is wrong with it
            continue
    return [group for group in groups.values() if len(group) > 1]


def _blocks(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(BLOCK)
        opened.seek(size // 2)
        return first + opened.read(BLOCK)

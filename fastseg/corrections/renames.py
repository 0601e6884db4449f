"""A renamed image keeps its history: versions and rows follow it to its new name, by its content.

The content is kept with the versions, at an image's first correction. Where a corrected image is
gone, and one without a history has its content, the image was renamed. What is to be done is
written down first (DIR/.fastseg/renamed.json), so that it is completed after a kill.
"""

from __future__ import annotations

import csv
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..data.contents import digests
from ..data.parts import Ledger
from ..data.slices import real_file
from ..data.state import CLASS_COLUMNS, CLASSES, classes_in, mask_of, state_of
from ..tasks import Item, Task
from ..utils.io import atomic_file, name_below, read_json, write_json, write_rows
from .log import Log
from .places import move_file

log = logging.getLogger(__name__)

CONTENT = "content.sha256"  # beside an image's versions
MARKER = "renamed.json"
PINS = "pins.csv"


def remember_content(task: Task, root: Path, name: str) -> None:
    """Write an image's SHA-256 and its file's size beside its versions, if that is not there."""
    file = _versions(root) / name / CONTENT
    if not file.is_file():
        (content,) = digests([Item(root / name, 0)], task.reading)
        size = real_file(root / name).stat().st_size
        with atomic_file(file) as temporary:
            temporary.write_text(f"{content} {size}\n", encoding="utf-8")


def follow_renames(
    task: Task, root: Path, rows: Log, images: Callable[[], Iterable[Path]]
) -> dict[str, str]:
    """Give renamed images their history, and return {old name: new name}.

    The caller holds the lock of the folder. `images` returns all images of the data folder; it is
    called only if a corrected one is gone.
    """
    marker = state_of(root) / MARKER
    if marker.is_file():  # of a process that was killed
        _carry(root, rows, {str(k): str(v) for k, v in read_json(marker).items()})
        marker.unlink(missing_ok=True)
    known = {row.image for row in rows.rows()}
    gone = sorted(name for name in known if not real_file(root / name).exists())
    contents, sizes = _contents_of(root, gone)
    if not contents:
        return {}
    others = [
        image
        for image in images()
        if name_below(root, image) not in known
        and (not sizes or real_file(image).stat().st_size in sizes)  # most need no reading
    ]
    found: dict[str, list[str]] = defaultdict(list)
    for image, content in zip(others, digests([Item(i, 0) for i in others], task.reading)):
        found[content].append(name_below(root, image))
    renamed = {
        name: found[content][0] for name, content in contents.items() if len(found[content]) == 1
    }
    if len({*renamed.values()}) < len(renamed):  # two histories of one content
        taken: dict[str, str] = {}
        renamed = {old: new for old, new in renamed.items() if taken.setdefault(new, old) == old}
    if renamed:
        write_json(marker, renamed)
        _carry(root, rows, renamed)
        marker.unlink(missing_ok=True)
        for new in renamed.values():
            remember_content(task, root, new)
        first = next(iter(renamed))
        log.info(
            "%s: %d corrected images were renamed, and keep their versions; the first is %s, "
            "now %s",
            root,
            len(renamed),
            first,
            renamed[first],
        )
    return renamed


def _versions(root: Path) -> Path:
    return state_of(root) / "versions"


def _contents_of(root: Path, gone: Iterable[str]) -> tuple[dict[str, str], set[int]]:
    """Return {image that is gone: its content}, of those whose content is known, and the sizes of
    their files in bytes; no sizes if some are unknown.
    """
    contents: dict[str, str] = {}
    sizes: set[int] = set()
    older = []  # corrected before contents were kept: the ledger may know them
    for name in gone:
        try:
            text = (_versions(root) / name / CONTENT).read_text(encoding="utf-8")
            content, size = text.split()
            contents[name] = content
            sizes.add(int(size))
        except (OSError, ValueError):
            older.append(name)
    ledger = Ledger.of(root) if older else None
    by_name = {row.name: row.sha256 for row in ledger.rows.values()} if ledger else {}
    found = {name: by_name[name] for name in older if name in by_name}
    return {**contents, **found}, set() if found else sizes


def _carry(root: Path, rows: Log, renamed: dict[str, str]) -> None:
    """Move what belongs to images to their new names; it is safe to be repeated."""
    for old, new in renamed.items():
        for kind in ("versions", "predictions"):
            folder = state_of(root) / kind
            for file in sorted((folder / old).iterdir()) if (folder / old).is_dir() else ():
                move_file(file, folder / new / file.name)
            if (folder / old).is_dir():
                os.rmdir(folder / old)
        if mask_of(root, old).exists():
            move_file(mask_of(root, old), mask_of(root, new))
    classes = dict(classes_in(root))
    if classes.keys() & renamed.keys():
        named = {renamed.get(name, name): label for name, label in classes.items()}
        entries = (dict(zip(CLASS_COLUMNS, entry)) for entry in sorted(named.items()))
        write_rows(root / CLASSES, entries)
    _rename_in(state_of(root) / PINS, renamed)
    before = rows.rows()
    if any(row.image in renamed for row in before):
        rows.write([replace(row, image=renamed.get(row.image, row.image)) for row in before])


def _rename_in(table: Path, renamed: dict[str, str]) -> None:
    """Replace names in the column "image" of a table, if there is one."""
    if not table.is_file():
        return
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, csv.Error):  # it stays as it is: whoever needs the pins says what is wrong
        return
    if any(row.get("image") in renamed for row in rows):
        write_rows(
            table, ({**row, "image": renamed.get(row["image"], row["image"])} for row in rows)
        )

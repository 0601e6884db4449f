"""The images of the data as the pages see them: in the order of their names, each with its part."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..corrections.waiting import usable
from ..data.assigning import APART, TEST, TRAIN, VALID
from ..data.parts import Ledger
from ..errors import DataError, FastsegError
from ..tasks import Item, Task
from ..utils.io import name_below
from ..utils.text import natural_key

if TYPE_CHECKING:
    from ..corrections.audit import AuditState
    from .workspace import Workspace

# "audit" are the images drawn for an audit of labels that a model made, "predicted" the others
PARTS = ("train", "valid", "test", "apart", "unlabelled", "audit", "predicted")
ID_LENGTH = 16  # hexadecimal digits of an image's id: a collision among a million is 1 in 10^7


@dataclass(frozen=True)
class Entry:
    """One image of the data. `item` is None for one without a label."""

    id: str
    name: str  # below the data folder
    path: Path
    item: Item | None
    part: str  # one of PARTS


@dataclass(frozen=True)
class Listing:
    """The images of the data, ordered by name, at some time."""

    entries: tuple[Entry, ...]
    by_id: dict[str, Entry]
    made: float  # time.monotonic
    fault: FastsegError | None = None  # why there are none
    waits: bool = False  # images without a label stop a fit until DIR/.fastseg is there


def list_images(workspace: Workspace) -> Listing:
    """Return the images of a workspace's data as they are now; what is usable, if some are not."""
    task, root = workspace.task, workspace.data
    fault, waits = None, False
    try:
        items = task.items(root)
    except FastsegError as error:  # what is usable is shown all the same
        items, count = usable(task, root)
        waits = count > 0
        fault = None if waits else error
    names = [name_below(root, item.image) for item in items]
    audit = workspace.audit()
    parts = _audited(audit, names) if audit else _parts(workspace, items, names)
    entries = [
        Entry(id_of(name), name, item.image, item, part)
        for item, name, part in zip(items, names, parts)
    ]
    for path in workspace.labels.unlabelled():
        name = name_below(root, path)
        entries.append(Entry(id_of(name), name, path, None, "unlabelled"))
    entries.sort(key=lambda entry: natural_key(entry.name))
    by_id = {entry.id: entry for entry in entries}
    return Listing(tuple(entries), by_id, time.monotonic(), fault, waits)


def _audited(audit: AuditState, names: list[str]) -> list[str]:
    drawn = {*audit.plan.sample}
    return ["audit" if Path(name).name in drawn else "predicted" for name in names]


def _parts(workspace: Workspace, items: list[Item], names: list[str]) -> list[str]:
    """Return the part of each item: by the ledger, what the export held out, or a fit would."""
    with suppress(DataError):  # a damaged ledger, or a file that vanished: a fit says so
        ledger = Ledger.of(workspace.data)
        if ledger:
            return _by_ledger(workspace.task, ledger, items, names)
    held_out: set[str] = set()
    card = workspace.card()
    if card and card.has_data_in(workspace.root):
        held_out = set(card.valid_files)
    if not held_out and items:
        try:
            _, valid = workspace.task.split(items)
        except DataError:  # too few images to train on: shown all the same
            valid = []
        held_out = {names[place] for place in valid}
    return [
        TEST if item.split == TEST else VALID if name in held_out else TRAIN
        for item, name in zip(items, names)
    ]


def _by_ledger(task: Task, ledger: Ledger, items: list[Item], names: list[str]) -> list[str]:
    """Return the part of each item, also of those that the next fit records."""
    recorded = {row.name: row.part for row in ledger.rows.values()}
    if not {*names} <= {*recorded}:
        sides = ledger.assign(items, reading=task.reading, grouped=task.grouped, record=False)
        parts = (TRAIN, VALID, APART)
        recorded |= {names[i]: part for side, part in zip(sides, parts) for i in side}
    return [
        TEST if item.split == TEST else recorded.get(name, APART)
        for item, name in zip(items, names)
    ]


def id_of(name: str) -> str:
    """Return an image's id by its name below the data folder; it has no path in it."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:ID_LENGTH]

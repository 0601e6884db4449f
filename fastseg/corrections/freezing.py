"""Freezes the parts of a data folder before its first correction, so that they never move."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..data.assigning import HELD_OUT
from ..data.contents import digests
from ..data.parts import Ledger
from ..data.slices import stem_of
from ..data.split import DEFAULT_SEED
from ..errors import DataError, ExportError
from ..exports.card import CARD, Card, read_card
from ..tasks import Item, Task
from ..utils.io import has_files, name_below

log = logging.getLogger(__name__)


def freeze_parts(
    task: Task, root: Path, exports: list[Path], moved: bool = False, record: bool = True
) -> Ledger | None:
    """Return the ledger of a data folder, frozen now if there is none.

    The first of `exports` that was trained on this folder, and held images out, says which ones
    stay held out; without one, the task's own split does. With `moved`, the folder may be a copy
    of the one that it was trained on. Without `record`, nothing is written. None if there are too
    few labelled images to divide.
    """
    there = Ledger.of(root)
    items, _ = task.listed(root)
    for export in exports:
        card = _card_of(task, root, export, moved)
        names = {name_below(root, item.image) for item in items}
        if card is None or not names & {*card.valid_files}:
            continue
        reason = f"export {export.name}"
        held_out = set(card.valid_files)
        if there is not None:
            there.hold_out(items, held_out, reason, task.reading, record)
            return there
        return Ledger.freeze(root, items, held_out, reason, task.reading, record)
    if there is not None:
        return there
    try:
        _, valid = task.split(items, DEFAULT_SEED)
    except DataError:
        return None
    held_out = {name_below(root, items[i].image) for i in valid}
    reason = f"the task's, by seed {DEFAULT_SEED}"
    return Ledger.freeze(root, items, held_out, reason, task.reading, record)


def never_training(
    task: Task, root: Path, files: Sequence[Path], exports: list[Path]
) -> dict[Path, str]:
    """Return which images without a label would never train if they had one, and why.

    They are copies of held-out images, or look the same, see `data.parts`; of classes, copies only,
    since images of other classes may look the same. What is held out is asked as in `freeze_parts`,
    of the ledger or the `exports`; nothing is recorded. Files may be outside the data folder.
    """
    if not files or not has_files(root):
        return {}
    ledger = freeze_parts(task, root, exports, moved=True, record=False)
    if ledger is None:
        return {}
    found: dict[Path, str] = {}
    items = [_unlabelled(task, root, file) for file in files]
    for file, content in zip(files, digests(items, task.reading)):
        row = ledger.rows.get(content)
        is_other = row is not None and row.name != name_below(root, file)
        if row is not None and is_other and row.part in HELD_OUT and (root / row.name).is_file():
            found[file] = f"is a copy of {row.name}, which is held out"
    if task.has_masks:
        left = [item for item in items if item.image not in found]
        # a share of 0: whether they could train is the question
        _, _, apart = ledger.assign(left, 0, task.reading, task.grouped, record=False)
        contents = digests(left, task.reading)
        found |= {left[i].image: ledger.rows[contents[i]].why for i in apart}
    return found


def _unlabelled(task: Task, root: Path, file: Path) -> Item:
    pattern = getattr(task, "group", None)
    match = re.match(pattern, stem_of(file)) if pattern else None
    return Item(file, Path(), None, match.group() if match else f"/{name_below(root, file)}")


def _card_of(task: Task, root: Path, export: Path, moved: bool) -> Card | None:
    """Return the card of an export of the task that was trained on this folder, or None."""
    if not (export / CARD).is_file():
        return None
    try:
        card = read_card(export)
    except ExportError as error:
        log.warning("%s", error)
        return None
    return card if card.task == task.name and (moved or card.has_data_in(root)) else None

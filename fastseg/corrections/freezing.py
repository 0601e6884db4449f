"""Freezes the parts of a data folder before its first correction, so that they never move."""

from __future__ import annotations

import logging
from pathlib import Path

from ..data.parts import Ledger
from ..data.split import DEFAULT_SEED
from ..errors import DataError, ExportError
from ..exports.card import CARD, Card, read_card
from ..tasks import Task
from ..utils.io import name_below

log = logging.getLogger(__name__)


def freeze_parts(task: Task, root: Path, exports: list[Path], moved: bool = False) -> Ledger | None:
    """Return the ledger of a data folder, frozen now if there is none.

    The first of `exports` that was trained on this folder, and held images out, says which ones
    stay held out; without one, the task's own split does. With `moved`, the folder may be a copy
    of the one that it was trained on. None if there are too few labelled images to divide.
    """
    there = Ledger.of(root)
    items, _ = task.listed(root)
    for export in exports:
        card = _card_of(task, root, export, moved)
        names = {name_below(root, item.image) for item in items}
        if card is None or not names & {*card.valid_files}:
            continue
        reason = f"export {export.name}"
        if there is not None:
            there.hold_out(items, set(card.valid_files), reason, task.reading)
            return there
        return Ledger.freeze(root, items, set(card.valid_files), reason, task.reading)
    if there is not None:
        return there
    try:
        _, valid = task.split(items, DEFAULT_SEED)
    except DataError:
        return None
    held_out = {name_below(root, items[i].image) for i in valid}
    return Ledger.freeze(root, items, held_out, f"the task's, by seed {DEFAULT_SEED}", task.reading)


def _card_of(task: Task, root: Path, export: Path, moved: bool) -> Card | None:
    """Return the card of an export of the task that was trained on this folder, or None."""
    if not (export / CARD).is_file():
        return None
    try:
        card = read_card(export)
    except ExportError as error:
        log.warning("%s", error)
        return None
    is_of_folder = card.data_folder is not None and card.data_folder.resolve() == root.resolve()
    return card if card.task == task.name and (is_of_folder or moved) else None

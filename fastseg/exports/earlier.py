"""Earlier exports: the one that a fit replaces is kept next to it, and can be taken back."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError
from ..utils.io import portable_path, write_json
from ..utils.locks import write_lock
from .card import CARD, MODEL, Card, read_card
from .folder import replacing
from .read import card_of, task_of

AGAIN = "again.json"  # in an export: what it was trained on from, and how it compares
EARLIER, REFUSED = ".earlier", ".refused"  # folders next to the export
KEPT_NAME = re.compile(r"(.+)-(?:\d{1,14}|unknown)")  # of an export in one of these


@dataclass(frozen=True)
class Restored:
    """An export that was taken back."""

    export: Path  # its folder now
    earlier: Path  # where it was, and still is
    kept: Path  # where the export is that was replaced


def restore(export: Path | str, earlier: Path | str | None = None) -> Restored:
    """Make an earlier export the current one again; the current one is kept in .earlier.

    `export` is the current one, such as exports/eye. `earlier` is the one to take back, by default
    the newest in exports/.earlier that is not the current one: calling this twice changes nothing.
    An export in .earlier can also be given as `export`. The change is one step: an interruption
    leaves one of the two, whole. Raises `ExportError` with code "no-earlier", "not-earlier" or
    "wrong-task", and `DataError` "busy" while a fit writes there.
    """
    out = Path(export)
    if earlier is None and out.parent.name in (EARLIER, REFUSED) and (out / CARD).is_file():
        earlier, out = out, _current_of(out)
    with write_lock(out):
        card = card_of(out)
        back = Path(earlier) if earlier is not None else _newest_before(out, card)
        old = card_of(back)
        if (old.task, old.classes) != (card.task, card.classes):
            raise ExportError(
                f"{back}: is an export of task {old.task} ({', '.join(old.classes)}), not of "
                f"{card.task} ({', '.join(card.classes)}); give another one",
                "wrong-task",
            )
        if _identity(old) == _identity(card):
            raise ExportError(f"{back}: is the current export already", "not-earlier")
        kept = keep(out)
        with replacing(out, task_of(card)) as folder:
            shutil.copytree(back, folder, dirs_exist_ok=True)
            correct_paths(folder, old, out.resolve())
    return Restored(out, back, kept)


def earlier_exports(out: Path | str) -> list[Path]:
    """Return the folders of the exports that `out` had before, the newest first."""
    target = Path(out).resolve()
    found = []
    for card in (target.parent / EARLIER).glob(f"*/{CARD}"):
        named = KEPT_NAME.fullmatch(card.parent.name)
        if named and named[1] == target.name:
            found.append(card.parent)
    return sorted(found, key=lambda folder: read_card(folder).created, reverse=True)


def keep(out: Path) -> Path:
    """Copy an export to .earlier/NAME-CREATED next to it, and return the copy's folder."""
    target = out.resolve()
    place = aside(target, EARLIER, read_card(target))
    if not (place / CARD).is_file():
        part = place.with_name(f".{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        try:
            shutil.copytree(target, part)
            correct_paths(part, read_card(target), place)
            part.rename(place)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise ExportError(
                f"{place}: cannot be written ({error.strerror or error}); what was there is "
                "unchanged",
                "not-writable",
            ) from error
    return place


def aside(out: Path, where: str, card: Card) -> Path:
    """Return the folder, next to an export, for one of its versions."""
    digits = re.sub(r"\D", "", card.created)[:14] or "unknown"
    return out.parent / where / f"{out.name}-{digits}"


def correct_paths(folder: Path, card: Card, place: Path) -> None:
    """Correct the paths in a copy, in `folder`, of the export of `card`, which moves to `place`:
    those to its data and to the exports that it was trained on from.
    """
    if card.data_folder is not None:
        values = json.loads((folder / CARD).read_text(encoding="utf-8"))
        values["data"] = portable_path(card.data_folder, place)
        write_json(folder / CARD, values)
    before = card.folder or folder
    with suppress(OSError, ValueError, TypeError):  # there is none, or it says nothing
        values = json.loads((folder / AGAIN).read_text(encoding="utf-8"))
        for name in ("from", "earlier"):
            if values.get(name) and (before / values[name]).is_dir():
                values[name] = portable_path(before / values[name], place)
        write_json(folder / AGAIN, values)


def _current_of(kept: Path) -> Path:
    """Return the folder of the current export that a kept one belongs to."""
    named = KEPT_NAME.fullmatch(kept.name)
    return kept.parent.parent / (named[1] if named else kept.name)


def _newest_before(out: Path, card: Card) -> Path:
    for folder in earlier_exports(out):
        if _identity(read_card(folder)) != _identity(card):
            return folder
    raise ExportError(
        f"{out}: no earlier export is kept in {out.parent / EARLIER}; fits with --from, and those "
        "of the app, keep the one that they replace",
        "no-earlier",
    )


def _identity(card: Card) -> tuple[str, str]:
    return card.created, card.sha256.get(MODEL, "")

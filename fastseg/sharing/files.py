"""The files of an export that others get: no pickle, no pictures; with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError
from ..exports.cache import SHARED
from ..exports.card import CARD, MODEL, PICKLE, Card, sha256
from ..exports.read import opened, verify_file
from .model_card import README, model_card


@dataclass(frozen=True)
class SharedFiles:
    """What others get of an export."""

    folder: Path
    card: Card
    files: dict[str, str]  # name -> SHA-256, without the model card
    model_card: str  # the text of README.md

    @property
    def names(self) -> list[str]:
        """The names of all files, in the order in which they are written."""
        return sorted([*self.files, README])

    def read(self, name: str) -> bytes | Path:
        """Return the content of a file, or its path."""
        return self.model_card.encode() if name == README else self.folder / name


def shared_files(export: Path | str, address: str) -> SharedFiles:
    """Return what others get of an export, after a check by its card's SHA-256.

    `export` is an export's folder or address, or a task, whose export is exports/TASK. `address` is
    where it will be, for the model card's example. Raises `ExportError`.
    """
    _, folder, card = opened(export)
    if folder.suffix == ".pkl":
        raise ExportError(
            f"{folder}: give the folder of the export; {PICKLE} is not shared", "untrusted-pickle"
        )
    present = [name for name in SHARED if name == MODEL or (folder / name).is_file()]
    named = [name for name in present if name in (CARD, MODEL) or name in card.sha256]
    files = {
        name: sha256(folder / name if name == CARD else verify_file(folder / name, card))
        for name in named
    }
    return SharedFiles(folder, card, files, model_card(card, address))

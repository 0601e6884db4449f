"""The rules by which a new image trains or is held out: its group, its looks, its folder, a hash.

`data.parts` has them in words, and keeps what they decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .looks import MAX_HASH_DISTANCE, bits_of, distances

TRAIN, VALID, TEST, APART = "train", "valid", "test", "apart"
HELD_OUT = (VALID, TEST)
FROZEN = "first split"  # how the reason of a row begins that was not drawn here


@dataclass(frozen=True)
class Row:
    """One image of the ledger."""

    sha256: str
    name: str  # path below the data folder when it was recorded
    group: str
    part: str  # train, valid, test or apart
    why: str
    look: str = ""  # perceptual hash; "" if it is not known yet

    @property
    def is_of_first_split(self) -> bool:
        """Whether it was there when the ledger was made."""
        return self.why.startswith(FROZEN)


def target_of(
    group: str,
    first: str,
    known: Collection[str],
    folders: Collection[str | None],
    valid_share: float,
) -> tuple[str, str]:
    """Return the part of a group's new images, and why; `first` is the lowest of their digests."""
    sides = {TRAIN if part == TRAIN else VALID for part in known if part != APART}
    if len(sides) > 1:
        return APART, f"its group {group} is on both sides"
    if sides:
        (side,) = sides
        return side, f"its group {group} {'trains' if side == TRAIN else 'is held out'}"
    if VALID in folders:
        return VALID, "in a folder for validation"
    if TRAIN in folders:
        return TRAIN, "in a folder for training"
    draw = hashlib.sha256(f"{group}\0{first}".encode(errors="surrogateescape")).hexdigest()
    return (VALID if int(draw[:13], 16) / 16**13 < valid_share else TRAIN), "drawn by its hash"


class Twins:
    """The images of the ledger by their looks."""

    def __init__(self, rows: Iterable[Row], labels: dict[str, Path | int], grouped: bool):
        self.grouped = grouped
        self.rows = [row for row in rows if row.look]
        self.labels = dict(labels)
        self.bits = bits_of([row.look for row in self.rows])

    def add(self, row: Row, label: Path | int) -> None:
        if row.look:
            self.rows.append(row)
            self.labels[row.sha256] = label
            self.bits = np.concatenate([self.bits, bits_of([row.look])])

    def checked(self, row: Row, views: Sequence[str], label: Path | int, may_train: bool) -> Row:
        """Return a new row with another part if it looks the same as an image of another part.

        `views` are the hashes of its image, mirrored and rotated. `may_train`: whether an image
        that was to validate may train in place of it.
        """
        if not views or row.part == APART or not self.rows:
            return row
        upright, *turned = (distances(self.bits, bits) for bits in bits_of(views))
        is_near = np.minimum.reduce([upright, *turned]) <= MAX_HASH_DISTANCE
        twins = [
            i
            for i in map(int, np.flatnonzero(is_near))
            if not (self.grouped and self.rows[i].group == row.group)
            and self._same_class(self.rows[i], label)
        ]
        held_out = next((i for i in twins if self.rows[i].part in HELD_OUT), None)
        trains = next((i for i in twins if self.rows[i].part == TRAIN), None)

        def why(twin: int, what: str) -> str:
            turn = "" if upright[twin] <= MAX_HASH_DISTANCE else ", mirrored or rotated"
            return f"looks the same as {self.rows[twin].name}{turn}, which {what}"

        if row.part == TRAIN and held_out is not None:
            return replace(row, part=APART, why=why(held_out, "is held out"))
        if row.part == VALID and trains is not None:
            part = TRAIN if may_train and held_out is None else APART
            return replace(row, part=part, why=why(trains, "trains"))
        return row

    def _same_class(self, twin: Row, label: Path | int) -> bool:
        """Return whether two images may be copies: a sharp and a blurred one have other classes."""
        other = self.labels.get(twin.sha256)
        return not isinstance(label, int) or not isinstance(other, int) or label == other

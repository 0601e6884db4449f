"""Pins: does what a person corrected still hold under an export? They are no part of any score.

A correction holds if the export is now right in at least half of the pixels that the person
changed: where the prediction that was corrected differs from the label. Half, because what matters
is on which side the bulk of the region is: outlines that people draw are a pixel or two off, so
that no honest model is right in all of them, and a region that came back is wrong in nearly all.
For classes, it holds if the corrected class is predicted.

Only what a person changed is a correction: a label that was accepted as it was is no pin, and a
label that was restored is one only if the version that it equals is one.

A correction that held under an earlier export and does not now "came back". One that never held is
"not learned yet", unless its image is held out: no training sees it. Which ones held is kept in
DIR/.fastseg/pins.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.assigning import TRAIN
from ..data.parts import Ledger
from ..data.state import state_of
from ..errors import DataError
from ..exports.card import MODEL, Card, read_card
from ..tasks import Item, Task
from ..types import IGNORE
from ..utils.io import name_below, write_rows
from ..utils.locks import waiting_lock
from ..utils.progress import track
from .history import FIRST, WAIT
from .log import REOPENED, WITHDRAWN
from .places import Label
from .renames import PINS
from .store import Corrections

if TYPE_CHECKING:
    from ..inference.prediction import Prediction

# Actions that are a pin, where pixels differ.
CHANGES = ("corrected", "new", "audited", "predicted")
SAME = ("restored", REOPENED)  # as the version that it equals
HOLDS = 0.5  # share of the changed pixels; see the module's text
SOURCE_DIGITS = 12  # of the model's SHA-256


@dataclass(frozen=True)
class Pin:
    """One corrected image under an export."""

    image: str  # path below the data folder
    version: int  # of the label
    pixels: int  # that the person changed; 1 for a class
    right: float  # share of them in which the export is right now
    held_out: bool  # whether the image is held out from training, or apart: it never trains
    held_before: bool  # under an earlier export

    @property
    def holds(self) -> bool:
        """Whether the export is right in at least half of what was changed."""
        return self.right >= HOLDS


@dataclass
class Pins:
    """All corrections of a data folder under an export."""

    export: str
    pins: list[Pin] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many corrected images there are."""
        return len(self.pins)

    @property
    def held(self) -> int:
        """How many of them hold."""
        return sum(pin.holds for pin in self.pins)

    @property
    def came_back(self) -> list[str]:
        """The images whose correction held under an earlier export and does not now."""
        return [pin.image for pin in self.pins if not pin.holds and pin.held_before]

    @property
    def not_learned(self) -> list[str]:
        """The images to train on whose correction never held."""
        return [pin.image for pin in self._never_held if not pin.held_out]

    @property
    def never_trained(self) -> list[str]:
        """The held-out images whose correction never held: no training can learn it."""
        return [pin.image for pin in self._never_held if pin.held_out]

    @property
    def _never_held(self) -> list[Pin]:
        return [pin for pin in self.pins if not pin.holds and not pin.held_before]

    @property
    def text(self) -> str:
        """One sentence: "41 of 43 corrections still hold, 2 came back"."""
        if not self.pins:
            return "no corrections to hold yet"
        still = "still hold" if any(pin.held_before for pin in self.pins) else "hold"
        if self.total == 1:
            still = still.replace("hold", "holds")
        counts = (
            ("came back", self.came_back),
            ("not learned yet", self.not_learned),
            ("in held-out images, which never train", self.never_trained),
        )
        parts = [f"{len(names)} {what}" for what, names in counts if names]
        corrections = "1 correction" if self.total == 1 else f"{self.total} corrections"
        return ", ".join([f"{self.held} of {corrections} {still}", *parts])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: the counts, the images, and each pin."""
        return {
            "export": self.export,
            "held": self.held,
            "total": self.total,
            "came_back": self.came_back,
            "not_learned": self.not_learned,
            "never_trained": self.never_trained,
            "text": self.text,
            "pins": [{**asdict(pin), "holds": pin.holds} for pin in self.pins],
        }


@dataclass(frozen=True)
class _Held:
    """A row of pins.csv: a version of a label that held under an export."""

    image: str
    version: int
    source: str
    when: str


def source_of(export: Path | str, card: Card | None = None) -> str:
    """Return what names an export in corrections.csv: its folder, 12 digits of its SHA-256."""
    card = card or read_card(export)
    return f"{Path(export).resolve().name} {card.sha256.get(MODEL, '')[:SOURCE_DIGITS]}".strip()


def check_pins(
    task: Task,
    data: Path | str,
    export: Path | str,
    *,
    device: str | None = None,
    precision: str | None = None,
    bs: int = 4,
    also_held: Iterable[Pin] = (),
) -> Pins:
    """Return which corrections of a data folder hold under an export; nothing is written.

    Corrected are the images with a prediction that a person changed. `also_held` are pins of
    another export that is an earlier one. Raises `FastsegError` kinds for exports and images that
    cannot be read.
    """
    root = Path(data)
    store = Corrections(task, root)
    wanted = _corrected(store)
    if not wanted:
        return Pins(str(export))
    held = {(row.image, row.version) for row in _held(root)}
    held |= {(pin.image, pin.version) for pin in also_held if pin.holds}
    ledger = Ledger.of(root)
    rows = {row.name: row for row in ledger.rows.values()} if ledger else {}
    items = [item for item in task.listed(root)[0] if name_below(root, item.image) in wanted]

    def look(item: Item, prediction: Prediction) -> Pin | None:
        name = name_below(root, item.image)
        version, before = wanted[name]
        changed, right = _compared(before, task.label(item), prediction.labels)
        if not changed:
            return None
        row = rows.get(name)
        return Pin(
            name,
            version,
            changed,
            round(right / changed, 4),
            bool(row and row.part != TRAIN),
            (name, version) in held,
        )

    from ..inference.loading import load

    predictor = load(export, device, precision=precision)
    found = predictor.stream_or_raise(items, bs, look)
    pins = [pin for _, pin in track(found, "checking corrections", len(items)) if pin]
    return Pins(str(export), pins)


def record_held(data: Path | str, pins: Pins, source: str) -> None:
    """Remember which corrections hold under an export that is in use now."""
    root = Path(data)
    if not any(pin.holds for pin in pins.pins):
        return
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with waiting_lock(state_of(root) / PINS, WAIT):
        rows = _held(root)
        there = {(row.image, row.version) for row in rows}
        rows += [
            _Held(pin.image, pin.version, source, when)
            for pin in pins.pins
            if pin.holds and (pin.image, pin.version) not in there
        ]
        write_rows(state_of(root) / PINS, map(asdict, rows))


def _held(root: Path) -> list[_Held]:
    file = state_of(root) / PINS
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            return [
                _Held(row["image"], int(row["version"]), row["source"], row["when"])
                for row in csv.DictReader(opened)
            ]
    except (OSError, csv.Error, KeyError, ValueError) as error:
        raise DataError(
            f"{file}: cannot be read ({error}); move it away: what held before is then not known",
            "damaged-pins",
        ) from None


def corrected_images(store: Corrections) -> list[str]:
    """Return the images whose predicted label a person changed: those that are pins.

    By the log; labels are read only where a version was restored.
    """
    pixels = {(row.image, row.version): row.pixels for row in store.all()}
    return [name for name, numbers in _pinned(store).items() if pixels[name, numbers[1]]]


def _corrected(store: Corrections) -> dict[str, tuple[int, Label]]:
    """Return {image: (newest version, the last prediction that a person corrected)}."""
    found = {}
    for name, (newest, number) in _pinned(store).items():
        before = store.prediction(name, number)
        if before is not None:
            found[name] = newest, before
    return found


def _pinned(store: Corrections) -> dict[str, tuple[int, int]]:
    """Return {image: (newest version, the last one that changed a prediction)}."""
    actions: dict[str, dict[int, str]] = {}
    for row in store.all():
        actions.setdefault(row.image, {})[row.version] = row.action
    found = {}
    for image, versions in actions.items():
        if not (store.root / image).exists():
            continue
        number = max(versions)
        while number > FIRST:
            action = versions.get(number)
            if action == WITHDRAWN:
                break
            if action in CHANGES and store.has_prediction(image, number):
                found[image] = max(versions), number
                break
            number = _like(store, image, number) if action in SAME else number - 1
    return found


def _like(store: Corrections, image: str, number: int) -> int:
    """Return the newest earlier version with the label of a version; 0 if there is none."""
    label = _read(store, image, number)
    for earlier in range(number - 1, FIRST, -1):
        other = _read(store, image, earlier)
        if label is not None and other is not None and np.array_equal(label, other):
            return earlier
    return FIRST


def _read(store: Corrections, image: str, number: int) -> Label | None:
    try:
        return store.version(image, number)
    except DataError:  # it cannot be read: nothing equals it
        return None


def _compared(before: Label, label: Label, now: np.ndarray | Sequence[int]) -> tuple[int, int]:
    """Return how many pixels a person changed, and in how many of them an export is right now."""
    was, true, said = np.asarray(before), np.asarray(label), np.asarray(now)
    if not was.shape == true.shape == said.shape:
        return 0, 0
    changed = (was != true) & (true != IGNORE)
    return int(changed.sum()), int((changed & (said == true)).sum())

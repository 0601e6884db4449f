"""Labels as the editor opens and saves them: through `corrections`, with a lock an image.

`base` says which label an editor began with: the version's number and a checksum of its content.
A visit of an image is one version, which each stroke replaces; the checksum tells a second editor
that the version was replaced meanwhile.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..corrections.log import WITHDRAWN
from ..errors import AppError, DataError, FastsegError
from ..types import IGNORE
from ..utils.io import name_below
from ..utils.shell import typed
from .listing import id_of

if TYPE_CHECKING:
    from ..corrections.log import Correction
    from ..corrections.store import Corrections
    from .listing import Entry
    from .workspace import Workspace

Label = np.ndarray | int  # codes, uint8 (H, W), 255 unlabelled, or a class index


@dataclass(frozen=True)
class Opened:
    """A label to begin with. `origin` is "label", "prediction" or "empty"."""

    label: Label | None  # None: a class that nobody has said yet
    base: str
    origin: str
    fault: str = ""  # why the label in the data could not be used


class Labels:
    """The labels of a workspace's images. All methods are thread-safe."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._store: Corrections | None = None

    @property
    def store(self) -> Corrections:
        """The corrections of the data folder."""
        from ..corrections.store import Corrections

        workspace = self.workspace
        with self._lock:
            if self._store is None:  # what the export held out, and the pages show so, stays so
                self._store = Corrections(workspace.task, workspace.data, workspace.out)
            return self._store

    def _of(self, entry: Entry) -> threading.Lock:
        with self._lock:
            return self._locks[entry.id]

    def open(self, entry: Entry) -> Opened:
        """Return the image's label; of an unlabelled one, what the model says, or nothing."""
        with self._of(entry):
            label, base, fault = self._current(entry)
        if label is not None:
            return Opened(label, base, "label")
        try:
            return Opened(self.workspace.predictions.label(entry), base, "prediction", fault)
        except FastsegError:  # no export, or one that cannot be used: labelled from nothing
            pass
        if not self.workspace.task.has_masks:
            return Opened(None, base, "empty", fault)
        background = self.workspace.task.background
        start = IGNORE if background is None else background
        return Opened(np.full(self.size(entry), start, np.uint8), base, "empty", fault)

    def size(self, entry: Entry) -> tuple[int, int]:
        """Return the (height, width) at which an image is shown, and which its mask has."""
        return self.store.size(entry.path)

    def unlabelled(self) -> list[Path]:
        """Return the images that wait for a label; none where the folder cannot be read."""
        try:
            self.store.refresh()
            return self.store.unlabelled()
        except FastsegError:
            return []

    def why_no_adding(self) -> str | None:
        """Return, in one line, why images cannot be added to the data; None if they can."""
        workspace = self.workspace
        if workspace.audit():
            return "These data belong to an audit, whose images are drawn already."
        if not workspace.data.is_dir():
            return (
                "Results cannot be corrected here: the app has no data folder. Start it with "
                f"one: fastseg app {typed(workspace.out)} --data DIR"
            )
        return None

    def add(self, file: Path, name: str, export: Path) -> Entry:
        """Copy a predicted image into the data, to be labelled from what `export` predicts.

        `name` is how people know the image. One whose bytes are in the data already is returned as
        it is. Raises `AppError` "no-data" without a data folder, "never-trains" for a copy of a
        held-out image, and `DataError` as `Corrections.add`.
        """
        from ..corrections.freezing import never_training

        workspace = self.workspace
        why = self.why_no_adding()
        if why is not None:
            raise AppError(why, "no-data")
        reasons = never_training(workspace.task, workspace.data, [file], [workspace.out])
        if file in reasons:
            raise AppError(
                f"{name}: not added: {reasons[file]}, so it would never train", "never-trains"
            )
        try:
            added = self.store.add(file)
        except FastsegError as error:  # it names the private copy; people know the original
            told = type(error)(str(error).replace(str(file), name), error.code)
            told.details = error.details
            raise told from error
        workspace.changed()
        entry = workspace.entry(id_of(name_below(workspace.data, added)))
        if entry.item is None:
            workspace.predictions.start_with(entry, export)
        return entry

    def history(self, entry: Entry) -> list[Correction]:
        """Return the versions of an image's label, the newest last."""
        return self.store.history(entry.path)

    def save(
        self,
        entry: Entry,
        label: Label,
        *,
        base: str,
        amend: bool,
        action: str,
        by: str,
        seconds: float,
    ) -> str:
        """Save a label, and return the base of the saved one.

        With `amend`, the version of `base` is replaced, and otherwise a new one is added. A label
        that is the current one already, such as one whose answer was lost, is not saved again.
        "accepted" and "corrected" are named by what the visit changed in the end, see `_named`.
        Raises `DataError` "edited-meanwhile" if the current label is not the one of `base`.
        """
        with self._of(entry):
            current, found, _ = self._current(entry)
            action = self._named(entry, label, int(base.partition("-")[0]) - amend, action, amend)
            is_same = current is not None and np.array_equal(current, label)
            if found != base:
                if is_same and self._newest_is(entry, action):
                    return found
                raise self._edited_meanwhile(entry, found)
            if amend and is_same and self._newest_is(entry, action):
                return found
            number = int(base.partition("-")[0])
            audit = self.workspace.audit()
            self.store.save(
                entry.path,
                label,
                action=action,
                by=by,
                seconds=seconds,
                source=audit.plan.source if audit else self.workspace.predictions.source(entry),
                prediction=self.workspace.predictions.label_if_known(entry),
                base=number,
                amend=amend,
            )
            return self._current(entry)[1]

    def _named(self, entry: Entry, label: Label, before: int, action: str, amend: bool) -> str:
        """Return what a visit was, by the difference to the version `before` it.

        Strokes that were taken back are no correction: with the label from before, or without one
        the prediction, it is "accepted" where a person said so, and else "restored". A label that
        was accepted after strokes is "corrected", or "restored" if it equals an older version.
        Where the model's prediction took the place of another label, it is "predicted".
        """
        if action not in ("accepted", "corrected"):
            return action
        start = self._version_or_none(entry, before)
        predicted = self.workspace.predictions.label_if_known(entry)
        is_predicted = predicted is not None and np.array_equal(predicted, label)
        if start is None:
            if predicted is None:  # nothing to compare with
                return "corrected" if amend else action
            if is_predicted and entry.item is not None:  # a faulty label was replaced
                return "predicted"
            return action if is_predicted or not amend else "corrected"
        if np.array_equal(start, label):
            return "accepted" if action == "accepted" else "restored"
        if action == "accepted" and any(
            np.array_equal(older, label)
            for number in range(before - 1, -1, -1)
            if (older := self._version_or_none(entry, number)) is not None
        ):
            return "restored"
        return "predicted" if is_predicted else "corrected"

    def _version_or_none(self, entry: Entry, number: int) -> Label | None:
        try:
            return self.store.version(entry.path, number)
        except DataError:  # there is none, or it is faulty
            return None

    def _newest_is(self, entry: Entry, action: str) -> bool:
        rows = self.history(entry)
        return bool(rows) and rows[-1].action == action

    def _current(self, entry: Entry) -> tuple[Label | None, str, str]:
        """Return the label or None, its base, and why it cannot be used if it is faulty."""
        number, fault = self.store.newest(entry.path), ""
        try:
            label = self.store.label(entry.path)
        except DataError as error:  # the editor is where it can be corrected
            label, fault = None, str(error)
        if label is None:
            return None, f"{number}-", fault
        return label, f"{number}-{zlib.crc32(np.ascontiguousarray(label).tobytes()):08x}", ""

    def _edited_meanwhile(self, entry: Entry, found: str) -> DataError:
        rows = self.history(entry)
        last = rows[-1] if rows else None
        who = f" by {last.by}" if last and last.by else ""
        error = DataError(
            f"{entry.name}: was changed meanwhile{who}; load the newer label, or save over it",
            "edited-meanwhile",
        )
        error.details = {
            "base": found,
            "by": last.by if last else "",
            "when": last.when if last else "",
        }
        return error

    def withdraw(self, entry: Entry, *, base: str, by: str) -> None:
        """Take the label of an image away that had none before its first correction.

        Raises `DataError` as `Corrections.withdraw`, and "edited-meanwhile" if the current label is
        not the one of `base`.
        """
        with self._of(entry):
            found = self._current(entry)[1]
            if found != base:
                raise self._edited_meanwhile(entry, found)
            self.store.withdraw(entry.path, by=by, base=int(base.partition("-")[0]))

    def was_labelled(self, entry: Entry) -> bool:
        """Return whether an image had a label before its newest version."""
        rows = self.history(entry)
        is_second = len(rows) > 1 and rows[-2].action != WITHDRAWN
        return is_second or self.store.had_label(entry.path)

    def version(self, entry: Entry, number: int) -> Label:
        """Return an earlier version of a label. Raises `AppError` if there is none."""
        numbers = {row.version for row in self.history(entry)}
        if number not in numbers | {0}:
            raise AppError(f"version {number}: there is none", "no-such-result")
        return self.store.version(entry.path, number)

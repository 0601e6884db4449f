"""`Corrections`: saves labels as new versions, in the task's own format; none is ever lost.

The order of what is written, so that a process may be killed at any moment:

1. the new label, in DIR/.fastseg/staged; it is decoded and compared,
2. the former label, as a file of DIR/.fastseg/versions, and the prediction,
3. the row of the log, as DIR/.fastseg/versions/IMAGE/N.json,
4. the new label takes the place of the former one, in one step,
5. the row in DIR/corrections.csv; then N.json is deleted.

Whoever opens the folder next finds N.json: if the label is in its place, the row is added; if not,
the former label is whole, and the version never was.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from ..data.images import save_image
from ..data.state import LEDGER, masks_in, state_of
from ..errors import DataError, brief, choose
from ..tasks import SegmentationTask, Task
from ..types import IGNORE
from ..utils.io import atomic_file, write_json
from .adding import add_image
from .freezing import freeze_parts
from .history import History
from .locate import require_files
from .log import ACTIONS, WITHDRAWN, Correction
from .places import Label, Place, Staged, staging
from .renames import remember_content


class Corrections(History):
    """The labels of a task's data folder, with all their versions, and how new ones are saved.

    `data` is the folder (default: the task's own). Thread-safe; several processes may write to one
    folder. What an interrupted process left unfinished is completed when it is opened. `export` is
    an export whose held-out images stay held out, see `data.parts`; by default the one that the
    source of a correction names, or exports/TASK.
    """

    def __init__(
        self,
        task: Task | str | Path,
        data: Path | str | None = None,
        export: Path | str | None = None,
    ):
        super().__init__(task, data)
        self.export = Path(export) if export is not None else None

    def begin(self, source: str = "") -> None:
        """Prepare the folder for correction.

        DIR/.fastseg is made: from then on, an image without a label waits for one and does not stop
        a fit. The parts are frozen, see `data.parts`, so that no held-out image ever trains: those
        of `export`, of the export that `source` names, or of exports/TASK. Raises `DataError` if
        the folder cannot be written.
        """
        require_files(self.task, self.root)
        if not state_of(self.root).is_dir():
            self.task.folder(self.root)  # it is there, and has files
            try:
                state_of(self.root).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(
                    f"{self.root}: cannot be written ({error.strerror}), and labels are saved in "
                    "it; make it writable, or correct a copy of it",
                    "not-writable",
                ) from None
        if not (self.root / LEDGER).is_file():
            named = source.rpartition(" ")[0]
            exports = [Path("exports") / name for name in (named, self.task.name) if name]
            with self._guard:
                freeze_parts(self.task, self.root, [self.export] if self.export else exports)

    def save(
        self,
        image: Path | str,
        label: Label,
        *,
        action: str,
        by: str,
        seconds: float,
        source: str = "",
        prediction: Label | None = None,
        base: int | None = None,
        amend: bool = False,
    ) -> Correction:
        """Save a label as the newest version of an image's, and return its row in the log.

        A mask is uint8 (H, W) of class indices, 255 unlabelled, at the size at which the image is
        shown. `base` is the version that the editor began with: with a newer one, nothing is saved,
        and `DataError` has code "edited-meanwhile". Other codes: "mask-size", "mask-value",
        "not-representable" (the task's format cannot hold the label), "outside-data", "no-layout",
        "unknown-action". What is in the file afterwards decodes to exactly the label.

        With `amend`, the label replaces the version `base` and its row, where that is the newest
        one and by the same person: an editor that saves after each stroke makes one version of a
        visit. The versions before it stay.
        """
        choose("action", action, ACTIONS, DataError)
        name = self._name(image)
        label = self._checked(name, label)
        if prediction is not None:
            prediction = self._checked(name, prediction)
        self.begin(source)
        place = self._place(name)
        staged = place.stage(label, staging(self.root))
        row = _row(name, action, by, seconds, source)
        try:
            with self._locked():
                return self._save(name, place, staged, label, prediction, base, amend, row)
        finally:
            if staged.file is not None:
                staged.file.unlink(missing_ok=True)

    def withdraw(
        self, image: Path | str, *, by: str, seconds: float = 0, base: int | None = None
    ) -> Correction:
        """Take the label of an image away that had none before its first correction.

        The image waits for a label again, and does not train. What was saved stays as a version;
        the new version has the action `log.WITHDRAWN` and no label. Raises `DataError` with code
        "had-label" if there was one before, "no-label" if there is none to take away, and
        "edited-meanwhile" as `save` does.
        """
        name = self._name(image)
        is_first = not self._newest(name) and self._place(name).read() is not None
        if self.had_label(image) or is_first:
            raise DataError(
                f"{self.root / name}: had a label before the first correction; restore version 0",
                "had-label",
            )
        with self._locked():
            place = self._place(name)
            if place.read() is None:
                raise DataError(f"{self.root / name}: has no label to take away", "no-label")
            row = _row(name, WITHDRAWN, by, seconds, "")
            return self._save(name, place, None, None, None, base, False, row)

    def restore(
        self,
        image: Path | str,
        number: int,
        *,
        by: str,
        seconds: float = 0,
        base: int | None = None,
    ) -> Correction:
        """Make an earlier version the newest one; the versions between stay."""
        return self.save(
            image, self.version(image, number), action="restored", by=by, seconds=seconds, base=base
        )

    def add(self, file: Path | str) -> Path:
        """Copy an image without a label into the task's layout, and return the copy's path.

        An image whose content is there already is returned as it is. Where folders divide the
        images, the parts decide, see `data.parts`. Raises `DataError` with code "same-name" if
        another image has its name, "image-is-mask" if it would be taken for a mask, and
        "unreadable-image" for other files.
        """
        self.begin()
        with self._locked():
            return add_image(self.task, self.root, self._listed(), Path(file))

    # What these need

    def _save(
        self,
        name: str,
        place: Place,
        staged: Staged | None,
        label: Label | None,
        prediction: Label | None,
        base: int | None,
        amend: bool,
        row: Correction,
    ) -> Correction:
        """Save a staged label, or none: the caller holds the lock of the folder."""
        newest = self._newest(name)
        if self._log.is_damaged or self._has_version_from(name, newest):
            self._repair()
            newest = self._newest(name)
        if base is not None and newest > base:
            last = [entry for entry in self._log.rows() if entry.image == name][-1]
            raise DataError(
                f"{self.root / name}: was saved meanwhile by {last.by or 'someone'} (version "
                f"{newest}); look at that version, then save again",
                "edited-meanwhile",
            )
        if staged and amend and base == newest and self._is_by(name, newest, row.by):
            return self._amend(name, place, staged, label, prediction, replace(row, version=newest))
        try:
            before = place.read()
        except DataError:  # it is faulty, and is replaced
            before = None
        row = replace(
            row,
            version=newest + 1,
            pixels=_changed(before if prediction is None else prediction, label),
        )
        versions = self._versions(name)
        place.archive(versions / f"{newest}{place.suffix}")
        remember_content(self.task, self.root, name)
        if prediction is not None:
            self._write_prediction(name, row.version, prediction)
        pending = versions / f"{row.version}.json"
        fingerprint = staged.fingerprint if staged else ""  # of no label
        write_json(pending, {"fingerprint": fingerprint, "row": asdict(row)})
        if staged:
            place.put(staged)
        else:
            place.clear()
        self._log.write([*self._log.rows(), row])
        pending.unlink(missing_ok=True)
        place.finish()
        if staged:
            self._relist(name)
        else:
            self.refresh()
        return row

    def _is_by(self, name: str, number: int, by: str) -> bool:
        rows = self._log.rows()
        return any(row.image == name and row.version == number and row.by == by for row in rows)

    def _amend(
        self,
        name: str,
        place: Place,
        staged: Staged,
        label: Label | None,
        prediction: Label | None,
        row: Correction,
    ) -> Correction:
        """Replace the newest version. Killed in between, the row tells of the label before."""
        before = (
            self.prediction(self.root / name, row.version) if prediction is None else prediction
        )
        if before is None:
            file = self._version_file(name, row.version - 1)
            before = place.decode(file) if file else None
        row = replace(row, pixels=_changed(before, label))
        place.put(staged)
        key = row.image, row.version
        self._log.write([row if (r.image, r.version) == key else r for r in self._log.rows()])
        place.finish()
        self._relist(name)
        return row

    def _write_prediction(self, name: str, number: int, prediction: Label) -> None:
        folder = state_of(self.root) / "predictions" / name
        if isinstance(prediction, np.ndarray):
            save_image(folder / f"{number}.png", prediction)
            return
        with atomic_file(folder / f"{number}.txt") as temporary:
            temporary.write_text(f"{int(prediction)}\n", encoding="utf-8")

    def _checked(self, name: str, label: Label) -> Label:
        """Return a label as uint8 (H, W) or int. Raises `DataError` if it cannot be one."""
        count = len(self.task.classes)
        if not isinstance(self.task, SegmentationTask):
            if isinstance(label, np.ndarray) or not 0 <= int(label) < count:
                raise DataError(
                    f"{self.root / name}: the label is no class index from 0 to {count - 1}",
                    "mask-value",
                )
            return int(label)
        mask, size = np.asarray(label), self.size(name)
        if mask.shape != size:
            found = "x".join(map(str, mask.shape[::-1]))
            raise DataError(
                f"{self.root / name}: the mask is {found} px, but the image is shown at "
                f"{size[1]}x{size[0]}",
                "mask-size",
            )
        wrong = np.setdiff1d(mask, [*range(count), IGNORE])
        if len(wrong) or not np.issubdtype(mask.dtype, np.integer):
            raise DataError(
                f"{self.root / name}: the mask holds {wrong[:5].tolist()}; class indices are 0 to "
                f"{count - 1}, and {IGNORE} is unlabelled",
                "mask-value",
            )
        return np.ascontiguousarray(mask, dtype=np.uint8)

    def _has_version_from(self, name: str, number: int) -> bool:
        """Return whether an earlier label would be overwritten: rows of the log were lost."""
        folder = self._versions(name)
        files = folder.iterdir() if folder.is_dir() else ()
        return any(
            file.stem.isdecimal() and int(file.stem) >= number and file.suffix != ".json"
            for file in files
        )

    def _relist(self, name: str) -> None:
        """Look at the folder again if the label of an image is in another place than before."""
        with self._guard:
            item = self._listing.items.get(name) if self._listing else None
            mask = masks_in(self.root).get(name) if item is None or item.origin else None
            is_there = item is not None and not isinstance(item.label, int)
            if not is_there or (item is not None and item.origin and item.label != mask):
                self._listing = None


def _row(name: str, action: str, by: str, seconds: float, source: str) -> Correction:
    """Return a row whose version and pixels are not known yet."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Correction(name, 0, action, brief(by), when, round(float(seconds), 1), source, 0)


def _changed(before: Label | None, label: Label | None) -> int:
    """Return how many pixels of a label differ from what there was; all that are labelled if there
    was nothing, and none if there is nothing now.
    """
    if label is None:
        return 0
    if not isinstance(label, np.ndarray):
        return int(before is None or int(before) != label)
    if not isinstance(before, np.ndarray) or before.shape != label.shape:
        return int((label != IGNORE).sum())
    return int((before != label).sum())

"""What the pages share: the task, its data and exports, the model, the corrections, the training.

No torch at import: the model loads on a thread behind the first page.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.slices import real_file
from ..errors import AppError, DataError, FastsegError, TaskError
from ..exports.addresses import own_folder
from ..exports.card import CARD, MODEL, Card, read_card
from ..exports.earlier import EARLIER
from ..exports.folder import find, is_export
from ..exports.read import card_of, task_of
from ..tasks import Item, Task, get
from ..tasks.declared import has_no_task
from ..utils.io import name_below
from ..utils.shell import typed
from .batches import Batches
from .comparing import Comparing
from .faults import Checking
from .jobs import Training
from .judging import Judging
from .labels import Labels
from .listing import Entry, Listing, id_of, list_images
from .model import Model
from .ordering import Ordering
from .predictions import Predictions
from .thumbnails import Thumbnails

if TYPE_CHECKING:
    from ..corrections.audit import AuditState
    from ..inference.predictor import Predictor

FRESH_SECONDS = 2.0  # for which a listing of the data counts as new


class Workspace:
    """A task with its data and exports, as the pages see them. All methods are thread-safe."""

    def __init__(
        self,
        task: Task,
        data: Path | str | None = None,
        export: Path | str | None = None,
        device: str | None = None,
    ):
        self.task, self.device = task, device
        self.data = Path(data or task.default_data)
        self.exports_folder = Path(export).parent if export else Path("exports")
        # the export that fits write, and that pages use unless they are asked for another
        self.out = Path(export) if export else self.exports_folder / task.name
        self._lock = threading.RLock()
        self._listing: Listing | None = None
        self._models: dict[Path, Model] = {}
        self._scratch: Path | None = None
        self.thumbnails, self.checking = Thumbnails(self), Checking(self)
        self.labels, self.predictions = Labels(self), Predictions(self)
        self.ordering = Ordering(self)
        self.training, self.judging = Training(self), Judging(self)
        self.batches, self.comparing = Batches(self), Comparing(self)

    @classmethod
    def opened(
        cls,
        name: str | None = None,
        data: Path | str | None = None,
        export: Path | str | None = None,
        device: str | None = None,
    ) -> Workspace:
        """Return the workspace of a task's name, a folder with a task.toml, or an export.

        Without a name it is the task.toml in this folder, or the newest export.
        Raises `FastsegError` if there is none.
        """
        if name is None and Path("task.toml").is_file():
            name = "."
        if name is None:
            name = str(export or find())
        own_folder(name)
        if export is not None:
            own_folder(export)
        name = labelled_in(name)
        if not is_export(name):
            return cls(_task_named(name), data, export, device)
        if Path(name).suffix == ".pkl":
            raise AppError(
                f"{name}: is a pickle, which can run any code; give its folder, whose safe files "
                "are used",
                "untrusted-pickle",
            )
        card = card_of(name)
        task = task_of(card)
        if data is None and card.data_folder and card.data_folder.is_dir():
            data = card.data_folder
        if card.declared and data is not None and not has_no_task(data):
            own = get(Path(data))  # its file can be trained on; the card's definition cannot
            task = own if (own.name, own.classes) == (task.name, task.classes) else task
        if export is not None and read_card(export).task != task.name:
            raise TaskError(f"{export}: holds an export of another task", "wrong-task")
        return cls(task, data, export or name, device)

    # The data

    @cached_property
    def project(self) -> str:
        """A digest of the task and the data folder: what a browser keeps belongs to one project."""
        return id_of(f"{self.task.name} {self.root}")

    @cached_property
    def root(self) -> Path:
        """The data folder, with links followed: no file outside it is shown or written."""
        return self.data.resolve()

    def audit(self) -> AuditState | None:
        """Return the audit that the data belong to, see `fastseg label`; None if they do not."""
        from ..corrections.audit import audit_of

        with suppress(DataError):  # a damaged audit.json: fastseg label says so
            return audit_of(self.data)
        return None

    def listing(self, fresh: bool = False) -> Listing:
        """Return the images of the data; `fresh` lists them again if that was some time ago."""
        with self._lock:
            found = self._listing
            if found is None or (fresh and time.monotonic() - found.made > FRESH_SECONDS):
                found = self._listing = list_images(self)
            return found

    def changed(self) -> None:
        """Forget the listing: labels or images were added."""
        with self._lock:
            self._listing = None

    def entry(self, id: str) -> Entry:
        """Return an image by its id.

        Raises `AppError` if there is none, or if it or its mask is a link to a file outside the
        data folder.
        """
        found = self.listing().by_id.get(id) or self.listing(fresh=True).by_id.get(id)
        if found is None:
            raise AppError("there is no such image in the data; reload the page", "no-such-image")
        self.require_inside(found.path)
        mask = found.item.label if found.item and not found.item.origin else None
        if isinstance(mask, Path):
            self.require_inside(mask)
        return found

    def id_of(self, item: Item) -> str:
        """Return the id of a labelled image."""
        return id_of(name_below(self.data, item.image))

    def require_inside(self, path: Path) -> None:
        """Raise `AppError` unless a file, with links followed, is in the data folder."""
        if not real_file(path).resolve().is_relative_to(self.root):
            raise AppError(
                f"{name_below(self.data, path)}: is a link to a file outside the data folder, "
                "which the app does not open; copy the file",
                "outside-data",
            )

    # The exports and their models

    def card(self, export: Path | None = None) -> Card | None:
        """Return the card of an export, by default of `out`; None if there is none to use."""
        try:
            return read_card(export or self.out)
        except FastsegError:
            return None

    def exports(self) -> list[Path]:
        """Return the folders of this task's exports, the newest first."""
        kept = [*self.exports_folder.glob(f"*/{CARD}")]
        kept += self.exports_folder.glob(f"{EARLIER}/*/{CARD}")
        folders = [self.out] if (self.out / CARD).is_file() else []
        folders += [card.parent for card in kept if not card.parent.name.startswith(".")]
        own: dict[str, tuple[str, Path]] = {}
        for folder in folders:  # a copy of the current one is not another one
            card = self.card(folder)
            if card and card.task == self.task.name and card.classes == list(self.task.classes):
                key = f"{card.created} {card.sha256.get(MODEL, folder)}"
                own.setdefault(key, (card.created, folder))
        return [folder for _, folder in sorted(own.values(), reverse=True)]

    def export(self, name: str | None = None) -> Path:
        """Return an export's folder by its name, by default `out`. Raises `AppError`."""
        for folder in self.exports():
            if folder.name == name or (not name and folder.resolve() == self.out.resolve()):
                return folder
        if name:
            raise AppError(f"{name}: there is no such export; reload the page", "no-such-result")
        raise AppError(
            f"{self.out}: no export yet; train one on the page Train, or with: "
            f"fastseg fit {typed(self.task.reference)}",
            "no-export",
        )

    def model(self, export: Path | None = None) -> Model:
        """Return the model of an export, which starts to load unless it is loaded.

        A new export in the same folder is another model. Raises `AppError` if there is none.
        """
        folder = export or self.export()
        stamp = (folder / CARD).stat().st_mtime_ns
        with self._lock:
            model = self._models.get(folder)
            if model is None or model.stamp != stamp:
                model = self._models[folder] = Model(folder, stamp, self.device)
            return model

    def predictor(self, export: Path | None = None) -> Predictor:
        """Return the loaded predictor of an export; waits for it. Raises `FastsegError`."""
        return self.model(export).predictor()

    # What runs beside the pages

    def trained(self) -> None:
        """Take notice of a new export: the images that it held out, and its model."""
        self.changed()
        with suppress(FastsegError):
            self.model()

    @property
    def scratch(self) -> Path:
        """A private temporary folder for results, deleted at the end."""
        with self._lock:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="fastseg-app-"))
            return self._scratch

    def close(self) -> None:
        """Stop what runs, and delete the temporary files."""
        self.ordering.close()
        self.training.close()
        self.judging.close()
        self.thumbnails.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _task_named(name: str) -> Task:
    """Return a task by its name or folder. Raises `TaskError` that says what else can be opened."""
    try:
        return get(name)
    except TaskError as error:
        if error.code != "unknown-task":
            raise
        told = TaskError(
            f"{error}; or give a folder with images and a task.toml (fastseg new DIR writes it), "
            "or an export's folder",
            error.code,
        )
        told.details = error.details
        raise told from None


def labelled_in(name: str) -> str:
    """Return the data folder in a folder of `fastseg label`; other names as they are."""
    from ..corrections.audit import AUDIT
    from ..corrections.labelled import CLASSES, MASKS

    if not has_no_task(name) or not (Path(name) / AUDIT).is_file():
        return name
    folders = (str(Path(name) / folder) for folder in (MASKS, CLASSES))
    return next((one for one in folders if not has_no_task(one)), name)

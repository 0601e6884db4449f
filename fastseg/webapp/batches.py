"""Images that were dropped on the page Predict, and their results, in a private folder."""

from __future__ import annotations

import secrets
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.images import resized, resized_codes, save_image
from ..errors import AppError, FastsegError
from ..inference.outputs import OUTPUTS
from ..inference.uploads import kind_of, safe_name
from ..metrics.risk import review_threshold

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .workspace import Workspace

MOST_BATCHES = 4  # the oldest ones are deleted
MOST_IMAGES = 5000
MOST_BYTES = 8 * 2**30  # of the images of a batch
ERROR_RATE = 0.1  # as `predict` has it
SIDES = {"small": 360, "large": 1800}  # px of the longer side of pictures for the page
RESULTS = "results"


@dataclass
class Batch:
    """Some images and their results; `shown` has a row an image, for the page."""

    id: str
    folder: Path
    export: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    names: list[str] = field(default_factory=list)
    rows: dict[Path, Any] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)  # of `shown`
    bytes: int = 0

    def picture(self, number: int, kind: str, size: str) -> Path:
        """Return the file of a picture: kind is "image", "codes" or "uncertainty"."""
        suffix = "png" if kind == "codes" else "jpg"
        path = self.folder / "pictures" / f"{number}_{kind}_{size}.{suffix}"
        if size not in SIDES or kind not in ("image", "codes", "uncertainty") or not path.is_file():
            raise AppError("there is no such picture; predict it again", "no-such-result")
        return path

    def file(self, number: int) -> Path:
        """Return the image of a result. Raises `AppError` if there is none."""
        if not 0 <= number < len(self.files):
            raise AppError("there is no such result; predict it again", "no-such-result")
        return self.files[number]


class Batches:
    """The batches of a workspace. All methods are thread-safe."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._lock = threading.Lock()
        self._batches: dict[str, Batch] = {}

    def new(self, export: Path) -> Batch:
        """Return a new batch for an export; the oldest one is deleted if there are many."""
        id = secrets.token_urlsafe(9)
        batch = Batch(id, self.workspace.scratch / id, export)
        batch.folder.mkdir()
        with self._lock:
            self._batches[id] = batch
            old = list(self._batches)[:-MOST_BATCHES]
            gone = [self._batches.pop(one) for one in old]
        for one in gone:
            shutil.rmtree(one.folder, ignore_errors=True)
        return batch

    def get(self, id: str) -> Batch:
        """Return a batch. Raises `AppError` if it was deleted."""
        with self._lock:
            if id not in self._batches:
                raise AppError("these results were deleted; predict again", "no-such-result")
            return self._batches[id]

    def add(self, batch: Batch, file: Path, name: str) -> dict[str, Any]:
        """Predict an uploaded file, which is moved into the batch; return what the page shows.

        Raises `AppError` and `DataError` for what is no image, or beyond the limits.
        """
        suffix = kind_of(file, name, self.workspace.task)
        size = file.stat().st_size
        with batch.lock:
            if len(batch.names) >= MOST_IMAGES or batch.bytes + size > MOST_BYTES:
                raise AppError(
                    f"{name}: a page takes up to {MOST_IMAGES} images and "
                    f"{MOST_BYTES // 2**30} GB; use fastseg predict for more",
                    "too-many",
                )
            own = safe_name(name, suffix, batch.names)
            batch.names.append(own)
            batch.bytes += size
        path = batch.folder / "images" / own
        path.parent.mkdir(exist_ok=True)
        shutil.move(file, path)
        try:
            shown = self.workspace.model(batch.export).call(
                lambda predictor: _predict(batch, predictor, path, name)
            )
        except Exception as error:
            path.unlink(missing_ok=True)
            with batch.lock:
                batch.names.remove(own)
            if isinstance(error, FastsegError):  # it names the copy; people know the original
                told = type(error)(str(error).replace(str(path), name), error.code)
                told.details = error.details
                raise told from error
            raise
        return shown

    def archive(self, batch: Batch) -> Iterator[bytes]:
        """Yield a zip file of the results as `fastseg predict` writes them.

        Raises `AppError`, before anything is yielded, if there are none.
        """
        if not batch.rows:
            raise AppError("there are no results yet", "no-such-result")
        results = batch.folder / RESULTS
        predictor = self.workspace.predictor(batch.export)
        output = OUTPUTS[predictor.task.kind](predictor.task)
        with batch.lock:
            rows = dict(batch.rows)
            if not predictor.task.has_masks:
                output.plan(list(rows), results / Path(getattr(predictor.task, "table", "")).name)
            output.place({file: _target(batch, predictor, file) for file in rows})
            output.write_tables(rows)
        return _zipped(results)


def _target(batch: Batch, predictor: Predictor, file: Path) -> Path:
    return batch.folder / RESULTS / f"{file.stem}{getattr(predictor.task, 'suffix', '')}"


def _predict(batch: Batch, predictor: Predictor, path: Path, name: str) -> dict[str, Any]:
    """Write the results of an image, and pictures of them; return its row for the page.

    `name` is how people know the image.
    """
    prediction = predictor.predict(path)
    output = OUTPUTS[predictor.task.kind](predictor.task)
    output.place({path: _target(batch, predictor, path)})
    threshold = review_threshold(predictor.card.review, ERROR_RATE)
    row, _ = output.write_image_results(path, prediction, threshold)
    columns = row[1] if isinstance(row, list) else row
    columns["image"] = path.name
    batch.rows[path] = row
    number = len(batch.shown)
    _write_pictures(batch, number, prediction)
    shown = {
        "number": number,
        "name": name,
        "entry": None,  # the image in the data, once it was added
        "height": prediction.size[0],
        "width": prediction.size[1],
        "expected_error": columns["expected_error"],
        "needs_review": columns["needs_review"] is True,
        "confidence": columns["confidence"],
        "label": prediction.label,
        "shares": _shares(predictor, prediction),
    }
    batch.shown.append(shown)
    batch.files.append(path)
    return shown


def _shares(predictor: Predictor, prediction: Prediction) -> list[float]:
    """Return each class's share of the pixels, or its probability."""
    if prediction.codes is None:
        return [round(float(value), 4) for value in prediction.probabilities]
    counts = np.bincount(prediction.codes.reshape(-1), minlength=len(predictor.task.classes))
    return [round(float(count / prediction.codes.size), 6) for count in counts]


def _write_pictures(batch: Batch, number: int, prediction: Prediction) -> None:
    """Write the image, the codes and the uncertainty, small and large, for the page."""
    from ..report.painting import entropy_map

    for size, side in SIDES.items():
        scale = min(1, side / max(prediction.size))
        near = tuple(max(1, round(length * scale)) for length in prediction.size)
        target = (near[0], near[1])

        def path(kind: str, suffix: str, size: str = size) -> Path:
            return batch.folder / "pictures" / f"{number}_{kind}_{size}.{suffix}"

        save_image(path("image", "jpg"), resized(prediction.image, target, "squish"), quality=88)
        if prediction.codes is not None:
            codes = resized_codes(prediction.codes, target, "squish")
            save_image(path("codes", "png"), codes, compress_level=1)
            doubt = resized(entropy_map(prediction.calibrated), target, "squish")
            save_image(path("uncertainty", "jpg"), doubt, quality=80)


class _Sink:
    """A file that only takes what is written to it, and hands it on."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: the parts are taken after each file."""

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        found, self.parts = b"".join(self.parts), []
        return found


def _zipped(folder: Path) -> Iterator[bytes]:
    """Yield a zip archive of a folder's files, one after the other: it is never in memory."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            is_packed = file.suffix in (".png", ".jpg")
            kind = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(folder).as_posix(), kind)
            yield sink.taken()
    yield sink.taken()

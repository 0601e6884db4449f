"""From files to masks, labels or overlays at each image's own size: a stream of batches, never all at once."""
from __future__ import annotations

import glob
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from .bundle import find, load
from .card import Card
from .errors import DataError, TaskError
from .files import IMAGE_SUFFIXES, atomic_file, image_files, write_rows
from .machine import device_of
from .masks import save_image
from .progress import track
from .tasks import Item, Task, get
from .trust import described, expected_error
from .views import mirrored

if TYPE_CHECKING:
    from .backbones import Network
    from .engine import Session

log = logging.getLogger(__name__)

Image = Item | Path | str | np.ndarray
T = TypeVar("T")

DESCRIBED = "predictions.csv"
ERROR_RATE = 0.1


@dataclass
class Prediction:
    """One image's result. `codes` is uint8 (H, W) at the image's own size, or None for classification."""

    task: Task
    source: Image  # what was predicted
    logits: torch.Tensor  # float32 (C, h, w) at the model's size, or (C,) for classification
    size: tuple[int, int]  # the image's own (height, width)
    temperature: float = 1.0  # by which logits are divided for calibrated probabilities

    @cached_property
    def image(self) -> np.ndarray:
        """The image itself, uint8 (H, W, 3): read again when asked for, since masks need no more than a small copy of it."""
        return self.task.image(self.source)

    @cached_property
    def codes(self) -> np.ndarray | None:
        """Each pixel's class, uint8 (H, W) at the image's own size; None for classification."""
        return None if self.task.kind == "classify" else _classes(self._enlarged())

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities, float32 (C, H, W) or (C,): computed when asked for, since masks do not need them."""
        return (self.scores / self.temperature).softmax(0).cpu().numpy()

    @property
    def scores(self) -> torch.Tensor:
        """The logits at the image's own size, float32 (C, H, W), or (C,) for classification."""
        return self.logits if self.task.kind == "classify" else self._enlarged()

    @property
    def expected_error(self) -> float:
        """The error that the image's own probabilities lead one to expect, from 0 to 1 (see `trust.expected_error`)."""
        # Not divided by the temperature, which comes from the very images that the thresholds come from.
        return expected_error(self._coarse.softmax(0), self.task.background)

    def described(self, threshold: float | None) -> dict:
        """Return the image's row of predictions.csv; it needs review if its expected error exceeds `threshold`."""
        return described(self.task, self.codes, (self._coarse / self.temperature).softmax(0), self.expected_error, threshold)

    @property
    def _coarse(self) -> torch.Tensor:
        # means over an image need not every pixel: a quarter of them is four times quicker
        return self.logits if self.logits.ndim == 1 else self.logits[:, ::2, ::2]

    @property
    def index(self) -> int:
        """The predicted class's index, for classification."""
        return int(self.logits.argmax())

    @property
    def label(self) -> str | None:
        """The predicted class's name, for classification."""
        return self.task.classes[self.index] if self.task.kind == "classify" else None

    def _enlarged(self) -> torch.Tensor:
        # Logits are resized before the argmax: masks at the image's own size get smooth, not stepped, borders.
        with torch.inference_mode():
            return F.interpolate(self.logits[None], self.size, mode="bilinear", align_corners=False)[0]


def _classes(scores: torch.Tensor) -> np.ndarray:
    # max over a leading dimension is some twenty times quicker than argmax over it
    return scores.max(0).indices.to(torch.uint8).cpu().numpy()


class Predictor:
    """A loaded export. `predict` takes one image, `stream` many; both give results at the images' own sizes.

    With `tta`, or where the card asks for it, the probabilities of the image and of its mirror image are averaged.
    """

    def __init__(self, card: Card, network: Callable[[], Network], device: str | None = None, tta: bool | None = None,
                 session: Callable[[int], Session] | None = None):
        self.device = device_of(device)
        self.card, self.task, self._session, self._build = card, get(card.task), session and cache(session), network
        self.tta = card.tta if tta is None else tta
        if session is None:
            self.network  # noqa: B018 - a damaged export is to be found now, not at the first image

    @cached_property
    def network(self) -> Network:
        """The network in torch, built when first asked for: predictions may not need it."""
        return self._build().to(self.device).eval()

    def predict(self, image: Path | str | np.ndarray) -> Prediction:
        """Predict one image: a file, or uint8 (H, W, 3). Raises `DataError` if it cannot be read."""
        small, own = self._read(image)
        return self._prediction(image, self.logits(small[None])[0], own)

    def stream(self, images: Iterable[Image], bs: int = 8, finish: Callable[[Image, Prediction], T] = lambda _, prediction: prediction
               ) -> Iterator[tuple[Image, T | DataError]]:
        """Yield (image, finish(image, its prediction)) in order; an image that cannot be read comes with its `DataError` instead.

        Threads read ahead and `finish` behind: what is done with each prediction (writing, measuring) belongs there. Where
        ONNX computes, each thread takes whole batches from file to finish, so that no core waits for another; torch computes
        on all cores at once. At most two batches more than there are threads are held at a time.
        """
        images, workers = iter(images), max(2, torch.get_num_threads())
        with ThreadPoolExecutor(workers) as pool:
            batches = iter(lambda: list(islice(images, bs)), [])
            if self._session is not None:
                done = (pool.submit(self._whole, batch, finish) for batch in batches)
            else:
                read = _ahead((pool.submit(self._reads, batch) for batch in batches), workers)
                done = (pool.submit(self._finished, *pair, self._computed(pair[1]), finish) for pair in read)
            for results in _ahead(done, workers + 1):
                yield from results

    def _whole(self, batch: list, finish: Callable) -> list[tuple]:
        _, reads = self._reads(batch)
        return self._finished(batch, reads, self._computed(reads, threads=1), finish)

    def _reads(self, batch: list) -> tuple[list, list]:
        reads = []
        for source in batch:
            try:
                reads.append(self._read(source))
            except DataError as error:
                reads.append(error)
        return batch, reads

    def _computed(self, reads: list, threads: int | None = None) -> torch.Tensor | tuple:
        small = [read[0] for read in reads if not isinstance(read, DataError)]
        return self.logits(np.stack(small), threads) if small else ()

    def _finished(self, batch: list, reads: list, logits: torch.Tensor | tuple, finish: Callable) -> list[tuple]:
        rows = iter(logits)
        return [(source, read if isinstance(read, DataError) else finish(source, self._prediction(source, next(rows), read[1])))
                for source, read in zip(batch, reads)]

    def _prediction(self, source: Image, logits: torch.Tensor, size: tuple[int, int]) -> Prediction:
        return Prediction(self.task, source, logits, size, self.card.temperature)

    def _read(self, image) -> tuple[np.ndarray, tuple[int, int]]:
        return self.task.image_near(image, tuple(self.card.size))

    @torch.inference_mode()
    def logits(self, batch: np.ndarray, threads: int | None = None) -> torch.Tensor:
        """Return the network's float32 logits, (B, C, h, w) or (B, C), for uint8 (B, h, w, 3) at the card's size.

        With `tta` they are the logarithms of the averaged probabilities. `threads` (default: torch's) are for ONNX.
        """
        threads = threads or torch.get_num_threads()
        logits = self._run(batch, threads)
        if not self.tta:
            return logits
        other = self._run(np.ascontiguousarray(batch[:, :, ::-1]), threads)
        if self.task.kind == "segment":
            other = mirrored(other, self.card.flip_shift)
        return ((logits.softmax(1) + other.softmax(1)) / 2).clamp_min(1e-12).log()

    def _run(self, batch: np.ndarray, threads: int) -> torch.Tensor:
        if self._session is not None:
            return torch.from_numpy(self._session(threads)(batch))
        return self.network(self.normalised(torch.from_numpy(batch)))

    def normalised(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, h, w, 3) into what the network takes: float32 (B, 3, h, w) by the card's mean and std."""
        x = batch.to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (self.card.mean, self.card.std))
        return (x - mean) / std


def _ahead(futures: Iterable[Future[T]], count: int) -> Iterator[T]:
    """Yield the futures' results in order, `count` of them under way while one is waited for."""
    pending: deque[Future[T]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def predict(task: str | Task, paths: Sequence[Path | str] | Path | str, out: Path | str | None = None, *,
            overlay: bool = False, probabilities: bool = False, error_rate: float = ERROR_RATE, export: Path | str | None = None,
            device: str | None = None, bs: int = 4, tta: bool | None = None) -> list[Path]:
    """Predict files, folders or globs; write one mask an image in the task's own format and return what was written.

    Masks have their images' sizes and names and go to `out`, by default FOLDER_inf_masks for images in FOLDER.
    With `overlay`, overlays are written too, in its subfolder overlays; with `probabilities`, calibrated ones, float16
    (C, H, W) under the name "probabilities" in npz files, in its subfolder probabilities. Classification tasks write one
    table, by default FOLDER_inf_TABLE. Beside masks or table lies predictions.csv: each image's shares of the classes, mean
    confidence, entropy, expected error, and whether a person should look. That is so where the expected error exceeds the
    threshold by which the masks let through have, over all images, a mean error of at most `error_rate` (see `trust.thresholds`).
    `tta` averages each image with its mirror image (default: what the export's card says).
    Raises `FastsegError` kinds; images that cannot be read are reported after the others are done.
    """
    task = get(task)
    files = expand([paths] if isinstance(paths, (str, Path)) else paths)
    if (overlay or probabilities) and task.kind != "segment":
        raise TaskError(f"{task.name} classifies whole images: there is no overlay, and predictions.csv has the probabilities")
    predictor = load(find(task, export), device, tta=tta)
    threshold = _threshold(predictor.card, error_rate)
    if task.kind == "classify":
        return _write_table(task, files, predictor.stream(files, bs, lambda _, p: (p.index, p.described(threshold))),
                            _table_path(task, files, out))
    targets = _targets(task, files, out, overlay)

    def write(file: Path, prediction: Prediction) -> tuple[list[Path], dict]:
        return (_write_masks(task, prediction, targets[file], overlay, probabilities),
                {"image": str(file), "mask": targets[file].name, **prediction.described(threshold)})

    written, rows, failures = [], {}, []
    for file, result in track(predictor.stream(files, bs, write), "predicting", len(files)):
        if isinstance(result, DataError):
            failures.append(str(result))
        else:
            written += result[0]
            rows.setdefault(targets[file].parent, []).append(result[1])
    if not _is_one_file(out):
        written += [write_rows(folder / DESCRIBED, described) for folder, described in rows.items()]
    if failures:
        more = f" ({len(failures) - 1} more could not be read)" if len(failures) > 1 else ""
        done = f"; masks of the {len(files) - len(failures)} readable images are written" if len(files) > len(failures) else ""
        raise DataError(f"{failures[0]}{more}{done}")
    return written


def _threshold(card: Card, error_rate: float) -> float | None:
    """Return the expected error above which an image needs review, or None for a card without thresholds."""
    if not 0.01 <= error_rate <= 0.5:
        raise TaskError(f"--error-rate {error_rate:g} is not from 0.01 to 0.5")
    threshold = card.review.get(str(round(error_rate, 2)))
    if threshold is not None and threshold < 0:
        log.warning("the validation images are too few, or their masks too faulty, to promise an error rate of %g: "
                    "every image is marked for review; raise --error-rate", error_rate)
    return threshold


def expand(paths: Sequence[Path | str]) -> list[Path]:
    """Return the image files that files, folders and globs name, in order, each once.

    Raises `DataError` naming a path that holds no image.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if len(path.name) > 255:
            raise DataError(f"{path.name[:40]}...: the name is too long for a file; check the path")
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise DataError(f"{path}: holds no images; give a folder with .jpg, .png, .tif, .bmp or .webp files")
        elif path.exists():
            files = [path]
        else:
            files = [f for f in sorted(map(Path, glob.glob(str(path)))) if f.is_file()]
            if not files:
                raise DataError(f"{path}: no such file or folder, and no file matches it as a pattern; check the path")
        found.update(dict.fromkeys(files))
    return list(found)


def _targets(task: Task, files: Sequence[Path], out: Path | str | None, overlay: bool) -> dict[Path, Path]:
    """Return each image's mask path; no two are equal, and none lies where inputs or true masks do."""
    targets: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    taken = _labelled_folders(task, files)
    single = _is_one_file(out)
    if single and len(files) > 1:
        raise DataError(f"{out}: is one file, but {len(files)} images are to be predicted; give a folder as --out")
    if single and Path(out).suffix.lower() != task.suffix:
        raise DataError(f"{out}: {task.name} results are written as {task.suffix} files; name it {Path(out).stem}{task.suffix}")
    for file in files:
        folder = Path(out) if out else Path(f"{_folder_name(file)}_inf_masks")
        target = folder if single else folder / f"{file.stem}{task.suffix}"
        if target in owners:
            raise DataError(f"{file} and {owners[target]}: both would be written to {target}; predict them into "
                            "different folders (--out), or give a glob such as 'images/*.jpg'")
        for place in (target.parent, *([target.parent / "overlays"] if overlay else [])):
            if place.resolve() in taken:
                raise DataError(f"{place}: holds input images or their true masks, and nothing is written among them; choose another --out")
        targets[file], owners[target] = target, file
    return targets


def _is_one_file(out: Path | str | None) -> bool:
    return out is not None and Path(out).suffix.lower() in IMAGE_SUFFIXES and not Path(out).is_dir()


def _labelled_folders(task: Task, files: Sequence[Path]) -> set[Path]:
    """Return the folders that hold the inputs, or true masks in one of the task's layouts around them."""
    folders = {file.resolve().parent for file in files}
    roots = {root for folder in folders for root in (folder, *list(folder.parents)[:3])}
    masks = {root / layout.masks for root in roots for layout in task.layouts}
    return folders | {mask.resolve() for mask in masks if mask.is_dir() and image_files(mask)}


def _folder_name(file: Path) -> str:
    return file.resolve().parent.name or "images"


def _write_masks(task: Task, prediction: Prediction, target: Path, with_overlay: bool, with_probabilities: bool) -> list[Path]:
    # Masks compress well at any level; the quickest one takes a fifth of the time.
    written = [save_image(target, task.render(prediction), **({"compress_level": 1} if task.suffix == ".png" else {}))]
    if with_overlay:
        overlay_path = target.parent / "overlays" / f"{target.stem}.jpg"
        written.append(save_image(overlay_path, task.overlay(prediction.image, prediction.codes)))
    if with_probabilities:
        with atomic_file(target.parent / "probabilities" / f"{target.stem}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=prediction.probabilities.astype(np.float16), classes=np.array(task.classes))
        written.append(target.parent / "probabilities" / f"{target.stem}.npz")
    return written


def _table_path(task: Task, files: Sequence[Path], out: Path | str | None) -> Path:
    """Return where the table goes: never over an input, nor over the true labels of any folder of images."""
    path = Path(out) if out else Path(f"{_folder_name(files[0])}_inf_{task.table}")
    if path.is_dir() or not path.suffix:
        path = path / task.table
    if path.suffix.lower() not in (".tsv", ".txt"):
        raise DataError(f"{path}: {task.name} results are a table; name it {path.stem}.tsv, or give a folder")
    if path.exists() and image_files(path.parent):
        raise DataError(f"{path}: lies among images and may hold their true labels; choose another --out")
    return path


def _write_table(task: Task, files: Sequence[Path], stream: Iterable, path: Path) -> list[Path]:
    """Write one row an image, and predictions.csv; where the images' folder has a table, its order of rows is kept."""
    labels: dict[str, int] = {}
    rows: dict[str, dict] = {}
    for file, result in track(stream, "predicting", len(files)):
        if isinstance(result, DataError):
            raise DataError(f"{result}; no table was written")
        if file.stem in labels:
            raise DataError(f"{file}: another image has the same name, and the table holds one row a name; "
                            "predict their folders one by one")
        labels[file.stem], description = result
        rows[file.stem] = {"image": str(file), **description}
    tables = [table for table in dict.fromkeys(file.parent / task.table for file in files) if table.is_file()]
    listed = [name for table in tables for name in task.read_table(table) if name in labels]
    order = [*listed, *sorted(labels.keys() - set(listed))]
    usual = Path(task.table).stem
    prefix = path.stem.removesuffix(usual) if path.stem.endswith(usual) else f"{path.stem}_"
    return [task.write_table(path, {name: labels[name] for name in order}),
            write_rows(path.with_name(prefix + DESCRIBED), (rows[name] for name in order))]

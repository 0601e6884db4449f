"""From files to masks, labels or overlays at each image's own size: a stream of batches, never all at once."""
from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .backbones import Network, device_of
from .bundle import find, load
from .card import Card
from .errors import DataError, FastsegError, TaskError
from .files import IMAGE_SUFFIXES, image_files
from .masks import resized, save_image
from .progress import track
from .tasks import Item, Task, get

log = logging.getLogger(__name__)


@dataclass
class Prediction:
    """One image's result. `codes` is uint8 (H, W) at the image's own size, or None for classification."""

    image: np.ndarray  # uint8 (H, W, 3)
    scores: torch.Tensor  # float32 logits (C, H, W) at the image's own size, or (C,) for classification
    codes: np.ndarray | None
    label: str | None  # the class's name, for classification

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The softmax of the scores, float32 (C, H, W) or (C,): computed when asked for, since masks do not need it."""
        return self.scores.softmax(0).cpu().numpy()

    @property
    def index(self) -> int:
        """The predicted class's index, for classification."""
        return int(self.probabilities.argmax())


class Predictor:
    """A loaded export. `predict` takes one image, `stream` many; both give results at the images' own sizes."""

    def __init__(self, network: Network, card: Card, device: str | None = None):
        self.device = device_of(device)
        self.network, self.card, self.task = network.to(self.device).eval(), card, get(card.task)
        self._mean = torch.tensor(card.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(card.std, device=self.device).view(1, 3, 1, 1) * 255

    def predict(self, image: Path | str | np.ndarray) -> Prediction:
        """Predict one image: a file, or uint8 (H, W, 3)."""
        _, prediction = next(self.stream([image]))
        if isinstance(prediction, FastsegError):
            raise prediction
        return prediction

    def stream(self, images: Iterable[Item | Path | str | np.ndarray], bs: int = 8
               ) -> Iterator[tuple[Item | Path | str | np.ndarray, Prediction | DataError]]:
        """Yield (image, its prediction) in order; an image that cannot be read comes with its `DataError` instead.

        Decoding runs ahead on threads while the model computes; no more than three batches are held at a time.
        """
        images = iter(images)
        with ThreadPoolExecutor(2) as pool:
            waiting: list[tuple[object, Future]] = [(i, pool.submit(self._read, i)) for i in islice(images, 2 * bs)]
            while waiting:
                batch, waiting = waiting[:bs], waiting[bs:]
                batch = [(name, future.result()) for name, future in batch]
                waiting += [(i, pool.submit(self._read, i)) for i in islice(images, bs)]
                results = iter(self._predict_batch([read for _, read in batch if not isinstance(read, DataError)]))
                for name, read in batch:
                    yield name, read if isinstance(read, DataError) else next(results)

    def _read(self, image) -> tuple[np.ndarray, np.ndarray] | DataError:
        try:
            pixels = self.task.image(image)
        except DataError as error:
            return error
        return pixels, resized(pixels, tuple(self.card.size), self.card.resize)

    def _predict_batch(self, batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Prediction]:
        if not batch:
            return
        logits = self.logits(np.stack([small for _, small in batch]))
        for (image, _), scores in zip(batch, logits):
            yield self._finish(image, scores)

    @torch.inference_mode()
    def logits(self, batch: np.ndarray) -> torch.Tensor:
        """Return the network's float32 logits, (B, C, h, w) or (B, C), for uint8 (B, h, w, 3) at the card's size."""
        x = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float()
        return self.network((x - self._mean) / self._std)

    @torch.inference_mode()
    def _finish(self, image: np.ndarray, scores: torch.Tensor) -> Prediction:
        if self.task.kind == "classify":
            return Prediction(image, scores, None, self.task.classes[int(scores.argmax())])
        # Logits are resized before the argmax: masks at the image's own size get smooth, not stepped, borders.
        scores = F.interpolate(scores[None], image.shape[:2], mode="bilinear", align_corners=False)[0]
        return Prediction(image, scores, scores.argmax(0).to(torch.uint8).cpu().numpy(), None)


def predict(task: str | Task, paths: Sequence[Path | str] | Path | str, out: Path | str | None = None, *,
            overlay: bool = False, export: Path | str | None = None, device: str | None = None,
            bs: int = 8) -> list[Path]:
    """Predict files, folders or globs; write one mask an image in the task's own format and return what was written.

    Masks have their images' sizes and names and go to `out`, by default FOLDER_inf_masks for images in FOLDER.
    With `overlay`, overlays are written too, in its subfolder overlays. Classification tasks write one table, by
    default FOLDER_inf_TABLE. Raises `FastsegError` kinds; images that cannot be read are reported after the others
    are done.
    """
    task = get(task)
    files = expand([paths] if isinstance(paths, (str, Path)) else paths)
    if overlay and task.kind != "segment":
        raise TaskError(f"{task.name} classifies whole images: there is no overlay")
    predictor = load(find(task, export), device)
    stream = track(predictor.stream(files, bs), "predicting", len(files))
    if task.kind == "classify":
        return [_write_table(task, files, stream, _table_path(task, files, out))]
    targets = _targets(task, files, out, overlay)
    written, failures = [], []
    with ThreadPoolExecutor(2) as pool:
        pending: list[Future] = []
        for file, prediction in stream:
            if isinstance(prediction, DataError):
                failures.append(str(prediction))
                continue
            pending.append(pool.submit(_write_masks, task, prediction, targets[file], overlay))
            while len(pending) > 2 * bs:
                written += pending.pop(0).result()
        for future in pending:
            written += future.result()
    if failures:
        more = f" ({len(failures) - 1} more could not be read)" if len(failures) > 1 else ""
        done = f"; masks of the {len(files) - len(failures)} readable images are written" if len(files) > len(failures) else ""
        raise DataError(f"{failures[0]}{more}{done}")
    return written


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
    suffix = task.render(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8))[1]
    targets: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    taken = _labelled_folders(task, files)
    single = out is not None and Path(out).suffix.lower() in IMAGE_SUFFIXES and not Path(out).is_dir()
    if single and len(files) > 1:
        raise DataError(f"{out}: is one file, but {len(files)} images are to be predicted; give a folder as --out")
    if single and Path(out).suffix.lower() != suffix:
        raise DataError(f"{out}: {task.name} results are written as {suffix} files; name it {Path(out).stem}{suffix}")
    for file in files:
        folder = Path(out) if out else Path(f"{_folder_name(file)}_inf_masks")
        target = folder if single else folder / f"{file.stem}{suffix}"
        if target in owners:
            raise DataError(f"{file} and {owners[target]}: both would be written to {target}; predict them into "
                            "different folders (--out), or give a glob such as 'images/*.jpg'")
        for place in (target.parent, *([target.parent / "overlays"] if overlay else [])):
            if place.resolve() in taken:
                raise DataError(f"{place}: holds input images or their true masks, and nothing is written among them; choose another --out")
        targets[file], owners[target] = target, file
    return targets


def _labelled_folders(task: Task, files: Sequence[Path]) -> set[Path]:
    """Return the folders that hold the inputs, or true masks in one of the task's layouts around them."""
    folders = {file.resolve().parent for file in files}
    roots = {root for folder in folders for root in (folder, *list(folder.parents)[:3])}
    masks = {root / layout.masks for root in roots for layout in task.layouts}
    return folders | {mask.resolve() for mask in masks if mask.is_dir() and image_files(mask)}


def _folder_name(file: Path) -> str:
    return file.resolve().parent.name or "images"


def _write_masks(task: Task, prediction: Prediction, target: Path, with_overlay: bool) -> list[Path]:
    pixels, _ = task.render(prediction.image, prediction.codes)
    written = [save_image(target, pixels)]
    if with_overlay:
        overlay_path = target.parent / "overlays" / f"{target.stem}.jpg"
        written.append(save_image(overlay_path, task.overlay(prediction.image, prediction.codes)))
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


def _write_table(task: Task, files: Sequence[Path], stream: Iterable, path: Path) -> Path:
    """Write one row an image; where the images' folder has a table, its order of rows is kept."""
    labels: dict[str, int] = {}
    for file, prediction in stream:
        if isinstance(prediction, DataError):
            raise DataError(f"{prediction}; no table was written")
        if file.stem in labels:
            raise DataError(f"{file}: another image has the same name, and the table holds one row a name; "
                            "predict their folders one by one")
        labels[file.stem] = prediction.index
    tables = [table for table in dict.fromkeys(file.parent / task.table for file in files) if table.is_file()]
    order = [name for table in tables for name in task.read_table(table) if name in labels]
    return task.write_table(path, {name: labels[name] for name in [*order, *sorted(labels.keys() - set(order))]})

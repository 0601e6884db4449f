"""A loaded export at work: one image or a stream of batches, never all at once; results at each
image's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from ..errors import DataError
from ..exports.card import MODEL, Card, sha256
from ..exports.read import as_trained, task_of
from ..metrics.calibration import softmax
from ..tasks import Item
from ..tasks.base import with_depth_of
from ..utils.choices import INT8
from ..utils.speed import ComputeOption, seconds_of
from ..utils.threads import cores, results_in_order
from .prediction import PREDICTIONS, Image, Prediction
from .resizing import resized
from .tiling import DETAIL, tiled

if TYPE_CHECKING:
    import torch

    from ..exports.onnx import Sessions
    from ..models.network import Network

ImageT = TypeVar("ImageT", bound=Image)
T = TypeVar("T")
Read = tuple[np.ndarray, tuple[int, int]]  # pixels at the model's size, the image's own size

SMALLEST = 1e-12  # bound of averaged probabilities, so that their logarithm is finite


def _paths_among(images: Iterable[Image]) -> list[Path]:
    """Return the files among images; arrays are left out."""
    files = (image.image if isinstance(image, Item) else image for image in images)
    return [Path(file) for file in files if isinstance(file, (str, Path))]


class Predictor:
    """A loaded export.

    `predict` takes one image, `stream` many; both give results at the images' own sizes.

    With `tta`, or where the card asks for it, the probabilities of the image and of its mirror
    image are averaged. `runtime` and `precision` say how it computes; `sessions` are needed for the
    runtime "onnx". `alone` says that a stream has only one image.
    """

    def __init__(
        self,
        card: Card,
        network: Callable[[], Network],
        option: ComputeOption,
        device: str = "cpu",
        tta: bool | None = None,
        sessions: Sessions | None = None,
        alone: bool = True,
    ):
        self.device, self.option, (self.runtime, self.precision) = device, option, option
        self.card, self._build = card, network
        self.task = as_trained(task_of(card), card)
        self._prediction_class = PREDICTIONS[self.task.kind]
        self._sessions = sessions if self.runtime != "torch" else None
        self.tta = card.tta if tta is None else tta
        self._stream_threads = cores() if alone else 1
        if self._sessions is None:  # detect a damaged export now, not at the first image
            self.network  # noqa: B018
        else:
            self._sessions(self._stream_threads)

    @cached_property
    def network(self) -> Network:
        """The network in torch, built on first access: ONNX predictions do not need it."""
        network = self._build().to(self.device).eval()
        network.precision = self.precision
        return network

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights: of model.safetensors, or of the 8-bit model's file; "" if it
        is not known.
        """
        if self.runtime == INT8 and self._sessions is not None:
            return sha256(self._sessions.path)
        return self.card.sha256.get(MODEL, "")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px at which the model sees images."""
        height, width = self.card.size
        return height, width

    def seconds(self, bs: int | None) -> float:
        """Return the measured seconds of the network for an image: one at a time, or in a stream's
        batches of `bs`.
        """
        shape = (bs or 1, *self.size, self.card.channels)
        batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        if bs is None or self._sessions is None:
            return seconds_of(lambda: self.logits(batch)) / len(batch)
        workers = self.workers
        with ThreadPoolExecutor(workers) as pool:
            return seconds_of(
                lambda: list(pool.map(lambda _: self.logits(batch, threads=1), range(workers)))
            ) / (workers * bs)

    def warm_up(self) -> None:
        """Predict once, with the threads of single images and of batches: the next ones take no
        longer than later ones, and no file of the export is read any more.
        """
        image = np.zeros((8, 8, self.card.channels), dtype=np.uint8)
        for threads in {1, cores()}:
            self.predict_batch([image], lambda _, prediction: prediction.labels, threads)

    @property
    def workers(self) -> int:
        """How many threads take batches from images to results at a time."""
        # With ONNX each of these threads computes; with torch one reads while torch computes.
        return max(1 if self._sessions is not None else 2, cores())

    def adapt(self, images: Iterable[Image]) -> None:
        """Look at the 16-bit files among `images` before they are predicted, and log those that do
        not fit the card's bit depth.

        Where training saw no 16-bit image, the depth is found over these files, logged, and used
        from now on.
        """
        self.task = with_depth_of(self.task, _paths_among(images))

    def identity(self) -> list[Any]:
        """Return what decides the predictions, for journals: a run that was interrupted takes over
        results of an equal predictor only.
        """
        beside = {INT8: self.digest} if self.runtime == INT8 else {}  # its file is not in the card
        return [
            self.task.definition(),
            {**self.card.sha256, **beside},
            self.runtime,
            self.precision,
            self.tta,
        ]

    def predict(self, image: Path | str | np.ndarray, tiles: int = 1) -> Prediction:
        """Predict one image: a file, or uint8 (H, W, C). Raises `DataError` if it cannot be read.

        With `tiles` above 1, it is also predicted at that many times the model's size in
        overlapping tiles, see `tiling.tiled`: finer outlines of large photographs, in about
        4 * tiles**2 times the time. A 16-bit file is scaled as in `adapt`; if training saw none,
        by its own bit depth.
        """
        # For its log messages only: without a depth in the task, each image is scaled by its own.
        with_depth_of(self.task, _paths_among([image]))
        small, own = self._read(image)
        logits = self.logits(small[None])[0]
        if tiles > 1:
            height, width = self.size
            large, _ = self.task.image_near(image, (tiles * height, tiles * width))
            parts = tiled(self.logits, large, self.size)
            whole = softmax(resized(logits, (tiles * height, tiles * width)))
            logits = np.log(np.maximum((1 - DETAIL) * whole + DETAIL * parts, SMALLEST))
        return self._prediction(image, logits, own)

    @overload
    def stream(
        self, images: Iterable[ImageT], bs: int = 8
    ) -> Iterator[tuple[ImageT, Prediction | DataError]]: ...

    @overload
    def stream(
        self, images: Iterable[ImageT], bs: int, finish: Callable[[ImageT, Prediction], T]
    ) -> Iterator[tuple[ImageT, T | DataError]]: ...

    def stream(
        self,
        images: Iterable[Any],
        bs: int = 8,
        finish: Callable[[Any, Prediction], Any] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (image, finish(image, its prediction)) in order; an image that cannot be read comes
        with its `DataError` instead.

        Without `finish`, the predictions themselves come. Threads read ahead and `finish` behind:
        what is done with each prediction (writing, measuring) belongs there. Where ONNX computes,
        each thread takes whole batches from file to finish, so that no core waits for another;
        torch computes on all cores at once. At most (number of threads + 2) batches are
        in memory at a time.
        """
        end = finish or (lambda _, prediction: prediction)
        images, workers = iter(images), self.workers
        with ThreadPoolExecutor(workers) as pool:
            batches = iter(lambda: list(islice(images, bs)), [])
            if self._sessions is not None:
                done = (pool.submit(self.predict_batch, batch, end) for batch in batches)
            else:
                read = results_in_order(
                    (pool.submit(self._read_batch, batch) for batch in batches), workers
                )
                done = (
                    pool.submit(self._finish_batch, reads, self._compute(reads), end)
                    for reads in read
                )
            for results in results_in_order(done, workers + 1):
                yield from results

    @overload
    def stream_or_raise(
        self, images: Iterable[ImageT], bs: int = 8
    ) -> Iterator[tuple[ImageT, Prediction]]: ...

    @overload
    def stream_or_raise(
        self, images: Iterable[ImageT], bs: int, finish: Callable[[ImageT, Prediction], T]
    ) -> Iterator[tuple[ImageT, T]]: ...

    def stream_or_raise(
        self,
        images: Iterable[Any],
        bs: int = 8,
        finish: Callable[[Any, Prediction], Any] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield what `stream` yields.

        Raises the `DataError` of the first image that cannot be read.
        """
        for image, result in self.stream(images, bs, finish) if finish else self.stream(images, bs):
            if isinstance(result, DataError):
                raise result
            yield image, result

    def predict_batch(
        self,
        batch: Sequence[Image],
        finish: Callable[[Any, Prediction], T],
        threads: int | None = None,
    ) -> list[tuple[Any, T | DataError]]:
        """Return what `stream` yields for these images, as one batch and on the caller's thread.

        `threads` (default: those of a stream) are for ONNX.
        """
        reads = self._read_batch(batch)
        return self._finish_batch(
            reads, self._compute(reads, threads or self._stream_threads), finish
        )

    def _read_batch(self, batch: Sequence[Image]) -> list[tuple[Image, Read | DataError]]:
        """Return each image with its pixels, or with the error for one that cannot be read."""
        reads: list[tuple[Image, Read | DataError]] = []
        for image in batch:
            try:
                reads.append((image, self._read(image)))
            except DataError as error:
                reads.append((image, error))
        return reads

    def _compute(
        self, reads: Sequence[tuple[Image, Read | DataError]], threads: int | None = None
    ) -> Sequence[np.ndarray] | np.ndarray:
        """Return the logits of the images that could be read."""
        pixels = [read[0] for _, read in reads if not isinstance(read, DataError)]
        return self.logits(np.stack(pixels), threads) if pixels else ()

    def _finish_batch(
        self,
        reads: Sequence[tuple[Image, Read | DataError]],
        logits: Sequence[np.ndarray] | np.ndarray,
        finish: Callable[[Any, Prediction], Any],
    ) -> list[tuple[Image, Any]]:
        rows = iter(logits)
        return [
            (
                image,
                read
                if isinstance(read, DataError)
                else finish(image, self._prediction(image, next(rows), read[1])),
            )
            for image, read in reads
        ]

    def _prediction(self, source: Image, logits: np.ndarray, size: tuple[int, int]) -> Prediction:
        return self._prediction_class(self.task, source, logits, size, self.card.temperature)

    def _read(self, image: Image) -> Read:
        return self.task.image_near(image, self.size)

    def logits(self, batch: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Return the network's float32 logits, (B, C, h, w) or (B, C), for uint8 (B, h, w, C) at
        the card's size.

        With `tta` they are the logarithms of the averaged probabilities. `threads` (default: all
        cores) are for ONNX.
        """
        threads = threads or cores()
        logits = self._run(batch, threads)
        if not self.tta:
            return logits
        other = self._run(np.ascontiguousarray(batch[:, :, ::-1]), threads)
        other = self._prediction_class.mirrored_back(other, self.card.flip_shift)
        return np.log(np.maximum((softmax(logits, 1) + softmax(other, 1)) / 2, SMALLEST))

    def _run(self, batch: np.ndarray, threads: int) -> np.ndarray:
        if self._sessions is not None:
            return self._sessions(threads)(batch)
        import torch

        with torch.inference_mode():
            return self.network(self.normalised(torch.tensor(batch))).float().cpu().numpy()

    def features(self, batch: np.ndarray) -> np.ndarray:
        """Return the backbone's features of each image, see `Network.features`: float32 (B, D), for
        uint8 (B, h, w, C) at the card's size. Torch computes them.
        """
        import torch

        with torch.inference_mode():
            return self.network.features(self.normalised(torch.tensor(batch))).cpu().numpy()

    def normalised(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, h, w, C) into what the network takes: float32 (B, C, h, w) by the card's
        mean and std.
        """
        import torch

        x = batch.to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (
            torch.tensor(v, device=self.device).view(1, -1, 1, 1) * 255
            for v in (self.card.mean, self.card.std)
        )
        return (x - mean) / std

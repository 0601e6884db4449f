"""A loaded export at work: one image or a stream of batches, never all at once; results at each image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError
from ..exports.card import Card
from ..tasks import get
from ..tasks.base import scaled
from ..utils.device import device_of
from ..utils.speed import Option, seconds_of
from ..utils.threads import results_in_order
from .prediction import PREDICTIONS, Image, Prediction
from .tiling import DETAIL, tiled

if TYPE_CHECKING:
    from ..exports.onnx import Sessions
    from ..models.network import Network

T = TypeVar("T")


def _files(images: Iterable[Image]) -> list[Path]:
    return [Path(getattr(image, "image", image)) for image in images if not hasattr(image, "shape")]


class Predictor:
    """A loaded export. `predict` takes one image, `stream` many; both give results at the images' own sizes.

    With `tta`, or where the card asks for it, the probabilities of the image and of its mirror image are averaged. `engine` and
    `precision` say how it computes; `sessions` are there for the engine "onnx". `alone` says that a stream has one image only.
    """

    def __init__(
        self,
        card: Card,
        network: Callable[[], Network],
        option: Option,
        device: str | None = None,
        tta: bool | None = None,
        sessions: Sessions | None = None,
        alone: bool = True,
    ):
        self.device, (self.engine, self.precision) = device_of(device), option
        self.card, self.task, self._build = card, replace(get(card.task), depth=card.depth), network
        self._prediction_class = PREDICTIONS[self.task.kind]
        self._sessions = sessions if self.engine == "onnx" else None
        self.tta = card.tta if tta is None else tta
        self._stream_threads = torch.get_num_threads() if alone else 1
        if self._sessions is None:  # a damaged export is to be found now, not at the first image
            self.network  # noqa: B018
        else:
            self._sessions(self._stream_threads)

    @cached_property
    def network(self) -> Network:
        """The network in torch, built when first asked for: predictions may not need it."""
        network = self._build().to(self.device).eval()
        network.precision = self.precision
        return network

    def seconds(self, bs: int | None) -> float:
        """Return the measured seconds of the network for an image: one at a time, or in a stream's batches of `bs`."""
        batch = np.random.default_rng(0).integers(
            0, 256, (bs or 1, *self.card.size, 3), dtype=np.uint8
        )
        if bs is None or self._sessions is None:
            return seconds_of(lambda: self.logits(batch)) / len(batch)
        workers = self._workers
        with ThreadPoolExecutor(workers) as pool:
            return seconds_of(
                lambda: list(pool.map(lambda _: self.logits(batch, threads=1), range(workers)))
            ) / (workers * bs)

    @property
    def _workers(self) -> int:
        return max(2, torch.get_num_threads())

    def adapt(self, images: Iterable[Image]) -> None:
        """Look at the 16-bit files among `images` before they are predicted, and log those that do not fit the card's bit depth.

        Where training saw no 16-bit image, the depth is found over these files, logged, and used from now on.
        """
        self.task = scaled(self.task, _files(images))

    def predict(self, image: Path | str | np.ndarray, tiles: int = 1) -> Prediction:
        """Predict one image: a file, or uint8 (H, W, 3). Raises `DataError` if it cannot be read.

        With `tiles` above 1, it is also seen at so many times the model's size, in overlapping tiles, see `tiling.tiled`: finer
        outlines of large photographs, in about four times the square of it as much time.
        A 16-bit file is scaled as `adapt` says, where training saw none by its own depth.
        """
        scaled(
            self.task, _files([image])
        )  # for what it logs: where the task has no depth, each image is scaled by its own
        small, own = self._read(image)
        logits = self.logits(small[None])[0]
        if tiles > 1:
            size = tuple(self.card.size)
            large, _ = self.task.image_near(image, (tiles * size[0], tiles * size[1]))
            parts = torch.from_numpy(tiled(self.logits, large, size))
            whole = F.interpolate(
                logits.cpu()[None], parts.shape[-2:], mode="bilinear", align_corners=False
            )[0].softmax(0)
            logits = (whole.mul_(1 - DETAIL) + parts.mul_(DETAIL)).clamp_(1e-12).log_()
        return self._prediction(image, logits, own)

    def stream(
        self,
        images: Iterable[Image],
        bs: int = 8,
        finish: Callable[[Image, Prediction], T] = lambda _, prediction: prediction,
    ) -> Iterator[tuple[Image, T | DataError]]:
        """Yield (image, finish(image, its prediction)) in order; an image that cannot be read comes with its `DataError` instead.

        Threads read ahead and `finish` behind: what is done with each prediction (writing, measuring) belongs there. Where
        ONNX computes, each thread takes whole batches from file to finish, so that no core waits for another; torch computes
        on all cores at once. At most two batches more than there are threads are held at a time.
        """
        images, workers = iter(images), self._workers
        with ThreadPoolExecutor(workers) as pool:
            batches = iter(lambda: list(islice(images, bs)), [])
            if self._sessions is not None:
                done = (pool.submit(self._whole, batch, finish) for batch in batches)
            else:
                read = results_in_order(
                    (pool.submit(self._reads, batch) for batch in batches), workers
                )
                done = (
                    pool.submit(self._finished, *pair, self._computed(pair[1]), finish)
                    for pair in read
                )
            for results in results_in_order(done, workers + 1):
                yield from results

    def stream_or_raise(
        self,
        images: Iterable[Image],
        bs: int = 8,
        finish: Callable[[Image, Prediction], T] = lambda _, prediction: prediction,
    ) -> Iterator[tuple[Image, T]]:
        """Yield what `stream` yields. Raises the `DataError` of the first image that cannot be read."""
        for image, result in self.stream(images, bs, finish):
            if isinstance(result, DataError):
                raise result
            yield image, result

    def _whole(self, batch: list, finish: Callable) -> list[tuple]:
        _, reads = self._reads(batch)
        return self._finished(batch, reads, self._computed(reads, self._stream_threads), finish)

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

    def _finished(
        self, batch: list, reads: list, logits: torch.Tensor | tuple, finish: Callable
    ) -> list[tuple]:
        rows = iter(logits)
        return [
            (
                source,
                read
                if isinstance(read, DataError)
                else finish(source, self._prediction(source, next(rows), read[1])),
            )
            for source, read in zip(batch, reads)
        ]

    def _prediction(self, source: Image, logits: torch.Tensor, size: tuple[int, int]) -> Prediction:
        return self._prediction_class(self.task, source, logits, size, self.card.temperature)

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
        other = self._prediction_class.mirrored_back(other, self.card.flip_shift)
        return ((logits.softmax(1) + other.softmax(1)) / 2).clamp_min(1e-12).log()

    def _run(self, batch: np.ndarray, threads: int) -> torch.Tensor:
        if self._sessions is not None:
            return torch.from_numpy(self._sessions(threads)(batch))
        return self.network(self.normalised(torch.tensor(batch)))

    def normalised(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, h, w, 3) into what the network takes: float32 (B, 3, h, w) by the card's mean and std."""
        x = batch.to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (
            torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255
            for v in (self.card.mean, self.card.std)
        )
        return (x - mean) / std

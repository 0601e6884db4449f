"""A loaded export at work: one image or a stream of batches, never all at once; results at each image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ..data.mirror import mirrored
from ..errors import DataError
from ..exports.card import Card
from ..metrics.risk import expected_error
from ..tasks import Item, Task, get
from ..tasks.base import scaled
from ..utils.device import device_of
from ..utils.speed import Option, seconds_of
from ..utils.threads import results_in_order
from .tiling import DETAIL, tiled

if TYPE_CHECKING:
    from ..exports.onnx import Sessions
    from ..models.network import Network

Image = Item | Path | str | np.ndarray
T = TypeVar("T")


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
    def calibrated(self) -> np.ndarray:
        """Calibrated probabilities at the model's own size, float32 (C, h, w) or (C,): enough for means over parts of an image."""
        return (self.logits / self.temperature).softmax(0).cpu().numpy()

    @property
    def scores(self) -> torch.Tensor:
        """The logits at the image's own size, float32 (C, H, W), or (C,) for classification."""
        return self.logits if self.task.kind == "classify" else self._enlarged()

    @property
    def expected_error(self) -> float:
        """The error that the image's own probabilities lead one to expect, from 0 to 1 (see `metrics.risk.expected_error`)."""
        # Not divided by the temperature, which comes from the very images that the thresholds come from.
        return expected_error(self._coarse.softmax(0), self.task.background)

    def described(self, threshold: float | None) -> dict:
        """Return the image's row of predictions.csv: shares or probabilities of the classes, confidence, entropy in nats, expected
        error, and whether it needs review, which is if the expected error exceeds `threshold`."""
        probabilities = (self._coarse / self.temperature).softmax(0)
        if self.codes is None:
            first: dict[str, object] = {
                "class": self.task.classes[int(probabilities.argmax())],
                **{
                    f"p_{name}": round(float(p), 6)
                    for name, p in zip(self.task.classes, probabilities)
                },
            }
        else:
            first = {
                f"share_{name}": round(np.count_nonzero(self.codes == code) / self.codes.size, 6)
                for code, name in enumerate(self.task.classes)
            }
        expected, by_class = self.expected_error, torch.clamp(probabilities, min=1e-12)
        return {
            **first,
            "confidence": round(float(probabilities.max(0).values.mean()), 6),
            "entropy": round(float(-(by_class * by_class.log()).sum(0).mean()), 6),
            "expected_error": round(expected, 6),
            "needs_review": "" if threshold is None else expected > threshold,
        }

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
            return F.interpolate(
                self.logits[None], self.size, mode="bilinear", align_corners=False
            )[0]


def _classes(scores: torch.Tensor) -> np.ndarray:
    """Return the first class of the highest score at each pixel, uint8 (H, W), from scores (C, H, W)."""
    if scores.device.type != "cpu":
        return scores.max(0).indices.to(torch.uint8).cpu().numpy()
    best, *others = (
        scores.numpy()
    )  # plane by plane: twice as quick as torch's max, forty times as quick as its argmax
    best, codes = best.copy(), np.zeros(best.shape, dtype=np.uint8)
    for code, plane in enumerate(others, 1):
        np.putmask(codes, plane > best, code)
        np.maximum(best, plane, out=best)
    return codes


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

"""One image's result, read from the network's logits: masks for segmentation, one class for
classification.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data.mirror import mirrored
from ..metrics.calibration import pixel_sample, softmax
from ..metrics.risk import expected_error
from ..tasks import ClassificationTask, Item, SegmentationTask, Task
from .resizing import resized

Image = Item | Path | str | np.ndarray
STRIP = 32  # rows of a mask that are computed together


@dataclass
class Prediction(ABC):
    """One image's result. What a kind of task does not have is None: `codes` or `label`."""

    task: Task
    source: Image  # what was predicted
    logits: np.ndarray  # float32 (C, h, w) at the model's size, or (C,) for classification
    size: tuple[int, int]  # the image's own (height, width)
    temperature: float = 1.0  # logits are divided by it for calibrated probabilities

    @cached_property
    def image(self) -> np.ndarray:
        """The image as it is shown, uint8 (H, W, 3), of an image of C channels three of them.

        It is read again when asked for, since masks do not need it.
        """
        return self.task.shown(self.task.image(self.source))

    @property
    def codes(self) -> np.ndarray | None:
        """Each pixel's class, uint8 (H, W) at the image's own size; None for classification."""
        return None

    @property
    def label(self) -> str | None:
        """The predicted class's name; None for segmentation."""
        return None

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """Predicted class indices in the form of the task's labels: (H, W), or () for one class."""

    @property
    @abstractmethod
    def scores(self) -> np.ndarray:
        """The logits at the image's own size, float32 (C, H, W), or (C,) for classification."""

    @abstractmethod
    def calibration_sample(
        self, truth: np.ndarray | int, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return logits, float32 (n, C), and true classes, (n,), of up to `count` labelled
        places.
        """

    @staticmethod
    @abstractmethod
    def mirrored_back(logits: np.ndarray, shift: int) -> np.ndarray:
        """Return the logits of mirrored images, (B, C, ...), as logits of the images themselves.

        `shift` is px by which mirrored masks move right, see `Recipe.flip_shift`.
        """

    @property
    @abstractmethod
    def _sampled_logits(self) -> np.ndarray:
        """The logits from which means over the image are computed."""

    @abstractmethod
    def _class_columns(self, probabilities: np.ndarray) -> dict[str, object]:
        """Return the columns of predictions.csv that say which classes there are."""

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities, float32 (C, H, W) or (C,), computed on each access."""
        return softmax(self.scores / np.float32(self.temperature))

    @property
    def calibrated(self) -> np.ndarray:
        """Calibrated probabilities at the model's own size, float32 (C, h, w) or (C,)."""
        return softmax(self.logits / np.float32(self.temperature))

    @property
    def expected_error(self) -> float:
        """The error to expect by the image's own probabilities, 0 to 1, see `metrics.risk`."""
        # Not calibrated: the temperature comes from the same images as the thresholds.
        return expected_error(softmax(self._sampled_logits), self.task.background)

    def described(self, threshold: float | None) -> dict[str, Any]:
        """Return the image's row of predictions.csv.

        It has the classes' shares or probabilities, mean confidence, mean entropy in nats, the
        expected error, and whether the image needs review: its expected error exceeds `threshold`.
        """
        probabilities = softmax(self._sampled_logits / np.float32(self.temperature))
        clamped = np.maximum(probabilities, 1e-12)
        expected = self.expected_error
        return {
            **self._class_columns(probabilities),
            "confidence": round(float(probabilities.max(0).mean()), 6),
            "entropy": round(float(-(clamped * np.log(clamped)).sum(0).mean()), 6),
            "expected_error": round(expected, 6),
            "needs_review": "" if threshold is None else expected > threshold,
        }


class MaskPrediction(Prediction):
    """A mask: one class for each pixel."""

    @cached_property
    def codes(self) -> np.ndarray:
        return _argmax_codes(self.scores)

    @property
    def labels(self) -> np.ndarray:
        return self.codes

    @property
    def scores(self) -> np.ndarray:
        # Logits are resized before the argmax, so that masks get smooth, not stepped, borders.
        return resized(self.logits, self.size)

    def calibration_sample(
        self, truth: np.ndarray | int, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return pixel_sample(self.scores, np.asarray(truth), count, seed)

    @staticmethod
    def mirrored_back(logits: np.ndarray, shift: int) -> np.ndarray:
        return mirrored(logits, shift)

    @property
    def _sampled_logits(self) -> np.ndarray:
        # A quarter of the pixels is enough for means, and four times faster.
        return self.logits[:, ::2, ::2]

    def _class_columns(self, probabilities: np.ndarray) -> dict[str, object]:
        return {
            f"share_{name}": round(np.count_nonzero(self.codes == code) / self.codes.size, 6)
            for code, name in enumerate(self.task.classes)
        }


class ClassPrediction(Prediction):
    """One class for the whole image."""

    @property
    def index(self) -> int:
        """The predicted class's index."""
        return int(self.logits.argmax())

    @property
    def label(self) -> str:
        return self.task.classes[self.index]

    @property
    def labels(self) -> np.ndarray:
        return np.array(self.index)

    @property
    def scores(self) -> np.ndarray:
        return self.logits

    def calibration_sample(
        self, truth: np.ndarray | int, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.logits[None], np.array([truth])

    @staticmethod
    def mirrored_back(logits: np.ndarray, shift: int) -> np.ndarray:
        return logits

    @property
    def _sampled_logits(self) -> np.ndarray:
        return self.logits

    def _class_columns(self, probabilities: np.ndarray) -> dict[str, object]:
        return {
            "class": self.task.classes[int(probabilities.argmax())],
            **{
                f"p_{name}": round(float(p), 6) for name, p in zip(self.task.classes, probabilities)
            },
        }


PREDICTIONS: dict[str, type[Prediction]] = {
    SegmentationTask.kind: MaskPrediction,
    ClassificationTask.kind: ClassPrediction,
}


def _argmax_codes(scores: np.ndarray) -> np.ndarray:
    """Return the first class of the highest score at each pixel, uint8 (H, W), from scores (C, H,
    W).
    """
    # Class by class, in strips that stay in the processor's cache: thirty times as fast as
    # torch's argmax. Later classes have higher codes, so that `maximum` sets them.
    codes = np.zeros(scores.shape[1:], dtype=np.uint8)
    for top in range(0, len(codes), STRIP):
        first, *others = scores[:, top : top + STRIP]
        best, strip = first.copy(), codes[top : top + STRIP]
        for code, plane in enumerate(others, 1):
            is_higher = (plane > best).view(np.uint8)
            np.maximum(strip, is_higher * np.uint8(code), out=strip)
            np.maximum(best, plane, out=best)
    return codes

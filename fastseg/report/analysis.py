"""Results per image of one pass over labelled images: loss, error, uncertainty, suspect
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.run import score_images
from ..evaluation.scores import Scores, scores_of
from ..metrics import calibration
from ..tasks import Item, Task
from ..types import IGNORE
from ..utils.io import name_below

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .label_issues import Suspicion

# Smallest probability before a logarithm: the loss is at most 16.1 nats, and the entropy
# is finite.
SMALLEST_TRUE, SMALLEST = 1e-7, 1e-12


@dataclass
class Insight:
    """The results of one image."""

    item: Item
    name: str  # relative to the data
    size: tuple[int, int]  # (height, width) in px
    loss: float  # mean cross-entropy in nats
    error: float  # 1 - foreground Dice of all classes pooled; for classification 0 or 1
    expected_error: float  # from the image's own probabilities
    confidence: float  # mean probability of the predicted class
    entropy: float  # mean, in nats
    suspicion: Suspicion


@dataclass
class Analysis:
    """The results of a pass over labelled images."""

    scores: Scores[Any]
    images: list[Insight]
    reliability: np.ndarray  # float64 (15, 3), see `metrics.calibration.reliability`


def analyse(predictor: Predictor, items: Sequence[Item], root: Path, bs: int = 4) -> Analysis:
    """Predict labelled images below `root` and compare them with their labels; keeps no pixels.

    Raises `DataError` for the first image or label that cannot be read.
    """
    task, scores = predictor.task, scores_of(predictor.task)
    found = Analysis(scores, [], np.zeros((calibration.BINS, 3)))

    def look(
        item: Item, prediction: Prediction, truth: np.ndarray | int
    ) -> tuple[Insight, np.ndarray]:
        return _insight(task, root, item, prediction, truth)

    for score, (insight, reliability) in score_images(predictor, items, root, bs, look=look):
        insight.error = scores.error(score)
        scores.images.append(score)
        found.images.append(insight)
        found.reliability += reliability
    return found


def _insight(
    task: Task, root: Path, item: Item, prediction: Prediction, truth: np.ndarray | int
) -> tuple[Insight, np.ndarray]:
    """Return the results of one image, without its error, and its reliability table, float64 (15,
    3).
    """
    from .label_issues import of_image  # not at the top: cleanlab brings pandas and scikit-learn

    probabilities = prediction.probabilities
    logarithms = np.log(np.clip(probabilities, SMALLEST, 1))
    confidence = np.asarray(probabilities.max(0))
    insight = Insight(
        item,
        name_below(root, item.image),
        prediction.size,
        loss=cross_entropy(probabilities, truth),
        error=0.0,
        expected_error=prediction.expected_error,
        confidence=float(confidence.mean()),
        entropy=float(-(probabilities * logarithms).sum(0).mean()),
        suspicion=of_image(probabilities, truth, task.classes, task.background),
    )
    labelled = np.asarray(truth) != IGNORE
    is_right = np.asarray(prediction.labels == truth)
    return insight, calibration.reliability(confidence[labelled], is_right[labelled])


def cross_entropy(probabilities: np.ndarray, truth: np.ndarray | int) -> float:
    """Return the mean -log p(true class) in nats over labelled pixels; `probabilities` is float (C,
    H, W) or (C,).
    """
    codes = np.asarray(truth)
    labelled = codes != IGNORE
    if not labelled.any():
        return 0.0
    places = np.where(labelled, codes, 0)[None].astype(np.int64)
    true = np.take_along_axis(probabilities, places, axis=0)[0]
    return abs(float(np.log(np.clip(true[labelled], SMALLEST_TRUE, 1)).mean()))

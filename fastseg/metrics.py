"""Metrics over a whole dataset: counts are summed over the images, then divided. numpy only."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .masks import IGNORE


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by (true class, predicted class): int64 (C, C). Unlabelled pixels (255) do not count.

    `truth` and `predicted` are integer arrays of the same shape.
    """
    labelled = truth != IGNORE
    index = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(index.reshape(-1), minlength=classes * classes).reshape(classes, classes)


def ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """Divide, giving nan where `whole` is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def per_class(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, IoU and Dice of each class, float64 (C,), from a confusion matrix (truth, predicted).

    With TP, FP, FN in pixels: precision TP/(TP+FP), recall TP/(TP+FN), IoU TP/(TP+FP+FN) (Jaccard 1912),
    Dice 2TP/(2TP+FP+FN) (Dice 1945). A class in neither truth nor prediction has nan: it is no success and no failure.
    """
    hit, true, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {"precision": ratio(hit, said), "recall": ratio(hit, true),
            "iou": ratio(hit, true + said - hit), "dice": ratio(2 * hit, true + said)}


def mean(values: np.ndarray, without: int | None = None) -> float:
    """Average the values that are not nan, leaving out index `without` (the background); nan if there are none."""
    kept = np.delete(values, without) if without is not None else values
    kept = kept[~np.isnan(kept)]
    return float(kept.mean()) if len(kept) else float("nan")


def segmentation(counts: np.ndarray, classes: Sequence[str], background: int | None) -> dict:
    """Summarise a confusion matrix: pixel accuracy, figures of each class, means with and without background."""
    figures = per_class(counts)
    return {
        "pixels": int(counts.sum()),
        "pixel_accuracy": _number(ratio(np.trace(counts), counts.sum())),
        "classes": {name: {"pixels": int(counts[i].sum()), **{key: _number(values[i]) for key, values in figures.items()}}
                    for i, name in enumerate(classes)},
        "mean_with_background": {key: _number(mean(values)) for key, values in figures.items()},
        "mean_foreground": {key: _number(mean(values, background)) for key, values in figures.items()},
        "confusion": counts.tolist(),
    }


def classification(truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Summarise classifications: `truth` int (N,), `probabilities` float (N, C); the last class is the positive one.

    ROC AUC is None where only one class is present.
    """
    from sklearn.metrics import roc_auc_score
    counts = confusion(truth, probabilities.argmax(axis=1), len(classes))
    figures = per_class(counts)
    both = len(np.unique(truth)) == len(classes)
    if not both:
        auc = None
    elif len(classes) == 2:
        auc = float(roc_auc_score(truth, probabilities[:, 1]))
    else:
        auc = float(roc_auc_score(truth, probabilities, multi_class="ovr"))
    names = {"precision": "precision", "recall": "recall", "dice": "f1"}  # F1 is the Dice of labels
    return {
        "images": len(truth),
        "accuracy": _number(ratio(np.trace(counts), counts.sum())),
        "roc_auc": auc,
        "classes": {name: {"images": int(counts[i].sum()), **{to: _number(figures[key][i]) for key, to in names.items()}}
                    for i, name in enumerate(classes)},
        "mean": {to: _number(mean(figures[key])) for key, to in names.items()},
        "confusion": counts.tolist(),
    }


def _number(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)

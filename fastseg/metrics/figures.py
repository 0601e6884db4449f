"""Metrics of a dataset: counts are summed over the images, then divided.

Every function takes leading axes too. A leading axis holds bootstrap samples, so that a figure and
its interval come from the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..types import IGNORE
from .calibration import BINS, calibration_error, reliability

Tree = dict[str, "np.ndarray | Tree"]  # named figures, in groups

SCORES = ("pixel_accuracy", "precision", "recall", "specificity", "iou", "dice")
BOUNDARY = ("boundary_f1", "hausdorff95", "mean_surface_distance")

FIGURES = {  # the figures of one class: key -> title, and what it is
    "pixel_accuracy": (
        "pixel accuracy",
        "share of all pixels that are correct when only 'this class or not' is asked",
    ),
    "precision": ("precision", "share of the pixels predicted as this class that are correct"),
    "recall": ("recall", "share of this class that is found"),
    "specificity": ("specificity", "share of other classes that is not predicted as this class"),
    "iou": ("IoU", "overlap of truth and prediction over their union"),
    "dice": ("Dice", "twice the overlap over the sum of both"),
    "boundary_f1": ("boundary F1", "share of the outlines that are within 2 px of each other"),
    "hausdorff95": ("Hausdorff 95 (px)", "95 % of the outlines are closer than this"),
    "mean_surface_distance": (
        "mean surface distance (px)",
        "mean distance between the outlines",
    ),
    "f1": ("F1", "harmonic mean of precision and recall"),
}


def never_found(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that labels have, and of which no pixel (or image) is found: recall 0.

    `metrics` has a dict of figures for each class under "classes", as `evaluate` returns them.
    """
    classes = metrics.get("classes")
    found = classes.items() if isinstance(classes, Mapping) else ()
    return [name for name, values in found if values.get("recall") == 0]


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by (true class, predicted class): int64 (C, C).

    `truth` and `predicted` are integer arrays of one shape. Unlabelled pixels (255) do not count.
    """
    labelled = truth != IGNORE
    index = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(index.reshape(-1), minlength=classes * classes).reshape(classes, classes)


def ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """Return `part` / `whole`, float64, nan where `whole` is 0."""
    part, whole = np.broadcast_arrays(
        np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    )
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def per_class(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `SCORES` of each class, float64 (..., C), from confusion matrices (..., C, C).

    The matrices count by (truth, predicted). With TP, FP, FN, TN in pixels: pixel accuracy
    (TP+TN)/all, precision TP/(TP+FP), recall TP/(TP+FN), specificity TN/(TN+FP), IoU TP/(TP+FP+FN)
    (Jaccard 1912), Dice 2TP/(2TP+FP+FN) (Dice 1945). A class in neither truth nor prediction has
    nan for precision, recall, IoU and Dice: it is neither a success nor a failure.
    """
    hit, true, said = (
        np.diagonal(counts, axis1=-2, axis2=-1),
        counts.sum(axis=-1),
        counts.sum(axis=-2),
    )
    all_ = counts.sum(axis=(-2, -1))[..., None]
    return {
        "pixel_accuracy": ratio(all_ - true - said + 2 * hit, all_),
        "precision": ratio(hit, said),
        "recall": ratio(hit, true),
        "specificity": ratio(all_ - true - said + hit, all_ - true),
        "iou": ratio(hit, true + said - hit),
        "dice": ratio(2 * hit, true + said),
    }


def boundary(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `BOUNDARY` figures of each class, float64 (..., C).

    `sums` are `boundary_sums` (..., C, 8) added over images. Boundary F1 is the harmonic mean of
    the shares of predicted and of true outline pixels near the other outline: 0 where only one
    of truth and prediction has the class, nan where neither has. Distances, in px, are means over
    the images in which both have the class.
    """
    met_predicted, predicted, met_true, true, far, has_far, near, has_near = np.moveaxis(
        sums, -1, 0
    )
    precision, recall = ratio(met_predicted, predicted), ratio(met_true, true)
    both = np.nan_to_num(
        2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    )
    return {
        "boundary_f1": np.where(predicted + true > 0, both, np.nan),
        "hausdorff95": ratio(far, has_far),
        "mean_surface_distance": ratio(near, has_near),
    }


def boundary_sums(distances: np.ndarray) -> np.ndarray:
    """Turn `boundaries.distances` of one image, (C, 6), into sums over images, (C, 8)."""
    known = ~np.isnan(distances[:, 4:])
    return np.column_stack(
        [
            distances[:, :4],
            *(
                column
                for i in (0, 1)
                for column in (np.where(known[:, i], distances[:, 4 + i], 0), known[:, i])
            ),
        ]
    )


def mean(values: np.ndarray, without: int | None = None) -> np.ndarray:
    """Return the mean of `values` (..., C) over the classes that are not nan; nan if all are.

    The class of index `without`, such as the background, is left out.
    """
    kept = np.delete(values, without, axis=-1) if without is not None else values
    known = ~np.isnan(kept)
    return ratio(np.where(known, kept, 0).sum(axis=-1), known.sum(axis=-1))


def segmentation(
    counts: np.ndarray, sums: np.ndarray, classes: Sequence[str], background: int | None
) -> Tree:
    """Return the figures of a segmentation, each of shape (...).

    `counts` are confusion matrices (..., C, C), `sums` are `boundary_sums` (..., C, 8). The figures
    are pixel accuracy, frequency-weighted IoU (each class's IoU weighted by its share of the true
    pixels; Long et al., CVPR 2015), all figures of each class, and their means over all classes and
    over the foreground.
    """
    figures = per_class(counts) | boundary(sums)
    all_ = counts.sum(axis=(-2, -1))
    shares = ratio(counts.sum(axis=-1), all_[..., None])
    return {
        "pixel_accuracy": ratio(np.trace(counts, axis1=-2, axis2=-1), all_),
        "frequency_weighted_iou": np.where(
            all_ > 0, np.nansum(shares * figures["iou"], axis=-1), np.nan
        ),
        "classes": {
            name: {key: values[..., i] for key, values in figures.items()}
            for i, name in enumerate(classes)
        },
        "mean_with_background": {key: mean(values) for key, values in figures.items()},
        "mean_foreground": {key: mean(values, background) for key, values in figures.items()},
    }


def classification(
    truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], weights: np.ndarray
) -> Tree:
    """Return the figures of a classification, each of shape (...).

    `truth` is int (N,), `probabilities` float (N, C), `weights` float64 (..., N), how often each
    image counts. The figures are accuracy; ROC AUC and precision-recall AUC (average precision) of
    the last of two classes, or the mean of each class against the rest, nan where a class is
    missing; Brier score, the mean over images of the summed squared differences (Brier 1950; for
    two classes halved, as in scikit-learn); expected calibration error (see `calibration_error`);
    and each class's precision, recall and F1.
    """
    number, said = len(classes), probabilities.argmax(axis=1)
    counts = (weights @ np.eye(number**2)[truth * number + said]).reshape(
        *weights.shape[:-1], number, number
    )
    figures = per_class(counts)
    columns = [number - 1] if number == 2 else range(number)
    areas = np.array(
        [areas_under_curves(truth == c, probabilities[:, c], weights) for c in columns]
    )
    squares = ((probabilities - np.eye(number)[truth]) ** 2).sum(axis=1) / (2 if number == 2 else 1)
    bins = np.stack(
        [
            reliability(p, r)
            for p, r in zip(probabilities.max(axis=1)[:, None], (said == truth)[:, None])
        ]
    )
    summed = (weights @ bins.reshape(len(truth), -1)).reshape(*weights.shape[:-1], BINS, 3)
    names = {"precision": "precision", "recall": "recall", "dice": "f1"}  # F1 is the Dice of labels
    return {
        "accuracy": ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1))),
        "roc_auc": areas[:, 0].mean(axis=0),
        "pr_auc": areas[:, 1].mean(axis=0),
        "brier": ratio(weights @ squares, weights.sum(axis=-1)),
        "expected_calibration_error": calibration_error(summed),
        "classes": {
            name: {to: figures[key][..., i] for key, to in names.items()}
            for i, name in enumerate(classes)
        },
        "mean": {to: mean(figures[key]) for key, to in names.items()},
    }


def areas_under_curves(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC AUC and average precision, each (...).

    Of `positive` bool (N,) by `score` (N,), with weights (..., N). ROC AUC is the share of pairs of
    a positive and a negative in which the positive scores higher, ties counting half (Hanley and
    McNeil 1982). Average precision sums precision over the steps of recall, as in scikit-learn.
    Both are nan if all are positive or all negative.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(
        np.flatnonzero(np.diff(score[order])), len(score) - 1
    )  # equal scores are one step
    hits, alarms = (
        np.cumsum(np.where(kind[order], weights[..., order], 0), axis=-1)[..., last]
        for kind in (positive, ~positive)
    )
    rises, widths = (np.diff(values, axis=-1, prepend=0) for values in (hits, alarms))
    positives, negatives = hits[..., -1], alarms[..., -1]
    auc = ratio((widths * (hits - rises / 2)).sum(axis=-1), positives * negatives)
    precision = np.nan_to_num(ratio(hits, hits + alarms))
    return auc, np.where(negatives > 0, ratio((rises * precision).sum(axis=-1), positives), np.nan)


def to_json(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of figures as JSON values: floats, None for nan."""
    numbers: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            numbers[key] = to_json(value)
        else:
            numbers[key] = None if np.isnan(value) else float(value)
    return numbers


def intervals(tree: Mapping[str, Any], level: float = 0.95) -> dict[str, Any]:
    """Return [low, high] of each leaf of a tree, whose leaves hold bootstrap samples (B,).

    These are percentile intervals (Efron and Tibshirani 1993, chapter 13); None where all samples
    are nan.
    """
    ends = [50 * (1 - level), 50 * (1 + level)]

    def interval(values: np.ndarray) -> list[float] | None:
        known = values[~np.isnan(values)]
        return [float(v) for v in np.percentile(known, ends)] if len(known) else None

    return {
        key: intervals(value, level) if isinstance(value, Mapping) else interval(np.asarray(value))
        for key, value in tree.items()
    }

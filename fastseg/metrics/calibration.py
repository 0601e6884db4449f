"""Calibration: temperature scaling, reliability tables, expected calibration error."""

from __future__ import annotations

import numpy as np

from ..types import IGNORE

TEMPERATURES = 0.2, 10.0  # bounds of the search; a convention, with 1 well inside
PIXELS = 400_000  # over all images, to fit the temperature: one parameter needs no more
BINS = 15  # of confidence, as in Guo et al.


def softmax(logits: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the probabilities of logits along an axis, in their own dtype and shape."""
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    powers /= powers.sum(axis, keepdims=True)
    return powers


def temperature(logits: np.ndarray, truth: np.ndarray, images: int) -> float:
    """Return the temperature T for which softmax(logits / T) is best calibrated.

    `logits` float (N, C) and `truth` int (N,) are of held-out pixels or images, `images` in number
    (Guo et al., ICML 2017). What is minimised is the negative log-likelihood, each image counting
    once, plus (log T)^2 / 2. This term keeps T near 1: without it, a few images without errors
    would give T = 0.
    """
    import torch  # not at the top: predictions need neither torch nor scipy
    from scipy.optimize import minimize_scalar

    # (1, C, N), not (N, C): torch's softmax over few classes is five times faster along that axis
    scores = torch.from_numpy(np.asarray(logits.T, dtype=np.float64, order="C"))[None]
    labels = torch.from_numpy(np.asarray(truth, dtype=np.int64))[None]

    def cost(log_t: float) -> float:
        return (
            float(torch.nn.functional.cross_entropy(scores / np.exp(log_t), labels)) * images
            + log_t**2 / 2
        )

    return float(np.exp(minimize_scalar(cost, bounds=np.log(TEMPERATURES), method="bounded").x))


def pixel_sample(
    scores: np.ndarray, truth: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, C) and codes (n,) of up to `count` labelled pixels of an image.

    `scores` are logits (C, H, W), `truth` codes (H, W).
    """
    places = np.flatnonzero(truth.reshape(-1) != IGNORE)
    chosen = (
        np.random.default_rng(seed).choice(places, min(count, len(places)), replace=False)
        if len(places)
        else places
    )
    return scores.reshape(len(scores), -1)[:, chosen].T, truth.reshape(-1)[chosen]


def reliability(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how often predictions of each confidence are right, float64 (15, 3).

    The columns are the count, the summed confidence, and the count of right ones. Bins are of equal
    width from 0 to 1; tables of several images add up.
    """
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1).reshape(-1)
    return np.stack(
        [
            np.bincount(place, values, BINS)
            for values in (None, confidence.reshape(-1).astype(np.float64), right.reshape(-1))
        ],
        axis=1,
    )


def calibration_error(bins: np.ndarray) -> np.ndarray:
    """Return the expected calibration error (...) of `reliability` tables (..., 15, 3).

    That is the mean distance of confidence and accuracy over the bins, weighted by their counts
    (Guo et al., ICML 2017).
    """
    gaps, total = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1), bins[..., 0].sum(axis=-1)
    return np.divide(gaps, total, out=np.full(np.shape(total), np.nan), where=total > 0)

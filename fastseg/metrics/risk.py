"""The error to expect of a prediction, and the thresholds above which a person should review it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..errors import TaskError

RATES = tuple(round(0.01 * k, 2) for k in range(1, 51))  # error rates with a threshold in cards
ERROR_RATE = 0.1  # default: largest mean error of images without review


def expected_error(probabilities: np.ndarray, background: int | None) -> float:
    """Return the error, 0 to 1, expected from an image's probabilities, float (C, H, W) or (C,).

    For a class it is 1 - max p. For a mask it is 1 - Dice of the predicted foreground, all classes
    pooled, if each pixel is correct with its own probability: 1 - 2 sum(p of the predicted class) /
    (predicted pixels + sum of all foreground p).
    """
    best = probabilities.max(0)
    if probabilities.ndim == 1:
        return float(1 - best)
    if background is None:
        return float(1 - best.mean())
    said = probabilities[background] < best
    pixels = said.sum() + (1 - probabilities[background]).sum()
    return float(1 - 2 * best[said].sum() / max(pixels, 1e-6))


def actual_error(counts: np.ndarray, background: int | None) -> float:
    """Return the error that `expected_error` predicts, from a confusion matrix (C, C).

    That is 1 - Dice of the foreground, all classes pooled; 0 without any foreground.
    """
    classes = [c for c in range(len(counts)) if c != background]
    hits, whole = counts[classes, classes].sum(), counts[classes].sum() + counts[:, classes].sum()
    return float(1 - 2 * hits / whole) if whole else 0.0


def thresholds(expected: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Return, for each of `RATES`, the expected error above which an image needs review.

    -1 means all images, 1 means none. The promise, for new images drawn like the n held-out
    ones: the mean over all images of the actual error, counting 0 for those sent to review, is at
    most the rate. By conformal risk control (Angelopoulos et al., ICLR 2024, equation 4), with
    losses from 0 to 1: the largest threshold with (sum of the accepted losses + 1) / (n + 1) <=
    rate.
    """
    values, places = np.unique(expected, return_inverse=True)
    let_through = np.cumsum(np.bincount(places, actual, len(values)))
    found = {}
    for rate in RATES:
        passing = int(
            np.searchsorted(let_through, rate * (len(expected) + 1) - 1 + 1e-12, side="right")
        )
        found[str(rate)] = (
            -1.0 if passing == 0 else 1.0 if passing == len(values) else float(values[passing - 1])
        )
    return found


def review_threshold(review: Mapping[str, float], error_rate: float) -> float | None:
    """Return a card's threshold for an error rate, or for the next lower rate that it has.

    None for a card without any. Raises `TaskError` for rates outside 0.01 to 0.5.
    """
    if not RATES[0] <= error_rate <= RATES[-1]:
        raise TaskError(
            f"an error rate (--error-rate) of {error_rate:g} is not from 0.01 to 0.5", "error-rate"
        )
    return review.get(str(math.floor(100 * error_rate + 1e-9) / 100))


def lowest_rate(review: Mapping[str, float]) -> float | None:
    """Return the lowest error rate of a card at which not every image needs review, or None."""
    return min((float(rate) for rate, threshold in review.items() if threshold >= 0), default=None)


def review_obstacle(images: int | None, error_rate: float) -> str:
    """Return why every image needs review, given the number of validation images, if known.

    Fewer images than 1 / `error_rate` - 1 can promise nothing, even without any error: see the
    equation of `thresholds`.
    """
    if images is None:
        return "the validation images are too few, or their errors too large,"
    if error_rate * (images + 1) < 1 - 1e-12:
        count = "1 validation image is" if images == 1 else f"{images} validation images are"
        return f"{count} too few (which says nothing against the masks)"
    return f"the errors of the {images} validation images are too large"

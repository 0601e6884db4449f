"""Means over many images: prediction-powered, where some or all have predictions only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; an end is nan where the images are too few for it."""

    value: float
    low: float
    high: float
    images: int  # with a value
    labelled: int  # that the rectifier comes from; 0: the mean is not rectified


def plain_mean(values: np.ndarray, level: float) -> Mean:
    """Return the mean of values (N,), of which nan are left out, with Student's t interval."""
    values = values[np.isfinite(values)]
    count = len(values)
    if not count:
        return Mean(math.nan, math.nan, math.nan, 0, 0)
    return _with_interval(float(values.mean()), [_part(_spread(values), count)], level, count, 0)


def prediction_powered_mean(
    predicted: np.ndarray, bias: float, spread: float, labelled: int, level: float
) -> Mean:
    """Return the mean over images of the true values, of which only predictions (N,) are known.

    `bias` and `spread` are the mean and the standard deviation of true minus predicted value over
    `labelled` other images of the same kind. The mean is that of the predictions plus the bias; its
    variance is the sum of both means' variances (Angelopoulos et al., Prediction-powered inference,
    Science 2023, arXiv:2301.09633, mean estimation). However biased the model is, the interval
    covers the true mean. For few images, Student's t replaces the normal distribution, with
    Welch-Satterthwaite degrees of freedom.
    """
    predicted = predicted[np.isfinite(predicted)]
    count = len(predicted)
    if not count:
        return Mean(math.nan, math.nan, math.nan, 0, labelled)
    parts = [_part(spread, labelled), _part(_spread(predicted), count)]
    return _with_interval(float(predicted.mean() + bias), parts, level, count, labelled)


def tuned_mean(true: np.ndarray, said: np.ndarray, rest: np.ndarray, level: float) -> Mean:
    """Return the mean over images of which some are labelled, with values `true` (n,) and
    predictions `said` (n,), and the others have predictions `rest` (m,) only.

    It is the mean of the true values plus w times the difference of the means of `rest` and `said`.
    The weight w, 0 to 1, is the one of the smallest variance: near 1 for good predictions of many
    images, 0 for useless ones (Angelopoulos, Duchi, Zrnic, PPI++: Efficient prediction-powered
    inference, 2023, arXiv:2311.01453). Needs two labelled images or more.
    """
    labelled, others = len(true), len(rest)
    together = np.concatenate([said, rest])
    variance = float(together.var(ddof=1))
    weight = 0.0
    if variance:
        shared = float(np.cov(true, said)[0, 1])
        weight = float(np.clip(shared / (variance * (1 + labelled / others)), 0, 1))
    value = float(true.mean() + weight * (rest.mean() - said.mean()))
    parts = [
        _part(_spread(true - weight * said), labelled),
        (weight**2 * variance / others, len(together) - 1),
    ]
    return _with_interval(value, parts, level, len(together), labelled)


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation; nan for one value, which tells nothing of it."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _part(spread: float, count: int) -> tuple[float, int]:
    """Return the variance of a mean, and its degrees of freedom."""
    return (spread**2 / count if count > 1 else math.nan), count - 1


def _with_interval(
    value: float, parts: list[tuple[float, int]], level: float, images: int, labelled: int
) -> Mean:
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    variance = sum(part for part, _ in parts)
    if not math.isfinite(variance):
        return Mean(value, math.nan, math.nan, images, labelled)
    if variance == 0:
        return Mean(value, value, value, images, labelled)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return Mean(value, value - half, value + half, images, labelled)

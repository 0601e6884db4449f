"""Learning curves: how a score grows with the number of labelled images, and what more would give.

score(n) = a - b n^-c, the power law with an offset of Hestness et al. (arXiv:1712.00409) and
Mahmood et al. (CVPR 2022), who find it for learning curves of images. What the law leaves open is
part of the intervals: each sample draws the noise of images and seeds, and an exponent by its
likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Exponents that are tried; published curves of vision tasks have 0.1 to 1, see Hestness et al.
EXPONENTS = np.geomspace(0.1, 2.0, 40)
INTERVAL = (2.5, 97.5)  # percentiles: 95% of the samples lie between them
LEAST_NOISE = 1e-3  # standard deviation of a mean score that is assumed at least


@dataclass(frozen=True)
class Curve:
    """Scores by number of images: K numbers, S seeds, B bootstrap samples of the held-out images.

    `values` are over all held-out images, float64 (S, K); `samples`, float64 (B, K), are means over
    the seeds, each row over one draw of the images.
    """

    counts: np.ndarray  # float64 (K,), ascending
    values: np.ndarray
    samples: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """The mean over the seeds, float64 (K,)."""
        return self.values.mean(0)

    def first(self, number: int) -> Curve:
        """Return the curve of the `number` smallest counts alone."""
        return Curve(self.counts[:number], self.values[:, :number], self.samples[:, :number])


def noise_of_seeds(values: np.ndarray) -> np.ndarray:
    """Return the variance of a mean over S seeds at each of K counts, float64 (K,).

    `values` are (S, K), S at least 2. Each is pooled with its neighbours: a variance of three seeds
    alone says little.
    """
    own = values.var(0, ddof=1)
    padded = np.concatenate([own[:1], own, own[-1:]])
    pooled = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return np.maximum(pooled / len(values), LEAST_NOISE**2)


def drawn_laws(curve: Curve, seed: int = 0) -> np.ndarray:
    """Return (a, b, c) of one law for each bootstrap sample of a curve, float64 (B, 3).

    To each sample's means, the noise of the seeds is added (Student's t); a and b, within
    a <= 1 and b >= 0, follow by weighted least squares for each of `EXPONENTS`, and one exponent is
    drawn by its likelihood.
    """
    rng = np.random.default_rng(seed)
    means = with_seed_noise(curve, rng)
    centred = curve.samples - curve.samples.mean(1, keepdims=True)
    variance = noise_of_seeds(curve.values) + centred.var(0)
    a, b, misfit = _fits(curve.counts, means, 1 / variance)
    # Gumbel's trick draws in proportion to the likelihood, all rows at once.
    drawn = (-misfit / 2 + rng.gumbel(size=misfit.shape)).argmax(1)
    rows = np.arange(len(means))
    return np.column_stack([a[rows, drawn], b[rows, drawn], EXPONENTS[drawn]])


def with_seed_noise(curve: Curve, rng: np.random.Generator) -> np.ndarray:
    """Return the curve's samples with the noise of its seeds, float64 (B, K)."""
    freedom = 3 * (len(curve.values) - 1)  # of a pooled variance
    noise = rng.standard_t(freedom, curve.samples.shape)
    return curve.samples + noise * noise_of_seeds(curve.values) ** 0.5


def _fits(
    counts: np.ndarray, means: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a, b and the weighted sum of squares for each sample and exponent: float64 (B, E).

    `means` are (B, K), `weights` (K,).
    """
    falling = counts[None] ** -EXPONENTS[:, None]  # (E, K)
    total = weights.sum()
    x, y = falling @ weights / total, means @ weights / total
    spread = ((falling - x[:, None]) ** 2) @ weights  # (E,)
    both = (means - y[:, None]) @ ((falling - x[:, None]) * weights).T  # (B, E)
    b = np.maximum(-both / np.maximum(spread, 1e-300), 0)
    a = y[:, None] + b * x
    at_most_one = ((1 - means) @ (falling * weights).T) / ((falling**2) @ weights)
    b = np.where(a > 1, np.maximum(at_most_one, 0), b)
    a = np.minimum(a, 1)
    errors = means[:, None] - a[..., None] + b[..., None] * falling
    return a, b, (errors**2) @ weights


def scores_at(laws: np.ndarray, count: float) -> np.ndarray:
    """Return what each of the laws, (B, 3), says for a number of images, float64 (B,)."""
    a, b, c = laws.T
    return a - b * count**-c


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: np.ndarray) -> Estimate:
        """Return the median of samples and the interval that has 95% of them."""
        low, high = np.percentile(samples, INTERVAL)
        return cls(float(np.median(samples)), float(low), float(high))

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def gains(laws: np.ndarray, count: float, more: Sequence[int]) -> dict[int, Estimate]:
    """Return what so many `more` images than `count` would add to the score."""
    here = scores_at(laws, count)
    return {number: Estimate.of(scores_at(laws, count + number) - here) for number in more}


@dataclass(frozen=True)
class BackTest:
    """The score at all images, predicted from the smaller numbers, and measured."""

    predicted: Estimate
    measured: float

    @property
    def is_inside(self) -> bool:
        """Whether the interval has the measured score."""
        return self.predicted.low <= self.measured <= self.predicted.high


def back_test(curve: Curve, seed: int = 0) -> BackTest:
    """Predict a curve's last score from the others.

    Prediction and measurement are of the same held-out images and have seeds of their own: the
    interval is of their difference, over draws of images and seeds.
    """
    laws = drawn_laws(curve.first(len(curve.counts) - 1), seed)
    rng = np.random.default_rng([seed, 1])
    difference = scores_at(laws, curve.counts[-1]) - with_seed_noise(curve, rng)[:, -1]
    measured, found = float(curve.means[-1]), Estimate.of(difference)
    return BackTest(
        Estimate(measured + found.value, measured + found.low, measured + found.high), measured
    )

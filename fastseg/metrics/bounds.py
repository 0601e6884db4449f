"""Upper bounds of a mean error by a random sample, valid for any errors from 0 to 1 and any size.

The bound is by betting (Waudby-Smith and Ramdas, JRSS B 86 (2024), section 4 and, for samples
without replacement, section 5): a capital that bets on errors below what a mean m would give grows
beyond 1 / delta with probability at most delta if the mean is at least m (Ville's inequality).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 40  # of the bisection: the bound is exact to 2**-40, and rounded up


def mean_bound(errors: np.ndarray, population: int, delta: float) -> np.ndarray:
    """Return upper bounds of the mean error of a population, float64 (...).

    `errors`, float64 (..., n) from 0 to 1, are those of n images in the order in which they were
    drawn without replacement from `population` images. Each bound is below the population's mean
    with probability at most `delta`, for n that was decided before the errors were seen.

    The stake on image i is min(1, sqrt(2 log(1 / delta) / (n v))), v being the variance of the
    images before it with a prior of one image at 1/2: the article's predictable plug-in. At most 1,
    it is the same for all m, and the capital rises with m; the bound is where it reaches 1 / delta.
    """
    errors = np.asarray(errors, dtype=np.float64)
    count = errors.shape[-1]
    sums = errors.sum(-1)
    high = np.minimum((sums + population - count) / population, 1.0)
    if not count:
        return np.ones(errors.shape[:-1])
    low = sums / population  # a smaller mean is impossible
    before = np.cumsum(errors, -1) - errors
    left = population - np.arange(count)
    stakes = _stakes(errors, delta)
    for _ in range(STEPS):
        middle = (low + high) / 2
        # the mean of the images that are left, if the mean of all is `middle`
        expected = (population * middle[..., None] - before) / left
        with np.errstate(divide="ignore"):
            gains = np.log(np.maximum(1 + stakes * (expected - errors), 0))
        is_refuted = np.cumsum(gains, -1).max(-1) >= -np.log(delta)
        high, low = np.where(is_refuted, middle, high), np.where(is_refuted, low, middle)
    return high


def _stakes(errors: np.ndarray, delta: float) -> np.ndarray:
    count = errors.shape[-1]
    seen = np.arange(1, count + 1)
    means = (0.5 + np.cumsum(errors, -1)) / (seen + 1)
    variances = (0.25 + np.cumsum((errors - means) ** 2, -1)) / (seen + 1)
    first = np.full((*errors.shape[:-1], 1), 0.25)
    earlier = np.concatenate([first, variances[..., :-1]], -1)  # of the images before each
    return np.minimum(1.0, np.sqrt(-2 * np.log(delta) / (count * earlier)))


@dataclass(frozen=True)
class Certified:
    """The largest part of a population whose mean error is certified.

    `size` is the number of images in it, those of the smallest expected error; 0 if there is none.
    `bound` is an upper bound of its mean error, at the level that its test had.
    """

    size: int
    bound: float
    audited: int  # images of the sample that are in it


def certified_part(
    expected: np.ndarray, drawn: np.ndarray, errors: np.ndarray, limit: float, delta: float
) -> Certified:
    """Return the largest part whose mean error is at most `limit`, with confidence 1 - `delta`.

    `expected` are the expected errors of all images, (N,); `drawn` are the indices of the audited
    ones in the order of the draw, (n,), and `errors` what was found in them, (n,). The parts are
    those of the smallest expected errors, by tenths of the images. Several are tested, and the
    probability that any of those certified has a larger mean error is at most `delta`: by
    fixed-sequence tests with several starts (Angelopoulos et al., "Learn then test", 2021, section
    2.3). The starts are chosen by the expected errors alone, as if the audit found just these, and
    share `delta`; from each, the parts are tested upwards until one fails. The audited images of a
    part are a random sample of it, since the draw knows nothing of parts.
    """
    total = len(expected)
    ranks = np.empty(total, dtype=np.int64)
    ranks[np.argsort(expected, kind="stable")] = np.arange(total)
    sizes = sorted({-(-total * tenth // 10) for tenth in range(1, 11)})
    inside = [ranks[drawn] < size for size in sizes]
    foreseen = np.clip(expected[drawn], 0, 1)
    bounds = [
        float(mean_bound(foreseen[within], size, delta)) for size, within in zip(sizes, inside)
    ]
    starts = _starts(bounds, limit)
    found = Certified(0, 1.0, 0)
    for start in starts:
        for size, within in list(zip(sizes, inside))[start:]:
            bound = float(mean_bound(errors[within], size, delta / len(starts)))
            if bound > limit:
                break
            if size > found.size:
                found = Certified(size, bound, int(within.sum()))
    return found


def _starts(bounds: Sequence[float], limit: float) -> list[int]:
    """Return where to start: the largest part that is expected to pass, and the safest one."""
    passing = [i for i, bound in enumerate(bounds) if bound <= limit]
    safest = int(np.argmin(bounds))
    return sorted({safest, *passing[-1:]})

"""Split conformal intervals: how far a measure of a prediction may be from the truth.

Source: Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018. Scores are
absolute residuals of held-out images divided by a scale; the interval at a level has the half-width
score of rank ceil(level * (n + 1)) times the scale of the new prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What residuals are divided by: the image's size, the object's own size, or that times how
# uncertain the network is of the class. The one whose intervals are narrowest is used.
SCALES = ("image", "object", "uncertainty")
LEVEL = 0.9  # at which scales are compared, and the default of `measure`
# Images from which on the scale is chosen by their residuals. Below, "object" is taken: a choice by
# few residuals makes intervals too narrow (of 9 to 30 images, 90 % ones hold in 85 to 88 %).
FEWEST_TO_CHOOSE = 50
FEWEST_SCORES, MOST_SCORES = 20, 100  # that a card keeps for a measure: see `kept_scores`
DIGITS = 4  # significant ones of stored numbers
LEAST_UNCERTAINTY = 1e-3  # so that a scale is not 0


@dataclass(frozen=True)
class Residuals:
    """What held-out images say about one measure: true minus predicted value."""

    scale: str  # one of `SCALES`
    count: int  # residuals, of objects or images
    images: int  # that they come from
    labelled: int  # images that `bias` and `spread` come from
    bias: float  # mean over images of true minus predicted mean of the image, in px
    spread: float  # their standard deviation; 0 for one image
    scores: tuple[float, ...]  # ascending, of the ranks `_ranks(count, len(scores))`

    def half_width(self, level: float) -> float:
        """Return the half-width of the interval at a level, 0 to 1, in units of the scale.

        It is infinite where the images are too few for this level: objects of one image are alike,
        and do not stand for those of others.
        """
        if _rank(level, self.images) > self.images:
            return math.inf
        rank = min(_rank(level, self.count), self.count)
        ranks = _ranks(self.count, len(self.scores))
        return self.scores[int(np.searchsorted(ranks, rank))]

    def to_json(self) -> dict[str, Any]:
        """Return the values for a card, with the scores in one text."""
        return {
            "scale": self.scale,
            "count": self.count,
            "images": self.images,
            "labelled": self.labelled,
            "bias": _rounded(self.bias),
            "spread": _rounded(self.spread),
            "scores": " ".join(f"{score:.{DIGITS}g}" for score in self.scores),
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Residuals:
        """Return what `to_json` was given; `exports.card` checks the values of cards."""
        scores = tuple(map(float, values["scores"].split()))
        # cards written before `labelled` was known rectify no means
        return Residuals(**{"labelled": 0, **values, "scores": scores})


def scales_of(
    power: int, length: np.ndarray, size: np.ndarray, uncertainty: np.ndarray
) -> np.ndarray:
    """Return what residuals of a measure are divided by, float64 (n, 3), in the order of `SCALES`.

    `power` is that of px in the measure's unit, `length` the side of a square of the image's area,
    `size` the object's own length, all in px, (n,); `uncertainty` is without unit.
    """
    sure = np.maximum(uncertainty, LEAST_UNCERTAINTY)
    own = np.asarray(size, dtype=np.float64) ** power
    return np.stack([np.asarray(length, dtype=np.float64) ** power, own, own * sure], axis=1)


def residuals_of(
    residuals: np.ndarray,
    scales: np.ndarray,
    images: np.ndarray,
    differences: Sequence[float] = (),
    kept: int = MOST_SCORES,
) -> Residuals | None:
    """Return the summary of residuals (n,), scales (n, 3) and the number of each one's image (n,).

    `differences` are true minus predicted mean of each image, of all its objects. Of the
    scales, the one is chosen whose intervals at `LEVEL` have the smallest mean width. At most
    `kept` scores are stored. Without residuals, None is returned.
    """
    usable = np.isfinite(residuals) & np.isfinite(scales).all(axis=1) & (scales > 0).all(axis=1)
    residuals, scales, images = residuals[usable], scales[usable], images[usable]
    count = len(residuals)
    if not count:
        return None
    scores = np.sort(np.abs(residuals)[:, None] / scales, axis=0)
    number = len(np.unique(images))
    best = SCALES.index("object")
    if number >= FEWEST_TO_CHOOSE:
        rank = min(_rank(LEVEL, count), count)
        best = int((scores[rank - 1] * scales.mean(axis=0)).argmin())
    means = np.array([value for value in differences if math.isfinite(value)])
    return Residuals(
        SCALES[best],
        count,
        number,
        len(means),
        float(means.mean()) if len(means) else 0.0,
        float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        tuple(_rounded_up(scores[_ranks(count, min(kept, count)) - 1, best])),
    )


def _rank(level: float, count: int) -> int:
    """Return the rank of the score that a level needs; above `count`, there is none."""
    return math.ceil(level * (count + 1) - 1e-9)


def kept_scores(classes: int) -> int:
    """Return how many scores of each measure a card keeps, so that cards of many classes stay
    small.
    """
    return max(FEWEST_SCORES, min(MOST_SCORES, 1000 // classes))


def _ranks(count: int, stored: int) -> np.ndarray:
    """Return the ranks, from 1 to `count`, of the stored scores: evenly spaced, the last one in."""
    return np.ceil(np.arange(1, stored + 1) * (count / stored) - 1e-9).astype(int)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded_up(values: np.ndarray) -> Sequence[float]:
    """Return values that are not smaller when `DIGITS` of them are written: ties stay inside."""
    return [float(f"{value * (1 + 6 * 10.0**-DIGITS):.{DIGITS}g}") for value in values]

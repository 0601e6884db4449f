"""Labels that the model contradicts with confidence: images ranked by cleanlab, and in each the most suspect region."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..types import IGNORE

with (
    warnings.catch_warnings()
):  # here, not where it is used: threads that import it at once can lock each other out
    warnings.simplefilter("ignore")
    from cleanlab.rank import get_label_quality_scores as class_quality
    from cleanlab.segmentation.rank import get_label_quality_scores as mask_quality

CONFIDENT = 0.5  # by which the predicted class's probability must exceed the labelled one's for a pixel to be suspect
SPARE = 0.002  # share of an image's pixels that may be suspect where there is no foreground: a few of them prove nothing


@dataclass(frozen=True)
class Suspicion:
    """How suspect an image's label is. `quality` is from 0, surely wrong, to 1; without a region, `box` is None."""

    quality: float
    labelled: str = ""
    predicted: str = ""
    pixels: int = 0
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom in px of the image


def of_image(
    probabilities: np.ndarray,
    label: np.ndarray | int,
    classes: tuple[str, ...],
    background: int | None = None,
) -> Suspicion:
    """Judge one image's label by out-of-sample probabilities, float (C, H, W) or (C,).

    Quality is cleanlab's: the probability of the label (Northcutt et al., JAIR 2021), for masks the soft minimum of it over
    the pixels (Lad and Mueller 2023, arXiv:2307.05080), times the soft Dice of the whole foreground (see `_agreement`), which
    finds shifted and emptied masks that a model has half learnt. The region is the largest connected one where another class
    is more probable than the labelled one by `CONFIDENT`. Unlabelled pixels are never suspect.
    """
    if probabilities.ndim == 1:
        quality = float(class_quality(np.array([label]), probabilities[None].astype(np.float64))[0])
        said = int(probabilities.argmax())
        return Suspicion(quality, classes[label], classes[said] if said != label else "")
    codes = probabilities.argmax(0)
    known = label != IGNORE
    truth = np.where(known, label, codes).astype(np.int64)
    certain = np.where(known[None], probabilities, np.arange(len(classes))[:, None, None] == truth)
    scores, own = mask_quality(truth[None], certain[None], verbose=False)
    regions, count = ndimage.label((codes != truth) & (certain.max(0) - own[0] > CONFIDENT))
    quality = float(scores[0]) * _agreement(certain, truth, background)
    if not count:
        return Suspicion(quality)
    largest = int(np.bincount(regions.reshape(-1))[1:].argmax()) + 1
    rows, columns = ndimage.find_objects(regions)[largest - 1]
    inside = regions == largest
    return Suspicion(
        quality,
        classes[_commonest(truth[inside])],
        classes[_commonest(codes[inside])],
        int(inside.sum()),
        (columns.start, rows.start, columns.stop, rows.stop),
    )


def _agreement(probabilities: np.ndarray, truth: np.ndarray, background: int | None) -> float:
    """Return 2 sum(p of the foreground where it is labelled) / (sum of that p everywhere + labelled pixels), as in V-Net's Dice loss
    (Milletari et al. 2016), both sides raised by `SPARE` of the pixels: where label and model see no foreground, they agree."""
    if background is None:
        return 1.0
    foreground, labelled, spare = (
        1 - probabilities[background],
        truth != background,
        SPARE * truth.size,
    )
    return float(
        (2 * foreground[labelled].sum() + spare) / (foreground.sum() + labelled.sum() + spare)
    )


def _commonest(codes: np.ndarray) -> int:
    return int(np.bincount(codes).argmax())

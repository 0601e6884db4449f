"""Labels that the model contradicts with confidence: images ranked by cleanlab, and in each the region most in doubt."""
from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .masks import IGNORE

CONFIDENT = 0.5  # by which the predicted class's probability must exceed the labelled one's for a pixel to be in doubt


@dataclass(frozen=True)
class Suspicion:
    """How far an image's label is in doubt. `quality` is from 0, surely wrong, to 1; without a region, `box` is None."""

    quality: float
    labelled: str = ""
    predicted: str = ""
    pixels: int = 0
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom in px of the image


def of_image(probabilities: np.ndarray, label: np.ndarray | int, classes: tuple[str, ...]) -> Suspicion:
    """Judge one image's label by out-of-sample probabilities, float (C, H, W) or (C,).

    Quality is cleanlab's: the probability of the label (Northcutt et al., JAIR 2021), for masks the soft minimum of it over
    the pixels (Lad and Mueller 2023, arXiv:2307.05080). The region is the largest connected one where another class is
    more probable than the labelled one by `CONFIDENT`. Unlabelled pixels are in no doubt.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab.rank import get_label_quality_scores as class_quality
        from cleanlab.segmentation.rank import get_label_quality_scores as mask_quality
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
    if not count:
        return Suspicion(float(scores[0]))
    largest = int(np.bincount(regions.reshape(-1))[1:].argmax()) + 1
    rows, columns = ndimage.find_objects(regions)[largest - 1]
    inside = regions == largest
    return Suspicion(float(scores[0]), classes[_commonest(truth[inside])], classes[_commonest(codes[inside])], int(inside.sum()),
                     (columns.start, rows.start, columns.stop, rows.stop))


def _commonest(codes: np.ndarray) -> int:
    return int(np.bincount(codes).argmax())

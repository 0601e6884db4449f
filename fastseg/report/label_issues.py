"""Labels that the model contradicts: images ranked by cleanlab, and the most suspect region of
each.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..types import IGNORE

# Imported at the top: threads that import it at the same time can deadlock.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cleanlab.rank import get_label_quality_scores as class_quality
    from cleanlab.segmentation.rank import get_label_quality_scores as mask_quality

# A pixel is suspect if the predicted class's probability exceeds the labelled one's by this: a
# convention.
CONFIDENT = 0.5
# Share of an image's pixels that may be suspect if there is no foreground: a few of them prove
# nothing. A convention.
SPARE = 0.002


@dataclass(frozen=True)
class Suspicion:
    """How suspect an image's label is.

    `quality` is from 0, surely wrong, to 1. Without a suspect region, `box` is None. `pixels` are
    those of the region that are `labelled` and `predicted` so; a region may hold other classes too.
    """

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

    Quality is cleanlab's: the probability of the label (Northcutt et al., JAIR 2021), for masks the
    soft minimum of it over the pixels (Lad and Mueller 2023, arXiv:2307.05080), times the soft Dice
    of the foreground (see `_agreement`), which finds shifted and emptied masks that a model has
    partly learnt. The region is the largest connected one where another class is more probable
    than the labelled one by `CONFIDENT`. Unlabelled pixels are never suspect.
    """
    if probabilities.ndim == 1:
        label = int(label)
        quality = float(class_quality(np.array([label]), probabilities[None].astype(np.float64))[0])
        said = int(probabilities.argmax())
        return Suspicion(quality, classes[label], classes[said] if said != label else "")
    codes = probabilities.argmax(0)
    known = np.asarray(label) != IGNORE
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
    pairs = np.bincount(truth[inside] * len(classes) + codes[inside])
    labelled, predicted = divmod(int(pairs.argmax()), len(classes))
    return Suspicion(
        quality,
        classes[labelled],
        classes[predicted],
        int(pairs.max()),
        (columns.start, rows.start, columns.stop, rows.stop),
    )


def _agreement(probabilities: np.ndarray, truth: np.ndarray, background: int | None) -> float:
    """Return the soft Dice of foreground probabilities and labels, as in V-Net (Milletari et al.
    2016).

    That is 2 sum(p of the foreground where it is labelled) / (sum of that p everywhere + labelled
    pixels). `SPARE` of the pixels is added to both: without any foreground, label and model agree.
    """
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

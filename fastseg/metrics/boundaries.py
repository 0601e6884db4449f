"""Distances between the outlines of predicted and true regions, in px of the original image."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from ..types import IGNORE

TOLERANCE = 2.0  # px; outlines closer than this match. A convention, named in reports
COLUMNS = ("met_predicted", "predicted", "met_true", "true", "hausdorff95", "mean_distance")


def outlines(codes: np.ndarray) -> np.ndarray:
    """Return the outline pixels, bool (H, W), of all regions.

    One of their four neighbours has another code, or is outside the image.
    """
    framed = np.pad(codes.astype(np.int16), 1, constant_values=-1)
    inner = framed[1:-1, 1:-1]
    return (
        (inner != framed[:-2, 1:-1])
        | (inner != framed[2:, 1:-1])
        | (inner != framed[1:-1, :-2])
        | (inner != framed[1:-1, 2:])
    )


def distances(
    truth: np.ndarray, predicted: np.ndarray, classes: int, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Return one row a class, float64 (C, 6), with the `COLUMNS` of one image.

    `truth` and `predicted` are codes (H, W). First come counts of outline pixels: of the predicted
    ones, how many are within `tolerance` px of the true outline, and how many there are; of the
    true ones likewise. Boundary precision, recall and F1 (Csurka et al., BMVC 2013) follow from
    them. Then, in px, the 95th percentile Hausdorff distance (the larger one of both directions)
    and the mean distance over both outlines (average symmetric surface distance; Heimann et al.,
    IEEE TMI 2009): nan unless both have the class. Pixels next to unlabelled ones (255) belong to
    no outline: the truth does not say where its regions end there.
    """
    ignored = truth == IGNORE
    known = ~binary_dilation(ignored, np.ones((3, 3))) if ignored.any() else True
    edges = [outlines(codes) & known for codes in (predicted, truth)]
    rows = np.zeros((classes, len(COLUMNS)))
    rows[:, 4:] = np.nan
    for number in range(classes):
        sides = [
            np.argwhere((codes == number) & edge) for codes, edge in zip((predicted, truth), edges)
        ]
        rows[number, 1], rows[number, 3] = map(len, sides)
        if not all(map(len, sides)):
            continue
        apart = [cKDTree(there).query(here)[0] for here, there in (sides, sides[::-1])]
        rows[number, 0], rows[number, 2] = ((d <= tolerance).sum() for d in apart)
        rows[number, 4] = max(np.percentile(d, 95) for d in apart)
        rows[number, 5] = np.concatenate(apart).mean()
    return rows

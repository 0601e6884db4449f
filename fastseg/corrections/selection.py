"""Orders of images by what an export sees in them: pure functions of arrays, all deterministic."""

from __future__ import annotations

import numpy as np

from .looks import Looks

POOL = 3  # "mixed" chooses among so many times the images asked for, those of the largest error
CHUNK = 4096  # rows whose distances are computed at a time


def by_error(looks: Looks) -> np.ndarray:
    """Return the images' indices, largest expected error first."""
    return np.argsort(-looks.errors, kind="stable")


def by_rarity(looks: Looks, background: int | None, common: np.ndarray | None = None) -> np.ndarray:
    """Return the images' indices, those with most of rare classes first, see `rarity`."""
    return np.argsort(-rarity(looks.shares, background, common), kind="stable")


def rarity(
    shares: np.ndarray, background: int | None, common: np.ndarray | None = None
) -> np.ndarray:
    """Return how much of rare classes each image has by its prediction, float64 (N,).

    Of each foreground class: the predicted share (N, C), divided by the class's mean share, (C,),
    in `common` (the labels so far) or in all these predictions; then the mean over the classes. A
    class that no prediction shows counts nothing.
    """
    usual = shares.mean(0) if common is None else common
    classes = [c for c in range(shares.shape[1]) if c != background and shares[:, c].any()]
    if not classes:
        return np.zeros(len(shares))
    # A class without any label so far is as rare as the rarest one with labels.
    least = min((usual[c] for c in classes if usual[c] > 0), default=1.0)
    return (shares[:, classes] / np.maximum(usual[classes], least)).mean(1).astype(np.float64)


def by_diversity(features: np.ndarray, n: int, centres: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of `n` images, (n,), each farthest from all before it and from `centres`.

    k-centre greedy over `features`, float32 (N, K), given those of the labelled images (M, K):
    Sener and Savarese, ICLR 2018, algorithm 1. Without centres, the first one is the image nearest
    to the mean. Takes O(n N K) time and O(N) memory beside the features.
    """
    n = min(n, len(features))
    if not n:
        return np.zeros(0, dtype=np.int64)
    chosen: list[int] = []
    if centres is None or not len(centres):
        chosen.append(int(_distances(features, features.mean(0, keepdims=True)).argmin()))
        nearest = _distances(features, features[chosen])
    else:
        nearest = _distances(features, centres)
    nearest[chosen] = -1
    while len(chosen) < n:
        farthest = int(nearest.argmax())
        chosen.append(farthest)
        np.minimum(nearest, _distances(features, features[[farthest]]), out=nearest)
        nearest[chosen] = -1  # copies of one image, at a distance of 0, are chosen once each
    return np.array(chosen, dtype=np.int64)


def by_error_and_diversity(looks: Looks, n: int, centres: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of `n` images: k-centre among the `POOL * n` with the largest errors.

    Yang et al., MICCAI 2017 ("Suggestive annotation"), choose in these two steps.
    """
    pool = by_error(looks)[: POOL * n]
    return pool[by_diversity(looks.features[pool], n, centres)]


def at_random(count: int, seed: int) -> np.ndarray:
    """Return the images' indices in a random order, the same for the same seed."""
    return np.random.default_rng(seed).permutation(count)


def _distances(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the squared distance of each row of `features` to the nearest of `centres`, (N,)."""
    found = np.empty(len(features))
    of_centres = (centres**2).sum(1)
    for start in range(0, len(features), CHUNK):
        rows = features[start : start + CHUNK]
        products = rows @ centres.T
        found[start : start + CHUNK] = ((rows**2).sum(1)[:, None] + of_centres - 2 * products).min(
            1
        )
    return np.maximum(found, 0)

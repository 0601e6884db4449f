"""Large photographs in overlapping tiles of the model's size, blended without visible seams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..metrics.calibration import softmax

# Weight of the tiles relative to the complete image: they decide where it is uncertain. On 9 rooms,
# tiles alone cost 0.15 Dice; tiles with this weight cost nothing.
DETAIL = 0.25
BATCH = 1  # tiles at a time: memory for one image is enough
# Most tiles per side: a model still recognises objects twice as large as in training; smaller
# tiles show little more than texture.
FINEST = 2


def tiles_for(own: tuple[int, int], size: tuple[int, int]) -> int:
    """Return the number of tiles a side for a photograph of `own` (height, width), for a model of
    `size`.

    It is 1 (no tiles) unless both sides are at least four times the model's.
    """
    return max(1, min(FINEST, int(min(own[0] / size[0], own[1] / size[1]) / 2)))


def tiled(
    logits: Callable[[np.ndarray], np.ndarray], image: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return probabilities, float32 (C, H, W), of an image, uint8 (H, W, K).

    The image's sides are multiples of `size`. `logits` gives float32 (B, C, h, w) for tiles, uint8
    (B, h, w, K), of `size`. Tiles overlap by half; their probabilities are averaged with the
    weights of a Hann window, which is 0 at a tile's borders, where predictions are worst.
    """
    starts = [
        np.linspace(0, have - want, 2 * (have // want) - 1).round().astype(int)
        for have, want in zip(image.shape, size)
    ]
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 + 1e-3 for side in size)
    window = np.outer(rows, columns).astype(np.float32)
    total: np.ndarray | None = None
    weights = np.zeros(image.shape[:2], dtype=np.float32)
    for first in range(0, len(corners), BATCH):
        batch = corners[first : first + BATCH]
        tiles = np.stack([image[y : y + size[0], x : x + size[1]] for y, x in batch])
        for (y, x), probabilities in zip(batch, softmax(logits(tiles), 1)):
            if total is None:
                total = np.zeros((len(probabilities), *image.shape[:2]), dtype=np.float32)
            total[:, y : y + size[0], x : x + size[1]] += probabilities * window
            weights[y : y + size[0], x : x + size[1]] += window
    assert total is not None  # an image has at least one tile
    return np.divide(total, weights, out=total)

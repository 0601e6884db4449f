"""Temporal smoothing of a video's logits, so that masks do not flicker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..video.decoding import Frame
from .prediction import Prediction

MOST = 16  # frames on each side that count: memory is limited at any frame rate
Result = tuple[Frame, Prediction]


def smoothed(results: Iterable[Result], seconds: float, tick: float) -> Iterator[Result]:
    """Yield frames with predictions of weighted means of logits, those of the frame and its
    neighbours in time.

    A frame's weight falls linearly with its distance in time, to 0 at `seconds`. Frames before and
    after count alike, so that masks do not lag behind what moves. `tick` is the length of a tick of
    the frames in seconds.
    """
    past: deque[tuple[int, np.ndarray]] = deque(maxlen=MOST)
    waiting: deque[Result] = deque()

    def first() -> Result:
        frame, prediction = waiting.popleft()
        near = [*past, *((f.ticks, p.logits) for f, p in list(waiting)[:MOST])]
        past.append((frame.ticks, prediction.logits))
        logits = _mean(prediction.logits, frame.ticks, near, seconds / tick)
        return frame, replace(prediction, logits=logits)

    for result in results:
        waiting.append(result)
        while (waiting[-1][0].ticks - waiting[0][0].ticks) * tick >= seconds or len(waiting) > MOST:
            yield first()
    while waiting:
        yield first()


def _mean(
    own: np.ndarray, ticks: int, near: Iterable[tuple[int, np.ndarray]], reach: float
) -> np.ndarray:
    """Return the weighted mean of a frame's own logits and those of others."""
    total, weights = own.copy(), 1.0
    for other, logits in near:
        weight = 1 - abs(other - ticks) / reach
        if weight > 0:
            total += np.float32(weight) * logits
            weights += weight
    return total / np.float32(weights)

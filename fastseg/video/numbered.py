"""Numbered images as a video, read as `predict` reads images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from ..data import channels
from ..data.reading import Reading
from ..errors import DataError
from .decoding import RATE, Video


class Numbered(Video):
    """The images of a sequence, such as frames/%05d.png: its `files`, in order."""

    time_base = Fraction(1, RATE)

    def __init__(self, source: str, files: Sequence[Path], reading: Reading):
        super().__init__(source)
        self.files, self.count = files, len(files)
        self._reading = reading

    def close(self) -> None:
        """No file stays open between two frames."""

    def _decoded(self) -> Iterator[tuple[int, tuple[int, int], Callable[[], np.ndarray]]]:
        for number, file in enumerate(self.files):
            try:
                pixels = channels.read(file, self._reading)
            except DataError as error:
                self.error = error
                return
            yield number, (pixels.shape[0], pixels.shape[1]), partial(np.asarray, pixels)

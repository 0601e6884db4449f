"""One pass over images or masks: rows of each, and pictures of the first ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.images import save_image
from ..data.reading import stem_of
from ..tasks import SegmentationTask
from ..utils.progress import track
from .calibration import uncertainty_of
from .inputs import require_size
from .results import PICTURES
from .rows import Row, Ruler

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .measures import Spacing


@dataclass
class Pass:
    """One pass over the files, which gathers the rows and writes the pictures."""

    task: SegmentationTask
    ruler: Ruler
    files: Sequence[Path]
    spacings: Sequence[Spacing | None]
    group_of: Callable[[Path], str]
    truths: Mapping[Path, Path]
    pictures: int | None
    folder: Path
    rows: list[Row] = field(default_factory=list)
    between: list[Row] = field(default_factory=list)
    true: list[Row] = field(default_factory=list)  # of true masks, measures and those between
    pictured: list[str] = field(default_factory=list)

    def measure(self, predictor: Predictor | None, bs: int) -> None:
        """Measure the files: predictions, or without a predictor, the masks that they are.

        Raises `DataError` for the first one that cannot be read.
        """
        for rows, between, true in self._results(predictor, bs):
            self.rows += rows
            self.between += between
            self.true += true

    def _results(
        self, predictor: Predictor | None, bs: int
    ) -> Iterator[tuple[list[Row], list[Row], list[Row]]]:
        numbers = {file: number for number, file in enumerate(self.files)}
        if predictor is None:
            found = (
                self._image(number, self.task.decode(file), None, None)
                for file, number in numbers.items()
            )
        else:

            def finish(file: Path, prediction: Prediction) -> tuple[Any, Any, Any]:
                return self._image(
                    numbers[file],
                    prediction.labels,
                    prediction.image,
                    uncertainty_of(prediction),
                )

            found = (result for _, result in predictor.stream_or_raise(self.files, bs, finish))
        yield from track(found, "measuring", len(self.files))

    def _image(
        self,
        number: int,
        codes: np.ndarray,
        pixels: np.ndarray | None,
        uncertainty: np.ndarray | None,
    ) -> tuple[list[Row], list[Row], list[Row]]:
        file, spacing = self.files[number], self.spacings[number]
        rows, between = self.ruler.rows(str(file), codes, pixels, spacing, uncertainty)
        true: list[Row] = []
        if file in self.truths:
            mask = self.task.decode(self.truths[file])
            require_size(self.truths[file], mask, codes)
            plain = replace(self.ruler, intervals=None)
            true = [row for part in plain.rows(str(file), mask, pixels, spacing) for row in part]
        for row in (*rows, *between, *true):
            row.group = self.group_of(file)
        if self.pictures is None or number < self.pictures:
            from .drawing import ellipses

            name = f"{number + 1:04d}_{stem_of(file, self.task.channel_files)}.jpg"
            save_image(self.folder / PICTURES / name, ellipses(self.task, rows, codes, pixels))
            self.pictured.append(f"{PICTURES}/{name}")
        return rows, between, true

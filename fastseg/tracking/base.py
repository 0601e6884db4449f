"""What a tracker is: one run of it is opened, gets rows, pictures and files, and is closed.

fastai's callbacks are not used. Its TensorBoard callback predicts a batch of its own after each
epoch, in the first process alone, where several processes wait for each other (fastai/fastai#3845),
and that draws random numbers; it opens one run for each stage of a training. Its W&B callback shows
batches by fastai's types of images. Both know neither the evaluation nor the export, and for MLflow
and Trackio there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Setting = bool | int | float | str
State = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Row:
    """Figures after so many training batches; those of an `epoch`, from 1, have its number."""

    values: Mapping[str, float]
    step: int
    epoch: int | None = None


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a fit before it begins."""

    project: str  # the task's name
    name: str  # the export's name, or setting and seed in a study
    group: str  # the study's name; empty without one
    folder: Path  # absolute; where runs are written, unless the tracker's own settings say where
    config: Mapping[str, Setting]
    id: str = ""  # what `start` returned, of the interrupted run to continue


class Tracker(ABC):
    """One run of a tracker. Its methods are called from one thread, and may raise anything."""

    def __init__(self, run: Run):
        """Import the package; nothing is written and nothing is sent."""
        self.run = run

    @abstractmethod
    def start(self) -> str:
        """Open the run, or the one with `run.id` again, and return by what it is found again."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the run is written to, for people."""

    @abstractmethod
    def log(self, rows: Sequence[Row]) -> None:
        """Add figures, in the order of their steps."""

    @abstractmethod
    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """Add the final figures, after `step` batches."""

    @abstractmethod
    def show(self, name: str, picture: Path, step: int) -> None:
        """Add a PNG file."""

    @abstractmethod
    def keep(self, name: str, files: Sequence[Path]) -> None:
        """Add the files of an export."""

    @abstractmethod
    def finish(self, state: State) -> None:
        """Close the run; one that is interrupted may be continued."""

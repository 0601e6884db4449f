"""TensorBoard: event files in FOLDER/tensorboard/TASK/EXPORT."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from .base import Row, Run, State, Tracker
from .figures import file_sums

FLUSH_SECONDS = 10  # after which TensorBoard can show what was logged


class TensorBoard(Tracker):
    """Event files by torch's writer. A run is found again by its folder."""

    def __init__(self, run: Run):
        super().__init__(run)
        from torch.utils.tensorboard import SummaryWriter

        self.writer_class = SummaryWriter
        self.writer: SummaryWriter | None = None

    def start(self) -> str:
        if self.run.id:
            self.folder = Path(self.run.id)
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.run.id  # `log` knows at which step it continues
        self.folder = _new_folder(
            self.run.folder / "tensorboard" / self.run.project / self.run.group, self.run.name
        )
        writer = self._open(None)
        writer.add_text("config", _table(self.run.config), 0)
        return str(self.folder)

    @property
    def place(self) -> str:
        return f"{self.folder}; look: tensorboard --logdir {self.run.folder / 'tensorboard'}"

    def _open(self, first: int | None):  # type: ignore[no-untyped-def]  # torch's writer
        """Return the writer. `first` is the first step of a run that continues.

        TensorBoard then hides that and later steps of the earlier event files.
        """
        if self.writer is None:
            self.writer = self.writer_class(
                str(self.folder), purge_step=first, flush_secs=FLUSH_SECONDS
            )
        return self.writer

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            writer = self._open(row.step)
            at = row.step if row.epoch is None else row.epoch
            for name, value in row.values.items():
                writer.add_scalar(name, value, at)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        writer = self._open(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.add_text("figures", _table(values), step)
        # The page HPARAMS compares runs by these; `add_hparams` would write them as another run.
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(dict(self.run.config), dict(values)):
            writer.file_writer.add_summary(part)

    def show(self, name: str, picture: Path, step: int) -> None:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._open(step).add_image(name, pixels, step, dataformats="HWC")

    def keep(self, name: str, files: Sequence[Path]) -> None:
        """Write the files' SHA-256: TensorBoard keeps no files."""
        self._open(None).add_text(f"export {name}", _table(file_sums(files)), 0)

    def finish(self, state: State) -> None:
        self._open(None).close()


def _new_folder(parent: Path, name: str) -> Path:
    """Create and return PARENT/NAME; runs of one folder would be drawn as one line."""
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            os.makedirs(folder)
        except FileExistsError:
            continue
        break
    return folder


def _table(values: Mapping[str, object]) -> str:
    """Return a table in Markdown."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"| | |\n|---|---|\n{rows}"

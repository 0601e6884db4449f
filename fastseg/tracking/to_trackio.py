"""Trackio: an SQLite file in FOLDER/trackio, or where its own environment variables say.

No server is started: `trackio show` is the user's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Row, Run, State, Tracker

log = logging.getLogger(__name__)


class Trackio(Tracker):
    """A run of the `trackio` package."""

    def __init__(self, run: Run):
        super().__init__(run)
        # It is read when the package is imported.
        os.environ.setdefault("TRACKIO_DIR", str(run.folder / "trackio"))
        import trackio
        import trackio.run
        import trackio.utils

        self.trackio = trackio
        self.is_local = not any(map(os.environ.get, ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")))
        for module in (trackio, trackio.run, trackio.utils):
            module.print = _print  # standard output has the result of the fit
        if self.is_local:  # it would ask the hub for the user's name, for a column of its table
            trackio.run._get_default_namespace = _no_name

    def start(self) -> str:
        self.opened: Any = self.trackio.init(
            project=self.run.project,
            name=self.run.name,
            group=self.run.group or None,
            config=dict(self.run.config),
            resume="allow" if self.run.id else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return str(self.opened.id)

    @property
    def place(self) -> str:
        if not self.is_local:
            return "the server of TRACKIO_SPACE_ID or TRACKIO_SERVER_URL"
        folder = os.environ["TRACKIO_DIR"]
        return f"{folder}; look: TRACKIO_DIR={folder} trackio show"

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            epoch = {} if row.epoch is None else {"epoch": row.epoch}
            self.opened.log({**row.values, **epoch}, step=row.step)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        self.opened.log(dict(values), step=step)

    def show(self, name: str, picture: Path, step: int) -> None:
        self.opened.log({name: self.trackio.Image(picture)}, step=step)

    def keep(self, name: str, files: Sequence[Path]) -> None:
        artifact = self.trackio.Artifact(name, type="model")
        for file in files:
            artifact.add_file(file, file.name)
        self.opened.log_artifact(artifact)

    def finish(self, state: State) -> None:
        self.opened.finish()


def _print(*values: object, **_: object) -> None:
    log.debug("%s", " ".join(map(str, values)))


def _no_name() -> None:
    return None

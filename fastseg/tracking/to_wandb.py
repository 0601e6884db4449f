"""Weights & Biases: a run in FOLDER/wandb, which is sent only if WANDB_MODE is "online".

`wandb sync` sends what was written offline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Row, Run, State, Tracker

EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 130}


class WeightsAndBiases(Tracker):
    """A run of the `wandb` package, whose environment variables come first."""

    def __init__(self, run: Run):
        super().__init__(run)
        # Copies of an export's files, which `wandb sync` sends; by default in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str(run.folder / "wandb"))
        import wandb

        self.wandb = wandb
        self.mode = os.environ.get("WANDB_MODE", "offline")

    def start(self) -> str:
        # By itself, wandb would ask for the key at the terminal, and wait.
        if self.mode in ("online", "run") and not self.wandb.login(prompt=False):
            raise RuntimeError("not logged in; log in with: wandb login")
        given = os.environ.get
        folder = given("WANDB_DIR") or str(self.run.folder)
        os.makedirs(folder, exist_ok=True)
        self.opened: Any = self.wandb.init(
            project=given("WANDB_PROJECT") or self.run.project,
            name=given("WANDB_NAME") or self.run.name,
            group=given("WANDB_RUN_GROUP") or self.run.group or None,
            dir=folder,
            id=self.run.id or None,
            resume="allow" if self.run.id else None,
            mode=self.mode,
            config=dict(self.run.config),
            reinit="create_new",
            # The terminal is the fit's; wandb would send what is printed there.
            settings=self.wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self.opened.define_metric("step")
        self.opened.define_metric("epoch")
        self.opened.define_metric("*", step_metric="step")
        return str(self.opened.id)

    @property
    def place(self) -> str:
        if self.mode == "offline":
            folder = Path(self.opened.dir).parent
            return f"{folder}; nothing is sent; send it: wandb sync {folder}"
        return str(self.opened.url or self.mode)

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            epoch = {} if row.epoch is None else {"epoch": row.epoch}
            self.opened.log({**row.values, **epoch, "step": row.step})

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        self.opened.summary.update(dict(values))

    def show(self, name: str, picture: Path, step: int) -> None:
        self.opened.log({name: self.wandb.Image(str(picture)), "step": step})

    def keep(self, name: str, files: Sequence[Path]) -> None:
        artifact = self.wandb.Artifact(name, type="model")
        for file in files:
            artifact.add_file(str(file), file.name)
        self.opened.log_artifact(artifact)

    def finish(self, state: State) -> None:
        self.opened.finish(exit_code=EXIT_CODES[state])
        self.wandb.teardown()  # waits for its process: some fits end by `os._exit`

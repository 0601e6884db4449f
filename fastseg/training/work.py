"""What workers of an engine need: a task that arrives as it was sent, and silence."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..errors import DataError, TaskError
from ..learners.options import with_absolute_paths
from ..tasks import Task, get
from ..utils import progress


@dataclass(frozen=True)
class SentTask:
    """A task and its folder, which its pickle leaves out."""

    task: Task
    home: Path | None
    is_apart: bool  # whether workers are other processes

    @classmethod
    def to(cls, engine: Engine, task: Task) -> SentTask:
        """Return what workers get. Raises `TaskError` if they would get another task."""
        if not engine.is_here and not task.declared:
            _require_known(task)
        home = None if task.home is None else Path(os.path.abspath(task.home))
        return cls(task, home, not engine.is_here)

    def received(self) -> Task:
        """Return the task in a worker, which shows nothing from now on if it is one of many."""
        if not self.is_apart:
            return self.task
        progress.hide()
        logging.getLogger("fastseg").setLevel(logging.ERROR)  # the warnings of many at once
        return replace(self.task, home=self.home)


def _require_known(task: Task) -> None:
    """Raise `TaskError` unless other processes find the same task under its name."""
    try:
        known = get(task.name).definition() == task.definition()
    except TaskError:
        known = False
    if not known:
        raise TaskError(
            f"task {task.name} was made or changed in Python, and other processes cannot import "
            "it: write a task.toml, or a file in FASTSEG_TASKS, or leave out --workers and "
            "--engine",
            "task-in-script",
        )


def no_foreground(place: Path | str, images: str, task: Task) -> DataError:
    """Return the error for images by which nothing can be compared."""
    return DataError(
        f"{place}: {images} have no {task.main_figure}, since they show no foreground; give data "
        "whose part has some",
        "no-foreground",
    )


def sent_options(engine: Engine, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a fit for workers, whose current folder may be another one."""
    return dict(options) if engine.is_here else with_absolute_paths(options)

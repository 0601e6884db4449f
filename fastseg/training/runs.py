"""Runs of a study or a comparison: fits of settings with seeds, side by side on an engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..errors import FastsegError, ModelError
from ..exports.card import CARD, is_unfinished, read_card
from ..tasks import Task
from ..tracking.grouping import Group, placed
from .fit import fit
from .work import SentTask, sent_options

log = logging.getLogger(__name__)

Setting = dict[str, Any]
Run = tuple[str, int]  # the name of a setting, and a seed


def check_seeds(seeds: int) -> None:
    """Raise `ModelError` for a number of seeds that trains nothing."""
    if seeds < 1:
        raise ModelError(f"--seeds {seeds} trains nothing; give at least 1", "no-seeds")


def train_runs(
    task: Task,
    data: Path | str | None,
    settings: Mapping[str, Setting],
    runs: Mapping[Run, Path],
    options: Mapping[str, Any],
    engine: Engine,
    group: Group | None = None,
) -> dict[str, str]:
    """Train what is not trained yet, on an engine; return why settings failed, by name.

    Fits that are tracked belong to `group`.
    """
    if not engine.is_here:
        task.items(data or task.default_data)  # a mistake here is no node's
        engine.require_sight(Path(data or task.default_data), *_common_folder(runs.values()))
    work = _Training(
        SentTask.to(engine, task),
        os.path.abspath(data or task.default_data),
        sent_options(engine, options),
        group,
    )
    problems: dict[str, dict[int, str]] = {}
    began: dict[Run, float] = {}

    def jobs() -> Iterator[_Job]:
        for number, ((name, seed), folder) in enumerate(runs.items(), 1):
            if _is_complete(folder):
                log.info(
                    "run %d of %d: %s, seed %d is there already", number, len(runs), name, seed
                )
                continue
            if name in problems:
                continue
            log.info("run %d of %d: %s, seed %d", number, len(runs), name, seed)
            began[name, seed] = time.monotonic()
            yield _Job(name, seed, os.path.abspath(folder), settings[name])

    for _, (job, problem) in engine.run_long(work, jobs()):
        spent = time.monotonic() - began[job.name, job.seed]
        if problem is not None:
            problems.setdefault(job.name, {})[job.seed] = problem
            log.warning("%s", _failure(job.name, job.seed, problem))
        elif not engine.is_here:
            log.info("done: %s, seed %d, after %.0f s", job.name, job.seed, spent)
    return {name: _failure(name, *min(found.items())) for name, found in problems.items()}


@dataclass(frozen=True)
class _Job:
    """One run of a study."""

    name: str
    seed: int
    folder: str
    setting: Setting


@dataclass(frozen=True)
class _Training:
    """What workers of a study do: one fit a job. The result is the job, and why it failed."""

    task: SentTask
    data: str
    options: dict[str, Any]
    group: Group | None

    def start(self) -> Callable[[_Job], tuple[_Job, str | None]]:
        task = self.task.received()

        def train(job: _Job) -> tuple[_Job, str | None]:
            folder, given = Path(job.folder), {**self.options, **job.setting}
            if _is_complete(folder):  # by a worker that died afterwards
                return job, None
            try:
                resume = is_unfinished(folder)
                with placed(self.group, f"{job.name},seed={job.seed}"):
                    fit(
                        task,
                        self.data,
                        seed=job.seed,
                        out=folder,
                        resume=resume,
                        pins=False,
                        **given,
                    )
            except ModelError as error:  # a problem of this setting, such as a rate that diverges
                return job, str(error)
            return job, None

        return train


def _failure(name: str, seed: int, problem: str) -> str:
    return f"{name} failed with seed {seed}: {problem}"


def _common_folder(folders: Iterable[Path]) -> list[Path]:
    """Return the folder of the study, which holds a folder for each setting."""
    return list({folder.parent.parent for folder in folders})


def _is_complete(folder: Path) -> bool:
    """Return whether a run's export is there and can be read."""
    if not (folder / CARD).is_file():
        return False
    try:
        read_card(folder)
    except FastsegError:
        return False
    return True

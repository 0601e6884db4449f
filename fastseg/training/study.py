"""Studies: a grid of settings, trained with several seeds, compared by paired intervals."""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.base import Engine
from ..engines.choice import engine_of
from ..errors import FastsegError, ModelError, choose
from ..evaluation.run import items_of, score_images
from ..evaluation.scores import SAMPLES, Scores, scores_of
from ..exports.card import CARD, HISTORY, is_unfinished, read_card, read_history
from ..learners.options import OPTIONS, FitOptions
from ..report import charts, panels
from ..tasks import Task, get
from ..utils.imports import importing
from ..utils.io import write_json, write_rows
from ..utils.locks import write_lock
from .fit import fit
from .work import SentTask, no_foreground, sent_options

log = logging.getLogger(__name__)

STUDY = "study.json"
VARIABLE = sorted(name for name, option in OPTIONS.items() if option.can_vary)
INTERVAL = (2.5, 97.5)  # percentiles: 95% of the bootstrap samples lie between them
LONGEST_NAME = 60  # bytes per value in a folder's name; file systems allow 255 in total
Setting = dict[str, Any]
Run = tuple[str, int]  # the name of a setting, and a seed


@dataclass
class Study:
    """The result of a study.

    `settings` are by name, best first; `verdicts` say how the best compares with each other one.
    """

    task: Task
    folder: Path
    settings: dict[str, dict[str, Any]]  # name -> {"mean", "std", "values": one main figure a seed}
    comparisons: list[dict[str, Any]]  # {"with", "difference", "interval", "clear"}
    verdicts: list[str]
    files: list[Path]


def study(
    task: str | Task,
    data: Path | str | None = None,
    *,
    vary: Mapping[str, Sequence[Any]],
    together: bool = False,
    seeds: int = 3,
    out: Path | str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Study:
    """Train every combination of values with several seeds, and return the best and its lead.

    `vary` maps options of `fastseg.fit` to lists of values; with `together`, first values go with
    first values, instead of all combinations. `options` are the same for all. Each run is a
    complete export below `out` (default: exports/TASK_study), and complete runs are
    not trained again: an interrupted study continues where it stopped. Writes study.json,
    study.csv (one row a run) and study.png. The interval is of the difference of the task's main
    figure, foreground mean Dice or accuracy: paired, by a bootstrap that draws seeds, and images
    within them, for both settings alike. A setting whose training fails is reported, not compared.
    Runs are trained side by side by `workers` of an `engine`, see `engines.choice.engine_of`; by
    default one after the other, in this process. Raises `FastsegError` kinds.
    """
    task = get(task)
    settings = _settings(vary, together, options)
    check_seeds(seeds)
    out = Path(out or f"exports/{task.name}_study")
    started = engine_of(engine, workers, address, num_gpus)
    with write_lock(out), started as side_by_side:
        description = _write_definition(out, task, data, settings, options)
        runs = {
            (name, seed): out / name / f"seed_{seed}"
            for name in settings
            for seed in range(1, seeds + 1)
        }
        failed = train_runs(task, data, settings, runs, options, side_by_side)
        place = Path(data or task.default_data)
        return compare_runs(task, out, description, runs, failed, place, options.get("device"))


def check_seeds(seeds: int) -> None:
    """Raise `ModelError` for a number of seeds that trains nothing."""
    if seeds < 1:
        raise ModelError(f"--seeds {seeds} trains nothing; give at least 1", "no-seeds")


def compare_runs(
    task: Task,
    out: Path,
    description: Mapping[str, Any],
    runs: Mapping[Run, Path],
    failed: Mapping[str, str],
    data: Path,
    device: str | None,
) -> Study:
    """Score the runs on the images in `data` that they held out, and write the study to `out`.

    `failed` says why settings failed, by name. Raises `ModelError` if all did.
    """
    left = [name for name, _ in runs if name not in failed]
    if not left:
        last = list(failed.values())[-1]
        raise ModelError(f"{out}: every setting failed; the last said: {last}", "study-failed")
    runs = {run: folder for run, folder in runs.items() if run[0] in left}
    scores = {run: _scores(task, folder, data, device) for run, folder in runs.items()}
    return _compare_and_write(task, out, description, runs, scores, list(failed.values()))


def train_runs(
    task: Task,
    data: Path | str | None,
    settings: Mapping[str, Setting],
    runs: Mapping[Run, Path],
    options: Mapping[str, Any],
    engine: Engine,
) -> dict[str, str]:
    """Train what is not trained yet, on an engine; return why settings failed, by name."""
    if not engine.in_process:
        task.items(data or task.default_data)  # a mistake here is no node's
        engine.require_sight(Path(data or task.default_data), *_common_folder(runs.values()))
    work = _Training(
        SentTask.to(engine, task),
        os.path.abspath(data or task.default_data),
        sent_options(engine, options),
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
        elif not engine.in_process:
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

    def start(self) -> Callable[[_Job], tuple[_Job, str | None]]:
        task = self.task.received()

        def train(job: _Job) -> tuple[_Job, str | None]:
            folder, given = Path(job.folder), {**self.options, **job.setting}
            if _is_complete(folder):  # by a worker that died afterwards
                return job, None
            try:
                resume = is_unfinished(folder)
                fit(task, self.data, seed=job.seed, out=folder, resume=resume, **given)
            except ModelError as error:  # a problem of this setting, such as a rate that diverges
                return job, str(error)
            return job, None

        return train


def _failure(name: str, seed: int, problem: str) -> str:
    return f"{name} failed with seed {seed}: {problem}"


def _common_folder(folders: Iterable[Path]) -> list[Path]:
    """Return the folder of the study, which holds a folder for each setting."""
    return list({folder.parent.parent for folder in folders})


def _settings(
    vary: Mapping[str, Sequence[Any]], together: bool, options: Mapping[str, Any]
) -> dict[str, Setting]:
    """Return the settings by name, "opt=sgd,lr=0.01".

    Raises `FastsegError` kinds for names that are no options and values that they cannot have.
    """
    for name in [*vary, *options]:
        if name == "seed":
            raise ModelError("seeds are drawn by --seeds; vary other options", "vary-seed")
        choose("option to vary", name, VARIABLE)
    if not vary or not all(vary.values()):
        raise ModelError("nothing varies; give for instance --vary opt=adamw,sgd", "nothing-varies")
    if together and len({len(values) for values in vary.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in vary.items())
        raise ModelError(
            f"--together pairs values, but the lists are not of one length: {lengths}",
            "study-lengths",
        )
    rows = zip(*vary.values()) if together else product(*vary.values())
    settings = [dict(zip(vary, row)) for row in rows]
    _check_values([{**options, **setting} for setting in settings])
    named = {
        ",".join(f"{key}={_in_folder_name(value)}" for key, value in setting.items()): setting
        for setting in settings
    }
    if len(named) < 2:
        raise ModelError(
            "there is one setting only; give two values or more, such as --vary opt=adamw,sgd",
            "nothing-varies",
        )
    if len(named) < len(settings):
        raise ModelError(
            "two settings are the same, or would share a folder: give each value once, and files "
            "names of their own",
            "repeated-setting",
        )
    return named


def _check_values(settings: Sequence[Setting]) -> None:
    """Raise `FastsegError` for values that options cannot have, before anything is trained."""
    for setting in settings:
        FitOptions(**setting).check()
    archs = {setting["arch"] for setting in settings if setting.get("arch") is not None}
    if archs:  # only timm knows their names
        with importing():
            from ..models.backbones import check_arch

            for arch in sorted(archs):
                check_arch(arch)


def _in_folder_name(value: object) -> str:
    """Return a value as a part of a folder's name: no slash, and not too long."""
    if isinstance(value, (tuple, list)):
        text = "x".join(map(str, value))
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value)
    text = text.replace("/", "_")
    encoded = text.encode()
    if len(encoded) <= LONGEST_NAME:
        return text
    return f"{zlib.crc32(encoded):08x}_{encoded[10 - LONGEST_NAME :].decode(errors='ignore')}"


def _write_definition(
    out: Path,
    task: Task,
    data: Path | str | None,
    settings: Mapping[str, Setting],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Write and return the study's definition. Raises `ModelError` if `out` has something else."""
    given = {key: value for key, value in options.items() if value is not None}
    mine: dict[str, Any] = json.loads(
        json.dumps(
            {"task": task.name, "data": str(data) if data else None, "options": given}, default=str
        )
    )
    if (out / STUDY).is_file():
        try:
            theirs = json.loads((out / STUDY).read_text(encoding="utf-8"))["of"]
        except (ValueError, KeyError, OSError):
            theirs = None
        if theirs != mine:
            raise ModelError(
                f"{out}: holds a study of other data or options; choose another --out, or "
                "remove it",
                "study-changed",
            )
        return mine  # earlier results are kept until there are new ones
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: exists and is not a study; choose another --out", "not-a-study")
    write_json(out / STUDY, {"of": mine, "settings": list(settings)})
    return mine


def _is_complete(folder: Path) -> bool:
    """Return whether a run's export is there and can be read."""
    if not (folder / CARD).is_file():
        return False
    try:
        read_card(folder)
    except FastsegError:
        return False
    return True


def _scores(task: Task, folder: Path, data: Path, device: str | None) -> Scores[Any]:
    """Score a run on the images that it held out; all runs in one precision."""
    card = read_card(folder)
    items, root = items_of(card, task, data, "valid")
    from ..inference.loading import load
    from ..utils.device import device_of, fixed_precision

    predictor = load(folder, device, precision=fixed_precision(device_of(device)))
    return scores_of(task, [score for score, _ in score_images(predictor, items, root)])


def _compare_and_write(
    task: Task,
    out: Path,
    description: Mapping[str, Any],
    runs: Mapping[Run, Path],
    scores: Mapping[Run, Scores[Any]],
    failures: list[str],
) -> Study:
    """Compare the best setting with each other one, and write the study. Raises `DataError`."""
    values = _values(task, out, scores)
    order = sorted(values, key=lambda name: -float(np.mean(values[name])))
    seeds = len(values[order[0]])
    comparisons = _comparisons(task, order, values, scores)
    verdicts = [_verdict(task, order[0], found, seeds) for found in comparisons]
    verdicts = [*(verdicts or [f"{order[0]} alone was trained to the end"]), *failures]
    settings = {
        name: {
            "mean": float(np.mean(values[name])),
            "std": float(np.std(values[name], ddof=1)) if seeds > 1 else None,
            "values": values[name],
        }
        for name in order
    }
    figure = task.main_figure
    found = {
        "of": description,
        "figure": figure,
        "settings": settings,
        "comparisons": comparisons,
        "verdicts": verdicts,
    }
    rows = (
        {
            "setting": name,
            "seed": seed,
            figure.lower(): values[name][seed - 1],
            "export": str(runs[name, seed]),
        }
        for name in order
        for seed in range(1, seeds + 1)
    )
    histories = {
        name: [read_history(runs[name, seed] / HISTORY) for seed in range(1, seeds + 1)]
        for name in order
    }
    drawn = charts.bands(histories, f"{task.name}: {verdicts[0]}")
    files = [
        write_json(out / STUDY, found),
        write_rows(out / "study.csv", rows),
        panels.write_png(drawn, out / "study.png", panels.PRINT_DPI),
    ]
    return Study(task, out, settings, comparisons, verdicts, files)


def _values(task: Task, out: Path, scores: Mapping[Run, Scores[Any]]) -> dict[str, list[float]]:
    """Return the main figure of each setting, one value a seed. Raises `DataError` without one."""
    values: dict[str, list[float]] = {}
    for (name, _), found in scores.items():
        value = task.main_value(found.metrics())
        if value is None:
            raise no_foreground(out, "the held-out images", task)
        values.setdefault(name, []).append(value)
    return values


def _comparisons(
    task: Task,
    order: Sequence[str],
    values: Mapping[str, Sequence[float]],
    scores: Mapping[Run, Scores[Any]],
) -> list[dict[str, Any]]:
    """Return the difference of the best setting to each other one, with its interval."""
    samples = {run: _resampled(task, found) for run, found in scores.items()}
    best, seeds = order[0], len(values[order[0]])
    drawn_seeds = np.random.default_rng(0).integers(0, seeds, (SAMPLES, seeds))
    comparisons = []
    for other in order[1:]:
        differences = np.stack(
            [samples[best, seed] - samples[other, seed] for seed in range(1, seeds + 1)]
        )
        spread = differences[drawn_seeds, np.arange(SAMPLES)[:, None]].mean(axis=1)
        low, high = (float(value) for value in np.nanpercentile(spread, INTERVAL))
        comparisons.append(
            {
                "with": other,
                "difference": float(np.mean(values[best]) - np.mean(values[other])),
                "interval": [low, high],
                "clear": low > 0,
            }
        )
    return comparisons


def _resampled(task: Task, scores: Scores[Any]) -> Any:
    """Return the main figure of bootstrap samples of the images, float64 (SAMPLES,).

    The seed depends on the images alone: runs score_images on the same ones are resampled alike.
    """
    names = "\n".join(image.name for image in scores.images)
    figures = scores.resampled(SAMPLES, zlib.crc32(names.encode()))
    return task.main_value(figures)


def _verdict(task: Task, best: str, comparison: Mapping[str, Any], seeds: int) -> str:
    """Return a sentence that says whether the best setting is better than the other one."""
    verb = "is better than" if comparison["clear"] else "is not clearly better than"
    low, high = comparison["interval"]
    many = f"{seeds} seeds" if seeds > 1 else "one seed, so that what seeds change is not in it"
    return (
        f"{best} {verb} {comparison['with']}: by {comparison['difference']:.4f} {task.main_figure} "
        f"(95% interval {low:.4f} to {high:.4f}, {many})"
    )

"""Studies: a grid of settings, trained with several seeds, compared by paired intervals."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ..engines.choice import engine_of
from ..errors import ModelError, choose
from ..learners.options import OPTIONS, FitOptions
from ..tasks import Task, get
from ..tracking.grouping import RUNS, Group
from ..utils.imports import importing
from ..utils.io import write_json
from ..utils.locks import write_lock
from .comparison import STUDY, Study, compare_runs
from .runs import Setting, check_seeds, train_runs

VARIABLE = sorted(name for name, option in OPTIONS.items() if option.can_vary)
LONGEST_NAME = 60  # bytes per value in a folder's name; file systems allow 255 in total


def study(
    task: str | Task,
    data: Path | str | None = None,
    *,
    vary: Mapping[str, Sequence[Any]],
    together: bool = False,
    seeds: int = 3,
    track: str | None = None,
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
    With `track`, the tracker gets a run for each of them, all of one group: the study's folder.
    Runs are trained side by side by `workers` of an `engine`, see `engines.choice.engine_of`; by
    default one after the other, in this process. Raises `FastsegError` kinds.
    """
    task = get(task)
    settings = _settings(vary, together, options)
    check_seeds(seeds)
    OPTIONS["track"].check(track)
    out = Path(out or f"exports/{task.name}_study")
    group = Group(out.resolve().name, Path(RUNS).absolute())
    started = engine_of(engine, workers, address, num_gpus)
    with write_lock(out), started as side_by_side:
        given = {**options, "track": track}
        description = _write_definition(out, task, data, settings, given)
        runs = {
            (name, seed): out / name / f"seed_{seed}"
            for name in settings
            for seed in range(1, seeds + 1)
        }
        failed = train_runs(task, data, settings, runs, given, side_by_side, group)
        place = Path(data or task.default_data)
        return compare_runs(task, out, description, runs, failed, place, options.get("device"))


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

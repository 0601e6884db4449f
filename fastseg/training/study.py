"""Is the difference real? A grid of settings, each trained with several seeds, drawn together and judged by paired intervals."""

from __future__ import annotations

import inspect
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, FastsegError, ModelError, choose
from ..evaluation.run import items_of, judged
from ..evaluation.scores import SAMPLES, Scores, scores_of
from ..exports.card import CARD, HISTORY, read_card, read_history
from ..learners.preparation import learner
from ..report import charts, panels
from ..tasks import Task, get
from ..utils.choices import DECODERS, OPTIMIZERS, loss_parts
from ..utils.imports import importing
from ..utils.io import write_json, write_rows
from ..utils.locks import write_lock
from .fit import fit
from .resume import is_unfinished

log = logging.getLogger(__name__)

STUDY = "study.json"
FIXED = {
    "task",
    "data",
    "out",
    "seed",
    "fold",
    "folds",
    "options",
}  # ensembles have no images that all members never saw
Setting = dict[str, object]
WHOLE, REAL = (
    {"epochs", "freeze_epochs", "patience", "bs", "cache"},
    {"ema", "windows", "progressive", "mixup", "time_budget"},
)


@dataclass
class Study:
    """What a study found. `settings` are by name, best first; `verdicts` say how the best compares with each other one."""

    task: Task
    folder: Path
    settings: dict[str, dict]  # name -> {"mean", "std", "values": one main figure a seed}
    comparisons: list[dict]  # {"with", "difference", "interval", "clear"}
    verdicts: list[str]
    files: list[Path]


def study(
    task: str | Task,
    data: Path | str | None = None,
    *,
    vary: Mapping[str, Sequence],
    together: bool = False,
    seeds: int = 3,
    out: Path | str | None = None,
    **options,
) -> Study:
    """Train every combination of the values in `vary` with `seeds` seeds, and say which is best and whether that is certain.

    `vary` maps options of `fastseg.fit` to lists of values; with `together`, first values go with first values, instead of all
    combinations. `options` are the same for all. Each run is a whole export below `out` (default: exports/TASK_study), and one
    that is whole already is not trained again: a study that was stopped goes on where it stopped. Writes study.json,
    study.csv (one row a run) and study.png. The interval is of the difference of the task's main figure, foreground mean Dice
    or accuracy: paired, by a bootstrap that draws seeds, and images within them, for both settings alike. A setting whose training
    fails is told, not compared.
    Raises `FastsegError` kinds.
    """
    task = get(task)
    settings = _settings(vary, together, options)
    if seeds < 1:
        raise ModelError(f"--seeds {seeds} trains nothing; give at least 1", "no-seeds")
    out = Path(out or f"exports/{task.name}_study")
    with write_lock(out):
        return _study(task, data, settings, seeds, out, options)


def _study(
    task: Task,
    data: Path | str | None,
    settings: Mapping[str, Setting],
    seeds: int,
    out: Path,
    options: Mapping,
) -> Study:
    claim = _claim(out, task, data, settings, options)
    runs = {
        (name, seed): out / name / f"seed_{seed}"
        for name in settings
        for seed in range(1, seeds + 1)
    }
    failed: dict[str, str] = {}
    for number, ((name, seed), folder) in enumerate(runs.items(), 1):
        if _is_whole(folder):
            log.info("run %d of %d: %s, seed %d is there already", number, len(runs), name, seed)
            continue
        if name in failed:
            continue
        log.info("run %d of %d: %s, seed %d", number, len(runs), name, seed)
        try:
            fit(
                task,
                data,
                seed=seed,
                out=folder,
                resume=is_unfinished(folder),
                **{**options, **settings[name]},
            )
        except (
            ModelError
        ) as error:  # one that diverges says something of its setting, nothing of the others
            failed[name] = f"{name} failed with seed {seed}: {error}"
            log.warning("%s", failed[name])
    whole = {name: setting for name, setting in settings.items() if name not in failed}
    if not whole:
        raise ModelError(
            f"{out}: every setting failed; the last said: {failed[name]}", "study-failed"
        )
    runs = {(name, seed): folder for (name, seed), folder in runs.items() if name in whole}
    scores = {run: _scores(task, folder, options.get("device")) for run, folder in runs.items()}
    return _judged(task, out, claim, seeds, runs, scores, failed)


def _settings(vary: Mapping[str, Sequence], together: bool, options: Mapping) -> dict[str, Setting]:
    """Return the settings by name, "opt=sgd,lr=0.01". Raises `ModelError` for names that fit does not know."""
    known = {name for call in (fit, learner) for name in inspect.signature(call).parameters} - FIXED
    for name in [*vary, *options]:
        if name == "seed":
            raise ModelError("seeds are drawn by --seeds; vary other options", "vary-seed")
        choose("option to vary", name, sorted(known))
    if not vary or not all(vary.values()):
        raise ModelError("nothing varies; give for instance --vary opt=adamw,sgd", "nothing-varies")
    if together and len({len(values) for values in vary.values()}) > 1:
        raise ModelError(
            "--together pairs values, but the lists are not of one length: "
            + ", ".join(f"{name} {len(values)}" for name, values in vary.items()),
            "study-lengths",
        )
    rows = zip(*vary.values()) if together else product(*vary.values())
    settings = [dict(zip(vary, row)) for row in rows]
    for name, value in ((name, value) for setting in settings for name, value in setting.items()):
        _check(name, value)
    named = {
        ",".join(f"{key}={_plain(value)}" for key, value in setting.items()): setting
        for setting in settings
    }
    if len(named) < 2:
        raise ModelError(
            "there is one setting only; give two values or more, such as --vary opt=adamw,sgd",
            "nothing-varies",
        )
    if len(named) < len(settings):
        raise ModelError(
            "two settings are the same, or would share a folder: give each value once, and files names of their own",
            "repeated-setting",
        )
    return named


def _check(name: str, value: object) -> None:
    """Raise `ModelError` for a value that the option `name` cannot have, before anything is trained."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    lowest = 1 if name == "bs" else 0
    if name in WHOLE and not (isinstance(value, int) and number and value >= lowest):
        raise ModelError(f"{name}={value}: give a whole number of at least {lowest}", "study-value")
    if name in REAL and not (number and value >= 0):
        raise ModelError(f"{name}={value}: give a number that is not negative", "study-value")
    if name == "lr" and not (value == "auto" or (number and value > 0)):
        raise ModelError(f"lr={value}: give a positive number, or auto", "study-value")
    if name not in WHOLE | REAL | {"lr", "size"} and not isinstance(value, (str, Path)):
        raise ModelError(f"{name}={value}: give a name, not a number", "study-value")
    if name == "arch":
        with importing():
            from ..models.backbones import check_arch

            check_arch(value)
    if name == "loss":
        loss_parts(value)
    if name == "opt":
        choose("optimizer", value, OPTIMIZERS)
    if name == "decoder":
        choose("decoder", value, DECODERS)
    if name == "weights" and Path(value).suffix and not Path(value).is_file():
        raise ModelError(f"{value}: no such file of weights; check the path", "no-weights-file")


def _plain(value: object) -> str:
    """Return a value as a folder's name has it: no slash, and no longer than names may be."""
    text = (
        "x".join(map(str, value))
        if isinstance(value, (tuple, list))
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    text = text.replace("/", "_")
    return (
        text
        if len(text.encode()) <= 60
        else f"{zlib.crc32(text.encode()):08x}_{text.encode()[-50:].decode(errors='ignore')}"
    )


def _claim(
    out: Path,
    task: Task,
    data: Path | str | None,
    settings: Mapping[str, Setting],
    options: Mapping,
) -> dict:
    """Write and return what this study is, so that one that goes on is known to be the same. Raises `ModelError` if it is another."""
    mine = json.loads(
        json.dumps(
            {
                "task": task.name,
                "data": str(data) if data else None,
                "options": {key: value for key, value in options.items() if value is not None},
            },
            default=str,
        )
    )
    if (out / STUDY).is_file():
        try:
            theirs = json.loads((out / STUDY).read_text(encoding="utf-8"))["of"]
        except (ValueError, KeyError, OSError):
            theirs = None
        if theirs != mine:
            raise ModelError(
                f"{out}: holds a study of other data or options; choose another --out, or remove it",
                "study-changed",
            )
        return mine  # what it found so far stays until more is known
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: exists and is not a study; choose another --out", "not-a-study")
    write_json(out / STUDY, {"of": mine, "settings": list(settings)})
    return mine


def _is_whole(folder: Path) -> bool:
    if not (folder / CARD).is_file():
        return False
    try:
        read_card(folder)
        return True
    except FastsegError:
        return False


def _scores(task: Task, folder: Path, device: str | None) -> Scores[Any]:
    card = read_card(folder)
    items, root = items_of(card, task, None, "valid")
    from ..inference.loading import load
    from ..utils.device import device_of, fixed_precision

    predictor = load(
        folder, device, precision=fixed_precision(device_of(device))
    )  # all runs are judged in one precision
    return scores_of(task, [score for score, _ in judged(predictor, items, root)])


def _judged(
    task: Task,
    out: Path,
    claim: Mapping,
    seeds: int,
    runs: Mapping,
    scores: Mapping[tuple, Scores[Any]],
    failed: Mapping[str, str],
) -> Study:
    mains = {run: task.main_value(found.metrics()) for run, found in scores.items()}
    if None in mains.values():
        raise DataError(
            f"{out}: the held-out images have no {task.main_figure}, for want of any foreground; give data whose held-out part has some",
            "no-foreground",
        )
    names = list(dict.fromkeys(name for name, _ in runs))
    values = {name: [mains[name, seed] for seed in range(1, seeds + 1)] for name in names}
    order = sorted(names, key=lambda name: -np.mean(values[name]))
    samples = {
        run: task.main_value(found.resampled(SAMPLES, _stream(found)))
        for run, found in scores.items()
    }
    rng = np.random.default_rng(0)
    drawn = rng.integers(1, seeds + 1, (SAMPLES, seeds))
    comparisons, verdicts, best = [], [], order[0]
    drawn_from = (
        f"{seeds} seeds" if seeds > 1 else "one seed, so that what seeds change is not in it"
    )
    for other in order[1:]:
        differences = np.stack(
            [samples[best, seed] - samples[other, seed] for seed in range(1, seeds + 1)]
        )
        spread = differences[drawn - 1, np.arange(SAMPLES)[:, None]].mean(axis=1)
        low, high = (float(v) for v in np.nanpercentile(spread, [2.5, 97.5]))
        difference, clear = float(np.mean(values[best]) - np.mean(values[other])), low > 0
        comparisons.append(
            {"with": other, "difference": difference, "interval": [low, high], "clear": clear}
        )
        verdicts.append(
            f"{best} {'is better than' if clear else 'is not clearly better than'} {other}: by {difference:.4f} {task.main_figure} "
            f"(95% interval {low:.4f} to {high:.4f}, {drawn_from})"
        )
    verdicts = [*(verdicts or [f"{best} alone was trained to the end"]), *failed.values()]
    summary = {
        name: {
            "mean": float(np.mean(values[name])),
            "std": float(np.std(values[name], ddof=1)) if seeds > 1 else None,
            "values": values[name],
        }
        for name in order
    }
    histories = {
        name: [read_history(runs[name, seed] / HISTORY) for seed in range(1, seeds + 1)]
        for name in order
    }
    files = [
        write_json(
            out / STUDY,
            {
                "of": claim,
                "figure": task.main_figure,
                "settings": summary,
                "comparisons": comparisons,
                "verdicts": verdicts,
            },
        ),
        write_rows(
            out / "study.csv",
            (
                {
                    "setting": name,
                    "seed": seed,
                    task.main_figure.lower(): values[name][seed - 1],
                    "export": str(runs[name, seed]),
                }
                for name in order
                for seed in range(1, seeds + 1)
            ),
        ),
        panels.write(
            charts.bands(histories, f"{task.name}: {verdicts[0]}"),
            out / "study.png",
            panels.PRINT_DPI,
        ),
    ]
    return Study(task, out, summary, comparisons, verdicts, files)


def _stream(scores: Scores[Any]) -> int:
    """Return a seed that depends on the images alone: runs that were judged on the same ones are resampled alike."""
    return zlib.crc32("\n".join(image.name for image in scores.images).encode())

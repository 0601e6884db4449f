"""`tune`: a search for better settings, and an honest comparison of the best one with the recipe.

The task's held-out images have no part in the search. Trials are trained on a part of the training
images, and judged and pruned on another part of them. At the end, the best setting and the recipe
are trained on all training images with several seeds, and compared on the held-out ones.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..engines.choice import engine_of
from ..errors import ModelError, choose
from ..learners.options import OPTIONS, FitOptions, WholeNumber
from ..tasks import Task, get
from ..types import Recipe
from ..utils.imports import importing
from ..utils.io import atomic_file, name_below, read_json, write_json, write_rows
from ..utils.locks import write_lock
from ..utils.shell import typed
from .database import DATABASE, PROBLEM, RECIPE, SECONDS, STATE, Database, require_optuna
from .recipe_file import file_of, recipe_text, write_recipe
from .search import Clock, Search, shown
from .space import (
    Choice,
    Setting,
    Space,
    check_space,
    default_space,
    described,
    params_of,
    setting_of,
    stored,
    varied_space,
)
from .study import VARIABLE, Study, check_seeds, compare_runs, train_runs
from .trials import InnerSplit, Trials
from .work import SentTask, sent_options

log = logging.getLogger(__name__)

TUNE, PARTS, TABLE, RECIPE_TEXT = "tune.json", "parts.json", "trials.csv", "recipe.toml"
FINAL = "final"  # the folder of the final fits
FEWEST_FOR_PICTURES = 2  # complete trials


@dataclass
class Tuned:
    """The result of a tune.

    `best` are the options of the best setting. `search` has the task's main figure of the best
    trial and of the recipe on the images that the search judged by, which is too high for the best
    one, since it was chosen by it. `held_out` has "best", "recipe", "difference" and "interval" on
    the images that the search never saw, and "images" and "seeds"; it is empty if the recipe itself
    was the best trial. `is_better`: whether the interval is above zero.
    """

    task: Task
    folder: Path
    best: Setting
    trials: list[dict[str, Any]]
    search: dict[str, float | None]
    held_out: dict[str, Any]
    is_better: bool
    verdict: str
    command: str  # that trains with the best setting
    written: Path | None  # the task.toml that has it now
    files: list[Path]


@dataclass(frozen=True)
class _Asked:
    """What is searched: data, fixed options, space, and the parts of the images."""

    task: Task
    data: Path
    recipe: Recipe  # with the fixed options
    fixed: dict[str, Any]
    space: Space
    seed: int
    parts: dict[str, list[str]]


def tune(
    task: str | Task,
    data: Path | str | None = None,
    *,
    trials: int = 30,
    time_budget: float | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    seed: int = 42,
    out: Path | str | None = None,
    write: bool = False,
    force: bool = False,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Tuned:
    """Search for a setting that is better than the task's recipe, and compare the two.

    Optuna's TPE sampler proposes `trials` settings in total: by default backbone, size, learning
    rate, loss and augmentation around the recipe. `vary` maps options of `fastseg.fit` to what is
    searched in their place: two numbers of a continuous option are a range, other values are
    choices, and one value fixes the option. `options` are the same for all trials. A trial whose
    scores are below the median after an epoch is stopped.

    Trials see training images only, see the module. The best setting and the recipe are then
    trained with `seeds` seeds, and compared by paired intervals, as in `fastseg.study`, on the
    images that `fastseg.fit` with `seed` holds out. `time_budget`, in seconds, is for all of it.
    Everything is below `out` (default: exports/TASK_tune): tune.json, trials.csv, importance.png,
    parallel.png, recipe.toml, the exports in final, and tune.db, by which an interrupted tune is
    resumed. With `write`, the best setting goes into the [recipe] of the task's task.toml if it is
    clearly better; with `force`, in any case. Trials run side by side by `workers` of an `engine`,
    see `fastseg.study`. Raises `FastsegError` kinds.
    """
    require_optuna()
    _check_numbers(trials, time_budget, seeds)
    found = get(task)
    file = file_of(task, found) if write else None
    clock_began = Clock(time_budget, seeds, 1.0, 1).began
    started = engine_of(engine, workers, address, num_gpus)
    asked = _asked(found, data, vary or {}, seed, options)
    out = Path(out or f"exports/{found.name}_tune")
    with write_lock(out), started as side_by_side:
        asked, definition = _settled(out, asked, vary or {})
        growth = len(asked.parts["train"]) / max(1, len(asked.parts["learn"]))
        most = max(1, min(side_by_side.workers, 2 * seeds))
        clock = Clock(time_budget, seeds, growth, most, clock_began)
        search = Search(
            found, asked.space, Database(out / DATABASE, asked.space, seed), clock, trials
        )
        _run(search, asked, out, side_by_side)
        compared = _compare(search, asked, out, side_by_side)
        result = _result(search, asked, out, compared)
        if file and result.best and (result.is_better or force):
            write_recipe(file, result.best)
            result.written = file
        return _write(search, asked, result, definition)


def _check_numbers(trials: int, time_budget: float | None, seeds: int) -> None:
    WholeNumber(1)("--trials", trials)
    check_seeds(seeds)
    if time_budget is not None:
        OPTIONS["time_budget"].check(time_budget)


def _asked(
    task: Task,
    data: Path | str | None,
    vary: Mapping[str, Sequence[Any]],
    seed: int,
    options: Mapping[str, Any],
) -> _Asked:
    """Return what is searched. Raises `FastsegError` for values that cannot be."""
    single = {name: values[0] for name, values in vary.items() if len(values) == 1}
    given = {name: value for name, value in {**options, **single}.items() if value is not None}
    for name in given:
        if name == "time_budget":
            raise ModelError(
                "--time-budget is of the whole tune; fix --epochs of the trials", "vary-budget"
            )
        choose("option to vary", name, VARIABLE)
    OPTIONS["seed"].check(seed)
    FitOptions(**given).check()
    fixed: dict[str, Any] = FitOptions(**given).to_json()
    recipe = FitOptions(**fixed).recipe(task)
    several = {name: values for name, values in vary.items() if len(values) > 1}
    weights = str(fixed.get("weights", "auto"))
    space = varied_space(several) if several else default_space(task, recipe, weights, fixed)
    if not space:
        raise ModelError("nothing varies; give for instance --vary lr=1e-4,1e-2", "nothing-varies")
    check_space(task, space, fixed)
    _check_archs(recipe, space)
    data = Path(data or task.default_data)
    items = task.items(data)
    learn, judge, held_out = InnerSplit(task, seed).parts(items)
    names = [name_below(data, item.image) for item in items]
    parts = {"learn": learn, "judge": judge, "train": sorted({*learn, *judge}), "valid": held_out}
    return _Asked(
        task,
        data,
        recipe,
        fixed,
        space,
        seed,
        {part: [names[i] for i in places] for part, places in parts.items()},
    )


def _check_archs(recipe: Recipe, space: Space) -> None:
    """Raise `ModelError` for a backbone that timm does not have."""
    part = space.get("arch")
    if recipe.decoder == "fastai":
        return
    with importing():
        from ..models.backbones import check_arch

        for arch in part.values if isinstance(part, Choice) else [recipe.arch]:
            check_arch(arch)


def _settled(
    out: Path, asked: _Asked, vary: Mapping[str, Sequence[Any]]
) -> tuple[_Asked, dict[str, Any]]:
    """Return what is searched with the weights that all trials begin with, and its definition.

    Those of an interrupted search are taken over. Raises `ModelError` if `out` has something else.
    """
    mine = json.loads(
        json.dumps(
            {
                "task": asked.task.name,
                "data": str(asked.data),
                "recipe": asdict(asked.recipe),
                "options": {k: v for k, v in asked.fixed.items() if k != "device"},
                "space": described(asked.space),
                "seed": asked.seed,
                "parts": zlib.crc32(json.dumps(asked.parts).encode(errors="surrogateescape")),
            },
            default=str,
        )
    )
    if (out / TUNE).is_file():
        theirs = read_json(out / TUNE)
        if theirs.get("of") != mine or not {"weights", "space"} <= set(theirs):
            raise ModelError(
                f"{out}: holds a search of other data, recipe or options; choose another --out, "
                "or remove it",
                "search-changed",
            )
        weights, archs = theirs["weights"], theirs["space"].get("arch", {}).get("values")
        theirs = {key: theirs[key] for key in ("of", "weights", "space")}
        return _with_weights(asked, weights, archs), theirs
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: exists and is not a search; choose another --out", "not-a-search")
    settled = _with_weights(asked, *_weights(asked, "arch" in vary))
    definition = {
        "of": mine,
        "weights": settled.fixed.get("weights", "auto"),
        "space": described(settled.space),
    }
    write_json(out / PARTS, asked.parts)
    write_json(out / TUNE, definition)
    return settled, definition


def _with_weights(asked: _Asked, weights: str, archs: Sequence[str] | None) -> _Asked:
    space = dict(asked.space)
    if archs and len(archs) > 1:
        space["arch"] = Choice(tuple(archs))
    else:
        space.pop("arch", None)
    return _Asked(
        asked.task,
        asked.data,
        asked.recipe,
        {**asked.fixed, "weights": weights},
        space,
        asked.seed,
        asked.parts,
    )


def _weights(asked: _Asked, were_named: bool) -> tuple[str, list[str] | None]:
    """Return the weights that all trials begin with, and the backbones that have them.

    A comparison is fair if all backbones begin with ImageNet weights, or none does. Raises
    `ModelError` if the weights of a backbone that was named cannot be fetched.
    """
    weights, part = str(asked.fixed.get("weights", "auto")), asked.space.get("arch")
    archs = list(part.values) if isinstance(part, Choice) else None
    if weights not in ("auto", "imagenet") or asked.recipe.decoder == "fastai":
        return weights, archs
    with importing():
        from ..models.weights import fetched

    wanted = list(dict.fromkeys([asked.recipe.arch, *(archs or [])]))
    have = fetched(wanted)
    missing = [arch for arch in wanted if arch not in have]
    if missing and (weights == "imagenet" or (were_named and have)):
        raise ModelError(
            f"ImageNet weights of {', '.join(missing)} could not be fetched, and backbones are "
            "compared fairly with weights for all or for none: leave them out, or give "
            "--weights none",
            "not-fetched",
        )
    if asked.recipe.arch in missing:
        log.warning(
            "ImageNet weights of %s could not be fetched: all trials and the comparison begin "
            "with random weights. What is best then need not be best with pretrained ones.",
            ", ".join(missing),
        )
        return "none", archs
    if missing:
        log.info("without ImageNet weights here, and left out: %s", ", ".join(missing))
    return "imagenet", [arch for arch in archs if arch in have] if archs else None


def _run(search: Search, asked: _Asked, out: Path, engine: Engine) -> None:
    """Train the trials that are still to be trained."""
    again = search.database.begin(params_of(asked.recipe, asked.space))
    done = len(search.database.done())
    log.info(
        "search: %s over %d trials%s; training on %d images, judging on %d; %d are held out",
        ", ".join(asked.space),
        search.trials,
        f", {done} of them are done" + (f", {again} are begun again" if again else "")
        if done or again
        else "",
        len(asked.parts["learn"]),
        len(asked.parts["judge"]),
        len(asked.parts["valid"]),
    )
    if not engine.in_process:
        engine.require_sight(asked.data, out)
    work = Trials(
        SentTask.to(engine, asked.task),
        os.path.abspath(asked.data),
        sent_options(engine, asked.fixed),
        asked.seed,
    )
    search.run(work, engine)


def _compare(search: Search, asked: _Asked, out: Path, engine: Engine) -> Study | None:
    """Train the best setting and the recipe with several seeds, and compare them.

    None if the recipe itself is the best one.
    """
    best, recipe = search.best(), search.recipe_trial()
    if recipe is not None and best.number == recipe.number:
        return None
    times = [one.user_attrs[SECONDS] for one in (recipe or best, best)]
    clock = search.clock
    seeds = next(
        (
            n
            for n in range(clock.seeds, 1, -1)
            if clock.comparison(times[0], times[1], n) <= clock.left
        ),
        1,
    )
    if seeds < clock.seeds:
        log.warning("the time that is left is enough for %d of %d seeds", seeds, clock.seeds)
    name = f"trial_{best.number + 1}"
    settings: dict[str, Setting] = {"recipe": {}, name: setting_of(best.params, asked.space)}
    runs = {
        (name, seed): out / FINAL / name / f"seed_{seed}"
        for seed in range(1, seeds + 1)
        for name in settings
    }
    log.info("comparison: %s (%s) and the recipe", name, shown(settings[name]))
    options = {**asked.fixed, "split_seed": asked.seed}
    failed = train_runs(asked.task, asked.data, settings, runs, options, engine)
    description = {"task": asked.task.name, "settings": settings, "options": options}
    described_so = json.loads(json.dumps(description, default=str))
    return compare_runs(
        asked.task, out / FINAL, described_so, runs, failed, asked.data, asked.fixed.get("device")
    )


def _result(search: Search, asked: _Asked, out: Path, compared: Study | None) -> Tuned:
    best, recipe = search.best(), search.recipe_trial()
    setting = setting_of(best.params, asked.space) if compared else {}
    figure = asked.task.main_figure
    held_out = _held_out(compared, asked)
    is_better = bool(held_out) and held_out["interval"][0] > 0
    if compared is None:
        verdict = (
            f"keep the recipe: none of {len(search.database.complete())} complete trials had a "
            f"higher {figure} than its {best.value:.4f}"
        )
    elif not held_out:
        verdict = "keep the recipe: " + compared.verdicts[-1]
    else:
        low, high = held_out["interval"]
        many = f"{held_out['seeds']} seeds" if held_out["seeds"] > 1 else "one seed only"
        verdict = (
            f"{'use the best setting' if is_better else 'keep the recipe'}: on the "
            f"{held_out['images']} images that the search never saw, the best setting has "
            f"{held_out['best']:.4f} {figure}, the recipe {held_out['recipe']:.4f}; difference "
            f"{held_out['difference']:+.4f} (95% interval {low:+.4f} to {high:+.4f}, {many})"
            + ("" if is_better else ", which is not clearly better")
        )
    return Tuned(
        task=asked.task,
        folder=out,
        best=setting,
        trials=_rows(search, asked),
        search={"best": best.value, "recipe": recipe.value if recipe else None},
        held_out=held_out,
        is_better=is_better,
        verdict=verdict,
        command=_command(asked, setting),
        written=None,
        files=list(compared.files) if compared else [],
    )


def _held_out(compared: Study | None, asked: _Asked) -> dict[str, Any]:
    """Return the figures on held-out images, and the best setting's lead over the recipe."""
    if compared is None or len(compared.settings) < 2:
        return {}
    ((best, rows),) = [one for one in compared.settings.items() if one[0] != "recipe"]
    found = compared.comparisons[0]
    sign = -1 if found["with"] == best else 1
    low, high = sorted(sign * end for end in found["interval"])
    return {
        "best": rows["mean"],
        "recipe": compared.settings["recipe"]["mean"],
        "difference": sign * found["difference"],
        "interval": [low, high],
        "images": len(asked.parts["valid"]),
        "seeds": len(rows["values"]),
    }


def _rows(search: Search, asked: _Asked) -> list[dict[str, Any]]:
    """Return a row for each trial, in their order; values are as trials.csv has them."""
    figure = asked.task.main_figure.lower()
    rows = []
    for trial in search.database.done():
        attributes = trial.user_attrs
        setting = setting_of(trial.params, asked.space)
        rows.append(
            {
                "trial": trial.number + 1,
                "recipe": RECIPE in attributes,
                "state": attributes[STATE],
                figure: trial.value if attributes[STATE] == "complete" else None,
                "epochs": len(trial.intermediate_values),
                "seconds": attributes[SECONDS],
                **{name: stored(setting[name]) for name in asked.space},
                "problem": attributes.get(PROBLEM, ""),
            }
        )
    return rows


def _command(asked: _Asked, setting: Setting) -> str:
    """Return the command that trains with a setting."""
    words = ["fastseg", "fit", asked.task.reference]
    if asked.data.resolve() != asked.task.default_data.resolve():
        words += ["--data", str(asked.data)]
    for name, value in {**asked.fixed, **setting}.items():
        flag = OPTIONS[name].flag
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, str(stored(value))]
    return " ".join(map(typed, words))


def _write(search: Search, asked: _Asked, result: Tuned, definition: Mapping[str, Any]) -> Tuned:
    """Write tables and pictures, and tune.json last."""
    from ..report import panels, search_charts

    out, figure = result.folder, asked.task.main_figure
    files = [write_rows(out / TABLE, result.trials)]
    complete = search.database.complete()
    shares = search.database.importance() if len(complete) >= FEWEST_FOR_PICTURES else {}
    if shares:
        drawn = search_charts.importance(shares, len(complete), figure)
        files.append(panels.write_png(drawn, out / "importance.png", panels.PRINT_DPI))
    if len(complete) >= FEWEST_FOR_PICTURES:
        rows = [row for row in result.trials if row["state"] == "complete"]
        drawn = search_charts.parallel(rows, described(asked.space), figure)
        files.append(panels.write_png(drawn, out / "parallel.png", panels.PRINT_DPI))
    if result.best:
        with atomic_file(out / RECIPE_TEXT) as temporary:
            temporary.write_text(recipe_text(result.best), encoding="utf-8")
        files.append(out / RECIPE_TEXT)
    story = {
        **definition,
        "figure": figure,
        "best": {name: stored(value) for name, value in result.best.items()},
        "search": result.search,
        "held_out": result.held_out,
        "is_better": result.is_better,
        "verdict": result.verdict,
        "command": result.command,
        "importance": shares,
        "trials": result.trials,
    }
    files.append(write_json(out / TUNE, story))
    result.files = [*files, *result.files]
    return result

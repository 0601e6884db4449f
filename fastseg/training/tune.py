"""`tune`: a search for better settings, and an honest comparison of the best one with the recipe.

The task's held-out images have no part in the search. Trials are trained on a part of the training
images, and judged and pruned on another part of them. At the end, the best setting and the recipe
are trained on all training images with several seeds, and compared on the held-out ones.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..engines.choice import engine_of
from ..learners.options import OPTIONS, WholeNumber
from ..tasks import Task, get
from ..utils.locks import write_lock
from .asked import Asked, asked_for, settled
from .comparison import Study, compare_runs
from .database import DATABASE, SECONDS, Database, require_optuna
from .recipe_file import file_of, write_recipe
from .runs import check_seeds, train_runs
from .search import Clock, Search, shown
from .space import Setting, params_of, setting_of
from .trials import Trials
from .tuned import Tuned, result_of, write_result
from .work import SentTask, sent_options

log = logging.getLogger(__name__)

FINAL = "final"  # the folder of the final fits


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
    asked = asked_for(found, data, vary or {}, seed, options)
    out = Path(out or f"exports/{found.name}_tune")
    with write_lock(out), started as side_by_side:
        asked, definition = settled(out, asked, vary or {})
        growth = len(asked.parts["train"]) / max(1, len(asked.parts["learn"]))
        most = max(1, min(side_by_side.workers, 2 * seeds))
        clock = Clock(time_budget, seeds, growth, most, clock_began)
        search = Search(
            found, asked.space, Database(out / DATABASE, asked.space, seed), clock, trials
        )
        _run(search, asked, out, side_by_side)
        compared = _compare(search, asked, out, side_by_side)
        result = result_of(search, asked, out, compared)
        if file and result.best and (result.is_better or force):
            write_recipe(file, result.recipe)
            result.written = file
        return write_result(search, asked, result, definition)


def _check_numbers(trials: int, time_budget: float | None, seeds: int) -> None:
    WholeNumber(1)("--trials", trials)
    check_seeds(seeds)
    if time_budget is not None:
        OPTIONS["time_budget"].check(time_budget)


def _run(search: Search, asked: Asked, out: Path, engine: Engine) -> None:
    """Train the trials that are still to be trained."""
    again = search.database.begin(params_of(asked.recipe, asked.space))
    done = len(search.database.done())
    log.info(
        "search: %s over %d trials%s; training on %d images, judging on %d; %d are held out",
        ", ".join(asked.space),
        search.trials,
        f", {done} are done" + (f", {again} will be trained again" if again else "")
        if done or again
        else "",
        len(asked.parts["learn"]),
        len(asked.parts["judge"]),
        len(asked.parts["valid"]),
    )
    if not engine.is_here:
        engine.require_sight(asked.data, out)
    work = Trials(
        SentTask.to(engine, asked.task),
        os.path.abspath(asked.data),
        sent_options(engine, asked.fixed),
        asked.seed,
    )
    search.run(work, engine)


def _compare(search: Search, asked: Asked, out: Path, engine: Engine) -> Study | None:
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

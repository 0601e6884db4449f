"""The result of a tune: which setting to use, and why; tables, pictures, the recipe as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..learners.options import OF_RECIPE, OPTIONS, FitOptions
from ..tasks import Task
from ..utils.io import atomic_file, write_json, write_rows
from ..utils.shell import typed
from .asked import TUNE, Asked
from .comparison import Study
from .database import PROBLEM, RECIPE, SECONDS, STATE
from .recipe_file import recipe_text
from .search import Search
from .space import Setting, described, setting_of, stored

TABLE, RECIPE_TEXT = "trials.csv", "recipe.toml"
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
    recipe: Setting  # `best`, and what was fixed for the whole search: what a [recipe] needs
    trials: list[dict[str, Any]]
    search: dict[str, float | None]
    held_out: dict[str, Any]
    is_better: bool
    verdict: str
    command: str  # that trains with the best setting
    written: Path | None  # the task.toml that has it now
    files: list[Path]


def result_of(search: Search, asked: Asked, out: Path, compared: Study | None) -> Tuned:
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
        recipe=_of_recipe(asked, setting),
        trials=_rows(search, asked),
        search={"best": best.value, "recipe": recipe.value if recipe else None},
        held_out=held_out,
        is_better=is_better,
        verdict=verdict,
        command=_command(asked, setting),
        written=None,
        files=list(compared.files) if compared else [],
    )


def _of_recipe(asked: Asked, setting: Setting) -> Setting:
    """Return a setting with the fixed options that are a recipe's: it was found with them."""
    if not setting:
        return {}
    options = FitOptions(**asked.fixed)
    fixed = {name: getattr(options, name) for name in asked.fixed if name in OF_RECIPE}
    return {**{name: value for name, value in fixed.items() if value != "auto"}, **setting}


def _held_out(compared: Study | None, asked: Asked) -> dict[str, Any]:
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


def _rows(search: Search, asked: Asked) -> list[dict[str, Any]]:
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


def _command(asked: Asked, setting: Setting) -> str:
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


def write_result(
    search: Search, asked: Asked, result: Tuned, definition: Mapping[str, Any]
) -> Tuned:
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
            temporary.write_text(recipe_text(result.recipe), encoding="utf-8")
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

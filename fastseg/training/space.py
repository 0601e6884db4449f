"""The space of a search: which options vary, and their values, from the task's recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ..data.reading import RGB
from ..errors import ModelError, choose
from ..learners.options import OF_RECIPE, OPTIONS, FitOptions
from ..tasks import Task
from ..types import Recipe
from ..utils.choices import MIN_SIZE

# Small backbones of different designs with ImageNet weights, which train on a CPU; the recipe's own
# is always among them. A choice.
ARCHS = ("mobilenetv2_100", "resnet18", "resnet34", "efficientnet_b0")
LOSSES = ("ce", "ce+dice", "focal+dice", "ce+lovasz")  # of masks; a choice
SCALES = (0.5, 0.75, 1.25)  # of the recipe's sides; more than that takes many times the time
SIDE_STEP = 32  # px: backbones halve the size five times
RATE_FACTOR = 10  # learning rates reach from a tenth of the recipe's to ten times as much
# Largest augmentation that is tried, if the recipe's own is not larger: stronger ones make images
# that do not look like any in the data. A choice.
STRONGEST = {"rotate": 30.0, "zoom": 0.4, "light": 0.4, "colour": 0.4, "cutout": 0.5}
RESAMPLING = ("rotate", "zoom", "light", "colour")  # not where it would change the label
DIGITS = 3  # significant ones of a number in a setting: finer differences are noise
# Epochs are the same for all trials, since pruning compares their courses; these are of the run.
NOT_SEARCHED = {"epochs", "freeze_epochs", "time_budget", "weights", "device", "precision", "cache"}
SEARCHED = sorted(name for name in OF_RECIPE if name not in NOT_SEARCHED)
Setting = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; `log`: its logarithm is drawn."""

    low: float
    high: float
    log: bool = False


Space = dict[str, Choice | Range]


def default_space(task: Task, recipe: Recipe, weights: str, fixed: Mapping[str, Any]) -> Space:
    """Return what is searched if nothing else is asked for, around a recipe.

    Options in `fixed` are left out. `weights` of one backbone fix the backbone.
    """
    space: Space = {}
    if weights in ("auto", "imagenet", "none") and recipe.decoder != "fastai":
        space["arch"] = Choice(tuple(dict.fromkeys([recipe.arch, *ARCHS])))
    if recipe.resize == "squish" and not Path(weights).is_dir():  # an export has its own size
        space["size"] = Choice(_sizes(recipe.size))
    space["lr"] = Range(recipe.lr / RATE_FACTOR, recipe.lr * RATE_FACTOR, log=True)
    if task.has_masks:
        space["loss"] = Choice(tuple(dict.fromkeys([recipe.loss, *LOSSES])))
    for name, most in STRONGEST.items():
        changes_label = name in RESAMPLING and recipe.resize != "squish"
        if changes_label or (name == "colour" and task.channels != RGB):
            continue
        space[name] = Range(0.0, max(most, getattr(recipe, name)))
    return {name: part for name, part in space.items() if fixed.get(name) is None}


def _sizes(own: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the recipe's size and others around it, in multiples of 32 px, by their area."""
    scaled = {
        tuple(max(MIN_SIZE, round(side * scale / SIDE_STEP) * SIDE_STEP) for side in own)
        for scale in SCALES
    }
    return tuple(sorted({(own[0], own[1]), *scaled}, key=math.prod))  # type: ignore[arg-type]


def varied_space(vary: Mapping[str, Sequence[Any]]) -> Space:
    """Return the space of given values: two numbers of a continuous option are a range.

    Raises `ModelError` for options that are not searched.
    """
    space: Space = {}
    for name, values in vary.items():
        choose("option to search", name, SEARCHED)
        numbers = all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
        if "float" in OPTIONS[name].annotation and numbers and len(set(values)) == 2:
            low, high = sorted(map(float, values))
            space[name] = Range(low, high, log=name == "lr")
        elif len(set(values)) < len(values) or len(values) < 2:
            raise ModelError(f"--vary {name}: give two different values or more", "nothing-varies")
        else:
            space[name] = Choice(tuple(values))
    return space


def check_space(task: Task, space: Space, fixed: Mapping[str, Any]) -> None:
    """Raise `FastsegError` for values that options cannot have, before anything is trained."""
    FitOptions(**fixed).check_course(task)
    for name, part in space.items():
        for value in part.values if isinstance(part, Choice) else (part.low, part.high):
            options = FitOptions(**{**fixed, name: value})
            options.check()
            options.check_course(task)


def stored(value: Any) -> Any:
    """Return a value as the search's database can hold it: a size is a text."""
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return value


def setting_of(params: Mapping[str, Any], space: Space) -> Setting:
    """Return the options of a fit for a trial's parameters, as the database holds them."""
    setting: Setting = {}
    for name, value in params.items():
        part = space[name]
        if isinstance(part, Choice):
            setting[name] = next(one for one in part.values if stored(one) == value)
        else:
            setting[name] = rounded(value)
    return setting


def rounded(value: float) -> float:
    """Return a number with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def params_of(recipe: Recipe, space: Space) -> dict[str, Any] | None:
    """Return the recipe as parameters of a trial; None if it is not in the space."""
    params: dict[str, Any] = {}
    for name, part in space.items():
        value = getattr(recipe, name)
        if isinstance(part, Range):
            if not part.low <= value <= part.high:
                return None
            params[name] = float(value)
        else:
            same = [stored(one) for one in part.values if _same(name, one, value)]
            if not same:
                return None
            params[name] = same[0]
    return params


def _same(name: str, one: Any, other: Any) -> bool:
    return getattr(FitOptions(**{name: one}), name) == getattr(FitOptions(**{name: other}), name)


def described(space: Space) -> dict[str, Any]:
    """Return a space as JSON values."""
    return {
        name: {"values": [stored(value) for value in part.values]}
        if isinstance(part, Choice)
        else {"low": part.low, "high": part.high, "log": part.log}
        for name, part in space.items()
    }

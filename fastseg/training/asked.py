"""What a tune searches: the options, the parts of the images, and the weights all begin with."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ModelError, choose
from ..learners.options import OPTIONS, FitOptions
from ..tasks import Task
from ..types import Recipe
from ..utils.imports import importing
from ..utils.io import name_below, read_json, write_json
from .space import Choice, Space, check_space, default_space, described, varied_space
from .study import VARIABLE
from .trials import InnerSplit

log = logging.getLogger(__name__)

TUNE, PARTS = "tune.json", "parts.json"


@dataclass(frozen=True)
class Asked:
    """What is searched: data, fixed options, space, and the parts of the images."""

    task: Task
    data: Path
    recipe: Recipe  # with the fixed options
    fixed: dict[str, Any]
    space: Space
    seed: int
    parts: dict[str, list[str]]


def asked_for(
    task: Task,
    data: Path | str | None,
    vary: Mapping[str, Sequence[Any]],
    seed: int,
    options: Mapping[str, Any],
) -> Asked:
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
    learn, judge, held_out = InnerSplit(task, seed, data).parts(items)
    names = [name_below(data, item.image) for item in items]
    parts = {"learn": learn, "judge": judge, "train": sorted({*learn, *judge}), "valid": held_out}
    return Asked(
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


def settled(
    out: Path, asked: Asked, vary: Mapping[str, Sequence[Any]]
) -> tuple[Asked, dict[str, Any]]:
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
    asked = _with_weights(asked, *_weights(asked, "arch" in vary))
    definition = {
        "of": mine,
        "weights": asked.fixed["weights"],
        "space": described(asked.space),
    }
    write_json(out / PARTS, asked.parts)
    write_json(out / TUNE, definition)
    return asked, definition


def _with_weights(asked: Asked, weights: str, archs: Sequence[str] | None) -> Asked:
    space = dict(asked.space)
    if archs and len(archs) > 1:
        space["arch"] = Choice(tuple(archs))
    else:
        space.pop("arch", None)
    return replace(asked, fixed={**asked.fixed, "weights": weights}, space=space)


def _weights(asked: Asked, were_named: bool) -> tuple[str, list[str] | None]:
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

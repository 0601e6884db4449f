"""The form of a fit, from `FitOptions`: fields with their help and limits; its values, read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import AppError, FastsegError, ModelError
from ..learners.options import AUGMENTATION, OF_RECIPE, OPTIONS, FitOptions, Number, Option
from ..learners.options import WholeNumber as Whole
from ..learners.values import text_of, value_of
from ..tasks import Task
from ..utils.choices import DECODERS, LOSSES, OPTIMIZERS, PRECISIONS, WEIGHTS

# Names that an option can have; those of `SUGGESTED` can be combined, or are only the usual ones.
CHOICES: dict[str, Sequence[str]] = {
    "decoder": DECODERS,
    "opt": OPTIMIZERS,
    "precision": PRECISIONS,
}
SUGGESTED: dict[str, Sequence[str]] = {
    "loss": (*LOSSES, "ce+dice"),
    "arch": ("mobilenetv2_100", "resnet18", "resnet34", "efficientnet_b0", "convnext_tiny"),
    "lr": ("auto", "1e-3", "1e-4"),
    "bs": ("auto", "4", "8", "16"),
    "device": ("cpu", "cuda", "mps"),
}
FIRST = ("epochs", "size", "bs", "lr", "arch", "weights")  # shown at once; the others on demand
HELP = {  # where the command line can name files, and this form cannot
    "weights": "What it begins with: auto is ImageNet, or random if that is out of reach; an "
    "export trains on from it.",
}
# `unlabelled` names a folder, which a browser may not; what is tracked may be sent elsewhere.
NOT_HERE = ("unlabelled", "track")
GROUPS = {"course": "Course", "learner": "Network and data", "run": "Run"}
# A browser may not name addresses or files here, only names of timm and torch.
NAME = re.compile(r"[A-Za-z0-9_.:+\-]{1,100}")
ADDRESSES = re.compile(r"hf[-_]hub:|local-dir:|:.*/|://")


def fields(task: Task, exports: Sequence[str]) -> list[dict[str, Any]]:
    """Return the fields of the form, in order; `exports` are names that training can begin with."""
    chosen = [option for option in OPTIONS.values() if _applies(option, task)]
    chosen.sort(key=lambda option: FIRST.index(option.name) if option.name in FIRST else len(FIRST))
    return [_field(option, task, exports) for option in chosen]


def _applies(option: Option, task: Task) -> bool:
    if option.name in NOT_HERE:
        return False
    return task.has_masks or option.name not in ("decoder", "windows")


def _field(option: Option, task: Task, exports: Sequence[str]) -> dict[str, Any]:
    group = "First" if option.name in FIRST else GROUPS[option.part]
    default = option.default
    if option.name in OF_RECIPE:
        default = getattr(task.recipe, option.name)
    found: dict[str, Any] = {
        "name": option.name,
        "label": option.name.replace("_", " "),
        "group": "Augmentation" if option.name in AUGMENTATION else group,
        "help": HELP.get(option.name) or option.help.rstrip(".") + ".",
        "default": text_of(option, default) or (option.default_help or "none"),
        "kind": "text",
    }
    if option.name == "weights":
        choices = [*WEIGHTS, *(f"exports/{name}" for name in exports)]
        return found | {"kind": "choice", "choices": choices}
    if option.name in CHOICES:
        return found | {"kind": "choice", "choices": list(CHOICES[option.name])}
    if option.annotation.startswith("bool"):
        return found | {"kind": "choice", "choices": ["yes", "no"]}
    if isinstance(option.rule, (Whole, Number)):
        is_whole = isinstance(option.rule, Whole)
        step = 1 if is_whole else "any"
        most = None if option.unit == "bytes" else option.rule.high
        unit = "MB" if option.unit == "bytes" else ""
        limits = {"min": option.rule.low, "max": most, "step": step, "unit": unit}
        return found | {"kind": "number", **limits}
    example = {"px": "256 or 240x320", "s": "90s, 10m or 1h"}.get(option.unit or "", "")
    return found | {"suggested": list(SUGGESTED.get(option.name, ())), "example": example}


def read(values: Mapping[str, Any], task: Task, exports: Mapping[str, str]) -> FitOptions:
    """Return the options of a filled form: texts by name, empty ones are left at their default.

    `exports` are folders by name. Raises `FastsegError` for the first faulty value, with the field
    in its details.
    """
    unknown = sorted(set(values) - set(OPTIONS) | set(values) & set(NOT_HERE))
    if unknown:
        raise AppError(f"{', '.join(unknown)}: no such option", "bad-request")
    found: dict[str, Any] = {}
    for name, text in values.items():
        try:
            found[name] = _read(OPTIONS[name], text, exports)
        except FastsegError as error:
            error.details = {**error.details, "field": name}
            raise
    options = FitOptions(**found)
    options.check_course(task)
    return options


def _read(option: Option, text: Any, exports: Mapping[str, str]) -> Any:
    if not isinstance(text, str) or len(text) > 200:
        raise AppError(f"{option.name}: give a text", "bad-request")
    text = text.strip()
    if option.name == "weights" and text.startswith("exports/"):
        folder = exports.get(text.removeprefix("exports/"))
        if folder is None:
            raise ModelError(f"{text}: there is no such export", "option-name")
        return folder
    if option.name == "weights" and text and text not in WEIGHTS:
        raise ModelError(f"{text}: choose one of {', '.join(WEIGHTS)}, or an export", "option-name")
    if text and option.unit is None and (not NAME.fullmatch(text) or ADDRESSES.search(text)):
        raise ModelError(f"{option.name} '{text}': is not a name or a number", "option-name")
    return value_of(option, text)


def arguments(options: FitOptions) -> list[str]:
    """Return the arguments of the command line that give these options."""
    found: list[str] = []
    for name, value in options.to_json().items():
        option = OPTIONS[name]
        if isinstance(value, bool):
            found.append(option.flag if value else option.flag.replace("--", "--no-", 1))
        else:
            text = f"{value:g}s" if option.unit == "s" else text_of(option, value)
            found.append(f"{option.flag}={text}")
    return found

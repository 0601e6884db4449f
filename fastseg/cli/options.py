"""The command line's options of a fit, derived from the fields of `FitOptions`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from ..errors import ModelError
from ..learners.options import OPTIONS, BatchSize, Number, Option, WholeNumber
from ..learners.values import MB, seconds_of, size_of, value_of
from .blocks import F, expanded

FLAGS = {"true": True, "false": False}
SHORTEST_BUDGET = 0.1  # seconds left for the fit at least; the fit itself refuses too little time


def read_value(option: Option, value: Any) -> Any:
    """Convert a command-line value to a value of `FitOptions`. Raises `typer.BadParameter`."""
    if value is None:
        return None
    if option.unit in ("px", "s") or isinstance(option.rule, BatchSize):
        try:
            if option.unit is None:
                return value_of(option, str(value))
            return size_of(value) if option.unit == "px" else seconds_of(value)
        except ModelError as error:
            raise typer.BadParameter(str(error), param_hint=option.flag) from None
    if option.unit == "bytes":
        return value * MB
    return value


def varied(text: str) -> tuple[str, list[Any]]:
    """Parse "lr=1e-4,1e-2" into an option's name and values. Raises `typer.BadParameter`."""
    name, found, values = text.partition("=")
    if not found or not name.strip() or not all(value.strip() for value in values.split(",")):
        raise typer.BadParameter(
            f"'{text}' is not an option and its values, such as lr=1e-4,1e-2", param_hint="--vary"
        )
    name = name.strip().replace("-", "_")
    return name, [_varied_value(name, value.strip()) for value in values.split(",")]


def varied_options(texts: list[str]) -> dict[str, list[Any]]:
    """Parse the texts of all --vary. Raises `typer.BadParameter` for an option given twice."""
    given = [varied(text) for text in texts]
    if len({name for name, _ in given}) < len(given):
        raise typer.BadParameter(
            "an option is given twice; give all its values at once, such as lr=1e-4,1e-3",
            param_hint="--vary",
        )
    return dict(given)


def _varied_value(name: str, text: str) -> Any:
    option = OPTIONS.get(name)
    if option and option.annotation.startswith("bool") and text in FLAGS:
        return FLAGS[text]
    if option and option.unit in ("px", "s"):
        return read_value(option, text)
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if option and option.unit == "bytes" and kind is int:
            return read_value(option, value)
        return value
    return text


def with_fit_options(*names: str) -> Callable[[F], F]:
    """Add the options `names` of a fit to a command; it gets them as the dict `options`."""

    block = {"options": [_parameter(OPTIONS[name]) for name in names]}

    def decorate(command: F) -> F:
        return expanded(command, block, lambda name, value: read_value(OPTIONS[name], value))

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """Return the parameter from which typer makes the option."""
    kind: Any = str
    limits: dict[str, Any] = {}
    if isinstance(option.rule, WholeNumber):
        kind, limits = int, {"min": option.rule.low, "max": option.rule.high}
    elif isinstance(option.rule, Number):  # `FitOptions` itself checks its limits
        kind = float
    flag = option.flag
    if option.annotation.startswith("bool"):
        kind, flag = bool, f"{flag}/{flag.replace('--', '--no-', 1)}"
    shown = typer.Option(
        flag,
        help=option.described,
        metavar={"px": "N|HxW", "s": "TIME", "bytes": "MB"}.get(
            option.unit or "", "N|auto" if isinstance(option.rule, BatchSize) else None
        ),
        **limits,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[Optional[kind] if option.default is None else kind, shown],
    )

"""Options that several commands share, as blocks: a command gets the values of one as a dict."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from .arguments import (
    Address,
    Device,
    Engine,
    Frames,
    Limit,
    NumGpus,
    Precision,
    Runtime,
    Smooth,
    Trust,
    Tta,
    Workers,
)

F = TypeVar("F", bound=Callable[..., Any])


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


_DEVICE = _parameter("device", Device, None)
_RUNTIME = _parameter("runtime", Runtime, "auto")
_PRECISION = _parameter("precision", Precision, None)
_TTA = _parameter("tta", Tta, None)
_TRUST = _parameter("trust", Trust, False)
# The name of a command's parameter -> the options in its place
BLOCKS: dict[str, list[inspect.Parameter]] = {
    "loading": [_DEVICE, _RUNTIME, _PRECISION, _TRUST],  # how an export is opened
    "predicting": [_DEVICE, _RUNTIME, _PRECISION, _TTA, _TRUST],  # and how it predicts
    "videos": [
        _parameter("frames", Frames, False),
        _parameter("smooth", Smooth, 0.0),
        _parameter("limit", Limit, None),
    ],
    "engines": [  # where work runs
        _parameter("engine", Engine, None),
        _parameter("workers", Workers, None),
        _parameter("address", Address, None),
        _parameter("num_gpus", NumGpus, 0),
    ],
}


def with_blocks(command: F) -> F:
    """Let a command have the options of each of `BLOCKS` that is among its parameters."""
    return expanded(command, BLOCKS, lambda name, value: value)


def expanded(
    command: F,
    blocks: Mapping[str, Sequence[inspect.Parameter]],
    read: Callable[[str, Any], Any],
) -> F:
    """Return the command with other parameters in place of some, whose values it gets as dicts.

    `blocks` are, by the name of a parameter, those in its place; `read` converts a value, given its
    name.
    """
    parameters: list[inspect.Parameter] = []
    used: dict[str, list[str]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        block = blocks.get(parameter.name)
        if block is None:
            parameters.append(parameter)
        else:
            parameters += block
            used[parameter.name] = [entry.name for entry in block]

    @wraps(command)
    def called(**given: Any) -> Any:
        values = {
            block: {name: read(name, given.pop(name)) for name in names}
            for block, names in used.items()
        }
        return command(**given, **values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    called.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return called  # type: ignore[return-value]  # typer calls it by keyword only

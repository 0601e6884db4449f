"""Depthwise convolutions of a training in bfloat16 on a CPU: in float32 where that is quicker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def faster_depthwise(device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass on `device`: empty but for autocast on a CPU."""
    reduced = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return _Float32Depthwise() if reduced else nullcontext()


class _Float32Depthwise(TorchFunctionMode):
    """Compute depthwise convolutions that oneDNN has no fast bfloat16 gradient for in float32.

    Those are all but 3x3 ones of stride 1. Measured on 2 cores with AMX, (16, 96, 48, 48), 3x3,
    stride 2: gradients take 48 ms in bfloat16 and 2 ms in float32; 7x7, stride 1: 108 and 34 ms.
    The result has the dtype that autocast would give it. Convolutions without a gradient are left
    as they are.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d or not _is_slow(*args, **kwargs):
            return func(*args, **kwargs)
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            args, kwargs = (
                [_single(value) for value in args],
                {name: _single(value) for name, value in kwargs.items()},
            )
            return func(*args, **kwargs).to(dtype)


def _is_slow(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> bool:
    """Return whether the gradient of these arguments of `conv2d` is slow in bfloat16."""
    if groups == 1 or weight.shape[1] != 1 or not (input.requires_grad or weight.requires_grad):
        return False
    simple = tuple(weight.shape[2:]) == (3, 3) and _is_one(stride) and _is_one(dilation)
    return not simple or len(weight) != groups


def _is_one(value: int | Sequence[int]) -> bool:
    return value == 1 if isinstance(value, int) else all(each == 1 for each in value)


def _single(value: Any) -> Any:
    """Return a tensor in float32, and anything else unchanged."""
    return value.float() if isinstance(value, torch.Tensor) else value

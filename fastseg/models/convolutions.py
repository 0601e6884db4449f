"""Convolutions on a CPU whose gradients PyTorch computes slowly, or by writing past its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

CHANNELS_OF_BLOCK = 16  # in which oneDNN computes; an AVX2 machine has 8


def cpu_convolutions(device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass on `device`: empty but for gradients on a CPU.

    Strided 1x1 convolutions of few channels, as in the first layers of RepVGG, MobileOne and
    FastViT, get their input thinned out and no stride: their gradients damage memory otherwise
    (oneDNN issue 6035: crashes, hangs, wrong values). In bfloat16, gradients of most depthwise
    convolutions are computed in float32: oneDNN has fast bfloat16 ones for 3x3 and stride 1 only.
    Measured on 2 cores with AMX, input (16, 96, 48, 48): 3x3 of stride 2 takes 48 ms in bfloat16
    and 2 ms in float32; 7x7 of stride 1, 108 and 34 ms.
    """
    return _Convolutions() if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()


class _Convolutions(TorchFunctionMode):
    """Replaces the `conv2d` calls that `cpu_convolutions` names."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and torch.is_grad_enabled():
            found = _replaced(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _replaced(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return `conv2d` of its arguments, or None where PyTorch's own gradient is used."""
    if isinstance(padding, str):
        return None
    geometry = _pair(stride), _pair(padding), _pair(dilation)
    if groups > 1 and weight.shape[1] == 1 and torch.is_autocast_enabled("cpu"):
        return _depthwise(input, weight, bias, geometry, groups)
    (down, right), margins, _ = geometry
    is_pointwise = tuple(weight.shape[2:]) == (1, 1) and margins == (0, 0) and groups == 1
    if is_pointwise and max(down, right) > 1 and weight.shape[1] < CHANNELS_OF_BLOCK:
        return F.conv2d(input[..., ::down, ::right], weight, bias)
    return None


def _depthwise(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: tuple[tuple[int, int], ...],
    groups: int,
) -> torch.Tensor | None:
    """Return `conv2d` of its arguments, or None where PyTorch's own gradient is fast."""
    stride, _, dilation = geometry
    small = tuple(weight.shape[2:]) == (3, 3) and dilation == (1, 1) and len(weight) == groups
    if small and stride == (1, 1):
        return None
    dtype = torch.get_autocast_dtype("cpu")
    return _Depthwise.apply(
        input.to(dtype),
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        geometry,
        groups,
        small,
    )


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are computed in float32.

    With `small` kernels, that of the weight is fast in the dtype of the input.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: tuple[tuple[int, int], ...],
        groups: int,
        small: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.groups, ctx.small = geometry, groups, small
        return F.conv2d(input, weight, bias, *geometry, groups)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, *_ = ctx.needs_input_grad

        def gradients(
            gradient: torch.Tensor, input: torch.Tensor, *wanted: bool
        ) -> Sequence[torch.Tensor | None]:
            return torch.ops.aten.convolution_backward(
                gradient,
                input,
                weight.to(input.dtype),
                [len(weight)],
                *ctx.geometry,
                False,
                [0, 0],
                ctx.groups,
                wanted,
            )

        if ctx.small:
            # The gradient of the input does not depend on its values.
            shaped = torch.empty_like(input, dtype=torch.float32)
            found = [
                gradients(gradient.float(), shaped, of_input, False, False)[0],
                *gradients(gradient, input, False, of_weight, of_bias)[1:],
            ]
        else:
            found = list(gradients(gradient.float(), input.float(), of_input, of_weight, of_bias))
        found = [None if each is None else each.to(input.dtype) for each in found]
        return (*found, None, None, None)

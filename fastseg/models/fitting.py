"""Which sizes of images a timm backbone takes: found by trying, on shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import ModelError, brief
from .backbones import backbone_config
from .conversion import carries_weights
from .pyramid import FIRST, Size, maps_of

MAPS = 4  # of a transformer whose blocks all have one stride
# Inputs are padded to one of these times the backbone's stride: windows have 7, 8 or 12 cells, and
# some are halved again.
CELLS = (1, 2, 4, 7, 8, 12, 14, 16)
LARGEST = 512  # px; a larger multiple wastes more computation than it serves
# timm's options by which a backbone takes images of other sizes than its own, the best first.
FLEXIBLE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
# What timm raises for sizes and options that a backbone cannot take. Anything else is a bug.
REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)

_unknown: set[tuple[str, str]] = set()  # (module of timm, option) that no backbone there takes


def plan_pyramid(
    arch: str, channels: int, size: Size, keeps_weights: bool = True
) -> dict[str, Any]:
    """Return the arguments of `pyramid.Pyramid` for the backbone `arch` and images of `size`.

    Tried in this order, on torch's current default device: a backbone that takes any size, one
    built for `size` (images of others are resized to it), the backbone at its own size. With
    `keeps_weights`, only what timm's pretrained weights fit, resampled at most. Raises `ModelError`
    if none works, and `RuntimeError` for operators that the device lacks.
    """
    trial = _Trial(arch, channels, keeps_weights)
    for plan in chain(_flexible(trial, size), _fixed(trial, size)):
        return plan
    own = "x".join(map(str, backbone_config(arch).input_size[-2:]))
    raise ModelError(
        f"backbone '{arch}' does not take images of {size[0]}x{size[1]} px, nor its own size "
        f"{own}{f' ({brief(trial.failure)})' if trial.failure else ''}; "
        "another backbone: fastseg backbones",
        "unsupported-backbone",
    ) from trial.failure


@contextmanager
def shapes_only() -> Iterator[None]:
    """Create tensors on the meta device in a block: no memory, no values, no computation."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Leaves out the initialisation of parameters on the meta device, most of the time of a build.

    Without values, it has no effect.
    """

    METHODS = frozenset(
        {"normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_"}
    )

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        first = args[0] if args else None
        is_filled = getattr(function, "__name__", "") in self.METHODS
        if is_filled and isinstance(first, nn.Parameter) and first.is_meta:
            return first
        return function(*args, **(kwargs or {}))


class _Trial:
    """Tries one backbone, and keeps the first refusal."""

    def __init__(self, arch: str, channels: int, keeps_weights: bool):
        self.arch, self.channels, self.keeps_weights = arch, channels, keeps_weights
        self.indices: list[int] | None = None
        self.failure: Exception | None = None

    def body(self, options: Mapping[str, Any]) -> nn.Module | None:
        """Return the backbone that is built with `options`, or None if it refuses them."""
        module = family_of(self.arch)
        if any((module, name) in _unknown for name in options):
            return None
        try:
            if self.indices is None:
                self.indices = _indices(maps_of(self.arch, self.channels, None, options))
            return maps_of(self.arch, self.channels, self.indices, options).eval()
        except REFUSALS as error:
            self.failure = self.failure or error
            if isinstance(error, TypeError) and "unexpected keyword" in str(error):
                _unknown.update((module, name) for name in options if f"'{name}'" in str(error))
            return None

    def takes(self, body: nn.Module | None, *sizes: Size) -> bool:
        """Return whether a backbone gives maps of the strides that it names, at all `sizes`."""
        try:
            with torch.no_grad():
                return body is not None and all(_maps_fit(body, self.channels, s) for s in sizes)
        except REFUSALS as error:
            if isinstance(error, RuntimeError) and "meta tensor" in str(error):
                raise  # not a refusal: another device can compute it
            self.failure = self.failure or error
            return False

    def fits_weights(self, options: Mapping[str, Any]) -> bool:
        """Return whether the backbone's pretrained weights fit it, if they are to be kept."""
        return not self.keeps_weights or carries_weights(self.arch, self.channels, options)

    def plan(self, options: Mapping[str, Any], multiple: int) -> dict[str, Any]:
        return {"indices": self.indices, "options": dict(options), "multiple": multiple}


def _flexible(trial: _Trial, size: Size) -> Iterator[dict[str, Any]]:
    for options in FLEXIBLE:
        body = trial.body(options)
        for multiple in _multiples(body):
            others = ((multiple, 2 * multiple), (3 * multiple, 2 * multiple))
            if not trial.takes(body, _up_to(size, multiple), *others):
                continue
            # Built for the training images, it resamples no tables for them, and ONNX needs none.
            built = {**options, "img_size": list(_up_to(size, multiple))}
            is_built = trial.takes(trial.body(built), _up_to(size, multiple), *others)
            is_built = is_built and trial.fits_weights(built)
            yield trial.plan(built if is_built else options, multiple)


def _fixed(trial: _Trial, size: Size) -> Iterator[dict[str, Any]]:
    height, width = backbone_config(trial.arch).input_size[-2:]
    own = trial.body({})
    for multiple in _multiples(own):
        at = _up_to(size, multiple)
        for given, taken in ((list(at), at), (max(at), (max(at), max(at)))):
            options = {"img_size": given}
            if trial.takes(trial.body(options), taken) and trial.fits_weights(options):
                yield trial.plan({"img_size": given}, multiple) | {"fixed": list(taken)}
    if trial.takes(own, (height, width)):
        yield trial.plan({}, 1) | {"fixed": [height, width]}


def _maps_fit(body: nn.Module, channels: int, size: Size) -> bool:
    maps = body(torch.empty(2, channels, *size))
    is_last = getattr(body, "output_fmt", None) == "NHWC"
    return all(
        one.ndim == 4
        and all(
            abs(cells - side / stride) <= 1
            for cells, side in zip(one.shape[1:3] if is_last else one.shape[2:], size)
        )
        for one, stride in zip(maps, body.feature_info.reduction())
    )


def _indices(body: nn.Module) -> list[int]:
    """Return which maps to take: the last of each stride, or some of a transformer's blocks."""
    everything = getattr(getattr(body, "model", None), "feature_info", None)
    if isinstance(everything, list):  # of timm's FeatureGetterNet, which chose the last ones
        reductions, places = [info["reduction"] for info in everything], range(len(everything))
    else:
        reductions, places = body.feature_info.reduction(), body.feature_info.out_indices
    last = {stride: place for stride, place in zip(reductions, places) if stride >= 2**FIRST - 1}
    if len(last) > 1:
        return sorted(last.values())
    steps = min(MAPS, len(places))
    return [places[(step + 1) * len(places) // steps - 1] for step in range(steps)]


def _multiples(body: nn.Module | None) -> Sequence[int]:
    if body is None:
        return ()
    stride = max(body.feature_info.reduction())
    return [stride * cells for cells in CELLS if stride * cells <= LARGEST] or [stride]


def _up_to(size: Size, multiple: int) -> Size:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def family_of(arch: str) -> str:
    """Return the module of timm that has the backbone, such as "vision_transformer"."""
    import timm

    module = timm.models.model_entrypoint(arch.partition(".")[0]).__module__
    return module.rpartition(".")[2]

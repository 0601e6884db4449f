"""A network that takes images of any size, what it is built from, and ensembles of networks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..utils.device import autocast_dtype
from .backbones import IMAGENET


@dataclass(frozen=True)
class Spec:
    """What a `Network` is made from: enough to build it again without weights."""

    kind: str  # "segment" or "classify"
    arch: str  # timm name
    n_out: int
    decoder: str | None = None
    stride: int = 1  # inputs are padded to multiples of it
    options: Mapping = field(default_factory=dict)  # decoder or head arguments, JSON values only
    members: int = 1  # more than one: an ensemble of so many networks

    @property
    def has_masks(self) -> bool:
        """Whether the network gives logits for each pixel, not for each image."""
        return self.kind == "segment"

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))


class Network(nn.Module):
    """A model that takes any input size: pads to the stride, runs channels_last in the machine's best precision, crops.

    Input float (B, 3, H, W), normalised; output float32 logits (B, C, H, W), or (B, C) for classifiers.
    """

    def __init__(self, model: nn.Module, spec: Spec, mean=IMAGENET[0], std=IMAGENET[1]):
        super().__init__()
        self.model, self.spec = model, spec
        for parameter in model.parameters():
            if (
                parameter.ndim == 4
            ):  # Module.to(memory_format=...) would stumble over 5-dimensional ones
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.mean, self.std = tuple(mean), tuple(std)
        self.precision: str | None = None  # "float32", "bfloat16", or None: the machine's best

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x).__module__.startswith(
            "fastai"
        ):  # unwrap fastai tensor subclasses: torch.export refuses them
            x = x.as_subclass(torch.Tensor)
        height, width = x.shape[-2:]
        down, right = -height % self.spec.stride, -width % self.spec.stride
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        dtype = autocast_dtype(x.device, self.precision)
        with torch.autocast(
            x.device.type if dtype else "cpu",
            dtype=dtype or torch.bfloat16,
            enabled=dtype is not None,
        ):
            out = self.model(x)
        out = out.float()
        return out[..., :height, :width] if self.spec.has_masks else out

    @property
    def body(self) -> nn.Module:
        """The backbone, or an ensemble's backbones: what is pretrained, and frozen first."""
        if self.spec.members > 1:
            return nn.ModuleList([self._body_of(model) for model in self.model.models])
        return self._body_of(self.model)

    def _body_of(self, model: nn.Module) -> nn.Module:
        return (
            model[0] if not self.spec.has_masks or self.spec.decoder == "fastai" else model.encoder
        )


class Ensemble(nn.Module):
    """Several models of one form; the logarithm of the mean of their probabilities takes the place of logits."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log probabilities, float32 (B, C, ...)."""
        total = sum(model(x).float().softmax(dim=1) for model in self.models)
        return (total / len(self.models)).clamp_min(1e-12).log()


def ensemble(networks: Sequence[Network]) -> Network:
    """Join networks of equal form into one."""
    first = networks[0]
    joined = Network(
        Ensemble([network.model for network in networks]),
        replace(first.spec, members=len(networks)),
        first.mean,
        first.std,
    )
    joined.precision = first.precision
    return joined


def parameter_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """Split a `Network` for fastai: early backbone, late backbone, decoder or head, for `freeze` and sliced rates."""
    body = list(network.body.parameters())
    inside = {id(p) for p in body}
    head = [p for p in network.parameters() if id(p) not in inside]
    return [body[: len(body) // 2], body[len(body) // 2 :], head]

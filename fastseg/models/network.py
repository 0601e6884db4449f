"""The network of every learner and export: its spec, inputs of any size, ensembles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..utils.device import autocast_dtype
from .backbones import IMAGENET
from .convolutions import cpu_convolutions
from .pyramid import Pyramid

SMALLEST_PROBABILITY = 1e-12  # keeps the logarithm of a probability of 0 finite


@dataclass(frozen=True)
class Spec:
    """The description from which a `Network` is built. An export needs only it and the weights."""

    kind: str  # "segment" or "classify"
    arch: str  # timm name
    n_out: int  # classes
    decoder: str | None = None  # one of `utils.choices.DECODERS`; None for classifiers
    stride: int = 1  # px; inputs are padded to a multiple of it
    # arguments of the decoder's class or of the head, JSON values only
    options: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1  # networks of an ensemble; 1: no ensemble
    channels: int = 3  # of the input

    @property
    def has_masks(self) -> bool:
        """Whether the network gives logits for each pixel, not for each image."""
        return self.kind == "segment"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `Spec(**fields)` is the inverse."""
        fields = json.loads(json.dumps(asdict(self)))
        if self.channels == len(IMAGENET[0]):
            del fields["channels"]  # earlier versions read cards of ordinary images, too
        return fields


class Network(nn.Module):
    """A model for inputs of any size: it pads them to the stride, and crops the output.

    Input float (B, channels, H, W), normalised by `mean` and `std`; output float32 logits
    (B, C, H, W), or (B, C) for classifiers. Computes channels_last, in `precision`.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Spec,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
    ):
        super().__init__()
        self.model, self.spec = model, spec
        for parameter in model.parameters():
            # Module.to(memory_format=...) fails for models with 5-dimensional parameters
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.mean, self.std = tuple(mean), tuple(std)
        self.precision: str | None = None  # "float32", "bfloat16", or None: the machine's best

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, C, H, W), or (B, C), of `x`, float (B, channels, H, W)."""
        # unwrap fastai tensor subclasses: torch.export refuses them
        if type(x).__module__.startswith("fastai"):
            x = x.as_subclass(torch.Tensor)
        height, width = x.shape[-2:]
        with self._autocast(x.device), cpu_convolutions(x.device):
            out = self.model(self._padded(x))
        out = out if out.dtype == torch.float64 else out.float()
        return out[..., :height, :width] if self.spec.has_masks else out

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the backbone's deepest features of `x`, averaged over each image: float32 (B, D).

        Of an ensemble, they are those of its first member.
        """
        model = self.model.models[0] if self.spec.members > 1 else self.model
        body = self._body_of(model)
        pyramid = self._pyramid_of(model)
        with self._autocast(x.device):
            out = pyramid.maps(self._padded(x))[0] if pyramid else body(self._padded(x))
        deepest = out[-1] if isinstance(out, (list, tuple)) else out
        if deepest.ndim == 2:  # averaged already
            return deepest.float()
        count = getattr(getattr(body, "model", body), "num_features", deepest.shape[1])
        # some transformers give (B, H, W, D) or (B, tokens, D)
        axis = 1 if deepest.shape[1] == count else deepest.ndim - 1
        return deepest.float().movedim(axis, 1).flatten(2).mean(2)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (B, channels, H, W), padded to the stride, channels_last."""
        height, width = x.shape[-2:]
        down, right = -height % self.spec.stride, -width % self.spec.stride
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        return x.contiguous(memory_format=torch.channels_last)

    def _autocast(self, device: torch.device) -> torch.autocast:
        dtype = autocast_dtype(device, self.precision)
        return torch.autocast(
            device.type if dtype else "cpu",
            dtype=dtype or torch.bfloat16,
            enabled=dtype is not None,
        )

    @property
    def body(self) -> nn.Module:
        """The backbone, or all backbones of an ensemble: the part that can be frozen."""
        if self.spec.members > 1:
            return nn.ModuleList([self._body_of(model) for model in self.model.models])
        return self._body_of(self.model)

    @property
    def map_modules(self) -> list[nn.Module]:
        """The backbone's modules whose outputs may be feature maps, as they are computed."""
        models = self.model.models if self.spec.members > 1 else [self.model]
        pyramids = [self._pyramid_of(model) for model in models]
        return [
            module
            for model, pyramid in zip(models, pyramids)
            for module in (pyramid.taps if pyramid else self._body_of(model).modules())
        ]

    def _body_of(self, model: nn.Module) -> nn.Module:
        is_sequential = not self.spec.has_masks or self.spec.decoder == "fastai"
        if is_sequential:
            return model[0]
        # The projections of our own pyramid are trained with the head: they begin with random
        # weights.
        return model.encoder.model if self._pyramid_of(model) else model.encoder

    @staticmethod
    def _pyramid_of(model: nn.Module) -> Pyramid | None:
        encoder = getattr(model, "encoder", None)
        return encoder if isinstance(encoder, Pyramid) else None


class Ensemble(nn.Module):
    """Several models of equal form. Its logits are the logarithm of their mean probabilities."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log probabilities, float32 (B, C, ...), of `x`, float (B, channels, H, W)."""
        total = sum(model(x).float().softmax(dim=1) for model in self.models)
        return (total / len(self.models)).clamp_min(SMALLEST_PROBABILITY).log()


def ensemble(networks: Sequence[Network]) -> Network:
    """Return one network that averages the probabilities of `networks`, all of one form."""
    first = networks[0]
    joined = Network(
        Ensemble([network.model for network in networks]),
        replace(first.spec, members=len(networks)),
        first.mean,
        first.std,
    )
    joined.precision = first.precision
    return joined


def parameter_groups(network: Network) -> list[list[nn.Parameter]]:
    """Return the parameters as fastai's splitter does: early backbone, late backbone, the rest.

    fastai's `freeze` and its learning rates by group depend on this order.
    """
    body = list(network.body.parameters())
    in_body = {id(parameter) for parameter in body}
    head = [parameter for parameter in network.parameters() if id(parameter) not in in_body]
    return [body[: len(body) // 2], body[len(body) // 2 :], head]

"""timm backbones by name: U-Nets and other decoders over their features, classifiers, parameter groups.

Needs torch, timm and segmentation_models_pytorch; fastai only for its own architectures and heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ModelError, brief, choose
from ..utils.choices import DECODERS
from ..utils.device import autocast_dtype

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GOOD_BACKBONES = "mobilenetv2_100, resnet18, resnet34, efficientnet_b0, convnext_tiny"


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
        return out[..., :height, :width] if self.spec.kind == "segment" else out

    @property
    def body(self) -> nn.Module:
        """The backbone, or an ensemble's backbones: what is pretrained, and frozen first."""
        if self.spec.members > 1:
            return nn.ModuleList([self._body_of(model) for model in self.model.models])
        return self._body_of(self.model)

    def _body_of(self, model: nn.Module) -> nn.Module:
        return (
            model[0]
            if self.spec.kind == "classify" or self.spec.decoder == "fastai"
            else model.encoder
        )


def segmenter(
    arch: str,
    n_out: int,
    decoder: str = "unet",
    weights: str = "none",
    size: tuple[int, int] | None = None,
    **options,
) -> tuple[Network, str]:
    """Build a segmentation network of `decoder` over the timm backbone `arch`; return it and its weights' origin.

    `options` go to the decoder's class: `LightUnet`, or one of segmentation_models_pytorch. `decoder="fastai"` gives fastai's DynamicUnet
    over a torchvision backbone and needs `size`. `weights`: see `weights.load_weights`.
    Raises `ModelError` for unknown names, backbones without a feature pyramid, unusable weights and unknown options.
    """
    choose("decoder", decoder, DECODERS)
    if decoder == "fastai":
        spec = Spec(
            "segment",
            arch,
            n_out,
            decoder,
            32,
            {"size": list(size or (256, 256)), "batchnorm": True, **options},
        )
    else:
        check_arch(arch)
        spec = Spec(
            "segment", arch, n_out, decoder, _stride(arch, decoder, n_out, options), options
        )
    return _weighted(spec, weights)


def classifier(arch: str, n_out: int, weights: str = "none", **options) -> tuple[Network, str]:
    """Build a classifier: the timm backbone `arch` under fastai's head; return it and its weights' origin.

    `options` go to fastai's `create_timm_model` (concat_pool, lin_ftrs, ps, ...) and, beyond it, to timm.
    """
    check_arch(arch)
    return _weighted(Spec("classify", arch, n_out, options=options), weights)


def build(spec: Spec) -> Network:
    """Build the network that `spec` describes, with random weights."""
    if spec.members > 1:
        return ensemble([build(replace(spec, members=1)) for _ in range(spec.members)])
    if spec.decoder == "fastai":
        return Network(_dynamic_unet(spec), spec)
    config = backbone_config(spec.arch)
    try:
        model = _decoder_model(spec) if spec.kind == "segment" else _classifier_model(spec)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        IndexError,
    ) as error:
        reason = brief(error)
        if "unexpected keyword" in reason:
            raise ModelError(
                f"an option given to {spec.decoder or spec.arch} does not exist there ({reason}); remove it",
                "unknown-option",
            ) from error
        raise ModelError(
            f"backbone '{spec.arch}' does not work with {spec.decoder or 'a classifier'} "
            f"({reason}); try one of {GOOD_BACKBONES}",
            "unsupported-backbone",
        ) from error
    return Network(model, spec, config.mean, config.std)


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


def _decoder_model(spec: Spec) -> nn.Module:
    import segmentation_models_pytorch as smp

    from .decoders import LightUnet, Merged

    model_class = (
        LightUnet if spec.decoder == "light" else smp.MODEL_ARCHITECTURES_MAPPING[spec.decoder]
    )
    options = {"encoder_name": f"tu-{spec.arch}", **_backbone_options(spec.arch), **spec.options}
    groups = options.pop("merge", None)
    classes = spec.n_out if groups is None else sum(map(len, groups))
    model = model_class(encoder_weights=None, classes=classes, **options)
    return model if groups is None else Merged(model, groups)


def _classifier_model(spec: Spec) -> nn.Module:
    from fastai.vision.learner import create_timm_model

    return create_timm_model(spec.arch, spec.n_out, pretrained=False, **spec.options)[0]


def _dynamic_unet(spec: Spec) -> nn.Module:
    """Return fastai's DynamicUnet, with batch normalisation in its decoder unless the spec is of an export written before 0.6.

    fastai's default decoder has none: from random weights, Adam's first steps at a usual rate multiply its activations a thousand
    times. The last layer stays a plain convolution, as fastai's default is: normalised logits would limit the confidence.
    """
    from fastai.layers import ConvLayer, NormType
    from fastai.vision.learner import create_unet_model, model_meta

    supported = {arch.__name__: arch for arch in model_meta}
    if spec.arch not in supported:
        raise ModelError(
            f"--decoder fastai works with {', '.join(supported)}, not '{spec.arch}': "
            "choose one of them, or another decoder such as unet",
            "unsupported-backbone",
        )
    options = dict(spec.options)
    size = tuple(options.pop("size"))
    if not options.pop("batchnorm", False):
        return create_unet_model(
            supported[spec.arch], spec.n_out, size, pretrained=False, **options
        )
    model = create_unet_model(
        supported[spec.arch],
        spec.n_out,
        size,
        pretrained=False,
        norm_type=NormType.Batch,
        **options,
    )
    last = max(place for place, layer in enumerate(model.layers) if isinstance(layer, ConvLayer))
    model.layers[last] = ConvLayer(
        model.layers[last][0].in_channels, spec.n_out, ks=1, act_cls=None, norm_type=None
    )
    return model


def _backbone_options(arch: str) -> dict:
    # Window attention is built for one input size unless told otherwise.
    return {"strict_img_size": False} if arch.startswith(("swin_", "swinv2_", "swin_s3")) else {}


def check_arch(arch: str) -> None:
    """Raise `ModelError`, naming the nearest names, if timm has no model called `arch` (a tag after a dot is allowed)."""
    import timm

    name, _, tag = arch.partition(".")
    try:
        choose("backbone", name, timm.list_models())
    except ModelError as error:
        raise ModelError(f"{error}; good first choices are {GOOD_BACKBONES}", error.code) from None
    if tag and arch not in timm.list_pretrained(f"{name}.*"):
        choose("backbone", arch, timm.list_pretrained(f"{name}.*"))


def backbone_config(arch: str):
    """Return timm's pretrained_cfg of `arch`: its mean and std are the normalisation that its weights expect."""
    import timm
    from timm.models import PretrainedCfg

    return timm.get_pretrained_cfg(arch, allow_unregistered=True) or PretrainedCfg()


def _stride(arch: str, decoder: str, n_out: int, options: Mapping) -> int:
    """Find, without computing anything where torch allows it, the smallest padding multiple that the network takes.

    Raises `ModelError` if the backbone has no feature pyramid or the decoder cannot use it.
    """
    try:
        return _stride_on("meta", arch, decoder, n_out, options)
    except ModelError as error:
        if error.__cause__ is None:
            raise
        return _stride_on(
            "cpu", arch, decoder, n_out, options
        )  # some torch versions cannot lay every family out on the meta device


def _stride_on(device: str, arch: str, decoder: str, n_out: int, options: Mapping) -> int:
    import timm

    refusal = (
        f"backbone '{arch}' has no feature pyramid (no maps at several scales), which the {decoder} decoder "
        f"needs; try one of {GOOD_BACKBONES}, or a hierarchical transformer such as swin_tiny_patch4_window7_224"
    )
    with torch.device(device), torch.no_grad():
        try:
            features = timm.create_model(arch, features_only=True, **_backbone_options(arch))
            reductions = features.feature_info.reduction()
        except (
            Exception
        ) as error:  # families without feature extraction fail in their own many ways
            raise ModelError(refusal, "unsupported-backbone") from error
        if len(set(reductions)) < 4:
            raise ModelError(refusal, "unsupported-backbone")
        return padding_of(Spec("segment", arch, n_out, decoder, 1, options))


def padding_of(spec: Spec) -> int:
    """Return the smallest multiple of px that a segmentation network's inputs must be padded to, trying it on the device in use.

    Raises `ModelError` if there is none up to 384.
    """
    with torch.no_grad():
        network = build(spec).eval()
        failure: Exception | None = None
        for stride in (32, 64, 96, 128, 160, 192, 224, 256, 320, 384):
            try:
                shape = network(torch.empty(2, 3, stride, 2 * stride)).shape
                if shape[-2:] == (stride, 2 * stride):
                    return stride
            except Exception as error:  # windows that do not fit raise whatever they like
                failure = error
    raise ModelError(
        f"backbone '{spec.arch}' does not work with the {spec.decoder} decoder"
        f"{f' ({brief(failure)})' if failure else ''}; try one of {GOOD_BACKBONES}",
        "unsupported-backbone",
    ) from failure


def parameter_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """Split a `Network` for fastai: early backbone, late backbone, decoder or head, for `freeze` and sliced rates."""
    body = list(network.body.parameters())
    inside = {id(p) for p in body}
    head = [p for p in network.parameters() if id(p) not in inside]
    return [body[: len(body) // 2], body[len(body) // 2 :], head]


def _weighted(spec: Spec, weights: str) -> tuple[Network, str]:
    from .weights import load_weights

    network = build(spec)
    return network, load_weights(network, weights)

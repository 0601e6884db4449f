"""Build networks: a timm backbone with a decoder or a classifier's head, with random or pretrained weights.

Needs torch, timm and segmentation_models_pytorch; fastai only for its own architectures and heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from ..errors import ModelError, brief, choose
from ..utils.choices import DECODERS
from .backbones import GOOD_BACKBONES, backbone_config, backbone_options, check_arch
from .network import Network, Spec, ensemble
from .weights import load_weights


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


def _weighted(spec: Spec, weights: str) -> tuple[Network, str]:
    network = build(spec)
    return network, load_weights(network, weights)


def build(spec: Spec) -> Network:
    """Build the network that `spec` describes, with random weights."""
    if spec.members > 1:
        return ensemble([build(replace(spec, members=1)) for _ in range(spec.members)])
    if spec.decoder == "fastai":
        return Network(_dynamic_unet(spec), spec)
    config = backbone_config(spec.arch)
    try:
        model = _decoder_model(spec) if spec.has_masks else _classifier_model(spec)
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


def _decoder_model(spec: Spec) -> nn.Module:
    import segmentation_models_pytorch as smp

    from .decoders import OWN, Merged

    model_class = OWN.get(spec.decoder) or smp.MODEL_ARCHITECTURES_MAPPING[spec.decoder]
    options = {"encoder_name": f"tu-{spec.arch}", **backbone_options(spec.arch), **spec.options}
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
            features = timm.create_model(arch, features_only=True, **backbone_options(arch))
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

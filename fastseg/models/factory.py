"""Build networks: a timm backbone with a decoder or a classification head, and its weights.

Needs torch, timm and segmentation_models_pytorch; fastai only for its own architectures and heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import ModelError, brief, choose
from ..utils.choices import DECODERS
from .backbones import GOOD_BACKBONES, IMAGENET, backbone_config, backbone_options, check_arch
from .fitting import plan_pyramid, shapes_only
from .network import Network, Spec, ensemble
from .pyramid import registered
from .weights import load_weights

# Inputs are padded to a multiple of one of these, in px. 32 is the deepest level of most backbones;
# the others are the windows of transformers (timm's are built for inputs of 160 to 384 px).
STRIDES = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384)
FASTAI_STRIDE = 32  # of DynamicUnet over torchvision's backbones
MIN_LEVELS = 4  # scales: decoders merge features of 1/4, 1/8, 1/16 and 1/32, or finer ones
# px; a backbone that needs inputs padded to more may compute less when it is built for their size.
LARGE_STRIDE = 96
USUAL_SIZE = (256, 256)  # px, where the size of images is not known

Size = tuple[int, int]  # (height, width) in px

# Errors of timm, segmentation_models_pytorch and fastai for options and backbones they cannot
# use; timm raises KeyError for unknown layer names. Any other error is a bug.
BUILD_ERRORS = (AssertionError, KeyError, RuntimeError, TypeError, ValueError)


def segmenter(
    arch: str,
    n_out: int,
    decoder: str = "unet",
    weights: str = "none",
    size: Size | Callable[[], Size] | None = None,
    n_in: int = 3,
    **options: Any,
) -> tuple[Network, str]:
    """Build a segmentation network of `decoder` over the timm backbone `arch`.

    `n_in` is the number of input channels; weights for three are adapted to others. Returns the
    network and a text with the origin of its weights. `options` go to the decoder's class:
    `LightUnet`, or one of segmentation_models_pytorch. `decoder="fastai"` gives fastai's
    DynamicUnet over a torchvision backbone. `size`, (height, width) in px, is that of the images
    that it trains on, or a function that returns it: DynamicUnet and some backbones are built for
    it (others than DynamicUnet then take images of any size). `weights`: see
    `weights.load_weights`. Raises `ModelError` for unknown names and options, backbones that give
    no feature maps and unusable weights.
    """
    choose("decoder", decoder, DECODERS)
    if decoder == "fastai":
        options = {"size": list(_size_of(size)), "batchnorm": True, **options}
        spec = Spec("segment", arch, n_out, decoder, FASTAI_STRIDE, options, channels=n_in)
    else:
        check_arch(arch)
        spec = Spec("segment", arch, n_out, decoder, 1, options, channels=n_in)
        spec = fitted(spec, size, keeps_weights=weights != "none")
    network = build(spec)
    return network, load_weights(network, weights)


def classifier(
    arch: str, n_out: int, weights: str = "none", n_in: int = 3, **options: Any
) -> tuple[Network, str]:
    """Build a classifier: the timm backbone `arch` with fastai's head.

    `n_in` is the number of input channels, see `segmenter`. Returns the network and a text with the
    origin of its weights. `options` go to fastai's `create_timm_model` (concat_pool, lin_ftrs, ps,
    ...), and from there to timm.
    Raises `ModelError` for unknown names and options and unusable weights.
    """
    check_arch(arch)
    network = build(Spec("classify", arch, n_out, options=options, channels=n_in))
    return network, load_weights(network, weights)


def build(spec: Spec) -> Network:
    """Build the network that `spec` describes, with random weights.

    Raises `ModelError` for options that the decoder or backbone does not take, and for backbones
    that the decoder cannot use.
    """
    if spec.members > 1:
        return ensemble([build(replace(spec, members=1)) for _ in range(spec.members)])
    if spec.decoder == "fastai":
        return _network(_dynamic_unet(spec), spec)
    config = backbone_config(spec.arch)
    try:
        model = _decoder_model(spec) if spec.has_masks else _classifier_model(spec)
    except BUILD_ERRORS as error:
        reason = brief(error)
        if "unexpected keyword" in reason:
            raise ModelError(
                f"an option given to {spec.decoder or spec.arch} does not exist there "
                f"({reason}); remove it",
                "unknown-option",
            ) from error
        raise ModelError(
            f"backbone '{spec.arch}' does not work with {spec.decoder or 'a classifier'} "
            f"({reason}); try one of {GOOD_BACKBONES}",
            "unsupported-backbone",
        ) from error
    return _network(model, spec, config.mean, config.std)


def _network(
    model: nn.Module,
    spec: Spec,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> Network:
    """Return the network of a model, normalised as RGB, or the same for each of other channels.

    A learner replaces the latter by what it measures.
    """
    if spec.channels != len(mean):
        mean, std = ([sum(v) / len(v)] * spec.channels for v in (mean, std))
    return Network(model, spec, mean, std)


def _decoder_model(spec: Spec) -> nn.Module:
    import segmentation_models_pytorch as smp  # here: classifiers need no decoders

    from .decoders import OWN, Merged

    decoder = spec.decoder or ""
    model_class = OWN.get(decoder) or smp.MODEL_ARCHITECTURES_MAPPING[decoder]
    options = dict(spec.options)
    groups, plan = options.pop("merge", None), options.pop("pyramid", None)
    classes = spec.n_out if groups is None else sum(map(len, groups))
    build_it = partial(
        model_class, encoder_weights=None, in_channels=spec.channels, classes=classes
    )
    if plan is None:
        name = f"tu-{spec.arch}"
        model = build_it(**{"encoder_name": name, **backbone_options(spec.arch), **options})
    else:
        with registered(spec.arch, spec.channels, plan) as name:
            model = build_it(**{**options, "encoder_name": name})
    return model if groups is None else Merged(model, groups)


def _classifier_model(spec: Spec) -> nn.Module:
    from fastai.vision.learner import create_timm_model

    options = {"n_in": spec.channels, **spec.options}
    return create_timm_model(spec.arch, spec.n_out, pretrained=False, **options)[0]


def _dynamic_unet(spec: Spec) -> nn.Module:
    """Return fastai's DynamicUnet, with batch normalisation in its decoder.

    fastai's default decoder has no normalisation: with random weights, the first steps of Adam at a
    usual learning rate multiply its activations by a thousand. The last layer stays a plain
    convolution, as in fastai's default: normalised logits would limit the confidence. Specs of
    exports written before 0.6 have no option "batchnorm"; theirs is fastai's default decoder.
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
    options = {"n_in": spec.channels, **spec.options}
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


def _size_of(size: Size | Callable[[], Size] | None) -> Size:
    return (size() if callable(size) else size) or USUAL_SIZE


def fitted(
    spec: Spec, size: Size | Callable[[], Size] | None = None, keeps_weights: bool = True
) -> Spec:
    """Return `spec`, which has the stride 1, with its stride and how its backbone gives maps.

    Backbones with a feature pyramid keep it; others, and those that pad inputs of `size` much, get
    a pyramid of ours (`pyramid.Pyramid`), which pretrained weights fit if it `keeps_weights`.
    Raises `ModelError` if neither works.
    """
    try:
        with shapes_only():
            return _fitted(spec, size, keeps_weights)
    except (ModelError, RuntimeError) as error:
        if isinstance(error, ModelError) and error.__cause__ is None:
            raise
    # The meta device of some torch versions (2.9 is one) cannot run every backbone. The CPU can; if
    # the network itself has the fault, it fails on the CPU again with the same error.
    with torch.device("cpu"):
        return _fitted(spec, size, keeps_weights)


def _fitted(spec: Spec, size: Size | Callable[[], Size] | None, keeps_weights: bool) -> Spec:
    native: Spec | None = None
    refusal: ModelError | None = None
    try:
        _check_pyramid(spec.arch, spec.decoder or "")
        native = replace(spec, stride=padding_of(spec))
        if native.stride <= LARGE_STRIDE:
            return native
    except ModelError as error:
        if error.code != "unsupported-backbone":
            raise
        refusal = error
    size = _size_of(size)
    try:
        plan = plan_pyramid(spec.arch, spec.channels, size, keeps_weights)
        own = replace(spec, options={**spec.options, "pyramid": plan})
        own = replace(own, stride=padding_of(own))
    except ModelError as error:
        if native is None:
            raise error from (error.__cause__ or refusal)
        return native
    if native is not None and _pixels(size, native.stride) <= _pixels(size, plan["multiple"]):
        return native
    return own


def _pixels(size: Size, multiple: int) -> int:
    """Return the pixels of an image of `size` that is padded to a multiple."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height * width


def _check_pyramid(arch: str, decoder: str) -> None:
    """Raise `ModelError` unless timm gives the backbone's features at `MIN_LEVELS` scales."""
    import timm

    refusal = ModelError(
        f"backbone '{arch}' has no feature pyramid (no maps at several scales), which the "
        f"{decoder} decoder needs; try one of {GOOD_BACKBONES}",
        "unsupported-backbone",
    )
    try:
        features = timm.create_model(arch, features_only=True, **backbone_options(arch))
    except (AssertionError, RuntimeError) as error:
        # timm's refusals: assert not kwargs.pop("features_only"), or RuntimeError("features_only
        # not implemented for ..."). It accepts most families, even those with one scale only.
        if isinstance(error, RuntimeError) and "features_only" not in str(error):
            raise
        raise refusal from None
    if len(set(features.feature_info.reduction())) < MIN_LEVELS:
        raise refusal


def padding_of(spec: Spec) -> int:
    """Return the smallest of `STRIDES` that inputs of a segmentation network can be padded to.

    The network of `spec`, whose own stride is 1, is tried on torch's current default device.
    Raises `ModelError` if none of them works.
    """
    failure: Exception | None = None
    with torch.no_grad():
        network = build(spec).eval()
        for stride in STRIDES:
            try:
                shape = network(torch.empty(2, spec.channels, stride, 2 * stride)).shape
            except (AssertionError, RuntimeError) as error:
                # Window attention and position tables that do not fit a size: measured over 334
                # backbones of timm 1.0.31 with unet, and 15 with all decoders, no other kinds.
                failure = error
                continue
            if shape[-2:] == (stride, 2 * stride):
                return stride
    raise ModelError(
        f"backbone '{spec.arch}' does not work with the {spec.decoder} decoder"
        f"{f' ({brief(failure)})' if failure else ''}; try one of {GOOD_BACKBONES}",
        "unsupported-backbone",
    ) from failure

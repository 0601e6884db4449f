"""Pretrained weights: ImageNet's from timm's hub, or a file's, matched by name and shape."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..data.reading import RGB
from ..errors import ModelError, brief
from ..utils.choices import check_weights
from ..utils.hub import offline_unless_reachable
from .backbones import backbone_config
from .conversion import converted
from .network import Network
from .pyramid import size_options

log = logging.getLogger(__name__)

# Share of the backbone's tensors that a file must match. Files of other backbones match a few by
# chance; a file from another version of timm misses a few. A convention between the two.
MIN_MATCHED = 0.5

# Prefixes that training code adds to the names of a backbone's tensors.
PREFIXES = (
    "",
    "module.",
    "backbone.",
    "encoder.",
    "model.",
    "encoder.model.",
    "model.encoder.",
    "model.encoder.model.",
    "0.",
    "0.model.",
    "model.0.",
    "model.0.model.",
)


def load_weights(network: Network, weights: str) -> str:
    """Load pretrained weights into `network` and return a text with their origin.

    `weights` is "auto" (ImageNet from timm's hub; random, with a warning, if it is out of reach),
    "imagenet" (the same, but an error if it is out of reach), "none", or a .safetensors, .pth or
    .pt file. Raises `ModelError` for weights that cannot be fetched, read, or matched.
    """
    if weights == "none":
        return "random"
    if weights not in ("auto", "imagenet"):
        return _load_file(network, Path(weights))
    try:
        return _load_imagenet(network)
    except (OSError, RuntimeError) as error:
        # OSError: no network, no such file on the hub; RuntimeError: timm has no pretrained tag
        reason = "the hub does not answer" if isinstance(error, OSError) else brief(error)
        if weights == "imagenet":
            raise ModelError(
                f"ImageNet weights of {network.spec.arch} could not be fetched ({reason}); pass "
                "--weights FILE with a local safetensors or pth file, or --weights none to start "
                "from random weights",
                "not-fetched",
            ) from error
        log.warning(
            "ImageNet weights of %s could not be fetched; training starts from random weights and "
            "needs more epochs. To change that: pass --weights FILE with a local safetensors or "
            "pth file.",
            network.spec.arch,
        )
        log.debug("the reason: %s", reason)
        return "random (ImageNet weights out of reach)"


def _load_imagenet(network: Network) -> str:
    spec = network.spec
    if spec.decoder == "fastai":
        import torchvision

        matched, wanted = _copy_matching(
            torchvision.models.get_model(spec.arch, weights="DEFAULT").state_dict(), network
        )
        return f"torchvision {spec.arch} ({matched} of {wanted} backbone tensors)"
    import timm

    config = backbone_config(spec.arch)
    with offline_unless_reachable():
        model = timm.create_model(spec.arch, pretrained=True, in_chans=spec.channels)
    matched, wanted = _copy(model.state_dict(), network)
    if not matched:
        raise ModelError(
            f"none of the ImageNet weights of {spec.arch} fit its backbone here; "
            "pass --weights none",
            "weights-mismatch",
        )
    name = f"{spec.arch.partition('.')[0]}.{config.tag or 'default'}"
    return f"timm {name} ({matched} of {wanted} backbone tensors)"


def fetched(archs: Iterable[str]) -> set[str]:
    """Return the backbones whose ImageNet weights can be had here; they are fetched."""
    import timm

    found = set()
    with offline_unless_reachable():
        for arch in archs:
            try:
                timm.create_model(arch, pretrained=True)
            except (OSError, RuntimeError) as error:
                log.debug("%s: %s", arch, brief(error))
            else:
                found.add(arch)
    return found


def _load_file(network: Network, path: Path) -> str:
    check_weights(path)
    tensors = _read_tensors(path)
    matched, wanted = _copy(tensors, network)
    if matched < MIN_MATCHED * wanted:
        raise ModelError(
            f"{path}: {matched or 'none'} of its {len(tensors)} tensors fit the {wanted} of "
            f"{network.spec.arch}; is the file for another backbone? Set --arch to it",
            "weights-mismatch",
        )
    unused = len(tensors) - matched
    log.info(
        "%s: %s of the backbone loaded%s%s",
        path.name,
        f"all {wanted} tensors" if matched == wanted else f"{matched} of {wanted} tensors",
        "" if matched == wanted else f"; the file has none for the other {wanted - matched}",
        f"; {unused} in the file are not needed" if unused > 0 else "",
    )
    return f"{path.name} ({matched} of {wanted} backbone tensors)"


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name. Raises `ModelError` if it cannot be read."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # the readers raise many kinds of errors: damage, code in pickles, other formats
        raise ModelError(
            f"{path}: cannot be read as weights (damaged, or not tensors alone); "
            "give a complete safetensors file, or a pth file with only tensors",
            "damaged-weights",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        return {}
    return {
        name: tensor
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def _copy(tensors: dict[str, torch.Tensor], network: Network) -> tuple[int, int]:
    """Copy the tensors of timm's backbone that fit; convert them if not all do.

    Returns how many fitted, and how many the backbone has.
    """
    import timm

    spec = network.spec
    matched, wanted = _copy_matching(tensors, network)
    if matched >= wanted or spec.decoder == "fastai":
        return matched, wanted
    with torch.device("meta"):
        names = set(timm.create_model(spec.arch, pretrained=False).state_dict())
    bare = [
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in PREFIXES
    ]
    best = max(bare, key=lambda state: len(names & set(state))) or tensors
    state = converted(best, spec.arch, spec.channels, size_options(spec))
    return max(matched, _copy_matching(state, network)[0]), wanted


def _copy_matching(state: Mapping[str, torch.Tensor], network: Network) -> tuple[int, int]:
    """Copy the tensors of `state` that fit by name and shape into the network.

    Returns how many fitted, and how many the backbone has. Dots and underscores count as equal:
    timm renames "stages.0" to "stages_0" when it extracts features.
    """
    everything, body = network.state_dict(), network.body.state_dict()
    same = _fitting(state, everything)
    if len(same) > len(body) // 2:  # a fastseg model, with its decoder
        network.load_state_dict(same, strict=False)
        return len(same), len(everything)
    if network.spec.decoder == "fastai":  # fastai renames torchvision's layers, in their order
        import torchvision

        numbered = dict(zip(torchvision.models.get_model(network.spec.arch).state_dict(), body))
        state = {numbered.get(key, key): value for key, value in state.items()}
    given = {_with_dots(key): value for key, value in state.items()}
    names = {_with_dots(key): key for key in body}
    best: dict[str, torch.Tensor] = {}
    for theirs in PREFIXES:
        for ours in ("", "model."):
            renamed = {
                names.get(ours + key.removeprefix(theirs)): value
                for key, value in given.items()
                if key.startswith(theirs)
            }
            best = max(best, _fitting(renamed, body), key=len)
    network.body.load_state_dict(best, strict=False)
    return len(best), len(body)


def _fitting(
    state: Mapping[Any, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of `state` that have the name and shape of a wanted one.

    First convolutions of three channels are adapted to other numbers, as timm does: repeated, and
    scaled so that activations keep their size.
    """
    from timm.models import adapt_input_conv

    found = {}
    for key, value in state.items():
        if key not in wanted:
            continue
        out, channels, *kernel = (*wanted[key].shape, 0, 0)[:4]
        if (
            value.ndim == wanted[key].ndim == 4
            and value.shape != wanted[key].shape
            and value.shape == (out, RGB, *kernel)
        ):
            value = adapt_input_conv(channels, value)
        if value.shape == wanted[key].shape:
            found[key] = value
    return found


def _with_dots(key: str) -> str:
    return key.replace("_", ".")

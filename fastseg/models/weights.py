"""Pretrained weights for a network: ImageNet's from timm's hub, or a file; matched by name and shape, and reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import ModelError, brief
from ..utils.choices import check_weights
from .backbones import backbone_config
from .network import Network

log = logging.getLogger(__name__)

MATCHING = 0.5  # share of the backbone's tensors that a file must hold: with fewer it is another backbone's
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
)  # what trainers put before a backbone's names


def load_weights(network: Network, weights: str) -> str:
    """Load pretrained weights into `network` and return where they came from.

    `weights` is "auto" (ImageNet from timm's hub; random, with a warning, when it is out of reach), "imagenet" (the
    same, but an error when out of reach), "none", or a .safetensors, .pth or .pt file.
    Raises `ModelError` naming the remedies.
    """
    if weights == "none":
        return "random"
    if weights not in ("auto", "imagenet"):
        return _load_file(network, Path(weights))
    try:
        return _load_imagenet(network)
    except (
        OSError,
        RuntimeError,
    ) as error:  # no network, no such file on the hub, no pretrained tag
        reason = "the hub does not answer" if isinstance(error, OSError) else brief(error)
        remedies = "pass --weights FILE with a local safetensors or pth file, or --weights none to start from random weights"
        if weights == "imagenet":
            raise ModelError(
                f"ImageNet weights of {network.spec.arch} could not be fetched ({reason}); {remedies}",
                "not-fetched",
            ) from error
        log.warning(
            "ImageNet weights of %s could not be fetched; training starts from random weights and needs more "
            "epochs. To change that: pass --weights FILE with a local safetensors or pth file.",
            network.spec.arch,
        )
        log.debug("the reason: %s", reason)
        return "random (ImageNet weights out of reach)"


def _load_imagenet(network: Network) -> str:
    spec = network.spec
    if spec.decoder == "fastai":
        import torchvision

        matched, wanted = _match(
            torchvision.models.get_model(spec.arch, weights="DEFAULT").state_dict(), network
        )
        return f"torchvision {spec.arch} ({matched} of {wanted} backbone tensors)"
    import timm

    config = backbone_config(spec.arch)
    with offline_unless_reachable():
        model = timm.create_model(spec.arch, pretrained=True)
    matched, wanted = _match(model.state_dict(), network)
    if not matched:
        raise ModelError(
            f"none of the ImageNet weights of {spec.arch} fit its backbone here; pass --weights none",
            "weights-mismatch",
        )
    return f"timm {spec.arch.partition('.')[0]}.{config.tag or 'default'} ({matched} of {wanted} backbone tensors)"


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Ask the hub once; if it does not answer, use its local cache only: its own retries take most of a minute."""
    import httpx
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        httpx.head(constants.ENDPOINT, timeout=5)
    except httpx.HTTPError as error:
        log.debug("%s: %s", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _load_file(network: Network, path: Path) -> str:
    check_weights(path)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # the readers raise their own kinds for damage, code in pickles, wrong formats
        raise ModelError(
            f"{path}: cannot be read as weights (damaged, or not tensors alone); "
            "give a whole safetensors file, or a pth file that holds only tensors",
            "damaged-weights",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = (
        {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if isinstance(state, Mapping)
        else {}
    )
    matched, wanted = _match(tensors, network)
    if matched < MATCHING * wanted:
        raise ModelError(
            f"{path}: {matched or 'none'} of its {len(tensors)} tensors fit the {wanted} of {network.spec.arch}; "
            "is the file for another backbone? Set --arch to it",
            "weights-mismatch",
        )
    left = len(tensors) - matched
    log.info(
        "%s: %d tensors loaded; %d of the file unused, %d of the backbone without a match",
        path.name,
        matched,
        max(left, 0),
        max(wanted - matched, 0),
    )
    return f"{path.name} ({matched} of {wanted} backbone tensors)"


def _match(state: Mapping[str, torch.Tensor], network: Network) -> tuple[int, int]:
    """Copy the tensors of `state` that fit by name and shape; return how many did, and how many the backbone has.

    timm renames "stages.0" to "stages_0" when it extracts features, so names are compared with both separators made one.
    """
    whole, body = network.state_dict(), network.body.state_dict()
    same = {k: v for k, v in state.items() if k in whole and whole[k].shape == v.shape}
    if len(same) > len(body) // 2:  # a fastseg model: decoder and all
        network.load_state_dict(same, strict=False)
        return len(same), len(whole)
    if network.spec.decoder == "fastai":  # fastai numbers torchvision's layers, keeping their order
        import torchvision

        numbered = dict(zip(torchvision.models.get_model(network.spec.arch).state_dict(), body))
        state = {numbered.get(key, key): value for key, value in state.items()}
    given = {_plain(key): value for key, value in state.items()}
    names = {_plain(key): key for key in body}
    best: dict[str, torch.Tensor] = {}
    for theirs in PREFIXES:
        for ours in ("", "model."):
            renamed = {
                names.get(ours + key.removeprefix(theirs)): value
                for key, value in given.items()
                if key.startswith(theirs)
            }
            fitting = {
                key: value
                for key, value in renamed.items()
                if key and body[key].shape == value.shape
            }
            best = max(best, fitting, key=len)
    network.body.load_state_dict(best, strict=False)
    return len(best), len(body)


def _plain(key: str) -> str:
    return key.replace("_", ".")

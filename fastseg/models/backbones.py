"""timm's backbones: valid names, normalisation of their inputs, recommended ones."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError, choose

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of RGB from 0 to 1

# Recommended in errors: small, convolutional, with ImageNet weights and a pyramid of five scales.
GOOD_BACKBONES = "mobilenetv2_100, resnet18, resnet34, efficientnet_b0, convnext_tiny"

# Parts of the names of licences that forbid commercial use: Creative Commons' NC and research ones.
NON_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "apple-amlr")


def check_arch(arch: str) -> None:
    """Raise `ModelError`, naming the nearest names, if timm has no model `arch`.

    A tag of pretrained weights after a dot is allowed.
    """
    import timm

    name, _, tag = arch.partition(".")
    try:
        choose("backbone", name, timm.list_models())
    except ModelError as error:
        error.args = (f"{error}; good first choices are {GOOD_BACKBONES}",)
        raise
    if tag and arch not in timm.list_pretrained(f"{name}.*"):
        choose("backbone", arch, timm.list_pretrained(f"{name}.*"))


def backbone_config(arch: str) -> Any:
    """Return timm's `PretrainedCfg` of `arch`: mean, std and tag of its pretrained weights."""
    import timm
    from timm.models import PretrainedCfg

    return timm.get_pretrained_cfg(arch, allow_unregistered=True) or PretrainedCfg()


def backbone_options(arch: str) -> dict[str, Any]:
    """Return the arguments with which timm builds `arch` for inputs of any size."""
    # By default, Swin's window attention only accepts one input size.
    return {"strict_img_size": False} if arch.startswith(("swin_", "swinv2_", "swin_s3")) else {}


def licence_of(arch: str) -> str:
    """Return the licence of timm's weights of `arch`; "" if timm names none."""
    licence = backbone_config(arch).license or ""
    return "" if licence in ("unknown", "other") else licence


def is_non_commercial(licence: str) -> bool:
    """Return whether a licence's name says that it forbids commercial use."""
    return any(part in licence.lower() for part in NON_COMMERCIAL)


def licence_of_weights(arch: str, origin: str) -> str:
    """Return the licence of weights of timm's `arch` with this `origin`, and what it forbids.

    "" for random weights, and where timm names none. Of a file only its backbone is known: timm's
    licence holds if it is a copy of timm's weights.
    """
    licence = licence_of(arch)
    if not licence or origin.startswith(("random", "torchvision")):
        return ""
    if is_non_commercial(licence):
        licence += " (non-commercial use only)"
    return licence if origin.startswith("timm ") else f"{licence}, if they are timm's {arch}"

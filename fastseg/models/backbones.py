"""timm's backbones: valid names, normalisation of their inputs, recommended ones."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError, choose

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of RGB from 0 to 1

# Recommended in errors: small, convolutional, with ImageNet weights and a pyramid of five scales.
GOOD_BACKBONES = "mobilenetv2_100, resnet18, resnet34, efficientnet_b0, convnext_tiny"


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

"""timm's backbones: which names exist, how their inputs are normalised, and which are good first choices."""

from __future__ import annotations

from ..errors import ModelError, choose

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GOOD_BACKBONES = "mobilenetv2_100, resnet18, resnet34, efficientnet_b0, convnext_tiny"


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


def backbone_options(arch: str) -> dict:
    # Window attention is built for one input size unless told otherwise.
    return {"strict_img_size": False} if arch.startswith(("swin_", "swinv2_", "swin_s3")) else {}

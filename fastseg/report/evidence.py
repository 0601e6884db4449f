"""Where the network found its evidence for a class: maps computed by captum."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..inference.predictor import Predictor

SCALES = 4  # of the backbone's maps, from the deepest, that evidence for a mask is gathered from


def evidence(predictor: Predictor, small: np.ndarray, classes: list[int]) -> np.ndarray:
    """Return one map a class, float32 (len(classes), h, w) from 0 to 1, for an image uint8 (h, w, 3) at the card's size.

    For classification: Grad-CAM (Selvaraju et al., ICCV 2017) on the backbone's last feature map. For a mask, where gradients
    averaged over the whole image say little of a small object: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891), gradient
    times activation place by place, the mean over the backbone's `SCALES` deepest scales; a class's score is the sum of its
    logits over the pixels that are predicted to be it, or over all pixels where none is.
    """
    from captum.attr import LayerGradCam, LayerGradientXActivation

    network = predictor.network
    precision, network.precision = network.precision, "float32"
    try:
        x = predictor.normalised(torch.from_numpy(small.copy()[None])).requires_grad_()
        scales = _scales(network, x)
        if predictor.task.kind == "classify":
            cam = LayerGradCam(network, scales[0])
            found = [
                [cam.attribute(x, target=number, relu_attributions=True)] for number in classes
            ]
        else:
            cams = [
                LayerGradientXActivation(lambda batch: _masked(network(batch)), scale)
                for scale in scales[:SCALES]
            ]
            found = [
                [cam.attribute(x, target=number).sum(1, keepdim=True).relu() for cam in cams]
                for number in classes
            ]
    finally:
        network.precision = precision
    return np.stack(
        [
            _scaled(
                sum(
                    _scaled(
                        F.interpolate(
                            m.detach(), small.shape[:2], mode="bilinear", align_corners=False
                        )
                    )
                    for m in maps
                )
            )[0, 0]
            .cpu()
            .numpy()
            for maps in found
        ]
    )


def _masked(logits: torch.Tensor) -> torch.Tensor:
    """Return each class's score (B, C) of logits (B, C, h, w): their sum over the pixels predicted to be it, or over all."""
    chosen = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    chosen = torch.where(chosen.sum((2, 3), keepdim=True) > 0, chosen, torch.ones_like(chosen))
    return (logits * chosen.detach()).sum((2, 3))


def _scaled(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.max().clamp_min(1e-12)


def _scales(network: nn.Module, x: torch.Tensor) -> list[nn.Module]:
    """Return the last module of each scale at which the backbone puts out feature maps (1, C, h, w) with h, w > 1, deepest first."""
    found: dict[int, nn.Module] = {}

    def seen(module: nn.Module, _, out) -> None:
        if isinstance(out, torch.Tensor) and out.ndim == 4 and min(out.shape[-2:]) > 1:
            found[out.shape[-2] * out.shape[-1]] = module

    hooks = [module.register_forward_hook(seen) for module in network.body.modules()]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the backbone has no feature maps")
    return [found[size] for size in sorted(found)]

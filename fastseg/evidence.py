"""Where the network found its evidence for a class: Grad-CAM maps, computed by captum."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .prediction import Predictor


def evidence(predictor: Predictor, small: np.ndarray, classes: list[int]) -> np.ndarray:
    """Return one map a class, float32 (len(classes), h, w) from 0 to 1, for an image uint8 (h, w, 3) at the card's size.

    Grad-CAM (Selvaraju et al., ICCV 2017) on the backbone's last feature map. For a mask, the score of a class is the sum of
    its logits over the pixels that are predicted to be it, or over all pixels where none is.
    """
    from captum.attr import LayerGradCam
    network = predictor.network
    precision, network.precision = network.precision, "float32"
    try:
        x = predictor.normalised(torch.from_numpy(small[None])).requires_grad_()
        layer = _last_map(network, x)

        def scores(batch: torch.Tensor) -> torch.Tensor:
            logits = network(batch)
            if logits.ndim == 2:
                return logits
            chosen = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
            chosen = torch.where(chosen.sum((2, 3), keepdim=True) > 0, chosen, torch.ones_like(chosen))
            return (logits * chosen.detach()).sum((2, 3))

        cam = LayerGradCam(scores, layer)
        maps = [cam.attribute(x, target=number, relu_attributions=True).detach() for number in classes]
    finally:
        network.precision = precision
    maps = F.interpolate(torch.cat(maps), small.shape[:2], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()


def _last_map(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return the last module of the backbone that puts out a feature map (1, C, h, w) with h, w > 1, the smallest there is."""
    found: list[tuple[int, nn.Module]] = []
    hooks = [module.register_forward_hook(lambda module, _, out: found.append((out.shape[-2] * out.shape[-1], module))
             if isinstance(out, torch.Tensor) and out.ndim == 4 and min(out.shape[-2:]) > 1 else None)
             for module in network.body.modules()]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the backbone has no feature maps")
    smallest = min(size for size, _ in found)
    return [module for size, module in found if size == smallest][-1]

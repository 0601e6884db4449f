"""Where the network found its evidence for a class: maps computed by captum.

Both functions take an image, uint8 (h, w, C), at the size of the predictor's card, and return one
map for each of `classes`, float32 (len(classes), h, w) from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..inference.predictor import Predictor

SCALES = 4  # number of the backbone's deepest scales used as evidence for a mask

Maps = list[list[torch.Tensor]]  # for each class, maps (1, 1, h, w) of one or more scales


def grad_cam(predictor: Predictor, pixels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return Grad-CAM on the backbone's last feature map (Selvaraju et al., ICCV 2017), for
    classification.
    """
    from captum.attr import LayerGradCam

    def maps(network: nn.Module, x: torch.Tensor, scales: list[nn.Module]) -> Maps:
        cam = LayerGradCam(network, scales[0])
        return [[cam.attribute(x, target=number, relu_attributions=True)] for number in classes]

    return _evidence(predictor, pixels, maps)


def hires_cam(predictor: Predictor, pixels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return HiResCAM (Draelos and Carin 2020, arXiv:2011.08891), for masks.

    It is gradient times activation for each position: gradients averaged over the image, as in
    Grad-CAM, say little about a small object. The maps are means over the backbone's `SCALES`
    deepest scales. A class's score is the sum of its logits over the pixels predicted as it, or
    over all if there are none.
    """
    from captum.attr import LayerGradientXActivation

    def maps(network: nn.Module, x: torch.Tensor, scales: list[nn.Module]) -> Maps:
        cams = [
            LayerGradientXActivation(lambda batch: _mask_scores(network(batch)), scale)
            for scale in scales[:SCALES]
        ]
        return [
            [cam.attribute(x, target=number).sum(1, keepdim=True).relu() for cam in cams]
            for number in classes
        ]

    return _evidence(predictor, pixels, maps)


def _evidence(
    predictor: Predictor,
    pixels: np.ndarray,
    maps: Callable[[nn.Module, torch.Tensor, list[nn.Module]], Maps],
) -> np.ndarray:
    with _in_float32(predictor) as network:
        x = predictor.normalised(torch.from_numpy(pixels.copy()[None])).requires_grad_()
        found = maps(network, x, _scales(network, x))
    return np.stack([_mean_map(scales, pixels.shape[:2]) for scales in found])


@contextmanager
def _in_float32(predictor: Predictor) -> Iterator[nn.Module]:
    """Yield the predictor's network in float32: gradients are too imprecise in bfloat16."""
    network = predictor.network
    precision, network.precision = network.precision, "float32"
    try:
        yield network
    finally:
        network.precision = precision


def _mean_map(maps: Sequence[torch.Tensor], size: tuple[int, ...]) -> np.ndarray:
    """Return the mean of maps (1, 1, h, w), enlarged to `size`, each scaled to 1: float32 (H, W),
    scaled to 1.
    """
    total = sum(
        _scale_to_one(F.interpolate(m.detach(), size, mode="bilinear", align_corners=False))
        for m in maps
    )
    return _scale_to_one(total)[0, 0].cpu().numpy()


def _mask_scores(logits: torch.Tensor) -> torch.Tensor:
    """Return each class's score (B, C) of logits (B, C, h, w): their sum over the pixels predicted
    as it, or over all.
    """
    chosen = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    chosen = torch.where(chosen.sum((2, 3), keepdim=True) > 0, chosen, torch.ones_like(chosen))
    return (logits * chosen.detach()).sum((2, 3))


def _scale_to_one(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.max().clamp_min(1e-12)


def _scales(network: nn.Module, x: torch.Tensor) -> list[nn.Module]:
    """Return the last module of each scale of the backbone's feature maps (1, C, h, w) with h, w >
    1, deepest first.
    """
    found: dict[int, nn.Module] = {}

    def note(module: nn.Module, _: object, out: object) -> None:
        if isinstance(out, torch.Tensor) and out.ndim == 4 and min(out.shape[-2:]) > 1:
            found[out.shape[-2] * out.shape[-1]] = module

    hooks = [module.register_forward_hook(note) for module in network.map_modules]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the backbone has no feature maps")
    return [found[size] for size in sorted(found)]

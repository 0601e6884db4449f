"""Losses by name, and sums of them: "ce+dice". All leave out unlabelled pixels (255).

"wce" is cross-entropy with class weights from the data.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import segmentation_models_pytorch.losses as smp_losses
import torch
import torch.nn.functional as F
from torch import nn

from .types import IGNORE
from .utils.choices import loss_parts

# Published defaults: Dice (arXiv:1606.04797), focal (arXiv:1708.02002), Lovasz (arXiv:1705.08790),
# Tversky with alpha 0.3 and beta 0.7: misses cost more than false alarms (arXiv:1706.05721).
_SMP_LOSSES = {
    "dice": partial(smp_losses.DiceLoss, "multiclass", ignore_index=IGNORE),
    "focal": partial(smp_losses.FocalLoss, "multiclass", ignore_index=IGNORE),
    "lovasz": partial(smp_losses.LovaszLoss, "multiclass", ignore_index=IGNORE),
    "tversky": partial(
        smp_losses.TverskyLoss, "multiclass", ignore_index=IGNORE, alpha=0.3, beta=0.7
    ),
}


class Loss(nn.Module):
    """The sum of the named losses, of logits (B, C, ...) and class indices (B, ...).

    The result is a scalar, or (B,) if `reduction` is "none". `weight`, float (C,), is each class's
    weight in "wce"; the other losses do not use it. Raises `ModelError` for unknown names.
    """

    # tells fastai's MixUp that targets are class indices: it then mixes the losses, not the targets
    y_int = True

    def __init__(self, name: str = "ce", weight: torch.Tensor | None = None):
        super().__init__()
        self.name, self.reduction = name, "mean"
        self.parts = loss_parts(name)
        self.regional = nn.ModuleList(
            [_SMP_LOSSES[part]() for part in self.parts if part in _SMP_LOSSES]
        )
        self.register_buffer("weight", weight)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, C, ...) and class indices (B, ...), 255 = unlabelled."""
        logits, target = logits.as_subclass(torch.Tensor), target.as_subclass(torch.Tensor).long()
        if self.reduction == "none":
            return torch.stack(
                [
                    self._sum_of_losses(logits[i : i + 1], target[i : i + 1])
                    for i in range(len(logits))
                ]
            )
        return self._sum_of_losses(logits, target)

    def _sum_of_losses(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not (target != IGNORE).any():  # nothing labelled: a loss of 0 that has a gradient
            return logits.sum() * 0
        losses = [part(logits, target) for part in self.regional]
        if "ce" in self.parts:
            losses.append(F.cross_entropy(logits, target, ignore_index=IGNORE))
        if "wce" in self.parts:
            losses.append(F.cross_entropy(logits, target, self.weight, ignore_index=IGNORE))
        return torch.stack(losses).sum()

    def activation(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits to probabilities; fastai calls this in `get_preds`."""
        return logits.softmax(dim=1)

    def decodes(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores to class indices; fastai calls this in `predict` and `show_results`."""
        return scores.argmax(dim=1)


def class_weights(counts: np.ndarray) -> torch.Tensor:
    """Return each class's weight, float32 (C,), from its count of pixels or images.

    It is the median count divided by the class's (median frequency balancing, arXiv:1411.4734). A
    class that never occurs weighs 1.
    """
    counts = np.asarray(counts, dtype=np.float64)
    median = np.median(counts[counts > 0]) if (counts > 0).any() else 1.0
    return torch.tensor(
        np.where(counts > 0, median / np.maximum(counts, 1), 1.0), dtype=torch.float32
    )

"""Decoders of our own: a U-Net that stops before full resolution, and a network of many classes merged into few."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

CHANNELS = (128, 64, 48, 32, 16)  # from the deepest block on; half of a plain U-Net's, and fewer


class LightUnet(SegmentationModel):
    """A U-Net whose last blocks are left out: its logits come at 1/`stride` of the input size and are resized bilinearly.

    Input float (B, 3, H, W), H and W multiples of the encoder's stride; output logits (B, classes, H, W). `channels`
    are the decoder blocks', the deepest first; the blocks beyond `stride` are not built.
    Raises `ValueError` unless `stride` is a power of two that leaves one block or more.
    """

    def __init__(
        self,
        encoder_name: str,
        classes: int,
        stride: int = 4,
        channels: Sequence[int] = CHANNELS,
        encoder_weights: str | None = None,
        **encoder_options,
    ):
        super().__init__()
        levels = math.log2(stride) if stride > 0 else -1
        if levels not in range(len(channels)):
            raise ValueError(
                f"stride is one of {', '.join(str(2**i) for i in range(len(channels)))}, not {stride}"
            )
        self.encoder = get_encoder(
            encoder_name, depth=len(channels), weights=encoder_weights, **encoder_options
        )
        channels = channels[: len(channels) - int(levels)]
        self.decoder = UnetDecoder(self.encoder.out_channels, channels, n_blocks=len(channels))
        self.segmentation_head = nn.Conv2d(channels[-1], classes, kernel_size=3, padding=1)
        self.classification_head = None
        self.initialize()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of `x`."""
        self.check_input_shape(x)
        logits = self.segmentation_head(self.decoder(self.encoder(x)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


class Merged(nn.Module):
    """A network of many classes whose probabilities are summed into few; what is learnt later passes through the many.

    `groups` has, for each class to come, the indices of the classes of `model` that make it. Input as `model`'s, output logits
    (B, groups, H, W) at the input's size: the logarithm of the sum of exponentials of a group's logits, so that their softmax is
    the sum of the softmax over the group.
    """

    def __init__(self, model: SegmentationModel, groups: Sequence[Sequence[int]]):
        super().__init__()
        self.model, self.groups = model, [list(group) for group in groups]

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.model.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return merged logits at the size of `x`."""
        logits = self.model(x).float()
        merged = torch.stack([logits[:, group].logsumexp(1) for group in self.groups], dim=1)
        return F.interpolate(merged, x.shape[-2:], mode="bilinear", align_corners=False)


# Decoders by name, beside those of segmentation_models_pytorch. `utils.choices.DECODERS` lists all.
OWN = {"light": LightUnet}

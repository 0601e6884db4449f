"""fastseg's own decoders: a U-Net that stops before full resolution, and merged classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

# Channels of the decoder's blocks, deepest first. segmentation_models_pytorch's U-Net has
# (256, 128, 64, 32, 16); here the deepest blocks, which cost most, have half as many.
CHANNELS = (128, 64, 48, 32, 16)


class LightUnet(SegmentationModel):
    """A U-Net without its last blocks: it predicts at 1/`stride` of the input's size.

    Input float (B, in_channels, H, W), H and W multiples of the encoder's stride; output logits
    (B, classes, H, W), resized bilinearly from H/stride x W/stride. `channels` are those of the
    decoder's blocks, the deepest first; the blocks beyond `stride` are not built.
    Raises `ValueError` unless `stride` is a power of two that leaves one block or more.
    """

    def __init__(
        self,
        encoder_name: str,
        classes: int,
        stride: int = 4,
        channels: Sequence[int] = CHANNELS,
        encoder_weights: str | None = None,
        in_channels: int = 3,
        **encoder_options: Any,
    ):
        super().__init__()
        levels = math.log2(stride) if stride > 0 else -1
        if levels not in range(len(channels)):
            strides = ", ".join(str(2**level) for level in range(len(channels)))
            raise ValueError(f"stride is one of {strides}, not {stride}")
        self.encoder = get_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=len(channels),
            weights=encoder_weights,
            **encoder_options,
        )
        channels = channels[: len(channels) - int(levels)]
        self.decoder = UnetDecoder(self.encoder.out_channels, channels, n_blocks=len(channels))
        self.segmentation_head = nn.Conv2d(channels[-1], classes, kernel_size=3, padding=1)
        self.classification_head = None
        self.initialize()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes, H, W) of `x`, float (B, in_channels, H, W)."""
        self.check_input_shape(x)
        logits = self.segmentation_head(self.decoder(self.encoder(x)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


class Merged(nn.Module):
    """A network of many classes whose probabilities are summed into fewer classes.

    `groups` has, for each new class, the indices of the classes of `model` that belong to it. Input
    as `model`'s, output logits (B, groups, H, W) at the input's size. A group's logit is the
    logarithm of the sum of exponentials of its classes' logits: the softmax over the groups is then
    the sum of the softmax over their classes. All classes of `model` stay trainable.
    """

    def __init__(self, model: SegmentationModel, groups: Sequence[Sequence[int]]):
        super().__init__()
        self.model, self.groups = model, [list(group) for group in groups]

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.model.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return merged logits (B, groups, H, W) of `x`, which is as `model` takes it."""
        logits = self.model(x).float()
        merged = torch.stack([logits[:, group].logsumexp(1) for group in self.groups], dim=1)
        return F.interpolate(merged, x.shape[-2:], mode="bilinear", align_corners=False)


# Decoders that segmentation_models_pytorch does not have. `utils.choices.DECODERS` lists all names.
OWN = {"light": LightUnet}

"""The light decoder: a U-Net that stops before full resolution, where a plain one spends most of its time."""
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

    def __init__(self, encoder_name: str, classes: int, stride: int = 4, channels: Sequence[int] = CHANNELS,
                 encoder_weights: str | None = None, **encoder_options):
        super().__init__()
        levels = math.log2(stride) if stride > 0 else -1
        if levels not in range(len(channels)):
            raise ValueError(f"stride is one of {', '.join(str(2**i) for i in range(len(channels)))}, not {stride}")
        self.encoder = get_encoder(encoder_name, depth=len(channels), weights=encoder_weights, **encoder_options)
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

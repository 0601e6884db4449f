"""A feature pyramid for backbones without one: plain vision transformers, mixers, odd strides.

Maps of the backbone are projected and resized to the strides of a convolutional network, in the
manner of ViTDet's simple pyramid (Li et al., ECCV 2022, arXiv:2203.16527). Decoders then take the
backbone like any other. `fitting` finds how a backbone gets along with image sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from .network import Spec

LEVELS = 5  # halvings of a complete pyramid: its strides are 2, 4, 8, 16 and 32 px
FIRST = 2  # level of the finest map, at stride 4; finer levels have no channels
# Channels of the maps at strides 4, 8, 16 and 32. Decoders' cost grows with them: these keep the
# light decoder at 0.8 million parameters.
WIDTHS = (48, 64, 128, 128)
LARGEST_FACTOR = 4  # by which a projection enlarges a map, as in ViTDet
CELL = 64  # channels of a map's cell from which its pixels are computed
SIZE_OPTIONS = ("dynamic_img_size", "strict_img_size", "img_size")  # timm's, for sizes of inputs

Size = tuple[int, int]  # (height, width) in px
_numbers = count()  # of encoders that are registered for a moment


class Pyramid(nn.Module):
    """A timm backbone as an encoder for decoders of segmentation_models_pytorch.

    Input float (B, channels, H, W), H and W multiples of `output_stride`; output a list of
    `depth` + 1 maps at strides 1, 2, 4, ..., never above `output_stride`: the input, a map without
    channels at stride 2, then maps of `WIDTHS` channels. `indices` are the maps of the backbone
    that are used, all if None; `options` are timm's for the size of inputs. Inputs are padded to
    `multiple` px and the maps cropped; if the backbone only takes images of the size `fixed`,
    others are resized to it.
    """

    def __init__(
        self,
        arch: str,
        channels: int = 3,
        depth: int = LEVELS,
        output_stride: int = 2**LEVELS,
        *,
        indices: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        multiple: int = 1,
        fixed: Sequence[int] | None = None,
    ):
        super().__init__()
        from timm.layers import LayerNorm2d

        self.model = maps_of(arch, channels, indices, options or {})
        self.multiple, self.fixed = multiple, (fixed[0], fixed[1]) if fixed else None
        self.is_channel_last = getattr(self.model, "output_fmt", None) == "NHWC"
        self.strides = [min(2**level, output_stride) for level in range(FIRST, depth + 1)]
        reductions = self.model.feature_info.reduction()
        self.sources = sources(reductions, self.strides)
        widths = WIDTHS[: len(self.strides)]
        self.out_channels = [channels, 0, *widths][: depth + 1]
        self.output_stride = min(output_stride, 2**depth)
        have = self.model.feature_info.channels()
        # An output of each map, (B, C, h, w), for whoever looks into the network.
        self.taps = nn.ModuleList([nn.Identity() for _ in have])
        # Activations of transformers differ in size by orders of magnitude between blocks and
        # channels, so they are normalised first.
        self.projections = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    LayerNorm2d(have[index]),
                    *_projection(have[index], width, reductions[index] / stride),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
                for index in chosen
            )
            for width, chosen, stride in zip(widths, self.sources, self.strides)
        )

    def maps(self, x: torch.Tensor) -> tuple[list[torch.Tensor], Size]:
        """Return the backbone's maps (B, C, h, w) of `x`, and the height and width they cover."""
        height, width = int(x.shape[-2]), int(x.shape[-1])
        padded = _up(height, self.multiple), _up(width, self.multiple)
        if self.fixed and padded != self.fixed:
            covered = height, width
            x = F.interpolate(x, self.fixed, mode="bilinear", align_corners=False)
        else:
            covered = padded
            if padded != (height, width):
                extra = (0, padded[1] - width, 0, padded[0] - height)
                x = F.pad(x, extra, mode="replicate")
        maps = self.model(x)
        if self.is_channel_last:
            maps = [one.permute(0, 3, 1, 2).contiguous() for one in maps]
        return [tap(one) for tap, one in zip(self.taps, maps)], covered

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps at all strides of `x`, float (B, channels, H, W)."""
        height, width = int(x.shape[-2]), int(x.shape[-1])
        maps, covered = self.maps(x)
        features = [x, x.new_empty((x.shape[0], 0, height // 2, width // 2))]
        for stride, chosen, projections in zip(self.strides, self.sources, self.projections):
            size = height // stride, width // stride
            features.append(
                sum(
                    _resized(project(maps[index]), covered, stride, size)
                    for index, project in zip(chosen, projections)
                )
            )
        return features[: len(self.out_channels)]

    def set_in_channels(self, channels: int, pretrained: bool = False) -> None:
        """Do nothing: the backbone is built for its channels. get_encoder calls this."""

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: maps are resized to the output stride. get_encoder calls this."""


def maps_of(
    arch: str, channels: int, indices: Sequence[int] | None, options: Mapping[str, Any]
) -> nn.Module:
    """Return the timm backbone `arch` as a module that gives its maps at `indices`.

    `options` are some of `SIZE_OPTIONS`; raises `ValueError` for others, which a card could name.
    """
    import timm

    if unknown := set(options) - set(SIZE_OPTIONS):
        raise ValueError(f"{', '.join(sorted(unknown))}: not an option for the size of inputs")
    chosen = {} if indices is None else {"out_indices": tuple(indices)}
    values = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in options.items()}
    return timm.create_model(
        arch, pretrained=False, features_only=True, in_chans=channels, **chosen, **values
    )


def size_options(spec: Spec) -> dict[str, Any]:
    """Return timm's options for the size of inputs with which the backbone of `spec` is built."""
    plan = spec.options.get("pyramid")
    return plan["options"] if plan else {}


def sources(reductions: Sequence[int], strides: Sequence[int]) -> list[list[int]]:
    """Return, for each of the pyramid's `strides`, the indices of the maps that are summed there.

    `reductions` are the strides of the maps, in the network's order. Maps of one stride go to the
    levels in their order: early blocks know more of places, late ones more of meanings. Others go
    where their stride is nearest. Every map is used, and every level has one.
    """
    last = len(strides) - 1
    if len(set(reductions)) == 1:
        nearest = [min(index * len(reductions) // (last + 1), last) for index in range(last + 1)]
        levels = [min(index, last) for index in range(len(reductions))]
    else:
        # Of maps with equal distance, the later one; of levels with equal distance, the deeper one.
        nearest = [
            min(range(len(reductions)), key=lambda i: (_distance(reductions[i], stride), -i))
            for stride in strides
        ]
        levels = [
            min(range(last + 1), key=lambda i: (_distance(reduction, strides[i]), -i))
            for reduction in reductions
        ]
    found = [[index] for index in nearest]
    for index, level in enumerate(levels):
        if index not in nearest:
            found[level].append(index)
    return found


@contextmanager
def registered(arch: str, channels: int, plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield a name by which segmentation_models_pytorch finds a `Pyramid` over `arch`."""
    from segmentation_models_pytorch.encoders import encoders

    def encoder(depth: int, output_stride: int) -> Pyramid:
        return Pyramid(arch, channels, depth, output_stride, **plan)

    name = f"pyramid-{next(_numbers)}"
    encoders[name] = {"encoder": encoder, "params": {}, "pretrained_settings": {}}
    try:
        yield name
    finally:
        del encoders[name]


def _projection(channels: int, width: int, factor: float) -> list[nn.Module]:
    """Return layers from maps of `channels` to maps of `width` channels, `factor` times as large.

    Each pixel in a cell, such as a transformer's patch, is computed from the whole cell (sub-pixel
    convolution, Shi et al., CVPR 2016, arXiv:1609.05158): outlines are finer than those of a map
    that is interpolated. Factors that are not whole, or too large, are approached.
    """
    times = min(max(round(factor), 1), LARGEST_FACTOR)
    if times == 1:
        return [nn.Conv2d(channels, width, kernel_size=1, bias=False)]
    return [
        nn.Conv2d(channels, CELL, kernel_size=1, bias=False),
        nn.Conv2d(CELL, width * times**2, kernel_size=1, bias=False),
        nn.PixelShuffle(times),
    ]


def _resized(x: torch.Tensor, covered: Size, stride: int, size: Size) -> torch.Tensor:
    """Return the map (B, C, h, w) of `covered` px at `stride`, cropped to `size`."""
    whole = covered[0] // stride, covered[1] // stride
    if (whole[0] * stride, whole[1] * stride) == covered:
        if tuple(x.shape[-2:]) != whole:
            x = F.interpolate(x, whole, mode="bilinear", align_corners=False)
    else:
        # The map's last cell may be cut. The margin keeps rounding from dropping a whole one.
        scale = [(have / stride + 1e-3) / int(n) for have, n in zip(covered, x.shape[-2:])]
        x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def _distance(one: int, other: int) -> float:
    return max(one, other) / min(one, other)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

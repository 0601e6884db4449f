"""Weights for a backbone that is built for another size: tables of positions are resampled."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import brief
from .pyramid import Size

log = logging.getLogger(__name__)

# Functions of timm's modules that convert the tensors of a file for a model.
READERS = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier")

Tensors = dict[str, torch.Tensor]


def converted(
    tensors: Mapping[str, torch.Tensor], arch: str, channels: int, options: Mapping[str, Any]
) -> Tensors:
    """Return tensors of timm's `arch`, as named there, for one that is built with `options`.

    They pass timm's own reader of the family, which knows the names that the weights' authors use;
    tables of positions that it does not resample are resampled here. Works on the meta device, too.
    """
    import timm

    with torch.device("meta"):  # its names and shapes suffice
        model = timm.create_model(arch, pretrained=False, in_chans=channels, **options)
    found: Tensors = dict(tensors)
    module = sys.modules[timm.models.model_entrypoint(arch.partition(".")[0]).__module__]
    reader = next((getattr(module, name) for name in READERS if hasattr(module, name)), None)
    if reader is not None:
        try:
            found = dict(reader(dict(tensors), model))
        except Exception as error:
            # timm's readers raise anything for files of other backbones; unconverted, too few of
            # their tensors match, which is an error of its own
            log.debug("timm cannot convert tensors for %s: %s", arch, brief(error))
    for name, parameter in model.named_parameters():
        have = found.get(name)
        if have is None or have.shape == parameter.shape or "pos_embed" not in name:
            continue
        if (resampled := _resampled(have, parameter.shape, _size(options))) is not None:
            found[name] = resampled
    return found


def carries_weights(arch: str, channels: int, options: Mapping[str, Any]) -> bool:
    """Return whether weights of timm's `arch` fit one that is built with `options`.

    Call it on the meta device: shapes suffice.
    """
    import timm

    own = timm.create_model(arch, pretrained=False, in_chans=channels)
    built = timm.create_model(arch, pretrained=False, in_chans=channels, **options)
    found = converted(own.state_dict(), arch, channels, options)
    return all(
        name in found and found[name].shape == parameter.shape
        for name, parameter in built.named_parameters()
    )


def _size(options: Mapping[str, Any]) -> Size | None:
    size = options.get("img_size")
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resampled(table: torch.Tensor, shape: torch.Size, size: Size | None) -> torch.Tensor | None:
    """Return a table of absolute positions at another `shape`, or None if it is not one.

    Tables are (1, tokens, D), with a class token or without, (1, D, h, w) or (1, h, w, D).
    """
    if table.ndim != len(shape) or size is None:
        return None
    if table.ndim == 4:
        axes = [axis for axis in (1, 2, 3) if table.shape[axis] != shape[axis]]
        is_last = 1 in axes
        grid = shape[1:3] if is_last else shape[2:4]
        maps = table.permute(0, 3, 1, 2) if is_last else table
        if maps.shape[1] != (shape[3] if is_last else shape[1]):
            return None
        maps = F.interpolate(maps.float(), tuple(grid), mode="bicubic", antialias=True)
        return (maps.permute(0, 2, 3, 1) if is_last else maps).to(table.dtype)
    if table.ndim != 3 or table.shape[2] != shape[2]:
        return None
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(table.shape[1])
    prefix = table.shape[1] - side * side
    rows = round(math.sqrt((shape[1] - prefix) * size[0] / size[1]))
    if rows < 1 or (shape[1] - prefix) % rows:
        return None
    grid = [rows, (shape[1] - prefix) // rows]
    return resample_abs_pos_embed(table, grid, num_prefix_tokens=prefix)

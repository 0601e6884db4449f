"""A frozen backbone: its feature maps are computed once for each image, and kept while they fit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ModelError
from .network import Network

log = logging.getLogger(__name__)

Maps = list[torch.Tensor]


class KeptMaps:
    """Gives a frozen backbone's feature maps of batches, and keeps up to `budget` bytes of them.

    An image is known by its pixels, and each is computed alone, in evaluation mode: its maps do not
    depend on the other images of a batch, and those that are kept are, bit for bit, those that
    would be computed again. Of maps that the head does not read (`is_used`), only the shape is
    kept; their values are zeros. `computed` counts the images that the backbone has seen.
    """

    def __init__(self, body: nn.Module, budget: int):
        self.body, self.budget = body, budget
        self.forward = body.forward  # the backbone's own, which `maps_kept` replaces
        self.kept: dict[tuple[tuple[int, ...], bytes], Maps] = {}
        self.is_used: list[bool] = []
        self.bytes = self.computed = 0
        self.is_full = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor | Maps:
        """Return the maps (B, ...) of `x`, float (B, channels, H, W), as the backbone does."""
        # blake2b reads memory in order, and networks compute channels_last
        pixels = x.detach().movedim(1, -1).contiguous().cpu().numpy()
        by_image = [
            self._of_image((image.shape, hashlib.blake2b(image, digest_size=16).digest()), alone)
            for image, alone in zip(pixels, x.split(1))
        ]
        maps = []
        for is_used, same in zip(self.is_used, zip(*by_image)):
            batch = torch.cat(same) if is_used else same[0].expand(len(x), *same[0].shape[1:])
            maps.append(batch.to(x.device))
        return maps if self.is_list else maps[0]

    def find_used(self, network: Network, size: tuple[int, int]) -> None:
        """Find which maps the head of `network` reads; light decoders leave the largest one out.

        `size` is the (height, width) in px at which it is tried.
        """
        maps: Maps = []

        def probe(x: torch.Tensor) -> torch.Tensor | Maps:
            maps.extend(one.requires_grad_() for one in self._computed(x))
            return maps if self.is_list else maps[0]

        device = next(network.parameters()).device
        self.body.forward = probe
        with torch.enable_grad():
            logits = network.eval()(torch.zeros(1, network.spec.channels, *size, device=device))
            gradients = torch.autograd.grad(logits.sum(), maps, allow_unused=True)
        self.is_used = [gradient is not None for gradient in gradients]

    def _computed(self, x: torch.Tensor) -> Maps:
        self.body.eval()  # fastai sets all of a network to training
        with torch.no_grad():
            out = self.forward(x.clone())  # aligned like any other image
        self.is_list = isinstance(out, (list, tuple))
        return list(out) if self.is_list else [out]

    def _of_image(self, key: tuple[tuple[int, ...], bytes], x: torch.Tensor) -> Maps:
        if (found := self.kept.get(key)) is not None:
            return found
        self.computed += 1
        maps = [
            one.cpu() if is_used else torch.zeros((), dtype=one.dtype).expand(one.shape)
            for one, is_used in zip(self._computed(x), self.is_used)
        ]
        size = sum(one.untyped_storage().nbytes() for one in maps)
        if self.bytes + size <= self.budget:
            self.kept[key] = maps
            self.bytes += size
        elif not self.is_full:
            self.is_full = True
            log.warning(
                "there is room for the features of %d images and views (%.3g MB); those of the "
                "others are computed in each epoch: give a larger --cache",
                len(self.kept),
                self.budget / 2**20,
            )
        return maps


@contextmanager
def maps_kept(network: Network, size: tuple[int, int], budget: int) -> Iterator[KeptMaps]:
    """Let `KeptMaps` stand for the backbone of `network` in the block, which does not train it.

    `size`, (height, width) in px, is that of the images, and `budget` the bytes for their maps. The
    parameters of the backbone must need no gradient. Raises `ModelError` for fastai's decoder.
    """
    if network.spec.decoder == "fastai":
        raise ModelError(
            "--freeze does not work with --decoder fastai, whose head reads what its backbone "
            "computes on the way; choose another decoder, such as light",
            "freeze-decoder",
        )
    body = network.body
    maps = KeptMaps(body, budget)
    try:
        maps.find_used(network, size)
        body.forward = maps
        yield maps
    finally:
        del body.forward

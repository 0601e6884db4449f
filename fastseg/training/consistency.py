"""Learning from images without labels: the network must see in a changed image what its own average
sees in the plain one.

FixMatch (arXiv:2001.07685) with the average of the weights as the teacher (arXiv:1703.01780), for
masks as in UniMatch V2 (arXiv:2410.10777). Unlike there, all pixels count, however unsure the
teacher is, and their loss is the one of the labels: the pixels of which it is sure are the inside
of large objects, from which nothing is left to learn. Early on, when the teacher knows little,
they count less.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.torch_core import TensorImage
from torch.func import functional_call

from ..data.augment import Augment
from ..data.cache import Pixels
from ..types import Item, Recipe
from .callbacks import AverageWeights

# Share of the training over which the weight of these images rises to that of the labelled ones.
# With full weight from the start, one of two trainings ended below that on the labels alone.
RISE = 0.5
# Training steps of the measurements that showed a gain (see the guide); with 400, there was none.
ENOUGH_STEPS = 670
# The strong view: UniMatch V2 has the same changes. Light and colour change by up to half.
STRONG = 0.5
BLUR_SHARE = 0.5  # of the images
BLUR_SIGMA = 2.0 / 224  # the largest one, as a share of the image's shorter side
PASTE_SHARE = 0.5  # of the images (CutMix, arXiv:1905.04899)
PASTE_AREA = (0.02, 0.4)  # of the image's
WEAK_USE, STRONG_USE, BATCH_USE = 3, 4, 5  # of seeds, beside those in `callbacks`


class Consistency(Callback):
    """Add to the loss of each step that of as many images without labels.

    The teacher sees an image mirrored, rotated and scaled as the recipe says; the network sees the
    same with strong changes of light and colour, blurred, and with a rectangle of another image
    pasted into it. The most probable classes of the teacher are labels like any other; the weight
    of their loss rises from 0 to 1 over the first `RISE` of the training. Batch normalisation has
    statistics of their own for these images, which are not kept: with common ones the score fell by
    a hundredth of Dice. The first `windows` epochs see windows of them, as of the labelled ones.
    """

    order = 2  # after windows and half size: xb has the size of the step
    run_valid = False

    def __init__(
        self,
        items: Sequence[Item],
        pixels: Pixels,
        teacher: AverageWeights,
        recipe: Recipe,
        seed: int,
        windows: int = 0,
    ):
        self.items, self.pixels, self.teacher = list(items), pixels, teacher
        self.seed, self.windows = seed, windows
        self.weak = Augment(recipe.flip, recipe.rotate, recipe.zoom)
        self.strong = Augment(
            flip=False,
            light=STRONG,
            colour=STRONG,
            blur_share=BLUR_SHARE,
            blur_sigma=(0.1, max(0.2, BLUR_SIGMA * min(pixels.size))),
        )

    def before_batch(self) -> None:
        count, _, *size = self.learn.xb[0].shape
        rng = np.random.default_rng([*self.dl.step_seed(self.iter), BATCH_USE])
        weak = self._fitted(self._changed(self.weak, self._images(count), WEAK_USE), size, rng)
        codes = self.pseudo_labels(weak)
        self.others = _pasted(self._changed(self.strong, weak, STRONG_USE), codes, rng)

    def after_pred(self) -> None:
        images, self.codes = self.others
        # The network computes with copies of its statistics: blurred and recoloured images do not
        # change how it normalises plain ones.
        buffers = {name: value.clone() for name, value in self.learn.model.named_buffers()}
        self.logits = functional_call(self.learn.model, buffers, (self._normal(images),))

    def after_loss(self) -> None:
        weight = min(1.0, self.learn.pct_train / RISE)
        loss = self.learn.loss_func(self.logits, self.codes)
        self.learn.loss_grad = self.learn.loss_grad + weight * loss
        del self.others, self.logits

    @torch.no_grad()
    def pseudo_labels(self, weak: torch.Tensor) -> torch.Tensor:
        """Return the classes that the teacher finds most probable, int64 (B, H, W).

        `weak` are images, float (B, C, H, W), from 0 to 1.
        """
        network = self.learn.model
        network.eval()
        logits = functional_call(network, self.teacher.average, (self._normal(weak),))
        network.train()
        return logits.argmax(1)

    def _images(self, number: int) -> torch.Tensor:
        """Return this step's images, float (number, C, h, w) from 0 to 1, at the training size."""
        step, count = self.epoch * self.n_iter + self.iter, len(self.items)
        chosen = []
        for place in range(step * number, (step + 1) * number):
            turn, rest = divmod(place, count)
            chosen.append(self.items[_order(self.seed, turn, count)[rest]])
        arrays = np.stack([self.pixels.image(item) for item in chosen])
        whole = torch.from_numpy(arrays).to(self.dls.device).movedim(-1, 1)
        return whole.contiguous().float() / 255

    def _changed(self, change: Augment, images: torch.Tensor, use: int) -> torch.Tensor:
        seed = self.dl.step_seed(self.iter)
        change.expect([[(*seed, use, i) for i in range(len(images))]])
        (changed,) = change((TensorImage(images),), split_idx=0)
        return changed.as_subclass(torch.Tensor)

    def _normal(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (
            torch.tensor(values, device=images.device).view(1, -1, 1, 1)
            for values in (self.learn.model.mean, self.learn.model.std)
        )
        return (images - mean) / std

    def _fitted(
        self, images: torch.Tensor, size: Sequence[int], rng: np.random.Generator
    ) -> torch.Tensor:
        """Return images as windows, or smaller, where the labelled ones of this step are."""
        height, width = size
        if tuple(images.shape[-2:]) == (height, width):
            return images
        if self.epoch >= self.windows:
            return F.interpolate(
                images, (height, width), mode="bilinear", align_corners=False, antialias=True
            )
        room = images.shape[-2] - height, images.shape[-1] - width
        corners = [(int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))) for _ in images]
        return torch.stack(
            [
                image[:, top : top + height, left : left + width]
                for image, (top, left) in zip(images, corners)
            ]
        )


@lru_cache(maxsize=2)
def _order(seed: int, number: int, count: int) -> np.ndarray:
    """Return the order of images in a pass over all of them: a function of the seed."""
    return np.random.default_rng([seed, number]).permutation(count)


def _pasted(
    images: torch.Tensor, codes: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, C, H, W) and codes (B, H, W), some with a rectangle of another one."""
    height, width = images.shape[-2:]
    partners = rng.permutation(len(images))
    inside = torch.zeros(len(images), height, width, dtype=torch.bool)
    for area in inside:
        share, paste = rng.uniform(*PASTE_AREA), rng.random() < PASTE_SHARE
        ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))  # of the sides, as in UniMatch
        sides = np.sqrt(share * ratio) * height, np.sqrt(share / ratio) * width
        rows, columns = (min(int(side), full) for side, full in zip(sides, (height, width)))
        top = int(rng.integers(height - rows + 1))
        left = int(rng.integers(width - columns + 1))
        if paste:
            area[top : top + rows, left : left + columns] = True
    inside = inside.to(images.device)
    return (
        torch.where(inside[:, None], images[partners], images),
        torch.where(inside, codes[partners], codes),
    )

"""Callbacks beyond fastai's: repeatable draws, averaged weights, windows, mixed pairs, half size,
time budget, progress.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.learner import CancelFitException, CancelTrainException

from ..engines.collectives import all_rows
from ..engines.distributed import world
from ..types import IGNORE
from ..utils.progress import bar, console, is_hidden

log = logging.getLogger(__name__)

# The closing measurement in seconds, and in validations while training: it sees images at their own
# sizes, draws pictures and measures runtimes. Measured on 2 cores, and rounded up.
CLOSING_SECONDS, CLOSING_VALIDATIONS = 15.0, 3.0
SMALLEST_PART = 0.2  # of an epoch: less is not worth its validation
WORTH_A_NEW_PLAN, WORTH_TELLING = 0.3, 1.0  # epochs
WORTH_TELLING_SHARE = 0.05  # of the planned epochs: a change of one among many says little

# Uses of the seed of an image or of a batch, beside those of the augmentation.
WINDOW, PAIRS = 1, 2


class Repeatable(Callback):
    """Make what is drawn a function of seed, stage, epoch and image, or batch.

    So it depends neither on what ran before, nor on the process that trains on an image. With
    `views`, what is drawn for an image repeats after so many epochs.
    """

    order = -30  # before anything is drawn
    stage: object = 0  # of the training: each one has other draws

    def __init__(self, seed: int, views: int = 0):
        self.seed, self.views = seed, views

    def before_train(self) -> None:
        # Mersenne Twister of the text's SHA-512: numbers of nearby seeds are unrelated.
        self.dls.train.rng = random.Random(f"{self.seed} {self.stage} {self.epoch}")
        view = random.Random(f"{self.seed} view {self.epoch % self.views}") if self.views else None
        self.dls.train.view_seed = view and view.getrandbits(62)

    def before_batch(self) -> None:
        if self.training:  # dropout
            torch.manual_seed(_generator(self.dl.step_seed(self.iter)).integers(2**62))


def _generator(seed: Sequence[int], *use: int) -> np.random.Generator:
    """Return numpy's generator of a seed and the numbers of a use of it."""
    return np.random.default_rng([*seed, *use])


class AverageWeights(Callback):
    """Validate with, and end with, a moving average of the weights (arXiv:1703.01780).

    `decay` is the share of the average that each step keeps; it rises from 0.1 so that the start is
    soon forgotten.
    """

    order = 55  # after the optimizer's step and the schedule

    def __init__(self, decay: float):
        self.decay = decay

    def before_fit(self) -> None:
        self.steps = 0
        self.kept: dict[str, torch.Tensor] | None = None
        self.average = {
            name: value.detach().clone() for name, value in self.learn.model.state_dict().items()
        }

    @torch.no_grad()
    def after_batch(self) -> None:
        if not self.training:
            return
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = self.learn.model.state_dict()
        floating = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floating], [now[name] for name in floating], 1 - keep
        )
        for name in now.keys() - set(floating):
            self.average[name].copy_(now[name])

    def before_validate(self) -> None:
        self.kept = {
            name: value.detach().clone() for name, value in self.learn.model.state_dict().items()
        }
        self.learn.model.load_state_dict(self.average)

    def before_train(self) -> None:
        # Not right after validation: a checkpoint must store the weights that were validated.
        if self.kept is not None:
            self.learn.model.load_state_dict(self.kept)
            self.kept = None

    def after_fit(self) -> None:
        self.learn.model.load_state_dict(self.average)
        self.average = {}


class Windows(Callback):
    """Train the first epochs on windows cut from the images, and the rest on whole images.

    A window is `share` of each side of the image. Three of four contain a labelled foreground
    pixel of their image, drawn at random, so that small objects are seen often; the others are
    anywhere. Validation uses complete images.
    """

    order = -1  # before MixUp

    def __init__(self, share: float, epochs: int, background: int | None, anywhere: float = 0.25):
        self.share, self.epochs, self.background, self.anywhere = (
            share,
            epochs,
            background,
            anywhere,
        )

    def before_batch(self) -> None:
        if not self.training or self.epoch >= self.epochs:
            return
        x, y = self.learn.xb[0], self.learn.yb[0]
        height, width = (max(32, round(side * self.share / 32) * 32) for side in x.shape[-2:])
        if height >= x.shape[-2] and width >= x.shape[-1]:
            return
        seeds = self.dl.image_seeds(self.iter)
        places = [
            self._place(codes, height, width, _generator(seed, WINDOW))
            for codes, seed in zip(y, seeds)
        ]
        cut = [(slice(top, top + height), slice(left, left + width)) for top, left in places]
        self.learn.xb = (
            torch.stack(
                [image[:, rows, columns] for image, (rows, columns) in zip(x, cut)]
            ).as_subclass(type(x)),
        )
        self.learn.yb = (
            torch.stack(
                [codes[rows, columns] for codes, (rows, columns) in zip(y, cut)]
            ).as_subclass(type(y)),
        )

    def _place(
        self, codes: torch.Tensor, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        room = max(0, codes.shape[0] - height), max(0, codes.shape[1] - width)
        if rng.random() >= self.anywhere:
            shown = (
                codes != IGNORE
                if self.background is None
                else (codes != IGNORE) & (codes != self.background)
            )
            found = shown.as_subclass(torch.Tensor).nonzero()
            if len(found):
                centre = found[int(rng.integers(len(found)))].tolist()
                offsets = [
                    int(rng.integers(side // 4, side - side // 4)) for side in (height, width)
                ]
                return tuple(min(max(0, c - o), r) for c, o, r in zip(centre, offsets, room))
        return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


class MixPairs(MixUp):
    """fastai's MixUp (arXiv:1710.09412) of the pairs of a batch that processes share."""

    def __init__(self, alpha: float):
        super().__init__(alpha)
        self.alpha = alpha

    def before_batch(self) -> None:
        """Mix each image with another one of the whole batch, by a share of at least a half."""
        together, loader = world(), self.dl
        count = loader.counts[self.iter]
        rng = _generator(loader.step_seed(self.iter), PAIRS)
        share = torch.from_numpy(rng.beta(self.alpha, self.alpha, count)).to(self.x.device)
        share = torch.maximum(share, 1 - share).to(self.x.dtype)
        partner = torch.from_numpy(rng.permutation(count)).to(self.x.device)
        x, y = (
            all_rows(part.as_subclass(torch.Tensor), count, together) for part in (self.x, self.y)
        )
        own = slice(together.rank if together.rank < count else 0, None, together.size)
        weight = share[own].view(-1, *[1] * (x.ndim - 1))
        self.lam, self.yb1 = share, (y[partner],)
        mixed = torch.lerp(x[partner[own]], x[own], weight)
        self.learn.xb = (mixed.as_subclass(type(self.x)),)


class HalfSize(Callback):
    """Train the first epochs on images of half the size, which takes a quarter of the time."""

    order = -1

    def __init__(self, epochs: int):
        self.epochs = epochs

    def before_batch(self) -> None:
        if not self.training or self.epoch >= self.epochs:
            return
        x, y = self.learn.xb[0], self.learn.yb[0]
        size = [max(32, side // 2) for side in x.shape[-2:]]
        self.learn.xb = (
            F.interpolate(
                x.as_subclass(torch.Tensor),
                size,
                mode="bilinear",
                align_corners=False,
                antialias=True,
            ).as_subclass(type(x)),
        )
        if y.ndim == 3:
            codes = F.interpolate(
                y.as_subclass(torch.Tensor)[:, None].float(), size, mode="nearest-exact"
            )
            self.learn.yb = (codes[:, 0].long().as_subclass(type(y)),)


class TimeBudget(Callback):
    """Fit a one-cycle into the time: it is shortened or extended while its epochs are measured.

    It has `seconds` from now for epochs, and after them `reserve` seconds for the closing
    measurement, of which it takes what the first validation shows to be too much. The first
    `cheaper` epochs take less time than the later ones, and nothing is extended by them. The last
    epoch may be a part of one, followed by its validation.
    """

    order = -5  # before the schedule reads how much of the training is done

    def __init__(self, seconds: float, reserve: float = 0.0, cheaper: int = 0):
        self.end, self.reserve, self.cheaper = time.monotonic() + seconds, reserve, cheaper

    def before_fit(self) -> None:
        self.start = time.monotonic()
        self.times: list[tuple[float, float]] = []  # seconds of training and validation
        self.last, self.since = float(self.n_epoch), (0, 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the first epoch began; a checkpoint stores them for the resumed run."""
        return time.monotonic() - self.start

    @elapsed.setter
    def elapsed(self, seconds: float) -> None:
        self.start = time.monotonic() - seconds

    @property
    def last(self) -> float:
        """The epochs after which training ends. The loop goes by the learner's whole number."""
        return self._last

    @last.setter
    def last(self, epochs: float) -> None:
        self._last = epochs
        self.learn.n_epoch = math.ceil(epochs)

    def before_epoch(self) -> None:
        # Not in after_epoch: the epoch that ended has not been recorded yet.
        if self.epoch >= self.last:
            raise CancelFitException
        self.began = time.monotonic()

    def before_batch(self) -> None:
        if self.training:
            place = self.epoch + self.iter / self.n_iter
            if place >= self.last:
                raise CancelTrainException
            # fastai counts towards n_epoch; the schedule must end with the last batch.
            epoch, done = self.since
            self.learn.pct_train = done + (1 - done) * (place - epoch) / (self.last - epoch)

    def after_train(self) -> None:
        # fastai leaves the training loss of a cancelled epoch out; here, the part counts as one.
        self.learn.recorder.cancel_train = False

    def before_validate(self) -> None:
        self.validated = time.monotonic()

    def after_epoch(self) -> None:
        count, now = self.epoch + 1, time.monotonic()
        if count > self.last:
            return
        self.times.append((self.validated - self.began, now - self.validated))
        fitting = world().from_first(self._fitting(count, now))
        if count <= self.cheaper:
            fitting = min(fitting, self.last)
        if abs(fitting - self.last) < WORTH_A_NEW_PLAN and fitting >= count:
            return
        told_from = max(WORTH_TELLING, WORTH_TELLING_SHARE * self.last)
        level = logging.INFO if abs(fitting - self.last) >= told_from else logging.DEBUG
        log.log(
            level,
            "an epoch takes %.1f s: training ends after %.3g epochs in place of %.3g",
            sum(self.times[-1]),
            fitting,
            self.last,
        )
        self.since, self.last = (count, self.learn.pct_train), fitting

    def _fitting(self, count: int, now: float) -> float:
        """Return the epochs that fit, with those so far; the last one may be a part."""
        alike = self.times[self.cheaper :] or self.times
        training, validation = (sum(each) / len(alike) for each in zip(*alike))
        closing = min(self.reserve, CLOSING_SECONDS + CLOSING_VALIDATIONS * validation)
        left = max(0.0, self.end + self.reserve - closing - now)
        whole, rest = divmod(left, training + validation)
        part = max(0.0, rest - validation) / max(training, 1e-9)
        return count + whole + (part if part >= SMALLEST_PART else 0.0)


class Reporter(Callback):
    """Show a progress bar over all batches, and one line for each epoch, on standard error."""

    order = 60

    def before_fit(self) -> None:
        self.shown = not hasattr(self.learn, "lr_finder")
        if not self.shown:
            return
        self.frozen_head = self.opt.frozen_idx > 0
        self.bar = bar()
        self.bar.start()
        self.task = self.bar.add_task(
            "training", total=self.n_epoch * (len(self.dls.train) + len(self.dls.valid))
        )
        self.logger, self.learn.logger = self.learn.logger, self._line

    def after_batch(self) -> None:
        if self.shown:
            part = "head only, epoch" if self.frozen_head else "epoch"
            self.bar.update(
                self.task,
                advance=1,
                description=f"{part} {self.epoch + 1}/{self.n_epoch}",
                # a time budget changes the number of epochs
                total=self.n_epoch * (len(self.dls.train) + len(self.dls.valid)),
            )

    def after_fit(self) -> None:
        if self.shown:
            self.bar.stop()
            self.learn.logger = self.logger

    after_cancel_fit = after_fit

    def _line(self, values: Sequence[Any]) -> None:
        if is_hidden():
            return
        names = [
            "frozen epoch" if self.frozen_head and name == "epoch" else name
            for name in self.recorder.metric_names
        ]
        values = [f"{values[0] + 1}/{self.n_epoch}", *values[1:]]
        parts = [
            f"{name} {value:.4f}"
            if isinstance(value, float) and math.isfinite(value)
            else f"{name} {value}"
            for name, value in zip(names, values)
            if value is not None
        ]
        console.print("  ".join(parts), highlight=False, soft_wrap=True)

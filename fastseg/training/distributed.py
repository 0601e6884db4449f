"""Several processes take the optimizer steps that one process would take on the same batches.

Each process has every N-th image of a batch. Logits and labels of all are gathered, so that each
process computes the loss and the metrics of the whole batch, whatever they are: cross-entropy's
divisor counts labelled pixels, and Dice or Lovasz are no means over images. Gradients are summed.

Batch normalisation uses the mean and variance of the whole batch on every device: torch's
SyncBatchNorm refuses CPUs. Dropout draws for the whole batch, and each process takes its rows.
While the network computes, both are intercepted where torch computes them, so that the network and
its exports stay those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch.overrides import TorchFunctionMode

from ..data.loaders import shared
from ..engines.collectives import (
    all_rows,
    copy_from_first,
    is_equal_everywhere,
    own_rows,
    stacked,
    sum_gradients,
    sum_over,
)
from ..engines.distributed import World, world
from ..errors import ProcessError
from .callbacks import Repeatable

# Dropouts -> whether they draw one number for each channel (or row) instead of each value.
DROPOUTS: dict[Callable[..., Any], bool] = {
    F.dropout: False,
    F.dropout1d: True,
    F.dropout2d: True,
    F.dropout3d: True,
}


@contextmanager
def training_together(learn: Learner, seed: int, views: int = 0) -> Iterator[Repeatable]:
    """Let calls of `fit` in the block draw repeatably, and share batches between the processes.

    Yields the callback whose `stage` the draws depend on; `views`: see `Repeatable`. Raises
    `ModelError` if batches are too small for so many processes.
    """
    repeatable, together = Repeatable(seed, views), world()
    if together.size == 1:
        with learn.added_cbs([repeatable]):
            yield repeatable
        return
    whole = WholeBatch(together)
    forward = learn.model.forward

    def forward_together(*args: Any) -> Any:
        with whole.mode:
            return forward(*args)

    with shared(learn.dls, together.rank, together.size), learn.added_cbs([repeatable, whole]):
        learn.model.forward = forward_together
        try:
            yield repeatable
        finally:
            del learn.model.forward


class WholeBatch(Callback):
    """Give each process the predictions and labels of the whole batch, and sum the gradients."""

    order = -20  # before all callbacks that use predictions or gradients

    def __init__(self, together: World):
        self.together = together
        self.mode = _WholeBatchMode(together)

    def __call__(self, event_name: str) -> None:
        # fastai's own `__call__` would replace the message of an error.
        if hasattr(self, event_name):
            getattr(self, event_name)()

    def before_fit(self) -> None:
        copy_from_first(self.learn.model.state_dict().values())

    def before_batch(self) -> None:
        self.mode.count = self.dl.counts[self.iter]
        self.mode.rows = len(self.x)

    def after_pred(self) -> None:
        count = self.mode.count
        self.learn.pred = all_rows(self.pred.as_subclass(torch.Tensor), count, self.together)
        labels = self.y.as_subclass(torch.Tensor)
        if labels.ndim > 1:  # codes of pixels are 0 to 255
            gathered = all_rows(labels.to(torch.uint8), count, self.together).to(labels.dtype)
        else:
            gathered = all_rows(labels, count, self.together)
        self.learn.yb = (gathered.as_subclass(type(self.y)),)

    def before_step(self) -> None:
        sum_gradients(self.learn.model.parameters())

    def after_epoch(self) -> None:
        if not is_equal_everywhere(self.learn.model.state_dict().values()):
            raise ProcessError(
                f"after epoch {self.epoch + 1} the processes have different weights: processors "
                "of several kinds round differently; use machines of one kind",
                "processes-diverged",
            )


class _WholeBatchMode(TorchFunctionMode):
    """Computes batch normalisation and dropout of the whole batch while a network is trained.

    `count` are the rows of the whole batch, and `rows` those that the network sees here; they are
    one row that is in no batch if this process has none.
    """

    count = rows = 0

    def __init__(self, together: World):
        super().__init__()
        self.together = together

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        if func is torch.Tensor.bernoulli_:  # stochastic depth (timm's DropPath)
            return self._bernoulli(*args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        x: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        values = x.numel() // x.shape[1] // self.rows  # of a channel in one row
        total = self.count * values
        if total < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        counts = [len(range(r, self.count, self.together.size)) for r in range(self.together.size)]
        weights = torch.tensor(counts, dtype=torch.float64, device=x.device) / self.count
        out, mean, var = _BatchNorm.apply(x, weight, bias, eps, weights, total, self.together)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                unbiased = var * (total / (total - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        return out

    def _dropout(
        self,
        func: Any,
        x: torch.Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> torch.Tensor:
        if not training or not 0 < p < 1 or len(x) % self.rows:
            return func(x, p, training, inplace)
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if DROPOUTS[func] else x.shape
        noise = torch.empty((len(x) // self.rows * self.count, *shape[1:]), dtype=x.dtype)
        if not DROPOUTS[func] and x.ndim == 4 and not x.is_contiguous():
            noise = noise.contiguous(memory_format=torch.channels_last)
        noise = noise.to(x.device).bernoulli_(1 - p).div_(1 - p)
        return x * self._own(noise)

    def _bernoulli(
        self, drawn: torch.Tensor, p: float = 0.5, *, generator: Any = None
    ) -> torch.Tensor:
        if not drawn.ndim or len(drawn) % self.rows:
            return drawn.bernoulli_(p, generator=generator)
        whole = drawn.new_empty((len(drawn) // self.rows * self.count, *drawn.shape[1:]))
        return drawn.copy_(self._own(whole.bernoulli_(p, generator=generator)))

    def _own(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the rows of this process; each image has one row, or several in a sequence."""
        by_image = whole.view(self.count, -1, *whole.shape[1:])
        own = by_image[self.together.rank :: self.together.size]
        own = own if own_rows(self.count, self.together) else by_image[:1]
        return own.reshape(-1, *whole.shape[1:])


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation (arXiv:1502.03167) by mean and variance over all processes.

    `weights`, float64 (size,), are the processes' shares of the batch's rows. Returns the result,
    and the mean and biased variance of each channel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        weights: torch.Tensor,
        total: int,
        together: World,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(x.shape[1], dtype=kind, device=x.device)
        # The fused kernel of one process; momentum 0 leaves `zeros` as they are.
        own = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
        means, variances = stacked(torch.stack(own).to(kind), together).double().unbind(1)
        share = weights[:, None]
        mean = (share * means).sum(0)
        # Of a mixture: the mean of the variances, and the variance of the means.
        var = ((variances + (means - mean) ** 2) * share).sum(0).to(kind)
        mean = mean.to(kind)
        scale = torch.ones_like(mean) if weight is None else weight
        ctx.save_for_backward(x, scale, mean, var)
        ctx.eps, ctx.total, ctx.has_rows = eps, total, bool(weights[together.rank])
        ctx.needs = weight is not None, bias is not None
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        x, scale, mean, var = ctx.saved_tensors
        # As if mean and variance were constants; then what they depend on.
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, scale, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = sum_over(torch.stack([grad_weight, grad_bias]).to(mean.dtype))
        if ctx.has_rows:  # other rows are in no mean
            inverse = torch.rsqrt(var + ctx.eps)
            factor = scale * inverse / ctx.total
            grad_x = grad_x - F.batch_norm(
                x,
                mean,
                torch.ones_like(var),
                factor * inverse * sums[0],
                factor * sums[1],
                False,
                0.0,
                0.0,
            )
        has_weight, has_bias = ctx.needs
        return (
            grad_x,
            grad_weight if has_weight else None,
            grad_bias if has_bias else None,
            None,
            None,
            None,
            None,
        )

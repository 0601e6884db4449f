"""The callback that reports a training to a tracker: each batch, and each epoch."""

from __future__ import annotations

from collections.abc import Callable

from fastai.callback.core import Callback

Report = Callable[..., None]  # `tracking.reporting.Reporting.row`


class TrackSteps(Callback):
    """Report loss and learning rate of each batch, and losses and metrics of each epoch.

    Steps count training batches from `before` on, those of epochs before an interruption too.
    `frozen` are the epochs of the stage that trains the head alone, before the other one. It
    neither predicts nor draws anything: a fit that is tracked reaches the same weights.
    """

    order = 85  # before the checkpoint: no epoch is missing if the fit ends right after that

    def __init__(self, report: Report, prefix: str, before: int, frozen: int):
        self.report, self.prefix, self.before, self.frozen = report, prefix, before, frozen

    def before_fit(self) -> None:
        self.is_range_test = hasattr(self.learn, "lr_finder")
        # With --freeze, the head alone is trained in the last stage, too.
        is_first = self.opt.frozen_idx > 0 and self.frozen > 0
        self.epochs = 0 if is_first else self.frozen

    def _step(self, batches: int) -> int:
        return self.before + (self.epochs + self.epoch) * len(self.dls.train) + batches

    def after_batch(self) -> None:
        if self.training and not self.is_range_test:
            values = {
                "train/loss": float(self.smooth_loss),
                "train/lr": float(self.opt.hypers[-1]["lr"]),
            }
            self._report(values, self._step(self.iter + 1))

    def after_epoch(self) -> None:
        if not self.is_range_test:
            row = zip(self.recorder.metric_names[1:-1], self.recorder.values[-1])
            values = {f"epoch/{name}": float(value) for name, value in row if value is not None}
            step = self._step(len(self.dls.train))
            self._report(values, step, self.epochs + self.epoch + 1)

    def _report(self, values: dict[str, float], step: int, epoch: int | None = None) -> None:
        self.report({self.prefix + name: value for name, value in values.items()}, step, epoch)

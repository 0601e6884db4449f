"""Training: `fit` from a data folder to an export, one-cycle, with progress, pictures and metrics."""
from __future__ import annotations

import json
import logging
import math
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner

from . import plots
from .bundle import load, replacing, write
from .card import METRICS, seal
from .errors import ModelError
from .evaluation import items_of, measure
from .files import atomic_file
from .learners import learner
from .progress import bar, console
from .tasks import Item, Task, get

log = logging.getLogger(__name__)


def fit(task: str | Task, data: Path | str | None = None, *, epochs: int | None = None, lr: float | str | None = None,
        freeze_epochs: int | None = None, out: Path | str | None = None, **options) -> dict:
    """Train a task's learner and write its export to `out` (default: exports/TASK); return what was measured.

    `options` are those of `fastseg.learner`: arch, decoder, weights, size, bs, loss, opt, seed, device. The returned
    dict has "export", "seconds" (training alone), "weights", "history" (one dict an epoch) and "metrics" over the
    validation part at original size. An earlier export in `out` stays until the new one is whole.
    Raises `FastsegError` kinds.
    """
    task = get(task)
    epochs = task.recipe.epochs if epochs is None else epochs
    freeze_epochs = task.recipe.freeze_epochs if freeze_epochs is None else freeze_epochs
    if epochs < 0 or freeze_epochs < 0 or epochs + freeze_epochs == 0:
        raise ModelError(f"--epochs {epochs} with --freeze-epochs {freeze_epochs} trains nothing; give at least one epoch")
    if lr != "auto":
        _rate(lr, task.recipe.lr)
    out = Path(out or f"exports/{task.name}")
    with replacing(out, task) as folder:
        learn = learner(task, data, **options)
        start = time.monotonic()
        train(learn, epochs, lr, freeze_epochs)
        seconds = time.monotonic() - start
        if not all(math.isfinite(row["valid_loss"]) for row in learn.history):
            raise ModelError(f"training diverged at --lr {learn.fitted['lr']:.3g} (the loss is not a number); try a lower one")
        learn.fitted["seconds"] = round(seconds, 1)
        card = write(learn, folder)
        predictor = load(folder, options.get("device"))
        items, _ = items_of(card, task, card.data, "valid")
        rows: list[list[plots.Panel]] = []

        def keep(item: Item, prediction, truth) -> None:
            if len(rows) < 6:
                rows.append(plots.prediction_panels(task, prediction.image, truth, prediction, item.image.name))

        card.metrics = measure(predictor, items, visit=keep)
        with atomic_file(folder / METRICS) as temporary:
            temporary.write_text(json.dumps(card.metrics, indent=1) + "\n", encoding="utf-8")
        plots.curves(learn.history, folder / "loss_curve.png")
        plots.grid(rows if task.kind == "segment" else [[row[0] for row in rows]], folder / "show_results.png", task,
                   f"{task.name}: results on images held out from training")
        seal(card, folder)
    return {"task": task.name, "export": str(out), "seconds": round(seconds, 1), "weights": card.weights_origin,
            "history": learn.history, "metrics": card.metrics}


def range_test(learn: Learner) -> tuple[float, list[float], list[float]]:
    """Return the learning rate that fastai's `lr_find` suggests (its valley), and the rates and losses that it tried.

    The weights are left as they were.
    """
    with _model_dir(learn), learn.no_bar(), learn.no_logging(), _quiet(), _explained():
        suggestion = float(learn.lr_find(show_plot=False).valley)
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return suggestion, rates[: len(losses)], losses


@contextmanager
def _model_dir(learn: Learner):
    """Let `lr_find` keep its backup of the weights in a temporary folder, not beside the user's files."""
    before = learn.path
    with tempfile.TemporaryDirectory() as folder:
        learn.path = Path(folder)
        try:
            yield
        finally:
            learn.path = before


class Reporter(Callback):
    """Show a progress bar over all batches of all epochs, and one line an epoch, on standard error."""

    order = 60

    def before_fit(self):
        self.shown = not hasattr(self.learn, "lr_finder")
        if not self.shown:
            return
        self.frozen_head = self.opt.frozen_idx > 0
        self.bar = bar()
        self.bar.start()
        self.task = self.bar.add_task("training", total=self.n_epoch * (len(self.dls.train) + len(self.dls.valid)))
        self.logger, self.learn.logger = self.learn.logger, self._line

    def after_batch(self):
        if self.shown:
            part = "head only, epoch" if self.frozen_head else "epoch"
            self.bar.update(self.task, advance=1, description=f"{part} {self.epoch + 1}/{self.n_epoch}")

    def after_fit(self):
        if self.shown:
            self.bar.stop()
            self.learn.logger = self.logger

    after_cancel_fit = after_fit

    def _line(self, values):
        names = ["frozen epoch" if self.frozen_head and name == "epoch" else name for name in self.recorder.metric_names]
        values = [f"{values[0] + 1}/{self.n_epoch}", *values[1:]]
        parts = [f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                 for name, value in zip(names, values) if value is not None]
        console.print("  ".join(parts), highlight=False, soft_wrap=True)


def train(learn: Learner, epochs: int, lr: float | str | None = None, freeze_epochs: int = 0) -> Learner:
    """Train with fastai's one-cycle policy: first the head alone for `freeze_epochs` if the backbone is pretrained.

    `lr` is a rate, "auto" for the range test's suggestion, or None for the learner's own. After unfreezing, the
    backbone learns with a tenth of the rate (its early half) to the full rate (decoder).
    """
    pretrained = not learn.weights_origin.startswith("random")
    if lr == "auto":
        lr = range_test(learn)[0]
        log.info("learning rate %.2e, from the range test", lr)
    lr = _rate(lr, learn.lr)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    history: list[list] = []
    with learn.added_cbs(Reporter()), _quiet(), _explained():
        if pretrained and freeze_epochs:
            learn.freeze()
            learn.fit_one_cycle(freeze_epochs, lr)
            history += learn.recorder.values
        if epochs > 0:
            learn.unfreeze()
            learn.fit_one_cycle(epochs, slice(lr / 10, lr) if pretrained else lr)
            history += learn.recorder.values
    if not history:
        raise ModelError("no epoch was trained (head-only epochs need pretrained weights); give --epochs 1 or more")
    learn.history = [dict(zip(learn.recorder.metric_names[1:-1], map(float, row))) for row in history]
    learn.fitted = {"epochs": epochs, "freeze_epochs": freeze_epochs if pretrained else 0, "lr": lr}
    return learn


def _rate(lr: float | str | None, default: float) -> float:
    try:
        rate = default if lr is None else float(lr)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ModelError(f"learning rate '{lr}' is not a positive number; give one such as 1e-3, or auto")
    return rate


@contextmanager
def _explained():
    """Say in fastseg's words what torch says of batches of one image."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ModelError("this model normalises over a batch and needs 2 images or more in each: raise --bs, or add training images, "
                         "or choose --decoder unet") from error


@contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch|fastai|timm")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def find_lr(task: str | Task, data: Path | str | None = None, *, out: Path | str | None = None, **options) -> tuple[float, Path]:
    """Return the learning rate that fastai's `lr_find` suggests for a task, and the plot's path (TASK_lr_find.png).

    `options` are those of `fastseg.learner`.
    """
    task = get(task)
    learn = learner(task, data, **options)
    suggestion, rates, losses = range_test(learn)
    return suggestion, plots.rate_finder(rates, losses, suggestion, out or f"{task.name}_lr_find.png")

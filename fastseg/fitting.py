"""From a data folder to an export: one learner trained, measured on what it never saw, and written whole."""
from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

from fastai.learner import Learner

from . import plots
from .backbones import ensemble
from .bundle import load, replacing, write
from .card import METRICS, seal
from .errors import ModelError
from .evaluation import Tally, items_of, measure
from .files import atomic_file
from .learners import learner
from .planning import planned
from .tasks import Item, Task, get
from .training import Course, range_test, train

log = logging.getLogger(__name__)


def fit(task: str | Task, data: Path | str | None = None, *, epochs: int | None = None, lr: float | str | None = None,
        freeze_epochs: int | None = None, ema: float | None = None, windows: float | None = None, progressive: float | None = None,
        mixup: float | None = None, patience: int | None = None, time_budget: float | None = None, folds: int = 0,
        out: Path | str | None = None, **options) -> dict:
    """Train a task's learner and write its export to `out` (default: exports/TASK); return what was measured.

    `options` are those of `fastseg.learner`: arch, decoder, weights, size, bs, loss, opt, seed, device, precision, cache.
    `time_budget` is in seconds, for all of it: a measured step plans epochs and, where few fit, a smaller size. `folds`
    trains as many learners, each on another part held out, and exports their ensemble; its metrics are those of every
    image by the learner that never saw it. The other arguments are those of `Course`. The returned dict has "export",
    "seconds" (training alone), "weights", "history" (one dict an epoch, of the last fold) and "metrics" over the
    validation images at original size. An earlier export in `out` stays until the new one is whole.
    Raises `FastsegError` kinds.
    """
    deadline = time.monotonic() + (time_budget or math.inf)
    task = get(task)
    if time_budget is not None and (epochs is not None or not 0 < time_budget < math.inf):
        raise ModelError("give either a number of epochs or a time budget, a positive one")
    if folds < 0 or folds == 1:
        raise ModelError(f"{folds} fold holds nothing out; give --folds 2 or more")
    course = Course.of(task, epochs=epochs, lr=lr, freeze_epochs=freeze_epochs, ema=ema, windows=windows, progressive=progressive,
                       mixup=mixup, patience=patience)
    out = Path(out or f"exports/{task.name}")
    device, seconds = options.get("device"), 0.0
    tally, rows, networks = Tally(task), [], []

    def keep(item: Item, prediction, truth) -> None:
        if len(rows) < 6:
            rows.append(plots.prediction_panels(task, prediction.image, truth, prediction, item.image.name))

    with replacing(out, task) as folder:
        for number in range(max(1, folds)):
            if folds:
                options["fold"] = number, folds
                log.info("fold %d of %d", number + 1, folds)
            share = (deadline - time.monotonic()) / (max(1, folds) - number)
            learn = _trained(task, data, course, share if time_budget else None, options)
            seconds += learn.fitted["seconds"]
            card = write(learn, folder)
            predictor = load(folder, device)
            card.metrics = measure(predictor, items_of(card, task, card.data, "valid")[0], visit=keep, tally=tally)
            networks.append(learn.model.cpu())
        if folds:
            learn.model, learn.opt = ensemble(networks), None  # the optimizer's state is of one member
            learn.fitted |= {"folds": folds, "seconds": round(seconds, 1)}
            card = write(learn, folder)
            card.valid_files, card.metrics = [], tally.metrics()
        with atomic_file(folder / METRICS) as temporary:
            temporary.write_text(json.dumps(card.metrics, indent=1) + "\n", encoding="utf-8")
        plots.grid(rows if task.kind == "segment" else [[row[0] for row in rows]], folder / "show_results.png", task,
                   f"{task.name}: results on images held out from training")
        plots.curves(learn.history, folder / "loss_curve.png")
        seal(card, folder)
    return {"task": task.name, "export": str(out), "seconds": round(seconds, 1), "weights": card.weights_origin,
            "history": learn.history, "metrics": card.metrics}


def _trained(task: Task, data: Path | str | None, course: Course, budget: float | None, options: dict) -> Learner:
    """Return a learner trained by `course`, or by what of it fits into `budget` seconds; `fitted` says what was done."""
    start = time.monotonic()
    learn = learner(task, data, **options)
    if budget is not None:
        learn, course = planned(learn, course, lambda size: learner(task, data, **{**options, "size": size}),
                                budget - (time.monotonic() - start))
    start = time.monotonic()
    train(learn, course)
    learn.fitted["seconds"] = round(time.monotonic() - start, 1)
    if not all(math.isfinite(row["valid_loss"]) for row in learn.history):
        raise ModelError(f"training diverged at --lr {learn.fitted['lr']:.3g} (the loss is not a number); try a lower one")
    return learn


def find_lr(task: str | Task, data: Path | str | None = None, *, out: Path | str | None = None, **options) -> tuple[float, Path]:
    """Return the learning rate that fastai's `lr_find` suggests for a task, and the plot's path (TASK_lr_find.png).

    `options` are those of `fastseg.learner`.
    """
    task = get(task)
    learn = learner(task, data, **options)
    suggestion, rates, losses = range_test(learn)
    return suggestion, plots.rate_finder(rates, losses, suggestion, out or f"{task.name}_lr_find.png")

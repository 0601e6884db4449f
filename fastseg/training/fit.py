"""From a data folder to an export: one learner trained, measured on what it never saw, and written whole."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExportError, ModelError
from ..evaluation.run import items_of, judged
from ..evaluation.scores import Scores, scores_of
from ..exports.card import METRICS, Card, seal
from ..exports.folder import replacing, write
from ..learners.preparation import learner
from ..metrics.calibration import PIXELS, temperature
from ..metrics.risk import thresholds
from ..tasks import Item, Task, get
from ..utils.io import write_json
from ..utils.locks import write_lock
from .budget import planned, read_plan, write_plan
from .course import Course
from .resume import interruptible

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..inference.prediction import Prediction

# torch, fastai and matplotlib are imported where they are first needed: after `learner` has checked options and data.

log = logging.getLogger(__name__)

SHOWN = 6  # images in show_results.png


def fit(
    task: str | Task,
    data: Path | str | None = None,
    *,
    epochs: int | None = None,
    lr: float | str | None = None,
    freeze_epochs: int | None = None,
    ema: float | None = None,
    windows: float | None = None,
    progressive: float | None = None,
    mixup: float | None = None,
    patience: int | None = None,
    time_budget: float | None = None,
    folds: int = 0,
    out: Path | str | None = None,
    resume: bool | None = None,
    **options,
) -> dict:
    """Train a task's learner and write its export to `out` (default: exports/TASK); return what was measured.

    `options` are those of `fastseg.learner`: arch, decoder, weights, size, bs, loss, opt, seed, device, precision, cache.
    `time_budget` is in seconds, for all of it: a measured step plans epochs and, where few fit, a smaller size. `folds`
    trains as many learners, each on another part held out, and exports their ensemble; its metrics are those of every
    image by the learner that never saw it. The other arguments are those of `Course`. The returned dict has "export",
    "seconds" (training alone), "weights", "history" (one dict an epoch, of the last fold) and "metrics" over the
    validation images at original size; temperature and review thresholds from them go into the card. An earlier export in
    `out` stays until the new one is whole.
    Each epoch leaves a checkpoint in a hidden folder beside `out`. `resume=True` goes on from it, with the arguments of the
    interrupted fit, to the same weights that it would have reached; False starts again; None refuses to lose one.
    Raises `FastsegError` kinds.
    """
    task = get(task)
    out = Path(out or f"exports/{task.name}")
    if not out.resolve().name:
        raise ExportError(
            f"{out}: is the root of the file system; name a new folder with --out", "out-is-root"
        )
    given = dict(
        data=data,
        epochs=epochs,
        lr=lr,
        freeze_epochs=freeze_epochs,
        ema=ema,
        windows=windows,
        progressive=progressive,
        mixup=mixup,
        patience=patience,
        time_budget=time_budget,
        folds=folds,
        **options,
    )
    with write_lock(out), interruptible(out, task, given, resume) as (work, arguments):
        return _fit(task, out, work, **arguments)


def _fit(
    task: Task,
    out: Path,
    work: Path,
    *,
    data: str | None,
    time_budget: float | None,
    folds: int,
    epochs: int | None,
    lr: float | str | None,
    freeze_epochs: int | None,
    ema: float | None,
    windows: float | None,
    progressive: float | None,
    mixup: float | None,
    patience: int | None,
    **options,
) -> dict:
    deadline = time.monotonic() + (time_budget or math.inf)
    if time_budget is not None and (epochs is not None or not 0 < time_budget < math.inf):
        raise ModelError(
            "give either a number of epochs or a time budget, a positive one", "epochs-or-budget"
        )
    if folds < 0 or folds == 1:
        raise ModelError(f"{folds} fold holds nothing out; give --folds 2 or more", "folds")
    course = Course.of(
        task,
        epochs=epochs,
        lr=lr,
        freeze_epochs=freeze_epochs,
        ema=ema,
        windows=windows,
        progressive=progressive,
        mixup=mixup,
        patience=patience,
    )
    if not course.epochs and options.get("weights") == "none":
        raise ModelError(
            "no epoch would be trained (head-only epochs need pretrained weights); give --epochs 1 or more",
            "no-epoch",
        )
    device, seconds = options.get("device"), 0.0
    scores, rows, trust, networks = scores_of(task), [], [], []

    with replacing(out, task) as folder:
        for number in range(max(1, folds)):
            if folds:
                options["fold"] = number, folds
                log.info("fold %d of %d", number + 1, folds)
            share = (deadline - time.monotonic()) / (max(1, folds) - number)
            learn = _trained(
                task,
                data,
                course,
                share if time_budget else None,
                options,
                work / f"learner_{number}",
            )
            seconds += learn.fitted["seconds"]
            from ..inference.loading import load, measure
            from ..utils.device import device_of, fixed_precision

            card = write(learn, folder)
            items, root = items_of(card, task, card.data, "valid")
            judging = fixed_precision(
                device_of(device), options.get("precision")
            )  # two fits of one seed have the same metrics
            for score, (panels, evidence) in judged(
                load(folder, device, precision=judging), items, root, look=_look(task, items)
            ):
                scores.images.append(score)
                trust.append((evidence, score))
                rows += panels if len(rows) < SHOWN else []
            networks.append(learn.model.cpu())
        if folds:
            from ..models.network import ensemble

            learn.model, learn.opt = (
                ensemble(networks),
                None,
            )  # the optimizer's state is of one member
            learn.fitted |= {"folds": folds, "seconds": round(seconds, 1)}
            card = write(learn, folder)
            card.valid_files = []
        measure(folder, device, seconds)
        _calibrate(card, scores, trust)
        card.metrics = scores.metrics()
        write_json(folder / METRICS, card.metrics)
        from ..report import charts
        from ..report import panels as plots
        from ..report.views import view_of

        view = view_of(task)
        title = f"{task.name}: results on images held out from training"
        plots.write(view.grid(rows, title, errors=True), folder / "show_results.png")
        plots.write(charts.curves(learn.history), folder / "loss_curve.png")
        seal(card, folder)
    return {
        "task": task.name,
        "export": str(out),
        "seconds": round(seconds, 1),
        "weights": card.weights_origin,
        "history": learn.history,
        "metrics": card.metrics,
    }


def _look(task: Task, items: Sequence[Item]) -> Callable:
    """Return what to keep of each held-out image: panels of the first ones; scores and labels; the error that was to be expected."""
    from ..report.views import view_of

    view = view_of(task)
    shown, count = {item.image for item in items[:SHOWN]}, max(50, PIXELS // len(items))

    def look(item: Item, prediction: Prediction, truth: np.ndarray | int) -> tuple[list, tuple]:
        panels = [view.predicted(prediction, truth, item.image.name)] if item.image in shown else []
        # seeded by the image's name: which pixels are taken does not depend on threads
        seed = zlib.crc32(item.image.name.encode())
        logits, labels = prediction.calibration_sample(truth, count, seed)
        return panels, (logits, labels, prediction.expected_error)

    return look


def _calibrate(card: Card, scores: Scores[Any], trust: Sequence[tuple]) -> None:
    """Put temperature and review thresholds into the card, from what each held-out image showed; scores become calibrated ones."""
    logits, labels = (np.concatenate([evidence[k] for evidence, _ in trust]) for k in (0, 1))
    errors = [scores.error(score) for _, score in trust]
    card.temperature = round(temperature(logits, labels, len(trust)), 4)
    card.review = thresholds(np.array([evidence[2] for evidence, _ in trust]), np.array(errors))
    # The export's own probabilities are calibrated, and so are the figures printed of it.
    for evidence, score in trust:
        scores.calibrate(score, evidence[0][0], card.temperature)


def _trained(
    task: Task,
    data: Path | str | None,
    course: Course,
    budget: float | None,
    options: dict,
    work: Path,
) -> Learner:
    """Return a learner trained by `course`, or by what of it fits into `budget` seconds; `fitted` says what was done.

    `work` keeps its checkpoints, and what was planned for the budget, until the export is whole.
    """
    start = time.monotonic()
    plan = read_plan(work)
    options = {**options, "epochs": course.epochs + course.freeze_epochs}
    learn = learner(task, data, **{**options, **({"size": tuple(plan["size"])} if plan else {})})
    if plan:
        course = Course(**plan["course"])
    elif budget is not None:
        learn, course = planned(
            learn,
            course,
            lambda size: learner(task, data, **{**options, "size": size}),
            budget - (time.monotonic() - start),
        )
        write_plan(work, learn.origin.size, course)
    from .loop import train

    train(learn, course, work)
    if not all(math.isfinite(row["valid_loss"]) for row in learn.history):
        raise ModelError(
            f"training diverged at --lr {learn.fitted['lr']:.3g} (the loss is not a number); try a lower one",
            "diverged",
        )
    return learn


def find_lr(
    task: str | Task, data: Path | str | None = None, *, out: Path | str | None = None, **options
) -> tuple[float, Path]:
    """Return the learning rate that fastai's `lr_find` suggests for a task, and the plot's path (TASK_lr_find.png).

    `options` are those of `fastseg.learner`.
    """
    task = get(task)
    out = out or f"{task.name}_lr_find.png"
    from ..report import charts
    from ..report import panels as plots

    plots.require_png(out)  # before the test, not after it
    learn = learner(task, data, **options)
    from .loop import range_test

    suggestion, rates, losses = range_test(learn)
    return suggestion, plots.write(charts.rate_finder(rates, losses, suggestion), out)

"""From data to an export: trains learners, evaluates them on held-out images, writes them."""

from __future__ import annotations

import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..data.split import DEFAULT_SEED, splitter
from ..data.state import LEDGER
from ..engines.distributed import World, all_threads, joined, place, told_by_first, world
from ..errors import ExportError, ModelError, TaskError
from ..evaluation.run import items_of, score_images
from ..evaluation.scores import SAMPLES, scores_of
from ..exports.card import METRICS, Card, seal, versions
from ..exports.folder import replacing
from ..exports.record import record_of
from ..exports.write import write_export
from ..learners.options import (
    LEARNER_OPTIONS,
    OPTIONS,
    FitOptions,
    WholeNumber,
    unlabelled_in_processes,
    with_options,
)
from ..learners.preparation import learner, learner_of
from ..measuring.calibration import Compared, calibrated, compared_prediction, evenly
from ..metrics.calibration import PIXELS, temperature
from ..metrics.risk import thresholds
from ..tasks import Item, SegmentationTask, Task, get
from ..utils.io import name_below, read_json, write_json
from ..utils.locks import write_lock
from .budget import Plan, plan_training
from .resume import FitPlan, FitRun, interruptible
from .tracked import Tracked, tracked

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..inference.prediction import Prediction
    from ..models.network import Network

# torch, fastai and matplotlib are imported where they are first needed: after `learner_of` has
# checked options and data.

log = logging.getLogger(__name__)

SHOWN = 6  # images in show_results.png
# Of an image: logits (N, C), labels (N,), expected error, and its measures if it has a mask
Evidence = tuple[Any, Any, float, Optional[Compared]]
BATCH = "batch.json"  # among the checkpoints: what `--bs auto` chose
FEWEST_PIXELS = 50  # smallest number of pixels that calibration uses of each image; a choice


@with_options(*OPTIONS)
def fit(
    task: str | Task | None = None,
    data: Path | str | None = None,
    *,
    again: Path | str | None = None,
    strict: bool = False,
    pins: bool = True,
    out: Path | str | None = None,
    resume: bool | None = None,
    processes: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a task's learner, write its export to `out`, and return what was measured.

    `out` is exports/TASK by default; an earlier export in it stays until the new one is complete.
    `size` is in px, one side or (height, width); `cache` is in bytes. `time_budget` is in seconds,
    for all of it: a measured step plans epochs and, where few fit, a smaller size (not for images
    that are cropped). `folds` trains as many learners, each on another part held out, and exports
    their ensemble; its metrics are those of every image by the learner that never saw it.

    The returned dict has "export", "seconds" (training alone), "weights", "history" (one dict for
    each epoch, of the last fold) and "metrics" over the validation images at original size, with
    95 % "intervals". The temperature and the review thresholds that they give go into the card.

    `again` is the folder of an export (`--from`): its network is trained on with the labels that
    there are now, and the new export replaces it (or goes to `out`); the replaced one is kept in
    .earlier/ next to it. What it held out stays held out. "again" in the result compares both on
    the same held-out images. Where the data folder has corrections, "pins" says which of them hold
    under the new export (`pins=False`: they are not looked at); with `strict`, one under which any
    came back replaces no other one, and `ModelError` has code "came-back".

    Each epoch writes a checkpoint to a hidden folder next to `out`. `resume=True` resumes from it,
    with the arguments of the interrupted fit, and reaches the same weights; False starts again;
    None refuses to lose a checkpoint.

    `processes` starts so many processes on this machine, which share each batch: on GPUs one
    for each, on CPUs the cores are divided. They take the same optimizer steps as one process; so
    do processes that torchrun or `accelerate launch` started with a call of this function in each.
    All return the same dict, and only the first one writes. Raises `FastsegError` kinds.
    """
    if task is None and again is None:
        raise TaskError("name a task, or an export to train on from (again)", "no-task")
    if processes is not None:
        call = dict(again=again, strict=strict, pins=pins, out=out, resume=resume, **options)
        if _several(processes):
            # Here, so that a mistake is told once, and before any process is started.
            FitOptions(**options).check()
            FitOptions(**options).check_course(_planned(task, data, again, out, options).task)
            if options.get("unlabelled"):
                raise unlabelled_in_processes()
            from .processes import fit_in_processes

            return fit_in_processes(processes, task, data, call)
    with told_by_first():
        plan = _planned(task, data, again, out, options)
        task, data, given, out = plan.task, plan.data, plan.options, plan.out
        if not out.resolve().name:
            raise ExportError(
                f"{out}: is the root of the file system; name a new folder with --out",
                "out-is-root",
            )
        given.check()
    with joined(given.device) as together:
        result = None
        if together.is_first:
            start = Path(os.path.abspath(again)) if again else None
            with (
                write_lock(out),
                interruptible(out, task, data, given, resume, start, strict) as run,
                tracked(task, out, run) as tracker,
            ):
                _share_run(task, run, together)
                result = _train_and_export(task, out, run, pins, tracker)
        else:
            _train_along(task, _share_run(task, None, together, data))
        return together.from_first(result)


def _planned(
    task: str | Task | None,
    data: Path | str | None,
    again: Path | str | None,
    out: Path | str | None,
    options: Mapping[str, Any],
) -> FitPlan:
    """Return what is trained, and where the export goes. Raises `FastsegError` kinds."""
    given = FitOptions(**options)
    if again is not None:
        from .again import plan_again

        given.check()
        return plan_again(again, task, data, out, given)
    assert task is not None
    found = get(task)
    return FitPlan(found, data, given, Path(out or f"exports/{found.name}"))


def _several(processes: int) -> bool:
    """Return whether to start several processes. Raises `ModelError` for impossible numbers."""
    WholeNumber(1)("--processes", processes)
    where = place()
    if where is not None and processes != where.size:
        raise ModelError(
            f"--processes {processes}: this is one of {where.size} processes that were started "
            "together already; leave it out",
            "processes-twice",
        )
    return where is None and processes > 1


def _share_run(
    task: Task, run: FitRun | None, together: World, data: Path | str | None = None
) -> FitRun:
    """Return the first process's run; the others get no folder of it.

    Raises `ProcessError` if the processes have different data or versions.
    """
    if together.size == 1 and run is not None:
        return run
    given = together.from_first(run and {**run.options.to_json(), "data": str(run.data)})
    if run is None:
        where = given.pop("data")
        # other machines may have the data elsewhere
        folder = Path(where if data is None else os.path.abspath(data))
        run = FitRun(None, folder, FitOptions.from_json(given))
    names = sorted(name_below(run.data, item.image) for item in task.items(run.data))
    digest = zlib.crc32("\n".join(names).encode(errors="surrogateescape"))
    together.agree("images", f"{len(names)} images, names' checksum {digest:08x}")
    if (run.data / LEDGER).is_file():
        train, _ = splitter(task, DEFAULT_SEED, data=run.data)(task.items(run.data))
        together.agree("parts of the images", f"{len(train)} to train: {sorted(train)}")
    together.agree("versions", versions())
    together.agree("task definitions", task.definition())
    return run


def _train_along(task: Task, run: FitRun) -> None:
    """Train with the first process, which evaluates each learner and writes the export."""
    options, together = run.options, world()
    options.check_course(task)
    for number in range(max(1, options.folds)):
        _train_fold(task, run, number, options.time_budget)
        together.from_first("evaluated")


def _train_and_export(
    task: Task, out: Path, run: FitRun, pins: bool, tracker: Tracked | None
) -> dict[str, Any]:
    """Train each learner, evaluate it on held-out images, calibrate, and write the export.

    With `pins`, corrections are checked before an earlier export is replaced. The trainings are
    reported to `tracker`.
    """
    options = run.options
    options.check_course(task)
    deadline = time.monotonic() + (options.time_budget or math.inf)
    found = HeldOut(task)
    networks, seconds = [], 0.0
    with replacing(out, task) as folder:
        for number in range(max(1, options.folds)):
            left = (deadline - time.monotonic()) / (max(1, options.folds) - number)
            learn = _train_fold(task, run, number, left if options.time_budget else None, tracker)
            seconds += record_of(learn).course["seconds"]
            card = write_export(learn, folder)
            with all_threads():  # the other processes wait
                found.judge(card, folder, record_of(learn).data, options)
            networks.append(learn.model.cpu())
            world().from_first("evaluated")
        if options.folds:
            card = _write_ensemble(learn, networks, seconds, folder)
        from ..inference.loading import measure

        measure(folder, options.device, seconds)
        found.calibrate(card)
        card.metrics = found.scores.metrics(SAMPLES)
        write_json(folder / METRICS, card.metrics)
        history, frozen = record_of(learn).history, record_of(learn).course["freeze_epochs"]
        _write_pictures(task, found.panels, history, folder)
        seal(card, folder)
        more = {}
        if tracker:
            reported = found.scores.metrics(SAMPLES)
        if pins:
            from .again import review

            with all_threads():
                more = review(run, task, folder, out, None if options.folds else found.scores)
    if options.time_budget:
        log.info(
            "used %.0f of the %.0f s that the time budget left for the fit; the last training had "
            "%d epochs",
            options.time_budget - (deadline - time.monotonic()),
            options.time_budget,
            len(history) - frozen,
        )
    if tracker:
        tracker.exported(reported, seconds)
    return {
        "task": task.name,
        "export": str(out),
        "seconds": round(seconds, 1),
        "weights": card.weights_origin,
        "licence": card.licence,
        "history": history,
        "metrics": card.metrics,
        **more,
    }


def _train_fold(
    task: Task, run: FitRun, number: int, seconds: float | None, tracker: Tracked | None = None
) -> Learner:
    """Return the trained learner of one fold, or the only one, within `seconds` if they are given.

    Its folder keeps checkpoints, and the plan for its time, until the export is complete.
    """
    start = time.monotonic()
    options, work = _with_planned_bs(run), run.folder and run.folder / f"learner_{number}"
    fold = (number, options.folds) if options.folds else None
    if fold:
        log.info("fold %d of %d", number + 1, options.folds)
    plan = Plan.shared(Plan.read(work) if work else None)
    if plan:
        options = replace(options, size=plan.size)
    learn = learner_of(task, run.data, options, fold)
    if (planned := record_of(learn).planned_bs) is not None:
        options = replace(options, bs=planned)
        if run.folder:  # all folds have batches of this size, and so has the fit when resumed
            write_json(run.folder / BATCH, {"bs": planned})
    if seconds is not None and not plan:
        learn, plan = plan_training(
            learn,
            options.recipe(task),
            lambda size: learner_of(task, run.data, replace(options, size=size), fold),
            seconds - (time.monotonic() - start),
        )
        if work:
            plan.write(work)
    if plan:
        options = replace(options, epochs=plan.epochs)
    from .loop import train

    with tracker.course(learn, number) if tracker else nullcontext():
        train(learn, options, work, plan.seconds if plan else None)
    record = record_of(learn)
    if not all(math.isfinite(row["valid_loss"]) for row in record.history):
        raise ModelError(
            f"training diverged at --lr {record.course['lr']:.3g} (the loss is not a number); "
            "try a lower one",
            "diverged",
        )
    return learn


def _with_planned_bs(run: FitRun) -> FitOptions:
    """Return the run's options, with the number in place of `bs="auto"` where it was planned."""
    if run.options.bs != "auto":
        return run.options
    file = run.folder and run.folder / BATCH
    found = world().from_first(read_json(file).get("bs") if file and file.is_file() else None)
    if found is None:
        return run.options
    options = replace(run.options, bs=found)
    OPTIONS["bs"].check(options.bs)
    return options


def _write_ensemble(learn: Learner, networks: list[Network], seconds: float, folder: Path) -> Card:
    """Write the export of the folds' networks together, and return its card."""
    from ..models.network import ensemble

    learn.model = ensemble(networks)
    learn.opt = None  # the optimizer's state is of one member
    record_of(learn).course |= {"folds": len(networks), "seconds": round(seconds, 1)}
    card = write_export(learn, folder)
    # Every image was used to train some of the members, but for those that a ledger holds out.
    card.valid_files = _held_out(record_of(learn).task, Path(record_of(learn).data))
    return card


def _held_out(task: Task, data: Path) -> list[str]:
    """Return the names of the images that the ledger of a data folder holds out; [] without one."""
    if not (data / LEDGER).is_file():
        return []
    items = task.items(data)
    _, valid = splitter(task, DEFAULT_SEED, data=data)(items)
    return [name_below(data, items[i].image) for i in valid]


def _write_pictures(
    task: Task, panels: list[list[Any]], history: list[dict[str, float]], folder: Path
) -> None:
    """Write show_results.png, of held-out images, and loss_curve.png into the export's folder."""
    from ..report import charts
    from ..report import panels as plots
    from ..report.views import view_of

    title = f"{task.name}: results on images held out from training"
    plots.write_png(view_of(task).grid(panels, title, errors=True), folder / "show_results.png")
    plots.write_png(charts.curves(history), folder / "loss_curve.png")


class HeldOut:
    """Results on held-out images: scores, panels of the first ones, data for calibration."""

    def __init__(self, task: Task):
        self.task = task
        self.scores = scores_of(task)
        self.panels: list[list[Any]] = []
        self.evidence: list[Evidence] = []

    def judge(self, card: Card, folder: Path, data: str, options: FitOptions) -> None:
        """Add the images that one learner, whose export is in `folder`, held out."""
        from ..inference.loading import load
        from ..utils.device import device_of, fixed_precision

        items, root = items_of(card, self.task, data, "valid")
        # Fixed precision: two fits with the same seed have the same metrics.
        precision = fixed_precision(device_of(options.device), options.precision)
        predictor = load(folder, options.device, precision=precision)
        found: Iterator[tuple[Any, Any]] = score_images(
            predictor, items, root, look=_evidence_of(self.task, items)
        )
        for score, (panels, evidence) in found:
            self.scores.images.append(score)
            self.evidence.append(evidence)
            self.panels += panels if len(self.panels) < SHOWN else []

    def calibrate(self, card: Card) -> None:
        """Put temperature, review thresholds and residuals of measures into the card; calibrate a
        classifier's scores.
        """
        logits = np.concatenate([entry[0] for entry in self.evidence])
        labels = np.concatenate([entry[1] for entry in self.evidence])
        errors = [self.scores.error(score) for score in self.scores.images]
        card.temperature = round(temperature(logits, labels, len(errors)), 4)
        expected = np.array([entry[2] for entry in self.evidence])
        card.review = thresholds(expected, np.array(errors))
        compared = [entry[3] for entry in self.evidence if entry[3] is not None]
        card.measures = calibrated(compared, self.task.classes) if compared else {}
        # The export gives calibrated probabilities; compute its figures from these too.
        for entry, score in zip(self.evidence, self.scores.images):
            self.scores.calibrate(score, entry[0][0], card.temperature)


def _evidence_of(task: Task, items: Sequence[Item]) -> Callable[..., tuple[list[Any], Evidence]]:
    """Return a function that gives panels, of the first images only, and data for calibration."""
    from ..report.views import view_of

    view = view_of(task)
    shown = {item.image for item in items[:SHOWN]}
    count = max(FEWEST_PIXELS, PIXELS // len(items))
    measured = {item.image for item in evenly(items)} if task.has_masks else set()

    def evidence(
        item: Item, prediction: Prediction, truth: np.ndarray | int
    ) -> tuple[list[Any], Evidence]:
        panels = [view.predicted(prediction, truth, item.image.name)] if item.image in shown else []
        # Seeded by the image's name: the choice of pixels does not depend on threads.
        seed = zlib.crc32(item.image.name.encode())
        logits, labels = prediction.calibration_sample(truth, count, seed)
        compared = None
        if item.image in measured and isinstance(task, SegmentationTask):
            compared = compared_prediction(task, prediction, np.asarray(truth))
        return panels, (logits, labels, prediction.expected_error, compared)

    return evidence


@with_options(*LEARNER_OPTIONS, "epochs")
def find_lr(
    task: str | Task,
    data: Path | str | None = None,
    *,
    fold: tuple[int, int] | None = None,
    out: Path | str | None = None,
    **options: Any,
) -> tuple[float, Path]:
    """Return the learning rate that fastai's `lr_find` suggests for a task, and the plot's path.

    The plot goes to `out`, a PNG file (default: TASK_lr_find.png). Raises `FastsegError` kinds.
    """
    task = get(task)
    out = out or f"{task.name}_lr_find.png"
    from ..report import charts
    from ..report import panels as plots

    plots.require_png(out)  # before the test, not after it
    learn = learner(task, data, fold=fold, **options)
    from .loop import range_test

    suggestion, rates, losses = range_test(learn)
    return suggestion, plots.write_png(charts.rate_finder(rates, losses, suggestion), out)

"""`fit --from`: trains on from an export, with corrected and new images, and compares both.

The held-out part stays held out: the parts of the images are frozen first, see `data.parts`. Both
exports are compared on the same held-out images, by the labels as they are now: where a held-out
label was corrected, the corrected one judges both. Corrections are pins, see `corrections.pins`.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..corrections.favoured import favour_of
from ..corrections.freezing import freeze_parts
from ..corrections.pins import Pins, check_pins, record_held, source_of
from ..corrections.waiting import tell_waiting, waiting_in
from ..data.state import CORRECTIONS
from ..errors import ExportError, ModelError, TaskError
from ..evaluation.run import items_of, score_images, trained_on, verdict
from ..evaluation.scores import Scores, scores_of
from ..exports.addresses import own_folder
from ..exports.card import CARD, Card, read_card
from ..exports.earlier import AGAIN, REFUSED, aside, correct_paths, keep
from ..exports.read import card_of, task_of
from ..learners.options import FitOptions
from ..learners.preparation import start_card
from ..tasks import Task, get
from ..tasks.declared import find_file
from ..utils.io import name_below, portable_path, write_json
from .resume import FitPlan, FitRun

log = logging.getLogger(__name__)

NAMED = 5  # images that an error names
NEW, OLD = "the new export", "the earlier one"


def plan_again(
    export: Path | str,
    task: str | Task | None,
    data: Path | str | None,
    out: Path | str | None,
    options: FitOptions,
) -> FitPlan:
    """Return the fit that trains on from an export. Raises `FastsegError` kinds.

    The parts of the data folder are frozen, if they are not yet: what the export held out stays
    held out.
    """
    folder = own_folder(export)
    if options.weights != "auto":
        raise ModelError(
            f"--from {folder} brings its own weights; leave --weights out", "from-weights"
        )
    if folder.suffix == ".pkl":
        raise ExportError(f"{folder}: give the folder of the export", "not-a-folder")
    card = card_of(folder)
    found = _task(card, task)
    start_card(folder, found)
    place = Path(data or _data_of(card) or found.default_data)
    found.folder(place)
    waiting = waiting_in(found, place)
    freeze_parts(found, place, [folder], moved=True)  # makes DIR/.fastseg: they stop no fit
    if waiting:
        tell_waiting(place, waiting)
    weights = os.path.abspath(folder)
    return FitPlan(found, place, replace(options, weights=weights), Path(out or folder))


def _data_of(card: Card) -> Path | None:
    return card.data_folder if card.data_folder and card.data_folder.is_dir() else None


def _task(card: Card, task: str | Task | None) -> Task:
    """Return the task: the one named, that of the data folder's task.toml, or the card's."""
    if task is not None:
        named = get(task)
        if named.name != card.task:
            raise ExportError(
                f"{card.folder}: holds an export of task {card.task}, not {named.name}; leave the "
                "task out, or give an export of it",
                "wrong-task",
            )
        return named
    place = _data_of(card)
    if card.declared and place is not None and find_file(place):
        try:
            return get(place)
        except TaskError as error:
            raise ExportError(f"{card.folder}: {error}", error.code) from None
    return task_of(card)


def review(
    run: FitRun, task: Task, folder: Path, out: Path, scores: Scores[Any] | None
) -> dict[str, Any]:
    """Say which corrections hold under a new export, complete in `folder`, before it replaces the
    one in `out`; after `fit --from`, compare it with the one it was trained on from.

    `scores` are its scores on the held-out images, if they were computed. Returns what goes into
    the result of the fit: "pins" if there are corrections, and "again" after `fit --from`. With
    `run.strict`, a new export under which a correction came back is put aside, and `ModelError`
    with code "came-back" is raised. The export that `fit --from` replaces is kept next to it.
    """
    before = run.again
    if before is None and not (run.data / CORRECTIONS).is_file():
        return {}
    from ..utils.device import device_of, fixed_precision

    precision = fixed_precision(device_of(run.options.device), run.options.precision)
    found: dict[str, Any] = {}
    if before is not None:
        compared = _compared(run, task, before, folder, scores, precision)
        found = {
            "from": portable_path(before, out),
            "earlier": "",
            "source": source_of(before),
            "comparison": compared,
        }
    given: dict[str, Any] = {"device": run.options.device, "precision": precision}
    earlier = before or (out if _is_export_of(out, task) else None)
    held = check_pins(task, run.data, earlier, **given) if earlier else Pins("")
    pins = check_pins(task, run.data, folder, **given, also_held=held.pins)
    told = {**pins.to_json(), "export": str(out)}
    if run.strict and pins.came_back:
        raise _refused(folder, out, {**found, "pins": told}, pins)
    kept = keep(out) if before is not None and (out / CARD).is_file() else None
    if kept is not None and before is not None:
        found["earlier"] = portable_path(kept, out)
        if before.resolve() == out.resolve():
            found["from"] = found["earlier"]
    write_json(folder / AGAIN, {**found, "pins": {**told, "export": "."}})
    if earlier:
        record_held(run.data, held, source_of(earlier))
    digits = source_of(folder).rpartition(" ")[2]
    record_held(run.data, pins, f"{out.resolve().name} {digits}")
    if before is None:
        return {"pins": told} if pins.total else {}
    again = {**found, "earlier": str(kept) if kept else "", "pins": told}
    return {"again": again, "pins": told}


def _is_export_of(out: Path, task: Task) -> bool:
    """Return whether there is an export of this task, with its classes."""
    if not (out / CARD).is_file():
        return False
    try:
        card = card_of(out)
    except ExportError:  # a damaged one: it is replaced
        return False
    return (card.task, card.classes) == (task.name, list(task.classes))


def _compared(
    run: FitRun,
    task: Task,
    before: Path,
    folder: Path,
    scores: Scores[Any] | None,
    precision: str,
) -> dict[str, Any]:
    """Return the paired comparison of two exports on the held-out images."""
    from ..inference.loading import load

    items, root = items_of(read_card(folder), task, run.data, "valid")

    def judged(export: Path) -> Scores[Any]:
        predictor = load(export, run.options.device, precision=precision)
        return scores_of(task, [score for score, _ in score_images(predictor, items, root)])

    log.info("comparing with %s on %d held-out images", before, len(items))
    earlier = read_card(before)
    seen = len(trained_on(earlier, items, root))
    if seen:
        log.warning(
            "%s was trained on %d of these %d images: the comparison favours it",
            before,
            seen,
            len(items),
        )
    names = [name_below(root, item.image) for item in items]
    favour = favour_of(task, root, {OLD: before, NEW: folder}, names)
    difference = (scores or judged(folder)).compare(judged(before))
    ends = task.main_value(difference["intervals"])
    return {
        "verdict": verdict(task, NEW, OLD, difference),
        "is_worse": ends is not None and ends[1] < 0,
        "seen_by_earlier": seen,
        "favour": favour,
        **difference,
    }


def _refused(folder: Path, out: Path, found: dict[str, Any], pins: Pins) -> ModelError:
    """Put a new export aside, and return the error that says why it does not replace the other."""
    target = out.resolve()
    card = read_card(folder)
    place = aside(target, REFUSED, card)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    correct_paths(place, card, place)
    write_json(place / AGAIN, {**found, "earlier": portable_path(out, place)})
    error = ModelError(
        f"{out}: stays as it is, since with --strict no correction may come back: {pins.text} "
        f"({', '.join(pins.came_back[:NAMED])}); the new export is in "
        f"{portable_path(place, Path.cwd())}",
        "came-back",
    )
    error.details = {"pins": {**pins.to_json(), "export": str(place)}, "refused": str(place)}
    return error

"""The page Train: the recipe as a form, the training that runs, the exports so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AppError, FastsegError, brief
from ...exports.card import read_card
from ...exports.earlier import EARLIER
from ...exports.earlier import restore as restore_export
from ...metrics.figures import FIGURES, never_found
from .. import recipe
from ..http import Asked, get, post
from ..jobs import Outcome
from ..judging import compared, corrected_at, judged, judged_at
from ..listing import PARTS, id_of
from ..page import Page
from ..workspace import Workspace

if TYPE_CHECKING:
    from ...corrections.log import Correction

MOST_EXPORTS = 30  # in the history
START = ("options", "again", "strict", "discard", "resume")  # what a start may say
JUDGED_AGAIN = 2  # newest exports that are judged again when held-out labels were corrected


def form(asked: Asked) -> dict[str, Any]:
    """Return the fields of the form, and why nothing can be trained, if that is so."""
    from ...corrections.pins import corrected_images

    workspace = asked.workspace
    listing = workspace.listing(fresh=True)
    fault = str(listing.fault) if listing.fault else None
    audit = workspace.audit()
    if audit:
        fault = (
            f"These are labels that export {audit.exporter} made, for an audit: a model learns "
            "nothing new from them. Train with your own data, such as fastseg app "
            f"{audit.exporter}."
        )
    parts = Counter(entry.part for entry in listing.entries)
    store = workspace.labels.store
    folders = workspace.exports()
    names = [folder.name for folder in folders]
    cards = {folder.name: workspace.card(folder) for folder in folders}
    return {
        "fields": recipe.fields(workspace.task, names),
        "images": len(listing.entries),
        "parts": {part: parts[part] for part in PARTS if parts[part]},
        "fault": fault,
        "out": str(workspace.out),
        "exports": names,
        "sizes": {name: "x".join(map(str, card.size)) for name, card in cards.items() if card},
        "current": workspace.out.name,
        "figure": workspace.task.main_figure,
        "changed": len({row.image for row in store.all()}),  # images with another label
        "corrections": len(corrected_images(store)),  # as the report of the fit counts them
    }


def state(asked: Asked) -> dict[str, Any]:
    """Return the training's state, its progress, and how the last one ended."""
    training = asked.workspace.training
    outcome = training.outcome
    found = training.state()
    return {
        "state": found,
        "progress": training.progress() if found != "idle" else None,
        "outcome": _told(outcome) if outcome else None,
        "output": training.output() if found != "idle" or outcome else "",
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    """Return how a training ended, with the ids of the images that it names, for links."""
    corrections = outcome.corrections
    lists = ("came_back", "not_learned", "never_trained")
    names = [name for found in lists for name in corrections.get(found, ())]
    ids = {name: id_of(name) for name in names}
    return {**vars(outcome), "corrections": {**corrections, "ids": ids}}


def start(asked: Asked) -> dict[str, Any]:
    """Start a training with the `options` of the form, or `resume` the interrupted one.

    With `again`, an export's name, it trains on from that export with corrected and new images;
    `strict` refuses to replace the export if a correction came back. `discard` gives up what an
    interrupted one learnt.
    """
    from ...corrections.waiting import let_wait

    workspace, body = asked.workspace, asked.body
    training = workspace.training
    unknown = sorted(set(body) - {*START})
    if unknown:
        raise AppError(f"{brief(unknown[0])}: not known; give {', '.join(START)}", "bad-request")
    if body.get("resume"):
        training.start(["--resume"], keep=False)
        return state(asked)
    values = body.get("options", {})
    if not isinstance(values, dict):
        raise AppError("options: give an object", "bad-request")
    folders = {folder.name: str(folder) for folder in workspace.exports()}
    options = recipe.read(values, workspace.task, folders)
    if training.state() == "interrupted" and body.get("discard") is not True:
        raise AppError(
            f"{workspace.out}: has an interrupted training; resume it, or discard it",
            "interrupted-fit",
        )
    arguments = ["--data", str(workspace.data), *recipe.arguments(options), "--no-resume"]
    again = body.get("again")
    if again:  # it keeps the replaced export itself
        arguments += ["--from", str(workspace.export(str(again)))]
    if body.get("strict") is True:
        arguments.append("--strict")
    begun = workspace.export(str(again)) if again else workspace.out
    if let_wait(workspace.task, workspace.data, begun):
        workspace.changed()
    training.start(arguments, keep=not again)
    return state(asked)


def stop(asked: Asked) -> dict[str, Any]:
    """Interrupt the training: it keeps its last checkpoint."""
    asked.workspace.training.stop()
    return state(asked)


def restore(asked: Asked) -> dict[str, Any]:
    """Make an earlier export, by its name, the current one again; the current one is kept."""
    workspace = asked.workspace
    if workspace.training.state() in ("running", "stopping", "elsewhere"):
        raise AppError("a training runs, and writes there; wait until it is done", "busy")
    restore_export(workspace.out, workspace.export(asked.text("export")))
    workspace.training.outcome = None  # it is of an export that is no longer the current one
    workspace.trained()
    return exports(asked)


def exports(asked: Asked) -> dict[str, Any]:
    """Return the exports, the newest first: what they are, their figures and intervals."""
    workspace = asked.workspace
    rows = workspace.labels.store.all()
    return {
        "figure": workspace.task.main_figure,
        "figures": {name: title for name, (title, _) in FIGURES.items()},
        "exports": [
            row
            for place, folder in enumerate(workspace.exports()[:MOST_EXPORTS])
            if (row := _export(workspace, folder, rows, place < JUDGED_AGAIN)) is not None
        ],
    }


def _export(
    workspace: Workspace, folder: Path, rows: Sequence[Correction], is_new: bool
) -> dict[str, Any] | None:
    try:
        card = read_card(folder)
    except FastsegError:
        return None
    found, task = judged(folder), workspace.task
    if found is None and workspace.listing().entries:
        workspace.judging.want(folder)
    corrected = corrected_at(rows, {*card.valid_files})
    is_earlier = judged_at(folder, card) < corrected
    if is_earlier and is_new:
        workspace.judging.want_again(folder, corrected)
    figures = found or card.metrics
    intervals = figures.get("intervals", {})
    with suppress(KeyError, TypeError, AttributeError):  # metrics of a card may be anything
        return {
            "name": folder.name,
            "current": folder.resolve() == workspace.out.resolve(),
            "created": card.created,
            "images": card.train_images,
            "held_out": figures.get("images", len(card.valid_files)),
            "weights": card.weights_origin,
            "arch": card.network["arch"],
            "decoder": card.network.get("decoder"),
            "size": card.size,
            "epochs": _epochs(card.training),
            "seconds": card.training.get("seconds"),
            "value": task.main_value(figures) if figures else None,
            "earlier_labels": is_earlier,  # labels of held-out images were corrected since
            "is_waiting": workspace.judging.is_waiting(folder),
            "interval": task.main_value(intervals) if intervals else None,
            "compared": compared(task, folder),
            "can_return": folder.parent.name == EARLIER,
            "never_found": never_found(figures),
            "classes": {
                name: values.get("dice", values.get("f1"))
                for name, values in figures.get("classes", {}).items()
            },
        }
    return None


def _epochs(training: Mapping[str, Any]) -> int | None:
    """Return the epochs of the whole network, as the form counts them; None if not known."""
    trained = training.get("trained_epochs")
    return None if trained is None else trained - (training.get("freeze_epochs") or 0)


page = Page(
    "train",
    "Train",
    20,
    routes=(
        get("/api/train/form", form),
        get("/api/train", state),
        get("/api/train/exports", exports),
        post("/api/train/start", start),
        post("/api/train/stop", stop),
        post("/api/train/restore", restore),
    ),
)

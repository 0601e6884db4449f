"""The page Train: the recipe as a form, the training that runs, the exports so far."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import AppError, FastsegError
from ...exports.card import read_card
from ...metrics.figures import FIGURES
from .. import recipe
from ..http import Asked, get, post
from ..judging import judged
from ..page import Page
from ..workspace import Workspace

MOST_EXPORTS = 30  # in the history


def form(asked: Asked) -> dict[str, Any]:
    """Return the fields of the form, and why nothing can be trained, if that is so."""
    workspace = asked.workspace
    fault = workspace.listing().fault
    names = [folder.name for folder in workspace.exports()]
    return {
        "fields": recipe.fields(workspace.task, names),
        "images": len(workspace.listing().entries),
        "fault": str(fault) if fault else None,
        "out": str(workspace.out),
        "exports": names,
        "corrections": len(workspace.labels.store.all()),
    }


def state(asked: Asked) -> dict[str, Any]:
    """Return the training's state, its progress, and how the last one ended."""
    training = asked.workspace.training
    outcome = training.outcome
    found = training.state()
    return {
        "state": found,
        "progress": training.progress() if found != "idle" else None,
        "outcome": vars(outcome) if outcome else None,
        "output": training.output() if found != "idle" or outcome else "",
    }


def start(asked: Asked) -> dict[str, Any]:
    """Start a training with the `options` of the form, or `resume` the interrupted one.

    With `again`, an export's name, it trains on from that export with corrected and new images;
    `strict` refuses to replace the export if a correction came back. `discard` gives up what an
    interrupted one learnt.
    """
    workspace, body = asked.workspace, asked.body
    training = workspace.training
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
    training.start(arguments, keep=not again)
    return state(asked)


def stop(asked: Asked) -> dict[str, Any]:
    """Interrupt the training: it keeps its last checkpoint."""
    asked.workspace.training.stop()
    return state(asked)


def exports(asked: Asked) -> dict[str, Any]:
    """Return the exports, the newest first: what they are, their figures and intervals."""
    workspace = asked.workspace
    return {
        "figure": workspace.task.main_figure,
        "figures": {name: title for name, (title, _) in FIGURES.items()},
        "exports": [
            row
            for folder in workspace.exports()[:MOST_EXPORTS]
            if (row := _export(workspace, folder)) is not None
        ],
    }


def _export(workspace: Workspace, folder: Path) -> dict[str, Any] | None:
    try:
        card = read_card(folder)
    except FastsegError:
        return None
    found, task = judged(folder), workspace.task
    if found is None and workspace.listing().entries:
        workspace.judging.want(folder)
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
            "epochs": card.training.get("trained_epochs"),
            "seconds": card.training.get("seconds"),
            "value": task.main_value(figures) if figures else None,
            "is_waiting": workspace.judging.is_waiting(folder),
            "interval": task.main_value(intervals) if intervals else None,
            "classes": {
                name: values.get("dice", values.get("f1"))
                for name, values in figures.get("classes", {}).items()
            },
        }
    return None


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
    ),
)

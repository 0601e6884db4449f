"""Reads an export: its card, checked against the task here, and its network with its weights."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, TaskError, brief
from ..tasks import Task, get, names
from ..tasks.base import TaskT
from ..tasks.declared import task_from
from ..utils.imports import importing
from .addresses import is_address, local
from .card import MODEL, NORMALISATION, PICKLE, Card, read_card, sha256
from .folder import find, is_export

if TYPE_CHECKING:
    from ..models.network import Network

log = logging.getLogger(__name__)


def card_of(export: Path | str) -> Card:
    """Return the card of an export's folder, or of the folder that contains a pickle.

    A task with its name that is installed here must have the same kind and classes.
    Needs no torch, so that mistakes about exports are found early. Raises `ExportError`.
    """
    export = Path(export)
    card = read_card(export.parent if export.suffix == ".pkl" else export)
    task_of(card)
    return card


def network_of(export: Path, card: Card) -> Network:
    """Return the network of an export with its weights.

    Raises `ExportError` if they do not fit its card.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    from ..models.factory import build
    from ..models.network import Spec

    path = verify_file(export / MODEL, card)
    try:
        with importing():  # timm and the decoders
            network = build(Spec(**card.network))
        network.load_state_dict(load_file(path))
        with safe_open(path, "pt") as file:
            known = (file.metadata() or {}).get(NORMALISATION)  # earlier exports have none
        if known and json.loads(known) != [card.mean, card.std]:
            raise ValueError(f"mean and std were {known}")
    except Exception as error:  # the reader and torch raise many kinds for damaged weights
        raise ExportError(
            f"{path}: does not fit its card ({brief(error)}); fit again", "card-mismatch"
        ) from error
    network.mean, network.std = tuple(card.mean), tuple(card.std)
    return network


def pickled_network(path: Path, card: Card, trust: bool) -> Network:
    """Return the network of an export.pkl, which can run any code when it is opened.

    It is opened only if its sha256 is the one in the card, or with `trust`. Raises `ExportError`.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file", "no-such-path")
    if card.sha256.get(PICKLE) != sha256(path):
        if not trust:
            raise ExportError(
                f"{path}: is not the pickle that its card names, and a pickle can run any code; "
                "if you trust its author, pass trust=True (--trust)",
                "untrusted-pickle",
            )
        log.warning("%s: opened on trust; it is not the pickle that its card names", path)
    with importing():
        from fastai.learner import load_learner
    try:
        network: Network = load_learner(path).model
    # A pickle names modules; fastai turns ImportError into NameError.
    except (AttributeError, ImportError, NameError) as error:
        raise ExportError(
            f"{path}: was written by another version of fastseg ({brief(error)}); "
            f"load the folder {path.parent}, which every later version reads",
            "old-pickle",
        ) from error
    return network


def verify_file(path: Path, card: Card) -> Path:
    """Return `path` if it is the file that the card names. Raises `ExportError`."""
    if not path.is_file():
        raise ExportError(f"{path}: missing; fit again", "missing-file")
    if card.sha256.get(path.name) != sha256(path):
        raise ExportError(
            f"{path}: is not the file that its card names (damaged or exchanged); fit again, or "
            "copy it again",
            "exchanged-file",
        )
    return path


def task_of(card: Card) -> Task:
    """Return the task of an export.

    That is the one of the card's definition if the task was declared in a task.toml, or if no task
    of that name is installed here. Raises `ExportError` if there is neither, or if the task here is
    another one.
    """
    if card.declared or (card.definition is not None and card.task not in names()):
        try:
            task = task_from(card.definition or {})
        except TaskError as error:
            raise ExportError(
                f"{card.folder}: the card cannot be read ({error}); fit again", "damaged-card"
            ) from None
    else:
        try:
            task = get(card.task)
        except TaskError as error:
            raise ExportError(
                f"the export is of task '{card.task}', which is not installed here ({error}); "
                f"set FASTSEG_TASKS to the folder with {brief(card.task)}.py",
                "task-missing",
            ) from None
    _check_same(card, task)
    return task


def as_trained(task: TaskT, card: Card) -> TaskT:
    """Return `task` with the images' declarations that an export was trained with.

    They are channels, their files and which are shown, depth, alpha and window.
    """
    fields: dict[str, Any] = {"depth": card.depth, "channels": card.channels}
    if card.definition is not None and not card.declared:
        try:
            own: Task = task_from(card.definition)
        except TaskError:  # of a later version: the task here decides
            own = task
        for name in ("channel_files", "shown_channels", "alpha", "window"):
            fields[name] = getattr(own, name)
    if len(fields.get("channel_files", task.channel_files)) not in (0, card.channels):
        fields["channel_files"] = ()
    if any(place >= card.channels for place in fields.get("shown_channels", task.shown_channels)):
        fields["shown_channels"] = ()
    return replace(task, **fields)


def _check_same(card: Card, task: Task) -> None:
    """Raise `ExportError` unless a task has the kind and the classes of an export."""
    if (task.kind, len(task.classes)) != (card.kind, card.network["n_out"]):
        raise ExportError(
            f"the export of task {card.task} is of another kind than the task here; fit again",
            "task-changed",
        )
    if list(task.classes) != card.classes:
        raise ExportError(
            f"the export of task {card.task} has classes {brief(', '.join(card.classes))}, but the "
            f"task here has {', '.join(task.classes)}; fit again",
            "task-changed",
        )


def opened(
    task: str | Path | Task | None, export: Path | str | None = None
) -> tuple[Task, Path, Card]:
    """Return the task, the folder and the card of an export.

    `task` is a task, or an export. The export is `export`, else exports/TASK, else the newest one.
    Those from elsewhere are fetched, see `addresses`. Raises `ExportError` if there is none, or if
    it is of another task.
    """
    if isinstance(task, (str, Path)) and is_address(task):
        task = local(task)
    export = None if export is None else local(export)
    if task is not None and not isinstance(task, Task) and is_export(task):
        folder = find(None, task if export is None else export)
        own = card_of(find(None, task))
        card = card_of(folder)
        found = task_of(own)
        if card.task != own.task:
            raise ExportError(
                f"{folder}: holds an export of task {card.task}, not {own.task}; "
                f"pass --export with one of {own.task}",
                "wrong-task",
            )
    else:
        named = None if task is None else get(task)
        folder = find(named, export)
        card = card_of(folder)
        found = named or task_of(card)
    _check_same(card, found)
    return found, folder, card

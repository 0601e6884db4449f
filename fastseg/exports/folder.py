"""The export folder: written, found, replaced in one step, and its network read from model.safetensors + card.json."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError, TaskError, brief
from ..tasks import Task, get
from ..utils.imports import importing
from ..utils.io import exchanged, name_below
from ..utils.locks import write_lock
from .card import (
    CARD,
    HISTORY,
    METRICS,
    MODEL,
    ONNX,
    PICKLE,
    SCHEMA,
    Card,
    read_card,
    seal,
    sha256,
    versions,
)
from .onnx import write_onnx

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..models.network import Network

log = logging.getLogger(__name__)

# What fit, evaluate and interpret write, and a new fit replaces.
WRITTEN = {
    CARD,
    MODEL,
    ONNX,
    PICKLE,
    METRICS,
    HISTORY,
    "loss_curve.png",
    "show_results.png",
    "top_losses.png",
    "confusion_matrix.png",
    "per_class.png",
    "reliability.png",
    "losses.csv",
    "images.csv",
    "suspects.csv",
    "report.html",
    "evaluation",
}


def save(learn: Learner, out: Path | str) -> Path:
    """Write `learn`, made by `fastseg.learner`, to the folder `out`; an export that is there already is replaced.

    Raises `ExportError` for other learners (use fastai's `learn.export` for them) and for folders that hold other files.
    """
    with write_lock(Path(out)), replacing(Path(out), get(_origin(learn).task)) as folder:
        write(learn, folder)
    return Path(out)


def _origin(learn: Learner):
    if not hasattr(learn, "origin"):
        raise ExportError(
            "only learners made by fastseg.learner can be saved as an export; use learn.export() for others",
            "foreign-learner",
        )
    return learn.origin


def write(learn: Learner, folder: Path) -> Card:
    """Write export.pkl, model.safetensors, model.onnx, history.csv and card.json of `learn` into an existing folder."""
    import pandas as pd
    from safetensors.torch import save_file

    _origin(learn)
    _drop_activations(learn.model)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in learn.model.state_dict().items()
    }
    save_file(state, folder / MODEL)
    (folder / MODEL).chmod(
        (folder / MODEL).stat().st_mode | 0o044
    )  # safetensors writes for the owner alone
    _export_pickle(learn, folder)
    history = (
        getattr(learn, "history", None)
        or [  # trained by hand: the last fit is what fastai remembers
            dict(zip(learn.recorder.metric_names[1:-1], map(float, row)))
            for row in getattr(learn.recorder, "values", [])
            if None not in list(row)
        ]
    )
    pd.DataFrame(history).rename_axis("epoch").to_csv(folder / HISTORY)
    card = _card(learn, epochs=len(history))
    write_onnx(learn.model, card, folder / ONNX)
    seal(card, folder)
    return card


def _export_pickle(learn: Learner, folder: Path) -> None:
    kept = (
        learn.path,
        {
            name: learn.__dict__.pop(name)
            for name in ("history", "fitted")
            if name in learn.__dict__
        },
    )
    precision = learn.model.precision
    try:
        learn.path = Path(".")
        learn.model.precision = (
            learn.origin.precision
        )  # what was measured holds on this machine alone
        learn.export((folder / PICKLE).resolve())
    finally:
        learn.path, learn.model.precision = kept[0], precision
        learn.__dict__.update(kept[1])


def _drop_activations(model) -> None:
    # fastai's DynamicUnet keeps the last batch's features in its hooks, and would pickle them.
    for module in model.modules():
        for holder in (getattr(module, "hook", None), *(getattr(module, "sfs", None) or [])):
            if hasattr(holder, "stored"):
                holder.stored = None


def _card(learn: Learner, epochs: int) -> Card:
    from .. import __version__
    from ..utils.device import precision_of

    origin, task = learn.origin, get(learn.origin.task)
    return Card(
        schema=SCHEMA,
        fastseg=__version__,
        task=task.name,
        kind=task.kind,
        classes=list(task.classes),
        palette=[list(c) for c in task.palette] if task.palette is not None else None,
        network=learn.model.spec.to_dict(),
        size=list(origin.size),
        resize=task.recipe.resize,
        mean=list(learn.model.mean),
        std=list(learn.model.std),
        data=origin.data,
        train_images=len(learn.dls.train_ds),
        valid_files=[name_below(origin.data, item.image) for item in learn.dls.valid_ds.items],
        weights_origin=learn.weights_origin,
        seed=origin.seed,
        training={
            "loss": origin.loss,
            "opt": origin.opt,
            "bs": origin.bs,
            "precision": precision_of(learn.dls.device, learn.model.precision),
            **getattr(learn, "fitted", {"epochs": epochs}),
        },
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=getattr(learn, "licence", ""),
        tta=task.recipe.tta,
        flip_shift=origin.flip_shift,
        depth=origin.depth,
    )


def card_of(export: Path | str) -> Card:
    """Return the card of an export's folder, or of the folder that a pickle lies in, and check that its task is the one here.

    Needs no torch: mistakes about exports are found before it is imported. Raises `ExportError`.
    """
    export = Path(export)
    card = read_card(export.parent if export.suffix == ".pkl" else export)
    _task_of(card)
    return card


def network_of(export: Path, card: Card) -> Network:
    """Return the network of an export with its weights. Raises `ExportError` if they do not fit its card."""
    from safetensors.torch import load_file

    from ..models.factory import build
    from ..models.network import Spec

    path = verified(export / MODEL, card)
    try:
        with importing():  # timm and the decoders
            network = build(Spec(**card.network))
        network.load_state_dict(load_file(path))
    except (
        Exception
    ) as error:  # damaged or exchanged weights fail in the reader's or in torch's own way
        raise ExportError(
            f"{path}: does not fit its card ({brief(error)}); fit again", "card-mismatch"
        ) from error
    network.mean, network.std = tuple(card.mean), tuple(card.std)
    return network


def verified(path: Path, card: Card) -> Path:
    """Return `path` if it is the file that the card names. Raises `ExportError`."""
    if not path.is_file():
        raise ExportError(f"{path}: missing; fit again", "missing-file")
    if card.sha256.get(path.name) != sha256(path):
        raise ExportError(
            f"{path}: is not the file that its card names (damaged or exchanged); fit again, or copy it again",
            "exchanged-file",
        )
    return path


def _task_of(card: Card) -> Task:
    try:
        task = get(card.task)
    except TaskError as error:
        raise ExportError(
            f"the export is of task '{card.task}', which is not installed here ({error})",
            "task-missing",
        ) from None
    if (task.kind, len(task.classes)) != (card.kind, card.network["n_out"]):
        raise ExportError(
            f"the export of task {card.task} is of another kind than the task here; fit again",
            "task-changed",
        )
    if list(task.classes) != card.classes:
        raise ExportError(
            f"the export of task {card.task} has classes {brief(', '.join(card.classes))}, but the task here has "
            f"{', '.join(task.classes)}; fit again",
            "task-changed",
        )
    return task


def find(task: str | Task | None = None, export: Path | str | None = None) -> Path:
    """Return an export folder: the given one, else exports/TASK, else the newest below exports/; or the pickle given, in one.

    Raises `ExportError` if there is none, or if it is of another task than the one named.
    """
    name = get(task).name if task else None
    if export is None and name is None:
        found = sorted(Path("exports").glob(f"*/{CARD}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ExportError(
                "exports: no export yet; train one with: fastseg fit TASK (fastseg tasks lists them)",
                "no-export",
            )
        return found[-1].parent
    folder = Path(export) if export else Path("exports") / name
    if folder.suffix == ".pkl":  # `load` opens it on trust only
        return find(task, folder.parent) / folder.name
    recover(folder)
    if not (folder / CARD).is_file():
        raise ExportError(
            f"{folder}: no export here; train one with: fastseg fit {name or 'TASK'}"
            + (f" --out {folder}" if export else ""),
            "no-export",
        )
    found = read_card(folder).task
    if name and found != name:
        raise ExportError(
            f"{folder}: holds an export of task {found}, not {name}; pass --export with one of {name}",
            "wrong-task",
        )
    return folder


@contextmanager
def replacing(out: Path, task: Task) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on success; on failure, `out` stays as it was. `out` is to be claimed before.

    Files in `out` that fastseg did not write are kept. Raises `ExportError` if `out` holds no export but other files,
    another task's export, or the current folder.
    """
    target, existed = out.resolve(), out.parent.exists()
    recover(target)
    if target == Path.cwd() or target in Path.cwd().parents:
        raise ExportError(
            f"{out}: is the current folder; name a new one with --out", "out-is-current-folder"
        )
    if target.exists() and (
        not target.is_dir() or (any(target.iterdir()) and not (target / CARD).is_file())
    ):
        raise ExportError(
            f"{out}: exists and is not an export; choose another folder with --out", "not-an-export"
        )
    if (target / CARD).is_file() and _task_named(target) not in (task.name, None):
        raise ExportError(
            f"{out}: holds an export of task {_task_named(target)}; choose another folder with --out",
            "holds-export",
        )
    try:
        folder = target.with_name(f".{target.name}.part")
        shutil.rmtree(
            folder, ignore_errors=True
        )  # of a run that was killed: `out` is claimed, so nobody else writes there
        folder.mkdir(parents=True)
    except OSError as error:
        raise ExportError(
            f"{out}: cannot be written ({error.strerror}); choose another folder with --out",
            "not-writable",
        ) from None
    try:
        yield folder
        folder.chmod(0o755)
        _swap(folder, target)
    except OSError as error:
        raise ExportError(
            f"{out}: cannot be written ({error.strerror or error}); what was there is unchanged",
            "not-writable",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _task_named(folder: Path) -> str | None:
    try:
        return read_card(folder).task
    except ExportError:  # a damaged or newer card: replacing it is what a new fit is for
        return None


def _swap(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`, keeping the user's own files that lie in it."""
    if not target.exists():
        folder.rename(target)
        return
    for entry in target.iterdir():
        if entry.name not in WRITTEN:
            copy = shutil.copytree if entry.is_dir() else shutil.copy2
            copy(entry, folder / entry.name)
    for file in (folder / name for name in (MODEL, CARD)):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if not exchanged(folder, target):
        old = _set_aside(target)
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _set_aside(target: Path) -> Path:
    """Return where an export lies for a moment while another takes its place, on systems that cannot exchange folders in one step."""
    return target.with_name(f".{target.name}.old")


def recover(out: Path) -> None:
    """Put an export back that a killed run had set aside."""
    old = _set_aside(out.resolve())
    if not out.exists() and (old / CARD).is_file():
        old.rename(out.resolve())

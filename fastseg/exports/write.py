"""Writes a learner as an export: network, ONNX model, pickle, history and card."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tasks.declared import definition_of
from ..utils.io import name_below, portable_path
from ..utils.locks import write_lock
from .card import HISTORY, MODEL, NORMALISATION, ONNX, PICKLE, SCHEMA, Card, seal, versions
from .folder import replacing
from .onnx import write_onnx
from .record import record_of

if TYPE_CHECKING:
    from fastai.learner import Learner


def save(learn: Learner, out: Path | str) -> Path:
    """Write `learn`, made by `fastseg.learner`, to the folder `out`, and replace an export in it.

    Raises `ExportError` for other learners (use fastai's `learn.export` for them) and for folders
    that hold other files.
    """
    with write_lock(Path(out)), replacing(Path(out), record_of(learn).task) as folder:
        write_export(learn, folder)
    return Path(out)


def write_export(learn: Learner, folder: Path) -> Card:
    """Write the files of an export of `learn` into an existing folder, and return its card."""
    import pandas as pd
    from safetensors.torch import save_file

    record = record_of(learn)
    _drop_activations(learn.model)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in learn.model.state_dict().items()
    }
    # In the file that the card's SHA-256 is of: the card's own numbers could change unnoticed.
    normalisation = json.dumps([list(learn.model.mean), list(learn.model.std)])
    save_file(state, folder / MODEL, {NORMALISATION: normalisation})
    # safetensors makes files that only the owner can read
    (folder / MODEL).chmod((folder / MODEL).stat().st_mode | 0o044)
    _export_pickle(learn, folder)
    history = record.history or _last_history(learn)
    pd.DataFrame(history).rename_axis("epoch").to_csv(folder / HISTORY)
    card = card_for(learn, folder, epochs=len(history))
    write_onnx(learn.model, card, folder / ONNX)
    seal(card, folder)
    return card


def _last_history(learn: Learner) -> list[dict[str, float]]:
    """Return the epochs of the last fastai fit; fastai keeps no earlier ones."""
    return [
        dict(zip(learn.recorder.metric_names[1:-1], map(float, row)))
        for row in getattr(learn.recorder, "values", [])
        if None not in list(row)
    ]


def _export_pickle(learn: Learner, folder: Path) -> None:
    """Write export.pkl without the history (it has its own file) and without the data's path."""
    record, path, precision = record_of(learn), learn.path, learn.model.precision
    try:
        learn.path = Path(".")
        learn.record = replace(record, data="", course={}, history=[])
        learn.model.precision = record.precision  # a measured one is only valid on this machine
        learn.export((folder / PICKLE).resolve())
    finally:
        learn.path, learn.record, learn.model.precision = path, record, precision


def _drop_activations(model: Any) -> None:
    """Delete the features of the last batch, which the hooks of fastai's DynamicUnet keep."""
    for module in model.modules():
        for holder in (getattr(module, "hook", None), *(getattr(module, "sfs", None) or [])):
            if hasattr(holder, "stored"):
                holder.stored = None


def card_for(learn: Learner, folder: Path, epochs: int) -> Card:
    """Return the card of a learner's export in `folder`; nothing is written."""
    from .. import __version__
    from ..utils.device import precision_of

    record = record_of(learn)
    task = record.task
    return Card(
        schema=SCHEMA,
        fastseg=__version__,
        task=task.name,
        kind=task.kind,
        classes=list(task.classes),
        palette=[list(c) for c in task.palette] if task.palette is not None else None,
        network=learn.model.spec.to_json(),
        size=list(record.size),
        resize=task.recipe.resize,
        mean=list(learn.model.mean),
        std=list(learn.model.std),
        data=portable_path(record.data, folder) if record.data else "",
        train_images=len(learn.dls.train_ds),
        valid_files=[name_below(record.data, item.image) for item in learn.dls.valid_ds.items],
        weights_origin=record.weights_origin,
        seed=record.seed,
        training={
            "loss": record.loss,
            "opt": record.opt,
            "bs": record.bs,
            "precision": precision_of(learn.dls.device, learn.model.precision),
            **(record.course or {"epochs": epochs}),
        },
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=record.licence,
        tta=task.recipe.tta,
        flip_shift=record.flip_shift,
        depth=record.depth,
        spacing=list(record.spacing) if record.spacing else None,
        channels=task.channels,
        definition=definition_of(task),
        declared=task.declared,
        folder=folder,
    )

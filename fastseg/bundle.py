"""The export folder: `save` writes it, `load` reads its safe twin, model.safetensors + card.json."""
from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExportError, TaskError
from .files import atomic_file, name_below
from .tasks import Task, get

if TYPE_CHECKING:
    from fastai.learner import Learner

    from .prediction import Predictor

log = logging.getLogger(__name__)

SCHEMA = 1  # the card's version: raise it when a field changes meaning, and add a migration to `read_card`
CARD, MODEL, PICKLE, METRICS, HISTORY = "card.json", "model.safetensors", "export.pkl", "metrics.json", "history.csv"


@dataclass
class Card:
    """All that is needed to use, judge and repeat a trained model, without executable code."""

    schema: int
    fastseg: str
    task: str
    kind: str
    classes: list[str]
    palette: list[list[int]] | None
    network: dict[str, Any]  # `backbones.Spec`
    size: list[int]  # (height, width) in px
    resize: str
    mean: list[float]
    std: list[float]
    data: str  # the folder it was trained on
    train_images: int
    valid_files: list[str]  # relative to `data`
    weights_origin: str
    seed: int
    training: dict[str, Any]  # loss, opt, bs, epochs, lr, seconds
    versions: dict[str, str]
    created: str
    metrics: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def save(learn: Learner, out: Path | str) -> Path:
    """Write `learn`, made by `fastseg.learner`, to the folder `out`; an export that is there already is replaced.

    Raises `ExportError` for other learners (use fastai's `learn.export` for them) and for folders that hold other files.
    """
    with replacing(Path(out)) as folder:
        write(learn, folder)
    return Path(out)


def write(learn: Learner, folder: Path) -> Card:
    """Write export.pkl, model.safetensors, history.csv and card.json of `learn` into an existing folder."""
    import pandas as pd
    from safetensors.torch import save_file
    if not hasattr(learn, "origin"):
        raise ExportError("only learners made by fastseg.learner can be saved as an export; use learn.export() for others")
    _drop_activations(learn.model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in learn.model.state_dict().items()}
    save_file(state, folder / MODEL)
    (folder / MODEL).chmod((folder / MODEL).stat().st_mode | 0o044)  # safetensors writes for the owner alone
    _export_pickle(learn, folder)
    history = getattr(learn, "history", None) or [  # trained by hand: the last fit is what fastai remembers
        dict(zip(learn.recorder.metric_names[1:-1], map(float, row))) for row in getattr(learn.recorder, "values", [])]
    pd.DataFrame(history).rename_axis("epoch").to_csv(folder / HISTORY)
    card = _card(learn, epochs=len(history))
    seal(card, folder)
    return card


def _export_pickle(learn: Learner, folder: Path) -> None:
    kept = learn.path, {name: learn.__dict__.pop(name) for name in ("history", "fitted") if name in learn.__dict__}
    try:
        learn.path = Path(".")
        learn.export((folder / PICKLE).resolve())
    finally:
        learn.path = kept[0]
        learn.__dict__.update(kept[1])


def _drop_activations(model) -> None:
    # fastai's DynamicUnet keeps the last batch's features in its hooks, and would pickle them.
    for module in model.modules():
        for holder in (getattr(module, "hook", None), *(getattr(module, "sfs", None) or [])):
            if hasattr(holder, "stored"):
                holder.stored = None


def _card(learn: Learner, epochs: int) -> Card:
    from . import __version__
    origin, task = learn.origin, get(learn.origin.task)
    return Card(
        schema=SCHEMA, fastseg=__version__, task=task.name, kind=task.kind, classes=list(task.classes),
        palette=[list(c) for c in task.palette] if task.kind == "segment" else None, network=learn.model.spec.to_dict(),
        size=list(origin.size), resize=task.recipe.resize, mean=list(learn.model.mean), std=list(learn.model.std),
        data=origin.data, train_images=len(learn.dls.train_ds),
        valid_files=[name_below(origin.data, item.image) for item in learn.dls.valid_ds.items],
        weights_origin=learn.weights_origin, seed=origin.seed,
        training={"loss": origin.loss, "opt": origin.opt, "bs": origin.bs, **getattr(learn, "fitted", {"epochs": epochs})},
        versions=versions(), created=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def versions() -> dict[str, str]:
    """Return the versions that an export's behaviour depends on."""
    from importlib.metadata import version
    names = ("fastai", "torch", "timm", "segmentation_models_pytorch", "numpy", "pillow")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def seal(card: Card, folder: Path) -> None:
    """Write the card with the sha256 of the files that it vouches for."""
    card.sha256 = {name: sha256(folder / name) for name in (MODEL, PICKLE, HISTORY, METRICS) if (folder / name).is_file()}
    with atomic_file(folder / CARD) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
            hashlib.sha256(file.read()).hexdigest())


def read_card(folder: Path | str) -> Card:
    """Read and check an export's card. Raises `ExportError` if it is missing, damaged, or newer than this fastseg."""
    path = Path(folder) / CARD
    if not path.is_file():
        name = Path(folder).name
        raise ExportError(f"{folder}: no export here (no {CARD}); train one with: fastseg fit {name}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = int(values["schema"])
        if schema > SCHEMA:
            raise ExportError(f"{path}: written by a newer fastseg ({values.get('fastseg')}, card version {schema}; this one "
                              f"reads up to {SCHEMA}); upgrade fastseg to {values.get('fastseg')} or later")
        card = Card(**{f.name: values[f.name] for f in fields(Card) if f.name in values})
        if not (isinstance(card.classes, list) and len(card.size) == 2 and len(card.mean) == 3 and isinstance(card.network, dict)):
            raise ValueError("fields of the wrong form")
        return card
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ExportError(f"{path}: the card cannot be read ({' '.join(str(error).split())[:120]}); fit again") from None


def load(export: Path | str, device: str | None = None, trust: bool = False) -> Predictor:
    """Return a `Predictor` from an export folder, reading no pickle: model.safetensors and card.json only.

    Given the path of an export.pkl instead, that is opened, but only if its sha256 is the one in the card beside it or
    with `trust=True`, since a pickle can run any code. Raises `ExportError`.
    """
    from .backbones import Network, Spec, build
    from .prediction import Predictor
    export = Path(export)
    if export.suffix == ".pkl":
        return _load_pickle(export, device, trust)
    card = read_card(export)
    _task_of(card)
    from safetensors.torch import load_file
    try:
        network: Network = build(Spec(**card.network))
        network.load_state_dict(load_file(export / MODEL))
    except FileNotFoundError:
        raise ExportError(f"{export / MODEL}: missing; fit again") from None
    except Exception as error:  # damaged or exchanged weights fail in the reader's or in torch's own way
        raise ExportError(f"{export / MODEL}: does not fit its card ({' '.join(str(error).split())[:120]}); fit again") from error
    network.mean, network.std = tuple(card.mean), tuple(card.std)
    return Predictor(network, card, device)


def _load_pickle(path: Path, device: str | None, trust: bool) -> Predictor:
    from fastai.learner import load_learner

    from .prediction import Predictor
    card = read_card(path.parent)
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if card.sha256.get(PICKLE) != sha256(path):
        if not trust:
            raise ExportError(f"{path}: is not the pickle that its card names, and a pickle can run any code; "
                              "if you trust its author, pass trust=True (--trust)")
        log.warning("%s: opened on trust; it is not the pickle that its card names", path)
    return Predictor(load_learner(path).model, card, device)


def _task_of(card: Card) -> Task:
    try:
        task = get(card.task)
    except TaskError as error:
        raise ExportError(f"the export is of task '{card.task}', which is not installed here ({error})") from None
    if list(task.classes) != card.classes:
        raise ExportError(f"the export of task {card.task} has classes {', '.join(card.classes)}, but the task here has "
                          f"{', '.join(task.classes)}; fit again")
    return task


def find(task: str | Task | None = None, export: Path | str | None = None) -> Path:
    """Return an export folder: the given one, else exports/TASK, else the newest below exports/.

    Raises `ExportError` if there is none, or if it is of another task than the one named.
    """
    name = get(task).name if task else None
    if export is None and name is None:
        found = sorted(Path("exports").glob(f"*/{CARD}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ExportError("exports: no export yet; train one with: fastseg fit TASK (fastseg tasks lists them)")
        return found[-1].parent
    folder = Path(export) if export else Path("exports") / name
    if not (folder / CARD).is_file():
        raise ExportError(f"{folder}: no export here; train one with: fastseg fit {name or 'TASK'}"
                          + (f" --out {folder}" if export else ""))
    found = read_card(folder).task
    if name and found != name:
        raise ExportError(f"{folder}: holds an export of task {found}, not {name}; pass --export with one of {name}")
    return folder


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on success; on failure, `out` stays as it was.

    Raises `ExportError` if `out` holds anything but an export.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CARD).is_file())):
        raise ExportError(f"{out}: exists and is not an export; choose another folder with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        yield folder
        folder.chmod(0o755)
        old = folder.with_name(f"{folder.name}.old")
        if out.exists():
            out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

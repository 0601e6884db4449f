"""From options to a learner: mistakes that need no torch to be seen are found before it is imported, which takes seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.issues import Fault, refuse
from ..data.split import splitter
from ..errors import DataError, ExportError, ModelError, choose
from ..exports.card import Card, read_card
from ..tasks import Item, Task, get
from ..utils.choices import (
    DECODERS,
    OPTIMIZERS,
    asked_precision,
    check_size,
    check_weights,
    loss_parts,
)
from ..utils.imports import importing
from ..utils.threads import results_in_order

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds for which labels are decoded before torch is imported


def learner(
    task: str | Task,
    data: Path | str | None = None,
    *,
    arch: str | None = None,
    decoder: str | None = None,
    weights: str | Path = "auto",
    size: int | tuple[int, int] | None = None,
    bs: int | None = None,
    loss: str | None = None,
    opt: str | None = None,
    seed: int = 42,
    device: str | None = None,
    precision: str | None = None,
    cache: int | None = None,
    fold: tuple[int, int] | None = None,
    epochs: int | None = None,
) -> Learner:
    """Return a plain fastai `Learner` for `task` on the images in `data` (default: data/TASK).

    What is not given comes from the task's recipe, or from what the machine has. `weights` is as for `weights.load_weights`, or the
    folder of an export of this task, whose network, decoder and all, is trained on. `size` is px, one side or (height,
    width); `precision` is "float32" or "bfloat16" (default: the one whose training step is quicker, measured once for each network
    and machine); `cache` is how many bytes decoded images may take in memory.
    `fold` (k, n) validates on part k, from 0, of n, instead of the task's own split. `epochs` says for how long the learner will be
    trained: for little work, the precision is not measured. The data are checked first.
    Raises `FastsegError` kinds for unknown names, faulty data and weights that do not fit.
    """
    data = Path(data or f"data/{get(task).name}")
    task = get(task)
    recipe = task.recipe
    if decoder is not None and not task.has_masks:
        raise ModelError(f"{task.name} {task.purpose}: it takes no --decoder", "no-decoder")
    card = None
    if Path(weights).is_dir():
        if arch is not None or decoder is not None:
            raise ModelError(
                f"{weights}: an export brings its own backbone and decoder; leave out --arch and --decoder",
                "export-arch",
            )
        card = start_card(Path(weights), task)
        size = size or tuple(card.size)
    else:
        check_weights(weights)
    arch, opt, loss, decoder = (
        getattr(recipe, name) if given is None else given
        for name, given in (("arch", arch), ("opt", opt), ("loss", loss), ("decoder", decoder))
    )
    size = (size, size) if isinstance(size, int) else tuple(size or recipe.size)
    choose("optimizer", opt, OPTIMIZERS)
    loss_parts(loss)
    if card is None:
        choose("decoder", decoder, DECODERS)
    check_size(size)
    asked_precision(precision)
    items = task.items(data)
    train, valid = splitter(task, seed, fold)(items)
    first_look(task, data, items)
    task = task.adapted(data)
    log.info(
        "checking the data: %d images to train and %d to validate in %s",
        len(train),
        len(valid),
        data,
    )
    with importing():
        from .build import built
    return built(
        task,
        data,
        arch=arch,
        decoder=decoder,
        weights=weights,
        size=size,
        bs=bs,
        loss=loss,
        opt=opt,
        seed=seed,
        device=device,
        precision=precision,
        cache=cache,
        fold=fold,
        card=card,
        epochs=recipe.epochs if epochs is None else epochs,
    )


def start_card(export: Path, task: Task) -> Card:
    """Return the card of the export that training begins with. Raises `ModelError` unless it is one network of the same classes."""
    try:
        card = read_card(export)
    except ExportError as error:
        raise ModelError(
            f"{error}; --weights takes auto, imagenet, none, a file, or an export's folder",
            error.code,
        ) from None
    if (card.kind, card.classes) != (task.kind, list(task.classes)):
        raise ModelError(
            f"{export}: is of task {card.task}, with other classes than {task.name}; give an export of {task.name}",
            "wrong-task",
        )
    if card.network.get("members", 1) > 1:
        raise ModelError(
            f"{export}: is an ensemble, which is not trained on; give an export of one network",
            "start-ensemble",
        )
    return card


def first_look(task: Task, data: Path, items: Sequence[Item], seconds: float = LOOK) -> None:
    """Decode masks, evenly spread over `items`, for so many seconds, and raise `DataError` for the first one at fault.

    A few hundred masks are all seen. `checks.preflight.survey` sees every image and mask, once torch is there.
    """
    end, workers = time.monotonic() + seconds, min(8, cpu_count() or 1)
    step = max(1, round(len(items) ** 0.5))
    order = [i for start in range(step) for i in range(start, len(items), step)]
    faults: dict[int, DataError | Fault] = {}
    values: dict[int, set[int]] = {}

    def look(i: int) -> None:
        if time.monotonic() > end:
            return
        try:
            decoded = task.examine_label(items[i])
        except DataError as error:
            faults[i] = error
            return
        if decoded is None:
            return
        values[i] = set(decoded.values)
        if decoded.stopping:
            faults[i] = decoded.stopping[0]

    with ThreadPoolExecutor(workers) as pool:
        for _ in results_in_order(
            (pool.submit(look, i) for i in order if time.monotonic() < end), 2 * workers
        ):
            pass
    refuse([faults[i] for i in sorted(faults)])
    if len(values) == len(items):  # what only all masks together can tell
        refuse(
            list(
                task.binary_faults(
                    data, ((item.source, values[i]) for i, item in enumerate(items))
                ).values()
            )
        )

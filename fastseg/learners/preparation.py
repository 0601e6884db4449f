"""From options to a learner: most mistakes are found here, before torch is imported."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.issues import Fault, refuse
from ..data.reading import RGB
from ..data.split import Fold, splitter
from ..data.state import LEDGER
from ..errors import DataError, ExportError, ModelError
from ..exports.card import MODEL, Card, read_card
from ..tasks import Item, Task, get
from ..utils.choices import asked_precision
from ..utils.imports import importing
from ..utils.threads import results_in_order
from .options import LEARNER_OPTIONS, FitOptions, with_options

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

# Seconds for decoding masks before torch is imported: enough for a few hundred small masks; the
# import takes three to six seconds.
EARLY_CHECK_SECONDS = 0.5
# Threads that decode masks: on a network disk, most of the time is waiting.
MAX_DECODERS = 8


@with_options(*LEARNER_OPTIONS, "epochs")
def learner(
    task: str | Task,
    data: Path | str | None = None,
    *,
    fold: tuple[int, int] | None = None,
    **options: Any,
) -> Learner:
    """Return a plain fastai `Learner` for `task` on the images in `data` (default: data/TASK).

    Options that are not given come from the task's recipe or from the machine. `weights` may be
    the folder of an export of this task; its whole network is trained further. `size` is
    in px, one side or (height, width); `cache` is in bytes. `fold` (k, n) validates on part k, from
    0, of n, instead of the task's own split. `epochs` says how long the learner will be
    trained: for short trainings, the faster precision is not measured. The data are checked first.
    Raises `FastsegError` kinds for unknown names, faulty data and weights that do not fit.
    """
    return learner_of(get(task), data, FitOptions(freeze_epochs=0, **options), fold)


def learner_of(
    task: Task,
    data: Path | str | None,
    options: FitOptions,
    fold: Fold | None = None,
) -> Learner:
    """Return the learner that `options` describe. Raises `FastsegError` kinds."""
    data = Path(data or task.default_data)
    options.check()
    asked_precision(options.precision)
    if options.decoder is not None and not task.has_masks:
        raise ModelError(f"{task.name} {task.purpose}: it takes no --decoder", "no-decoder")
    card = None
    if Path(options.weights).is_dir():
        if options.arch is not None or options.decoder is not None:
            raise ModelError(
                f"{options.weights}: an export brings its own backbone and decoder; "
                "leave out --arch and --decoder",
                "export-arch",
            )
        card = start_card(Path(options.weights), task)
        options = replace(options, size=options.size or (card.size[0], card.size[1]))
    recipe = options.recipe(task)
    items = task.items(data)
    train, valid = splitter(task, options.seed_of_split, fold, data)(items)
    if (data / LEDGER).is_file() and not callable(fold):
        apart = sum(item.split != "test" for item in items) - len(train) - len(valid)
        log.info(
            "the parts of the images are those in %s, whatever the seed%s",
            data / LEDGER,
            f"; {apart} are in neither part" if apart else "",
        )
    check_some_masks(task, data, items)
    task = options.augmenting(task.adapted(data))
    log.info(
        "checking the data: %d images to train and %d to validate in %s",
        len(train),
        len(valid),
        data,
    )
    with importing():
        from .build import build_learner
    return build_learner(task, data, options, recipe, fold, card)


def start_card(export: Path, task: Task) -> Card:
    """Return the card of the export that training begins with.

    Raises `ModelError` unless it is one network of the same classes.
    """
    try:
        card = read_card(export)
    except ExportError as error:
        raise ModelError(
            f"{error}; --weights takes auto, imagenet, none, a file, or an export's folder",
            error.code,
        ) from None
    if (card.kind, card.classes) != (task.kind, list(task.classes)):
        raise ModelError(
            f"{export}: has the classes {', '.join(card.classes)} of task {card.task}, and "
            f"{task.name} has {', '.join(task.classes)} now; train a new one: "
            f"fastseg fit {task.name}",
            "wrong-task",
        )
    if card.channels != task.channels:
        raise ModelError(
            f"{export}: is of images of {card.channels} channels, and {task.name} has "
            f"{task.channels}; "
            + (
                f"--weights {export / MODEL} adapts its first layer"
                if card.channels == RGB
                else "give an export of such images"
            ),
            "channels",
        )
    if card.network.get("members", 1) > 1:
        raise ModelError(
            f"{export}: is an ensemble, which is not trained on; give an export of one network",
            "start-ensemble",
        )
    return card


def check_some_masks(
    task: Task, data: Path, items: Sequence[Item], seconds: float = EARLY_CHECK_SECONDS
) -> None:
    """Decode masks, evenly spread over `items`, for so many seconds.

    Raises `DataError` for the first faulty one. With only a few hundred masks, all are checked.
    `checks.preflight.survey` reads every image and mask, after torch is imported.
    """
    end, workers = time.monotonic() + seconds, min(MAX_DECODERS, cpu_count() or 1)
    step = max(1, round(len(items) ** 0.5))
    order = [i for start in range(step) for i in range(start, len(items), step)]
    faults: dict[int, DataError | Fault] = {}
    values: dict[int, set[int]] = {}

    def check_mask(i: int) -> None:
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
        started = (pool.submit(check_mask, i) for i in order if time.monotonic() < end)
        for _ in results_in_order(started, 2 * workers):
            pass
    command = task.check_command(data)
    refuse([faults[i] for i in sorted(faults)], command)
    if len(values) == len(items):  # some faults show only in all masks together
        refuse(
            list(
                task.binary_faults(
                    data, ((item.source, values[i]) for i, item in enumerate(items))
                ).values()
            ),
            command,
        )

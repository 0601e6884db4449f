"""`evaluate`: figures of an export over labelled images, at their original sizes, in one streaming
pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from .. import __version__, formats
from ..data.assigning import TRAIN
from ..data.parts import Ledger
from ..engines.base import Engine, in_order
from ..engines.choice import engine_of
from ..errors import DataError, TaskError, choose
from ..exports.cache import require_own
from ..exports.card import CARD, METRICS, Card
from ..exports.folder import find
from ..exports.read import opened
from ..metrics.agreement import labelled_twice
from ..tasks import Item, SegmentationTask, Task
from ..tasks.layouts import PARQUET
from ..utils.choices import INT8, check_runtime
from ..utils.io import has_files, name_below, portable_path, require_folder, write_json, write_rows
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.shell import typed
from .groups import group_function
from .scores import SAMPLES, ImageScore, Scores, scores_of

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor

log = logging.getLogger(__name__)

SPLITS = ("valid", "train", "test", "all")
PER_IMAGE = "per_image.csv"
FOLDER = "evaluation"  # below the export's folder
CHUNK = 32  # images that a worker scores at a time; a multiple of the usual batch
NAMED = 5  # missing images that the warning names
T = TypeVar("T")
Look = Callable[[Item, "Prediction", "np.ndarray | int"], T]


def evaluate(
    task: str | Task,
    data: Path | str | None = None,
    *,
    split: str = "valid",
    export: Path | str | None = None,
    compare: Path | str | None = None,
    by: str | None = None,
    table: Path | str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    bs: int = 4,
    tta: bool | None = None,
    samples: int = SAMPLES,
    trust: bool = False,
    runtime: str = "auto",
    precision: str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
) -> dict[str, Any]:
    """Return the metrics of an export on one split of a labelled dataset, with 95% intervals; write
    them to `out`.

    The dict has the figures of `metrics.figures.segmentation` or `.classification`, and "intervals"
    of the same shape, from `samples` seeded bootstrap samples of the images; "missing" names the
    held-out images that are not in the data; "agreement" is that of pictures which the data has
    labelled twice, see `agreement`, or None. `data` defaults to the
    folder that the export was trained on; "valid" is what training held out, by the card. `tta`
    averages each image with its mirror image (default: what the card says). `compare`, another
    export's folder, adds "comparison": the differences on the same images, paired. `by` adds "by",
    the metrics of each group of images: group, source, split, folder, a column of the CSV or TSV
    file `table` (whose first column names images), or a regular expression whose match (or first
    group) in the file's name is the group. `export` may be an export.pkl, which is opened if it is
    the one of the card beside it, or with `trust`. `runtime` and `precision` are as for
    `fastseg.load`; both exports are computed in the same precision. metrics.json and per_image.csv
    (with `by`, a column has each image's group) go to `out`, by default the folder evaluation in
    the export. `engine`, `workers`, `address` and `num_gpus` say who predicts, see
    `engines.choice.engine_of`; the figures are the same. Raises `FastsegError` kinds.
    """
    check_runtime(runtime, precision)
    task, folder, card = opened(task, export)
    items, root = items_of(card, task, data, split)
    group_of = group_function(by, table, items, root)
    compared = find(task, compare) if compare else None
    out = Path(out) if out else _own_folder(folder) / FOLDER
    _require_no_export(out)
    require_results_folder(out, items, root, task)
    from ..inference.loading import load

    predictor = load(folder, device, trust, tta, runtime, precision, images=len(items), bs=bs)
    other = None
    if compared:
        same = None if runtime == INT8 else predictor.precision
        other = load(
            compared,
            device,
            runtime=runtime,
            precision=same,
            images=len(items),
            bs=bs,
            reason="the precision of the first export",
        )
        _warn_of_seen(other.card, items, root, compare)
    with write_lock(out), engine_of(engine, workers, address, num_gpus) as who:
        who.require_sight(root, folder, *([compared] if compared else []))
        scores = scores_on(predictor, folder, items, root, bs, who, num_gpus)
        theirs = (
            scores_on(other, compared, items, root, bs, who, num_gpus)
            if other and compared
            else None
        )
    result = {
        "task": task.name,
        "export": str(folder),
        "data": str(root),
        "split": split,
        "missing": missing_of(card, items, root) if split == "valid" else [],
        "weights": predictor.card.weights_origin,
        "licence": predictor.card.licence,
        "runtime": predictor.runtime,
        "precision": predictor.precision,
        **scores.metrics(samples),
        "agreement": labelled_twice(task, task.items(root), samples),
    }
    if group_of:
        result["by"] = scores.by(group_of, samples)
    if theirs:
        difference = scores.compare(theirs, samples)
        result["comparison"] = {
            "with": str(compare),
            "verdict": verdict(task, str(folder), str(compare), difference),
            **difference,
        }
    places = {"export": portable_path(folder, out), "data": portable_path(root, out)}
    write_json(out / METRICS, {**result, **places})
    write_rows(out / PER_IMAGE, scores.rows(group_of))
    return {**result, "written": [str(out / METRICS), str(out / PER_IMAGE)]}


def _own_folder(export: Path) -> Path:
    """Return the folder of an export or pickle, for results. Raises `ExportError` if cached."""
    folder = export if export.is_dir() else export.parent
    return require_own(folder, "results are not written there; choose a folder with --out")


def _require_no_export(out: Path) -> None:
    if (out / CARD).is_file():
        raise DataError(
            f"{out}: holds an export, and its metrics.json is of the training; "
            "choose another --out",
            "holds-export",
        )


def _warn_of_seen(card: Card, items: Sequence[Item], root: Path, name: Path | str | None) -> None:
    seen = len(trained_on(card, items, root))
    if seen:
        log.warning(
            "%s was trained on %d of these %d images, so its scores are too optimistic: "
            "compare exports of one seed and split",
            name,
            seen,
            len(items),
        )


def scores_on(
    predictor: Predictor,
    export: Path,
    items: Sequence[Item],
    root: Path,
    bs: int,
    engine: Engine,
    num_gpus: float = 0,
) -> Scores[Any]:
    """Return the scores of the items.

    Scores in the journal of an interrupted evaluation of the same export are reused.
    """
    predictor.adapt(items)
    scores = scores_of(predictor.task)
    description = ScoreWork(
        export.absolute(),
        str(predictor.device) if engine.name == "local" or num_gpus else "cpu",
        predictor.tta,
        predictor.runtime,
        predictor.precision,
        predictor.task.depth,
        root,
        bs,
    )

    def work(left: list[int]) -> Iterator[list[Any]]:
        if engine.is_here:
            chosen = [items[i] for i in left]
            return (scores.to_json(score) for score, _ in score_images(predictor, chosen, root, bs))
        starts = range(0, len(left), CHUNK)
        chunks = ([items[i] for i in left[start : start + CHUNK]] for start in starts)
        found = chain.from_iterable(in_order(engine, description, chunks))
        return iter(track(found, "evaluating", len(left)))

    with Journal(
        "evaluate",
        __version__,
        *predictor.identity(),
        str(root.resolve()),
    ) as journal:
        rows = resumed(journal, [stamp(*item.files) for item in items], work)
        scores.images = [
            scores.from_json(item, name_below(root, item.image), values)
            for item, values in zip(items, rows)
        ]
    return scores


@dataclass(frozen=True)
class ScoreWork:
    """What workers do for `evaluate`: predict and score some items. See `engines.base.Work`."""

    export: Path
    device: str | None
    tta: bool
    runtime: str
    precision: str
    depth: int | None
    root: Path
    bs: int

    def start(self) -> Callable[[Sequence[Item]], list[Any]]:
        """Load the export; return the function that scores items, as JSON values."""
        from ..inference.loading import load

        precision = self.precision if self.runtime == "torch" else None
        predictor = load(
            self.export,
            self.device,
            tta=self.tta,
            runtime=self.runtime,
            precision=precision,
            images=CHUNK,
            bs=self.bs,
        )
        predictor.task = replace(predictor.task, depth=self.depth)
        scores = scores_of(predictor.task)
        return lambda items: [
            scores.to_json(score) for score, _ in score_images(predictor, items, self.root, self.bs)
        ]


def require_results_folder(out: Path, items: Sequence[Item], root: Path, task: Task) -> None:
    """Raise `DataError` if `out` cannot be a folder, or contains the data, images or labels."""
    if out.resolve() in {root.resolve()} | data_folders(items) or _holds_labels(out, root, task):
        raise DataError(
            f"{out}: contains the data, and results are not written there; choose another --out",
            "output-in-data",
        )
    require_folder(out)


def _holds_labels(out: Path, root: Path, task: Task) -> bool:
    """Return whether a folder holds files that masks are drawn from: of a tool, or of one class."""
    if not isinstance(task, SegmentationTask) or not out.is_dir():
        return False
    out, classes = out.resolve(), {name.casefold() for name in task.classes}
    for layout in task.layouts:
        place = (root / (layout.labels if layout.format else layout.masks)).resolve()
        is_of_class = layout.class_masks == "folders" and out.name.casefold() in classes
        if out in (place, place.parent if place.is_file() else place):
            return True
        if is_of_class and out.parent == place:
            return True
        is_below = place in out.parents and layout.format not in ("", PARQUET)
        if is_below and formats.get(layout.format).find(out):
            return True
    return False


def data_folders(items: Sequence[Item]) -> set[Path]:
    """Return the folders, resolved, that hold the items' images and masks.

    Masks that were drawn are in the user's cache.
    """
    return {
        path.resolve().parent
        for item in items
        for path in (item.image, item.label)
        if isinstance(path, Path)
    }


def verdict(task: Task, ours: str, theirs: str, difference: Mapping[str, Any]) -> str:
    """Return a sentence that says which of two exports is better, or that neither clearly is.

    `difference` is what `Scores.compare` returns; the task's main figure and its interval decide.
    """
    name = task.main_figure
    value = task.main_value(difference["difference"])
    ends = task.main_value(difference["intervals"])
    if value is None:
        return f"nothing to compare: {ours} or {theirs} has no {name} on these images"
    if ends is None:
        return f"one image shows no spread: {ours} minus {theirs} is {value:+.4f} {name}"
    low, high = ends
    images = f"{difference['images']} images"
    if low <= 0 <= high:
        return (
            f"no clear difference: {ours} minus {theirs} is {value:+.4f} {name} "
            f"(95% interval {low:.4f} to {high:.4f}, {images}, which includes 0)"
        )
    better, worse = (ours, theirs) if low > 0 else (theirs, ours)
    low, high = sorted((abs(low), abs(high)))
    return (
        f"{better} is better than {worse} by {abs(value):.4f} {name} "
        f"(95% interval {low:.4f} to {high:.4f}, {images})"
    )


def trained_on(card: Card, items: Sequence[Item], root: Path) -> set[str]:
    """Return the names, below `root`, of the items that trained the export.

    Copies of its data in another folder are not recognised. Where the folder has a ledger of parts,
    images that were recorded in it later, and held out, trained nothing.
    """
    if not card.has_data_in(root):
        return set()
    ledger = Ledger.of(root)
    names = {name_below(root, item.image) for item in items if item.split != "test"}
    if ledger is not None:
        names &= {
            row.name for row in ledger.rows.values() if row.part == TRAIN or row.is_of_first_split
        }
    return names - {*card.valid_files}


def items_of(
    card: Card, task: Task, data: Path | str | None, split: str
) -> tuple[list[Item], Path]:
    """Return the labelled items of a split, and the data folder.

    Validation items are those that the card names; a warning names those that are missing. Raises
    `TaskError` for an unknown split, `DataError` if there are no such items.
    """
    choose("split", split, SPLITS, TaskError)
    root = Path(data or card.data_folder or task.default_data)
    if data is None and not has_files(root):
        root = task.default_data
        if not has_files(root):
            raise DataError(
                f"{card.data_folder or root}: the data that this export was trained on are not "
                "there; name them with --data",
                "data-moved",
            )
    if data is None and task.home and task.home.resolve() != root.resolve():
        log.warning(
            "judged are the images of %s, which the export was trained on; --data %s judges those",
            typed(root),
            typed(task.reference),
        )
    items = task.items(root)
    held_out = set(card.valid_files)
    names = [name_below(root, item.image) for item in items]
    if card.is_adopted and split in ("valid", "all"):
        log.warning(
            "this model was adopted as it is (%s): "
            "whether its own training saw these images is not known here",
            card.training["adopted_from"],
        )
        return items, root
    if split == "all":
        return items, root
    if split == "test":
        chosen = [item for item in items if item.split == "test"]
        remedy = f"this {task.name} data has no labelled test folder; choose another --split"
    elif split == "valid":
        chosen = [item for item, name in zip(items, names) if name in held_out]
        folds = card.training.get("folds")
        remedy = (
            "none of the images that this export's training held out is here; use the data it was "
            "trained on (evaluate and interpret take any data with --split all)"
        )
        if folds:
            remedy = (
                f"every image was used to train at least one of this export's {folds} models; its "
                "metrics.json holds the scores of each image by the learner that never saw it; "
                "judge it on other data with --split all"
            )
    else:
        ledger = Ledger.of(root)
        rows = ledger.rows.values() if ledger else ()
        apart = {row.name for row in rows if row.part != TRAIN}
        chosen = [
            item
            for item, name in zip(items, names)
            if name not in held_out and item.split != "test" and name not in apart
        ]
        remedy = (
            "none of these images is for training: all were held out; give the folder with the "
            "images that the export was trained on"
        )
    if not chosen:
        raise DataError(f"{root}: {remedy}", "no-images-to-judge")
    missing = missing_of(card, chosen, root) if split == "valid" else []
    if missing:
        log.warning(
            "%d of %d held-out images %s missing: %s%s",
            len(missing),
            len(held_out),
            "is" if len(missing) == 1 else "are",
            ", ".join(missing[:NAMED]),
            f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "",
        )
    return chosen, root


def missing_of(card: Card, items: Sequence[Item], root: Path) -> list[str]:
    """Return the names of the card's validation images that are not among these items."""
    return sorted(set(card.valid_files) - {name_below(root, item.image) for item in items})


@overload
def score_images(
    predictor: Predictor, items: Sequence[Item], root: Path, bs: int = 4
) -> Iterator[tuple[ImageScore, None]]: ...


@overload
def score_images(
    predictor: Predictor, items: Sequence[Item], root: Path, bs: int = 4, *, look: Look[T]
) -> Iterator[tuple[ImageScore, T]]: ...


def score_images(
    predictor: Predictor,
    items: Sequence[Item],
    root: Path,
    bs: int = 4,
    *,
    look: Look[Any] | None = None,
) -> Iterator[tuple[ImageScore, Any]]:
    """Yield each item's score and what `look(item, prediction, truth)` returns, in order.

    Both are computed on threads. Raises `DataError` for the first image or mask that cannot be
    read.
    """
    task, scores = predictor.task, scores_of(predictor.task)

    def finish(item: Item, prediction: Prediction) -> tuple[ImageScore, Any]:
        truth = task.label(item)
        return (
            scores.judge(item, name_below(root, item.image), prediction, truth),
            look(item, prediction, truth) if look else None,
        )

    found = predictor.stream_or_raise(items, bs, finish)
    for _, result in track(found, "evaluating", len(items)):
        yield result

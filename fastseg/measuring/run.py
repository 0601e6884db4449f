"""`measure`: numbers from images or masks, with intervals, means of groups, pictures and a page."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.pairing import image_files
from ..data.reading import first_files, stem_of
from ..errors import DataError, TaskError
from ..evaluation.groups import group_function
from ..evaluation.run import items_of
from ..exports.folder import is_export
from ..exports.read import as_trained, opened
from ..inference.inputs import expand
from ..inference.outputs import OUTPUTS
from ..inference.sources import pyarrow_parquet
from ..tasks import Item, SegmentationTask, Task, get
from ..utils.choices import check_runtime
from ..utils.io import atomic_folder, require_folder
from ..utils.locks import write_lock
from ..utils.progress import track
from ..video.sources import is_video
from .between import Between, distances, ratio_of
from .calibration import Compared, calibrated, compared_prediction, evenly
from .cohorts import ALL, group_means
from .inputs import are_masks, require_size
from .intervals import LEVELS, Intervals
from .passes import Pass
from .results import OWN, SUMMARY, Results, write
from .rows import Row, Ruler
from .spacing import parse_spacing, spacings

if TYPE_CHECKING:
    from ..exports.card import Card
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .measures import Spacing

log = logging.getLogger(__name__)

FOLDER = "_measures"  # end of the name of the default folder


def measure(
    task: str | Task,
    paths: Sequence[Path | str] | Path | str,
    out: Path | str | None = None,
    *,
    whole: bool = False,
    ratios: Sequence[str] = (),
    spacing: str | float | tuple[float, float] | None = None,
    mm: bool = False,
    by: str | None = None,
    table: Path | str | None = None,
    level: float = 0.9,
    truth: Path | str | None = None,
    calibrate: bool = False,
    data: Path | str | None = None,
    masks: bool | None = None,
    pictures: int | None = 6,
    parquet: bool = False,
    export: Path | str | None = None,
    device: str | None = None,
    bs: int = 4,
    tta: bool | None = None,
    trust: bool = False,
    runtime: str = "auto",
    precision: str | None = None,
) -> dict[str, Any]:
    """Measure the objects in images, which an export predicts, or in masks, and return the rows.

    `paths` are files, folders or globs of images, or of masks in the task's own format; which of
    them, is found by decoding some, and `masks` says it. There is a row for each object, a
    connected component of a class, or with `whole` for each class of each image; the columns are
    those of `measuring.measures`. `ratios` such as "pupil/iris" (of diameters) or
    "pupil.area/iris.area" and the distances of classes' centroids are rows of "between".

    Lengths are in px, or in mm with `spacing`, the distance of pixels (down, across), or one
    number, and with `mm`, which reads it from the headers of the files. Predictions have intervals
    that hold the true value with probability `level`, by the residuals of held-out images that a
    fit put into the card; `calibrate` takes those of the held-out images in `data` (default: the
    folder that the export was trained on) in their place. `by` and `table` group the images, as
    `evaluate` does; means of groups are rectified, so that a biased model gives no biased means: by
    `truth`, a folder with true masks of some of the images, under their names, or by the held-out
    images.

    measures.csv, between.csv, groups.csv, summary.html, and pictures of the first `pictures`
    images (None: of all) with the ellipses go to `out`, by default FOLDER_measures; with `parquet`,
    tables are parquet files, too. Nothing is written if an image or mask cannot be read. The dict
    has "task", "unit", "level", "intervals" (None, or why there are none), "measured" (in words),
    "rows", "between", "groups" and "written". Raises `FastsegError` kinds.
    """
    check_runtime(runtime, precision)
    LEVELS("--level", level)
    found = _task(task, export)
    if parquet:
        pyarrow_parquet("--parquet")
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    _refuse_videos(given)
    files, _ = expand([Path(path) for path in given], OUTPUTS[found.kind](found).is_own)
    files = first_files(files, found.channel_files) or files
    betweens = _betweens(found, ratios)
    target = _target(out, files)
    from_masks = are_masks(found, files) if masks is None else masks
    card: Card | None = None
    if not from_masks:
        opened_task, source, card = opened(task, export)
        found = as_trained(opened_task, card)  # type: ignore[assignment]  # of the same kind
    sides = spacings(files, _spacing(spacing), mm)
    group_of = _groups(found, files, by, table)
    truths = _truths(truth, files, found, from_masks)
    intervals, reason, compared = None, "masks are measured as they are", None
    predictor: Predictor | None = None
    if card is not None:
        from ..inference.loading import load

        predictor = load(source, device, trust, tta, runtime, precision, images=len(files), bs=bs)
        if calibrate:
            compared = calibration_of(predictor, data, bs)
        intervals, reason = _intervals(card, compared, level)
        predictor.adapt(files)
    ruler = Ruler(found.classes, found.background, whole, betweens, intervals)
    with write_lock(target), atomic_folder(target) as folder:
        run = Pass(found, ruler, files, sides, group_of, truths, pictures, folder)
        run.measure(predictor, bs)
        unit = "px" if sides[0] is None else "mm"
        means = group_means(
            run.rows + run.between,
            run.true,
            {str(file) for file in truths},
            level,
            ruler.part,
            intervals,
            not from_masks,
        )
        _warn_of_single_images(by, run.rows)
        kept = Results(
            run.rows, run.between, means, ruler, unit, by, level, reason, len(files), from_masks
        )
        names = write(folder, f"{found.name}: measures", kept, parquet)
        names += run.pictured
    if reason and not from_masks:
        log.warning("%s", reason)
    return {
        "task": found.name,
        "export": None if from_masks else str(source),
        "images": len(files),
        "unit": unit,
        "level": level,
        "intervals": reason or None,
        "measured": kept.counted(),
        **kept.to_json(),
        "written": [str(target / name) for name in names],
    }


def calibration_of(predictor: Predictor, data: Path | str | None, bs: int = 4) -> dict[str, Any]:
    """Return the residuals of an export's held-out images, in the form of its card."""
    task = predictor.task
    items, _ = items_of(predictor.card, task, data, "valid")
    chosen = evenly(items)
    predictor.adapt(chosen)
    assert isinstance(task, SegmentationTask)

    def finish(item: Item, prediction: Prediction) -> Compared:
        truth = task.label(item)
        require_size(item.shown_label, truth, prediction.labels)
        return compared_prediction(task, prediction, truth)

    found = predictor.stream_or_raise(chosen, bs, finish)
    images = (image for _, image in track(found, "calibrating", len(chosen)))
    return calibrated(images, task.classes)


def _task(task: str | Task, export: Path | str | None) -> SegmentationTask:
    """Return the task. Raises `TaskError` for one without masks."""
    from_export = not isinstance(task, Task) and is_export(task)
    found = opened(task, export)[0] if from_export else get(task)
    if not isinstance(found, SegmentationTask):
        raise TaskError(
            f"task {found.name} gives each image a class, and there is nothing to measure; "
            "measure takes tasks with masks",
            "no-masks",
        )
    return found


def _refuse_videos(paths: Sequence[Path | str]) -> None:
    video = next((path for path in paths if is_video(str(path))), None)
    if video is not None:
        raise DataError(
            f"{video}: is a video; fastseg predict TASK {video} --measure measures its frames",
            "video-to-measure",
        )


def _betweens(task: SegmentationTask, ratios: Sequence[str]) -> list[Between]:
    asked = {r.name: r for r in (ratio_of(text, task.classes, task.background) for text in ratios)}
    return [*asked.values(), *distances(task.classes, task.background)]


def _spacing(value: str | float | tuple[float, float] | None) -> Spacing | None:
    if value is None:
        return None
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return parse_spacing(text)


def _target(out: Path | str | None, files: Sequence[Path]) -> Path:
    """Return where results go. Raises `DataError` if the folder has files of others.

    What an earlier measure left there is replaced; its page, and no file besides its own, show it.
    """
    target = Path(out or f"{files[0].resolve().parent.name}{FOLDER}")
    require_folder(target)
    there = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    has_inputs = any(target.resolve() in file.resolve().parents for file in files)
    if there and (there - OWN or SUMMARY not in there or has_inputs):
        raise DataError(
            f"{target}: has files that are not of an earlier measure, which would be replaced; "
            "choose another --out",
            "not-empty",
        )
    return target


def _groups(
    task: SegmentationTask, files: Sequence[Path], by: str | None, table: Path | str | None
) -> Callable[[Path], str]:
    """Return the function that gives a file's group. Raises `FastsegError` kinds."""
    items = {file: Item(file, 0, None, _group(task, file)) for file in files}
    root = files[0].parent
    group_of = group_function(by, table, list(items.values()), root, is_complete=True)
    return lambda file: group_of(items[file]) if group_of else ALL


def _group(task: SegmentationTask, file: Path) -> str:
    """Return the group of a file by its task: an eye's set, a subject; else its own name."""
    name = stem_of(file, task.channel_files)
    match = re.match(task.group, name) if task.group else None
    return match.group() if match else name


def _truths(
    truth: Path | str | None, files: Sequence[Path], task: SegmentationTask, from_masks: bool
) -> dict[Path, Path]:
    """Return the true masks of some of the images. Raises `DataError` if there are none."""
    if truth is None:
        return {}
    if from_masks:
        raise DataError("--truth rectifies predictions; leave it out for masks", "truth-of-masks")
    named = _by_stem(image_files(Path(truth)), ())
    images = _by_stem(files, task.channel_files)
    for name in named.keys() & images.keys():
        for same in (named[name], images[name]):
            if len(same) > 1:
                raise DataError(
                    f"{same[0]} and {same[1]}: have the same name, so that --truth cannot tell "
                    "which mask belongs to which image; rename one, or measure them apart",
                    "shared-name",
                )
    found = {images[name][0]: named[name][0] for name in images if name in named}
    if not found:
        raise DataError(
            f"{truth}: has no mask of these images' names (one of them is {files[0].stem}); "
            "give a folder with masks of some of them",
            "no-truth",
        )
    return found


def _by_stem(files: Sequence[Path], channels: Sequence[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        found[stem_of(file, channels)].append(file)
    return found


def _intervals(
    card: Card, compared: Mapping[str, Any] | None, level: float
) -> tuple[Intervals | None, str]:
    """Return the intervals of an export, and why there are none."""
    measures = card.measures if compared is None else compared
    if not measures:
        return None, (
            "this export has no residuals of measures (an earlier fastseg wrote it, or it was "
            "adopted): intervals stay empty; --calibrate compares it with its held-out images "
            "now, and a fit stores them"
        )
    intervals = Intervals(measures, level)
    fewest = math.ceil(level / (1 - level) - 1e-9)
    if intervals.most_images < fewest:
        return intervals, (
            f"{intervals.most_images} held-out images are too few for intervals of "
            f"{100 * level:g} % of each measure, which need {fewest}; lower --level"
        )
    return intervals, ""


def _warn_of_single_images(by: str | None, rows: Sequence[Row]) -> None:
    groups = {row.group: row.image for row in rows}
    if by and len(groups) > 1 and len({row.image for row in rows}) == len(groups):
        log.warning(
            "--by %s: each of the %d groups has one image, so that there is no mean over images; "
            "--by folder, or a column of --table, makes larger groups",
            by,
            len(groups),
        )

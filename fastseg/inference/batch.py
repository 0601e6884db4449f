"""`predict`: writes masks, tables, overlays and probabilities for image files, each at its own
size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..data.pairing import IMAGE_SUFFIXES
from ..data.reading import first_files
from ..engines.choice import engine_of
from ..errors import DataError
from ..exports.card import Card
from ..exports.read import as_trained, opened
from ..metrics.risk import ERROR_RATE, lowest_rate, review_obstacle, review_threshold
from ..tasks import Task
from ..utils.choices import check_runtime
from ..utils.io import write_rows
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.storage import is_url, without_file_scheme
from ..video.sources import require_reader, videos_among
from .inputs import expand
from .outputs import MASKS, OUTPUTS, TABLE_SUFFIXES, Output, Row
from .sources import is_sharded_source

if TYPE_CHECKING:
    from .prediction import Prediction
    from .predictor import Predictor
    from .sharded import ShardedRun
    from .video import Meter, VideoResult

log = logging.getLogger(__name__)


class Written(list[Path]):
    """The paths that `predict` wrote; `skipped` are those in the folders given to it that are not
    images, and `export` is the local folder (or pickle) that predicted them.

    A prediction in shards lists its tables only, and `run` has its counts; `videos` has those of
    videos.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        skipped: Iterable[Path],
        export: Path,
        run: ShardedRun | None = None,
        videos: Sequence[VideoResult] = (),
    ):
        super().__init__(paths)
        self.skipped, self.export, self.run = list(skipped), export, run
        self.videos = list(videos)


def predict(
    task: str | Task,
    paths: Sequence[Path | str] | Path | str,
    out: Path | str | None = None,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    format: str | None = None,
    error_rate: float = ERROR_RATE,
    export: Path | str | None = None,
    device: str | None = None,
    bs: int = 4,
    tta: bool | None = None,
    trust: bool = False,
    runtime: str = "auto",
    precision: str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
    pack: bool = False,
    frames: bool = False,
    smooth: float = 0,
    limit: float | None = None,
    meter: Meter | None = None,
) -> Written:
    """Predict files, folders or globs; write one mask an image in the task's own format and return
    what was written.

    Masks have their images' sizes and names and go to `out`, by default FOLDER_inf_masks for images
    in FOLDER. With `overlay`, overlays are written too, in its subfolder overlays; with
    `probabilities`, calibrated ones, float16 (C, H, W) under the name "probabilities" in npz files,
    in its subfolder probabilities. `format` names a format of label files, such as "labelme" (see
    `convert`): its subfolder of that name gets copies of the images and the predictions as labels
    to correct, with the mean probability of each class where the format has scores, and a task.toml
    to train on them. Classification tasks write one table, by default
    FOLDER_inf_TABLE. The same folder gets predictions.csv: each image's shares of the
    classes, mean confidence, entropy, expected error, and whether a person should review it:
    if the expected error exceeds a threshold. It is chosen so that the other masks have, over all
    images, a mean error of at most `error_rate` (see `metrics.risk.thresholds`). `tta` averages
    each image with its mirror image (default: what the export's card says). `export` may be an
    export.pkl, which is opened if it is the one of the card beside it, or with `trust`. `runtime`
    and `precision` are as for `fastseg.load`. Files in a folder that are not named as images are
    not predicted: a warning counts and names them, and the returned list has them as `skipped`.
    Images that cannot be read are listed in failed.csv, and reported by a `DataError` after the
    others are done. An interrupted prediction continues, when it is called again, where it
    stopped.

    With `engine` "local" or "ray", with `workers` (processes), and for URLs, manifests and
    archives, images are predicted in shards: neither their list nor the results are ever in memory
    together, several processes or the machines of a cluster at `address` work on them, and the
    state is kept at `out`, so that a run that was stopped continues from any machine. `paths` and
    `out` may be URLs that fsspec reaches. Masks keep the images' relative names;
    predictions.parquet has an index of them. `pack` writes a tar file of masks a shard. Then the
    returned list has the tables only. `num_gpus` are those of each worker of Ray.

    Videos, cameras ("camera:0") and image sequences ("frames/%05d.png") get a folder each, of
    their name, in `out`: masks.mkv without loss, or with `frames` PNG files in masks; overlay.mp4;
    and frames.csv, with each frame's time in seconds and the columns of predictions.csv. `smooth`
    is how many seconds before and after a frame its neighbours' logits count, 0 to 1; `limit` are
    the seconds to predict. `meter` adds measures (see `measuring.video`). `videos` of the returned
    list has the counts.
    Raises `FastsegError` kinds.
    """
    check_runtime(runtime, precision)
    task, source, card = opened(task, export)
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    given = [without_file_scheme(path) if isinstance(path, str) else path for path in given]
    out = without_file_scheme(out) if isinstance(out, str) else out
    in_shards = bool(
        engine is not None
        or workers is not None
        or address is not None
        or num_gpus
        or pack
        or is_url(out or "")
    )
    videos = videos_among([str(path) for path in given])
    if videos:
        _check_video_options(videos, in_shards or probabilities or format is not None)
        from .video import VideoOptions
        from .videos import predict_videos

        threshold = review_threshold(card.review, error_rate)
        loading = dict(device=device, trust=trust, tta=tta, runtime=runtime, precision=precision)
        options = VideoOptions(overlay, frames, smooth, limit, meter)
        done = predict_videos(task, source, card, videos, out, options, threshold, loading, bs)
        _report_useless_threshold(card, threshold, error_rate)
        return Written([file for video in done for file in video.files], [], source, videos=done)
    if frames or smooth or limit is not None or meter is not None:
        raise DataError(
            "--frames, --smooth, --limit and --measure are for videos; leave them out, or give "
            "numbered images as a pattern such as 'frames/%05d.png'",
            "only-for-videos",
        )
    if in_shards or any(is_sharded_source(str(path)) for path in given):
        from .sharded import predict_in_shards

        sharded = predict_in_shards(
            task,
            source,
            card,
            list(map(str, given)),
            _shards_out(given, out, format),
            engine_of(engine, workers, address, num_gpus),
            overlay=overlay,
            probabilities=probabilities,
            pack=pack,
            error_rate=error_rate,
            device=device,
            bs=bs,
            tta=tta,
            trust=trust,
            runtime=runtime,
            precision=precision,
        )
        return _sharded_result(sharded, source)
    output = OUTPUTS[task.kind](task, overlay, probabilities, format)
    files, skipped = expand(given, output.is_own)
    files = first_files(files, as_trained(task, card).channel_files) or files
    output.plan(files, out)
    threshold = review_threshold(card.review, error_rate)
    from .loading import load  # torch is imported here, after all checks of names and folders

    predictor = load(source, device, trust, tta, runtime, precision, images=len(files), bs=bs)
    predictor.adapt(files)
    output.task = predictor.task
    identity = [
        "predict",
        __version__,
        *predictor.identity(),
        threshold,
        overlay,
        probabilities,
        format,
        str(out),
        os.getcwd(),
    ]
    rows: dict[Path, Row] = {}
    failures: dict[Path, DataError] = {}
    with ExitStack() as stack:
        for place in output.places:
            stack.enter_context(write_lock(place))
        journal = stack.enter_context(Journal(*identity))
        run = PredictionRun(
            predictor, files, bs, journal, partial(output.write_image_results, threshold=threshold)
        )
        for file, row in run:
            if isinstance(row, DataError):
                failures[file] = row
            else:
                rows[file] = row
        written = Written([*run.written, *output.write_tables(rows)], skipped, source)
        _write_failures(output, files, failures)
        if failures:
            raise _failure(files, output, failures, written)
    _report_useless_threshold(card, threshold, error_rate)
    return written


def _check_video_options(videos: Sequence[str], has_others: bool) -> None:
    require_reader(videos[0])
    if has_others:
        raise DataError(
            f"{videos[0]}: is a video; --probabilities, --format, --engine, --workers, --pack and "
            "URLs as --out are for images, leave them out",
            "not-for-videos",
        )


def _shards_out(given: Sequence[Path | str], out: Path | str | None, format: str | None) -> str:
    """Return where a prediction in shards goes. Raises `DataError` for what it cannot do."""
    if format is not None:
        raise DataError(
            "--format writes labels to correct for some images; leave out --engine and --workers",
            "no-format-in-shards",
        )
    if not given:
        raise DataError("no images are named; give a folder, URL or manifest", "no-images")
    source = str(given[0])
    if out is None and (is_sharded_source(source) or not Path(source).is_dir()):
        raise DataError(f"{source}: has no default for results; give --out", "no-out")
    out = str(out or f"{Path(source).resolve().name}{MASKS}")
    if not is_url(out) and Path(out).suffix.lower() in (*IMAGE_SUFFIXES, *TABLE_SUFFIXES):
        raise DataError(
            f"{out}: a prediction in shards writes a folder; name one without a suffix",
            "one-file-for-many",
        )
    if out.lower().endswith((".zip", ".tar")) or out.startswith(("zip://", "tar://")):
        raise DataError(
            f"{out}: archives are read, not written; give a folder or URL as --out, and --pack "
            "for tar files of masks in it",
            "archive-out",
        )
    return out


def _sharded_result(run: ShardedRun, export: Path) -> Written:
    written = Written(run.tables, [], export, run)  # type: ignore[arg-type]  # URLs are no paths
    if run.failed:
        more = f" ({run.failed - 1} more could not be read)" if run.failed > 1 else ""
        done = {0: "", 1: "; the other image is done"}.get(
            run.images, f"; the other {run.images} images are done"
        )
        error = DataError(
            f"{run.first_failure}{more}{done}; all are listed in {run.tables[-1]}",
            "unreadable-image",
        )
        error.details = {"written": list(map(str, written)), "skipped": []}
        raise error
    return written


@dataclass
class PredictionRun:
    """One pass over files: yields (file, its row or the `DataError` why there is none) in order.

    `finish` writes what belongs to one image and returns its row and the paths; `written` has them
    all. Files that the journal of an interrupted run lists are not predicted again, if what it
    wrote for them is unchanged.
    """

    predictor: Predictor
    files: Sequence[Path]
    bs: int
    journal: Journal
    finish: Callable[[Path, Prediction], tuple[Row, list[Path]]]
    written: list[Path] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Path, Row | DataError]]:
        self._forget_changed()
        keys = [stamp(file) for file in self.files]
        results = resumed(self.journal, keys, self._results)
        for file, result in zip(self.files, track(results, "predicting", len(self.files))):
            if isinstance(result, DataError):
                yield file, result
                continue
            row, paths, _ = result
            self.written += map(Path, paths)
            yield file, row

    def _forget_changed(self) -> None:
        """Remove results from the journal whose files were deleted or overwritten since."""
        for key, (_, paths, stamps) in list(self.journal.done.items()):
            if [stamp(Path(path)) for path in paths] != stamps:
                del self.journal.done[key]

    def _results(self, left: list[int]) -> Iterator[list[Any] | DataError]:
        """Yield, for the files at these places, what the journal keeps: row, paths, stamps of the
        paths.
        """
        chosen = [self.files[i] for i in left]
        return (result for _, result in self.predictor.stream(chosen, self.bs, self._finish))

    def _finish(self, file: Path, prediction: Prediction) -> list[Any]:
        row, paths = self.finish(file, prediction)
        return [row, list(map(str, paths)), list(map(stamp, paths))]


def _message_without_file(file: Path, error: DataError) -> str:
    return str(error).removeprefix(f"{file}: ")


def _write_failures(
    output: Output[Any, Any], files: Sequence[Path], failures: Mapping[Path, DataError]
) -> None:
    """Write failed.csv where images failed, and remove what an earlier run wrote there; none for
    one image.
    """
    tables: dict[Path, list[dict[str, str]]] = {}
    for file in files:
        path = output.failed_path(file)
        if path is None:
            continue
        rows = tables.setdefault(path, [])
        if file in failures:
            rows.append({"image": str(file), "reason": _message_without_file(file, failures[file])})
    for path, rows in tables.items():
        if rows and len(files) > 1:
            write_rows(path, rows)
        else:
            path.unlink(missing_ok=True)


def _failure(
    files: Sequence[Path],
    output: Output[Any, Any],
    failures: Mapping[Path, DataError],
    written: Written,
) -> DataError:
    """Return the error for images that could not be read; its details name what was written and
    skipped.
    """
    first = next(iter(failures))
    message = f"{first}: {_message_without_file(first, failures[first])}"
    if len(failures) > 1:
        message += f" ({len(failures) - 1} more could not be read)"
    if len(files) > len(failures):
        done = len(files) - len(failures)
        message += (
            "; the other image is done" if done == 1 else f"; the other {done} images are done"
        )
    if len(files) > 1:
        tables = dict.fromkeys(str(output.failed_path(file)) for file in failures)
        message += f"; all are listed in {', '.join(tables)}"
    error = DataError(message, "unreadable-image")
    error.details = {"written": list(map(str, written)), "skipped": list(map(str, written.skipped))}
    return error


def _report_useless_threshold(card: Card, threshold: float | None, error_rate: float) -> None:
    """Say why needs_review is empty, or True for every image, where it is so."""
    if threshold is None:
        log.warning(
            "this export has no review thresholds "
            "(an earlier fastseg wrote it, or it was adopted): "
            "needs_review stays empty; a fit gives them"
        )
    elif threshold < 0:
        lowest = lowest_rate(card.review)
        log.info(
            "needs_review is True for every image: %s to promise a mean error of at most %g%s",
            review_obstacle(card.metrics.get("images"), error_rate),
            error_rate,
            f"; --error-rate {lowest:g} can be promised" if lowest else "",
        )

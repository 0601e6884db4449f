"""`predict` for several videos: what is refused, where results go, and one after the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.pairing import IMAGE_SUFFIXES
from ..data.reading import Reading
from ..errors import DataError
from ..exports.card import Card
from ..exports.read import as_trained
from ..learners.options import Number
from ..tasks import Task
from ..tasks.base import with_depth_of
from ..utils.io import require_folder
from ..video.decoding import Recording, Video
from ..video.encoding import OVERLAY, require_encoder
from ..video.numbered import Numbered
from ..video.sources import SUFFIXES, is_camera, is_sequence, name_of, numbered_files
from .outputs import MASKS, OUTPUTS, TABLE_SUFFIXES, Output
from .video import VideoOptions, VideoResult, VideoRun, require_own

log = logging.getLogger(__name__)

SMOOTH, LIMIT = Number(0, 1), Number(0.01, 1e6)  # seconds
UNKNOWN_COUNT = 1000  # frames of a video whose header does not tell


def predict_videos(
    task: Task,
    export: Path,
    card: Card,
    sources: Sequence[str],
    out: Path | str | None,
    options: VideoOptions,
    threshold: float | None,
    loading: Mapping[str, Any],
    bs: int,
) -> list[VideoResult]:
    """Predict videos one after the other; `loading` are more arguments of `load`.

    Raises the `DataError` of the first video that cannot be read, or that is damaged, after the
    others are done; its details name what was written.
    """
    output = OUTPUTS[task.kind](task, options.overlay)
    trained = as_trained(task, card)
    folders = _planned(output, trained.reading, sources, out, options)
    if options.meter is not None:
        options.meter.begin(trained, card)
    results: list[VideoResult] = []
    failures: dict[str, DataError] = {}
    predictor = None

    def fail(source: str, error: DataError) -> None:
        failures[source] = error
        if len(folders) > 1:  # the last line tells the reason of the first one only
            log.warning("%s", error)

    for source, folder in folders.items():
        try:
            video = _opened(source, trained)
        except DataError as error:
            fail(source, error)
            continue
        with video:
            if predictor is None:
                from .loading import load  # torch is imported here, after all checks

                total = len(sources) * (video.count or UNKNOWN_COUNT)
                predictor = load(export, images=max(2, total), bs=bs, **loading)
            result = VideoRun(predictor, video, folder, options, threshold, bs).run()
        if result.frames:
            results.append(result)
            log.info("%s: %s", source, _speed(result))
        if video.error is not None:
            fail(source, _with_kept(video.error, result))
    if failures:
        raise _failure(failures, results)
    return results


def _opened(source: str, task: Task) -> Video:
    if not is_sequence(source):
        return Recording(source)
    files = numbered_files(source)
    return Numbered(source, files, with_depth_of(task, files).reading)


def _speed(result: VideoResult) -> str:
    new = result.frames - result.reused
    return (
        f"{new} frames in {result.seconds:.1f} s ({new / max(result.seconds, 1e-9):.1f} a second)"
    )


def _with_kept(error: DataError, result: VideoResult) -> DataError:
    """Return an error with what was kept of its video."""
    if not result.frames:
        return error
    frames = "frame before is" if result.frames == 1 else f"{result.frames} frames before are"
    return DataError(f"{error}; the {frames} in {result.folder}", error.code)


def _failure(failures: Mapping[str, DataError], results: Sequence[VideoResult]) -> DataError:
    """Return the error for the videos that failed; its details name what was written."""
    first = next(iter(failures.values()))
    message = str(first)
    if len(failures) > 1:
        message += f" ({len(failures) - 1} more failed: {', '.join(list(failures)[1:])})"
    others = len({result.source for result in results} - failures.keys())
    if others:
        message += f"; the other {'video is' if others == 1 else f'{others} videos are'} done"
    error = DataError(message, first.code)
    error.details = {"written": [str(file) for result in results for file in result.files]}
    return error


def _planned(
    output: Output[Any, Any],
    reading: Reading,
    sources: Sequence[str],
    out: Path | str | None,
    options: VideoOptions,
) -> dict[str, Path]:
    """Return the folder of each video's results. Raises `FastsegError` kinds for what cannot be
    done.
    """
    SMOOTH("--smooth", options.smooth)
    if options.limit is not None:
        LIMIT("--limit", options.limit)
    if not reading.is_plain:
        raise DataError(
            f"{sources[0]}: a video has three channels, and this export reads others; "
            "predict its images",
            "video-channels",
        )
    if out is not None and Path(out).suffix.lower() in (
        *SUFFIXES,
        *IMAGE_SUFFIXES,
        *TABLE_SUFFIXES,
    ):
        raise DataError(
            f"{out}: is one file, and a video has several results; give a folder as --out",
            "one-file-for-many",
        )
    folders: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for source in sources:
        if is_camera(source) and options.limit is None:
            raise DataError(
                f"{source}: has no end; give --limit with the seconds to record", "no-limit"
            )
        folder = Path(out or f"{_parent_name(source)}{MASKS}") / name_of(source)
        if folder in owners:
            raise DataError(
                f"{source} and {owners[folder]}: both would be written to {folder}; predict them "
                "into different folders (--out)",
                "same-target",
            )
        folders[source], owners[folder] = folder, source
        require_folder(folder)
        require_own(folder)
        if not is_camera(source):
            output.require_free(folder, {Path(source).resolve().parent}, {folder})
    if options.overlay:
        require_encoder(OVERLAY)
    return folders


def _parent_name(source: str) -> str:
    return "camera" if is_camera(source) else Path(source).resolve().parent.name or "videos"

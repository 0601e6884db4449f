"""`predict` for videos: masks and overlays as videos or frames, and a table with a row a frame.

Frames pass through threads: one decodes, others compute and draw, the caller's encodes. Few of them
are in memory at a time. Results are written in segments, which an interrupted run continues from.
"""

from __future__ import annotations

import csv
import logging
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import __version__
from ..data.images import codes_to_colours, save_image
from ..errors import DataError
from ..exports.card import Card
from ..tasks import SegmentationTask, Task
from ..utils.io import TEMPORARY, delete_unfinished, write_rows
from ..utils.journal import Journal, files_digest, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.threads import ahead, cores, results_in_order
from ..video.decoding import Frame, Video
from ..video.encoding import MASKS, OVERLAY, Format, join, written
from ..video.numbered import Numbered
from ..video.sources import is_camera
from .outputs import QUICK_PNG
from .prediction import Prediction
from .predictor import Predictor
from .smoothing import MOST, Result, smoothed

log = logging.getLogger(__name__)

SEGMENT = 250  # frames: some seconds of work are lost by an interruption
AHEAD = 4  # frames that wait between two threads
UNFINISHED, TABLE, FRAMES, CURVES = "unfinished", "frames.csv", "masks", "curves.html"
RESULTS = (f"masks{MASKS.suffix}", f"overlay{OVERLAY.suffix}", TABLE, CURVES)
FIRST_COLUMNS = "frame,time"  # of TABLE
PICTURE = re.compile(r"\d{6,}\.png")  # in FRAMES
PART = re.compile(r"(mask|overlay|frames)_\d{5,}\.(mkv|mp4|csv)")  # in UNFINISHED


class Meter(Protocol):
    """Measures frames: more columns of frames.csv, and files beside it."""

    def begin(self, task: Task, card: Card) -> None:
        """Check that the task can be measured. Raises `FastsegError` kinds."""

    def columns(self, prediction: Prediction) -> dict[str, object]:
        """Return the columns of one frame; called by several threads."""

    def finish(self, table: Path) -> list[Path]:
        """Write what belongs to the whole video beside its table, and return the files."""


@dataclass(frozen=True)
class VideoOptions:
    """What `predict` writes of videos."""

    overlay: bool = False
    frames: bool = False  # masks as PNG files in place of a video
    smooth: float = 0  # seconds, see `smoothing.smoothed`
    limit: float | None = None  # seconds of the video that are predicted
    meter: Meter | None = None


@dataclass(frozen=True)
class VideoResult:
    """What was done with one video."""

    source: str
    folder: Path
    files: list[Path]  # a folder of frames counts as one
    frames: int
    reused: int  # frames done by an interrupted run
    review: int  # frames that need review
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "folder": str(self.folder),
            "frames": self.frames,
            "reused": self.reused,
            "needs_review": self.review,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class _Drawn:
    """One frame's results, ready to be encoded."""

    ticks: int
    mask: np.ndarray | None
    overlay: np.ndarray | None
    row: dict[str, Any]
    file: Path | None


def require_own(folder: Path) -> None:
    """Raise `DataError` if a folder has files with the names of results, and not by an earlier run,
    whose frames.csv or unfinished segments show that it was there.
    """
    place, table = folder / UNFINISHED, folder / TABLE
    parts = list(place.iterdir()) if place.is_dir() else []
    others = [
        part for part in parts if not PART.fullmatch(part.name) and not TEMPORARY.match(part.name)
    ]
    if table.is_file():
        with table.open(encoding="utf-8", errors="replace") as file:
            others += [] if file.readline().startswith(FIRST_COLUMNS) else [table]
    elif not place.is_dir():
        others = [path for name in (*RESULTS, FRAMES) if (path := folder / name).exists()]
    if others:
        raise DataError(
            f"{others[0]}: is not known to be of an earlier run, and is not replaced; "
            "choose another --out, or remove it",
            "not-empty",
        )


class VideoRun:
    """One video on its way to a folder of results."""

    def __init__(
        self,
        predictor: Predictor,
        video: Video,
        folder: Path,
        options: VideoOptions,
        threshold: float | None,
        bs: int,
    ):
        self.predictor, self.video, self.folder = predictor, video, folder
        self.options, self.threshold, self.bs = options, threshold, bs
        task = predictor.task
        self.task = task if isinstance(task, SegmentationTask) else None
        self.place = folder / UNFINISHED

    def run(self) -> VideoResult:
        """Predict the frames that an earlier run has not done, and write the results.

        If the video is damaged, those of the frames before the damage are written, and
        `video.error` is set.
        """
        start = time.monotonic()
        with write_lock(self.folder), Journal(*self._identity()) as journal:
            for folder in (self.folder, self.folder / FRAMES):
                delete_unfinished(folder)
            done = self._kept(journal)
            if not done:
                shutil.rmtree(self.place, ignore_errors=True)
            elif sum(done):
                log.info("%s: %d frames were done in an earlier run", self.video.source, sum(done))
            reused, total = sum(done), self._total()
            drawn = track(
                self._drawn(reused), "predicting", None if total is None else total - reused
            )
            with closing(ahead(drawn, AHEAD)) as ready:
                for number in count(len(done)):
                    rows, files = self._write_segment(number, ready)
                    if not rows:
                        break
                    journal.add(str(number), [rows, list(map(str, files)), stamp(*files)])
                    done.append(rows)
            files, review = self._join(len(done)) if done else ([], 0)
            if done:
                self._delete_earlier(files, sum(done))
        if done:
            shutil.rmtree(self.place, ignore_errors=True)
        spent = time.monotonic() - start
        return VideoResult(self.video.source, self.folder, files, sum(done), reused, review, spent)

    def _identity(self) -> list[Any]:
        source, options = self.video.source, self.options
        files: object = time.time()  # of a camera: each run is another one
        if isinstance(self.video, Numbered):
            files = files_digest([self.video.files])
        elif not is_camera(source):
            files = stamp(Path(source).resolve())
        return [
            "video",
            __version__,
            files,
            *self.predictor.identity(),
            self.threshold,
            [options.overlay, options.frames, options.smooth, options.limit, repr(options.meter)],
            str(self.folder.resolve()),
            SEGMENT,
        ]

    def _kept(self, journal: Journal) -> list[int]:
        """Return the number of frames of each segment that an interrupted run has finished."""
        found: list[int] = []
        for number in count():
            rows, files, was = journal.done.get(str(number), [0, [], ""])
            if not rows or stamp(*map(Path, files)) != was:
                return found
            found.append(rows)
        return found

    def _total(self) -> int | None:
        total, limit = self.video.count, self.options.limit
        if total is None or limit is None:
            return total
        return None

    def _drawn(self, start: int) -> Iterator[_Drawn]:
        """Yield the results of the frames from number `start` on."""
        workers = cores()
        with ThreadPoolExecutor(workers) as pool:
            futures = (pool.submit(self._draw, *result) for result in self._results(start))
            yield from results_in_order(futures, workers + 1)

    def _results(self, start: int) -> Iterator[Result]:
        """Yield the frames from number `start` on with their predictions."""
        smooth = self.options.smooth
        # The same frames before `start` count as in a run that was not interrupted.
        first = max(0, start - MOST) if smooth else start
        found = self._predicted(first)
        if smooth:
            found = smoothed(found, smooth, float(self.video.time_base))
        return (result for result in found if result[0].index >= start)

    def _predicted(self, start: int) -> Iterator[Result]:
        waiting: deque[Frame] = deque()

        def pixels() -> Iterator[np.ndarray]:
            with closing(ahead(self.video.frames(start, self.options.limit), AHEAD)) as frames:
                for frame in frames:
                    waiting.append(frame)
                    yield frame.pixels

        for _, prediction in self.predictor.stream_or_raise(pixels(), self.bs):
            yield waiting.popleft(), prediction

    def _draw(self, frame: Frame, prediction: Prediction) -> _Drawn:
        """Return what is written of one frame; its PNG file, if there is one, is written here."""
        mask = overlay = file = None
        row: dict[str, Any] = {
            "frame": frame.index,
            "time": f"{self.video.seconds(frame.ticks):.6f}",
        }
        if self.task is not None:
            codes = prediction.labels
            mask = codes
            if self.task.output == "colours":
                mask = codes_to_colours(codes, self.task.palette)
            if self.options.overlay:
                overlay = self.task.overlay(prediction.image, codes)
            if self.options.frames:
                self.place.mkdir(parents=True, exist_ok=True)  # see `require_own`
                file = self.folder / FRAMES / f"{frame.index:06d}.png"
                save_image(file, mask, **QUICK_PNG)
                row["mask"] = f"{FRAMES}/{file.name}"
                mask = None
        row |= prediction.described(self.threshold)
        if self.options.meter is not None:
            row |= self.options.meter.columns(prediction)
        return _Drawn(frame.ticks, mask, overlay, row, file)

    def _part(self, what: str, number: int, suffix: str) -> Path:
        return self.place / f"{what}_{number:05d}{suffix}"

    def _write_segment(self, number: int, drawn: Iterator[_Drawn]) -> tuple[int, list[Path]]:
        """Write the next frames as a segment; return how many there were, and the files."""
        first = next(drawn, None)
        if first is None:
            return 0, []
        rows, files = [], []
        with ExitStack() as stack:
            writers = {}
            for name, kind in self._kinds().items():
                path = self._part(name, number, kind.suffix)
                writers[name] = stack.enter_context(written(path, kind, self.video.time_base))
                files.append(path)
            for one in chain([first], islice(drawn, SEGMENT - 1)):
                for name, writer in writers.items():
                    writer.write(getattr(one, name), one.ticks)
                rows.append(one.row)
                files += [one.file] if one.file else []
        files.append(write_rows(self._part("frames", number, ".csv"), rows))
        return len(rows), files

    def _kinds(self) -> dict[str, Format]:
        """Return the videos to write, by the name of what they show in `_Drawn`."""
        kinds = {}
        if self.task is not None and not self.options.frames:
            kinds["mask"] = MASKS
        if self.task is not None and self.options.overlay:
            kinds["overlay"] = OVERLAY
        return kinds

    def _join(self, segments: int) -> tuple[list[Path], int]:
        """Join the segments to the results; return their files, and how many frames need review."""
        files = []
        for name, kind in self._kinds().items():
            parts = [self._part(name, number, kind.suffix) for number in range(segments)]
            target = self.folder / f"{'masks' if name == 'mask' else name}{kind.suffix}"
            files.append(join(parts, target, kind))
        if self.task is not None and self.options.frames:
            files.append(self.folder / FRAMES)
        review = 0

        def rows() -> Iterator[dict[str, str]]:
            nonlocal review
            for number in range(segments):
                path = self._part("frames", number, ".csv")
                with path.open(newline="", encoding="utf-8") as file:
                    for row in csv.DictReader(file):
                        review += row.get("needs_review") == "True"
                        yield row

        table = write_rows(self.folder / TABLE, rows())
        files.append(table)
        if self.options.meter is not None:
            files += self.options.meter.finish(table)
        return files, review

    def _delete_earlier(self, files: list[Path], frames: int) -> None:
        """Delete results of an earlier run that are not among this one's."""
        for path in (self.folder / name for name in RESULTS):
            if path not in files:
                path.unlink(missing_ok=True)
        folder = self.folder / FRAMES
        kept = frames if folder in files else 0
        for path in folder.iterdir() if folder.is_dir() else ():
            if PICTURE.fullmatch(path.name) and int(path.stem) >= kept:
                path.unlink()
        with suppress(OSError):  # there is none, or it has files of this run or of others
            folder.rmdir()

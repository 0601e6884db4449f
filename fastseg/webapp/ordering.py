"""In which order people look at images: expected errors of all of them, and what to label next.

Both come from threads. Expected errors are kept on disk for as long as export and images are the
same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, FastsegError
from ..metrics.risk import ERROR_RATE, review_threshold
from ..utils.io import name_below, read_json, write_json
from ..utils.journal import stamp
from ..utils.user_cache import cache_path, make_cache_folder
from .predictions import export_stamp

if TYPE_CHECKING:
    from ..inference.predictor import Predictor
    from .listing import Entry
    from .workspace import Workspace

BATCH = 4  # images that the pass predicts before others may ask the model
MOST_ADVISED = 200  # images of the order of labelling: more than anybody labels between two fits
PATIENCE = 10.0  # seconds that the end of the app waits for a pass
SECONDS = 5.0  # between two writes of the pass's results


@dataclass
class Pass:
    """The expected errors of an export's pass over the data, by the images' ids."""

    export: Path
    found: dict[str, Expected] = field(default_factory=dict)
    faults: int = 0  # images that could not be read
    total: int = 0
    error: str = ""  # why it ended early
    is_done: bool = False


@dataclass(frozen=True)
class Expected:
    """The expected error of an image, 0 to 1, and whether a person should look at it."""

    error: float
    needs_review: bool
    label: int | None = None  # the class, for tasks without masks


@dataclass
class Advice:
    """Which images without a label to label next: names -> place in the order, and why."""

    stamp: tuple[str, int]  # of the export
    names: frozenset[str]  # that waited for a label
    order: dict[str, tuple[int, str]] = field(default_factory=dict)
    error: str = ""
    is_done: bool = False


@dataclass
class Apart:
    """Which images without a label would never train, and why: names -> reason."""

    names: frozenset[str]  # that waited for a label
    found: dict[str, str] = field(default_factory=dict)
    is_done: bool = False


class Ordering:
    """The orders of the workspace's images by its current export. All methods are thread-safe."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._lock = threading.Lock()
        self._pass: Pass | None = None
        self._pass_key: tuple[Any, ...] = ()
        self._thread: threading.Thread | None = None
        self._advice: Advice | None = None
        self._adviser: threading.Thread | None = None
        self._apart: Apart | None = None
        self._parting: threading.Thread | None = None

    def expected(self) -> Pass | None:
        """Return the pass of the current export, which may be under way; None without an export."""
        try:
            export = self.workspace.export()
        except FastsegError:
            return None
        entries = self.workspace.listing().entries
        key = export_stamp(export), tuple(entry.id for entry in entries)
        with self._lock:
            if self._pass is None or self._pass_key != key:
                self._pass, self._pass_key = Pass(export, total=len(entries)), key
                self._thread = threading.Thread(
                    target=self._run, args=(self._pass, entries), name="pass", daemon=True
                )
                self._thread.start()
            return self._pass

    def close(self) -> None:
        """End the pass: a process must not end while a thread computes in torch."""
        with self._lock:
            self._pass, self._pass_key = None, ()
            threads = self._thread, self._adviser, self._parting
        for thread in threads:
            if thread is not None:
                thread.join(PATIENCE)

    def apart(self) -> Apart:
        """Return the images without a label that would never train, which may still be computed.

        They look the same as held-out images: nobody needs to label them.
        """
        entries = self.workspace.listing().entries
        waiting = {entry.name: entry.path for entry in entries if entry.item is None}
        with self._lock:
            known = self._apart
            if known is None or (known.is_done and known.names != waiting.keys()):
                known = self._apart = Apart(frozenset(waiting), is_done=not waiting)
                if waiting:
                    self._parting = threading.Thread(
                        target=self._part, args=(known, waiting), name="apart", daemon=True
                    )
                    self._parting.start()
            return known

    def _part(self, result: Apart, waiting: dict[str, Path]) -> None:
        from ..corrections.freezing import never_training

        place = self.workspace
        try:
            files = [*waiting.values()]
            found = never_training(place.task, place.data, files, [place.out])
            result.found = {name: found[path] for name, path in waiting.items() if path in found}
        except FastsegError:  # a fit says what is wrong; the images stay in the queue
            result.found = {}
        finally:
            result.is_done = True

    def advice(self) -> Advice | None:
        """Return which images to label next, which may still be computed; None without an export.

        It is computed for the images without a label, and again when those have become others.
        """
        try:
            export = self.workspace.export()
        except FastsegError:
            return None
        waiting = [e for e in self.workspace.listing().entries if e.item is None]
        with self._lock:
            known = self._advice
            names = frozenset(entry.name for entry in waiting)
            is_stale = known is None or (
                known.is_done and (known.stamp != export_stamp(export) or not names <= known.names)
            )
            if is_stale:
                known = self._advice = Advice(export_stamp(export), names, is_done=not names)
                if names:
                    self._adviser = threading.Thread(
                        target=self._advise, args=(known, export), name="advice", daemon=True
                    )
                    self._adviser.start()
            return known

    def _advise(self, result: Advice, export: Path) -> None:
        from ..corrections.order import candidates

        try:
            entries = self.workspace.listing().entries
            waiting = [entry.path for entry in entries if entry.item is None]
            labelled = [e.path for e in entries if e.item is not None and e.part != "test"]
            found = self.workspace.model(export).call(
                lambda predictor: candidates(predictor, waiting, labelled, MOST_ADVISED),
                behind=True,
            )
            root = self.workspace.data
            result.order = {
                name_below(root, each.image): (place, each.reason)
                for place, each in enumerate(found)
            }
        except FastsegError as error:
            result.error = str(error)
        finally:
            result.is_done = True

    def _run(self, result: Pass, entries: tuple[Entry, ...]) -> None:
        try:
            model = self.workspace.model(result.export)
            predictor = model.predictor()
            card = predictor.card
            threshold = review_threshold(card.review, ERROR_RATE)
            store = _Store(cache_path("json", "expected errors", *predictor.identity(), threshold))
            left = []
            for entry in entries:
                known = store.get(entry)
                if known is None:
                    left.append(entry)
                else:
                    result.found[entry.id] = known
            for start in range(0, len(left), BATCH):
                with self._lock:
                    if self._pass is not result:  # another export, or other images
                        return
                some = left[start : start + BATCH]
                errors = model.call(
                    partial(_errors, entries=some, threshold=threshold), behind=True
                )
                for entry, found in zip(some, errors):
                    if found is None:
                        result.faults += 1
                    else:
                        result.found[entry.id] = found
                        store.add(entry, found)
            store.write()
        except FastsegError as error:
            result.error = str(error)
        finally:
            result.is_done = True


def _errors(
    predictor: Predictor, entries: list[Entry], threshold: float | None
) -> list[Expected | None]:
    """Return the expected error of each image; None for one that cannot be read."""

    def found(results: Iterator[tuple[Any, Any]]) -> Iterator[Expected | None]:
        for _, prediction in results:
            if isinstance(prediction, DataError):
                yield None
                continue
            error = float(prediction.expected_error)
            label = None if predictor.task.has_masks else int(prediction.labels)
            yield Expected(error, threshold is not None and error > threshold, label)

    return list(found(predictor.stream([entry.path for entry in entries], len(entries))))


class _Store:
    """Expected errors on disk, by the images' names, sizes and times."""

    def __init__(self, path: Path):
        self.path = path
        make_cache_folder()
        try:
            self._known: dict[str, Any] = read_json(path) if path.is_file() else {}
        except DataError:  # half a file of another version: computed again
            self._known = {}
        self._written = time.monotonic()

    def get(self, entry: Entry) -> Expected | None:
        value = self._known.get(stamp(entry.path))
        return Expected(*value) if isinstance(value, list) and len(value) == 3 else None

    def add(self, entry: Entry, found: Expected) -> None:
        self._known[stamp(entry.path)] = [found.error, found.needs_review, found.label]
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        write_json(self.path, self._known)
        self._written = time.monotonic()

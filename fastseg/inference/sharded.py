"""`predict` in shards: for very many images, several workers, clusters and object stores.

The images are listed to a temporary file, and predicted in shards of some hundred. Which images are
in a shard depends on the list alone, so every engine writes the same bytes. The state is at the
destination (see `shards`): a run that was stopped anywhere goes on where it is started again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .. import __version__
from ..engines.base import Engine
from ..errors import DataError, ModelError
from ..exports.card import CARD, MODEL, ONNX, Card, sha256
from ..exports.int8 import int8_file
from ..exports.read import as_trained
from ..metrics.risk import review_threshold
from ..tasks import ClassificationTask, Task
from ..utils.choices import INT8
from ..utils.io import delete_unfinished, write_rows
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.storage import LocalStore, Store, is_url, split_address, store_of
from . import sources
from .destination import held
from .outputs import DESCRIBED, FAILED, OUTPUTS, OVERLAYS, PROBABILITIES
from .shards import (
    STATE,
    Done,
    Job,
    Line,
    PredictWork,
    part_name,
    read_part,
    target_of,
)
from .sources import Image

log = logging.getLogger(__name__)

INDEX = "predictions.parquet"
# Images of a shard. Both are multiples of the usual batch, so that batches are the same ones as in
# a prediction without shards. Small data have small shards, so that several workers get some.
SMALL, LARGE, MANY = 32, 256, 4096
LOOKS = 32  # results of an earlier run that are looked at, at a time
ROW_GROUP = 50_000  # rows of the index that are in memory at a time
WRITTEN_TO = ("", OVERLAYS, PROBABILITIES)  # beside each other
EXPORTED = (CARD, MODEL, ONNX)  # files of an export that a prediction needs


@dataclass
class ShardedRun:
    """What a sharded prediction did. `tables` are the addresses of its tables."""

    out: str
    images: int
    failed: int
    reused: int  # images that an earlier run had done
    seconds: float
    tables: list[str]
    first_failure: str = ""


def predict_in_shards(
    task: Task,
    source: Path,
    card: Card,
    paths: Sequence[str],
    out: str,
    engine: Engine,
    *,
    overlay: bool,
    probabilities: bool,
    pack: bool,
    error_rate: float,
    device: str | None,
    bs: int,
    tta: bool | None,
    trust: bool,
    runtime: str,
    precision: str | None,
) -> ShardedRun:
    """Predict the images of `paths` (see `sources`) with the export `source`, and write to `out`.

    `out` is a folder or URL. Raises `FastsegError` kinds before anything is written there.
    """
    began = time.monotonic()
    sources.pyarrow_parquet(INDEX)
    output = OUTPUTS[task.kind](task, overlay, probabilities)
    trained = as_trained(task, card)
    loading = {
        "device": device or ("cpu" if engine.name == "ray" and not engine.num_gpus else None),
        "trust": trust,
        "tta": tta,
        "reason": "for all workers",
        **_fixed(source, card, device, engine, runtime, precision),
    }
    threshold = review_threshold(card.review, error_rate)
    in_8_bits = loading["runtime"] == INT8
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        ends = trained.channel_files
        listing = Listing(spool, trained)
        listing.read(sources.find(paths, ends[0] if ends else ""))
        store = store_of(out)
        if isinstance(store, LocalStore):
            folders = {store.folder / folder for folder in listing.folders}
            output.require_free(store.folder, listing.inputs, folders)
        identity = [
            __version__,
            trained.definition(),
            {**card.sha256, **({INT8: sha256(int8_file(source, card))} if in_8_bits else {})},
            loading["runtime"],
            loading["precision"],
            card.tta if tta is None else tta,
            threshold,
            overlay,
            probabilities,
            pack,
            bs,
        ]
        if isinstance(store, LocalStore):  # against predictions without shards
            stack.enter_context(write_lock(store.folder))
        stack.enter_context(held(store))
        stack.enter_context(engine)
        work = PredictWork(
            source.absolute(),
            os.path.abspath(out) if isinstance(store, LocalStore) else out,
            loading,
            bs,
            threshold,
            overlay,
            probabilities,
            pack,
        )
        run = Run(store, listing, identity, engine, work)
        run.predict()
        return run.finish(trained, began)


def _fixed(
    source: Path,
    card: Card,
    device: str | None,
    engine: Engine,
    runtime: str,
    precision: str | None,
) -> dict[str, Any]:
    """Return runtime and precision, the same for all workers: their machines may differ."""
    on_cpu = device in (None, "cpu") and not engine.num_gpus
    has_onnx = ONNX in card.sha256 and (source / ONNX).is_file()
    if runtime == "auto":
        runtime = "onnx" if on_cpu and has_onnx and precision != "bfloat16" else "torch"
    if precision is None and on_cpu and runtime != INT8:
        precision = "float32"
    return {"runtime": runtime, "precision": precision}


class Listing:
    """The images of a run, in a temporary file: a line each. `count` and `jobs` know how many."""

    def __init__(self, spool: IO[str], task: Task):
        self.spool, self.task = spool, task
        self.count = self.shards = 0
        self.folders: set[str] = set()  # below the destination
        self.inputs: set[Path] = set()  # local folders that are read
        self.first: Image | None = None

    def read(self, images: Iterable[Image]) -> None:
        """Write the images to the file. Raises `DataError` if two would have the same result."""
        seen: set[int] = set()
        places: set[Path] = set()
        for image in images:
            target = self._target(image)
            key = int.from_bytes(
                hashlib.blake2b(os.fsencode(target), digest_size=8).digest(), "big"
            )
            if key in seen:
                self._raise_if_same(image, target)
            seen.add(key)
            self.first = self.first or image
            self.count += not image.is_shard
            self.shards += image.is_shard
            self.folders.add(PurePosixPath(target).parent.as_posix())
            if not is_url(image.address):
                places.add(Path(image.address).parent)
            fields = (image.address, image.name, image.size, image.stamp, image.is_shard)
            self.spool.write(json.dumps(fields) + "\n")
        self.inputs = {place.resolve() for place in places}

    def _target(self, image: Image) -> str:
        if isinstance(self.task, ClassificationTask):
            return self.task.names_of([Path(image.name)], Path())[Path(image.name)]
        return target_of(self.task, image)

    def _raise_if_same(self, image: Image, target: str) -> None:
        for other in self.images():
            if self._target(other) == target:
                raise DataError(
                    f"{image.address} and {other.address}: both would be written as {target}; give "
                    "each image once, or predict them into different folders (--out)",
                    "same-target",
                )

    def images(self) -> Iterator[Image]:
        """Yield all images from the file."""
        self.spool.seek(0)
        for line in self.spool:
            yield Image(*json.loads(line))

    def jobs(self, identity: list[Any]) -> Iterator[Job]:
        """Yield the shards: a tar shard alone, other images in order."""
        size = SMALL if self.count < MANY else LARGE
        number, images = 0, self.images()
        waiting: list[Image] = []
        for image in images:
            if image.is_shard and waiting:
                yield _job(number, waiting, identity)
                number, waiting = number + 1, []
            waiting.append(image)
            if image.is_shard or len(waiting) == size:
                yield _job(number, waiting, identity)
                number, waiting = number + 1, []
        if waiting:
            yield _job(number, waiting, identity)


def _job(number: int, images: Sequence[Image], identity: list[Any]) -> Job:
    facts = [number, *identity, *((one.address, one.name, one.size, one.stamp) for one in images)]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]
    return Job(number, digest, tuple(images))


class Run:
    """One sharded prediction: which shards are left, who predicts them, and the tables."""

    def __init__(
        self, store: Store, listing: Listing, identity: list[Any], engine: Engine, work: PredictWork
    ):
        self.store, self.listing, self.identity = store, listing, identity
        self.engine, self.work = engine, work
        self.digests: list[str] = []
        self.reused = 0
        self.ships_images = False

    def predict(self) -> None:
        """Predict the shards that no earlier run has done."""
        self._choose_transport()
        entries = _state(self.store)
        there = {name for name in entries if name.startswith("part-")}
        total = None if self.listing.shards else self.listing.count
        for _ in track(self._images_done(there), "predicting", total):
            pass
        self._sweep()
        if self.reused:
            log.info("%d images were done in an earlier run", self.reused)
        current = {*self.digests}
        for name in entries:  # of other images, or of another export
            digest = name.removeprefix("part-").removeprefix("try-").partition(".")[0]
            if name != "lock" and digest not in current:
                self.store.delete(f"{STATE}/{name}")

    def _sweep(self) -> None:
        """Delete the unfinished files of workers that were killed: no one else writes here now."""
        if not isinstance(self.store, LocalStore):
            return
        places = {Path(below) / part for below in self.listing.folders for part in WRITTEN_TO}
        for folder in (self.store.folder / place for place in {*places, Path(STATE)}):
            delete_unfinished(folder)

    def _images_done(self, there: set[str]) -> Iterator[int]:
        """Yield once for each image as it is done; those of an earlier run are done at once."""
        seen = 0
        for _, done in self.engine.run(self.work, self._left(there)):
            yield from range(self.reused - seen)
            seen = self.reused
            self._land(done)
            yield from range(done.images)
        yield from range(self.reused - seen)

    def _left(self, there: set[str]) -> Iterator[Job]:
        """Yield the shards that no earlier run has done."""
        for job in self.listing.jobs(self.identity):
            self.digests.append(job.digest)
            if f"part-{job.digest}.jsonl" in there and (images := self._is_done(job)):
                self.reused += images
                continue
            yield self._loaded(job) if self.ships_images else job

    def _is_done(self, job: Job) -> int:
        """Return the number of images of a shard that an earlier run has done; 0 to do it again.

        Images that failed are tried again, but those that ended their worker.
        """
        try:
            lines = read_part(self.store.read(part_name(job.digest)))
        except (ValueError, TypeError):  # damaged by something else
            return 0
        if any(line.reason and not line.is_fatal for line in lines):
            return 0
        written = {file for line in lines for file in line.files}
        with ThreadPoolExecutor(LOOKS) as pool:
            return len(lines) if all(pool.map(self._is_unchanged, written)) else 0

    def _is_unchanged(self, file: tuple[str, int, str]) -> bool:
        """Return whether a result is at the destination as it was written."""
        name, size, stamp = file
        found = self.store.entry(name)
        return found is not None and found.size == size and stamp in ("", found.stamp)

    def _choose_transport(self) -> None:
        """Find out what the workers can reach; the rest travels through the engine."""
        first = self.listing.first
        assert first is not None  # an empty source is an error before
        unseen = []
        if not is_url(first.address) and self._is_blind(Path(first.address)):
            self.ships_images = True
            unseen.append("images")
        export = self.work.export
        assert isinstance(export, Path)
        if self._is_blind(export):
            if export.suffix == ".pkl":
                raise ModelError(
                    f"{export}: a pickle does not travel to the machines of a cluster; give the "
                    "folder of the export",
                    "pickle-on-cluster",
                )
            if self.work.loading["runtime"] == INT8:
                raise ModelError(
                    f"{export}: not all workers see it on their own disks, and an 8-bit model does "
                    "not travel to them: choose another --runtime, or use a shared disk",
                    "int8-on-cluster",
                )
            files = {name: export / name for name in EXPORTED}
            packed = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
            self.work = replace(self.work, export=packed)
            unseen.append("export")
        if isinstance(self.store, LocalStore) and self._is_blind(
            self.store.folder / STATE / "lock"
        ):
            self.work = replace(self.work, returns=True)
            unseen.append("destination")
        if unseen:
            log.info(
                "not all workers see the %s on their own disks: the bytes are sent",
                " and the ".join(unseen),
            )

    def _is_blind(self, path: Path) -> bool:
        return self.engine.blind_node([path.absolute()]) is not None

    def _loaded(self, job: Job) -> Job:
        """Return a job with the bytes of its images."""
        ends = self.listing.task.channel_files
        contents = tuple(
            tuple(_bytes_or_empty(one) for one in (image.address, *sources.siblings(image, ends)))
            for image in job.images
        )
        return Job(job.number, job.digest, job.images, contents)

    def _land(self, done: Done) -> None:
        """Write the results of a worker that cannot write itself; its part comes last."""
        for name, data in done.files:
            self.store.write(name, data)

    def finish(self, task: Task, began: float) -> ShardedRun:
        """Write the tables from the parts, and return what was done."""
        tables = Tables(self, task)
        tables.write()
        if not tables.images + tables.failed:
            raise DataError(
                f"{self.listing.first.address if self.listing.first else ''}: holds no images; "
                "give tar shards with image files",
                "no-images",
            )
        return ShardedRun(
            self.work.out if is_url(self.work.out) else self.store.place,
            tables.images,
            tables.failed,
            self.reused,
            time.monotonic() - began,
            tables.written,
            tables.first_failure,
        )

    def lines(self) -> Iterator[Line]:
        """Yield the lines of all parts, in the order of the images."""
        for digest in self.digests:
            yield from read_part(self.store.read(part_name(digest)))


class Tables:
    """The tables of a run, written from its parts without holding all rows in memory."""

    def __init__(self, run: Run, task: Task):
        self.run, self.task = run, task
        self.images = self.failed = 0
        self.columns: dict[str, None] = {}
        self.first_failure = ""
        self.written: list[str] = []

    def write(self) -> None:
        """Write predictions.csv, predictions.parquet, failed.csv, and a classifier's table."""
        for line in self.run.lines():
            if line.columns is None:
                self.failed += 1
                self.first_failure = self.first_failure or f"{line.address}: {line.reason}"
            else:
                self.images += 1
                self.columns.update(dict.fromkeys(line.columns))
        with tempfile.TemporaryDirectory(prefix="fastseg-") as folder:
            here = Path(folder)
            if self.images:
                self._put(write_rows(here / DESCRIBED, self._rows()))
                self._put(self._write_index(here / INDEX))
                if isinstance(self.task, ClassificationTask):
                    self._put(self._write_labels(self.task, here))
            if self.failed:
                failed = (
                    {"image": line.address, "reason": line.reason}
                    for line in self.run.lines()
                    if line.columns is None
                )
                self._put(write_rows(here / FAILED, failed))
            else:
                self.run.store.delete(FAILED)

    def _put(self, file: Path) -> None:
        self.run.store.put(file, file.name)
        self.written.append(self.run.store.address(file.name))

    def _done(self) -> Iterator[Line]:
        return (line for line in self.run.lines() if line.columns is not None)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for line in self._done():
            yield {name: (line.columns or {}).get(name, "") for name in self.columns}

    def _write_index(self, path: Path) -> Path:
        """Write the index: the columns of predictions.csv, and the facts of each image."""
        import pyarrow

        parquet = sources.pyarrow_parquet(INDEX)
        schema, writer, lines = None, None, self._done()
        while group := list(islice(lines, ROW_GROUP)):
            rows = [
                {
                    **{name: _cell((line.columns or {}).get(name)) for name in self.columns},
                    "source_bytes": line.size,
                    "source_stamp": line.stamp,
                }
                for line in group
            ]
            table = pyarrow.Table.from_pylist(rows, schema=schema)
            if writer is None:
                schema = table.schema
                writer = parquet.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        return path

    def _write_labels(self, task: ClassificationTask, here: Path) -> Path:
        """Write the table of classes, in the order of names, as a prediction without shards."""
        labels: dict[str, int] = {}
        for line in self._done():
            name = Path(line.name)
            labels[task.names_of([name], Path())[name]] = int(line.label or 0)
        return task.write_table(here / Path(task.table).name, dict(sorted(labels.items())))


def _bytes_or_empty(address: str) -> bytes:
    """Return a file's bytes; none for one that cannot be read: its worker says so."""
    store, name = split_address(address)
    try:
        return store.read(name)
    except DataError as error:
        log.debug("%s", error)
        return b""


def _cell(value: object) -> object:
    """Return a value for the index: None where it is empty; parquet has no broken UTF-8."""
    if isinstance(value, str):
        return os.fsencode(value).decode(errors="replace") or None
    return value


def _state(store: Store) -> list[str]:
    """Return the names in the state folder of a destination."""
    try:
        return [entry.name for entry in store_of(store.address(STATE)).entries()]
    except DataError as error:
        if error.code != "no-such-path":
            raise
        return []

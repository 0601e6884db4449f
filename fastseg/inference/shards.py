"""One shard of a sharded prediction: what a worker does with some hundred images.

The worker writes the results and then, last, a part: JSON lines with the rows of the tables. A part
at the destination says that its shard is done. Its name is a digest of everything that its results
depend on, so that a later run with equal images uses it again.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..data.pairing import is_image
from ..data.reading import stem_of
from ..errors import DataError, brief
from ..tasks import Task
from ..utils.storage import LocalStore, is_url, split_address, store_of
from ..utils.threads import results_in_order
from .outputs import OUTPUTS, SCORES
from .sources import Image, clean, siblings

if TYPE_CHECKING:
    from .prediction import Prediction

STATE = ".fastseg"  # folder at the destination
TRANSFERS = 16  # files that a worker downloads or uploads at a time
DIED = "a worker process ended while it was predicted (out of memory, or a fault of a library)"
MANY = 1000  # images for which a predictor is loaded: streams of batches


@dataclass(frozen=True)
class Job:
    """A shard: its number, the digest that names its part, and its images, or one tar shard.

    `contents` are the bytes of the images' files, where workers cannot read them; the others of
    several files a channel follow their image's own.
    """

    number: int
    digest: str
    images: tuple[Image, ...]
    contents: tuple[tuple[bytes, ...], ...] | None = None


@dataclass
class Done:
    """What a worker returns. `files` are its results, where it cannot write them itself."""

    images: int
    failed: int
    files: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One image of a part: the columns of its row, or the reason why there is none."""

    address: str
    name: str
    size: int
    stamp: str
    columns: dict[str, Any] | None = None
    label: int | None = None  # class index, for classification
    files: list[tuple[str, int, str]] = field(default_factory=list)  # name, size, stamp
    reason: str = ""
    is_fatal: bool = False  # it ended its worker: it is not tried again


def part_name(digest: str) -> str:
    """Return the name of a part at the destination."""
    return f"{STATE}/part-{digest}.jsonl"


def read_part(data: bytes) -> list[Line]:
    """Return the lines of a part."""
    return [
        Line(**{**values, "files": [tuple(one) for one in values["files"]]})
        for values in map(json.loads, data.decode().splitlines())
    ]


def _part(lines: Sequence[Line]) -> bytes:
    return "".join(json.dumps(line.__dict__) + "\n" for line in lines).encode()


@dataclass(frozen=True)
class PredictWork:
    """What every worker of a sharded prediction needs to know. See `engines.base.Work`.

    `export` is a folder, or the bytes of its files by name where workers cannot read the folder.
    `returns` says that workers cannot write to the destination `out`.
    """

    export: Path | dict[str, bytes]
    out: str
    loading: dict[str, Any]  # arguments of `load`
    bs: int
    threshold: float | None
    overlay: bool
    probabilities: bool
    pack: bool
    returns: bool = False

    def start(self) -> Callable[[Job], Done]:
        return Shards(self).predict


class Shards:
    """A worker: one loaded export that predicts shard after shard."""

    def __init__(self, work: PredictWork):
        from .loading import load

        self.work, self.store = work, store_of(work.out)
        folder = work.export
        if isinstance(folder, dict):
            self._unpacked = tempfile.TemporaryDirectory(prefix="fastseg-")
            for name, data in folder.items():
                Path(self._unpacked.name, name).write_bytes(data)
            folder = Path(self._unpacked.name)
        self.predictor = load(folder, images=MANY, bs=work.bs, **work.loading)
        self.task = self.predictor.task
        self.output = OUTPUTS[self.task.kind](self.task, work.overlay, work.probabilities)

    def predict(self, job: Job) -> Done:
        """Predict a shard and write its results and its part."""
        with tempfile.TemporaryDirectory(prefix="fastseg-") as folder:
            return ShardRun(self, job, Path(folder)).run()


class ShardRun:
    """One shard at work. `here` is a temporary folder."""

    def __init__(self, worker: Shards, job: Job, here: Path):
        self.worker, self.job, self.here = worker, job, here
        work, store = worker.work, worker.store
        writes_here = isinstance(store, LocalStore) and not (work.returns or work.pack)
        self.root = Path(work.out) if writes_here else here / "results"
        self.is_staged = not writes_here
        self.lines: dict[Image, Line] = {}
        self.places = {image: place for place, image in enumerate(job.images)}
        self.members: dict[Image, Path] = {}  # of a tar shard: their extracted files
        self.uploads: list[Future[None]] = []
        self.files: list[tuple[str, bytes]] = []

    def run(self) -> Done:
        """Predict all images of the shard, write what they give, and return the counts."""
        work = self.worker.work
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self.pool = pool
            images = self._images()
            trail = Trail(self.worker.store, self.job.digest, work.returns)
            for start, stop in trail.groups(len(images), work.bs):
                self._predict(images[start:stop])
            for place in trail.fatal:
                self._fail(images[place], DIED, is_fatal=True)
            lines = [self.lines[image] for image in images]
            if work.pack:
                lines = self._packed(lines)
            for upload in self.uploads:
                upload.result()
        part = _part(lines)
        if work.returns:
            self.files.append((part_name(self.job.digest), part))
        else:
            self.worker.store.write(part_name(self.job.digest), part)
            trail.remove()
        return Done(len(lines), sum(line.columns is None for line in lines), self.files)

    def _images(self) -> list[Image]:
        """Return the images of the shard; those of a tar shard are extracted first."""
        if not self.job.images[0].is_shard:
            return list(self.job.images)
        (shard,) = self.job.images
        return list(self._extracted(shard))

    def _extracted(self, shard: Image) -> Iterator[Image]:
        """Yield the members of a tar shard that are images, written to the temporary folder."""
        contents = self.job.contents[0][0] if self.job.contents else None
        store, name = split_address(shard.address)
        copy = self.here / "shard.tar"
        if contents is not None:
            copy.write_bytes(contents)
        source = copy.open("rb") if contents is not None else store.open(name)
        seen: set[str] = set()
        try:
            with source, tarfile.open(fileobj=source, mode="r|*") as archive:
                for number, member in enumerate(archive):
                    path = PurePosixPath(member.name)
                    if member.isdir() or not is_image(Path(path.name)):
                        continue
                    own = clean(member.name)
                    image = Image(
                        f"{shard.address}/{own}", f"{shard.name}/{own}", member.size, str(number)
                    )
                    if own in seen:
                        self._fail(image, "another member has the same name")
                    elif not member.isfile():
                        self._fail(image, "is a link or a device, not a file")
                    else:
                        file = self.here / "members" / str(number) / path.name
                        file.parent.mkdir(parents=True)
                        reader = archive.extractfile(member)
                        file.write_bytes(reader.read() if reader else b"")
                        self.members[image] = file
                    seen.add(own)
                    yield image
        except (tarfile.TarError, EOFError, OSError) as error:
            self._fail(shard, f"the rest of this tar file cannot be read ({brief(error)})")
            yield shard

    def _predict(self, images: Sequence[Image]) -> None:
        """Predict images in batches; an image that cannot be read becomes a line that says so."""
        worker = self.worker
        left = {self._local_file(image): image for image in images if image not in self.lines}
        worker.output.place({path: self.root / self._target(left[path]) for path in left})

        def paths() -> Iterator[Path]:
            fetched = (self.pool.submit(self._fetched, image, path) for path, image in left.items())
            for path, error in zip(left, results_in_order(fetched, 2 * TRANSFERS)):
                if error is None:
                    yield path
                else:
                    self._fail(left[path], str(error))

        finish = worker.output.write_image_results
        threshold = worker.work.threshold

        def finished(path: Path, prediction: Prediction) -> tuple[Any, list[Path]]:
            return finish(path, prediction, threshold)

        for path, result in worker.predictor.stream(paths(), worker.work.bs, finished):
            image = left[path]
            if isinstance(result, DataError):
                self._fail(image, str(result).removeprefix(f"{path}: "))
            else:
                self.lines[image] = self._delivered(image, *result)

    def _local_file(self, image: Image) -> Path:
        """Return where an image's file is, or will be after `_fetched`."""
        if image in self.members:
            return self.members[image]
        if self.job.contents is None and not is_url(image.address):
            return Path(image.address)
        name = PurePosixPath(split_address(image.address)[1]).name
        return self.here / "images" / str(self.places[image]) / name

    def _fetched(self, image: Image, path: Path) -> DataError | None:
        """Copy an image of another place to `path`, with its siblings; return what went wrong."""
        contents = self.job.contents
        if image in self.members or (contents is None and not is_url(image.address)):
            return None
        addresses = [image.address, *siblings(image, self.worker.task.channel_files)]
        try:
            parts = (
                contents[self.places[image]] if contents else tuple(_read(one) for one in addresses)
            )
        except DataError as error:
            if error.code == "access-refused":
                raise
            return error
        path.parent.mkdir(parents=True, exist_ok=True)
        for address, data in zip(addresses, parts):
            (path.parent / PurePosixPath(split_address(address)[1]).name).write_bytes(data)
        return None

    def _target(self, image: Image) -> str:
        return target_of(self.worker.task, image)

    def _delivered(self, image: Image, row: Any, written: Sequence[Path]) -> Line:
        """Return an image's line, after its results are on their way to the destination."""
        label, columns = (None, row) if isinstance(row, dict) else row
        columns = {**columns, "image": image.address}
        columns.pop(SCORES, None)
        if "mask" in columns:
            columns["mask"] = self._target(image)
        files = []
        for path in written:
            name, facts = path.relative_to(self.root).as_posix(), path.stat()
            stamp = "" if self.is_staged else str(facts.st_mtime_ns)
            files.append((name, facts.st_size, stamp))
            if self.is_staged and not self.worker.work.pack:
                self._deliver(path, name)
        return Line(image.address, image.name, image.size, image.stamp, columns, label, files)

    def _deliver(self, path: Path, name: str) -> None:
        if self.worker.work.returns:
            self.files.append((name, path.read_bytes()))
        else:
            self.uploads.append(self.pool.submit(self.worker.store.put, path, name))

    def _fail(self, image: Image, reason: str, is_fatal: bool = False) -> None:
        self.lines[image] = _failed(image, reason, is_fatal)

    def _packed(self, lines: Sequence[Line]) -> list[Line]:
        """Write the results of the shard as one tar file, and return lines that name it."""
        name = f"masks-{self.job.number:06d}.tar"
        path, packed = self.here / name, []
        with tarfile.open(path, "w") as archive:
            for line in lines:
                for file, size, _ in line.files:
                    member = tarfile.TarInfo(file)
                    member.size, member.mtime, member.mode = size, 0, 0o644
                    with (self.root / file).open("rb") as reader:
                        archive.addfile(member, reader)
                columns = line.columns
                if columns and "mask" in columns:
                    columns = {**columns, "mask": f"{name}/{columns['mask']}"}
                files = [(name, 0, "")] if line.files else []
                packed.append(replace(line, columns=columns, files=files))
        size = path.stat().st_size
        self._deliver(path, name)
        return [replace(line, files=[(name, size, "")] if line.files else []) for line in packed]


def target_of(task: Task, image: Image) -> str:
    """Return the name of an image's mask, below the destination."""
    name = PurePosixPath(image.name)
    suffix = getattr(task, "suffix", ".png")
    return (name.parent / f"{stem_of(Path(name.name), task.channel_files)}{suffix}").as_posix()


def _failed(image: Image, reason: str, is_fatal: bool = False) -> Line:
    return Line(
        image.address, image.name, image.size, image.stamp, reason=reason, is_fatal=is_fatal
    )


def _read(address: str) -> bytes:
    store, name = split_address(address)
    return store.read(name)


class Trail:
    """Finds the image that ends its worker, over several tries of a shard.

    The images at work are written to the destination before they are predicted. A try that finds
    such a note knows that an earlier one ended there: it goes batch by batch, then, in the batch
    where that one ended, image by image. An image that ends a worker when it is alone is left out.
    """

    def __init__(self, store: Any, digest: str, is_blind: bool):
        self.store, self.name = store, f"{STATE}/try-{digest}.json"
        self.is_blind = is_blind  # the destination is out of reach: no notes
        self.fatal: list[int] = []
        self.alone: list[list[int]] = []

    def groups(self, total: int, bs: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of images to predict together: all, or smaller ones after a bad end."""
        data = None if self.is_blind else self.store.read_if_there(self.name)
        if data is None:
            self._note(0, total, careful=False)
            yield 0, total
            return
        before = json.loads(data)
        self.fatal, self.alone = before["fatal"], before["alone"]
        start, stop = before["at"]
        if before["careful"] and stop - start == 1:
            self.fatal.append(start)
        elif before["careful"]:
            self.alone.append([start, stop])
        for group in self._careful_groups(total, bs):
            self._note(*group, careful=True)
            yield group

    def _careful_groups(self, total: int, bs: int) -> Iterator[tuple[int, int]]:
        for start in range(0, total, bs):
            stop = min(start + bs, total)
            if [start, stop] not in self.alone and not {*range(start, stop)} & {*self.fatal}:
                yield start, stop
                continue
            for place in range(start, stop):
                if place not in self.fatal:
                    yield place, place + 1

    def _note(self, start: int, stop: int, careful: bool) -> None:
        if self.is_blind:
            return
        note = {
            "at": [start, stop],
            "careful": careful,
            "fatal": self.fatal,
            "alone": self.alone,
        }
        self.store.write(self.name, json.dumps(note).encode())

    def remove(self) -> None:
        """Delete the note: the shard is done."""
        self.store.delete(self.name)

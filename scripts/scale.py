"""Simulate a prediction in shards: hours, cost, requests and bytes for very many images.

    python scripts/scale.py
    python scripts/scale.py --images 1e7 --workers 64 256 --preemptions 0.1 --pack --json

A discrete simulation (simpy, the extra scale): the driver lists the images; workers take shards
from one queue until all are done; some are slower (stragglers); some are stopped (preemption), lose
the shard at work and start again later; the driver merges the parts to tables. `--wave` shards are
handed out at a time, as the engine ray does; workers start again for each wave.

The defaults of seconds, bytes and requests were measured (the benchmark's section engines) or
follow from the code; latencies and prices are assumptions. One worker has one core.
More than --sample shards are simulated as a sample: shards, workers and the wave are divided by one
number, the hours of the workers stay, and what is counted is multiplied again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields, replace

import simpy

TRANSFERS = 16  # files that a worker reads or writes at a time: fastseg/inference/shards.py
LISTED = 1000  # names in an answer of an object store to a LIST
# Requests of a shard beside its images: HEAD and LIST (s3fs looks for the note of an earlier try),
# two PUT (note and part), DELETE of the note.
HEADS, LISTS, PUTS, DELETES = 1, 1, 2, 1
FEWEST = 40  # workers of a sample, so that it has stragglers
WORKERS = {10**5: (1, 4, 16), 10**7: (16, 64, 256), 10**9: (256, 1024, 2000)}


@dataclass(frozen=True)
class Setting:
    """What is simulated. Seconds, bytes and prices are for one of what the name says."""

    images: int = 10**5
    workers: int = 4
    shard: int = 256
    seconds: float = 0.036  # of a core for an image
    spread: float = 0.5  # standard deviation of these seconds, as a share of their mean
    start: float = 6.0  # of a worker: imports, loading the export
    engine: float = 11.0  # start of Ray
    stragglers: float = 0.05  # share of the workers that are slower
    factor: float = 2.0  # by so much
    preemptions: float = 0.05  # of a worker in an hour
    restart: float = 180.0  # until a worker that was stopped has a new machine
    get: float = 0.03  # latency of a GET, HEAD or DELETE
    put: float = 0.05
    list: float = 0.2
    reading: float = 0.0034  # of a worker's core for the requests that read a file
    writing: float = 0.0018
    listing: float = 0.00011  # of the driver's core for each name of an object store
    merge: float = 0.000044  # of the driver's core for each image, all passes together
    passes: int = 3  # the driver reads each part: columns, predictions.csv, predictions.parquet
    readers: int = 1  # parts that it reads at a time
    requests: int = 2  # that read a file: s3fs asks for its size (HEAD) before the GET
    wave: int = 2000  # shards; 0: one wave
    pack: bool = False  # one tar file of masks a shard
    tar: bool = False  # the images are in tar shards
    input_bytes: int = 27_000
    mask_bytes: int = 1_700
    part_bytes: int = 480  # of a part, for an image
    row_bytes: int = 130  # of both tables, for an image
    core_price: float = 0.04  # currency units an hour
    get_price: float = 0.0004  # for 1,000
    put_price: float = 0.005  # for 1,000, also LIST
    seed: int = 0

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return math.ceil(self.images / self.shard)

    @property
    def transfers(self) -> tuple[int, int]:
        """Return how many files of images a shard reads and writes."""
        return 1 if self.tar else self.shard, 1 if self.pack else self.shard


@dataclass
class Outcome:
    """What came of it. `done` counts how often each simulated shard was finished."""

    images: int
    workers: int
    hours: float  # from the command to the last table
    listing_hours: float
    merge_hours: float
    utilisation: float  # seconds spent on images that count, as a share of all workers' seconds
    lost_hours: float  # of workers, in shards that were not finished
    preemptions: int
    gets: int  # with HEAD
    puts: int  # with LIST
    gigabytes: float  # read and written by workers and driver
    cost: float
    request_cost: float
    sampled: int  # shards, workers and wave were divided by this
    done: Counter[int]


class Cluster:
    """Workers, the queue of shards, and the time that each takes."""

    def __init__(self, setting: Setting):
        self.setting, self.random = setting, random.Random(setting.seed)
        self.clock = simpy.Environment()
        self.queue: deque[int] = deque()
        self.in_flight = 0
        self.changed, self.end = self.clock.event(), self.clock.event()
        self.done: Counter[int] = Counter()
        self.useful = self.lost = 0.0
        self.stops = 0
        slow = round(setting.stragglers * setting.workers)
        self.speeds = [setting.factor] * slow + [1.0] * (setting.workers - slow)

    def run(self) -> float:
        """Return the seconds from the first worker's start to the last shard's end."""
        self.clock.run(until=self.clock.process(self._waves()))
        return float(self.clock.now)

    def _waves(self) -> Generator[simpy.Event, None, None]:
        total = self.setting.shards
        size = self.setting.wave or total
        for first in range(0, total, size):
            self.queue.extend(range(first, min(first + size, total)))
            count = min(self.setting.workers, len(self.queue))
            speeds = self.random.sample(self.speeds, count)
            self.end = self.clock.event()
            for speed in speeds:
                self.clock.process(self._worker(speed, self.end))
            yield self.end

    def _worker(self, speed: float, end: simpy.Event) -> Generator[simpy.Event, None, None]:
        """Do shards until the wave ends; a worker that starts again after that does nothing."""
        stop = yield from self._started(0)
        while not end.triggered:
            if not self.queue:
                yield self.changed  # a shard at work may come back
                continue
            shard = self.queue.popleft()
            self.in_flight += 1
            computing = self._computing() * speed
            seconds = max(computing, self._transfers()) + self._notes()
            if self.clock.now + seconds <= stop:
                yield self.clock.timeout(seconds)
                self.done[shard] += 1
                self.useful += computing
                self._returned()
                continue
            left = max(0.0, stop - self.clock.now)
            yield self.clock.timeout(left)
            self.lost += left
            self.stops += 1
            self.queue.appendleft(shard)
            self._returned()
            stop = yield from self._started(self.setting.restart)

    def _started(self, delay: float) -> Generator[simpy.Event, None, float]:
        """Wait for a worker; return when it will be stopped."""
        yield self.clock.timeout(delay + self.setting.start)
        rate = self.setting.preemptions / 3600
        return self.clock.now + self.random.expovariate(rate) if rate else math.inf

    def _returned(self) -> None:
        self.in_flight -= 1
        if not self.queue and not self.in_flight:
            self.end.succeed()
        if self.queue or not self.in_flight:
            changed, self.changed = self.changed, self.clock.event()
            changed.succeed()

    def _computing(self) -> float:
        """Return the seconds of one core for a shard: a sum of `shard` lognormal ones."""
        setting = self.setting
        reads, writes = setting.transfers
        mean = setting.shard * setting.seconds
        mean += reads * setting.reading + writes * setting.writing
        variance = math.log1p(setting.spread**2 / setting.shard)
        # A lognormal with the sum's mean and variance (Fenton, 1960).
        return mean * math.exp(self.random.gauss(-variance / 2, math.sqrt(variance)))

    def _transfers(self) -> float:
        """Return the seconds of waiting for the files of a shard, beside the computing."""
        reads, writes = (math.ceil(files / TRANSFERS) for files in self.setting.transfers)
        return reads * self.setting.requests * self.setting.get + writes * self.setting.put

    def _notes(self) -> float:
        setting = self.setting
        return (HEADS + DELETES) * setting.get + LISTS * setting.list + PUTS * setting.put


def simulate(setting: Setting, sample: int = 200_000) -> Outcome:
    """Return what a run costs; runs of more than `sample` shards are simulated as a sample.

    `Outcome.done` has every simulated shard. The same setting gives the same outcome.
    """
    by = _divisor(setting, sample)
    cluster = Cluster(
        replace(
            setting,
            images=math.ceil(setting.images / by),
            workers=setting.workers // by,
            wave=setting.wave and max(1, setting.wave // by),
        )
    )
    seconds = cluster.run()
    names = setting.shards if setting.tar else setting.images
    pages = 0 if setting.tar else math.ceil(names / LISTED)
    heads = names if setting.tar else 0  # each tar file is looked at
    listing = pages * setting.list + heads * setting.get + names * setting.listing
    reads_of_parts = setting.shards * setting.passes * setting.requests
    merge = setting.images * setting.merge + reads_of_parts * setting.get / setting.readers
    hours = (listing + setting.engine + seconds + merge) / 3600
    reads, writes = (files / setting.shard * setting.images for files in setting.transfers)
    gets = round(reads * setting.requests + heads + setting.shards * HEADS + reads_of_parts)
    puts = round(writes + pages + setting.shards * (LISTS + PUTS))
    moved = setting.input_bytes + setting.mask_bytes + setting.part_bytes * (1 + setting.passes)
    return Outcome(
        images=setting.images,
        workers=setting.workers,
        hours=hours,
        listing_hours=listing / 3600,
        merge_hours=merge / 3600,
        utilisation=cluster.useful / 3600 * by / (hours * setting.workers),
        lost_hours=cluster.lost / 3600 * by,
        preemptions=cluster.stops * by,
        gets=gets,
        puts=puts,
        gigabytes=setting.images * (moved + setting.row_bytes) / 1e9,
        cost=hours * setting.workers * setting.core_price,
        request_cost=gets / 1000 * setting.get_price + puts / 1000 * setting.put_price,
        sampled=by,
        done=cluster.done,
    )


def _divisor(setting: Setting, sample: int) -> int:
    """Return by what a run is divided: a divisor of the workers that leaves enough of them."""
    least = setting.shards / sample
    fits = [by for by in range(1, setting.workers + 1) if setting.workers % by == 0]
    fits = [by for by in fits if setting.workers // by >= FEWEST] or [1]
    return next((by for by in fits if by >= least), fits[-1])


HEADER = (
    "images",
    "workers",
    "hours",
    "listing",
    "merge",
    "used",
    "lost h",
    "stops",
    "GET+HEAD",
    "PUT+LIST",
    "GB",
    "cores",
    "requests",
    "sample",
)


def _row(one: Outcome) -> list[str]:
    return [
        f"{one.images:.0e}".replace("e+0", "e"),
        str(one.workers),
        f"{one.hours:.2f}",
        f"{one.listing_hours:.2f}",
        f"{one.merge_hours:.2f}",
        f"{one.utilisation:.0%}",
        f"{one.lost_hours:.2f}",
        str(one.preemptions),
        f"{one.gets:.2e}",
        f"{one.puts:.2e}",
        f"{one.gigabytes:.0f}",
        f"{one.cost:.2f}",
        f"{one.request_cost:.2f}",
        f"1/{one.sampled}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=float, nargs="+", default=list(WORKERS))
    parser.add_argument("--workers", type=int, nargs="+", help="default: three counts for a size")
    parser.add_argument("--sample", type=int, default=200_000, help="most shards to simulate")
    parser.add_argument("--json", action="store_true", help="print settings and outcomes as JSON")
    for field in fields(Setting):
        if field.name in ("images", "workers"):
            continue
        option, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(default), default=default, help=f"{default:g}")
    given = vars(parser.parse_args())
    sizes, counts = [round(size) for size in given.pop("images")], given.pop("workers")
    sample, as_json = given.pop("sample"), given.pop("json")
    if min(sizes) < 1 or min(counts or [1]) < 1 or given["shard"] < 1 or sample < 1:
        parser.error("images, workers, shard and sample are at least 1")
    settings = [
        Setting(images=size, workers=count, **given)
        for size in sizes
        for count in counts or WORKERS[min(WORKERS, key=lambda known: abs(known - size))]
    ]
    outcomes = [simulate(setting, sample) for setting in settings]
    if as_json:
        rows = [{**asdict(one), "done": sum(one.done.values())} for one in outcomes]
        print(json.dumps({"setting": given, "runs": rows}, indent=1))
        return
    table = [list(HEADER), *map(_row, outcomes)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))


if __name__ == "__main__":
    main()

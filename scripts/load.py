"""Load `fastseg serve` with requests, and say how it stands it.

    python scripts/load.py exports/eye my_photos/ --seconds 60 --clients 1,4,16,64

Starts the server as a process of its own, and compares with `fastseg predict` on the same images:

- closed loop: each client sends its next image when it has the answer; images a second, and the
  times within which half, 95 % and 99 % of the answers came;
- open loop: requests come at random times, at a share of what the closed loop reached, above it
  too: then only 429 may be answered beside 200;
- memory of the server over many requests (--requests);
- every mask is the one that `predict` writes.

The clients share the machine's cores with the server: on a busy machine, compare the processor
times, which are those of the server and of `predict` alone. --json prints the figures for scripts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import fastseg
from fastseg.data.pairing import image_files

WARM_UP = 16  # requests before anything is measured
CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
RATES = (0.5, 0.9, 3)  # of the closed loop's images a second
MEMORY_STEPS = 5  # measurements of memory over --requests


@dataclass
class Tally:
    """The answers of one run: HTTP statuses, seconds of each, masks that differ from predict's."""

    codes: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    wall: float = 0.0

    def figures(self) -> dict[str, object]:
        """Return images a second, percentiles in ms, and statuses."""
        times = sorted(self.seconds) or [float("nan")]
        shown = {
            f"p{p}_ms": round(1000 * times[(len(times) - 1) * p // 100], 1) for p in (50, 95, 99)
        }
        rate = round(self.codes[200] / self.wall, 1)
        codes = {str(code): count for code, count in sorted(self.codes.items())}
        return {"images_a_second": rate, **shown, "codes": codes, "wrong_masks": self.wrong}


class Client:
    """One connection that is kept, and opened again if the server closes it. HTTP/1.1 by hand: a
    library would take as much of the cores as a small model.
    """

    def __init__(self, port: int, where: str):
        self.port, self.where = port, where
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, image: bytes) -> tuple[int, bytes]:
        """Return the status and the body of an answer; status 0 if there is none."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            head = (
                f"POST {self.where} HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/octet-stream\r\nContent-Length: {len(image)}\r\n\r\n"
            )
            writer.write(head.encode() + image)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            size = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
            return int(lines[0].split()[1]), await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class Load:
    """Sends images to a server and keeps the tally."""

    def __init__(self, port: int, export: str, images: list[bytes], masks: list[bytes]):
        self.port, self.images, self.masks = port, images, masks
        self.where = f"/v1/{export}/predict?as=mask"
        self._turn = itertools.cycle(range(len(images)))

    async def _one(self, client: Client, tally: Tally) -> None:
        number, began = next(self._turn), time.perf_counter()
        code, body = await client.post(self.images[number])
        tally.codes[code] += 1
        if code == 200:
            tally.seconds.append(time.perf_counter() - began)
            tally.wrong += body != self.masks[number]

    async def closed(self, clients: int, seconds: float = 1e9, requests: int = 10**9) -> Tally:
        """Let `clients` send one image after the other, for so long or for so many requests."""
        tally, began = Tally(), time.perf_counter()
        left = iter(range(requests))

        async def loop() -> None:
            client = Client(self.port, self.where)
            while time.perf_counter() - began < seconds and next(left, None) is not None:
                await self._one(client, tally)
            client.close()

        await asyncio.gather(*(loop() for _ in range(clients)))
        tally.wall = time.perf_counter() - began
        return tally

    async def open(self, rate: float, seconds: float) -> Tally:
        """Send images at random times, `rate` a second, whether or not answers come."""
        tally, began, chance = Tally(), time.perf_counter(), random.Random(0)
        free: list[Client] = []

        async def once() -> None:
            client = free.pop() if free else Client(self.port, self.where)
            await self._one(client, tally)
            free.append(client)

        running, at = set(), 0.0
        while (at := at + chance.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            running.add(task := asyncio.create_task(once()))
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        tally.wall = time.perf_counter() - began
        for client in free:
            client.close()
        return tally


def predicted(export: Path, files: list[Path]) -> tuple[dict[str, float], list[bytes]]:
    """Return the figures of `fastseg predict` without the loading of the model, and its masks."""

    def loaded() -> None:
        fastseg.load(export, "cpu", runtime="onnx", images=1)

    def timed(work: Callable[[], object]) -> tuple[float, float]:
        wall, own = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - own

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"

        def predict() -> None:
            fastseg.predict(str(export), files, out, runtime="onnx", device="cpu")

        predict()  # imports, and the files in the system's cache
        seconds, own = (whole - part for whole, part in zip(timed(predict), timed(loaded)))
        masks = [next(out.glob(f"{file.stem}.*")).read_bytes() for file in files]
    figures = {
        "images_a_second": round(len(files) / seconds, 1),
        "cpu_ms_an_image": round(1000 * own / len(files), 2),
    }
    return figures, masks


def metric(port: int, name: str) -> float:
    """Return a figure of the server's own."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return float("nan")


async def measured(load: Load, asked: argparse.Namespace) -> dict[str, object]:
    """Return the figures of all loops."""
    await load.closed(1, requests=WARM_UP)
    figures: dict[str, object] = {}
    best = 0.0
    for clients in map(int, asked.clients.split(",")):
        own = metric(load.port, CPU)
        tally = await load.closed(clients, asked.seconds)
        own = (metric(load.port, CPU) - own) / max(1, tally.codes[200])
        figures[f"closed, {clients} clients"] = {
            **tally.figures(),
            "cpu_ms_an_image": round(1000 * own, 2),
        }
        best = max(best, tally.codes[200] / tally.wall)
    for share in RATES:
        tally = await load.open(share * best, asked.seconds)
        figures[f"open, {share:.0%} of {best:.0f} a second"] = tally.figures()
    figures["best_images_a_second"] = round(best, 1)
    if asked.requests:
        memory = [metric(load.port, MEMORY) / 2**20]
        for _ in range(MEMORY_STEPS):
            await load.closed(8, requests=asked.requests // MEMORY_STEPS)
            memory.append(metric(load.port, MEMORY) / 2**20)
        figures["memory_MiB"] = [round(value, 1) for value in memory]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--seconds", type=float, default=60, help="of each loop")
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--requests", type=int, default=0, help="over which memory is measured")
    parser.add_argument("--most", type=int, default=200, help="images of the folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", default="", help="options of fastseg serve, in quotes")
    asked = parser.parse_args()
    files = image_files(asked.images)[: asked.most]
    usual, masks = predicted(asked.export, files)
    command = [sys.executable, "-m", "fastseg", "serve", f"it={asked.export}", "--port", "0"]
    with open(os.devnull, "w") as nothing:
        server = subprocess.Popen(
            [*command, "--json", "--log-json", "--runtime", "onnx", *shlex.split(asked.serve)],
            stdout=subprocess.PIPE,
            stderr=nothing,
            text=True,
        )
        try:
            port = json.loads(server.stdout.readline())["port"]
            load = Load(port, "it", [file.read_bytes() for file in files], masks)
            figures = asyncio.run(measured(load, asked))
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    share = round(figures["best_images_a_second"] / usual["images_a_second"], 3)
    figures |= {"predict": usual, "share_of_predict": share, "exit_code": code}
    if asked.json:
        print(json.dumps(figures, indent=1))
    else:
        for name, value in figures.items():
            print(f"{name:28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

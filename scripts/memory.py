"""Measure the memory of a fit over a manifest of many images: draws it, trains, prints a curve.

The images are a few hundred synthetic ones, each linked many times, so that the disk holds them.
Training ends after `--steps`. RSS is what the process holds itself; kept images are in a temporary
file, whose size stands beside it.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import threading
import time
from pathlib import Path

DRAWN = 200  # different images
TASK = {
    "segment": """classes = ["background", "sclera", "iris", "pupil"]

[[layouts]]
manifest = "manifest.csv"
""",
    "classify": """kind = "classify"
labels = "manifest"
classes = ["even", "odd"]
""",
}


def draw(folder: Path, count: int, kind: str) -> Path:
    """Write a manifest of `count` images, hard links of a few, and its task.toml."""
    from PIL import Image

    from fastseg import tasks

    task = tasks.get("eye")
    items = task.items(task.sample(folder / "drawn", DRAWN))
    for item in items:  # small files: what is measured is the number of images
        Image.open(item.image).resize((96, 96)).save(item.image.with_suffix(".small.png"))
        Image.open(item.label).resize((96, 96), 0).save(item.label)
    columns = ["image", "mask"] if kind == "segment" else ["image", "class"]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "split"])
        for number in range(count):
            place = Path("data") / f"{number // 1000:04d}"
            (folder / place).mkdir(parents=True, exist_ok=True)
            item = items[number % len(items)]
            image, mask = place / f"{number:07d}.png", place / f"{number:07d}_mask.png"
            os.link(item.image.with_suffix(".small.png"), folder / image)
            if kind == "segment":
                os.link(item.label, folder / mask)
            label = mask if kind == "segment" else ("even", "odd")[number % 2]
            writer.writerow([image, label, "valid" if number % 100 == 0 else "train"])
    (folder / "task.toml").write_text(TASK[kind])
    return folder


def resident() -> float:
    """Return this process's resident memory in MB (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Curve:
    """Prints the resident memory every few seconds, and at each stage, beside the kept bytes."""

    def __init__(self, seconds: float):
        self.start, self.stage, self.kept = time.monotonic(), "imports", lambda: 0
        threading.Thread(target=self._watch, args=(seconds,), daemon=True).start()

    def _watch(self, seconds: float) -> None:
        while True:
            time.sleep(seconds)
            self.show()

    def show(self) -> None:
        """Print one point of the curve."""
        kept, passed = self.kept() / 2**20, time.monotonic() - self.start
        print(
            f"{passed:7.1f} s  {resident():7.0f} MB  kept {kept:7.0f} MB  {self.stage}", flush=True
        )

    def begin(self, stage: str) -> None:
        """Print a point, and name what comes next."""
        self.show()
        self.stage = stage


def measure(folder: Path, steps: int, seconds: float, bs: int, size: int, cache: int) -> None:
    """Fit for so many steps, and print the curve."""
    from fastai.callback.core import Callback, CancelFitException

    import fastseg
    from fastseg import tasks
    from fastseg.data.cache import Pixels

    curve = Curve(seconds)
    opened = Pixels._opened

    def remember(pixels: Pixels):
        file = opened(pixels)
        curve.kept = lambda: file.used if file else 0
        return file

    Pixels._opened = remember

    class Steps(Callback):
        done = 0

        def after_batch(self) -> None:
            Steps.done += self.training
            if Steps.done % max(1, steps // 20) == 0 and self.training:
                curve.stage = f"step {Steps.done}"
                curve.show()
            if Steps.done >= steps:
                raise CancelFitException

    curve.begin("listing")
    task = tasks.get(folder)
    before = resident()
    items = task.items(folder)
    curve.begin(
        f"listed {len(items)} images: {(resident() - before) * 2**20 / len(items):.0f} B each"
    )
    del items
    curve.begin("preflight")
    learn = fastseg.learner(task, arch="test_resnet", weights="none", size=size, bs=bs, cache=cache)
    curve.begin("training")
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=[Steps()])
    curve.begin("end")


def main() -> None:
    """Parse the options, draw the manifest if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kind", choices=list(TASK), default="segment")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--cache", type=int, default=None, help="MB of decoded images to keep")
    parser.add_argument("--every", type=float, default=10, help="seconds between two points")
    parser.add_argument("--folder", type=Path, help="where the manifest is drawn, and kept")
    asked = parser.parse_args()
    cache = None if asked.cache is None else asked.cache * 2**20
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        if not (folder / "task.toml").exists():
            draw(folder, asked.images, asked.kind)
        measure(folder, asked.steps, asked.every, asked.bs, asked.size, cache)


if __name__ == "__main__":
    main()

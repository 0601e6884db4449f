"""The benchmark of engines: `predict` without shards, in shards, on processes, and on Ray."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FEW, MANY = 128, 512  # images of the two runs whose difference is the steady rate
FIXED = ("--device", "cpu", "--runtime", "onnx", "--precision", "float32")
CONTESTANTS = {
    "one process without shards": (),
    "local, 1 worker": ("--engine", "local", "--workers", "1"),
    "local, 2 workers": ("--engine", "local", "--workers", "2"),
    "local, 4 workers": ("--engine", "local", "--workers", "4"),
    "ray, 1 worker": ("--engine", "ray", "--workers", "1"),
    "ray, 2 workers": ("--engine", "ray", "--workers", "2"),
    "ray, 4 workers": ("--engine", "ray", "--workers", "4"),
}


def measured(few: Path, many: Path, export: Path, repeats: int) -> dict[str, list[float]]:
    """Return seconds of each contestant for both folders, of FEW and of MANY images.

    Each run is a new process, as users start it. Both runs have the same start, so the difference
    of their medians is the time of MANY - FEW images. Contestants take turns.
    """
    seconds: dict[str, list[float]] = {}
    for turn in range(repeats):
        for name, options in CONTESTANTS.items():
            for folder, count in ((few, FEW), (many, MANY)):
                spent = _seconds(folder, export, options)
                seconds.setdefault(f"{name}, {count} images", []).append(spent)
                print(
                    f"engines  turn {turn + 1}: {name}, {count} images: {spent:.1f} s", flush=True
                )
    base = None
    for name in CONTESTANTS:
        first, second = (
            statistics.median(seconds[f"{name}, {count} images"]) for count in (FEW, MANY)
        )
        each = (second - first) / (MANY - FEW)
        base = base or each
        print(
            f"engines  {name}: {1 / each:.1f} images/s, {base / each:.2f} times those of one "
            f"process; starts in {first - FEW * each:.1f} s"
        )
    return seconds


def _seconds(images: Path, export: Path, options: tuple[str, ...]) -> float:
    out = images.parent / "out"
    command = [sys.executable, "-W", "ignore", "-m", "fastseg", "predict", "eye", str(images)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(out), "--export", str(export), *FIXED, *options],
        cwd=images.parent,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{options}: exit code {done.returncode}: {done.stderr}")
    shutil.rmtree(out)
    return seconds


def parts(images: Path, export: Path, repeats: int) -> dict[str, list[float]]:
    """Return where the time goes in one worker with one core, each time in a new process."""
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(images), str(export)],
            check=True,
            capture_output=True,
            text=True,
            cwd=images.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            seconds.setdefault(name, []).append(value)
    return seconds


def _parts_here(images: Path, export: Path) -> dict[str, float]:
    """Predict in shards with one thread, with a clock around each step of an image."""
    began = time.perf_counter()
    import torch

    from fastseg.inference.loading import load
    from fastseg.inference.outputs import MaskOutput
    from fastseg.inference.predictor import Predictor

    torch.set_num_threads(1)
    imported = time.perf_counter()
    load(export, "cpu", runtime="onnx", precision="float32", images=1000, bs=4)
    loaded = time.perf_counter()
    spent: Counter[str] = Counter()

    def timed(owner: type, method: str, name: str) -> None:
        plain: Callable[..., object] = getattr(owner, method)

        def clocked(*args: object, **options: object) -> object:
            start = time.thread_time()
            try:
                return plain(*args, **options)
            finally:
                spent[name] += time.thread_time() - start

        setattr(owner, method, clocked)

    timed(Predictor, "_read", "read and decode, an image")
    timed(Predictor, "logits", "network, an image")
    timed(MaskOutput, "write_image_results", "resize, measure and write, an image")
    import fastseg

    out, count = images.parent / "parts", len(list(images.iterdir()))
    fixed = {"device": "cpu", "runtime": "onnx", "precision": "float32", "engine": "local"}
    start, busy = time.perf_counter(), time.process_time()
    fastseg.predict("eye", images, out, export=export, **fixed)
    total, used = time.perf_counter() - start, time.process_time() - busy
    masks = [path.stat().st_size for path in out.glob("*.png")]
    state = sum(path.stat().st_size for path in (out / ".fastseg").iterdir())
    tables = sum(path.stat().st_size for path in out.glob("predictions.*"))
    shutil.rmtree(out)
    print(
        f"bytes an image: {sum(path.stat().st_size for path in images.iterdir()) / count:.0f} read,"
        f" {sum(masks) / count:.0f} in its mask, {state / count:.0f} in its part,"
        f" {tables / count:.0f} in the tables; {total / count * 1000:.2f} ms of the clock",
        file=sys.stderr,
    )
    return {
        "imports": imported - began,
        "load the export": loaded - imported,
        **{name: value / count for name, value in spent.items()},
        "lists, shards and tables, an image": (used - sum(spent.values())) / count,
    }


if __name__ == "__main__":
    print(json.dumps(_parts_here(*map(Path, sys.argv[1:3]))))

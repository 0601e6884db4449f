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
from collections.abc import Callable, Container
from pathlib import Path

FEW, MANY = 128, 384  # images of the two runs whose difference is the steady rate
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
    """Return seconds of each contestant for both folders, of FEW and of MANY images: those of the
    clock, and those of processors, which other programs on the machine disturb less.

    Each run is a new process, as users start it. Both runs have the same start, so the difference
    of their medians is the time of MANY - FEW images. Contestants take turns.
    """
    seconds: dict[str, list[float]] = {}
    for turn in range(repeats):
        for name, options in CONTESTANTS.items():
            for folder, count in ((few, FEW), (many, MANY)):
                clock, processor = _seconds(folder, export, options)
                seconds.setdefault(f"{name}, {count} images", []).append(clock)
                seconds.setdefault(f"{name}, {count} images, processors", []).append(processor)
                print(
                    f"engines  turn {turn + 1}: {name}, {count} images: {clock:.1f} s, "
                    f"{processor:.1f} s of processors",
                    flush=True,
                )
    for name in CONTESTANTS:
        clock, start = _fitted(seconds, name, "")
        processor, first = _fitted(seconds, name, ", processors")
        # Faster than all cores could compute: other programs disturbed the clock.
        is_sound = clock > processor / (os.cpu_count() or 1)
        rate = f"{1 / clock:.1f} images/s after {start:.1f} s" if is_sound else "disturbed"
        print(
            f"engines  {name}: by the clock {rate}; of processors "
            f"{1000 * processor:.1f} ms an image after {first:.1f} s"
        )
    return seconds


def _fitted(seconds: dict[str, list[float]], name: str, what: str) -> tuple[float, float]:
    """Return seconds for an image, and for the start."""
    few, many = (
        statistics.median(seconds[f"{name}, {count} images{what}"]) for count in (FEW, MANY)
    )
    each = (many - few) / (MANY - FEW)
    return each, few - FEW * each


def _seconds(images: Path, export: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds of one run: of the clock, and of processors in all its processes."""
    out, mark = images.parent / "out", f"FASTSEG_BENCHMARK={time.time_ns()}"
    command = [sys.executable, "-W", "ignore", "-m", "fastseg", "predict", "eye", str(images)]
    spent: dict[int, float] = {}
    began = time.perf_counter()
    run = subprocess.Popen(
        [*command, "--out", str(out), "--export", str(export), *FIXED, *options],
        cwd=images.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **dict([mark.split("=")])},
    )
    while run.poll() is None:
        spent.update(_processor_seconds(mark, spent))
        time.sleep(0.2)
    seconds = time.perf_counter() - began
    if run.returncode:
        raise RuntimeError(f"{options}: exit code {run.returncode}")
    shutil.rmtree(out)
    return seconds, sum(spent.values())


def _processor_seconds(mark: str, known: Container[int]) -> dict[int, float]:
    """Return the processor seconds so far of each process that is known, is the child of one, or
    has `mark` in its environment.

    The processes of Ray are no children that could be waited for, and some change their titles,
    which overwrites their environment.
    """
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pid, parent = int(folder.name), int(fields[1])
            is_ours = pid in known or parent in known
            if is_ours or mark.encode() in (folder / "environ").read_bytes():
                found[pid] = (int(fields[11]) + int(fields[12])) / tick
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


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

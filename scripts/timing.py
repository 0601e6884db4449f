"""The benchmark's runner (contestants take turns), description of the machine, and table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastseg.utils.device import processor

UNITS = {"memory": "MB", "quality": "IoU", "blur": ""}


def machine() -> dict:
    """Describe the machine: processor, the units that matter, threads, versions."""
    from importlib.metadata import version

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set(info.partition("flags")[2].partition("\n")[0].split())
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "units": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        "isa_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            n: version(n)
            for n in ("torch", "fastai", "timm", "segmentation_models_pytorch", "onnxruntime")
        },
        "python": platform.python_version(),
    }


def interleaved(
    contestants: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Let the contestants take turns `repeats` times; return each one's seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(name: str, figures: dict[str, list[float]]) -> list[dict]:
    """Print and return one row a contestant: median, spread, ratio to fastseg's first line."""
    rows = []
    for label, values in figures.items():
        size = label.rpartition(", ")[2] if "predict" in label or name == "predict" else ""
        ours = [
            statistics.median(v)
            for other, v in figures.items()
            if "fastseg" in other and (name != "predict" or other.endswith(size))
        ]
        median = statistics.median(values)
        ratio = median / ours[0] if ours and name in ("step", "epoch", "predict", "gpu") else None
        rows.append(
            {
                "section": name,
                "contestant": label,
                "unit": "MB" if label.endswith(", memory") else UNITS.get(name, "s"),
                "median": median,
                "min": min(values),
                "max": max(values),
                "times_fastseg": ratio,
            }
        )
        print(
            f"{name:8} {label:46} {median:10.4f} {rows[-1]['unit']:3} "
            f"({min(values):.4f} to {max(values):.4f})" + (f" {ratio:8.2f}x" if ratio else ""),
            flush=True,
        )
    return rows

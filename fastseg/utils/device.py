"""Properties of this machine: device, precision, memory for decoded images."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from .. import __version__
from ..errors import ModelError
from .choices import asked_precision

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
# Share of the memory that decoded images may take. A convention: the rest is for the model, its
# activations and other processes.
CACHE_SHARE = 0.25
MEMORY_UNKNOWN = 8 * 2**30  # bytes assumed where the system does not say


def device_of(name: str | None) -> torch.device:
    """Return the device called `name`, or the best one if it is None.

    Raises `ModelError` if it is not available.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # unknown name, no driver, no such card, meta
        raise ModelError(
            f"device '{name}' is not available here; "
            "choose cpu, or leave --device out for the best available",
            "no-device",
        ) from error
    return device


def autocast_dtype(device: torch.device, precision: str | None = None) -> torch.dtype | None:
    """Return the reduced precision to compute in on `device`, or None for float32.

    That is bfloat16 where the CPU or GPU has units for it. `precision`, "float32" or "bfloat16",
    overrides this; so does the environment variable FASTSEG_PRECISION if `precision` is None.
    Raises `ModelError` for other names.
    """
    precision = asked_precision(precision)
    if precision is not None:
        return DTYPES[precision]
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_has_bf16() else None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return None


def precision_of(device: torch.device, precision: str | None = None) -> str:
    """Return the name of the precision that `autocast_dtype` chooses: "float32" or "bfloat16"."""
    return "float32" if autocast_dtype(device, precision) is None else "bfloat16"


def fixed_precision(device: torch.device, precision: str | None = None) -> str:
    """Return the asked precision, or one that depends on no measurement and no CPU flag.

    That is float32 on CPUs, and the best one of a GPU.
    """
    asked = asked_precision(precision)
    return precision_of(device, asked or ("float32" if device.type == "cpu" else None))


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has units for bfloat16 that oneDNN may use."""
    # oneDNN reports AVX2-only CPUs as "supported" too, by emulation that is slower than float32.
    if "AVX2" in os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper():
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    checks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return (
        "AVX512" in capability
        and any(check() for check in checks if check)
        or ("SVE" in capability and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def signature() -> list[object]:
    """Return the values that measured times depend on: processor, its units, threads, versions."""
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        processor(),
        torch.backends.cpu.get_cpu_capability(),
        cores,
        torch.get_num_threads(),
        os.environ.get("ONEDNN_MAX_CPU_ISA"),
        __version__,
        torch.__version__,
        version("onnxruntime"),
    ]


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    )
    return found[1].strip() if found else platform.processor()


def memory_bytes() -> int:
    """Return the memory that this process may use, in bytes.

    That is the machine's, or the container's limit if that is lower.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # Windows has no sysconf
        total = MEMORY_UNKNOWN
    limits = (
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    )
    given = [
        int(text)
        for path in limits
        if path.is_file() and (text := path.read_text().strip()).isdigit()
    ]
    return min([total, *given])


def cache_bytes() -> int:
    """Return how much decoded images may take by default, of all processes of a run together."""
    return int(memory_bytes() * CACHE_SHARE)


def describe_plan(device: torch.device, precision: str, bs: int, budget: int) -> str:
    """Return one line that says what was chosen for this machine."""
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {threads} thread{'' if threads == 1 else 's'}"
    )
    return (
        f"{name}; {precision}; channels last, batches of {bs}; "
        f"up to {budget / 2**30:.1f} GiB of decoded images kept"
    )

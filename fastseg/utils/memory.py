"""Main memory: what is free, within the limits of containers, and the most that work needs."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the memory that this process can still get without swapping, in bytes.

    That is what the machine has, or what the limits of its control groups (containers, batch
    systems) leave if that is less. None where the system does not say: outside Linux.
    """
    try:
        given = _field(PROC / "meminfo", "MemAvailable")
    except OSError:
        return None
    return None if given is None else max(0, min([given, *_left_by_limits()]))


def peak_bytes(work: Callable[[], object]) -> int:
    """Return by how many bytes the memory of this process grew at most while `work` ran.

    Linux only: raises `OSError` elsewhere.
    """
    with suppress(AttributeError, OSError):  # other C libraries have no such function
        # What was freed and kept by malloc would be used by `work` without being counted.
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # where it is not allowed, an earlier peak counts: that is careful
        (PROC / "self/clear_refs").write_text("5")  # sets the peak to what is used now
    status = PROC / "self/status"
    before = _field(status, "VmRSS") or 0
    work()
    return max(0, (_field(status, "VmHWM") or 0) - before)


def _field(path: Path, name: str) -> int | None:
    """Return a value in bytes from a file of lines such as "VmRSS:   1234 kB"."""
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _left_by_limits() -> Iterator[int]:
    """Yield the bytes that each control group of this process, or one around it, leaves."""
    with suppress(OSError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            # version 2 has one hierarchy, version 1 one for memory
            top, limit, used, kept = (
                (CGROUPS / "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file")
                if controllers
                else (CGROUPS, "max", "current", "inactive_file")
            )
            # Inside a container the own group may be at the top, under another name.
            inner = top / own.lstrip("/")
            for folder in dict.fromkeys([inner, *inner.parents]):
                if not folder.is_relative_to(top):
                    break
                with suppress(OSError, ValueError):  # no such group, or no limit ("max")
                    left = int((folder / f"memory.{limit}").read_text())
                    left -= int((folder / f"memory.{used}").read_text())
                    stat = (folder / "memory.stat").read_text()
                    found = re.search(rf"^{kept} (\d+)$", stat, re.MULTILINE)
                    yield left + (int(found[1]) if found else 0)  # files read are dropped first

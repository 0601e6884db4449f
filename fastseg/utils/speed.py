"""Measured times: finds the fastest way to compute on this machine.

Each way is measured once per model and machine; the times are stored in the user's cache.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from ..errors import DataError
from .io import write_json
from .user_cache import cache_path

log = logging.getLogger(__name__)

# With at least this many seconds of work, measuring the other options can save more than it costs:
# a few seconds each, including the start of torch.
WORTH_MEASURING = 20.0
FEW_IMAGES = 32  # with fewer images, nothing is measured; a convention: the work is too short
TORCH_START = 3.0  # seconds for importing timm and building a network, which ONNX does not need

# Share of the default's time that another option must stay below. A convention: repeated
# measurements of one option differ by some percent.
MARGIN = 0.9
REPEATS, MAX_SECONDS = 3, 0.3  # measurements of one option: at most so many, in at most so long

T = TypeVar("T")


class ComputeOption(NamedTuple):
    """A way to compute predictions."""

    runtime: str  # "onnx", "onnx-int8" or "torch"
    precision: str  # "float32", "bfloat16" or "int8"

    def __str__(self) -> str:
        return self.runtime if self.precision == "int8" else f"{self.runtime} {self.precision}"

    @property
    def start(self) -> float:
        """Seconds from a new process to the first image."""
        return TORCH_START if self.runtime == "torch" else 0.0


class Speeds:
    """Measured seconds by key, kept in the user's cache for later processes.

    `what` are JSON values that name what is measured; the machine's `signature` is added to them.
    """

    def __init__(self, *what: object):
        from .device import signature  # not at the top: it imports torch

        self._path = cache_path("speeds", signature(), *what)
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self.known = {str(key): float(value) for key, value in known.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged
            self.known = {}

    def measured(self, key: str, measure: Callable[[], float]) -> float:
        """Return the seconds of `key`, measured now if they are not known.

        Infinity means that it cannot be computed that way.
        """
        if key not in self.known:
            try:
                self.known[key] = measure()
            except (RuntimeError, ValueError, MemoryError) as error:
                # an operation is not available in this precision, or there is too little memory
                log.debug("%s cannot be measured: %s", key, error)
                self.known[key] = math.inf
            try:
                write_json(self._path, self.known)
            except DataError as error:  # a cache that cannot be written: measured again next time
                log.debug("%s", error)
        return self.known[key]


def quickest(
    options: Sequence[T],
    speeds: Speeds,
    key: Callable[[T], str],
    measure: Callable[[T], float] | None,
    work: float,
    unit: str,
) -> tuple[T, str]:
    """Return the option that does `work` in the shortest time, and a text that says why.

    `work` is the number of images or steps; infinity: a long-running process. `measure` returns an
    option's seconds for one `unit`; without it, nothing is measured. The first option is the
    default: the others are measured only if it would take `WORTH_MEASURING` seconds, and chosen
    only if they take less than `MARGIN` of its time.
    """
    first = options[0]
    if measure is not None:
        seconds = speeds.measured(key(first), partial(measure, first))
        if work * seconds >= WORTH_MEASURING:
            for option in options[1:]:
                speeds.measured(key(option), partial(measure, option))
    known = {option: speeds.known[key(option)] for option in options if key(option) in speeds.known}
    if first not in known:
        return first, f"{first}: the default; nothing is measured for so little work"

    def total(option: T) -> float:
        if not math.isfinite(work):  # a long-running process: its start time does not count
            return known[option]
        return known[option] * work + getattr(option, "start", 0.0)

    best = min(known, key=total)
    if total(best) > MARGIN * total(first):
        best = first
    others = [
        f"{option} {_formatted(seconds)}"
        + (" after a longer start" if seconds < MARGIN * known[best] else "")
        for option, seconds in known.items()
        if option != best
    ]
    return best, ", ".join([f"{best}: {_formatted(known[best])} {unit} here", *others])


def _formatted(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "fails"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def seconds_of(run: Callable[[], object]) -> float:
    """Return the shortest time, in seconds, of up to `REPEATS` calls after a warm-up call."""
    run()  # warm-up: allocates memory and compiles kernels
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < MAX_SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

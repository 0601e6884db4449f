"""Which engine and precision compute quickest here: measured once for each model and machine, kept in the user's cache."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from ..errors import DataError
from . import device as machine
from .io import write_json
from .user_cache import cache_path

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

PAYS = 20.0  # seconds of work from which on measuring other options can win back what it costs
FEW = 32  # images, for fewer of which nothing is measured
START = 3.0  # seconds that torch takes to import timm and build a network; ONNX does without
MARGIN = 0.9  # of the default's time, that another option must be below: what lies nearer is noise
REPEATS, ENOUGH = 3, 0.3  # measurements of one option: so many, or what fits into so many seconds

T = TypeVar("T")


class Option(NamedTuple):
    """A way to compute predictions."""

    engine: str  # "onnx" or "torch"
    precision: str  # "float32" or "bfloat16"

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def start(self) -> float:
        """Seconds from a new process to the first image."""
        return START if self.engine == "torch" else 0.0


class Speeds:
    """Seconds that were measured on this machine for what `what` names, by key; they are kept for later processes."""

    def __init__(self, *what: object):
        self._path = cache_path("speeds", machine.signature(), *what)
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self.known = {str(key): float(value) for key, value in known.items()}
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
        ):  # none yet, or damaged: measured again
            self.known = {}

    def measured(self, key: str, measure: Callable[[], float]) -> float:
        """Return the seconds of `key`, measured now if they are not known; infinity if it cannot be computed that way."""
        if key not in self.known:
            try:
                self.known[key] = measure()
            except (
                RuntimeError,
                ValueError,
                MemoryError,
            ) as error:  # an operation lacks the precision, or memory is short
                log.debug("%s cannot be measured: %s", key, error)
                self.known[key] = math.inf
            try:
                write_json(self._path, self.known)
            except DataError as error:  # a home that cannot be written: measured again next time
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
    """Return the option that does `work`, so many images or steps, in the shortest time, and in words why.

    `measure` gives an option's seconds for one; without it, what is not known is not measured. The first option is the default;
    the others are measured only where it would take `PAYS` seconds, and chosen only if they are clearly quicker.
    """
    first = options[0]
    if measure and work * speeds.measured(key(first), lambda: measure(first)) >= PAYS:
        for option in options[1:]:
            speeds.measured(key(option), lambda option=option: measure(option))
    known = {option: speeds.known[key(option)] for option in options if key(option) in speeds.known}
    if first not in known:
        return first, f"{first}: the default; nothing is measured for so little work"

    def total(option: T) -> float:
        # What is measured without a known amount of work is for a process that stays: how long it starts does not count.
        return (
            known[option] * work + getattr(option, "start", 0.0)
            if math.isfinite(work)
            else known[option]
        )

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
    """Return the least seconds of a few calls, after one that is not counted; slow calls are timed once."""
    run()  # allocates, and compiles kernels
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < ENOUGH:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def training_precision(
    learn: Learner, size: tuple[int, int], asked: str | None, epochs: int
) -> tuple[str, str]:
    """Return the precision to train in, and in words why: the one asked for, or the quicker one where a CPU has units for both."""
    device = learn.dls.device
    default = machine.precision_of(device, asked)
    if asked or device.type != "cpu" or default == "float32":
        return default, default
    speeds = Speeds("step", learn.model.spec.to_dict(), size, learn.dls.bs)
    return quickest(
        ("float32", "bfloat16"),
        speeds,
        str,
        lambda precision: _random_step(learn, size, precision),
        epochs * max(1, len(learn.dls.train)),
        "a step",
    )


def _random_step(learn: Learner, size: tuple[int, int], precision: str) -> float:
    """Return the seconds of a training step on random images."""
    network, rng = learn.model, torch.Generator().manual_seed(0)
    x = torch.rand(learn.dls.bs, 3, *size, generator=rng)
    y = torch.randint(
        0,
        network.spec.n_out,
        (learn.dls.bs, *(size if network.spec.has_masks else ())),
        generator=rng,
    )
    before, network.precision = network.precision, precision
    try:
        return step_seconds(network, learn.loss_func, x, y)
    finally:
        network.precision = before


def step_seconds(
    network: torch.nn.Module, loss_func: Callable, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Return the measured seconds of forward, loss and backward through all of the network, without the optimizer's step.

    Network and random state are left as they were.
    """
    device = x.device

    def step() -> None:
        loss_func(network(x), y).backward()
        network.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with _untouched(network, device):
        network.to(device).train().requires_grad_(True)
        return seconds_of(step)


@contextmanager
def _untouched(network: torch.nn.Module, device: torch.device) -> Iterator[None]:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    frozen, modes = (
        [p for p in network.parameters() if not p.requires_grad],
        [(m, m.training) for m in network.modules()],
    )
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        network.zero_grad()
        network.load_state_dict(state)
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, training in modes:
            module.training = training

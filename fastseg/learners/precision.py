"""The precision to train in: the one asked for, or the faster one on CPUs that have both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..engines.distributed import world
from ..utils.allocator import freed_memory_kept
from ..utils.device import precision_of
from ..utils.speed import Speeds, quickest, seconds_of

if TYPE_CHECKING:
    from fastai.learner import Learner


def training_precision(
    learn: Learner, size: tuple[int, int], asked: str | None, epochs: int
) -> tuple[str, str]:
    """Return the precision to train in, "float32" or "bfloat16", and a text that says why.

    That is `asked`, or the device's best, or on a CPU with bfloat16 units the one in which `epochs`
    at `size`, (height, width), take less time, which is measured once for a model and machine.
    Where several processes train together, the first one chooses for all.
    """
    together = world()
    chosen = _chosen_precision(learn, size, asked, epochs) if together.is_first else None
    precision, why = together.from_first(chosen)
    return precision, why


def _chosen_precision(
    learn: Learner, size: tuple[int, int], asked: str | None, epochs: int
) -> tuple[str, str]:
    device = learn.dls.device
    default = precision_of(device, asked)
    if asked or device.type != "cpu" or default == "float32":
        return default, default
    speeds = Speeds("step", learn.model.spec.to_json(), size, learn.dls.bs)
    return quickest(
        ("float32", "bfloat16"),
        speeds,
        str,
        lambda precision: _random_step_seconds(learn, size, precision),
        epochs * max(1, len(learn.dls.train)),
        "a step",
    )


def _random_step_seconds(learn: Learner, size: tuple[int, int], precision: str) -> float:
    """Return the seconds of one training step on random images of `size`, (height, width)."""
    network, rng = learn.model, torch.Generator().manual_seed(0)
    x = torch.rand(learn.dls.bs, network.spec.channels, *size, generator=rng)
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
    network: torch.nn.Module,
    loss_func: Callable[..., torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
) -> float:
    """Return the seconds of forward, loss and backward through the whole network, measured.

    The optimizer's step is not included. Network and random state are unchanged afterwards.
    """
    device = x.device

    def step() -> None:
        loss_func(network(x), y).backward()
        network.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with state_restored(network, device), freed_memory_kept():
        network.to(device).train().requires_grad_(True)
        return seconds_of(step)


@contextmanager
def state_restored(network: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the network's state and the random state after a block."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    learnt = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(m, m.training) for m in network.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        network.zero_grad()
        network.load_state_dict(state)
        for parameter, is_learnt in learnt:
            parameter.requires_grad_(is_learnt)
        for module, training in modes:
            module.training = training

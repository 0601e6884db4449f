"""`--bs auto`: the recipe's batch size, or the largest part of it that fits into memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

from ..engines.distributed import world
from ..errors import ModelError, is_out_of_memory, needs_two_images
from ..models.network import Network
from ..utils.device import fixed_precision
from ..utils.memory import available_bytes, peak_bytes
from ..utils.text import counted
from .precision import state_restored

if TYPE_CHECKING:
    from fastai.learner import Learner

log = logging.getLogger(__name__)

# Share of the free memory that a training step may take, a choice: the rest is for images, the
# evaluation, errors of the estimate, and other programs.
SHARE = 0.8
# Copies of the weights beside those of a step: their average, and the weights during validation.
COPIES = 2
# Of each weight, the gradient and the optimizer's two averages.
OF_A_WEIGHT = 3
# A step's memory as a multiple of what it keeps for the gradients: measured 1.2 to 1.6.
STEP = 1.25
GB = 2**30

Step = Callable[[int], None]  # takes a training step on so many images


@dataclass(frozen=True)
class Fitting:
    """How many images fit (0 for none), what batches of `of` images need, and what may be used.

    Both in bytes; `needed` is None where it is not known.
    """

    bs: int
    of: int
    needed: float | None = None
    room: float = 0.0


def plan_bs(
    learn: Learner,
    size: tuple[int, int],
    bs: int,
    precision: str | None,
    frozen: bool = False,
    unlabelled: bool = False,
    reserved: int = 0,
) -> int:
    """Return `bs`, or the largest of `bs // 2`, `bs // 4`, ... images that fits into memory.

    Real training steps at `size`, (height, width) in px, are taken; afterwards network and random
    state are as before. On a GPU each number is tried, from the largest. On a CPU, where too large
    a step would end the process, the memory of small batches is measured and extrapolated.
    `frozen`: the head alone is trained; `unlabelled`: each batch has as many images without labels.
    `reserved` bytes of a machine's memory are kept free. All processes that train together get the
    same number. Raises `ModelError` if not even the smallest batch fits.
    """
    together, device = world(), learn.dls.device
    sizes = [bs >> halved for halved in range(bs.bit_length()) if bs >> halved >= together.size]
    if not sizes:  # `data.loaders.shared` tells that there are too many processes
        return bs
    network, before = learn.model, learn.model.precision
    network.precision = fixed_precision(device, precision)
    try:
        with state_restored(network, device):
            network.to(device).train().requires_grad_(True)
            if frozen:
                network.body.requires_grad_(False)
            step = _step_of(learn, size, 2 if unlabelled else 1)
            if device.type == "cpu":
                found = _by_estimate(network, size, sizes, step, reserved)
            else:
                found = _by_trying(sizes, step, device)
    finally:
        network.precision = before
    chosen = min(together.from_all(found.bs))
    _say(chosen, sizes, size, found)
    return chosen


def _say(chosen: int, sizes: Sequence[int], size: tuple[int, int], found: Fitting) -> None:
    """Say what was chosen and why. Raises `ModelError` for 0."""
    figures = "do not fit into memory"
    if found.needed is not None:
        figures = f"need about {found.needed / GB:.2f} GB, and {found.room / GB:.2f} GB may be used"
    if not chosen:
        raise ModelError(
            f"--bs auto: batches of {counted(found.of, 'image')} of {size[0]}x{size[1]} px "
            f"{figures}; lower --size, or choose a smaller --arch",
            "out-of-memory",
        )
    if chosen < sizes[0]:
        why = f"; the recipe's {sizes[0]} {figures}"
    elif found.needed is None:
        why = ", as the recipe says"
    else:
        why = f", as the recipe says: they {figures}"
    log.info("--bs auto: batches of %s%s", counted(chosen, "image"), why)


def _step_of(learn: Learner, size: tuple[int, int], copies: int) -> Step:
    """Return a function that takes this process's part of a training step on random images."""
    network, device, together = learn.model, learn.dls.device, world()
    optimizer = learn.opt_func(learn.splitter(network), lr=learn.lr)
    rng = torch.Generator().manual_seed(0)

    def step(bs: int) -> None:
        rows = -(-bs // together.size) * copies
        x = torch.rand(rows, network.spec.channels, *size, generator=rng).to(device)
        # Each process computes the loss of the whole batch.
        shape = (rows * together.size, *(size if network.spec.has_masks else ()))
        y = torch.randint(0, network.spec.n_out, shape, generator=rng).to(device)
        try:
            logits = network(x)
            if together.size > 1:
                logits = torch.cat([logits] * together.size)
            learn.loss_func(logits, y).backward()
            optimizer.step()
        finally:
            network.zero_grad()

    return step


def _by_estimate(
    network: Network, size: tuple[int, int], sizes: Sequence[int], step: Step, reserved: int
) -> Fitting:
    """Return which of `sizes`, in falling order, fits into main memory.

    The smallest is doubled while the line through the last two measurements says that the next one
    fits, up to half of the largest.
    """
    together, free = world(), available_bytes()
    # All read what is free before one of them takes more.
    everywhere = together.from_all(free)
    if None in everywhere:
        log.info("--bs auto: this system does not say how much memory is free")
        return Fitting(sizes[0], sizes[0])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", together.size))
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    room = (min(everywhere) * SHARE - reserved) / local - COPIES * weights
    bs = sizes[-1]
    if (least := STEP * _saved_bytes(network, size)) > room:
        return Fitting(0, bs, least, room)
    points = []
    while True:
        try:
            points.append((bs, peak_bytes(partial(step, bs))))
        except ValueError as error:
            if points or len(sizes) == 1 or not needs_two_images(error):
                raise
            sizes = sizes[:-1]
            bs = sizes[-1]
            continue
        (low, below), (high, above) = [(0, min(OF_A_WEIGHT * weights, points[0][1])), *points][-2:]
        slope = max(0.0, (above - below) / (high - low))
        needs = {n: above + slope * (n - high) for n in (*sizes, 2 * bs)}
        bs *= 2
        if bs > sizes[0] // 2 or needs[bs] > room:
            break
    fitting = next((n for n in sizes if needs[n] <= room), 0)
    of = sizes[0] if fitting else sizes[-1]
    return Fitting(fitting, of, needs[of], room)


def _saved_bytes(network: Network, size: tuple[int, int]) -> float:
    """Return the bytes that the network keeps of one image until the gradients are computed.

    A step needs more. They are counted without memory, on torch's "meta" device; 0 where that does
    not work.
    """
    state = {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        for name, value in [*network.named_parameters(), *network.named_buffers()]
    }
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    x = torch.empty(2, network.spec.channels, *size, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            # the result holds what is counted: an address is of one storage
            _ = functional_call(network, state, (x,))
    except (RuntimeError, NotImplementedError, TypeError):
        return 0
    for value in state.values():
        kept.pop(value.untyped_storage()._cdata, None)
    return sum(kept.values()) / len(x)


def _by_trying(sizes: Sequence[int], step: Step, device: torch.device) -> Fitting:
    """Return which of `sizes`, in falling order, fits into the memory of an accelerator."""
    accelerator = getattr(torch, device.type)
    needed = None
    for bs in sizes:
        try:
            used, room = _used_bytes(partial(step, bs), device)
            if bs == sizes[0]:
                needed = used
            if used is None or used <= room:
                return Fitting(bs, sizes[0], needed, room)
        except (RuntimeError, ValueError) as error:
            if not is_out_of_memory(error) and not (bs < sizes[0] and needs_two_images(error)):
                raise
        finally:  # outside of `except`, whose traceback holds tensors
            accelerator.empty_cache()
    return Fitting(0, sizes[-1])


def _used_bytes(work: Callable[[], object], device: torch.device) -> tuple[float | None, float]:
    """Return the bytes of the device that `work` takes, and those it may; None where unknown."""
    if device.type != "cuda":
        work()
        return None, 0.0
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_reserved(device) - held, free * SHARE

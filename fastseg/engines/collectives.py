"""Tensors of several processes: sums, copies of the first one's, and rows of one common batch.

Row i of a common batch is in process i % size, so that every process has rows of all of it. A
batch of `count` rows has -(-count // size) rows in each process at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from .distributed import MeetingFailed, World


@contextmanager
def _meeting() -> Iterator[None]:
    """Raise `MeetingFailed` for what torch raises when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise MeetingFailed from error


def own_rows(count: int, world: World) -> int:
    """Return how many of a common batch's `count` rows are in this process; it may be 0."""
    return len(range(world.rank, count, world.size))


def sum_over(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a contiguous tensor over all processes, in place, and return it."""
    with _meeting():
        dist.all_reduce(tensor)
    return tensor


def stacked(tensor: torch.Tensor, world: World) -> torch.Tensor:
    """Return the tensors of all processes, which have one shape, stacked: (size, ...)."""
    tensor = tensor.contiguous()
    out = tensor.new_empty((world.size, *tensor.shape))
    with _meeting():
        dist.all_gather(list(out.unbind(0)), tensor)
    return out


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors by those of the first process: one transfer for each dtype."""
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        with _meeting():
            dist.broadcast(flat, 0)
        _spread(flat, group)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes: one transfer for each dtype."""
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for group in by_dtype.values():
        _spread(sum_over(torch.cat([grad.reshape(-1) for grad in group])), group)


def _spread(flat: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
    """Copy consecutive parts of a flat tensor into `tensors`."""
    start = 0
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()


def bytes_from_first(data: bytes | None, world: World, device: torch.device) -> bytes | None:
    """Return the first process's bytes, or its None."""
    size = world.from_first(None if data is None else len(data))
    if size is None or world.size == 1:
        return data
    if world.is_first:
        tensor = torch.frombuffer(bytearray(data or b""), dtype=torch.uint8).to(device)
    else:
        tensor = torch.empty(size, dtype=torch.uint8, device=device)
    with _meeting():
        dist.broadcast(tensor, 0)
    return tensor.cpu().numpy().tobytes()


def is_equal_everywhere(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether all processes have the same bits in `tensors`; all get the same answer.

    Only checksums of 64 bits are sent.
    """
    sums = [_checksum(tensor) for tensor in tensors]
    total = torch.stack([value * (2 * place + 1) for place, value in enumerate(sums)]).sum()
    ends = torch.stack([total, ~total])  # the smallest of ~x is ~ of the largest x
    with _meeting():
        dist.all_reduce(ends, dist.ReduceOp.MIN)
    return bool(ends[0] == ~ends[1])


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sum of the tensor's bits, int64, which depends on their order in each row."""
    as_integers = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    bits = tensor.detach().contiguous().view(-1).view(as_integers[tensor.element_size()]).long()
    return (bits * (torch.arange(len(bits), device=bits.device) % 8191 + 1)).sum()


class _Rows(torch.autograd.Function):
    """The rows of all processes; the gradient of a process's own rows goes back to them."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, count: int, world: World) -> torch.Tensor:
        ctx.rows, ctx.world = len(rows), world
        most = -(-count // world.size)
        if len(rows) < most:
            rows = torch.cat([rows, rows.new_zeros((most - len(rows), *rows.shape[1:]))])
        # Row j of process r is row j * size + r of the batch.
        parts = stacked(rows, world)
        return parts.transpose(0, 1).reshape(-1, *rows.shape[1:])[:count]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        own = grad[ctx.world.rank :: ctx.world.size]
        if len(own) == ctx.rows:
            return own, None, None
        filled = grad.new_zeros((ctx.rows, *grad.shape[1:]))  # of a row that is not in the batch
        filled[: len(own)] = own
        return filled, None, None


def all_rows(rows: torch.Tensor, count: int, world: World) -> torch.Tensor:
    """Return the common batch of `count` rows of which `rows` are this process's, in order.

    Every process gets all of it, and then computes the same from it. The gradient of each row goes
    back to the process that it came from, once: parameters' gradients are then sums over the
    processes. A process without rows gives one that is left out.
    """
    return rows if world.size == 1 else _Rows.apply(rows, count, world)

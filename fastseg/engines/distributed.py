"""Processes that do one job together, as torchrun and `accelerate launch` start them.

`joined` connects them; `world` says which of them this process is. Every process runs the same
code. What only one may do (decide by the clock, write files, print) is done by the first one, and
`from_first` gives its decision to the others. Where a process is alone, all of it costs nothing.

Values travel through the store that the launcher, or the first process, serves. Waiting there ends
when another process fails, however long the first one works; tensors travel through
`collectives`, in which all processes meet at the same time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import FastsegError, ModelError, ProcessError
from .liveness import ENDED, Failure, Watch, named

# Set for each process by torchrun and by `accelerate launch`.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
POLL = 0.05  # seconds between two looks for a value
# Longest time in a collective. Dead processes are noticed much earlier, see `liveness`; a process
# that writes a checkpoint, or reads from a slow disk, keeps the others waiting there.
TIMEOUT = timedelta(minutes=30)
MEETING = timedelta(minutes=2)  # for the others to start: a choice, imports take up to 20 s


class MeetingFailed(Exception):
    """A collective operation failed, most likely because another process ended."""


@dataclass(frozen=True)
class Place:
    """Which of the processes that were started together this one is."""

    rank: int  # from 0
    size: int  # number of processes
    local_rank: int  # from 0, on this machine
    address: str
    port: int


def place() -> Place | None:
    """Return this process's place, from the environment; None if it works alone.

    Raises `ProcessError` if the variables are not numbers.
    """
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    if not all(given[name] for name in VARIABLES if name != "LOCAL_RANK"):
        return None
    try:
        rank, size, local = (int(given[name] or given["RANK"]) for name in VARIABLES[:3])
        found = Place(rank, size, local, given["MASTER_ADDR"], int(given["MASTER_PORT"]))
    except ValueError:
        found = None
    if found is None or not 0 <= found.rank < found.size:
        values = " ".join(f"{name}={value}" for name, value in given.items())
        raise ProcessError(
            f"{values}: these variables of the environment place no process; "
            "unset them, or start with torchrun",
            "process-place",
        )
    return found if found.size > 1 else None


class World:
    """The processes that work together. This class is of a process that works alone."""

    rank, size, local_rank = 0, 1, 0

    @property
    def is_first(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def from_first(self, value: Any) -> Any:
        """Return the first process's JSON value; the others wait for it, for any time."""
        return value

    def from_all(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, by rank."""
        return [value]

    def agree(self, what: str, value: Any) -> None:
        """Raise `ProcessError` unless all processes have the same JSON value."""
        values = self.from_all(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ProcessError(
                    f"{named(rank, self.size)} has other {what} than the first one "
                    f"({other}, not {values[0]}); give all processes the same",
                    "processes-differ",
                )


class Group(World):
    """Several processes that work together; made by `joined`."""

    def __init__(self, where: Place, backend: str):
        self.rank, self.size, self.local_rank = where.rank, where.size, where.local_rank
        self.backend, self._messages = backend, 0
        self._where = where

    def open(self) -> None:
        """Meet the other processes. Raises `ProcessError` if they cannot be reached."""
        import torch.distributed as dist

        address, port = self._where.address, self._where.port
        # torchrun serves the store itself; else the first process does
        serves = self.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

        def connection(is_master: bool = False) -> Any:
            return dist.TCPStore(
                address, port, is_master=is_master, timeout=MEETING, wait_for_workers=False
            )

        try:
            # Three connections: none waits for an answer that another thread waits for.
            meeting = dist.PrefixStore(f"torch/{attempt}", connection(serves))
            self.store = dist.PrefixStore(f"fastseg/{attempt}", connection())
            watched = dist.PrefixStore(f"fastseg/{attempt}", connection())
            self.watch = Watch(watched, self.rank, self.size)
            self.from_all("here")  # within MEETING
            dist.init_process_group(
                self.backend,
                store=meeting,
                rank=self.rank,
                world_size=self.size,
                timeout=TIMEOUT,
            )
        except (MeetingFailed, RuntimeError, ValueError) as error:
            raise ProcessError(
                f"the {self.size} processes do not meet at {address}:{port} within "
                f"{MEETING.seconds} s; start all of them with torchrun, and let the firewall pass "
                "them",
                "no-meeting",
            ) from error
        self.watch.start()

    def close(self) -> None:
        """Leave the group: the others' collectives fail at once if they still wait."""
        import torch.distributed as dist

        self.watch.stop()
        if dist.is_initialized():
            dist.destroy_process_group()

    def from_first(self, value: Any) -> Any:
        self._messages += 1
        key = f"first/{self._messages}"
        if self.is_first:
            self.store.set(key, json.dumps(value))
        return self._read(key)

    def from_all(self, value: Any) -> list[Any]:
        self._messages += 1
        self.store.set(f"all/{self._messages}/{self.rank}", json.dumps(value))
        return [self._read(f"all/{self._messages}/{rank}") for rank in range(self.size)]

    def _read(self, key: str) -> Any:
        """Return a value that another process sets. Raises `MeetingFailed` if one fails."""
        end = None if self.watch.is_alive() else time.monotonic() + MEETING.seconds
        try:
            while not self.store.check([key]):
                late = end is not None and time.monotonic() > end
                if late or self.watch.failure is not None:
                    raise MeetingFailed
                time.sleep(POLL)
            return json.loads(self.store.get(key))
        except RuntimeError as error:  # whoever serves the store has ended
            raise MeetingFailed from error

    def part(self) -> None:
        """End together: whoever serves the store ends last."""
        self.watch.is_ending = True
        self.from_all(ENDED)
        if not self.is_first:
            return
        try:
            for rank in range(1, self.size):  # each sets it as the last thing
                self._read(f"left/{rank}")
        except MeetingFailed:  # it ended a moment too early for a message: its work is done
            return

    def explained(self, error: BaseException) -> BaseException:
        """Return the error to raise for `error`; `is_told` if another process prints it.

        The first process that fails tells the others why. One that fails because another one
        did gets that one's error.
        """
        if isinstance(error, FastsegError):
            mine = Failure(self.rank, error.code, str(error))
        elif isinstance(error, KeyboardInterrupt):
            # torchrun ends all processes by a signal when one of them has died
            return self.watch.lost(wait=False) or self._interrupted()
        elif isinstance(error, MeetingFailed):
            return self.watch.lost(wait=True) or error
        elif isinstance(error, Exception):
            mine = Failure(self.rank, "error", f"{type(error).__name__}: {error}")
        else:
            return error
        told = self.watch.tell(mine)
        if told.rank != self.rank and isinstance(error, FastsegError):
            error.is_told = True
        return error

    def _interrupted(self) -> BaseException:
        self.watch.tell(Failure(self.rank, "interrupted", "interrupted"))
        return KeyboardInterrupt()


_ALONE = World()
_world: World = _ALONE


def world() -> World:
    """Return the processes that this one works with, joined by `joined`, or itself alone."""
    return _world


@contextmanager
def joined(device: str | None) -> Iterator[World]:
    """Work with the processes that were started with this one, if there are any.

    `device` is the one asked for: GPUs meet by nccl, one for each process of a machine, and CPUs
    by gloo. Raises `ProcessError` if the processes cannot meet or one is lost, and `ModelError` if
    there are not enough GPUs.
    """
    global _world
    where = place()
    if where is None:
        yield _ALONE
        return
    # Stack traces of C++ for a connection that another process has closed; read by torch's import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    group = Group(where, backend_of(device, where.local_rank))
    group.open()
    # fastai would gather and skip things by itself if it saw these.
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    _world = group
    try:
        with _quiet(unless=group.is_first):
            yield group
            group.part()
    except BaseException as error:
        found = group.explained(error)
        if found is error:
            raise
        raise found from None
    finally:
        _world = _ALONE
        os.environ.update(hidden)
        group.close()


@contextmanager
def told_by_first() -> Iterator[None]:
    """Let the first process alone tell a mistake that each one finds by itself, before meeting."""
    try:
        yield
    except FastsegError as error:
        where = place()
        error.is_told = where is not None and where.rank > 0
        raise


@contextmanager
def _quiet(unless: bool) -> Iterator[None]:
    """Print and log nothing in this process: the first one does."""
    from ..utils.progress import console

    log = logging.getLogger(__package__.partition(".")[0])
    level, quiet = log.level, console.quiet
    if not unless:
        log.setLevel(logging.CRITICAL + 1)
        console.quiet = True
    try:
        yield
    finally:
        log.setLevel(level)
        console.quiet = quiet


def backend_of(device: str | None, local_rank: int) -> str:
    """Return the backend for a device, and choose this process's GPU.

    Raises `ModelError` for devices that several processes cannot use.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return "gloo"
    if device != "cuda":
        raise ModelError(
            f"--device {device}: several processes train on cpu, or on cuda with a GPU each",
            "processes-device",
        )
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ModelError(
            f"there are {count} GPUs for {local_rank + 1} processes or more; start at most {count} "
            "on this machine, or give --device cpu",
            "processes-device",
        )
    torch.cuda.set_device(local_rank)
    return "nccl"


def own_device(device: str | None) -> str | None:
    """Return the device of this process: its own GPU, or the CPU, if it does not work alone."""
    if isinstance(_world, Group):
        return f"cuda:{_world.local_rank}" if _world.backend == "nccl" else "cpu"
    return device


@contextmanager
def all_threads() -> Iterator[None]:
    """Compute with the threads of all processes of this machine while the others wait."""
    import torch

    count = torch.get_num_threads()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", _world.size))
    if _world.size > 1:
        torch.set_num_threads(min(count * local, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(count)

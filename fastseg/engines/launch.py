"""Starts processes of this machine that work together, by torchrun's own agent, without its log."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Seconds that processes have to end after a signal, until they are killed.
SHUTDOWN = 10
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # the network interface of this machine alone


def launch(count: int, arguments: Sequence[str]) -> dict[int, int]:
    """Run `python ARGUMENTS` in `count` processes, and return exit codes of those that failed.

    The dict is by rank, the first failure first, and empty if all succeeded; a process that a
    signal ended has its negative number. If one fails, the others are ended. Cores are divided
    between the processes, unless OMP_NUM_THREADS says how many threads each one gets. SIGINT and
    SIGTERM end all processes and raise `KeyboardInterrupt`.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with ExitStack() as stack:
        logs = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_signals_restored())
        stack.enter_context(_no_log())
        stack.enter_context(_environment(_variables(count)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            failed = sorted(error.failures.items(), key=lambda entry: entry[1].timestamp)
            return {rank: failure.exitcode for rank, failure in failed}
        except SignalException:
            raise KeyboardInterrupt from None
    return {}


def _variables(count: int) -> dict[str, str]:
    """Return the environment variables for each of `count` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    package = str(Path(__file__).parents[2])
    given = {
        "OMP_NUM_THREADS": str(max(1, (cores or 1) // count)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN),
    }
    if sys.platform in LOOPBACK:
        given["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
    given = {name: os.environ.get(name, value) for name, value in given.items()}
    # the same fastseg, wherever this process found it
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for a block; the agent passes on its own ones."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Restore what signals do: the agent sets its own handlers, and leaves them."""
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            try:
                signal.signal(number, handler)
            except ValueError:  # not the main thread: the agent has set none either
                break


@contextmanager
def _no_log() -> Iterator[None]:
    """Drop what the agent logs: tracebacks of its own for each process that fails."""
    loggers = [logging.getLogger(f"torch.distributed.{part}") for part in ("elastic", "launcher")]
    before = [(logger, logger.propagate) for logger in loggers]
    silent = logging.NullHandler()
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(silent)
    try:
        yield
    finally:
        for logger, propagate in before:
            logger.propagate = propagate
            logger.removeHandler(silent)

"""The engine that a command asks for."""

from __future__ import annotations

from ..errors import ModelError, choose
from .base import Engine

ENGINES = ("local", "ray")
RUNTIMES = ("auto", "onnx", "torch")  # values that --engine had before it was --runtime
MOST_WORKERS = 4096


def engine_of(
    name: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
) -> Engine:
    """Return the engine called `name`: "local" (the default), or "ray", which needs the extra ray.

    `workers` are processes; by default "local" works in this process, with threads, and "ray" with
    a worker for each core of the cluster. `address` is of a running cluster ("auto",
    "host:6379" or "ray://host:10001"); without it Ray starts on this machine. `num_gpus` are the
    GPUs that each worker of Ray holds. Raises `FastsegError` kinds.
    """
    if name in RUNTIMES:
        raise ModelError(
            f"--engine {name}: that option is called --runtime now; --engine is local or ray",
            "unknown-engine",
        )
    name = choose("engine", name or "local", ENGINES)
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise ModelError(
            f"--workers {workers}: give a whole number from 1 to {MOST_WORKERS}", "option-range"
        )
    if name == "ray":
        from .ray import RayEngine

        return RayEngine(workers, address, num_gpus)
    if address is not None or num_gpus:
        raise ModelError(
            "--address and --num-gpus are for --engine ray; add it, or leave them out",
            "engine-options",
        )
    from .local import LocalEngine

    return LocalEngine(workers or 1)

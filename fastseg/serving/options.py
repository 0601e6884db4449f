"""The options of `fastseg serve`, and what it needs installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import ServeError, TaskError
from ..inference.download import MAX_BYTES, MAX_PIXELS
from ..metrics.risk import ERROR_RATE

PACKAGES = ("fastapi", "prometheus_client", "python_multipart")


@dataclass(frozen=True)
class ServeOptions:
    """Limits of requests and how they are computed. Checked when it is made.

    `batch` and `latency` are None for the default of the runtime, see `batching.defaults`.
    """

    max_pixels: int = MAX_PIXELS  # of an image
    max_bytes: int = MAX_BYTES  # of a body
    max_queue: int = 128  # images that wait, without those that are computed
    batch: int | None = None  # most images computed at once
    latency: float | None = None  # ms that an image may wait for others to fill a batch
    timeout: float = 30.0  # s for a body to arrive, and for its result
    drain: float = 0.0  # s of serving after SIGTERM, with /readyz at 503
    error_rate: float = ERROR_RATE  # see `predict`
    allow_urls: bool = False
    allow_private: bool = False  # addresses, with `allow_urls`
    device: str | None = None
    runtime: str = "auto"
    precision: str | None = None

    def __post_init__(self) -> None:
        bounds = {
            "max_pixels": (1, 10**10),
            "max_bytes": (1, 2**40),
            "max_queue": (1, 10**6),
            "batch": (1, 1024),
            "latency": (0, 10_000),
            "timeout": (0.1, 3600),
            "drain": (0, 600),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                option = name.replace("_", "-")
                raise TaskError(f"--{option} {value:g}: is not from {low} to {high:g}", "limit")


def require_packages() -> None:
    """Raise `ServeError` unless the packages of the extra are installed."""
    if not all(map(find_spec, PACKAGES)):
        raise ServeError(
            "fastseg serve needs FastAPI; install the extra serve: pip install 'fastseg[serve]'",
            "no-fastapi",
        )

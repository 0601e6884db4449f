"""What `/metrics` shows: requests, times, the queue, batches, images, and the state of exports."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from .exports import Served

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "fastseg_requests",
            "Requests, by export and HTTP status",
            ["export", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "fastseg_request_seconds",
            "Seconds from a request's header to the end of its answer",
            ["export"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "fastseg_queue_seconds",
            "Seconds that images waited to be computed",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue = Gauge("fastseg_queue_length", "Images that wait", registry=self.registry)
        self.batch_size = Histogram(
            "fastseg_batch_size",
            "Images that were computed together",
            buckets=SIZES,
            registry=self.registry,
        )
        self.images = Counter(
            "fastseg_images", "Predicted images", ["export"], registry=self.registry
        )
        self.pixels = Counter(
            "fastseg_pixels", "Pixels of predicted images", ["export"], registry=self.registry
        )
        self.reloads = Counter(
            "fastseg_loads",
            "Attempts to load an export, by result",
            ["export", "result"],
            registry=self.registry,
        )
        self.damaged = Gauge(
            "fastseg_export_damaged",
            "1 if the export's files cannot be loaded, and an earlier version is served or none",
            ["export"],
            registry=self.registry,
        )

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Let the queue's length be asked for when it is shown."""
        self.queue.set_function(length)

    def loaded(self, served: Served, is_good: bool) -> None:
        """Count an attempt to load an export."""
        self.reloads.labels(served.name, "loaded" if is_good else "failed").inc()
        self.damaged.labels(served.name).set(0 if is_good else 1)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)

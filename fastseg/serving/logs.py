"""Logs of the server: one line an event, as text or as JSON, written by a thread of their own.

They have no image content and no names of files that clients send.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from logging.handlers import QueueHandler, QueueListener
from typing import Any

NAMES = ("fastseg", "uvicorn")
MOST_WAITING = 10_000  # lines; if the output takes no more, later ones are lost
FIELDS = "fields"  # attribute of a record: what JSON has beside the message


class Lines(logging.Formatter):
    """Records as one line each."""

    def __init__(self, as_json: bool):
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc)
        time = when.isoformat(timespec="milliseconds")
        fields: dict[str, Any] = getattr(record, FIELDS, {})
        text = " ".join(record.getMessage().split())
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.as_json:
            line = {"time": time, "level": record.levelname.lower(), "message": text, **fields}
            return json.dumps(line | ({"trace": trace} if trace else {}))
        told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        return f"{time} {text} {told}".rstrip() + (f"\n{trace}" if trace else "")


class _Queued(QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):  # the server goes on without its log
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # it stays in this process


@contextmanager
def logging_to(stream: Any = None, as_json: bool = False) -> Iterator[None]:
    """Write the logs of fastseg and uvicorn to `stream` (default: standard error) in a block."""
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
    writer = logging.StreamHandler(stream or sys.stderr)
    writer.setFormatter(Lines(as_json))
    listener = QueueListener(lines, writer)
    handler = _Queued(lines)
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    for one, level in zip(loggers, (logging.INFO, logging.ERROR)):
        one.handlers, one.propagate = [handler], False
        one.setLevel(level)
    listener.start()
    try:
        yield
    finally:
        for one, handlers, propagate, level in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
        listener.stop()

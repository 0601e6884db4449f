"""Images without a label, where nothing else is wrong with the data: they wait for one."""

from __future__ import annotations

import logging
from pathlib import Path

from ..data.issues import waiting
from ..errors import FastsegError
from ..tasks import Item, Task
from .store import Corrections

log = logging.getLogger(__name__)


def usable(task: Task, data: Path | str) -> tuple[list[Item], int]:
    """Return the images that can be used, and how many others only wait for a label.

    The count is 0 where something else is wrong, too, or nothing is.
    """
    try:
        items, faults = task.listed(data)
    except FastsegError:
        return [], 0
    return items, waiting(faults)


def waiting_in(task: Task, data: Path | str) -> int:
    """Return how many images without a label stop a fit, while nothing else does; 0 if none.

    In a folder that people label step by step (DIR/.fastseg) they stop none, see `let_wait`.
    """
    items, count = usable(task, data)
    return count if items else 0


def let_wait(task: Task, data: Path | str, export: Path | str | None = None) -> int:
    """Make DIR/.fastseg where only images without a label stop a fit, and return how many wait.

    The parts are frozen by `export`, as `Corrections.begin` does it. Raises `DataError` if the
    folder cannot be written.
    """
    count = waiting_in(task, data)
    if count:
        Corrections(task, data, export).begin()
        tell_waiting(data, count)
    return count


def tell_waiting(data: Path | str, count: int) -> None:
    """Say that images of a data folder wait for a label."""
    log.info(
        "%s: %d without a label: they wait for one, and do not train; label them on the page "
        "Review of fastseg app",
        data,
        count,
    )

"""Progress and time left, on standard error so that standard output stays clean for scripts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

console = Console(stderr=True, emoji=False)

SECONDS = 30  # between two lines where there is no terminal for a bar; a convention


def hide() -> None:
    """Show no progress from now on: the process is a worker of one that does."""
    console.quiet = True


def bar() -> Progress:
    """Return a progress bar with counts, elapsed and remaining time.

    It shows on a terminal only.
    """
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    )


def track(things: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield from `things`, showing progress towards `total`, with an estimate of the time left.

    Where there is no terminal, a line is logged every `SECONDS`.
    """
    start = said = time.monotonic()
    with bar() as progress:
        task = progress.add_task(description, total=total)
        for number, thing in enumerate(things, 1):
            yield thing
            progress.advance(task)
            now = time.monotonic()
            if now - said > SECONDS and not console.is_terminal:
                said = now
                left = (now - start) / number * (total - number)
                log.info("%s: %d of %d, about %.0f s left", description, number, total, left)

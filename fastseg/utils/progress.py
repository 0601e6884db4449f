"""Progress and time left, on standard error so that standard output stays clean for scripts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

log = logging.getLogger(__name__)

console = Console(stderr=True, emoji=False)
_hidden = 0  # how many, also on other threads, ask that bars and lines for each epoch be left out


@contextmanager
def hidden() -> Iterator[None]:
    """Show no bars that begin in this block, and no lines for each epoch."""
    global _hidden
    _hidden += 1
    try:
        yield
    finally:
        _hidden -= 1


def hide() -> None:
    """Show no bars, and no lines for each epoch, from now on: for one of many workers."""
    global _hidden
    _hidden += 1


def is_hidden() -> bool:
    """Return whether bars, and lines for each epoch, are left out."""
    return _hidden > 0


SECONDS = 30  # between two lines where there is no terminal for a bar; a convention


def bar() -> Progress:
    """Return a progress bar with counts, elapsed and remaining time.

    It shows on a terminal only.
    """
    from rich.progress import (  # not at the top: most commands show no bar
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=is_hidden() or not console.is_terminal,
    )


def about(seconds: float) -> str:
    """Return an estimated duration in words: "about 40 s", "about 12 min"."""
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def track(things: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Yield from `things`, showing progress towards `total`, with an estimate of the time left.

    Where there is no terminal, a line is logged every `SECONDS`. Without a `total`, both show the
    number only.
    """
    start = said = time.monotonic()
    with bar() as progress:
        task = progress.add_task(description, total=total)
        for number, thing in enumerate(things, 1):
            yield thing
            progress.advance(task)
            now = time.monotonic()
            if now - said > SECONDS and not (console.is_terminal or _hidden):
                said = now
                _log_progress(description, number, total, now - start)


def _log_progress(description: str, number: int, total: int | None, seconds: float) -> None:
    if total is None:
        log.info("%s: %d", description, number)
        return
    left = seconds / number * (total - number)
    log.info("%s: %d of %d, %s left", description, number, total, about(left))

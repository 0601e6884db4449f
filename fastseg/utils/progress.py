"""Progress and time left, on standard error so that standard output stays clean for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

console = Console(stderr=True, emoji=False)
_hidden = False  # whether bars, and lines for each epoch, are left out


@contextmanager
def hidden() -> Iterator[None]:
    """Show no bars that begin in this block, and no lines for each epoch."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


def hide() -> None:
    """Show no bars, and no lines for each epoch, from now on: for one of many workers."""
    global _hidden
    _hidden = True


def is_hidden() -> bool:
    """Return whether bars, and lines for each epoch, are left out."""
    return _hidden


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
        disable=_hidden or not console.is_terminal,
    )


def track(things: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield from `things`, showing progress towards `total`."""
    with bar() as progress:
        task = progress.add_task(description, total=total)
        for thing in things:
            yield thing
            progress.advance(task)

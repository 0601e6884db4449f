"""Progress and time left, on standard error so that standard output stays clean for scripts."""

from __future__ import annotations

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

console = Console(stderr=True, emoji=False)


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
    """Yield from `things`, showing progress towards `total`."""
    with bar() as progress:
        task = progress.add_task(description, total=total)
        for thing in things:
            yield thing
            progress.advance(task)

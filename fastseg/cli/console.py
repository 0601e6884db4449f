"""How the command line prints: lines, tables, JSON, questions; see `results` for what it prints."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..discovery.evidence import Question


class ConsoleLogHandler(logging.Handler):
    """Print log records through the progress console, so that they do not break a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        say(("warning: " if warning else "") + record.getMessage(), "yellow" if warning else None)


def say(text: str, style: str | None = None) -> None:
    """Print one line on standard error."""
    from ..utils.progress import console

    console.print(
        printable(" ".join(text.split())),
        style=style,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def as_json(value: Any, indent: int | None = 1) -> None:
    """Print a value as JSON on standard output; without `indent`, on one line."""
    typer.echo(json.dumps(value, indent=indent))


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]], title: str | None = None) -> None:
    """Print a table on standard output; None reads "absent"."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(
        *header, box=None, header_style="bold", pad_edge=False, title=title, title_justify="left"
    )
    for row in rows:
        drawn.add_row(*(_cell(value) for value in row))
    console = Console(markup=False, emoji=False)  # names are printed as they are
    if not console.is_terminal:  # do not wrap lines that a script reads
        console.width = max(console.width, 200)
    with console.capture() as printed:
        console.print(drawn)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _cell(value: Any) -> str:
    return "absent" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def is_interactive() -> bool:
    """Return whether a person can be asked: standard input and error are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: Question) -> str:
    """Ask which reading of a question is right, and return it."""
    say(f"{question.text}:", "bold")
    readings = list(question.readings)
    for number, value in enumerate(readings, 1):
        say(f"  {number}  {question.readings[value]}")
    default = readings.index(question.likelier) + 1 if question.likelier else None
    while True:
        answer = typer.prompt("which one", default, type=int, err=True)
        if 1 <= answer <= len(readings):
            return readings[answer - 1]
        say(f"give a number from 1 to {len(readings)}")


def printable(text: str) -> str:
    """Return a text with control characters, which could change the terminal, replaced by "?"."""
    return "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())

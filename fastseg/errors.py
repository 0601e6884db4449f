"""The errors that fastseg raises. Each message is one line: what is wrong, in which file, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class FastsegError(Exception):
    """A mistake that the user can correct. The CLI prints it on one line and exits with 1.

    `code` is a short stable name of what is wrong, such as "unknown-codes". Scripts and tests compare it; messages may change.
    `details` is what `--json` prints beside it: results of the part that succeeded.
    """

    code = "error"
    details: Mapping[str, object] = {}

    def __init__(self, message: object = "", code: str | None = None):
        super().__init__(message)
        if code is not None:
            self.code = code


class DataError(FastsegError):
    """Images, masks or label tables that cannot be used as they are."""

    code = "data"


class TaskError(FastsegError):
    """A task that does not exist, or that cannot do what was asked of it."""

    code = "task"


class ModelError(FastsegError):
    """A backbone, decoder, loss, optimizer or weights file that cannot be used."""

    code = "model"


class ExportError(FastsegError):
    """An export folder that is missing, damaged, foreign or too new."""

    code = "export"


class FetchError(FastsegError):
    """An image URL that cannot, or must not, be downloaded."""

    code = "fetch"


def brief(text: object) -> str:
    """Return a text from outside as messages quote it: one line of at most 100 characters that print."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in line[:100]) + (
        "..." if len(line) > 100 else ""
    )


def choose(
    kind: str,
    name: str,
    valid: Iterable[str],
    error: type[FastsegError] = ModelError,
    listed: int = 40,
) -> str:
    """Return `name` if it is one of `valid`, else raise `error` naming the nearest (and, if few, all) valid names."""
    names = sorted(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    every = f" (valid: {', '.join(names)})" if len(names) <= listed else ""
    raise error(
        f"unknown {kind} '{name}'{hint}{every}",
        f"unknown-{kind.split(' in ')[0].replace(' ', '-')}",
    )

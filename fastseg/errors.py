"""The errors that fastseg raises for mistakes that a user can correct.

A message is one line: what is wrong, in which file, what to do. Messages may change. What scripts
and tests compare is the error's `code`, which `--json` prints as {"error": {"code", "message"}}.

How codes are named:
- lower-case words joined by hyphens (kebab-case), the shortest name of what is wrong;
- a code stands for one mistake, wherever it is made ("not-writable" for any file or folder), and is
  the second argument where the error is raised; the class of the error says what it is about;
- the first word says what is wrong: no- (missing, or not possible here: no-data, no-onnx), unknown-
  (a name that does not exist, see `choose`), damaged- and unreadable- (files), not- and too-;
- without such a word, the code names the option or part whose value is wrong (folds, task-codes);
- a fault of a data file has the name of its kind in `fastseg check`, with hyphens for spaces;
- a code is never reused for another mistake, and never renamed: scripts depend on it.

A class's own code ("data", "task", "model", "export", "process", "fetch", "app", "serve") is the
fallback of errors that are raised without one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

MAX_QUOTED = 100  # characters of foreign text that a message quotes: one line of a terminal
MAX_LISTED = 40  # valid names that a message lists; if there are more, only the nearest ones
NEAREST, SIMILARITY = 3, 0.5  # most names suggested; their smallest `difflib` ratio, 0 to 1


class FastsegError(Exception):
    """A mistake that the user can correct. The CLI prints it on one line and exits with 1.

    `code` is a short stable name of what is wrong, such as "unknown-codes"; see the module's
    docstring. `details` is printed too with `--json`: results of the part that succeeded,
    or the `suggested` names for an unknown one.
    """

    code = "error"
    details: Mapping[str, object] = {}
    is_told = False  # another process of the same fit prints it

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
    """An export folder that is missing, damaged, of another task or too new."""

    code = "export"


class ProcessError(FastsegError):
    """Processes of one fit that cannot meet, that differ, or one that was lost."""

    code = "process"


class FetchError(FastsegError):
    """An image URL that cannot, or must not, be downloaded."""

    code = "fetch"


class AppError(FastsegError):
    """A request to the app in the browser, or a way to start it, that is refused."""

    code = "app"


class ServeError(FastsegError):
    """A request to `fastseg serve`, or a way to start it, that is refused."""

    code = "serve"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether there was too little memory: Python's error, or one of torch by its text."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()  # of a GPU; of the CPU
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def needs_two_images(error: BaseException) -> bool:
    """Return whether torch's batch normalisation refused a batch of one image."""
    return isinstance(error, ValueError) and "more than 1 value per channel" in str(error)


def brief(text: object) -> str:
    """Return foreign text for a message: one line of printable characters, cut to `MAX_QUOTED`."""
    line = " ".join(str(text).split())
    printable = "".join(c if c.isprintable() else "?" for c in line[:MAX_QUOTED])
    return printable + ("..." if len(line) > MAX_QUOTED else "")


def choose(
    kind: str,
    name: str,
    valid: Iterable[str],
    error: type[FastsegError] = ModelError,
    listed: int = MAX_LISTED,
) -> str:
    """Return `name` if it is one of `valid`.

    Otherwise raises `error` with code "unknown-KIND", naming the nearest valid names, and all of
    them if there are at most `listed`.
    """
    names = sorted(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=NEAREST, cutoff=SIMILARITY)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    every = f" (valid: {', '.join(names)})" if len(names) <= listed else ""
    unknown = error(
        f"unknown {kind} '{name}'{hint}{every}",
        f"unknown-{kind.split(' in ')[0].replace(' ', '-')}",
    )
    unknown.details = {"suggested": near}
    raise unknown

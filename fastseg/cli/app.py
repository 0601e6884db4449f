"""The command line: each command parses, makes one public call, and prints."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

from . import commands  # noqa: F401  # registers them
from .group import app


def main() -> None:
    """Run the command line. SIGTERM acts like Ctrl-C, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 1  # exit code if Python itself prints an exception
    if _is_command_line_process():
        atexit.register(lambda: _exit_at_once(status))  # registered first, so it is called last
    try:
        app()
    except SystemExit as end:
        status = int(end.code or 0)
        raise


def _is_command_line_process() -> bool:
    """Return whether this process is `fastseg` or `python -m fastseg`."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return "fastseg" in (file.stem, file.parent.stem if file.stem == "__main__" else "")


def _exit_at_once(status: int) -> None:
    """End the process immediately.

    Otherwise Python spends two seconds on freeing the modules of torch, fastai and timm.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the output is closed: Python's normal exit reports it
        return
    os._exit(status)


if __name__ == "__main__":
    main()

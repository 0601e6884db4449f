"""Paths as they are typed in a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path


def typed(path: Path | str) -> str:
    """Return a path, or another word of a command, as it is typed: with quotes if it needs them."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def near(path: Path | str) -> str:
    """Return a path as it is seen from the current folder, where it is below."""
    place = os.path.relpath(path)
    return str(path) if place.startswith(os.pardir) else place

"""Fits that belong together: those of a study, which its tracker compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

RUNS = "runs"  # the folder of all trackers, in the current one


@dataclass(frozen=True)
class Group:
    """Where the runs of fits belong: the group's name, and the folder, absolute."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Place:
    """The group of a fit, and its name in it."""

    group: Group
    name: str


_place: ContextVar[Place | None] = ContextVar("place", default=None)


def place_of(name: str) -> Place:
    """Return where a fit whose export has this name belongs: to its group, or alone."""
    return _place.get() or Place(Group("", Path(RUNS).absolute()), name)


@contextmanager
def placed(group: Group | None, name: str) -> Iterator[None]:
    """Let the fit in the block belong to a group, under this name."""
    token = _place.set(Place(group, name) if group else None)
    try:
        yield
    finally:
        _place.reset(token)

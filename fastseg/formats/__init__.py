"""Label files of other tools: one file a format, which reads its labels and writes them.

A new module here with a `format` is a new format; nothing else changes. `base` says what a format
is, `geometry` turns polygons into pixels and back, `cache` draws label files as masks of codes.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from ..errors import DataError, choose
from .base import Format, Labelled, Region

NOT_FORMATS = (  # modules without a format
    "base",
    "brush",
    "cache",
    "coco_writer",
    "documents",
    "geometry",
    "manifest",
    "outlines",
    "parquet",
    "paths",
    "recognise",
    "runs",
)

__all__ = ["Format", "Labelled", "Region", "get", "names"]


def names() -> list[str]:
    """Return the names of all formats: the modules of this package that define one."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(modules - {*NOT_FORMATS})


def get(name: str) -> Format:
    """Return the format called `name`. Raises `DataError` for unknown names."""
    found: Format = import_module(f"{__name__}.{choose('format', name, names(), DataError)}").format
    return found

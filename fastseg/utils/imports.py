"""Imports of torch, fastai and timm without the garbage collections that take a fifth of their
time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Pause Python's garbage collector in a block that imports the heavy libraries.

    They make a million objects that all stay. Collections during the import would go through them
    again and again and free nothing. The first one after it would, too, unless the objects are
    moved to the oldest generation, which is rarely looked at.
    """
    if not gc.isenabled():  # by the caller's own choice, or in a block within a block
        yield
        return
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if (
            len(sys.modules) > known and not gc.get_freeze_count()
        ):  # unfreeze would undo what the caller has frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()

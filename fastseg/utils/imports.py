"""How torch, fastai and timm are imported: late, and without the garbage collections that take a fifth of their import."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Run a block that imports the heavy libraries with Python's garbage collector paused.

    They make a million objects that all stay. A collection during the import would go through them again and again and free
    nothing; the first one after it would, too, unless they are moved to the oldest generation, which is rarely looked at.
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

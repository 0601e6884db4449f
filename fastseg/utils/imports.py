"""Imports of torch, fastai and timm without their warnings, and without the garbage collections
that take a fifth of their time.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

DEPRECATED = "`torch.jit.script"  # the beginning of torch's warning


@contextmanager
def importing() -> Iterator[None]:
    """Pause Python's garbage collector in a block that imports the heavy libraries.

    Deprecated calls inside the libraries, which users cannot correct, give no warning. The
    libraries create a million permanent objects. Collections during the import would scan them
    repeatedly and free nothing. So would the first one after it, unless the objects are
    moved to the oldest generation, which is rarely scanned.

    timm imports wandb where that is installed, and does not use it here: it takes seconds, and is
    left out.
    """
    if not gc.isenabled():  # disabled by the caller, or by an outer block
        yield
        return
    known = len(sys.modules)
    is_left_out = "wandb" not in sys.modules
    if is_left_out:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # Python's way to refuse an import
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
            yield
    finally:
        if is_left_out:
            del sys.modules["wandb"]
        if (
            len(sys.modules) > known and not gc.get_freeze_count()
        ):  # unfreeze would undo what the caller has frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()

"""fastai learners: `learner` for a task, `unet_learner` and `vision_learner` for any `DataLoaders`.

`options` describes the options of a fit, `preparation` checks them without torch, and `build` makes
the learner. Training is in `fastseg.training`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Callable[..., Any]:
    """Import the learners on first use, and give every task its own, such as `eye_learner`."""
    if name in ("unet_learner", "vision_learner"):
        return getattr(import_module(".build", __name__), name)
    task, _, suffix = name.rpartition("_")
    if suffix == "learner":
        from ..tasks import names
        from .preparation import learner

        if not task:
            return learner
        if task in names():
            return partial(learner, task)
    raise AttributeError(f"module {__name__} has no attribute {name}")

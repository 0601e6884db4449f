"""The tasks: one file each. A new file here, or in a folder named by FASTSEG_TASKS, is a new task; nothing else changes."""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

from ..errors import TaskError, choose
from ..types import Item, Recipe
from .base import Task
from .classification import ClassificationTask
from .segmentation import Layout, SegmentationTask

# Tasks kept outside the package become submodules of it, so that exports which name them load in any process.
__path__ += [folder for folder in os.environ.get("FASTSEG_TASKS", "").split(os.pathsep) if folder]

__all__ = [
    "ClassificationTask",
    "Item",
    "Layout",
    "Recipe",
    "SegmentationTask",
    "Task",
    "get",
    "names",
]


def names() -> list[str]:
    """Return the names of all tasks: the files of this package."""
    found = {module.name for module in pkgutil.iter_modules(__path__)} - {
        "base",
        "segmentation",
        "classification",
    }
    return sorted(name for name in found if not name.startswith("_"))


def get(name: str | Task) -> Task:
    """Return the task called `name` (a `Task` is passed through). Raises `TaskError` naming the valid ones."""
    if isinstance(name, Task):
        return name
    try:
        module = import_module(f"{__name__}.{choose('task', name, names(), TaskError)}")
    except TaskError:
        raise
    except Exception as error:  # a task's file is the user's own code, and may fail in any way
        moved = any(old in str(error) for old in ("code_counts", "unlabelled"))
        raise TaskError(
            f"the file of task '{name}' cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}); "
            + ("codes and ignore replace these fields, see the README" if moved else "correct it"),
            "task-file",
        ) from error
    task = getattr(module, "task", None)
    if not isinstance(task, Task) or task.name != name:
        raise TaskError(
            f"{module.__file__}: must define task = SegmentationTask(name='{name}', ...) "
            "or ClassificationTask(...)",
            "task-file",
        )
    return task

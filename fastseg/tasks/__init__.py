"""Tasks: one module each, with the files, the meaning of the labels and the recipe of one dataset.

A new module here, or in a folder listed in FASTSEG_TASKS, is a new task; nothing else changes.
How data are decoded is in `data`; nothing is trained, predicted or judged here.
"""

from __future__ import annotations

import os

from ..types import Item, Recipe
from .base import Task, get, names
from .classification import ClassificationTask
from .layouts import Layout
from .segmentation import SegmentationTask

# Modules in these folders become submodules, so that exports with their names load in any process.
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

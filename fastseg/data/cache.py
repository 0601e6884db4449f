"""Decoded images and labels at the training size, kept in memory while they fit."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from ..types import Dataset, Item
from ..utils.device import cache_bytes
from .images import resized, resized_codes


class Pixels:
    """Images and labels at the training size, uint8, decoded once: what fits into `budget` bytes stays in memory.

    Pickles without what it keeps, so that exports hold no image. Threads may share it.
    """

    def __init__(self, task: Dataset, size: tuple[int, int], budget: int | None = None):
        self.task, self.size, self.budget = (
            task,
            tuple(size),
            cache_bytes() if budget is None else budget,
        )
        self._forget()

    def _forget(self) -> None:
        self.kept: dict[tuple[str, Path], np.ndarray] = {}
        self.used, self._lock = 0, threading.Lock()

    def __getstate__(self) -> dict:
        return {"task": self.task, "size": self.size, "budget": self.budget}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def image(self, item: Item | Path | str) -> np.ndarray:
        """Return an item's or file's pixels at the training size, uint8 (h, w, 3)."""
        return self._get("image", item, lambda: self.task.image(item))

    def label(self, item: Item) -> np.ndarray | str:
        """Return an item's codes at the training size, uint8 (h, w), or its class by name."""
        if not self.task.has_masks:
            return self.task.class_name(item)
        return self._get("label", item, lambda: self.task.label(item))

    def keep(self, item: Item, image: np.ndarray, label: np.ndarray | int) -> None:
        """Keep what was decoded for another purpose, at the training size, while it fits."""
        self._get("image", item, lambda: image)
        if self.task.has_masks:
            self._get("label", item, lambda: label)

    def _get(self, part: str, item: Item | Path | str, read) -> np.ndarray:
        key = part, getattr(item, part, item)
        found = self.kept.get(key) if isinstance(key[1], Path) else None
        if found is not None:
            return found
        how = self.task.recipe.resize
        small = (
            resized(read(), self.size, how)
            if part == "image"
            else resized_codes(read(), self.size, how)
        )
        with self._lock:
            if (
                isinstance(item, Item)
                and key not in self.kept
                and self.used + small.nbytes <= self.budget
            ):
                self.kept[key] = small
                self.used += small.nbytes
        return small

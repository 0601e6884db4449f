"""Decoded images and labels at the training size, kept in memory while they fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..types import Dataset, Item
from ..utils.device import cache_bytes
from .images import resized, resized_codes


class Pixels:
    """Images and labels at the training size, uint8, decoded once.

    Up to `budget` bytes (default: `utils.device.cache_bytes`) stay in memory. Pickles without the
    decoded images, so that exports contain none. Thread-safe.
    """

    def __init__(self, task: Dataset, size: tuple[int, int], budget: int | None = None):
        self.task = task
        self.size = (size[0], size[1])
        self.budget = cache_bytes() if budget is None else budget
        self._clear()

    def _clear(self) -> None:
        self.kept: dict[tuple[str, Path | int], np.ndarray] = {}
        self.used = 0  # bytes
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"task": self.task, "size": self.size, "budget": self.budget}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def image(self, item: Item | Path | str) -> np.ndarray:
        """Return an item's or file's pixels at the training size, uint8 (h, w, C)."""
        if isinstance(item, Item):
            return self._get_or_read("image", item, lambda: self.task.image(item))
        found = self.kept.get(("image", item)) if isinstance(item, Path) else None
        return self._shrink("image", self.task.image(item)) if found is None else found

    def label(self, item: Item) -> np.ndarray | str:
        """Return an item's codes at the training size, uint8 (h, w), or its class by name."""
        if not self.task.has_masks:
            return self.task.class_name(item)
        return self._get_or_read("label", item, lambda: self.task.label(item))

    def keep(self, item: Item, image: np.ndarray, label: np.ndarray | int) -> None:
        """Keep an image and its label that were already decoded, if they fit into memory."""
        self._get_or_read("image", item, lambda: image)
        if self.task.has_masks:
            self._get_or_read("label", item, lambda: label)

    def _get_or_read(
        self, part: str, item: Item, read: Callable[[], np.ndarray | int]
    ) -> np.ndarray:
        """Return an item's "image" or "label", from memory or from `read`."""
        key = part, item.image if part == "image" else item.label
        found = self.kept.get(key)
        if found is not None:
            return found
        small = self._shrink(part, read())
        with self._lock:
            if key not in self.kept and self.used + small.nbytes <= self.budget:
                self.kept[key] = small
                self.used += small.nbytes
        return small

    def _shrink(self, part: str, pixels: Any) -> np.ndarray:
        resize = resized if part == "image" else resized_codes
        return resize(pixels, self.size, self.task.recipe.resize)

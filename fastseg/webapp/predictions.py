"""What the model says of single images: labels for the editor, and regions at a click.

A few are kept in memory. The order of all images is in `ordering`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FastsegError
from ..exports.card import CARD, MODEL
from ..utils.journal import stamp

if TYPE_CHECKING:
    from ..inference.clicks import Looks
    from ..inference.predictor import Predictor
    from .listing import Entry
    from .workspace import Workspace

KEPT = 6  # images whose predictions stay in memory: the current one, and some before it
KEPT_LOOKS = 2  # images that the model was asked about, with their pixels

Label = np.ndarray | int  # codes, uint8 (H, W), or a class index


class Predictions:
    """The predictions of the workspace's current export. All methods are thread-safe."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._lock = threading.Lock()
        self._labels: OrderedDict[tuple[Any, ...], Label] = OrderedDict()
        self._looks: OrderedDict[tuple[Any, ...], Looks] = OrderedDict()
        # images whose correction begins with another export's prediction: id -> that export, and
        # the current one's stamp, after whose change it no longer holds
        self._by: dict[str, tuple[Path, tuple[str, int]]] = {}

    def start_with(self, entry: Entry, export: Path) -> None:
        """Let the labels of an image be predicted by this export, until there is a newer one."""
        with suppress(FastsegError), self._lock:  # without a current export nothing differs
            self._by[entry.id] = export, export_stamp(self.workspace.export())

    def _export(self, entry: Entry) -> Path:
        current = self.workspace.export()
        with self._lock:
            export, known = self._by.get(entry.id, (current, None))
        return export if known == export_stamp(current) and (export / CARD).is_file() else current

    def label(self, entry: Entry) -> Label:
        """Return what the model says of an image; waits until it is loaded.

        Raises `FastsegError` if there is no export or the image cannot be read.
        """
        export = self._export(entry)

        def work(predictor: Predictor) -> Label:
            found = predictor.predict(entry.path).labels
            return np.asarray(found, np.uint8) if predictor.task.has_masks else int(found)

        return self._kept(self._labels, _key(export, entry), lambda: self._call(export, work))

    def label_if_known(self, entry: Entry) -> Label | None:
        """Return the label if it is in memory; never computes."""
        try:
            key = _key(self._export(entry), entry)
        except FastsegError:
            return None
        with self._lock:
            return self._labels.get(key)

    def looks(self, entry: Entry) -> Looks:
        """Return what proposes regions of an image."""
        from ..inference.clicks import Looks

        export = self.workspace.export()
        image = self.workspace.task.image(entry.item or entry.path)
        return self._kept(
            self._looks,
            _key(export, entry),
            lambda: self._call(export, lambda predictor: Looks(predictor, image)),
            KEPT_LOOKS,
        )

    def source(self, entry: Entry) -> str:
        """Return the export that predicts an image, as corrections.csv names it: folder, model's
        digest; "" without one.
        """
        try:
            folder = self._export(entry)
        except FastsegError:
            return ""
        card = self.workspace.card(folder)
        digest = card.sha256.get(MODEL, "") if card else ""
        return f"{folder.name} {digest[:12]}".strip()

    def _call(self, export: Path, work: Callable[[Predictor], Any]) -> Any:
        return self.workspace.model(export).call(work)

    def _kept(
        self, kept: OrderedDict[Any, Any], key: Any, make: Callable[[], Any], most: int = KEPT
    ) -> Any:
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        value = make()
        with self._lock:
            kept[key] = value
            while len(kept) > most:
                kept.popitem(last=False)
        return value


def export_stamp(export: Path) -> tuple[str, int]:
    """Return what changes when an export is replaced."""
    return str(export), (export / CARD).stat().st_mtime_ns


def _key(export: Path, entry: Entry) -> tuple[Any, ...]:
    return export_stamp(export), stamp(entry.path)

"""The comparison of two exports: computed on a thread, and kept as long as both are the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AppError, FastsegError, is_out_of_memory
from ..exports.card import CARD
from ..utils.io import name_below

if TYPE_CHECKING:
    from .workspace import Workspace

Key = tuple[Path, int, Path, int]  # both exports, and when their cards were written
MASK_FIGURES = ("dice", "iou", "boundary_f1")  # that the page shows
CLASS_FIGURES = ("accuracy", "roc_auc", "f1", "precision", "recall")


class Comparing:
    """The last comparison of a workspace. `state` is "idle", "running", "done" or "failed"."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._lock = threading.Lock()
        self._key: Key | None = None
        self._state, self._error = "idle", ""
        self._result: dict[str, Any] = {}

    def start(self, first: Path, second: Path) -> None:
        """Compare two exports, unless that was done. Raises `AppError` while another one runs."""
        key = _key_of(first, second)
        with self._lock:
            if self._state == "running" and self._key != key:
                raise AppError("another comparison runs; wait until it is done", "busy")
            if self._key == key and self._state in ("running", "done"):
                return
            self._key, self._state, self._error, self._result = key, "running", "", {}
        threading.Thread(target=self._work, args=(key,), daemon=True, name="compare").start()

    def told(self) -> dict[str, Any]:
        """Return the state, and the result if it is done."""
        with self._lock:
            key = self._key
            if self._state == "done" and key and key != _key_of(key[0], key[2]):
                self._key, self._state, self._result = None, "idle", {}  # of other exports
            names = {"first": self._key[0].name, "second": self._key[2].name} if self._key else {}
            return {"state": self._state, "error": self._error, **names, **self._result}

    def _work(self, key: Key) -> None:
        from ..corrections.favoured import favour_of
        from ..evaluation.pairs import pair

        try:
            found = pair(
                self.workspace.task,
                key[0],
                key[2],
                self.workspace.data,
                device=self.workspace.device,
            )
            compared = found.compared()
            names = [name_below(found.root, item.image) for item, *_ in found.errors()]
            exports = {key[2].name: key[2], key[0].name: key[0]}
            result = {
                "result": {
                    "verdict": compared["verdict"],
                    "favour": favour_of(self.workspace.task, found.root, exports, names),
                    "images": compared["images"],
                    "rows": list(_rows(compared, self.workspace.task.has_masks)),
                    "changes": [
                        {"id": id, "name": name, "first": first, "second": second}
                        for item, name, first, second in found.errors()
                        for id in [self.workspace.id_of(item)]
                    ],
                }
            }
        except FastsegError as error:
            self._end(key, "failed", str(error), {})
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                self._end(key, "failed", "an error of fastseg itself; see the terminal", {})
                raise
            self._end(key, "failed", "out of memory", {})
        else:
            self._end(key, "done", "", result)

    def _end(self, key: Key, state: str, error: str, result: dict[str, Any]) -> None:
        with self._lock:
            if self._key == key:
                self._state, self._error, self._result = state, error, result


def _rows(compared: dict[str, Any], has_masks: bool) -> Iterator[dict[str, Any]]:
    """Yield a row a figure: name, both values with their intervals, the difference with its own."""
    parts = {
        "first": compared["first"],
        "second": compared["second"],
        "difference": {**compared["difference"], "intervals": compared["intervals"]},
    }
    places: list[tuple[str, tuple[str, ...]]] = [("mean_foreground", ("mean_foreground",))]
    places += [(name, ("classes", name)) for name in compared["first"]["classes"]]
    places.append(("", ()))
    for name, place in places:
        for figure in MASK_FIGURES if has_masks else CLASS_FIGURES:
            values = {part: _value(tree, (*place, figure)) for part, tree in parts.items()}
            if any(value[0] is not None for value in values.values()):
                yield {"of": name, "figure": figure, **values}


def _value(tree: dict[str, Any], place: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the value at a place of a tree of figures, and its interval; None: it has none."""
    return _at(tree, place), _at(tree.get("intervals") or {}, place)


def _at(tree: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return None if isinstance(tree, dict) else tree


def _key_of(first: Path, second: Path) -> Key:
    return first, _written(first), second, _written(second)


def _written(export: Path) -> int:
    try:
        return (export / CARD).stat().st_mtime_ns
    except OSError:
        return 0

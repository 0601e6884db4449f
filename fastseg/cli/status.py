"""The state of each task: its data and its newest export. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.pairing import is_image
from ..errors import DataError, FastsegError, TaskError
from ..exports.card import CARD, is_unfinished, read_card
from ..tasks import get, names


def overview() -> list[dict[str, Any]]:
    """Return one dict for each task: data, newest export, and whether a fit was interrupted."""
    return [_row(name) for name in names()]


def _row(name: str) -> dict[str, Any]:
    try:
        task = get(name)
    except TaskError as error:
        return {
            "task": name,
            "kind": "faulty",
            "classes": [],
            "data": "",
            "data_state": "the task's file is faulty",
            "error": str(error),
            "images": {},
            "export": None,
            "interrupted": False,
        }
    folder = Path("data") / name
    counts: dict[str, int] = {}
    fault = None
    try:
        for item in task.items(folder):
            split = item.split or "images"
            counts[split] = counts.get(split, 0) + 1
        state = ", ".join(f"{count} {split}" for split, count in counts.items())
    except FastsegError as error:
        state = "not there" if _is_missing(folder, error) else "faulty"
        fault = None if state == "not there" else str(error)
    return {
        "task": name,
        "kind": task.kind,
        "classes": list(task.classes),
        "data": str(folder),
        "data_state": f"{folder}: {state}",
        "error": fault,
        "images": counts,
        "export": _newest_export(name),
        "interrupted": is_unfinished(Path("exports") / name),
    }


def _is_missing(folder: Path, error: FastsegError) -> bool:
    """Return whether the folder is missing, or has only notes and pictures in it."""
    if not folder.is_dir():
        return True
    if not isinstance(error, DataError) or error.code != "no-data":
        return False
    return all(
        path.is_file() and (path.suffix == ".md" or is_image(path)) for path in folder.iterdir()
    )


def _newest_export(name: str) -> str | None:
    found = []
    for card in Path("exports").glob(f"*/{CARD}"):
        try:
            if read_card(card.parent).task == name:
                found.append((card.stat().st_mtime, str(card.parent)))
        except FastsegError:
            continue  # a damaged export is no export of this task
    return max(found)[1] if found else None

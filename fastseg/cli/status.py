"""What there is: each task with the state of its data and its newest export. No torch here."""

from __future__ import annotations

from pathlib import Path

from ..errors import FastsegError, TaskError
from ..exports.card import CARD, read_card
from ..tasks import get, names


def overview() -> list[dict]:
    """Return one dict a task: task, kind, classes, data folder and its state, counts by split, export folder."""
    return [_row(name) for name in names()]


def _row(name: str) -> dict:
    try:
        task = get(name)
    except TaskError as error:
        return {
            "task": name,
            "kind": "faulty",
            "classes": [],
            "data": "",
            "data_state": str(error),
            "images": {},
            "export": None,
        }
    folder = Path("data") / name
    counts: dict[str, int] = {}
    try:
        for item in task.items(folder):
            split = item.split or "images"
            counts[split] = counts.get(split, 0) + 1
        state = f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items())
    except FastsegError as error:
        there = folder.is_dir() and any(p.name != "README.md" for p in folder.iterdir())
        state = f"{folder}: faulty ({error})" if there else f"{folder}: not there"
    return {
        "task": name,
        "kind": task.kind,
        "classes": list(task.classes),
        "data": str(folder),
        "data_state": state,
        "images": counts,
        "export": _newest_export(name),
    }


def _newest_export(name: str) -> str | None:
    found = []
    for card in Path("exports").glob(f"*/{CARD}"):
        try:
            if read_card(card.parent).task == name:
                found.append((card.stat().st_mtime, str(card.parent)))
        except FastsegError:
            continue  # a damaged export is no export of this task
    return max(found)[1] if found else None

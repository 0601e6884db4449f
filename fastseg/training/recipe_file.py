"""Writes values into the [recipe] of a task.toml; everything else in it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TaskError
from ..tasks import Task
from ..tasks.declared import TASK_FILE, find_file, task_from
from ..utils.io import atomic_file
from ..utils.shell import typed

NOTE = "found by fastseg tune"
MARK = "\ufeff"  # that some editors begin a file with


def file_of(task: str | Path | Task, found: Task) -> Path:
    """Return the task.toml that a task was read from. Raises `TaskError` if there is none."""
    file = None if isinstance(task, Task) else find_file(Path(task))
    if found.home is not None and file is None:
        file = find_file(found.home / TASK_FILE)
    if found.home is None or file is None:
        raise TaskError(
            f"--write: task {found.name} has no task.toml to write to; leave it out: the command "
            f"that trains with the best setting is printed (fastseg fit {typed(found.reference)} "
            "--arch ...)",
            "no-task-file",
        )
    return file


def recipe_text(values: Mapping[str, Any]) -> str:
    """Return a [recipe] with these values, as it stands in a task.toml."""
    import tomlkit

    table = tomlkit.table()
    for name, value in values.items():
        table[name] = _plain(value)
    return tomlkit.dumps({"recipe": table})


def write_recipe(file: Path, values: Mapping[str, Any]) -> None:
    """Replace values in the [recipe] of a task.toml, atomically; comments are kept.

    Raises `TaskError` if the task could not be read with them.
    """
    import tomlkit

    text = file.read_bytes().decode("utf-8")
    mark, text = (MARK, text[1:]) if text.startswith(MARK) else ("", text)
    document = tomlkit.parse(text)
    if "recipe" not in document:
        document["recipe"] = tomlkit.table()
    recipe: Any = document["recipe"]
    for name, value in values.items():
        if name in recipe and _plain(recipe[name]) == _plain(value):
            continue
        recipe[name] = _plain(value)
        item = recipe.item(name) if hasattr(recipe, "item") else recipe[name]
        if isinstance(recipe, tomlkit.items.Table) and not item.trivia.comment:
            item.comment(NOTE)
    written = tomlkit.dumps(document)
    task = task_from(tomlkit.parse(written).unwrap(), file.parent)
    wrong = [name for name, value in values.items() if getattr(task.recipe, name) != value]
    if wrong:
        raise TaskError(
            f"{file}: {', '.join(wrong)} cannot be written to its [recipe]; write it by hand",
            "recipe-not-written",
        )
    with atomic_file(file) as temporary:
        temporary.write_bytes((mark + written).encode("utf-8"))


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, (tuple, list)) else value

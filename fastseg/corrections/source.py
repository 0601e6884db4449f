"""What a command's TASK|DIR means."""

from __future__ import annotations

from pathlib import Path

from ..exports.folder import is_export
from ..tasks import names

TASK_FILE = "task.toml"


def is_photos(source: str | Path) -> bool:
    """Return whether a source is a folder of photographs: no task, no export, no task.toml."""
    folder = Path(source)
    return (
        str(source) not in names()
        and folder.is_dir()
        and not is_export(source)
        and not (folder / TASK_FILE).is_file()
    )

"""Finds export folders and replaces them in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ExportError
from ..tasks import Task, get, names
from ..utils.io import swap_folders
from .addresses import is_address, local
from .card import CARD, HISTORY, METRICS, MODEL, ONNX, PICKLE, is_unfinished, read_card

# What fit, evaluate and interpret write, and a new fit replaces.
WRITTEN = {
    CARD,
    MODEL,
    ONNX,
    PICKLE,
    METRICS,
    HISTORY,
    "loss_curve.png",
    "show_results.png",
    "top_losses.png",
    "confusion_matrix.png",
    "per_class.png",
    "reliability.png",
    "losses.csv",
    "images.csv",
    "suspects.csv",
    "report.html",
    "evaluation",
    "again.json",
}


def find(task: str | Task | None = None, export: Path | str | None = None) -> Path:
    """Return an export folder: the given one, else exports/TASK, else the newest below exports/.

    A given pickle is returned as it is, after its folder was found. An export from elsewhere is
    fetched, see `addresses`.
    Raises `ExportError` if there is none, or if it is of another task than the one named.
    """
    named = get(task) if task else None
    name = named.name if named else None
    if export is not None:
        folder = local(export)
    elif name is not None:
        folder = Path("exports") / name
    else:
        exports = sorted(Path("exports").glob(f"*/{CARD}"), key=lambda path: path.stat().st_mtime)
        if not exports:
            for work in sorted(Path("exports").glob(".*.fit")):
                if is_unfinished(out := work.with_name(work.name[1 : -len(".fit")])):
                    return find(export=out)
            raise ExportError(
                "exports: no export yet; train one with: fastseg fit TASK "
                "(fastseg tasks lists them)",
                "no-export",
            )
        return exports[-1].parent
    if folder.suffix == ".pkl":  # `load` checks whether it may be opened
        return find(task, folder.parent) / folder.name
    recover(folder)
    found = read_card(folder, named.reference if named else None).task
    if name and found != name:
        raise ExportError(
            f"{folder}: holds an export of task {found}, not {name}; "
            f"pass --export with one of {name}",
            "wrong-task",
        )
    return folder


def is_export(path: Path | str) -> bool:
    """Return whether a path is an export's folder, its pickle or its address, and not a task."""
    if is_address(path):
        return True
    path = Path(path)
    folder = path.parent if path.suffix == ".pkl" else path
    return (folder / CARD).is_file() and str(path) not in names()


@contextmanager
def replacing(out: Path, task: Task) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` on success; on failure, `out` is unchanged.

    The caller holds the lock of `out`.

    Files in `out` that fastseg did not write are kept. Raises `ExportError` if `out` contains no
    export but other files, another task's export, or the current folder.
    """
    target, existed = out.resolve(), out.parent.exists()
    recover(target)
    if target == Path.cwd() or target in Path.cwd().parents:
        raise ExportError(
            f"{out}: is the current folder; name a new one with --out", "out-is-current-folder"
        )
    if target.exists() and (
        not target.is_dir() or (any(target.iterdir()) and not (target / CARD).is_file())
    ):
        raise ExportError(
            f"{out}: exists and is not an export; choose another folder with --out", "not-an-export"
        )
    if (target / CARD).is_file() and _task_name_of(target) not in (task.name, None):
        raise ExportError(
            f"{out}: holds an export of task {_task_name_of(target)}; "
            "choose another folder with --out",
            "holds-export",
        )
    try:
        folder = target.with_name(f".{target.name}.part")
        # Left by a killed run: `out` is locked, so no other run writes there.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise ExportError(
            f"{out}: cannot be written ({error.strerror}); choose another folder with --out",
            "not-writable",
        ) from None
    try:
        yield folder
        folder.chmod(0o755)
        _swap(folder, target)
    except OSError as error:
        raise ExportError(
            f"{out}: cannot be written ({error.strerror or error}); what was there is unchanged",
            "not-writable",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _task_name_of(folder: Path) -> str | None:
    try:
        return read_card(folder).task
    except ExportError:  # a damaged or newer card: replacing it is what a new fit is for
        return None


def _swap(folder: Path, target: Path) -> None:
    """Replace `target` with `folder`; keep the user's own files that are in `target`."""
    if not target.exists():
        folder.rename(target)
        return
    for entry in target.iterdir():
        if entry.name not in WRITTEN:
            copy = shutil.copytree if entry.is_dir() else shutil.copy2
            copy(entry, folder / entry.name)
    for file in (folder / name for name in (MODEL, CARD)):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if not swap_folders(folder, target):
        old = _backup_path(target)
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _backup_path(target: Path) -> Path:
    """Return the temporary place of an export while another one replaces it.

    Only systems that cannot exchange folders in one step need it.
    """
    return target.with_name(f".{target.name}.old")


def recover(out: Path) -> None:
    """Restore an export that a killed run had moved away."""
    old = _backup_path(out.resolve())
    if not out.exists() and (old / CARD).is_file():
        old.rename(out.resolve())

"""A fit that was interrupted: what it was asked for, how far it came, and that it is not lost by chance."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError, FastsegError, ModelError
from ..exports.card import versions
from ..tasks import Task
from ..utils.io import is_disk_full, read_json, write_json
from ..utils.journal import files_digest

log = logging.getLogger(__name__)

ASKED = "asked.json"


def work_of(out: Path) -> Path:
    """Return the hidden folder beside an export where its fit keeps checkpoints."""
    target = out.resolve()
    return target.with_name(f".{target.name}.fit")


def is_unfinished(out: Path) -> bool:
    """Return whether a fit to `out` was interrupted after its first epoch."""
    return any(work_of(out).glob("*/checkpoint.pt"))


@contextmanager
def interruptible(
    out: Path, task: Task, given: Mapping, resume: bool | None
) -> Iterator[tuple[Path, dict]]:
    """Yield the folder for checkpoints and the arguments to fit with: the given ones, or those of the fit that goes on.

    The folder goes when the fit is done, and when it failed before the first checkpoint. Raises `ModelError` where `resume` asks
    for what is not there or for other arguments, and where it does not say what to do with an interrupted fit.
    """
    work = work_of(out)
    unfinished = is_unfinished(out)
    if resume and not unfinished:
        raise ModelError(
            f"{out}: no interrupted fit to go on with; leave --resume out", "nothing-to-resume"
        )
    if unfinished and resume is None:
        raise ModelError(
            f"{out}: an interrupted fit of {read_json(work / ASKED).get('task', task.name)} waits here: go on with --resume, "
            "or discard it with --no-resume",
            "interrupted-fit",
        )
    data = Path(
        os.path.abspath(given["data"] or f"data/{task.name}")
    )  # the run that goes on may be started elsewhere
    if resume:
        arguments = _load_interrupted_arguments(work, task, given, data)
    else:
        shutil.rmtree(work, ignore_errors=True)
        arguments = {**given, "data": data}
    existed = work.parent.exists()
    try:
        if not resume:
            items = task.items(data)  # before anything is written: a mistake leaves nothing behind
            write_json(
                work / ASKED,
                {
                    "task": task.name,
                    "given": _plain(given, data),
                    "files": _listing(items),
                    "versions": versions(),
                    "digest": _digest(_plain(given, data)),
                },
            )
        yield work, arguments
    except BaseException as error:
        if is_unfinished(out) and not isinstance(
            error, ModelError
        ):  # one that diverged would do so again
            log.warning(
                "what was learnt so far is kept; go on with: fastseg fit %s --resume%s",
                task.name,
                "" if out == Path("exports") / task.name else f" --out {out}",
            )
        else:
            _remove(work, existed)
        if is_disk_full(error) and not isinstance(error, FastsegError):
            raise DataError(
                f"{out}: cannot be written (no space left on the disk); make room", "not-writable"
            ) from error
        raise
    _remove(work, existed=True)


def _remove(work: Path, existed: bool) -> None:
    shutil.rmtree(work, ignore_errors=True)
    if not existed and work.parent.is_dir() and not any(work.parent.iterdir()):
        work.parent.rmdir()


def _plain(given: Mapping, data: Path) -> dict:
    """Return arguments as JSON keeps them, without those that were not given."""
    kept = {
        name: list(value)
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in given.items()
        if value is not None and value != _default(name)
    }
    return {**kept, "data": str(data)}


def _digest(given: Mapping) -> str:
    return hashlib.sha256(
        json.dumps(given, sort_keys=True, default=str).encode(errors="surrogateescape")
    ).hexdigest()


def _default(name: str) -> object:
    from ..learners.preparation import learner
    from .fit import fit

    for call in (fit, learner):
        if name in inspect.signature(call).parameters:
            return inspect.signature(call).parameters[name].default
    return None


def _listing(items: list) -> str:
    return files_digest(
        path for item in items for path in (item.image, item.label) if isinstance(path, Path)
    )


def _load_interrupted_arguments(work: Path, task: Task, given: Mapping, data: Path) -> dict:
    try:
        asked = read_json(work / ASKED)
        before = dict(asked["given"])
        files, made = asked["files"], asked["versions"]
        if asked["digest"] != _digest(before):
            raise ValueError("it was changed by hand")
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{work}: what was asked for cannot be read ({error}); start again with --no-resume",
            "damaged-checkpoint",
        ) from None
    if asked["task"] != task.name:
        raise ModelError(
            f"{work}: holds an interrupted fit of {asked['task']}, not of {task.name}; discard it with --no-resume",
            "interrupted-fit",
        )
    now = _plain(given, data if given["data"] else Path(before["data"]))
    other = sorted(name for name, value in now.items() if before.get(name, _default(name)) != value)
    if other:
        raise ModelError(
            f"{', '.join('--' + name.replace('_', '-') for name in other)}: another value than the interrupted fit had "
            f"({', '.join(str(before.get(name, 'none')) for name in other)}); leave it out, or start again with --no-resume",
            "resume-options",
        )
    if _listing(task.items(Path(before["data"]))) != files:
        raise ModelError(
            f"{before['data']}: the images or masks changed since the fit was interrupted; start again with --no-resume",
            "data-changed",
        )
    if made != versions():
        log.warning(
            "libraries changed since the fit was interrupted: its result may differ from an uninterrupted one"
        )
    before = {
        name: tuple(value) if isinstance(value, list) else value for name, value in before.items()
    }
    return {
        **{name: _default(name) if name not in given else given[name] for name in given},
        **before,
    }

"""Interrupted fits: stores a fit's arguments, and resumes or discards it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.unlabelled import images_without_labels
from ..errors import DataError, FastsegError, ModelError
from ..exports.card import is_unfinished, versions, work_of
from ..learners.options import OPTIONS, FitOptions, with_absolute_paths
from ..tasks import Item, Task
from ..utils.io import is_disk_full, read_json, write_json
from ..utils.journal import files_digest
from ..utils.shell import typed

log = logging.getLogger(__name__)

ASKED = "asked.json"
# Codes of errors with which an interrupted fit would end again.
USELESS = ("diverged", "damaged-checkpoint")


@dataclass(frozen=True)
class FitPlan:
    """What a fit trains, and where its export goes. Without `data`, the task's own folder."""

    task: Task
    data: Path | str | None
    options: FitOptions
    out: Path


@dataclass(frozen=True)
class FitRun:
    """A fit's folder for checkpoints (None: another process writes them), data and options."""

    folder: Path | None
    data: Path
    options: FitOptions
    again: Path | None = None  # the export that is trained on and compared, absolute
    strict: bool = False  # whether no correction may come back


@contextmanager
def interruptible(
    out: Path,
    task: Task,
    data: Path | str | None,
    given: FitOptions,
    resume: bool | None,
    again: Path | None = None,
    strict: bool = False,
) -> Iterator[FitRun]:
    """Yield the run, with the given data and options or with those of the interrupted fit.

    Its folder is deleted when the fit succeeds, fails before the first checkpoint, or would end
    with the same error again.
    Raises `ModelError` if there is nothing to resume, if options differ from the interrupted fit's,
    or if `resume` is None and there is an interrupted fit.
    """
    # The run that resumes it may be started in another folder.
    given = FitOptions(**with_absolute_paths(vars(given)))
    work = work_of(out)
    unfinished = is_unfinished(out)
    if resume and not unfinished:
        raise ModelError(
            f"{out}: no interrupted fit to resume; leave --resume out", "nothing-to-resume"
        )
    if unfinished and resume is None:
        raise ModelError(
            f"{out}: has an interrupted fit of {read_json(work / ASKED).get('task', task.name)}; "
            "resume it with --resume, or discard it with --no-resume",
            "interrupted-fit",
        )
    if resume:
        run = _interrupted_run(work, task, data, given)
        if again is not None and again != run.again:
            raise ModelError(
                f"{out}: the interrupted fit did not train on from {again}; leave --from out, or "
                "start again with --no-resume",
                "resume-options",
            )
        run = replace(run, strict=run.strict or strict)
    else:
        shutil.rmtree(work, ignore_errors=True)
        place = Path(os.path.abspath(data or task.default_data))
        run = FitRun(work, place, given, again, strict)
    existed = work.parent.exists()
    try:
        if not resume:
            _write_asked(work, run, task)
        yield run
    except BaseException as error:
        if is_unfinished(out) and getattr(error, "code", None) not in USELESS:
            log.warning(
                "what was learnt so far is kept; continue with: fastseg fit %s --resume%s",
                typed(task.reference),
                "" if out == Path("exports") / task.name else f" --out {typed(out)}",
            )
        else:
            _remove_checkpoints(work, existed)
        if is_disk_full(error) and not isinstance(error, FastsegError):
            raise DataError(
                f"{out}: cannot be written (no space left on the disk); make room", "not-writable"
            ) from error
        raise
    _remove_checkpoints(work, existed=True)


def _remove_checkpoints(work: Path, existed: bool) -> None:
    """Remove the folder for checkpoints, and the one around it unless it `existed` before."""
    shutil.rmtree(work, ignore_errors=True)
    if not existed and work.parent.is_dir() and not any(work.parent.iterdir()):
        work.parent.rmdir()


def _write_asked(work: Path, run: FitRun, task: Task) -> None:
    items = task.items(run.data)  # first, so that nothing is written if this fails
    given = {**run.options.to_json(), "data": str(run.data)}
    write_json(
        work / ASKED,
        {
            "task": task.name,
            "given": given,
            "again": str(run.again) if run.again else None,
            "strict": run.strict,
            "files": _digest_of_items(items),
            "others": _digest_of_others(run.options),
            "definition": task.definition(),
            "versions": versions(),
            "digest": _digest_of_options(given),
        },
    )


def _digest_of_options(given: Mapping[str, object]) -> str:
    text = json.dumps(given, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _digest_of_items(items: Sequence[Item]) -> str:
    return files_digest(item.files for item in items)


def _digest_of_others(options: FitOptions) -> str | None:
    """Return the digest of the images of `--unlabelled`; None without the option."""
    if options.unlabelled is None:
        return None
    return files_digest((file,) for file in images_without_labels(options.unlabelled))


def _interrupted_run(work: Path, task: Task, data: Path | str | None, given: FitOptions) -> FitRun:
    """Return the interrupted run in `work`. Raises `ModelError` if it cannot be resumed."""
    try:
        asked = read_json(work / ASKED)
        files, definition, made = asked["files"], asked["definition"], asked["versions"]
        values = dict(asked["given"])
        if asked["digest"] != _digest_of_options(values):
            raise ValueError("it was changed by hand")
        before = FitRun(
            work,
            Path(values.pop("data")),
            FitOptions.from_json(values),
            Path(asked["again"]) if asked.get("again") else None,
            bool(asked.get("strict")),
        )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{work}: the stored arguments cannot be read ({error}); start again with --no-resume",
            "damaged-checkpoint",
        ) from None
    if asked["task"] != task.name:
        raise ModelError(
            f"{work}: holds an interrupted fit of {asked['task']}, not of {task.name}; "
            "discard it with --no-resume",
            "interrupted-fit",
        )
    _check_same_options(before, data, given)
    if definition != task.definition():
        raise ModelError(
            f"{work}: the task {task.name} was edited since the fit was interrupted; "
            "start again with --no-resume",
            "task-edited",
        )
    if _digest_of_items(task.items(before.data)) != files:
        raise ModelError(
            f"{before.data}: the images or masks changed since the fit was interrupted; "
            "start again with --no-resume",
            "data-changed",
        )
    if _digest_of_others(before.options) != asked.get("others"):
        raise ModelError(
            f"{before.options.unlabelled}: the images changed since the fit was interrupted; "
            "start again with --no-resume",
            "data-changed",
        )
    if made != versions():
        log.warning(
            "libraries changed since the fit was interrupted: its result may differ from an "
            "uninterrupted one"
        )
    return before


def _check_same_options(before: FitRun, data: Path | str | None, given: FitOptions) -> None:
    """Raise `ModelError` if given data or options differ from those of the interrupted fit."""
    earlier = {
        OPTIONS[name].flag: getattr(before.options, name)
        for name in given.to_json()
        if getattr(given, name) != getattr(before.options, name)
    }
    if data is not None and os.path.abspath(data) != str(before.data):
        earlier["--data"] = before.data
    if earlier:
        values = ("none" if value is None else str(value) for value in earlier.values())
        raise ModelError(
            f"{', '.join(earlier)}: another value than the interrupted fit had "
            f"({', '.join(values)}); leave it out, or start again with --no-resume",
            "resume-options",
        )

"""`fit` in several processes of this machine: each one runs `fit`, and the first one's result."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import errors
from ..engines.launch import launch
from ..engines.liveness import named
from ..errors import FastsegError, ProcessError
from ..tasks import Task
from ..utils.imports import importing
from ..utils.io import read_json

log = logging.getLogger(__name__)

# A process of the fit. It is a program: it prints what the command line would print.
PROGRAM = "fastseg.cli.worker"
CALL, RESULT, FAILED = "call.pickle", "result.json", "failed_{}.json"


def fit_in_processes(
    count: int, task: str | Task | None, data: Path | str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Run `fit(task, data, **options)` in `count` processes; return what the first one returns.

    Raises the error of the process that failed first, and `ProcessError` if one died.
    """
    with importing():
        import cloudpickle  # fastai's own way to store functions of tasks
        import torch
    device = options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        log.info(
            "%d processes on the CPUs of one machine: one process with all cores is usually faster",
            count,
        )
    call = {
        "arguments": (task, data),
        "options": dict(options),
        "began": time.time(),  # importing the libraries is part of a time budget
        "level": logging.getLogger("fastseg").getEffectiveLevel(),
    }
    with tempfile.TemporaryDirectory(prefix="fastseg_") as name:
        folder = Path(name)
        (folder / CALL).write_bytes(cloudpickle.dumps(call))
        codes = launch(count, ["-m", PROGRAM, str(folder)])
        if not codes and (folder / RESULT).is_file():
            result: dict[str, Any] = read_json(folder / RESULT)["result"]
            return result
        raise _error(folder, count, codes)


def _error(folder: Path, count: int, codes: Mapping[int, int]) -> BaseException:
    """Return the error that a process has told, or one that says how a process ended."""
    killed = {rank: code for rank, code in codes.items() if code < 0}
    for rank in range(count):
        if (folder / FAILED.format(rank)).is_file():
            told = read_json(folder / FAILED.format(rank))
            if told["code"] == "interrupted":
                if killed:  # then the others were interrupted: that is no reason of its own
                    continue
                return KeyboardInterrupt()
            kind = getattr(errors, told["kind"], FastsegError)
            error: FastsegError = kind(told["message"], told["code"])
            error.details = told["details"]
            return error
    rank, code = next(iter((killed or codes).items()), (0, 1))
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed, see above"
    return ProcessError(
        f"{named(rank, count)} {how}, so all ended; continue after the last finished epoch with "
        "--resume",
        "lost-process",
    )

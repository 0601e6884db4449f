"""One of the processes of `fastseg fit --processes N`: `python -m fastseg.cli.worker FOLDER`."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FastsegError
from ..training.processes import CALL, FAILED, RESULT
from ..utils.io import write_json
from .options import SHORTEST_BUDGET

SECONDS_FOR_FIRST = 30.0  # that the first process gets to tell a mistake; it ends this one then


def main(folder: Path) -> int:
    """Run the fit that is described in `folder`, and return the exit code.

    The folder gets the result from the first process, or the error from the one that tells it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rank = int(os.environ["RANK"])
    call = pickle.loads((folder / CALL).read_bytes())
    if call["level"] <= logging.INFO:
        from .group import start

        start(version=False, threads=None)
    options = call["options"]
    if options.get("time_budget") is not None:
        left = options["time_budget"] - (time.time() - call["began"])
        options["time_budget"] = max(SHORTEST_BUDGET, left)
    try:
        from ..training.fit import fit  # takes seconds, in which the process may be ended

        result = fit(*call["arguments"], **options)
    except FastsegError as error:
        if not error.is_told:
            _tell(folder, rank, type(error).__name__, error.code, str(error), error.details)
        elif rank:
            with suppress(KeyboardInterrupt):  # the first process has the same mistake: it tells it
                time.sleep(SECONDS_FOR_FIRST)
        return 1
    except KeyboardInterrupt:
        if rank == 0:
            _tell(folder, rank, "FastsegError", "interrupted", "interrupted", {})
        return 130
    if rank == 0:
        write_json(folder / RESULT, {"result": result})
    return 0


def _tell(folder: Path, rank: int, kind: str, code: str, message: str, details: Any) -> None:
    told = {"kind": kind, "code": code, "message": message, "details": dict(details)}
    write_json(folder / FAILED.format(rank), told)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would spend two seconds on freeing modules

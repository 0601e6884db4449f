"""Work for tests of engines. No torch here, as conftest has it: workers start sooner."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fastseg.errors import DataError, ModelError


@dataclass(frozen=True)
class Doubling:
    """Work whose job 3 kills its worker the first time, and whose job -1 fails."""

    folder: str

    def start(self):
        return self.double

    def double(self, job):
        mark = Path(self.folder, "killed")
        if job == -1:
            raise ModelError("as it should", "expected")
        if job == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * job


@dataclass(frozen=True)
class Counting:
    """Doubles numbers. Workers die of a job in `deadly`: once, or each time without `once`."""

    deadly: int = -1
    once: Path | None = None
    wrong: int = -1
    defect: int = -1

    def start(self):
        return self.double

    def double(self, job):
        if job == self.deadly and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job == self.wrong:
            raise DataError("this job is wrong", "wrong-job")
        if job == self.defect:
            raise ZeroDivisionError
        return 2 * job, os.getpid(), os.environ.get("OMP_NUM_THREADS")

"""Work for tests of engines. No torch here: workers start sooner."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fastseg.errors import ModelError


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

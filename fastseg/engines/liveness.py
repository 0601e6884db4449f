"""Notices when one of several processes has died, so that none waits for it for ever.

Each process counts up a number in the store once a second. A collective whose other side has died
fails at once on one machine. Where it does not (a machine without power, a GPU kernel that waits,
a process that was stopped), the number stands still, and the watch ends the process. A second
thread watches the watch: the store, too, is served by a process that may have been stopped.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FastsegError, ProcessError

BEAT = 1.0  # seconds between two signs of life
# Seconds without a sign after which a process counts as lost. A choice: decoding threads delay a
# sign by tenths of a second, and all processes must end within 30 s.
SILENCE = 15.0
GRACE = 5.0  # seconds for the main thread to end by itself once another process has failed
ENDED = "ended"


def named(rank: int, size: int) -> str:
    """Return how messages call a process."""
    return f"process {rank + 1} of {size}"


@dataclass(frozen=True)
class Failure:
    """Why a process failed, as it tells the others."""

    rank: int  # of the process that tells it
    code: str
    message: str


class Watch(threading.Thread):
    """Gives signs of life, and looks for those of the other processes, on a thread of its own.

    `store` is a connection that nothing else uses.
    """

    def __init__(self, store: Any, rank: int, size: int):
        super().__init__(name="liveness", daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self.failure: Failure | None = None
        self.is_ending = False  # the work is done: others may end now
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._beats: dict[int, tuple[bytes, float]] = {}  # rank -> last sign, and when it changed
        self._looked = time.monotonic()  # when the store last answered
        self.store.set(f"who/{rank}", json.dumps([socket.gethostname(), os.getpid()]))

    def stop(self) -> None:
        """Give no more signs."""
        self._stopped.set()
        self.join(timeout=2 * BEAT)
        try:
            with self._lock:
                self.store.set(f"left/{self.rank}", json.dumps(ENDED))
        except RuntimeError:  # nobody serves the store any more, so nobody reads it
            return

    def run(self) -> None:
        """Give signs and look for others' until `stop`, or end the process if one is lost."""
        threading.Thread(target=self._guard, name="liveness guard", daemon=True).start()
        count = 0
        while not self._stopped.wait(BEAT):
            count += 1
            if time.monotonic() - self._looked > SILENCE / 2:
                self._beats.clear()  # this process was stopped, and perhaps all of them
            try:
                with self._lock:
                    self.store.set(f"beat/{self.rank}", str(count))
                    self.failure = self._told() or self.failure
                silent = self._silent()
                if silent is not None and self.failure is None:
                    self.failure = self.tell(self._loss(silent))
            except RuntimeError:  # whoever serves the store has ended
                self.failure = self.failure or self._loss(None)
            self._looked = time.monotonic()
            if self.failure is not None and not self.is_ending:
                return self._end_soon()

    def _guard(self) -> None:
        """End the process if the store does not answer."""
        silent = 0.0
        while not self._stopped.wait(BEAT):
            # Counted in steps: if this process was stopped, the time was not spent waiting.
            silent = silent + BEAT if time.monotonic() - self._looked > 2 * BEAT else 0.0
            if silent > SILENCE and self.failure is None:
                self.failure = self._loss(None)
                return self._end_soon()

    def _end_soon(self) -> None:
        """End the process unless the main thread ends the work itself, which is cleaner."""
        if self._stopped.wait(GRACE):
            return
        failure = self.failure
        if failure is not None and self._is_teller(failure):
            os.write(2, f"error: {failure.message}\n".encode())
        os._exit(1)

    def _is_teller(self, failure: Failure) -> bool:
        return failure.rank == self.rank and failure.code == "lost-process"

    def tell(self, failure: Failure) -> Failure:
        """Tell the others of a failure; return the one that was told first."""
        try:
            with self._lock:
                text = json.dumps(asdict(failure))
                told = Failure(**json.loads(self.store.compare_set("failure", "", text)))
        except RuntimeError:
            return failure
        self.failure = told
        return told

    def _told(self) -> Failure | None:
        if not self.store.check(["failure"]):
            return None
        return Failure(**json.loads(self.store.get("failure")))

    def lost(self, wait: bool) -> BaseException | None:
        """Return the error of this process if another one has failed; None if none is known.

        With `wait`, a process that has just ended is given the time to be noticed.
        """
        end = time.monotonic() + (GRACE if wait else 0)
        while True:
            try:
                with self._lock:
                    self.failure = self._told() or self.failure
                silent = self._silent()
            except RuntimeError:
                return self._error(self._loss(None))
            if self.failure is not None:
                return self._error(self.failure)
            if silent is not None:
                return self._error(self.tell(self._loss(silent)))
            if time.monotonic() >= end:
                break
            time.sleep(0.1)
        return self._error(self.tell(self._loss(None))) if wait else None

    def _error(self, failure: Failure) -> BaseException:
        if failure.code == "interrupted":
            return KeyboardInterrupt()
        kind = ProcessError if failure.code == "lost-process" else FastsegError
        error = kind(failure.message, failure.code)
        error.is_told = not self._is_teller(failure)
        return error

    def _loss(self, rank: int | None) -> Failure:
        """Return that a process is lost; None: the one that serves the store, or an unknown one."""
        who = "another process of this fit" if rank is None else named(rank, self.size)
        # Without a store, nobody can agree on who tells it; the first process may be the lost one.
        teller = self.rank if rank is not None or self.rank in (0, 1) else 0
        return Failure(
            teller,
            "lost-process",
            f"{who} ended without a message (killed, or out of memory), so all end; "
            "continue after the last finished epoch with --resume",
        )

    def _silent(self) -> int | None:
        """Return the rank of a process that has died or gives no sign, if there is one."""
        for rank in range(self.size):
            if rank == self.rank:
                continue
            with self._lock:
                if self.store.check([f"left/{rank}"]):
                    continue
                keys = [f"who/{rank}", f"beat/{rank}"]
                found = [self.store.get(key) if self.store.check([key]) else b"" for key in keys]
            if found[0] and self._is_dead(*json.loads(found[0])):
                return rank
            now = time.monotonic()
            beat, since = self._beats.get(rank, (None, now))
            if beat != found[1]:
                since = now
            self._beats[rank] = (found[1], since)
            if now - since > SILENCE:
                return rank
        return None

    def _is_dead(self, host: str, pid: int) -> bool:
        """Return whether a process of this machine has ended; False for other machines."""
        if host != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        try:  # one that has ended, but that its parent has not collected
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state == "Z"

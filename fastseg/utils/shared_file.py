"""Arrays by key in one file that all processes of a run on this machine share.

A file rather than shared memory: the system keeps in memory what it has room for and writes the
rest to the disk, a full disk is an error rather than a crash, and the processes grow by nothing.
What a killed process held is released by the system: all locks are those of open files.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: each process has a file of its own
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PREFIX = "fastseg-pixels-"  # of the folders in the system's folder for temporary files
DATA, USERS = "pixels", "users"  # the file of arrays; the file that every process has locked
FREE_SHARE = 0.5  # of the free disk space that a file may take; a convention
WAIT = 0.002  # seconds between two looks at an array that another process is making
STRIPES = 64  # locks for the threads of a process, which make different arrays at once

HEADER = struct.Struct("<QQQQ")  # bytes of the file at most, bytes used, rows, rows in use
ROW = struct.Struct("<16sQQ")  # digest of the key, where the array begins (0: free), is it written?
READY = struct.Struct("<Q")


class SharedFile:
    """uint8 arrays by key, each made once for all processes that open the same `folder`.

    The file takes up to `budget` bytes of disk space, or half of the free space, and about `count`
    arrays; what does not fit is not kept. `folder` is one that `folder_of` names; None is a new
    one, of this process and those that it tells. Thread-safe, also after a fork. The last process
    to close the file deletes it; what runs that were killed left, the next run deletes.
    Raises `OSError` where no temporary file can be written.
    """

    def __init__(self, budget: int, count: int, folder: Path | None = None):
        rows = 2 * count + 1  # half of them stay free, so that searches are short
        self._pid = os.getpid()
        self._make_locks()
        self.folder, self._users, self._file = _opened(folder, budget, rows)
        with self._locked():  # fails here, and not in the middle of a fit, where locks are missing
            pass
        self.budget, _, self._rows, _ = HEADER.unpack(self._read(0, HEADER.size))
        self._broken = False
        self.close = weakref.finalize(self, _close, self.folder, self._users, self._file, self._pid)

    @property
    def used(self) -> int:
        """Bytes of the file that are in use, by all processes together."""
        return int(HEADER.unpack(self._read(0, HEADER.size))[1])

    def __contains__(self, key: str) -> bool:
        found = self._find(_digest(key))
        return found is not None and found[2]

    def get(self, key: str, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key, uint8 of this shape: from the file, or from `make`.

        Where other threads or processes are making it, they are waited for.
        """
        digest = _digest(key)
        found = self._find(digest) or self._reserve(digest, int(np.prod(shape)))
        if found is None:
            return make()
        row, start, is_ready = found
        if is_ready:
            return self._array(start, shape)
        with self._claimed(row):
            if READY.unpack(self._read(row + ROW.size - READY.size, READY.size))[0]:
                return self._array(start, shape)
            array = np.ascontiguousarray(make())
            self._store(row, start, array)
        return array

    def _store(self, row: int, start: int, array: np.ndarray) -> None:
        try:
            self._write(start, array)
            self._write(row + ROW.size - READY.size, READY.pack(1))
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        """Keep no more arrays: the disk is full."""
        if not self._broken:
            log.warning(
                "%s: no more decoded images can be kept (%s): the others are decoded in each epoch",
                self.folder,
                error.strerror or error,
            )
        self._broken = True

    def _array(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(
            bytearray(self._read(start, int(np.prod(shape)))), dtype=np.uint8
        ).reshape(shape)

    def _find(self, digest: bytes) -> tuple[int, int, bool] | None:
        """Return a key's row (its place in the file), its array's place, and if it is written."""
        number = int.from_bytes(digest[:8], "little")
        for step in range(self._rows):
            row = HEADER.size + (number + step) % self._rows * ROW.size
            found, start, is_ready = ROW.unpack(self._read(row, ROW.size))
            if found == digest and start:
                return row, start, bool(is_ready)
            if not start:
                return None
        return None

    def _reserve(self, digest: bytes, length: int) -> tuple[int, int, bool] | None:
        """Return a key's row and place as `_find` does, new ones if it has none; None if full."""
        if self._broken or self.used + length > self.budget:
            return None
        with self._locked():
            found = self._find(digest)  # another process was faster
            budget, used, rows, count = HEADER.unpack(self._read(0, HEADER.size))
            if found is not None or used + length > budget or 2 * count >= rows:
                return found
            number = int.from_bytes(digest[:8], "little")
            row = HEADER.size + number % rows * ROW.size
            while ROW.unpack(self._read(row, ROW.size))[1]:
                number += 1
                row = HEADER.size + number % rows * ROW.size
            try:
                self._write(row, ROW.pack(digest, used, 0))
                self._write(0, HEADER.pack(budget, used + length, rows, count + 1))
            except OSError as error:
                self._stop(error)
                return None
            return row, used, False

    def _make_locks(self) -> None:
        self._threads = [threading.Lock() for _ in range(STRIPES)]
        self._table, self._seek = threading.Lock(), threading.Lock()

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:  # another thread may have held them at the fork
            self._pid = os.getpid()
            self._make_locks()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the table of keys against other threads and processes."""
        self._check_fork()
        with self._table:
            if fcntl:
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
            try:
                yield
            finally:
                if fcntl:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    @contextmanager
    def _claimed(self, row: int) -> Iterator[None]:
        """Hold one array against other threads and processes."""
        self._check_fork()
        with self._threads[row // ROW.size % STRIPES]:
            # Not a waiting lock: the system sees processes, not threads, and could find a deadlock
            # between two that make and wait for different arrays.
            while fcntl:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
                    break
                except (BlockingIOError, PermissionError):
                    time.sleep(WAIT)
            try:
                yield
            finally:
                if fcntl:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, row)

    def _read(self, start: int, length: int) -> bytes:
        """Return so many bytes; what was never written is zero."""
        if hasattr(os, "pread"):
            return os.pread(self._file, length, start).ljust(length, b"\0")
        with self._seek:
            os.lseek(self._file, start, os.SEEK_SET)
            return os.read(self._file, length).ljust(length, b"\0")

    def _write(self, start: int, content: bytes | np.ndarray) -> None:
        view = memoryview(content)  # type: ignore[arg-type]  # numpy < 2.3 declares no Buffer
        view = view.cast("B")
        while view:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._file, view, start)
            else:
                with self._seek:
                    os.lseek(self._file, start, os.SEEK_SET)
                    written = os.write(self._file, view)
            start, view = start + written, view[written:]


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).digest()


def folder_of(name: str) -> Path:
    """Return the folder for the file of all processes of this machine that know a name."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{name}"


def _opened(folder: Path | None, budget: int, rows: int) -> tuple[Path, int, int]:
    """Return the folder, and its open files: that of the users, locked, and the data.

    The first process writes a new, empty file.
    """
    _delete_abandoned()
    if folder is None or fcntl is None:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    while True:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
                raise PermissionError(13, "belongs to another user", str(folder))
            users = os.open(folder / USERS, flags, 0o600)
        except FileNotFoundError:  # the last process has just deleted it
            continue
        with contextlib.suppress(FileNotFoundError):
            if _lock_alone(users):
                _write_empty(folder / DATA, budget, rows)
            if fcntl:
                fcntl.flock(users, fcntl.LOCK_SH)
            # Between the two locks, another process may have deleted the folder.
            if os.path.samestat(os.fstat(users), os.stat(folder / USERS)):
                return folder, users, os.open(folder / DATA, flags & ~os.O_CREAT)
        os.close(users)


def _write_empty(file: Path, budget: int, rows: int) -> None:
    free = int(shutil.disk_usage(file.parent).free * FREE_SHARE)
    if free < budget:
        log.info(
            "%s: up to %.1f GiB of decoded images are kept, half of the free disk space",
            file.parent.parent,
            free / 2**30,
        )
    size = HEADER.size + rows * ROW.size
    with file.open("wb") as opened:
        opened.write(HEADER.pack(min(budget, free), size, rows, 0))
        opened.truncate(size)


def _lock_alone(users: int) -> bool:
    """Lock a file of users and return True, or return False if another process has it open."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(folder: Path, users: int, file: int, pid: int) -> None:
    """Close the files, and delete the folder if no other process has it open."""
    os.close(file)
    if fcntl is None:
        os.close(users)
        return shutil.rmtree(folder, ignore_errors=True)
    # A fork has the lock of its parent, and must not take it away.
    if os.getpid() == pid and _lock_alone(users):
        shutil.rmtree(folder, ignore_errors=True)
    os.close(users)


def _delete_abandoned() -> None:
    """Delete the folders of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if fcntl else ():
        with contextlib.suppress(OSError):
            users = os.open(folder / USERS, os.O_RDWR)
            try:
                if _lock_alone(users):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(users)

"""From a request's body to an image file: raw bytes, one file of a form, or addresses.

Bodies are limited in bytes and in the time that they take; the image's size is read from its
header before anything is decoded. Files have numbers as names, in a private folder.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from ..errors import DataError, FastsegError, ServeError
from ..inference.download import download
from ..inference.uploads import kind_of
from ..tasks import Task
from ..utils.http import limited
from .models import Addresses
from .options import ServeOptions

if TYPE_CHECKING:
    from starlette.types import Message

T = TypeVar("T")

JSON_BYTES = 2**16  # of a list of addresses
KEPT_BYTES = 2**20  # of a body in memory; what is beyond them goes to the file at once
OVERHEAD = 2**12  # bytes of a form beside its file
DOWNLOADS = 8  # at a time
HELD_BODIES = 32  # bodies of the largest size that may arrive at a time
IMAGE = "the image"  # its name in messages


class Scratch:
    """A private folder for images. Names are used again, so that nothing that remembers a path
    grows with the requests.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastseg-serve-"))
        self._free: deque[Path] = deque()
        self._count = 0

    @asynccontextmanager
    async def file(self) -> AsyncIterator[Path]:
        """Yield the path of a file that is deleted after the block."""
        if self._free:
            path = self._free.popleft()
        else:
            self._count += 1
            path = self.folder / str(self._count)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)  # quicker than a thread is reached
            self._free.append(path)

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Bodies:
    """Reads the bodies of requests within the limits of the options."""

    def __init__(self, options: ServeOptions):
        self.options = options
        self._downloads = CapacityLimiter(DOWNLOADS)
        self._held = 0  # bytes of the bodies that arrive now

    async def addresses(self, request: Request) -> list[str] | None:
        """Return the addresses that a JSON body has; None for other bodies."""
        if _kind(request) != "application/json":
            return None
        if not self.options.allow_urls:
            raise ServeError(
                "addresses are fetched with --allow-urls only; send the image", "no-urls"
            )
        body = await self._in_time(_joined(request, JSON_BYTES))
        try:
            return Addresses.model_validate(json.loads(body)).urls
        except (ValueError, RecursionError, ValidationError):
            raise ServeError(
                'the body is not {"urls": [...]} with 1 to 16 addresses', "bad-addresses"
            ) from None

    async def receive(self, request: Request, path: Path, task: Task) -> int:
        """Write the image of a request to `path`; return its bytes. Raises `FastsegError`."""
        kind, arriving = _kind(request), _Arriving(self)
        if kind == "multipart/form-data":
            work = self._form(request, path, task, arriving)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            work = self._raw(request, path, task, arriving)
        else:
            raise ServeError(
                f"Content-Type {kind[:100] or 'is missing'}: send image/*, "
                "application/octet-stream, or multipart/form-data with one file",
                "wrong-content-type",
            )
        try:
            return await self._in_time(work)
        finally:
            self._held -= arriving.bytes

    async def fetch(self, url: str, path: Path, task: Task) -> int:
        """Write the image at an address to `path`; return its bytes. Raises `FastsegError`."""

        def work() -> int:
            content = download(url, self.options.allow_private, self.options.max_bytes)
            path.write_bytes(content)
            check_image(path, task, self.options.max_pixels)
            return len(content)

        return await to_thread.run_sync(work, limiter=self._downloads)

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, self.options.timeout)
        except asyncio.TimeoutError:
            raise ServeError(
                f"the body did not arrive within {self.options.timeout:g} s", "slow-body"
            ) from None

    async def _raw(self, request: Request, path: Path, task: Task, arriving: _Arriving) -> int:
        kept = bytearray()
        async for chunk in limited(request, self.options.max_bytes):
            arriving.add(chunk)
            kept += chunk
            if len(kept) >= KEPT_BYTES:
                await run_in_threadpool(_append, path, bytes(kept))
                kept.clear()

        def end() -> int:  # one thread for both: to reach one costs more than either
            _append(path, kept)
            return self._checked(path, task)

        return await run_in_threadpool(end)

    def _checked(self, path: Path, task: Task) -> int:
        """Return the bytes of an image that has arrived. Raises `FastsegError` for no image."""
        size = path.stat().st_size
        if not size:
            raise ServeError("the body is empty; send an image", "empty-body")
        check_image(path, task, self.options.max_pixels)
        return size

    async def _form(self, request: Request, path: Path, task: Task, arriving: _Arriving) -> int:
        chunks = limited(request, self.options.max_bytes + OVERHEAD)

        async def receive() -> Message:
            chunk = await anext(chunks, None)
            arriving.add(chunk or b"")
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        part = Request(request.scope, receive)
        try:
            async with part.form(max_files=1, max_fields=4) as form:
                files = [value for value in form.values() if isinstance(value, UploadFile)]
                if len(files) != 1:
                    raise ServeError(
                        "the form has no file; send one, as file=@photo.jpg", "no-file"
                    )
                await run_in_threadpool(_copied, files[0], path)
        except (HTTPException, MultiPartException, AssertionError, KeyError) as error:
            detail = getattr(error, "detail", None) or getattr(error, "message", "")
            raise ServeError(
                f"the form cannot be read ({detail or 'damaged'}); send one file", "damaged-form"
            ) from None
        return await run_in_threadpool(self._checked, path, task)


class _Arriving:
    """Counts the bytes of a body that arrives, together with those of all others."""

    def __init__(self, bodies: Bodies):
        self.bodies, self.bytes = bodies, 0

    def add(self, chunk: bytes) -> None:
        """Count a chunk. Raises `ServeError` if the bodies that arrive are too large together."""
        self.bytes += len(chunk)
        self.bodies._held += len(chunk)
        if self.bodies._held > HELD_BODIES * self.bodies.options.max_bytes:
            raise ServeError("too many large images arrive at a time; try again", "uploads-full")


def check_image(path: Path, task: Task, most_pixels: int) -> None:
    """Raise `AppError` for what is no image or has too many pixels; its header alone is read."""
    kind_of(path, IMAGE, task, most_pixels)


def without_path(error: FastsegError, path: Path) -> FastsegError:
    """Return an error about a file of `Scratch` as one about the image that was sent."""
    if not isinstance(error, DataError):
        return error
    told = type(error)(str(error).replace(str(path), IMAGE), error.code)
    told.details = error.details
    return told


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _joined(request: Request, limit: int) -> bytes:
    return b"".join([chunk async for chunk in limited(request, limit)])


def _append(path: Path, data: bytes | bytearray) -> None:
    with path.open("ab") as file:
        file.write(data)


def _copied(upload: UploadFile, path: Path) -> None:
    upload.file.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)

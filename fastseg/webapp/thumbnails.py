"""Small pictures of the data: made when they are asked for, by few threads, and kept on disk."""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path
from starlette.responses import FileResponse, Response

from .. import __version__
from ..data.images import resized, resized_codes, save_image
from ..utils.journal import stamp
from ..utils.threads import cores

if TYPE_CHECKING:
    from .listing import Entry
    from .workspace import Workspace

SIDE = 320  # px of the longer side: sharp at 160 px on screens of double density
QUALITY = 82
MAX_AGE_SECONDS = 30 * 86400  # after which a picture that nobody asked for is deleted


class Thumbnails:
    """The small pictures of a workspace; as many are made at a time as there are cores."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.folder = user_cache_path("fastseg") / "thumbnails"
        self._definition = workspace.task.definition()
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="thumbnail")
        self._pool.submit(self._delete_old)

    async def response(self, id: str, labelled: bool, known: str | None) -> Response:
        """Return the picture of an image, or "not modified" if the browser has it (`known`)."""
        loop = asyncio.get_running_loop()
        tag, path = await loop.run_in_executor(self._pool, self._made, id, labelled, known)
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if known == tag:
            return Response(status_code=304, headers=headers)
        return FileResponse(path, media_type="image/jpeg", headers=headers)

    def _made(self, id: str, labelled: bool, known: str | None) -> tuple[str, Path]:
        """Return the tag and the file of a picture, made unless the browser or the disk has it."""
        entry = self.workspace.entry(id)
        files = (entry.path,) if entry.item is None else entry.item.files
        facts = [__version__, self._definition, stamp(*files), labelled, SIDE]
        key = hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:32]
        tag, path = f'"{key}"', self.folder / key[:2] / f"{key}.jpg"
        if known != tag and not path.is_file():
            save_image(path, self._picture(entry, labelled), quality=QUALITY)
        return tag, path

    def _picture(self, entry: Entry, labelled: bool) -> np.ndarray:
        from ..data.images import overlay
        from ..report.painting import class_colours

        task = self.workspace.task
        image, own = task.image_near(entry.item or entry.path, (SIDE, SIDE))
        scale = SIDE / max(own)
        size = max(1, round(own[0] * min(1, scale))), max(1, round(own[1] * min(1, scale)))
        if task.recipe.resize != "squish":  # the crop of a model is not the image
            image = task.image(entry.item or entry.path)
        small = resized(task.shown(image), size, "squish")
        if not labelled or entry.item is None or not task.has_masks:
            return small
        codes = resized_codes(np.asarray(task.label(entry.item), np.uint8), size, "squish")
        return overlay(small, codes, class_colours(task), hide=task.background)

    def _delete_old(self) -> None:
        """Delete pictures that are older than `MAX_AGE_SECONDS`."""
        oldest = time.time() - MAX_AGE_SECONDS
        for file in self.folder.glob("*/*.jpg"):
            with suppress(FileNotFoundError):  # another app deletes, too
                if file.stat().st_mtime < oldest:
                    file.unlink()

    def close(self) -> None:
        """Make no more pictures."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""The user's cache folder: where journals, locks and measured times are stored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from platformdirs import user_cache_path

from ..errors import DataError


def cache_path(suffix: str, *parts: object) -> Path:
    """Return a path in the cache folder, named by a digest of `parts`. Nothing is created.

    `parts` are JSON values; other objects count as their `str`.
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
    return user_cache_path("fastseg") / f"{key}.{suffix}"


def make_cache_folder() -> None:
    """Create the cache folder. Raises `DataError` if it cannot be created."""
    folder = user_cache_path("fastseg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be created ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that you can write to",
            "not-writable",
        ) from None

"""Paths in the user's cache folder, where locks, journals and measured times are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from platformdirs import user_cache_path

from ..errors import DataError


def cache_path(name: str, *parts: object) -> Path:
    """Return a path in the user's cache, which need not exist yet, named by what `parts` are."""
    key = hashlib.sha256(
        json.dumps(parts, sort_keys=True, default=str).encode(errors="surrogateescape")
    ).hexdigest()[:32]
    return user_cache_path("fastseg") / f"{key}.{name}"


def writable_cache_path(name: str, *parts: object) -> Path:
    """Return a path in the user's cache, named by what `parts` are; the user's own folders are not littered."""
    path = cache_path(name, *parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder of your own",
            "not-writable",
        ) from None
    return path

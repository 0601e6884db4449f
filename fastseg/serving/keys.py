"""Keys that requests must show: from a file or the environment, never from the command line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ServeError
from ..utils.http import same

VARIABLE = "FASTSEG_SERVE_KEYS"
SHORTEST = 16  # characters: 64 bits of hexadecimal digits


class Keys:
    """The valid keys. Without any, every request is let in."""

    def __init__(self, keys: list[str]):
        # Digests have one length, so that a comparison does not tell the length of a key either.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, headers: Mapping[str, str]) -> bool:
        """Return whether headers (names in lower case) show a key, as `Authorization: Bearer KEY`
        or `X-API-Key: KEY`.
        """
        kind, _, value = headers.get("authorization", "").partition(" ")
        given = value if kind.lower() == "bearer" else headers.get("x-api-key", "")
        found = _digest(given.strip())
        # A list, not a generator: every key is compared, whichever fits.
        return any([same(found, digest) for digest in self._digests])


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def read_keys(file: Path | None = None) -> Keys:
    """Return the keys of a file, one a line, or of FASTSEG_SERVE_KEYS, separated by commas.

    Lines that begin with # are comments. Raises `ServeError` for a file that cannot be read or has
    none, and for keys that are too short.
    """
    source = str(file) if file else VARIABLE
    if file is None:
        lines = os.environ.get(VARIABLE, "").split(",")
    else:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not a text file"
            raise ServeError(f"{file}: the keys cannot be read ({reason})", "no-keys") from None
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if file and not keys:
        raise ServeError(f"{file}: holds no keys; write one a line", "no-keys")
    short = next((number for number, key in enumerate(keys, 1) if len(key) < SHORTEST), None)
    if short:
        raise ServeError(
            f"{source}: key {short} has fewer than {SHORTEST} characters; make one with: "
            "openssl rand -hex 24",
            "short-key",
        )
    return Keys(keys)

"""Transport of exports from the hub and from web servers."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import ExportError, brief
from ..utils.hub import HUB_SECONDS, HubName, hub_errors, is_offline, offline_unless_reachable
from .archive import too_large
from .cache import MAX_BYTES, SHARED
from .card import CARD

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
SILENCE = 20.0  # seconds without a byte after which a download ends


def snapshot(name: HubName) -> tuple[Path, str]:
    """Return the folder of a revision's files in the hub's own cache, and the commit's name.

    Only the files of an export are fetched, no pickle. If the hub does not answer, the cache is
    used. Raises `ExportError`.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(name, "cannot be fetched"), offline_unless_reachable():
        lost = is_offline()
        files = Path(
            snapshot_download(name.repository, revision=name.revision, allow_patterns=list(SHARED))
        )
    if lost and not is_offline():
        log.warning("%s: the hub does not answer; the revision in the cache is used", name)
    if not (files / CARD).is_file():
        raise ExportError(
            f"{name}: is no export of fastseg (it has no {CARD}); check the name", "no-export"
        )
    return files, files.name


def download(url: str, name: str, file: Path, etag: str = "") -> str | None:
    """Download a file by http(s) and return its ETag; None if it is still `etag`.

    `name` is the address for messages. An address of https leads to no other. Raises
    `ExportError`: "not-fetched", "too-large".
    """
    import httpx

    timeout = httpx.Timeout(SILENCE, connect=HUB_SECONDS)
    headers = {"If-None-Match": etag, "Accept-Encoding": "identity"} if etag else {}
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=True, max_redirects=MAX_REDIRECTS) as to,
            to.stream("GET", url, headers=headers) as response,
            file.open("xb") as target,
        ):
            _require_secure(response, url, name)
            if response.status_code == httpx.codes.NOT_MODIFIED:
                return None
            if response.status_code != httpx.codes.OK:
                raise _not_fetched(name, f"the server answered {response.status_code}")
            for chunk in response.iter_bytes():
                target.write(chunk)
                if target.tell() > MAX_BYTES:
                    raise too_large(name)
            return response.headers.get("etag", "")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise _not_fetched(name, brief(error) or type(error).__name__) from None


def _require_secure(response: object, url: str, name: str) -> None:
    places = [*response.history, response]  # type: ignore[attr-defined]  # httpx is imported late
    if url.startswith("https:") and any(place.url.scheme != "https" for place in places):
        raise _not_fetched(name, "it leads to an address without https")


def _not_fetched(name: str, reason: str) -> ExportError:
    return ExportError(
        f"{name}: cannot be fetched ({reason}); check address and network", "not-fetched"
    )

"""Where an export is: a folder, or the address of one elsewhere, which is fetched into the cache.

hub:OWNER/NAME[@REVISION], zip:FILE or FILE.zip, https://HOST/FILE.zip, and what fsspec reaches,
such as s3://BUCKET/FOLDER or s3://BUCKET/FILE.zip. `#sha256=...` after an address pins it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..errors import ExportError, brief
from ..utils.hub import HUB, HubName, hub_name, is_offline
from ..utils.storage import ARCHIVE, is_url, split_address, store_of
from . import cache
from .archive import copy, unpack
from .card import CARD, sha256
from .remote import download, snapshot

log = logging.getLogger(__name__)

ZIP, PIN = "zip:", "#sha256="


@dataclass(frozen=True)
class Fetched:
    """An export from elsewhere, in the cache."""

    folder: Path
    # As shown: without the query, which may hold a secret; of a hub, with the commit if known.
    address: str
    name: str  # for a folder of its own: the repository's, the file's or the folder's
    sha256: str  # of the zip archive, or of card.json, which names those of the other files


def is_address(export: Path | str) -> bool:
    """Return whether an export is named by an address, and not by its folder or pickle."""
    text = str(export)
    is_zip = text.partition(PIN)[0].lower().endswith(ARCHIVE) and not Path(text).is_dir()
    return text.startswith((HUB, ZIP)) or is_url(text) or is_zip


def own_folder(export: Path | str) -> Path:
    """Return the folder of an export that a command writes to.

    Raises `ExportError` "export-elsewhere" for the address of one that would have to be fetched.
    """
    if is_address(export):
        name = shown(str(export))
        raise ExportError(
            f"{name}: is not in a folder of your own, to which this command could write; fetch it: "
            f"fastseg pull {name}",
            "export-elsewhere",
        )
    return Path(export)


def local(export: Path | str) -> Path:
    """Return the local folder of an export: its own, or that in the cache of one from elsewhere.

    The log shows its SHA-256. Raises `ExportError`, and `DataError` for other stores.
    """
    if not is_address(export):
        return Path(export)
    found = fetch(str(export))
    log.info("%s: SHA-256 %s", found.address, found.sha256)
    return found.folder


def fetch(address: str) -> Fetched:
    """Fetch an export into the cache, if it is not there as it is now, and return its folder.

    With --offline or HF_HUB_OFFLINE, only the cache is used. Raises `ExportError`: "hub-name",
    "export-address", "wrong-sha256", "not-fetched", "exchanged-file" and others.
    """
    place, at, pin = address.partition(PIN)
    if at and not re.fullmatch("[0-9a-f]{64}", pin := pin.lower()):
        raise ExportError(
            f"{brief(shown(place))}: {PIN} is followed by the 64 digits of a SHA-256",
            "export-address",
        )
    if place.startswith(HUB):
        return _from_hub(place, pin)
    if is_url(place):
        return _from_url(place, pin)
    file = Path(place.removeprefix(ZIP))
    if not file.is_file():
        raise ExportError(f"{file}: no such file; check the path", "no-such-path")
    key = _pinned(sha256(file), pin, str(file))
    folder = cache.intact(key, str(file)) or cache.keep(
        key, str(file), partial(unpack, file, str(file))
    )
    return Fetched(folder, str(file), _name_of(file.name), key)


def shown(address: str) -> str:
    """Return an address for messages: without a query, which may be a key that signs it."""
    return address.partition("?")[0]


def _from_hub(place: str, pin: str) -> Fetched:
    name = hub_name(place)
    own = _name_of(name.repository.partition("/")[2])
    known = cache.known(place)
    if pin and (cached := cache.intact(pin, place)):
        revision = known.get("stamp") if known.get("sha256") == pin else name.revision
        return Fetched(cached, str(HubName(name.repository, revision)), own, pin)
    files, commit = snapshot(name)
    key = _pinned(sha256(files / CARD), pin, place)
    folder = cache.intact(key, place)
    new = {"sha256": key, "stamp": commit}
    if folder is None or known != new:  # a commit can keep the card and exchange other files
        folder = cache.keep(key, place, lambda empty: _copy_files(files, empty, place))
        cache.note(place, **new)
    return Fetched(folder, str(HubName(name.repository, commit)), own, key)


def _copy_files(files: Path, folder: Path, name: str) -> None:
    for file in cache.SHARED:
        if (files / file).is_file():
            with (files / file).open("rb") as source, (folder / file).open("xb") as target:
                copy(source, target, name)


def _from_url(place: str, pin: str) -> Fetched:
    """Fetch an archive by http(s), or an archive or folder from a store."""
    place = place.rstrip("/")
    parts = urlsplit(place)
    name = shown(place)
    if parts.username or parts.password:
        raise ExportError(
            f"{parts.scheme}://{parts.hostname}: an address with a user name or password is not "
            "fetched; put them into ~/.netrc, or give an address that is signed",
            "export-address",
        )
    own = _name_of(PurePosixPath(parts.path).name or parts.netloc)
    known = cache.known(place)
    key = pin or known.get("sha256", "")
    cached = cache.intact(key, name) if re.fullmatch("[0-9a-f]{64}", key) else None
    if cached and (pin or is_offline()):
        return Fetched(cached, name, own, key)
    if is_offline():
        raise ExportError(
            f"{name}: is not in the cache, and nothing is fetched offline", "not-fetched"
        )
    stamp = known.get("stamp", "") if cached else ""
    get = _archive if parts.scheme in ("http", "https") or _is_zip(place) else _folder
    with cache.temporary() as empty:
        found = get(place, name, empty, stamp)
        if found is None and cached:
            return Fetched(cached, name, own, key)
        assert found is not None, "it is new, or has the stamp of the cached one"
        key, stamp, fill = found
        folder = cache.intact(_pinned(key, pin, name), name) or cache.keep(key, name, fill)
    cache.note(place, sha256=key, stamp=stamp)
    return Fetched(folder, name, own, key)


Found = tuple[str, str, Callable[[Path], None]]  # SHA-256, stamp, and what writes the files


def _archive(place: str, name: str, empty: Path, stamp: str) -> Found | None:
    """Fetch an archive into `empty`; None if its stamp is still `stamp`."""
    file = empty / "export.zip"
    if place.startswith(("http://", "https://")):
        new = download(place, name, file, stamp)
        if new is None:
            return None
    else:
        store, own = split_address(place)
        entry = store.entry(own)
        if entry is None:
            raise ExportError(f"{name}: no such file; check the address", "no-such-path")
        new = entry.stamp
        if stamp and new == stamp:
            return None
        with store.open(own) as source, file.open("xb") as target:
            copy(source, target, name)
    return sha256(file), new, partial(unpack, file, name)


def _folder(place: str, name: str, empty: Path, stamp: str) -> Found | None:
    """Fetch the card of an export's folder in a store; the other files when they are written."""
    store = store_of(place)
    entry = store.entry(CARD)
    if entry is None:
        raise ExportError(
            f"{name}: holds no export ({CARD} is not there); check the address, or give that of a "
            f"{ARCHIVE} file",
            "no-export",
        )
    if stamp and entry.stamp == stamp:
        return None
    card = empty / CARD
    with store.open(CARD) as source, card.open("xb") as target:
        copy(source, target, name)

    def fill(folder: Path) -> None:
        card.rename(folder / CARD)
        for file in cache.SHARED[1:]:
            if store.entry(file) is not None:
                with store.open(file) as source, (folder / file).open("xb") as target:
                    copy(source, target, name)

    return sha256(card), entry.stamp, fill


def _pinned(found: str, pin: str, name: str) -> str:
    """Return the SHA-256 that was found. Raises `ExportError` if another one is expected."""
    if pin and found != pin:
        raise ExportError(
            f"{name}: has SHA-256 {found}, not {pin}; it was changed, or the pin is of another one",
            "wrong-sha256",
        )
    return found


def _is_zip(place: str) -> bool:
    return shown(place).lower().endswith(ARCHIVE)


def _name_of(name: str) -> str:
    """Return a name as that of a folder."""
    stem = name[: -len(ARCHIVE)] if name.lower().endswith(ARCHIVE) else name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:100] or "export"

"""`fastseg pull`: an export from elsewhere, as a folder of your own."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError
from ..exports.addresses import fetch, is_address
from ..exports.cache import SHARED
from ..exports.card import CARD, sha256
from ..exports.earlier import keep
from ..exports.folder import replacing
from ..exports.read import card_of, task_of
from ..utils.locks import write_lock


@dataclass(frozen=True)
class Pulled:
    """The result of `pull`."""

    export: Path
    source: str  # the address; of the hub, with the commit if known
    sha256: str  # of the zip archive, or of card.json, which names those of the other files
    files: dict[str, str]  # name -> SHA-256
    before: Path | None  # where the export is that was replaced


def pull(source: str, out: Path | str | None = None) -> Pulled:
    """Fetch an export from elsewhere, and write it to the folder `out` (default: exports/NAME).

    `source` is an address: "hub:me/eye@v1", "eye.zip", "https://.../eye.zip", "s3://bucket/eye".
    Each file is checked by the card's SHA-256. Another export in `out` is kept in .earlier beside
    it, and `restore` takes it back. Raises `ExportError` kinds.
    """
    if not is_address(source):
        raise ExportError(
            f"{source}: is no address of an export; give one such as hub:me/eye, eye.zip, "
            "https://example.org/eye.zip or s3://bucket/eye",
            "no-address",
        )
    found = fetch(str(source))
    task = task_of(card_of(found.folder))
    target = Path(out) if out is not None else Path("exports") / found.name
    before = None
    with write_lock(target):
        if (target / CARD).is_file() and sha256(target / CARD) != sha256(found.folder / CARD):
            with suppress(ExportError):  # a damaged one, which is replaced
                before = keep(target)
        with replacing(target, task) as folder:
            files = [name for name in SHARED if (found.folder / name).is_file()]
            for name in files:
                shutil.copyfile(found.folder / name, folder / name)
    digests = {name: sha256(target / name) for name in files}
    return Pulled(target, found.address, found.sha256, digests, before)

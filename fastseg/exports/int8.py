"""The 8-bit model that `fastseg export --to onnx-int8` writes beside an export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..utils.choices import INT8
from ..utils.io import read_json
from ..utils.shell import typed
from .cache import is_cached
from .card import ONNX, Card, sha256

PARITY = "parity.json"  # in a conversion's folder: what it is of, and how it was judged


def conversion_folder(export: Path, target: str) -> Path:
    """Return where the conversion of an export to `target` is written if nobody names a folder."""
    export = Path(os.path.abspath(export))
    return export.with_name(f"{export.name}_{target}")


def int8_file(export: Path, card: Card) -> Path:
    """Return the file of the 8-bit model beside an export, or beside the folder that it links to.

    Raises `ExportError` if there is none, if it is of another model, if the comparison with the
    export refused it, or if the file is not the one that was compared.
    """
    advice = f"run fastseg export {typed(export)} --to {INT8}"
    if is_cached(export):
        raise ExportError(
            f"{export}: an export in the cache has no 8-bit model; fetch it into a folder of yours "
            f"with fastseg pull, and run fastseg export there with --to {INT8}",
            "no-int8",
        )
    folder = conversion_folder(export, INT8)
    if export.is_symlink() and not folder.exists():
        folder = conversion_folder(export.resolve(), INT8)
    if not (folder / PARITY).is_file():
        raise ExportError(f"{folder}: no such folder of an 8-bit model; {advice}", "no-int8")
    known = read_json(folder / PARITY)
    if _object(known, "export_sha256").get(ONNX) != card.sha256.get(ONNX):
        raise ExportError(f"{folder}: is the 8-bit model of another training; {advice}", "no-int8")
    if _object(known, "gate").get("passed") is not True:
        raise ExportError(
            f"{folder}: it was kept by --force: its Dice falls too far, or nothing was compared, "
            "so it is not used; choose --runtime auto",
            "not-the-same-model",
        )
    file = folder / ONNX
    if not file.is_file() or _object(known, "sha256").get(ONNX) != sha256(file):
        raise ExportError(
            f"{file}: is not the file that was compared with the export; {advice}",
            "exchanged-file",
        )
    return file


def _object(known: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object under `key`, or {}: somebody may have edited the file."""
    value = known.get(key)
    return value if isinstance(value, dict) else {}

"""The 8-bit model that `fastseg export --to onnx-int8` writes beside an export."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ExportError
from ..utils.choices import INT8
from ..utils.io import read_json
from .card import ONNX, Card, sha256

PARITY = "parity.json"  # in a conversion's folder: what it is of, and how it was judged


def conversion_folder(export: Path, target: str) -> Path:
    """Return where the conversion of an export to `target` is written if nobody names a folder."""
    export = Path(os.path.abspath(export))
    return export.with_name(f"{export.name}_{target}")


def int8_file(export: Path, card: Card) -> Path:
    """Return the file of the 8-bit model beside an export.

    Raises `ExportError` if there is none, if it is of another model, if the comparison with the
    export refused it, or if the file is not the one that was compared.
    """
    folder = conversion_folder(export, INT8)
    advice = f"run fastseg export {export} --to {INT8}"
    if not (folder / PARITY).is_file():
        raise ExportError(f"{folder}: no such folder of an 8-bit model; {advice}", "no-int8")
    known = read_json(folder / PARITY)
    parts = {key: known.get(key) for key in ("export_sha256", "sha256", "gate")}
    of, files, gate = (part if isinstance(part, dict) else {} for part in parts.values())
    if of.get(ONNX) != card.sha256.get(ONNX):
        raise ExportError(f"{folder}: is the 8-bit model of another training; {advice}", "no-int8")
    if gate.get("passed") is not True:
        raise ExportError(
            f"{folder}: its masks were not found equal to the export's, so it is not used; "
            "choose --runtime auto",
            "not-the-same-model",
        )
    if not (folder / ONNX).is_file() or files.get(ONNX) != sha256(folder / ONNX):
        raise ExportError(
            f"{folder / ONNX}: is not the file that was compared with the export; {advice}",
            "exchanged-file",
        )
    return folder / ONNX

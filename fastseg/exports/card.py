"""The card of an export: describes its model. Cards may be malicious: each field is checked."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data.reading import FEWEST, MOST, RGB
from ..errors import ExportError, brief
from ..tasks import names
from ..utils.io import write_json
from .residuals import is_measures

# Bit depth by which earlier versions, whose cards have no depth, scaled every 16-bit image.
EARLIER_DEPTH = 16
# The card's version: raise it when a field changes its meaning, and add a migration to `read_card`.
SCHEMA = 1
CARD, MODEL, PICKLE, METRICS, HISTORY = (
    "card.json",
    "model.safetensors",
    "export.pkl",
    "metrics.json",
    "history.csv",
)
ONNX = "model.onnx"
NORMALISATION = "normalisation"  # metadata of `MODEL`: [mean, std] as JSON
PROGRESS = "progress.json"  # of a fit that runs, beside its checkpoint


@dataclass
class Card:
    """All data needed to use, evaluate and reproduce a trained model, without executable code."""

    schema: int
    fastseg: str
    task: str
    kind: str
    classes: list[str]
    palette: list[list[int]] | None
    network: dict[str, Any]  # `models.network.Spec`
    size: list[int]  # (height, width) in px
    resize: str
    mean: list[float]
    std: list[float]
    data: str  # folder it was trained on, relative to the export; absolute in earlier exports
    train_images: int
    valid_files: list[str]  # relative to `data`
    weights_origin: str
    seed: int
    training: dict[str, Any]  # loss, opt, bs, precision, epochs, lr, seconds
    versions: dict[str, str]
    created: str
    licence: str = ""  # of the weights that training began with, where it is known
    tta: bool = False  # whether predictions average the image and its mirror image
    flip_shift: int = 0  # px by which the mirror image's mask moves right
    depth: int | None = None  # bits of the values of 16-bit images in its data, if there were any
    # (down, across) distance of neighbouring pixels in mm, where it is the same in all its images
    spacing: list[float] | None = None
    channels: int = 3  # of the images as the model sees them
    # The task's definition (see `tasks.declared`); None if the task has code of its own.
    definition: dict[str, Any] | None = None
    declared: bool = False  # whether the task is its definition, not one that is installed
    temperature: float = 1.0  # by which logits are divided for calibrated probabilities
    # Error rate -> expected error above which a person should review the image.
    review: dict[str, float] = field(default_factory=dict)
    # What held-out images say about measures, see `measuring.calibration`; {} if it is not known.
    measures: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None  # where the card was read from or will be; not written

    @property
    def data_folder(self) -> Path | None:
        """The folder it was trained on, which may not exist here; None if it is not known."""
        if not self.data or self.folder is None:
            return None
        return Path(os.path.normpath(self.folder.resolve() / self.data))

    def has_data_in(self, folder: Path) -> bool:
        """Return whether it was trained on the data in this folder; a copy of them is another."""
        return self.data_folder is not None and self.data_folder.resolve() == folder.resolve()

    @property
    def is_adopted(self) -> bool:
        """Whether the model was adopted and not trained further by fastseg."""
        return "adopted_from" in self.training


STORED = tuple(entry.name for entry in fields(Card) if entry.name != "folder")


def versions() -> dict[str, str]:
    """Return the versions that an export's behaviour depends on."""
    from importlib.metadata import version

    names = ("fastai", "torch", "timm", "segmentation_models_pytorch", "numpy", "pillow")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def read_history(path: Path) -> list[dict[str, float]]:
    """Return an export's history.csv, one dict for each epoch; an empty list if there is no file.

    Values that were not recorded are nan.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def seal(card: Card, folder: Path) -> None:
    """Write the card with the SHA-256 of the export's files."""
    card.sha256 = {
        name: sha256(folder / name)
        for name in (MODEL, ONNX, PICKLE, HISTORY, METRICS)
        if (folder / name).is_file()
    }
    write_json(folder / CARD, {name: getattr(card, name) for name in STORED})


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else (hashlib.sha256(file.read()).hexdigest())
        )


def _number_list_check(
    count: int, low: float, high: float, kind: type | tuple[type, ...] = (int, float)
) -> Callable[[Any], bool]:
    return lambda v: (
        isinstance(v, list)
        and len(v) == count
        and all(
            type(n) in (kind if isinstance(kind, tuple) else (kind,)) and low <= n <= high
            for n in v
        )
    )


def _is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_arch(value: Any) -> bool:
    """Return whether a value is one of timm's own names.

    timm downloads names with a colon or slash: the author of a card could choose the address.
    """
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,100}", value) is not None


def _is_classes(value: Any) -> bool:
    return (
        _is_string_list(value)
        and 1 <= len(value) <= 255
        and all(0 < len(name) <= 200 for name in value)
    )


def _is_merge(value: Any, count: Any) -> bool:
    """Return whether a value is None, or `count` groups of class indices with each index once."""
    if value is None:
        return True
    if not (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(group, list) and group for group in value)
    ):
        return False
    indices = [index for group in value for index in group]
    return (
        len(indices) <= 10_000
        and all(type(i) is int for i in indices)
        and sorted(indices) == list(range(len(indices)))
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and _number_list_check(2, 1, 8192, int)(value)


def _is_pyramid(value: Any) -> bool:
    """Return whether a value is None, or arguments of `models.pyramid.Pyramid` of fair sizes."""
    if value is None:
        return True
    if not isinstance(value, dict) or set(value) - {"fixed"} != {"indices", "options", "multiple"}:
        return False
    indices, options = value["indices"], value["options"]
    sizes = [value["fixed"]] if "fixed" in value else []
    if isinstance(options, dict) and "img_size" in options:
        side = options["img_size"]
        sizes.append([side, side] if type(side) is int else side)
    return (
        isinstance(indices, list)
        and 1 <= len(indices) <= 10
        and all(type(index) is int and 0 <= index < 1000 for index in indices)
        and type(value["multiple"]) is int
        and 1 <= value["multiple"] <= 1024
        and isinstance(options, dict)
        and all(type(v) is bool for name, v in options.items() if name != "img_size")
        and set(options) <= {"dynamic_img_size", "strict_img_size", "img_size"}
        and all(map(_is_size, sizes))
    )


def _is_network(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) - {"members", "channels"}
        == {"kind", "arch", "n_out", "decoder", "stride", "options"}
        and type(value.get("members", 1)) is int
        and 1 <= value.get("members", 1) <= 100
        and _is_arch(value["arch"])
        and isinstance(value["options"], dict)
        and _is_arch(value["options"].get("encoder_name", "x"))
        and _is_merge(value["options"].get("merge"), value["n_out"])
        and _is_pyramid(value["options"].get("pyramid"))
        and type(value["n_out"]) is int
        and 1 <= value["n_out"] <= 255
        and type(value["stride"]) is int
        and 1 <= value["stride"] <= 1024
    )


# The valid values of each field: no card may crash the reader or use up its memory.
_FORMS: dict[str, Callable[[Any], bool]] = {
    "task": lambda v: isinstance(v, str),
    "kind": lambda v: v in ("segment", "classify"),
    "classes": _is_classes,
    "palette": lambda v: (
        v is None or (isinstance(v, list) and all(_number_list_check(3, 0, 255, int)(c) for c in v))
    ),
    "network": _is_network,
    "size": _number_list_check(2, 1, 8192, int),
    "resize": lambda v: v in ("squish", "crop"),
    "mean": lambda v: isinstance(v, list) and _number_list_check(len(v), -10, 10)(v),
    "std": lambda v: isinstance(v, list) and _number_list_check(len(v), 1e-6, 10)(v),
    "spacing": lambda v: v is None or _number_list_check(2, 1e-6, 1e6)(v),
    "channels": lambda v: type(v) is int and FEWEST <= v <= MOST,
    "data": lambda v: isinstance(v, str),
    "train_images": lambda v: type(v) is int,
    "valid_files": _is_string_list,
    "weights_origin": lambda v: isinstance(v, str),
    "licence": lambda v: isinstance(v, str) and len(v) <= 500,
    "seed": lambda v: type(v) is int,
    "training": lambda v: isinstance(v, dict),
    "fastseg": lambda v: isinstance(v, str),
    "versions": lambda v: isinstance(v, dict),
    "created": lambda v: isinstance(v, str),
    "metrics": lambda v: isinstance(v, dict),
    "tta": lambda v: type(v) is bool,
    "flip_shift": lambda v: type(v) is int and abs(v) < 32,
    "depth": lambda v: v is None or (type(v) is int and 1 <= v <= 16),
    "definition": lambda v: v is None or isinstance(v, dict),
    "declared": lambda v: type(v) is bool,
    "temperature": lambda v: type(v) in (int, float) and 0.01 <= v <= 100,
    "review": lambda v: isinstance(v, dict) and _number_list_check(len(v), -1, 1)(list(v.values())),
    "measures": is_measures,
    "sha256": lambda v: isinstance(v, dict) and _is_string_list(list(v.values())),
}


def work_of(out: Path) -> Path:
    """Return the hidden folder next to an export where its fit keeps checkpoints."""
    target = out.resolve()
    return target.with_name(f".{target.name}.fit")


def is_unfinished(out: Path) -> bool:
    """Return whether a fit to `out` was interrupted after its first epoch."""
    return any(work_of(out).glob("*/checkpoint.pt"))


def _no_card(folder: Path, task: str | None) -> ExportError:
    """Return the error for a folder without a card: what is there, and which command helps."""
    model = next((name for name in (MODEL, ONNX, PICKLE) if (folder / name).is_file()), None)
    if model:
        return ExportError(
            f"{folder / CARD}: missing beside {model}; copy the whole folder of the export",
            "missing-card",
        )
    name = task or (folder.name if folder.name in names() else "TASK")
    is_default = folder.resolve() == (Path("exports") / Path(name).name).resolve()
    command = f"fastseg fit {name}" + ("" if is_default else f" --out {folder}")
    if is_unfinished(folder):
        return ExportError(
            f"{folder}: no export here; an interrupted fit waits: {command} --resume", "no-export"
        )
    return ExportError(f"{folder}: no export here; train one with: {command}", "no-export")


def read_card(folder: Path | str, task: str | None = None) -> Card:
    """Read and check an export's card. `task` is the expected task, as commands name it.

    Raises `ExportError` if it is missing, damaged, or newer than this fastseg.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise _no_card(Path(folder), task)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = int(values["schema"])
        if schema < 1:
            raise ValueError(f"there is no card version {schema}")
        if schema > SCHEMA:
            raise ExportError(
                f"{path}: written by a newer fastseg ({values.get('fastseg')}, card version "
                f"{schema}; this one reads up to {SCHEMA}); upgrade fastseg to "
                f"{values.get('fastseg')} or later",
                "newer-card",
            )
        values.setdefault("depth", EARLIER_DEPTH)
        card = Card(**{name: values[name] for name in STORED if name in values})
        card.folder = Path(folder)
        faulty = [name for name, is_right in _FORMS.items() if not is_right(getattr(card, name))]
        counts = {len(card.mean), len(card.std), card.network.get("channels", RGB)}
        faulty += ["channels"] if not faulty and counts != {card.channels} else []
        if faulty:
            raise ValueError(f"wrong value of {', '.join(faulty)}")
        return card
    except (ValueError, KeyError, TypeError, OSError, RecursionError, OverflowError) as error:
        raise ExportError(
            f"{path}: the card cannot be read ({brief(error)}); fit again", "damaged-card"
        ) from None

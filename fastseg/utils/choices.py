"""Valid values of options: names of decoders, losses and optimizers, sizes, weights.

No torch here: mistakes in options are found before it is imported.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from ..errors import DataError, ModelError, choose

DECODERS = (
    "light",
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "fastai",
)
LOSSES = ("ce", "wce", "dice", "focal", "lovasz", "tversky")
OPTIMIZERS = ("adam", "adamw", "sgd", "ranger", "radam", "lamb", "rmsprop")
WEIGHTS = ("auto", "imagenet", "none")
INT8 = "onnx-int8"  # a format of `fastseg export`, and the runtime that computes with it
# The formats of `fastseg export`, and the module of each in `conversion`.
TARGETS = {
    "onnx": "onnx",
    INT8: "int8",
    "openvino": "openvino",
    "coreml": "coreml",
    "torch": "torch",
    "html": "html",
}
# px. Smaller inputs vanish at a backbone's deepest level; larger ones do not fit into memory.
MIN_SIZE, MAX_SIZE = 32, 8192


RUNTIMES = ("auto", "onnx", INT8, "torch")
PRECISIONS = ("float32", "bfloat16")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  # each is its package and its extra


def check_runtime(runtime: str, precision: str | None) -> None:
    """Raise `ModelError` for unknown names, and for precisions that ONNX does not compute in."""
    choose("runtime", runtime, RUNTIMES)
    asked_precision(precision)
    if (runtime, precision) == ("onnx", "bfloat16"):
        raise ModelError(
            "ONNX computes in float32: leave out --precision bfloat16, or choose --runtime torch",
            "engine-precision",
        )
    if runtime == INT8 and precision:
        raise ModelError(
            f"{INT8} computes in 8 bits: leave out --precision {precision}, or choose another "
            "--runtime",
            "engine-precision",
        )


def asked_precision(precision: str | None) -> str | None:
    """Return `precision`, or the value of FASTSEG_PRECISION if it is None, or None.

    Raises `ModelError` for unknown names.
    """
    if precision is None and (forced := os.environ.get("FASTSEG_PRECISION")):
        if forced not in PRECISIONS:
            raise ModelError(
                f"the environment variable FASTSEG_PRECISION is '{forced}'; "
                f"set it to {' or '.join(PRECISIONS)}, or unset it",
                "unknown-precision",
            )
        return forced
    return None if precision is None else choose("precision", precision, PRECISIONS)


def check_size(size: tuple[int, int]) -> None:
    """Raise `DataError` unless both sides, in px, are from 32 to 8192."""
    if min(size) < MIN_SIZE:
        raise DataError(
            f"size {size[0]}x{size[1]} is too small; both sides need at least {MIN_SIZE} px",
            "size-range",
        )
    if max(size) > MAX_SIZE:
        raise DataError(
            f"size {size[0]}x{size[1]} is too large; both sides can have at most {MAX_SIZE} px",
            "size-range",
        )


def loss_parts(name: str) -> list[str]:
    """Return the names of the losses in a sum such as "ce+dice".

    Raises `ModelError` for names that are unknown or repeated.
    """
    parts = [
        choose(f"loss in '{name}':" if "+" in name else "loss", part, LOSSES)
        for part in name.split("+")
    ]
    if len(set(parts)) < len(parts):
        raise ModelError(f"loss '{name}' has a part twice; name each once", "repeated-loss")
    return parts


def check_weights(weights: str | Path) -> None:
    """Raise `ModelError` unless `weights` is one of `WEIGHTS` or a file."""
    if weights not in WEIGHTS and not Path(weights).is_file():
        raise ModelError(
            f"{weights}: no such file or folder; --weights takes auto, imagenet, none, a file, "
            "or an export's folder (fastseg pull fetches one from elsewhere)",
            "no-weights-file",
        )


def check_tracker(name: str) -> None:
    """Raise `ModelError` unless `name` is one of `TRACKERS`, and its package is installed."""
    choose("tracker", name, TRACKERS)
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # None: a folder of that name, such as wandb's own
        raise ModelError(
            f"--track {name}: its package is not installed; install the extra {name}: "
            f"pip install 'fastseg[{name}]', or leave --track out",
            "no-tracker",
        )

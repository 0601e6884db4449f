"""`load`: an export ready to predict, with the runtime and precision given, or the fastest ones
here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError, ModelError
from ..exports.addresses import local
from ..exports.card import MODEL, ONNX, Card
from ..exports.int8 import int8_file
from ..exports.onnx import Sessions
from ..exports.read import card_of, network_of, pickled_network, verify_file
from ..utils.choices import INT8, asked_precision, check_runtime
from ..utils.gpu import may_have_gpu
from ..utils.speed import FEW_IMAGES, WORTH_MEASURING, ComputeOption, Speeds, quickest
from .predictor import Predictor

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

ONNX_OPTION = ComputeOption("onnx", "float32")
# By the runtime that is asked for.
ONNX_OPTIONS = {"onnx": ONNX_OPTION, INT8: ComputeOption(INT8, "int8")}


def load(
    export: Path | str,
    device: str | None = None,
    trust: bool = False,
    tta: bool | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    *,
    images: int | None = None,
    bs: int = 4,
    reason: str = "as asked",
) -> Predictor:
    """Return a `Predictor` from an export folder: card.json with model.onnx or model.safetensors.

    `export` may also be one from elsewhere: "hub:me/eye@v1", "eye.zip", "https://.../eye.zip",
    "s3://bucket/eye"; it is fetched into the cache, without a pickle (see `exports.addresses`).

    `runtime` is "onnx", "onnx-int8" (the 8-bit model beside the export, see `exports.int8`),
    "torch", or "auto", `precision` "float32", "bfloat16", or None. If not given, the measured
    fastest one on this machine is used, for this number of `images` in batches of `bs`; never
    onnx-int8, whose masks differ more. If nothing was measured yet, it is measured if that saves
    time, else ONNX computes. Without `images`, nothing is measured, and the choice is for single
    images.
    For fewer than `FEW_IMAGES` images, ONNX computes without torch, whose import alone takes
    seconds. The log gives `reason` for a runtime or precision that is given.
    On GPUs torch computes. The path of an export.pkl is opened only if its sha256 is the one in the
    card beside it, or with `trust=True`: a pickle can run any code.
    Raises `ExportError`, and `ModelError` for options that contradict each other.
    """
    check_runtime(runtime, precision)
    export = local(export)
    card = card_of(export)
    alone = images in (None, 1)
    if _needs_no_torch(export, card, device, runtime, precision, images):
        verify_file(export / MODEL, card)
        option = ONNX_OPTIONS.get(runtime, ONNX_OPTION)
        made = _sessions(export, card, option)
        why = reason if runtime in ONNX_OPTIONS else "the default for so few images"
        log.info("%s on cpu, %s", option, why)
        build = partial(network_of, export, card)
        return Predictor(card, build, option, "cpu", tta, made, alone)
    from ..utils.device import device_of

    where = device_of(device or ("cpu" if runtime in ONNX_OPTIONS else None))
    if export.suffix == ".pkl":
        return _load_pickle(export, card, where, trust, tta, runtime, precision)
    verify_file(export / MODEL, card)  # even if ONNX computes: a replaced file must be detected
    options = _allowed_options(export, card, where, runtime, precision)
    sessions = _sessions(export, card, options[0]) if options[0].runtime in ONNX_OPTIONS else None
    option, why = (
        options[0],
        f"{options[0]} on {where}"
        + (f", {reason}" if runtime != "auto" or asked_precision(precision) else ""),
    )
    if len(options) > 1:
        batch = None if alone else bs
        seconds = (
            partial(_seconds_function(export, card, sessions), batch)
            if images and images >= FEW_IMAGES
            else None
        )
        option, why = quickest(
            options,
            _speeds(card),
            partial(_speed_key, batch),
            seconds,
            images or math.inf,
            "an image",
        )
    if images:
        log.info("%s", why)
    return Predictor(
        card, partial(network_of, export, card), option, str(where), tta, sessions, alone
    )


def _needs_no_torch(
    export: Path,
    card: Card,
    device: str | None,
    runtime: str,
    precision: str | None,
    images: int | None,
) -> bool:
    """Return whether ONNX computes without a look at what torch could do here."""
    if images is None or images >= FEW_IMAGES or export.suffix == ".pkl":
        return False
    if ONNX not in card.sha256 or not (export / ONNX).is_file():
        return False
    asked = runtime in ONNX_OPTIONS
    on_cpu = device == "cpu" or (device is None and (asked or not may_have_gpu()))
    return on_cpu and (asked or (runtime == "auto" and not asked_precision(precision)))


def _sessions(export: Path, card: Card, option: ComputeOption) -> Sessions:
    """Return the sessions of the file that this option computes with. Raises `ExportError`."""
    own = option == ONNX_OPTION
    return Sessions(verify_file(export / ONNX, card) if own else int8_file(export, card))


def _allowed_options(
    export: Path, card: Card, where: torch.device, runtime: str, precision: str | None
) -> list[ComputeOption]:
    """Return the remaining ways to compute, the default first."""
    from ..utils.device import precision_of

    asked = asked_precision(precision)
    has_onnx = ONNX in card.sha256 and (export / ONNX).is_file()
    if runtime in ONNX_OPTIONS:
        if where.type != "cpu":
            raise ModelError(
                f"ONNX computes on the CPU, not on {where}: "
                "leave out --device, or choose --runtime torch",
                "engine-device",
            )
        if not has_onnx:
            raise ExportError(f"{export}: has no {ONNX}; choose --runtime torch", "no-onnx")
        return [ONNX_OPTIONS[runtime]]
    best = ComputeOption("torch", precision_of(where, asked))
    if asked or where.type != "cpu":
        torch_options = [best]
    else:  # having bfloat16 units does not mean that it is faster
        torch_options = list(dict.fromkeys([ComputeOption("torch", "float32"), best]))
    if runtime == "torch" or where.type != "cpu" or asked == "bfloat16":
        return torch_options
    if ONNX in card.sha256 and not has_onnx:
        log.warning("%s: missing; torch computes in its place", export / ONNX)
    options = [*([ONNX_OPTION] if has_onnx else []), *torch_options]
    return options[:1] if asked else options


def _speed_key(bs: int | None, option: ComputeOption) -> str:
    return f"{option}, {f'stream of {bs}' if bs else 'single'}"


def _speeds(card: Card) -> Speeds:
    return Speeds("predict", card.sha256.get(MODEL), card.sha256.get(ONNX), card.size)


def _seconds_function(
    export: Path, card: Card, sessions: Sessions | None
) -> Callable[[int | None, ComputeOption], float]:
    """Return a function of batch size (None: one image at a time) and option: seconds for an image.

    The options of torch share one network.
    """
    network = cache(partial(network_of, export, card))
    return lambda bs, option: Predictor(
        card, network, option, "cpu", False, sessions, alone=bs is None
    ).seconds(bs)


def measure(export: Path, device: str | None, spent: float, bs: int = 4) -> None:
    """Measure all options of an export, for single images and batches of `bs`, and store the times.

    Later commands choose by these times.
    Nothing is measured if less than `WORTH_MEASURING` seconds were `spent` on training: beside
    more, measuring costs little.
    """
    if spent < WORTH_MEASURING:
        return
    from ..utils.device import device_of

    card, where = card_of(export), device_of(device)
    options = _allowed_options(export, card, where, "auto", None)
    if len(options) == 1:
        return
    seconds = _seconds_function(
        export, card, Sessions(export / ONNX) if options[0].runtime == "onnx" else None
    )
    speeds = _speeds(card)
    for batch, option in product((None, bs), options):
        speeds.measured(_speed_key(batch, option), partial(seconds, batch, option))


def _load_pickle(
    path: Path,
    card: Card,
    where: torch.device,
    trust: bool,
    tta: bool | None,
    runtime: str,
    precision: str | None,
) -> Predictor:
    if runtime in ONNX_OPTIONS:
        raise ExportError(
            f"{path}: a pickle is computed by torch; "
            f"load the folder {path.parent} for --runtime {runtime}",
            "no-onnx",
        )
    network = pickled_network(path, card, trust)
    from ..utils.device import precision_of

    asked = precision or getattr(network, "precision", None)  # that of its training
    return Predictor(
        card, lambda: network, ComputeOption("torch", precision_of(where, asked)), str(where), tta
    )

"""The network as ONNX: a file to deploy, on CPUs often two to three times quicker than torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExportError, brief, is_out_of_memory
from ..utils.io import is_disk_full

if TYPE_CHECKING:
    import torch

    from ..models.network import Network
    from .card import Card

log = logging.getLogger(__name__)

OPSET = 17
TOLERANCE = 1e-2  # logits; float32 in another order of summation differs by 1e-4 to 1e-3


def write_onnx(network: Network, card: Card, path: Path) -> bool:
    """Write `network` as ONNX.

    The input "images" is uint8 (N, h, w, channels) at the card's size; the output "logits" is
    float32 (N, C, h, w) or (N, C). Normalisation and padding are part of the graph. Return False,
    and write nothing, if the network has operations that ONNX or its runtime lacks, or if the two
    disagree: torch then computes the predictions.
    """
    import torch

    class ExportedNetwork(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1) * 255)
            self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1) * 255)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)

    training, precision = network.training, network.precision
    device = next(network.parameters()).device
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, *card.size, card.channels), dtype=np.uint8)
    )
    try:
        network.precision = "float32"
        exported = ExportedNetwork().cpu().eval()
        reason = _export(exported, images, path)
    finally:
        network.precision = precision
        network.to(device).train(training)
    if reason:
        path.unlink(missing_ok=True)
        log.info("no ONNX file: %s", brief(reason))
    return not reason


def _export(exported: torch.nn.Module, images: torch.Tensor, path: Path) -> str | None:
    """Write a module as ONNX, and return why it cannot be used, if so.

    Errors from elsewhere are not caught: they are bugs in fastseg.
    """
    import torch

    # The exporter prints the complete graph when it fails, which does not help a user.
    with (
        warnings.catch_warnings(),
        torch.inference_mode(),
        redirect_stdout(None),
        _exportable_pools(exported),
        _exportable_transformers(exported),
    ):
        warnings.simplefilter("ignore")
        expected = exported(images).numpy()
        try:
            # Not torch's dynamo exporter: every fit writes this file, and dynamo takes 5 to 11
            # times as long (mobilenetv2_100 with the decoder light 49 s and 6 s, swin_tiny 145 s
            # and 13 s, on two busy cores with torch 2.14), needs onnxscript, and wins nothing: its
            # logits are the same to 1e-5, for the decoders light, unet, upernet, segformer,
            # deeplabv3plus and for vision transformers. Images of any size are what
            # `fastseg export` adds.
            torch.onnx.export(
                exported,
                (images,),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
                dynamo=False,
            )
        except RuntimeError as error:  # raised by the exporter and by its C++ part
            if is_out_of_memory(error) or is_disk_full(error):
                raise
            return str(error)
        try:
            difference = float(np.abs(Session(path)(images.numpy()) - expected).max())
        except ExportError as error:  # operations that the runtime lacks
            return str(error)
    if difference > TOLERANCE * max(1.0, float(np.abs(expected).max())):
        return f"ONNX and torch differ by {difference:.3g}"
    return None


@contextmanager
def _exportable_pools(model: torch.nn.Module) -> Iterator[None]:
    """Replace adaptive average pooling by matrix products.

    ONNX has that pooling only where one size divides the other.
    """
    import torch

    class Pool(torch.nn.Module):
        def __init__(self, size: tuple[int, int]):
            super().__init__()
            self.size = size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, columns = (
                _pooling_weights(int(have), want or int(have))
                for have, want in zip(x.shape[-2:], self.size)
            )
            return torch.from_numpy(rows) @ x @ torch.from_numpy(columns.T.copy())

    swapped = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.AdaptiveAvgPool2d)
    ]
    try:
        for parent, name, child in swapped:
            size = child.output_size
            setattr(
                parent, name, Pool(tuple(size) if isinstance(size, (tuple, list)) else (size, size))
            )
        yield
    finally:
        for parent, name, child in swapped:
            setattr(parent, name, child)


def _rms_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """Return what torch's `rms_norm` does, by operators that ONNX has at this opset."""
    import torch

    least = torch.finfo(x.dtype).eps if eps is None else eps
    axes = tuple(range(-len(normalized_shape), 0))
    normal = x * (x.square().mean(axes, keepdim=True) + least).rsqrt()
    return normal if weight is None else normal * weight


@contextmanager
def _exportable_transformers(model: torch.nn.Module) -> Iterator[None]:
    """Let transformers compute positions once, not in the graph, and normalise by known operators.

    onnxruntime cannot infer the shapes of timm's rotary positions, and ONNX at this opset has no
    antialiased resampling, by which timm fits tables of positions to a size.
    """
    import torch

    rotary = [module for module in model.modules() if callable(getattr(module, "get_embed", None))]

    def of_known_size(get_embed: Callable[..., Any]) -> Callable[..., Any]:
        def embed(shape: Sequence[int] | None = None, **options: Any) -> Any:
            sides = None if shape is None else [int(side) for side in shape]
            return get_embed(shape=sides, **options)

        return embed

    interpolate = torch.nn.functional.interpolate

    def of_table(x: torch.Tensor, *sizes: Any, **options: Any) -> torch.Tensor:
        # The export's images are more than one: what has one entry does not depend on them.
        if not options.get("antialias") or x.shape[0] != 1:
            return interpolate(x, *sizes, **options)
        with torch.no_grad():
            resampled = interpolate(x, *sizes, **options)
        return torch.from_numpy(resampled.cpu().numpy().copy())  # numpy ends the trace

    for module in rotary:
        module.get_embed = of_known_size(module.get_embed)
    rms_norm = torch.nn.functional.rms_norm
    torch.nn.functional.interpolate = of_table
    torch.nn.functional.rms_norm = _rms_norm
    try:
        yield
    finally:
        torch.nn.functional.interpolate, torch.nn.functional.rms_norm = interpolate, rms_norm
        for module in rotary:
            del module.get_embed


def _pooling_weights(have: int, want: int) -> np.ndarray:
    """Return the weight of each of `have` values in each of `want` means, float32 (want, have)."""
    weights = np.zeros((want, have), dtype=np.float32)
    for i in range(want):  # the bounds of torch's adaptive pooling
        start, end = i * have // want, -(-(i + 1) * have // want)
        weights[i, start:end] = 1 / (end - start)
    return weights


class Sessions:
    """The sessions of an ONNX file by number of threads; each is created once. Thread-safe."""

    def __init__(self, path: Path):
        self.path, self._lock = path, Lock()
        self._made: dict[int, Session] = {}

    def __call__(self, threads: int) -> Session:
        with self._lock:
            if threads not in self._made:
                self._made[threads] = Session(self.path, threads)
            return self._made[threads]


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return the kinds of errors that onnxruntime raises; they have no common class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)  # ValueError: inputs that the graph does not have


class Session:
    """An ONNX file ready to run on the CPU: uint8 (N, h, w, C) to float32 logits."""

    def __init__(self, path: Path, threads: int = 0):
        import onnxruntime

        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait in a busy loop take processor time from decoding and writing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except _runtime_errors() as error:  # a damaged file
            raise ExportError(
                f"{path}: cannot be read as ONNX ({brief(error)}); fit again", "damaged-onnx"
            ) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images, ["logits"])[0]

    def outputs(self, images: np.ndarray, names: list[str] | None = None) -> list[np.ndarray]:
        """Return the named outputs of the graph (default: all); an export's has "logits" only."""
        try:
            return self._session.run(names, {"images": images})
        except _runtime_errors() as error:  # a card of another size, or too little memory
            raise ExportError(
                f"{self._path}: cannot take images of {images.shape[2]}x{images.shape[1]} px "
                f"({brief(error)}); does the card fit it? Fit again",
                "card-mismatch",
            ) from error

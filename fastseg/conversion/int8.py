"""ONNX in whole numbers of 8 bits: a quarter of the size, and faster where the processor has them.

onnxruntime's static quantisation: the range of each activation is measured on training images,
weights have a range for each channel. Weights use 7 of their 8 bits: on processors with AVX2 and
without VNNI, sums of larger products overflow, and masks would depend on the machine. On 112 real
eyes, that bit changes 0.01 % of pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exports.onnx import OPSET, Session
from ..utils.choices import INT8
from ..utils.progress import track
from .onnx import FILE, Onnx, complete
from .targets import Source

if TYPE_CHECKING:
    import onnx

CALIBRATION = 64  # training images that the ranges are measured on; onnxruntime suggests 100 or so
TRIED = 8  # of them, on which the loss of each group of layers is measured
GROUPS = 32  # of consecutive layers, whose loss is measured: at most so many


class Int8(Onnx):
    """The network in 8 bits; where the gate refuses it, the layers that lose most stay float."""

    name = INT8
    pixels_decide = False

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        import onnx

        images = calibration_images(source)
        with TemporaryDirectory() as place:
            quantizer = Quantizer(source.require_onnx(), images, Path(place))
            kept: list[str] = []
            ranked: list[list[str]] = []
            count = 0
            while True:
                onnx.save_model(complete(source, quantizer.without(kept)), folder / FILE)
                yield {
                    "opset": OPSET,
                    "calibrated on": f"{len(images)} training images",
                    "layers": len(quantizer.layers),
                    "layers kept in float": kept,
                }
                ranked = ranked or quantizer.ranked()
                count = 2 * count or 1
                if count > len(ranked) // 2:  # little would be left to gain
                    return
                kept = [name for group in ranked[:count] for name in group]


def calibration_images(source: Source) -> np.ndarray:
    """Return training images as the network sees them, uint8 (N, h, w, C). Raises `DataError`."""
    items = source.training_images()
    drawn = np.random.default_rng(0).permutation(len(items))[:CALIBRATION]
    height, width = source.card.size
    return np.stack([source.task.image_near(items[i], (height, width))[0] for i in drawn])


class Quantizer:
    """An ONNX file and the ranges of its activations on some images."""

    def __init__(self, file: Path, images: np.ndarray, place: Path):
        import onnx
        from onnxruntime.quantization import create_calibrator, shape_inference
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        self.place, self.images = place, images
        prepared = place / "prepared.onnx"
        self.kinds = sorted({*QDQRegistry, *QLinearOpsRegistry})
        with _quiet():
            shape_inference.quant_pre_process(file, prepared, skip_symbolic_shape=True)
            calibrator = create_calibrator(prepared, self.kinds, str(place / "augmented.onnx"))
            calibrator.collect_data(_Reader(images))
            self.ranges = calibrator.compute_data()
        self.model, self.float = onnx.load(prepared), Session(prepared)
        self.layers = [node.name for node in self.model.graph.node if node.op_type in self.kinds]

    def without(self, kept: Sequence[str]) -> onnx.ModelProto:
        """Return the network with all layers in 8 bits but those `kept`."""
        return self._quantized([], kept)

    def ranked(self) -> list[list[str]]:
        """Return groups of consecutive layers, the one whose quantisation alone loses most first.

        The loss is the mean square error of the logits.
        """
        parts = np.array_split(np.array(self.layers), min(GROUPS, len(self.layers)))
        groups = [[str(name) for name in part] for part in parts]
        few = self.images[:TRIED]
        wanted, losses = self.float(few), []
        for group in track(groups, "measuring layers", len(groups)):
            file = self.place / "tried.onnx"
            file.write_bytes(self._quantized(group, []).SerializeToString())
            losses.append(float(np.square(Session(file)(few) - wanted).mean()))
        return [groups[i] for i in np.argsort(losses)[::-1]]

    def _quantized(self, only: Sequence[str], but: Sequence[str]) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(but),
            op_types_to_quantize=self.kinds,
            extra_options={},
        )
        with _quiet():
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        return made


class _Reader:
    """Images one by one, in the form that onnxruntime's calibration reads."""

    def __init__(self, images: np.ndarray):
        self._left = iter(track(images, "calibrating", len(images)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input of the network; None at the end."""
        image = next(self._left, None)
        return None if image is None else {"images": image[None]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what onnxruntime's quantisation prints and logs; its logging adds a handler."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [logging.NullHandler()]
    try:
        with warnings.catch_warnings(), redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers


target = Int8()

"""OpenVINO: the ONNX graph in OpenVINO's format, with weights of 16 bits if that changes little.

Its PrePostProcessor is not needed: the graph resizes and normalises, so that all formats do so in
the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..exports.onnx import OPSET
from .onnx import complete, own_network
from .targets import Output, Runner, Source, Target

FILE, WEIGHTS = "model.xml", "model.bin"


class OpenVino(Target):
    """Weights of 16 bits, which halve the file; of 32 bits where the gate refuses those."""

    name = "openvino"
    extra = "openvino"
    packages = ("openvino",)
    example = "example_openvino.py"
    files = (FILE, WEIGHTS)

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        openvino = _import_openvino()
        network = complete(source, own_network(source))
        model = openvino.Core().read_model(network.SerializeToString())
        for half in (True, False):
            openvino.save_model(model, folder / FILE, compress_to_fp16=half)
            yield {
                "openvino": openvino.__version__,
                "weights": f"float{16 if half else 32}",
                "opset": OPSET,
            }

    def runner(self, source: Source, folder: Path) -> Runner:
        openvino = _import_openvino()
        # Some processors compute in bfloat16 unless asked not to; the export is float32.
        compiled = openvino.Core().compile_model(
            folder / FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )

        def run(image: np.ndarray) -> Output:
            found = compiled([np.ascontiguousarray(image)[None]])
            return Output(found["codes"][0].copy(), found["logits"][0].copy())

        return run


def _import_openvino() -> Any:
    """Return the module, which would report its import to its maker over the network.

    It does so by another package, and does without where that is missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


target = OpenVino()

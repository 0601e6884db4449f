"""OpenVINO: the ONNX graph in OpenVINO's format, with weights of 16 bits if that changes little.

Its PrePostProcessor is not needed: the graph resizes and normalises, so that all formats do so in
the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .onnx import FILE as ONNX_FILE
from .onnx import Onnx
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
        import openvino

        [notes] = Onnx().attempts(source, folder)
        model = openvino.convert_model(folder / ONNX_FILE)
        (folder / ONNX_FILE).unlink()
        for half in (True, False):
            openvino.save_model(model, folder / FILE, compress_to_fp16=half)
            yield {
                "openvino": openvino.__version__,
                "weights": f"float{16 if half else 32}",
                **notes,
            }

    def runner(self, source: Source, folder: Path) -> Runner:
        import openvino

        # Some processors compute in bfloat16 unless asked not to; the export is float32.
        compiled = openvino.Core().compile_model(
            folder / FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )

        def run(image: np.ndarray) -> Output:
            found = compiled([np.ascontiguousarray(image)[None]])
            return Output(found["codes"][0].copy(), found["logits"][0].copy())

        return run


target = OpenVino()

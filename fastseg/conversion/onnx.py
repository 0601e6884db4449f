"""ONNX: the export's own graph, with resizing before it and class codes behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exports.onnx import OPSET, Session
from .graph import with_processing
from .targets import Output, Runner, Source, Target

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"


class Onnx(Target):
    """`model.onnx` of the export takes images at the network's size; this one takes any size."""

    name = "onnx"
    example = "example_onnx.py"
    files = (FILE,)

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        import onnx

        write(source, onnx.load(source.require_onnx()), folder / FILE)
        yield {"opset": OPSET}

    def runner(self, source: Source, folder: Path) -> Runner:
        session = Session(folder / FILE)
        return lambda image: Output(*(values[0] for values in session.outputs(image[None])))


def write(source: Source, network: onnx.ModelProto, path: Path) -> None:
    """Write a network that takes images at the card's size, so that it takes any size."""
    import onnx

    card = source.card
    made = with_processing(network, card.size, card.resize, source.task.has_masks)
    onnx.save_model(made, path)


target = Onnx()

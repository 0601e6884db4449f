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

        onnx.save_model(complete(source, own_network(source)), folder / FILE)
        yield {"opset": OPSET}

    def runner(self, source: Source, folder: Path) -> Runner:
        session = Session(folder / FILE)
        return lambda image: Output(*(values[0] for values in session.outputs(image[None])))


def own_network(source: Source) -> onnx.ModelProto:
    """Return the export's own graph. Raises `ExportError` if it has none."""
    import onnx

    return onnx.load(source.require_onnx())


def complete(source: Source, network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that takes images at the card's size as one that takes any size."""
    card = source.card
    return with_processing(network, card.size, card.resize, source.task.has_masks)


target = Onnx()

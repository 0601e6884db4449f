"""ONNX graphs around a network: from an image of any size to its input, from its logits to codes.

The resampling is written as products with matrices, which every runtime computes in the same way:
Pillow's weights, and its rounding to whole numbers between the two directions. onnxruntime's own
antialiased `Resize` differs from Pillow by up to 17 grey levels at an image's borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUTS = "images", ("codes", "logits")
SMALL, LOGITS = "small_images", "logits"  # between the parts


class Nodes:
    """Nodes and constants of a graph that is being written; `node` returns its output's name."""

    def __init__(self, prefix: str):
        self.prefix, self.nodes, self.constants = prefix, list[Any](), list[Any]()

    def node(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        from onnx import helper

        name = out or f"{self.prefix}{len(self.nodes)}_{op.lower()}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [name], name=f"{name}_node", **attributes)
        )
        return name

    def value(self, value: Any, dtype: Any) -> str:
        """Add a constant of any shape."""
        from onnx import numpy_helper

        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a list of whole numbers."""
        return self.value(values, np.int64)


def with_processing(
    network: onnx.ModelProto, size: Sequence[int], resize: str, has_masks: bool
) -> onnx.ModelProto:
    """Return `network` with resizing before it, and class codes behind it.

    `network` takes "images", uint8 (N, h, w, C) at `size`, (height, width), and gives "logits",
    float32 (N, classes, h, w) or (N, classes). The result takes "images" of any size, uint8
    (N, H, W, C), and gives "codes", uint8 (N, H, W) or (N,), and the same "logits". `resize` is
    "squish" or "crop", see `types.Recipe`.
    """
    import onnx
    from onnx import TensorProto, helper

    network = onnx.ModelProto.FromString(network.SerializeToString())
    body = network.graph
    for node in body.node:  # its input gets another name, and ours takes it over
        for at, name in enumerate(node.input):
            if name == INPUT:
                node.input[at] = SMALL
    channels = body.input[0].type.tensor_type.shape.dim[3].dim_value
    before, behind = Nodes("before_"), Nodes("behind_")
    _resized(before, size, resize)
    shape = ["n"]
    if has_masks:
        _codes_at(behind)
        shape = ["n", "height", "width"]
    best = behind.node("ArgMax", "scores" if has_masks else LOGITS, axis=1, keepdims=0)
    behind.node("Cast", best, out="codes", to=TensorProto.UINT8)
    graph = helper.make_graph(
        [*before.nodes, *body.node, *behind.nodes],
        "fastseg",
        [
            helper.make_tensor_value_info(
                INPUT, TensorProto.UINT8, ["n", "height", "width", channels]
            )
        ],
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, shape), *body.output],
        [*before.constants, *body.initializer, *behind.constants],
        value_info=body.value_info,
    )
    made = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    made.functions.extend(network.functions)
    onnx.checker.check_model(made)
    return made


def _sides(nodes: Nodes) -> tuple[str, str]:
    """Return the height and the width of the images, int64 (1,) each."""
    shape = nodes.node("Shape", INPUT)
    ends = nodes.integers(1), nodes.integers(2), nodes.integers(3)
    return nodes.node("Slice", shape, *ends[:2]), nodes.node("Slice", shape, *ends[1:])


def _resized(nodes: Nodes, size: Sequence[int], resize: str) -> None:
    """Resize the images to `size` as `data.images.resized` does: across, then down."""
    from onnx import TensorProto

    height, width = _sides(nodes)
    matrix = _weights if resize == "squish" else _selection
    planes = nodes.node("Transpose", INPUT, perm=[0, 3, 1, 2])
    planes = nodes.node("Cast", planes, to=TensorProto.FLOAT)
    columns = nodes.node("Transpose", matrix(nodes, width, size[1]), perm=[1, 0])
    half = nodes.value(0.5, np.float32)
    across = nodes.node("Floor", nodes.node("Add", nodes.node("MatMul", planes, columns), half))
    down = nodes.node("MatMul", matrix(nodes, height, size[0]), across)
    whole = nodes.node("Floor", nodes.node("Add", down, half))
    pixels = nodes.node("Cast", whole, to=TensorProto.UINT8)
    nodes.node("Transpose", pixels, out=SMALL, perm=[0, 2, 3, 1])


def _places(nodes: Nodes, have: str) -> tuple[str, str]:
    """Return the number of pixels, float32 (), and their indices, float32 (have,)."""
    from onnx import TensorProto

    count = nodes.node("Squeeze", have)
    places = nodes.node("Range", nodes.value(0, np.int64), count, nodes.value(1, np.int64))
    return (
        nodes.node("Cast", count, to=TensorProto.FLOAT),
        nodes.node("Cast", places, to=TensorProto.FLOAT),
    )


def _weights(nodes: Nodes, have: str, want: int) -> str:
    """Return the weight of each of `have` pixels in each of `want`, float32 (want, have).

    A triangle around the pixel's centre, as wide as the reduction, whose sum is 1.
    """
    count, places = _places(nodes, have)
    one, zero = nodes.value(1, np.float32), nodes.value(0, np.float32)
    step = nodes.node("Div", count, nodes.value(want, np.float32))
    centres = nodes.node("Mul", nodes.value(np.arange(want)[:, None] + 0.5, np.float32), step)
    middles = nodes.node("Add", places, nodes.value(0.5, np.float32))
    away = nodes.node("Abs", nodes.node("Sub", middles, centres))
    away = nodes.node("Div", away, nodes.node("Max", step, one))
    heights = nodes.node("Max", nodes.node("Sub", one, away), zero)
    total = nodes.node("ReduceSum", heights, nodes.integers(1), keepdims=1)
    return nodes.node("Div", heights, total)


def _selection(nodes: Nodes, have: str, want: int) -> str:
    """Return 1 where one of `have` pixels becomes one of `want` around the centre, else 0."""
    from onnx import TensorProto

    count, places = _places(nodes, have)
    spare = nodes.node("Sub", count, nodes.value(want, np.float32))
    first = nodes.node("Floor", nodes.node("Mul", spare, nodes.value(0.5, np.float32)))
    wanted = nodes.node("Add", nodes.value(np.arange(want)[:, None], np.float32), first)
    return nodes.node("Cast", nodes.node("Equal", places, wanted), to=TensorProto.FLOAT)


def _codes_at(nodes: Nodes) -> None:
    """Resize the logits to the images' own size, as `inference.resizing` does."""
    height, width = _sides(nodes)
    shape = nodes.node("Slice", nodes.node("Shape", LOGITS), nodes.integers(0), nodes.integers(2))
    size = nodes.node("Concat", shape, height, width, axis=0)
    nodes.node(
        "Resize",
        LOGITS,
        "",
        "",
        size,
        out="scores",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )

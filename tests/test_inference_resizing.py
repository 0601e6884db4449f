"""Resizing by onnxruntime equals torch's; the file of its graph can be made again."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fastseg.inference import resizing
from fastseg.inference.resizing import GRAPH, resized


def graph() -> bytes:
    sides = ["n", "c", "h", "w"]
    resize = helper.make_node(
        "Resize",
        ["planes", "", "", "size"],
        ["resized"],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    made = helper.make_graph(
        [resize],
        "resize",
        [
            helper.make_tensor_value_info("planes", TensorProto.FLOAT, sides),
            helper.make_tensor_value_info("size", TensorProto.INT64, [4]),
        ],
        [helper.make_tensor_value_info("resized", TensorProto.FLOAT, ["n", "c", "H", "W"])],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(made, opset_imports=[opset], ir_version=8).SerializeToString()


def test_the_file_has_the_graph_above():
    assert onnx.load(GRAPH) == onnx.load_model_from_string(graph())


@pytest.mark.parametrize("size", [(64, 48), (100, 130), (63, 47), (20, 7), (1, 1)])
@pytest.mark.parametrize("classes", [1, 3])
def test_it_resizes_as_torch_does(size, classes):
    planes = np.random.default_rng(0).normal(size=(classes, 64, 48)).astype(np.float32)
    before = planes.copy()
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], size, mode="bilinear", align_corners=False
    )[0].numpy()
    found = resized(planes, size)
    assert found.dtype == np.float32 and found.shape == expected.shape
    # Positions are computed in float32 there and here: 1e-5 px times the steepest slope
    assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(planes, before)


def test_memory_of_large_results_is_not_kept(monkeypatch):
    asked, session = [], resizing._session
    monkeypatch.setattr(resizing, "KEPT_BYTES", 4 * 20 * 20)
    monkeypatch.setattr(resizing, "_session", lambda keeps: asked.append(keeps) or session(keeps))
    planes = np.zeros((1, 8, 8), np.float32)
    assert resized(planes, (20, 20)).shape == (1, 20, 20)
    assert resized(planes, (20, 21)).shape == (1, 20, 21)
    assert asked == [True, False]

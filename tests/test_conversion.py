"""Exports in the formats of other runtimes: the same model, or refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import refuses
from onnx import TensorProto, helper
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.conversion import coreml, int8, parity
from fastseg.conversion import onnx as by_onnx
from fastseg.conversion import openvino as by_openvino
from fastseg.conversion.graph import with_processing
from fastseg.data.images import resized
from fastseg.errors import ExportError
from fastseg.exports.card import sha256
from fastseg.serving.batching import DEFAULTS
from fastseg.serving.exports import Served
from fastseg.serving.options import ServeOptions
from fastseg.utils.choices import INT8, TARGETS

# The example in a process of its own: it may import the runtime, numpy and Pillow alone.
ALONE = """
import runpy, sys
sys.argv = ["example.py", sys.argv[2]]
runpy.run_path({example!r}, run_name="__main__")
found = {{"fastseg", "timm", "fastai", "cv2", "torchvision", {others}}} & set(sys.modules)
assert not found, found
"""


def example(folder, image, cwd, *others):
    """Run a folder's example on an image, and return what it prints."""
    code = ALONE.format(example=str(folder / "example.py"), others=", ".join(map(repr, others)))
    done = subprocess.run(
        [sys.executable, "-c", code, "example.py", str(image)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_image(name, samples):
    return tasks.get(name).items(samples[name])[0].image


def assert_same_masks(folder, export, image, tmp_path, *others):
    """The example's mask is that of the export on the same pixels, but for ties."""
    said = example(folder, image, tmp_path, *others)
    predictor = fastseg.load(export, "cpu", tta=False, runtime="onnx")
    codes = predictor.predict(predictor.task.image(image)).codes
    assert all(name in said for name in predictor.task.classes)
    assert np.mean(np.asarray(Image.open(tmp_path / "mask.png")) != codes) <= 0.001


def assert_judged(said, images):
    compared = said["compared"]
    assert said["gate"]["passed"] and not said["gate"]["exceeded"] and said["not_run"] is None
    assert compared["images"] == images and compared["held_out"]
    assert compared["difference"] == pytest.approx(compared["converted"] - compared["export"])
    low, high = compared["interval"]
    assert low <= compared["difference"] <= high
    assert min(*compared["latency_ms"].values(), *said["bytes"].values()) > 0


def test_onnx(run, exports, samples, tmp_path):
    export, out = exports("eye"), tmp_path / "there"
    said = json.loads(run("export", export, "--to", "onnx", "--out", out, "--json").out)
    card = json.loads((export / "card.json").read_text())
    assert_judged(said, len(card["valid_files"]))
    assert said["compared"]["figure"] == "Dice" and said["format"]["opset"] >= 17
    assert said == json.loads((out / "parity.json").read_text()) | {"written": str(out)}
    assert {path.name for path in out.iterdir()} == {
        *("model.onnx", "example.py", "classes.json", "README.md", "parity.json")
    }
    classes = json.loads((out / "classes.json").read_text())
    assert [entry["name"] for entry in classes["classes"]] == card["classes"]
    assert [entry["colour"] for entry in classes["classes"]] == card["palette"]
    assert_same_masks(out, export, first_image("eye", samples), tmp_path, "torch")
    # An earlier conversion is replaced; the folder is named after export and format by default.
    assert "pixels differ" in run("export", export, "--to", "onnx", "--out", out).out


def test_images_are_classified(exports, samples, tmp_path):
    said = fastseg.export(exports("mri"), "onnx", tmp_path / "mri")
    assert said["gate"]["passed"] and said["compared"]["figure"] == "accuracy"
    image = first_image("mri", samples)
    assert example(tmp_path / "mri", image, tmp_path, "torch").strip() == (
        fastseg.load(exports("mri"), runtime="onnx").predict(image).label
    )


@pytest.mark.slow
def test_torch(exports, samples, tmp_path):
    said = fastseg.export(exports("eye"), "torch", tmp_path / "there")
    assert_judged(said, said["compared"]["images"])
    assert_same_masks(
        tmp_path / "there", exports("eye"), first_image("eye", samples), tmp_path, "onnxruntime"
    )


def test_openvino(exports, samples, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    said = fastseg.export(exports("eye"), "openvino", tmp_path / "there")
    assert_judged(said, said["compared"]["images"])
    assert said["format"]["weights"] == "float16"
    assert said["bytes"]["converted"] < 0.7 * said["bytes"]["export"]
    image = first_image("eye", samples)
    assert_same_masks(
        tmp_path / "there", exports("eye"), image, tmp_path, "openvino_telemetry.main"
    )


def test_openvino_is_imported_without_its_telemetry(monkeypatch):
    found = []
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setattr(by_openvino, "import_module", lambda name: found.append(dict(sys.modules)))
    by_openvino._import_openvino()
    assert found[0]["openvino_telemetry"] is None
    sys.modules.pop("openvino_telemetry")


@pytest.mark.slow
def test_coreml_is_checked_by_its_specification(exports, tmp_path, monkeypatch):
    coremltools = pytest.importorskip("coremltools", reason="needs the extra coreml")
    said = fastseg.export(exports("eye"), "coreml", tmp_path / "there")
    assert said["compared"] is None and not said["gate"]["passed"] and "macOS" in said["not_run"]
    described = coremltools.utils.load_spec(str(tmp_path / "there" / "model.mlpackage")).description
    assert [value.name for value in described.input] == ["image"]
    assert described.input[0].type.imageType.width == 64
    monkeypatch.setattr(coreml, "LOGITS", "scores")  # another interface than is expected
    source = coreml_source(exports("eye"))
    with refuses("other-interface", "scores"):
        coreml._check(source, tmp_path / "there" / "model.mlpackage")


def coreml_source(export):
    from fastseg.conversion.targets import Source
    from fastseg.exports.read import opened

    task, folder, card = opened(export)
    return Source(folder, card, task, list)


def test_int8(exports, tmp_path):
    said = fastseg.export(exports("eye"), "onnx-int8", tmp_path / "there")
    assert_judged(said, said["compared"]["images"])
    assert "share" not in said["gate"]["limits"]  # masks may differ in more pixels
    assert said["format"]["layers kept in float"] == []
    assert said["bytes"]["converted"] < 0.4 * said["bytes"]["export"]


def test_int8_keeps_layers_in_float_until_the_gate_holds(exports, tmp_path, monkeypatch):
    judged, holds = [], parity.Parity.faults

    def faults(self, target):
        judged.append(self)
        return ["Dice falls"] if len(judged) < 3 else holds(self, target)

    monkeypatch.setattr(parity.Parity, "faults", faults)
    monkeypatch.setattr(int8, "GROUPS", 4)
    said = fastseg.export(exports("eye"), "onnx-int8", tmp_path / "there")
    kept = said["format"]["layers kept in float"]
    assert len(judged) == 3 and 0 < len(kept) < said["format"]["layers"]
    graph = onnx.load(tmp_path / "there" / "model.onnx").graph
    ranges = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    of = {node.name: set(node.input) for node in graph.node}
    assert not [name for name in kept if len(of[name] & ranges) == len(of[name]) > 1]


@pytest.fixture(scope="module")
def with_int8(exports, tmp_path_factory):
    """A copy of an export, with its 8-bit model beside it."""
    export = tmp_path_factory.mktemp("int8") / "eye"
    shutil.copytree(exports("eye"), export)
    fastseg.export(export, INT8)
    return export


def test_predictions_in_8_bits(with_int8, run, samples, tmp_path):
    image = first_image("eye", samples)
    predictor = fastseg.load(with_int8, runtime=INT8, tta=False)
    pixels = predictor.task.image_near(image, predictor.size)[0][None]
    session = onnxruntime.InferenceSession(with_int8.with_name(f"eye_{INT8}") / "model.onnx")
    [logits] = session.run(["logits"], {"images": pixels})
    assert np.array_equal(predictor.logits(pixels), logits)
    assert not np.array_equal(fastseg.load(with_int8, runtime="onnx").logits(pixels), logits)
    found = run("predict", with_int8, image, "--out", tmp_path, "--runtime", INT8, code=0)
    assert f"{INT8} on cpu" in found.err
    codes = fastseg.load(with_int8, runtime=INT8).predict(image).codes
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"{image.stem}.png")), codes)


def test_scores_in_8_bits_are_those_of_its_comparison(with_int8, samples, tmp_path):
    parity = json.loads((with_int8.with_name(f"eye_{INT8}") / "parity.json").read_text())
    for workers in (None, 2):
        metrics = fastseg.evaluate(
            with_int8, samples["eye"], tta=False, runtime=INT8, workers=workers, out=tmp_path
        )
        assert metrics["mean_foreground"]["dice"] == pytest.approx(
            parity["compared"]["converted"], abs=0.005
        )
        assert (metrics["runtime"], metrics["precision"]) == (INT8, "int8")


def test_shards_in_8_bits_are_predictions_in_8_bits(with_int8, samples, tmp_path):
    images = [item.image for item in tasks.get("eye").items(samples["eye"])][:4]
    for folder, engine in (("plain", None), ("shards", "local")):
        fastseg.predict(
            "eye", images, tmp_path / folder, export=with_int8, runtime=INT8, engine=engine
        )
    for image in images:
        name = f"{image.stem}.png"
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_an_8_bit_model_is_used_only_if_it_is_the_same_model(with_int8, run, tmp_path):
    export, beside = tmp_path / "eye", tmp_path / f"eye_{INT8}"
    shutil.copytree(with_int8, export)
    with refuses("no-int8", beside, INT8, kind=ExportError):
        fastseg.load(export, runtime=INT8)
    said = json.loads((with_int8.with_name(beside.name) / "parity.json").read_text())
    for change, code in (
        ({"export_sha256": {"model.onnx": "0" * 64}}, "no-int8"),
        ({"gate": {**said["gate"], "passed": False}}, "not-the-same-model"),
        ({"sha256": {"model.onnx": "0" * 64}}, "exchanged-file"),
        ({"sha256": None}, "exchanged-file"),
    ):
        shutil.copytree(with_int8.with_name(beside.name), beside, dirs_exist_ok=True)
        (beside / "parity.json").write_text(json.dumps({**said, **change}))
        with refuses(code, beside, kind=ExportError):
            fastseg.load(export, runtime=INT8)
    link = tmp_path / "current"
    link.symlink_to(with_int8)
    assert fastseg.load(link, runtime=INT8).runtime == INT8
    run("predict", beside, tmp_path, error="not-data")
    options = ("predict", export, tmp_path, "--runtime", INT8)
    run(*options, "--precision", "float32", error="engine-precision")
    run("evaluate", export / "export.pkl", "--runtime", INT8, error="no-onnx")


def test_an_8_bit_model_is_served_and_replaced(with_int8, tmp_path):
    export, beside = tmp_path / "eye", tmp_path / f"eye_{INT8}"
    shutil.copytree(with_int8, export)
    shutil.copytree(with_int8.with_name(beside.name), beside)
    served = Served("eye", export, ServeOptions(runtime=INT8))
    assert served.refresh() and served.refresh() is None
    assert served.version.predictor.runtime == INT8 and INT8 in DEFAULTS
    assert sha256(beside / "model.onnx").startswith(served.version.model)
    first = served.version
    shutil.rmtree(beside)
    assert served.refresh() is False and served.version is first
    shutil.copytree(with_int8.with_name(beside.name), beside)
    assert served.refresh()


def sabotaged(network, how):
    """Return a network that normalises wrongly, or takes blue for red."""
    if how == "mean":
        [mean] = [one for one in network.graph.initializer if one.name.endswith("mean")]
        values = onnx.numpy_helper.to_array(mean) / 255
        mean.CopyFrom(onnx.numpy_helper.from_array(values, mean.name))
        return network
    swap = helper.make_tensor("swap", TensorProto.INT64, [3], [2, 1, 0])
    network.graph.initializer.append(swap)
    for node in network.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    gather = helper.make_node("Gather", ["images", "swap"], ["swapped"], axis=3)
    network.graph.node.insert(0, gather)
    return network


@pytest.mark.parametrize("how", ["mean", "channels"])
def test_a_sabotaged_conversion_is_refused(how, run, exports, tmp_path, monkeypatch):
    whole = by_onnx.own_network
    monkeypatch.setattr(by_onnx, "own_network", lambda source: sabotaged(whole(source), how))
    command = ("export", exports("eye"), "--to", "onnx", "--out", tmp_path / "there")
    result = run(*command, error="not-the-same-model")
    assert "--force" in result.message and result.details["parity"]["gate"]["exceeded"]
    assert list(tmp_path.iterdir()) == []
    assert "kept by --force" in run(*command, "--force").out
    said = json.loads((tmp_path / "there" / "parity.json").read_text())
    assert not said["gate"]["passed"] and said["gate"]["exceeded"]
    assert "Kept by force" in (tmp_path / "there" / "README.md").read_text()


def identity(channels):
    """Return a network whose logits are the pixels that it sees."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["logits"], perm=[0, 3, 1, 2]),
        ],
        "identity",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 24, 32, channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", channels, 24, 32])],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.mark.parametrize("resize", ["squish", "crop"])
@pytest.mark.parametrize("channels", [3, 5])
def test_the_graph_resizes_as_fastseg_does(resize, channels):
    made = with_processing(identity(channels), (24, 32), resize, has_masks=True)
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    from fastseg.conversion.deployed import Deployed  # it imports torch, which takes seconds

    for size in [(24, 32), (97, 61), (11, 40), (300, 7), (25, 33)]:
        images = np.random.default_rng(0).integers(0, 256, (2, *size, channels), dtype=np.uint8)
        codes, logits = session.run(None, {"images": images})
        wanted = np.stack([resized(image, (24, 32), resize) for image in images])
        found = logits.transpose(0, 2, 3, 1)
        # Pillow rounds between the two directions, of which it takes either one first.
        assert np.abs(found - wanted).max() <= (resize == "squish")
        assert codes.shape == (2, *size) and codes.dtype == np.uint8
        by_torch = resized_by_torch(Deployed, images, (24, 32), resize)
        assert np.abs(by_torch - found).max() <= 1 and np.mean(by_torch != found) < 0.01


def resized_by_torch(deployed, images, size, resize):
    from types import SimpleNamespace

    import torch

    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    settings = SimpleNamespace(size=size, resize=resize)
    return deployed.resized(settings, planes).permute(0, 2, 3, 1).numpy()


def test_mistakes(run, fails, exports, tmp_path, monkeypatch):
    export = exports("eye")
    fails("export", export, "--to", "onx", code="unknown-target", suggested="onnx")
    fails("export", tmp_path / "none", "--to", "onnx", code="no-task-file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    fails("export", export, "--to", "onnx", "--out", tmp_path / "full", code="not-empty")
    fails("export", export, "--to", "onnx", "--out", export, code="not-empty")
    # parity.json alone does not make a folder one of a conversion, nor all its files own ones.
    (tmp_path / "full" / "parity.json").write_text('{"files": ["model.onnx", "notes.html"]}')
    fails("export", export, "--to", "onnx", "--out", tmp_path / "full", code="not-empty")
    copy = shutil.copytree(export, tmp_path / "kept" / "eye")
    (copy.parent / "parity.json").write_text('{"files": ["eye"]}')
    for place in (copy.parent, copy / "onnx"):
        fails("export", copy, "--to", "onnx", "--out", place, code="not-empty")
    assert (tmp_path / "full" / "notes.txt").exists() and (copy / "card.json").exists()
    monkeypatch.setattr("fastseg.conversion.targets.find_spec", lambda name: None)
    values = ("openvino", "fastseg[openvino]")
    fails("export", export, "--to", "openvino", code="no-converter", values=values)
    assert run("export", export, code=2)
    assert all(name in run("export", "--help").out for name in TARGETS)


def test_without_images_it_is_written_by_force_only(run, exports, tmp_path):
    command = ("export", exports("eye"), "--to", "onnx", "--out", tmp_path / "there")
    nothing = ("--data", tmp_path / "nothing")
    run(*command, *nothing, error="no-data")
    assert not (tmp_path / "there").exists()
    assert "not compared" in run(*command, *nothing, "--force").out
    said = json.loads((tmp_path / "there" / "parity.json").read_text())
    assert said["compared"] is None and said["not_run"] and not said["gate"]["passed"]


@pytest.mark.parametrize("dice, faults", [(0.0, 1), (None, 1), (0.8, 0)])
def test_without_a_foreground_pixels_decide_for_int8_too(dice, faults):
    found = parity.Parity(5, 0.0128, "Dice", dice, dice, 0.0, None, None, {})
    assert len(found.faults(int8.target)) == faults


def changed(monkeypatch, **fields):
    """Let `export` read cards with other fields."""
    from fastseg.conversion import converting

    def opened(export):
        task, folder, card = whole(export)
        return task, folder, replace(card, **fields)

    whole = converting.opened
    monkeypatch.setattr(converting, "opened", opened)


def test_an_export_of_folds_is_compared_on_all_images(exports, samples, tmp_path, monkeypatch):
    """No image was held out of all its networks: the difference of both is what counts."""
    changed(monkeypatch, valid_files=[], training={"folds": 2})
    said = fastseg.export(exports("eye"), "onnx", tmp_path / "there")
    assert said["compared"]["images"] == len(tasks.get("eye").items(samples["eye"]))
    assert not said["compared"]["held_out"]
    assert "may have been trained on" in (tmp_path / "there" / "README.md").read_text()


def test_mirror_images_are_left_out_and_named(exports, tmp_path, monkeypatch):
    changed(monkeypatch, tta=True)
    said = fastseg.export(exports("eye"), "onnx", tmp_path / "there")
    assert said["gate"]["passed"]  # both without
    assert "mirror image" in (tmp_path / "there" / "README.md").read_text()

"""adopt: ready ADE20K models with merged classes; every command accepts the export."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import ARCH, needs_shared, refuses, shared

import fastseg
from fastseg import tasks
from fastseg.data.images import read_raw
from fastseg.importers.smp_hub import NON_COMMERCIAL, adopt
from fastseg.models.factory import build
from fastseg.models.network import Spec
from fastseg.tasks.surfaces import TABLE, mapping

SURFACES = tasks.get("surfaces")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Return a folder with a model of 150 classes, as save_pretrained leaves it, and the model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ready") / "ade"
    model = smp.Unet(f"tu-{ARCH}", encoder_weights=None, classes=150).eval()
    model.save_pretrained(folder)
    steps = [
        {"__class_fullname__": "Resize", "height": 64, "width": 96},
        {
            "__class_fullname__": "Normalize",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.25, 0.3],
            "max_pixel_value": 255.0,
        },
    ]
    (folder / "albumentations_config_eval.json").write_text(
        json.dumps({"transform": {"transforms": steps}})
    )
    return folder, model


@pytest.fixture(scope="module")
def adopted(ready, tmp_path_factory):
    return adopt("surfaces", ready[0], tmp_path_factory.mktemp("adopted") / "surfaces")


def test_probabilities_are_sums_over_the_table(ready, adopted, monkeypatch):
    monkeypatch.setenv("FASTSEG_PRECISION", "float32")
    predictor = fastseg.load(adopted.export, "cpu")
    assert (
        predictor.card.size == [64, 96]
        and predictor.card.mean == [0.5, 0.4, 0.3]
        and predictor.card.std == [0.2, 0.25, 0.3]
    )
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        x = (
            torch.tensor(image).permute(2, 0, 1)[None] / 255
            - torch.tensor([0.5, 0.4, 0.3])[:, None, None]
        ) / torch.tensor([0.2, 0.25, 0.3])[:, None, None]
        theirs = ready[1](x).softmax(1)[0].numpy()
    expected = np.stack(
        [
            theirs[[i for i in range(150) if mapping("ade20k").get(str(i + 1), 0) == ours]].sum(0)
            for ours in range(4)
        ]
    )
    assert np.allclose(predictor.predict(image).probabilities, expected, atol=1e-4)
    assert np.allclose(
        fastseg.load(adopted.export / "export.pkl", "cpu").predict(image).probabilities,
        expected,
        atol=1e-4,
    )


def test_a_model_that_knows_only_floors(tmp_path):
    model = smp.UPerNet(f"tu-{ARCH}", encoder_weights=None, classes=150, decoder_channels=16)
    torch.nn.init.zeros_(model.segmentation_head[0].weight)
    with torch.no_grad():
        model.segmentation_head[0].bias[:] = -9
        model.segmentation_head[0].bias[3] = 9  # floor;flooring is code 4
    model.save_pretrained(tmp_path / "ade")
    made = adopt("surfaces", tmp_path / "ade" / "model.safetensors", tmp_path / "out")
    assert (
        made.licence == "mit" and "UPerNet" in made.model and (made.export / "model.onnx").is_file()
    )
    assert (
        fastseg.load(made.export, "cpu").predict(np.zeros((50, 70, 3), dtype=np.uint8)).codes == 2
    ).all()


@pytest.mark.slow
def test_segformer_is_taken_over_with_its_licence(tmp_path):
    smp.Segformer("mit_b0", encoder_weights=None, classes=150).save_pretrained(tmp_path / "b0")
    made = adopt("surfaces", tmp_path / "b0", tmp_path / "out")
    card = json.loads((made.export / "card.json").read_text())
    assert made.licence == card["licence"] == NON_COMMERCIAL
    assert fastseg.load(made.export, "cpu").predict(
        np.zeros((50, 70, 3), dtype=np.uint8)
    ).codes.shape == (50, 70)


@pytest.mark.slow
def test_everything_accepts_it(adopted, samples, run, tmp_path):
    common = ["--export", adopted.export, "--data", samples["surfaces"], "--device", "cpu"]
    images = sorted(samples["surfaces"].glob("images/*"))
    assert (
        "2 files"
        in run(
            "predict",
            "surfaces",
            *images[:2],
            "--export",
            adopted.export,
            "--out",
            tmp_path / "masks",
        ).out
    )
    result = json.loads(
        run("evaluate", "surfaces", *common, "--out", tmp_path / "judged", "--json").out
    )
    assert result["images"] == len(images)  # none of them trained it: all are fair
    assert (
        run("interpret", "surfaces", *common, "--out", tmp_path / "report").code == 0
        and (tmp_path / "report" / "report.html").is_file()
    )
    run(
        "fit",
        "surfaces",
        "--data",
        samples["surfaces"],
        "--weights",
        adopted.export,
        "--epochs",
        "1",
        "--out",
        tmp_path / "tuned",
        "--device",
        "cpu",
    )
    card = json.loads((tmp_path / "tuned" / "card.json").read_text())
    assert (
        card["licence"] == "mit"
        and card["size"] == [64, 96]
        and "export" in card["weights_origin"]
        and card["valid_files"]
    )
    assert card["network"]["options"]["merge"] and not card["training"].get("adopted_from")
    common = ["fit", "surfaces", "--data", samples["surfaces"], "--weights", adopted.export]
    run(*common, "--arch", ARCH, error="export-arch")
    adopt = ["adopt", "surfaces", "--from", adopted.export]
    run(*adopt, "--out", tmp_path / "tuned", error="holds-export")


def test_training_on_changes_the_network_that_was_adopted(adopted, samples):
    learn = fastseg.learner(
        "surfaces", samples["surfaces"], weights=adopted.export, device="cpu", bs=4
    )
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.unfreeze()
    learn.fit_one_cycle(1, 1e-3)
    after = learn.model.state_dict()
    assert all(
        not torch.equal(before[name], after[name])
        for name in (
            "model.model.segmentation_head.0.weight",
            "model.model.encoder.model.conv1.0.weight",
        )
    )


def test_what_cannot_be_adopted(ready, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refuses("no-ready-model", "eye"):
        adopt("eye", ready[0])
    with refuses("no-such-source", "./gone"):
        adopt("surfaces", "./gone")

    def changed(**values):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ready[0], folder)
        config = {**json.loads((folder / "config.json").read_text()), **values}
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value != "without"})
        )
        return folder

    for values, expected in (
        ({"classes": 21}, ["unsupported-source", "classes", 21, 150]),
        ({"in_channels": 4}, ["unsupported-source", "in_channels", 4]),
        ({"_model_class": "create_model"}, ["unsupported-source", "create_model"]),
        ({"encoder_name": "tu-hf_hub:evil/model"}, ["unsupported-source", "evil/model"]),
        ({"encoder_name": "resnet18"}, ["damaged-source", "model.safetensors"]),
        ({"_model_class": "without"}, ["damaged-source", "_model_class"]),
        ({"decoder_channels": "many"}, ["unsupported-source", "config.json"]),
    ):
        with refuses(*expected):
            adopt("surfaces", changed(**values))
    (changed() / "model.safetensors").write_bytes(b"nothing")
    with refuses("damaged-source", "config.json"):
        adopt("surfaces", tmp_path / "changed")
    for pipeline in (
        {"transform": [1, 2]},
        {"transform": {"transforms": [3]}},
        {},
        {"transform": {"transforms": [{"__class_fullname__": "Resize", "height": 0, "width": -3}]}},
    ):
        (changed() / "albumentations_config_eval.json").write_text(json.dumps(pipeline))
        with refuses("damaged-source", "albumentations_config_eval.json"):
            adopt("surfaces", tmp_path / "changed")
    (tmp_path / "changed" / "model.safetensors").unlink()
    with refuses("source-layout", "model.safetensors"):
        adopt("surfaces", tmp_path / "changed")
    assert not (tmp_path / "exports").exists()


def test_a_card_with_false_groups_is_refused(adopted, tmp_path):
    folder = shutil.copytree(adopted.export, tmp_path / "export")
    for change in (
        {"merge": [[0], [1], [2], [2]]},
        {"merge": [[0], [1]]},
        {"merge": "all"},
        {"encoder_name": "tu-hf_hub:evil/model"},
    ):
        card = json.loads((adopted.export / "card.json").read_text())
        card["network"]["options"] |= change
        (folder / "card.json").write_text(json.dumps(card))
        with refuses("damaged-card", "network"):
            fastseg.load(folder)


def test_merging_is_exact_and_learnable(precision):
    groups = [[0, 2, 4], [1], [3]]
    network = build(Spec("segment", ARCH, 3, "unet", 32, {"merge": groups})).eval()
    x = torch.rand(1, 3, 64, 64)
    many = network.model.model(x.contiguous(memory_format=torch.channels_last)).softmax(1)
    assert torch.allclose(
        network(x).softmax(1),
        torch.stack([many[:, group].sum(1) for group in groups], 1),
        atol={"float32": 1e-5, "bfloat16": 1e-2}[precision],
    )
    assert network.body is network.model.model.encoder


def _hub(folder):
    class Hub(SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return str(folder / path.rpartition("/resolve/main/")[2])

        def send_head(self):
            if self.path == "/":
                self.send_response(200)
                self.end_headers()
                return None
            return super().send_head()

        def end_headers(self):
            self.send_header("ETag", '"' + self.path.rpartition("/")[2] + '"')
            self.send_header("X-Repo-Commit", "b" * 40)
            super().end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.slow
def test_from_a_hub_and_without_one(ready, tmp_path):
    server = _hub(ready[0])
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }

    def called(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "fastseg", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = called("adopt", "surfaces", "--from", "somebody/ade")
    server.shutdown()
    server.server_close()
    assert done.returncode == 0 and "licence of its weights: mit" in done.stdout, done.stderr
    assert json.loads((tmp_path / "exports" / "surfaces" / "card.json").read_text())[
        "training"
    ] == {"adopted_from": "somebody/ade"}
    common = ["adopt", "surfaces", "--from", "somebody/else", "--json"]
    failed = called(*common, "--out", "exports/second")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert json.loads(failed.stdout)["error"]["code"] == "not-fetched"
    assert "--from DIR" in failed.stderr and not (tmp_path / "exports" / "second").exists()


def test_segment_without_an_export_says_how_to_get_one(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "fastseg adopt surfaces" in run("segment", "room.jpg", error="no-export").message


def test_the_table_is_readable_and_complete():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["source"] for row in rows} == {"ade20k", "cocostuff", "opensurfaces", "openimages"}
    assert all(
        row["why"] for row in rows if row["class"] in ("other", "unlabelled")
    )  # what is left out is left out for a reason
    assert (
        mapping("opensurfaces")["wall"] == 1
        and mapping("openimages")["/m/0h8n5zk"] == 3
        and mapping("openimages")["/m/04bcr3"] == 255
    )


@needs_shared
def test_the_table_against_the_names_of_ade20k():
    with (shared / "data" / "surfaces" / "ade20k" / "objectInfo150.csv").open() as file:
        names = {row["Idx"]: row["Name"].split(";") for row in csv.DictReader(file)}
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["source"] == "ade20k"]
    for row in rows:
        assert set(row["name"].split()) <= set(names[row["code"]]), row
    listed = {row["code"] for row in rows}
    words = {"table", "desk", "counter", "countertop", "floor", "wall", "rug", "carpet"}
    near = [code for code, parts in names.items() if words & set(parts)]
    assert set(near) <= listed  # whatever is near the classes has been decided


@needs_shared
def test_the_table_against_real_label_maps():
    root = shared / "data" / "surfaces"
    found = {source: set() for source in ("ade20k", "cocostuff")}
    for item in SURFACES.items(root):
        codes, ours = read_raw(item.label), SURFACES.label(item)
        found[item.source] |= set(np.unique(codes).tolist())
        for code in np.unique(codes):
            unlabelled = {"ade20k": 0, "cocostuff": 255}[item.source]
            expected = 255 if code in (unlabelled, 255) else mapping(item.source).get(str(code), 0)
            assert set(np.unique(ours[codes == code]).tolist()) == {expected}
    assert {1, 4, 16} & found["ade20k"] and {66, 100} | set(range(170, 177)) & found["cocostuff"]

"""The export folder: its files, which pickles are opened, loading in another place."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refuses

import fastseg
from fastseg import tasks
from fastseg.exports.card import SCHEMA, sha256
from fastseg.models.network import Network


def copied(export, tmp_path):
    return shutil.copytree(export, tmp_path / "copy")


def edit(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize("name", tasks.names())
def test_export_holds_what_the_design_names(name, exports):
    folder = exports(name)
    assert {
        "export.pkl",
        "model.safetensors",
        "card.json",
        "history.csv",
        "metrics.json",
        "loss_curve.png",
        "show_results.png",
    } <= {p.name for p in folder.iterdir()}
    card = json.loads((folder / "card.json").read_text())
    assert (
        card["task"] == name
        and card["schema"] == SCHEMA
        and card["weights_origin"] == "random"
        and card["valid_files"]
    )
    assert card["sha256"]["model.safetensors"] == sha256(folder / "model.safetensors")
    assert card["sha256"]["export.pkl"] == sha256(folder / "export.pkl")
    assert card["metrics"] == json.loads((folder / "metrics.json").read_text())
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


ELSEWHERE = """
import json, sys, fastseg
given = json.load(sys.stdin)
for folder, image in given:
    p = fastseg.load(folder).predict(image)
    print(p.label if p.codes is None else p.codes.shape)
assert not any(name.startswith("fastai") for name in sys.modules)
import fastai.callback.progress  # which gives learners no_bar
from fastai.learner import load_learner
for folder, image in given:
    learn = load_learner(f"{folder}/export.pkl")
    with learn.no_bar():
        print(len(learn.predict(image)))
"""


@pytest.mark.slow
def test_exports_load_in_a_fresh_process_elsewhere_without_data(exports, samples, tmp_path):
    """One process for all tasks: most of its time, it imports. Segmenting needs no fastai."""
    given = [
        (
            str(copied(exports(name), tmp_path / name)),
            str(tasks.get(name).items(samples[name])[0].image),
        )
        for name in tasks.names()
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE],
        cwd=tmp_path,
        input=json.dumps(given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == 2 * len(given) and lines[len(given) :] == ["3"] * len(given)


def test_safe_twin_and_pickle_agree(exports, samples, monkeypatch):
    monkeypatch.setenv("FASTSEG_PRECISION", "float32")
    folder = exports("eye")
    item = tasks.get("eye").items(samples["eye"])[0]
    safe, pickled = (
        fastseg.load(folder).predict(item.image),
        fastseg.load(folder / "export.pkl").predict(item.image),
    )
    assert np.allclose(safe.probabilities, pickled.probabilities, atol=1e-5)


def test_exchanged_pickle_is_opened_only_on_trust(exports, tmp_path):
    folder = copied(exports("eye"), tmp_path)

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    original = (folder / "export.pkl").read_bytes()
    (folder / "export.pkl").write_bytes(pickle.dumps(Evil()))
    with refuses("untrusted-pickle", "export.pkl"):
        fastseg.load(folder / "export.pkl")
    (folder / "export.pkl").write_bytes(original)
    edit(folder, sha256={})
    assert fastseg.load(folder / "export.pkl", trust=True).card.task == "eye"


def test_newer_damaged_and_foreign_cards(exports, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    edit(folder, schema=SCHEMA + 1, fastseg="9.9.0")
    with refuses("newer-card", "9.9.0"):
        fastseg.load(folder)
    edit(folder, schema=SCHEMA, task="roof", definition=None)
    with refuses("task-missing", "roof.py", "FASTSEG_TASKS"):
        fastseg.load(folder)
    (folder / "card.json").write_text("{")
    with refuses("damaged-card", "card.json"):
        fastseg.load(folder)
    with refuses("no-export", f"fastseg fit TASK --out {tmp_path / 'nowhere'}"):
        fastseg.load(tmp_path / "nowhere")


def test_an_export_without_its_card_is_not_taken_for_none(exports, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    (folder / "card.json").unlink()
    for path in (folder, folder / "export.pkl"):
        with refuses("missing-card", "card.json"):
            fastseg.load(path, trust=True)


def test_damaged_weights(exports, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with refuses("exchanged-file", "model.safetensors"):
        fastseg.load(folder)
    (folder / "model.safetensors").unlink()
    with refuses("missing-file", "model.safetensors"):
        fastseg.load(folder)


def test_python_learner_saves_and_loads(samples, tmp_path):
    from conftest import ARCH

    learn = fastseg.learner("face", samples["face"], arch=ARCH, weights="none", size=64, bs=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
    folder = fastseg.save(learn, tmp_path / "out")
    image = tasks.get("face").items(samples["face"])[0].image
    assert fastseg.load(folder).predict(str(image)).codes.shape == (218, 178)
    assert fastseg.evaluate("face", export=folder)["images"] == len(learn.dls.valid_ds)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with refuses("not-an-export", "mine"):
        fastseg.save(learn, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_dynamic_unet_exports_without_its_activations(samples, tmp_path):
    learn = fastseg.learner(
        "eye", samples["eye"], arch="resnet18", decoder="fastai", weights="none", size=64, bs=4
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
    folder = fastseg.save(learn, tmp_path / "out")
    twin, pickled = (
        (folder / "model.safetensors").stat().st_size,
        (folder / "export.pkl").stat().st_size,
    )
    assert pickled < twin * 1.05 + 2e6
    assert fastseg.load(folder).predict(learn.dls.valid_ds.items[0].image).codes.shape == (240, 320)


def test_a_failed_fit_keeps_the_earlier_export(exports, samples, tmp_path, monkeypatch):
    folder = copied(exports("eye"), tmp_path)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    from fastseg.training import fit

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "score_images", fail)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(
            "eye",
            samples["eye"],
            arch="test_resnet",
            weights="none",
            size=64,
            bs=8,
            epochs=1,
            out=folder,
        )
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert {p.name for p in tmp_path.iterdir()} == {
        "copy",
        ".copy.fit",
    }  # what was learnt waits for --resume


@pytest.mark.parametrize(
    "changes",
    [
        {"size": ["a", "b"]},
        {"size": [0, 0]},
        {"size": [10**9, 10**9]},
        {"mean": ["x", 1, 1]},
        {"std": [0, 0, 0]},
        {"valid_files": None},
        {"data": 5},
        {"network": {}},
        {"training": 5},
        {"weights_origin": None},
        {"resize": "nonsense"},
        {"versions": 5},
        {"kind": "none"},
    ],
)
def test_cards_with_wrong_values(exports, tmp_path, changes):
    folder = copied(exports("eye"), tmp_path)
    edit(folder, **changes)
    with refuses("damaged-card", *changes):
        fastseg.load(folder)


def test_deeply_nested_card_and_exchanged_weights(exports, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    shutil.copy(exports("face") / "model.safetensors", folder)
    with refuses("exchanged-file", "model.safetensors"):
        fastseg.load(folder)
    (folder / "card.json").write_text("[" * 200_000)
    with refuses("damaged-card", "card.json"):
        fastseg.load(folder)


def test_a_missing_onnx_file_is_made_up_for(exports, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSEG_PRECISION", "float32")
    image = sorted((samples["eye"] / "imgs_small").iterdir())[0]
    folder = copied(exports("eye"), tmp_path)
    expected = fastseg.load(folder).predict(image).codes
    (folder / "model.onnx").unlink()
    assert (fastseg.load(folder, "cpu").predict(image).codes == expected).mean() > 0.999


def test_arrays_that_are_no_image_are_refused(exports):
    predictor = fastseg.load(exports("eye"))
    for array in (
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with refuses("image-array", "uint8 (height, width, 3)"):
            predictor.predict(array)


def test_a_card_of_another_size_is_one_line(exports, samples, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"size": [128, 96]}))
    image = sorted((samples["eye"] / "imgs_small").iterdir())[0]
    try:
        assert fastseg.load(folder).predict(image).codes.shape  # torch takes any size
    except fastseg.FastsegError as error:
        assert error.code == "card-mismatch"


def test_a_card_of_another_mean_or_std_is_found(exports, tmp_path):
    for number, (name, value) in enumerate({"mean": [0.41] * 3, "std": [0.31] * 3}.items()):
        folder = copied(exports("eye"), tmp_path / str(number))
        edit(folder, **{name: value})
        with refuses("card-mismatch", "model.safetensors", "mean and std"):
            fastseg.load(folder, runtime="torch")


@pytest.mark.parametrize(
    "arch", ["hf_hub:evil/x", "hf-hub:evil/x", "local-dir:/tmp/x", "../x", "a" * 200, 7]
)
def test_a_card_names_no_place_to_fetch_from(exports, tmp_path, arch):
    folder = copied(exports("eye"), tmp_path)
    network = json.loads((folder / "card.json").read_text())["network"]
    edit(folder, network={**network, "arch": arch})
    with refuses("damaged-card", "network"):
        fastseg.load(folder)


def test_exports_of_the_first_version_load(tmp_path):
    """Written by fastseg 0.1.0, its weights halved in precision to keep it small."""
    y, x = np.mgrid[:121, :121]
    image = np.repeat((x * y % 256).astype(np.uint8)[..., None], 3, axis=2)
    found = fastseg.load(Path(__file__).parent / "golden" / "mri_0.1.0").predict(image)
    assert found.label == "blurred" and found.probabilities == pytest.approx(
        [0.5608, 0.4392], abs=1e-3
    )
    assert fastseg.predict(
        "mri",
        tasks.get("mri").sample(tmp_path / "mri", n=8) / "train",
        tmp_path / "out.tsv",
        export=Path(__file__).parent / "golden" / "mri_0.1.0",
    )


def test_a_pickle_is_used_from_the_command_line(exports, samples, run, tmp_path):
    folder = copied(exports("eye"), tmp_path)
    common = ["predict", "eye", samples["eye"] / "imgs_small", "--export", folder / "export.pkl"]
    run(*common, "--out", "vouched")
    edit(folder, sha256={})
    refused = run(*common, "--out", "refused", error="untrusted-pickle")
    assert "trust=True (--trust)" in refused.message
    assert "opened on trust" in run(*common, "--out", "trusted", "--trust").err
    trusted, vouched = (
        {p.name: p.read_bytes() for p in Path(folder).glob("*.png")}
        for folder in ("trusted", "vouched")
    )
    assert trusted == vouched
    run(
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        folder / "export.pkl",
        "--trust",
        "--split",
        "all",
    )


@pytest.mark.slow
def test_an_export_names_no_folder_of_its_maker(samples, run, tmp_path, monkeypatch):
    data = shutil.copytree(samples["eye"], tmp_path / "private" / "data" / "eye")
    out = tmp_path / "private" / "exports" / "eye"
    small = ["--arch", "test_resnet", "--weights", "none", "--size", "64", "--epochs", "1"]
    run("fit", "eye", "--data", data, "--out", out, *small)
    assert json.loads((out / "card.json").read_text())["data"] == "../../data/eye"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("evaluate", "eye", "--export", out, "--json").out  # finds the data from anywhere
    run("interpret", "eye", "--export", out)
    for file in out.rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file
    moved = shutil.copytree(out, tmp_path / "moved" / "eye" / "deeper")
    result = run("evaluate", "eye", "--export", moved, "--json", code=1)
    assert json.loads(result.out)["error"]["code"] == "data-moved" and "--data" in result.err
    run("evaluate", "eye", "--export", moved, "--data", data)
    edit(moved, data=str(data))  # as earlier versions wrote it
    run("evaluate", "eye", "--export", moved)


def test_a_path_that_would_tell_too_much_is_a_name(tmp_path, monkeypatch):
    from fastseg.utils.io import portable_path

    monkeypatch.setenv("HOME", str(tmp_path / "home" / "jane"))
    jane = tmp_path / "home" / "jane"
    assert portable_path(jane / "data" / "eye", jane / "exports" / "eye") == "../../data/eye"
    assert portable_path(tmp_path / "home" / "tom" / "eye", jane / "exports" / "eye") == "eye"
    assert portable_path("/somewhere/else/eye", jane / "exports" / "eye") == "eye"


def one_export(samples, out):
    small = dict(arch="test_resnet", weights="none", size=64, epochs=1)
    return fastseg.fit("eye", samples["eye"], out=out, **small)


def test_a_network_that_onnx_cannot_hold_has_no_onnx_file(samples, tmp_path, monkeypatch):
    def without_onnx(self, x):
        return torch.fft.fft2(forward(self, x)).real

    forward = Network.forward
    monkeypatch.setattr(Network, "forward", without_onnx)
    one_export(samples, tmp_path / "e")
    assert not (tmp_path / "e" / "model.onnx").exists()


def test_a_mistake_while_onnx_is_written_is_an_error(samples, tmp_path, monkeypatch):
    def misspelt(*_, **__):
        raise AttributeError("'Network' object has no attribute 'precsion'")

    monkeypatch.setattr("torch.onnx.export", misspelt)
    with pytest.raises(AttributeError):
        one_export(samples, tmp_path / "e")
    assert not (tmp_path / "e").exists()

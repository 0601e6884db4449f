"""Interrupted fits resume to the same weights; full disks and memory; one run a folder."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ARCH, PulledPlug, refuses, rows_of
from fastai.callback.core import Callback
from platformdirs import user_cache_path
from safetensors.torch import load_file

import fastseg
from fastseg.errors import is_out_of_memory
from fastseg.evaluation.scores import MaskScores
from fastseg.inference import predictor
from fastseg.learners.options import FitOptions
from fastseg.training import checkpoint, loop, resume
from fastseg.utils import io
from fastseg.utils.journal import Journal
from fastseg.utils.locks import write_lock

OPTIONS = {"arch": ARCH, "weights": "none", "size": 64, "bs": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eye", {"epochs": 4, "ema": 0.9, "patience": 3}),
        ("eye", {"epochs": 3, "opt": "ranger", "mixup": 0.2, "windows": 0.6}),
        ("mri", {"epochs": 3}),
        ("eye", {"epochs": 2, "folds": 2}),
    ],
)
def test_an_interrupted_fit_ends_as_an_uninterrupted_one(name, options, samples, tmp_path, plug):
    """Interrupted before or after the third checkpoint is written."""
    fastseg.fit(name, samples[name], out=tmp_path / "whole", **OPTIONS, **options)
    for before, folder in ((False, "after"), (True, "before")):
        restore = plug(3, before)
        with pytest.raises(PulledPlug):
            fastseg.fit(name, samples[name], out=tmp_path / folder, **OPTIONS, **options)
        restore()
        assert not (tmp_path / folder).exists()
        torch.rand(7)  # the resuming process has another random state
        result = fastseg.fit(name, out=tmp_path / folder, resume=True)
        one, other = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", folder))
        assert all(torch.equal(one[key], other[key]) for key in one)
        history = [(tmp_path / out / "history.csv").read_text() for out in ("whole", folder)]
        assert history[0] == history[1]
        assert json.loads((tmp_path / "whole/metrics.json").read_text()) == result["metrics"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "before", "whole"]


def test_resume_with_the_default_folders(samples, run, tmp_path, plug):
    shutil.copytree(samples["eye"], tmp_path / "data/eye")
    common = ["--arch", ARCH, "--weights", "none", "--size", "64", "--epochs", "2"]
    run("tasks")  # moves to the temporary folder
    restore = plug(1)
    with pytest.raises(PulledPlug):
        run("fit", "eye", *common)
    restore()
    assert "--resume" in run("fit", "eye", *common, error="interrupted-fit").message
    rows = {row["task"]: row for row in json.loads(run("tasks", "--json").out)}
    assert rows["eye"]["interrupted"] and not rows["face"]["interrupted"]
    for command in (("evaluate", "eye"), ("interpret",)):
        assert "fastseg fit eye --resume" in run(*command, error="no-export").message
    assert "export: exports/eye" in run("fit", "eye", "--resume").out
    run("evaluate", "eye")


def test_an_interrupted_fit_is_not_lost_by_chance(samples, tmp_path, plug, monkeypatch):
    data = shutil.copytree(samples["eye"], tmp_path / "data")
    out = tmp_path / "out"
    common = dict(out=out, **OPTIONS)
    with refuses("nothing-to-resume"):
        fastseg.fit("eye", data, resume=True, epochs=2, **common)
    restore = plug(1)
    with pytest.raises(PulledPlug):
        fastseg.fit("eye", data, epochs=2, **common)
    restore()
    with refuses("interrupted-fit", "--resume"):
        fastseg.fit("eye", data, epochs=2, **common)
    with refuses("resume-options", "--lr"):
        fastseg.fit("eye", data, resume=True, lr=0.5, **common)
    with refuses("interrupted-fit", "eye", "mri"):
        fastseg.fit("mri", samples["mri"], resume=True, **common)
    mask = next((data / "masks_small").iterdir())
    mask.write_bytes(mask.read_bytes() + b" ")
    with refuses("data-changed"):
        fastseg.fit("eye", resume=True, out=out)
    state = next(resume.work_of(out).glob("*/checkpoint.pt"))
    fastseg.fit("eye", data, epochs=1, resume=False, **common)
    assert (out / "card.json").is_file() and not state.exists()


def test_a_resume_that_is_refused_keeps_the_fit_and_needs_no_working_folder(
    samples, tmp_path, plug, monkeypatch
):
    """Relative paths are those of the folder in which the fit was started."""
    fastseg.fit("eye", samples["eye"], out=tmp_path / "first", epochs=1, **OPTIONS)
    monkeypatch.chdir(tmp_path)
    shutil.copy(tmp_path / "first/model.safetensors", "start.safetensors")
    out, options = tmp_path / "out", {**OPTIONS, "weights": "start.safetensors"}
    restore = plug(1)
    with pytest.raises(PulledPlug):
        fastseg.fit("eye", samples["eye"], out=out, epochs=2, **options)
    restore()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    weights = tmp_path / "start.safetensors"
    weights.rename(tmp_path / "moved")
    with refuses("no-weights-file", str(weights)):
        fastseg.fit("eye", out=out, resume=True)
    (tmp_path / "moved").rename(weights)
    assert len(fastseg.fit("eye", out=out, resume=True)["history"]) == 3  # one of the head alone


def test_damaged_checkpoints_are_one_line_and_run_no_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"epoch": 3})
    assert (
        checkpoint.read(path, torch.device("cpu")) == {"epoch": 3}
        and checkpoint.read(tmp_path / "none", torch.device("cpu")) is None
    )
    path.write_bytes(path.read_bytes()[:-20])
    with refuses("damaged-checkpoint", "--no-resume"):
        checkpoint.read(path, torch.device("cpu"))
    torch.save({"x": Callback()}, path)
    with refuses("damaged-checkpoint", "--no-resume"):
        checkpoint.read(path, torch.device("cpu"))


@pytest.mark.slow
def test_a_full_disk_keeps_the_earlier_export_and_what_was_learnt(samples, tmp_path, monkeypatch):
    out = tmp_path / "out"
    fastseg.fit("eye", samples["eye"], epochs=1, out=out, **OPTIONS)
    before = {path: path.read_bytes() for path in out.iterdir()}
    full = OSError(28, "No space left on device")

    def fails(*_):
        raise full

    monkeypatch.setattr("fastseg.exports.write.write_onnx", fails)
    with refuses("not-writable", "No space left"):
        fastseg.fit("eye", samples["eye"], epochs=2, out=out, **OPTIONS)
    assert {path: path.read_bytes() for path in out.iterdir()} == before and resume.is_unfinished(
        out
    )
    monkeypatch.undo()
    assert len(fastseg.fit("eye", out=out, resume=True)["history"]) == 2


def test_an_export_is_there_at_every_moment(samples, tmp_path, monkeypatch):
    """Where folders cannot be swapped atomically, what a killed run had moved aside is restored."""
    out = tmp_path / "out"
    fastseg.fit("eye", samples["eye"], epochs=1, out=out, **OPTIONS)
    weights = (out / "model.safetensors").read_bytes()
    for system, exchanged in (("linux", True), ("darwin", False)):
        monkeypatch.setattr(io.sys, "platform", system)
        one, other = tmp_path / "one", tmp_path / "other"
        for folder in (one, other):
            folder.mkdir()
            (folder / folder.name).touch()
        assert io.swap_folders(one, other) is exchanged
        assert [path.name for path in one.iterdir()] == (["other"] if exchanged else ["one"])
        shutil.rmtree(one)
        shutil.rmtree(other)
    out.rename(tmp_path / ".out.old")
    assert (
        fastseg.evaluate("eye", export=out)["images"]
        and (out / "model.safetensors").read_bytes() == weights
    )


def test_one_run_at_a_time_writes_to_a_place(samples, run, tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from fastseg.utils.locks import write_lock\n"
            "with write_lock(Path('exports/eye')):\n print('held', flush=True); time.sleep(60)",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline().strip() == "held"
        run("fit", "eye", "--data", samples["eye"], error="busy")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with write_lock(Path("exports/eye")):  # one that died lets go
        run("fit", "eye", "--data", samples["eye"], error="busy")


def test_a_journal_knows_what_is_done(tmp_path):
    with pytest.raises(PulledPlug), Journal("x", 1) as journal:
        journal.add("a", [1])
        journal.add("b", {"c": 2})
        raise PulledPlug
    with journal.path.open("a") as file:
        file.write('["c", 3')  # the line that was being written
    again = Journal("x", 1)
    assert again.done == {"a": [1], "b": {"c": 2}} and Journal("x", 2).done == {}
    with again:
        again.add("d", 4)
        assert Journal("x", 1).done == {"a": [1], "b": {"c": 2}, "d": 4}
    assert Journal("x", 1).done == {}


def test_a_journal_that_another_run_deletes_meanwhile_is_no_error(samples, run):
    """A link to a missing file is listed by the folder, and missing when its age is asked for."""
    run("check", "eye", "--data", samples["eye"])
    (user_cache_path("fastseg") / "gone.journal").symlink_to("nowhere")
    run("check", "eye", "--data", samples["eye"])


def test_too_little_memory_is_one_line(samples, tmp_path, monkeypatch):
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and not is_out_of_memory(
        RuntimeError("shape")
    )
    learn = fastseg.learner("eye", samples["eye"], **OPTIONS)

    def full(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 9 bytes."
        )

    monkeypatch.setattr(learn.model, "forward", full)
    with refuses("out-of-memory", "64x64", "--bs", 4, 2):
        loop.train(learn, FitOptions(epochs=1))


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_an_interrupted_prediction_resumes(name, samples, exports, tmp_path, monkeypatch):
    images = {"eye": samples["eye"] / "imgs_small", "mri": samples["mri"] / "train"}[name]
    count = len(list(images.glob("*.*g")))

    def results(out: Path) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes() for path in (out if out.is_dir() else out.parent).iterdir()
        }

    whole, cut = (
        tmp_path / folder / ("" if name == "eye" else "out.tsv") for folder in ("whole", "cut")
    )
    fastseg.predict(name, images, whole, export=exports(name))
    described, seen = predictor.Prediction.described, []

    def dies(self, threshold):
        seen.append(self.source)
        if len(seen) == 9:
            raise PulledPlug
        return described(self, threshold)

    monkeypatch.setattr(predictor.Prediction, "described", dies)
    with pytest.raises(PulledPlug):
        fastseg.predict(name, images, cut, export=exports(name), bs=2)
    assert not list(tmp_path.glob("cut/*.csv")) and not list(tmp_path.glob("cut/*.tsv"))
    before = len(seen)
    fastseg.predict(name, images, cut, export=exports(name), bs=2)
    assert count - before <= len(seen) - before < count and results(cut) == results(whole)
    seen[:] = range(100)
    fastseg.predict(
        name, images, cut, export=exports(name), bs=2
    )  # one that was finished is done again when asked for
    assert len(seen) == 100 + count


def test_an_interrupted_evaluation_resumes(samples, exports, tmp_path, monkeypatch):
    common = dict(data=samples["eye"], split="all", export=exports("eye"), bs=2)
    whole = fastseg.evaluate("eye", out=tmp_path / "whole", **common)
    judge, seen = MaskScores.judge, []

    def dies(*arguments):
        seen.append(arguments[2])
        if len(seen) == 9:
            raise PulledPlug
        return judge(*arguments)

    monkeypatch.setattr(MaskScores, "judge", dies)
    with pytest.raises(PulledPlug):
        fastseg.evaluate("eye", out=tmp_path / "cut", **common)
    assert not (tmp_path / "cut").exists()
    before = len(seen)
    cut = fastseg.evaluate("eye", out=tmp_path / "cut", **common)
    assert len(seen) - before < 16 and {**cut, "written": 0} == {**whole, "written": 0}
    assert (tmp_path / "cut/per_image.csv").read_text() == (
        tmp_path / "whole/per_image.csv"
    ).read_text()


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_unreadable_images_are_listed_and_tried_again(name, samples, exports, run, tmp_path):
    images = shutil.copytree(
        {"eye": samples["eye"] / "imgs_small", "mri": samples["mri"] / "train"}[name],
        tmp_path / "images",
    )
    first, second = sorted(images.glob("*.*g"))[:2]
    whole = first.read_bytes()
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:200])
    out = tmp_path / ("out" if name == "eye" else "out/subjects.tsv")
    told = run("predict", name, images, "--export", exports(name), "--out", out, code=1).err
    assert (
        first.name in told
        and "1 more could not be read" in told
        and "failed.csv" in told
        and "the other" in told
    )
    rows = rows_of("out/failed.csv")
    assert [Path(row["image"]).name for row in rows] == [
        first.name,
        second.name,
    ] and "the file is empty" in rows[0]["reason"]
    first.write_bytes(whole)
    second.unlink()
    run(
        "predict",
        name,
        images,
        "--export",
        exports(name),
        "--out",
        out if name == "eye" else "out/again.tsv",
    )
    assert not Path("out/failed.csv").exists() or name == "mri"


def test_a_disk_that_fills_up_while_learning_is_one_line(samples, tmp_path, monkeypatch):
    """torch's error names a source file of torch, not the disk."""

    def full(*_, **__):
        raise RuntimeError(
            "[enforce fail at inline_container.cc:671] . unexpected pos 1868352 vs 1868248"
        )

    monkeypatch.setattr("fastai.learner.Learner.save", full)
    with refuses("not-writable", "out"):
        fastseg.fit("eye", samples["eye"], epochs=2, patience=2, out=tmp_path / "out", **OPTIONS)
    assert io.is_disk_full(OSError(28, "No space left on device")) and not io.is_disk_full(
        RuntimeError("shape")
    )

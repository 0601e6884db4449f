"""`fit --track` and `study --track`: what trackers get, and that none of them can stop a fit."""

import json
import logging
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, PulledPlug, refuses, rows_of
from PIL import Image

import fastseg
from fastseg.tracking import choice, reporting
from fastseg.tracking.base import Row, Run, Tracker
from fastseg.tracking.figures import figures, settings
from fastseg.tracking.to_mlflow import MLflow
from fastseg.utils.choices import TRACKERS

OPTIONS = {"arch": ARCH, "weights": "none", "size": 64, "bs": 4, "epochs": 2}
EXPORTED = {"card.json", "model.safetensors", "model.onnx", "metrics.json", "history.csv"}


def needs(package):
    return pytest.mark.skipif(
        find_spec(package) is None, reason=f"{package} is no part of the extra test: install it"
    )


class Recorded(Tracker):
    """A tracker that remembers what it is told, and fails where it is asked to."""

    place = "memory"
    runs: list["Recorded"] = []
    fails_in = ""

    def __init__(self, run):
        super().__init__(run)
        self.rows, self.shown, self.kept, self.states, self.threads = [], [], [], [], set()
        self.calls = []
        self.runs.append(self)

    def _called(self, name):
        self.calls.append(name)
        self.threads.add(threading.current_thread())
        if name == self.fails_in:
            raise OSError("no space left on device\nand more")

    def start(self):
        self._called("start")
        return self.run.id or f"run {len(self.runs)}"

    def log(self, rows):
        self._called("log")
        self.rows += rows

    def summarise(self, values, step):
        self._called("summarise")
        self.summary, self.last = values, step

    def show(self, name, picture, step):
        self._called("show")
        self.shown.append(picture)

    def keep(self, name, files):
        self._called("keep")
        self.kept += [file.name for file in files]

    def finish(self, state):
        self._called("finish")
        self.states.append(state)


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Let the tracker tensorboard be one that remembers; the list of its runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recorded, "runs", [])
    monkeypatch.setattr(Recorded, "fails_in", "")
    monkeypatch.setattr(reporting, "tracker_class", lambda name: Recorded)
    return Recorded.runs


def fitted(samples, out, **options):
    given = {**OPTIONS, "track": "tensorboard", **options}
    return fastseg.fit("eye", samples["eye"], out=out, **given)


def test_a_fit_tells_all_of_itself_and_is_the_same(recorded, samples, exports, tmp_path):
    """exports("eye") has the same options."""
    result = fitted(samples, "exports/mine", epochs=1)
    (run,) = recorded
    assert (run.run.project, run.run.name, run.run.group) == ("eye", "mine", "")
    assert run.run.folder == tmp_path / "runs"
    config = run.run.config
    assert config["options.size"] == "64x64" and config["recipe.opt"] == "adamw"
    assert config["data.folder"] == "eye" and config["data.images"] == 16
    assert config["versions.torch"] and config["machine.device"] and config["network.parameters"]
    assert not any(str(tmp_path.parent) in str(value) for value in config.values())

    *steps, epoch = run.rows
    assert [row.step for row in steps] == list(range(1, len(steps) + 1)) and len(steps) > 1
    assert all(set(row.values) == {"train/loss", "train/lr"} for row in steps)
    assert (epoch.epoch, epoch.step) == (1, len(steps))
    (history,) = rows_of("exports/mine/history.csv")
    for name in ("train_loss", "valid_loss", "dice"):
        assert epoch.values[f"epoch/{name}"] == pytest.approx(float(history[name]))

    dice = result["metrics"]["classes"]["iris"]["dice"]
    assert run.summary["class iris/dice"] == pytest.approx(dice)
    assert run.summary["class iris/dice_low"] <= dice <= run.summary["class iris/dice_high"]
    assert "mean_foreground/iou" in run.summary and run.summary["total/seconds"] > 0
    assert [file.name for file in run.shown] == ["show_results.png", "loss_curve.png"]
    assert set(run.kept) == EXPORTED and run.states == ["finished"]
    assert len(run.threads) == 1 and threading.main_thread() not in run.threads

    one, other = (
        json.loads((Path(folder) / "card.json").read_text())["sha256"]["model.safetensors"]
        for folder in ("exports/mine", exports("eye"))
    )
    assert one == other


def test_a_fit_goes_on_without_a_tracker_that_fails(recorded, samples, monkeypatch, caplog):
    monkeypatch.setattr(Recorded, "fails_in", "log")
    with caplog.at_level(logging.WARNING, "fastseg"):
        fitted(samples, "exports/mine", epochs=1)
    assert Path("exports/mine/card.json").is_file()
    assert [record.message for record in caplog.records if "left out" in record.message]
    assert recorded[0].calls == ["start", "log"]


@pytest.mark.parametrize("call", ["start", "log", "keep", "finish"])
def test_a_tracker_that_fails_is_told_once(call, recorded, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(Recorded, "fails_in", call)
    one = reporting.Reporting("mlflow", Run("p", "n", "", tmp_path, {}), str)
    with caplog.at_level(logging.WARNING, "fastseg"):
        one.start()
        for epoch in (1, 2):
            one.row({"a": 1.0}, 1, epoch)
        one.export("n", {}, [], [])
        one.finish("finished")
        one.row({"a": 1.0}, 3, 3)
    (told,) = [record.message for record in caplog.records]
    assert told.startswith("mlflow: ") and "no space left on device and more" in told
    assert recorded[0].calls.count(call) == 1 and recorded[0].calls[-1] == call


def test_a_tracker_that_hangs_is_not_waited_for(monkeypatch, caplog, tmp_path):
    release, opened = threading.Event(), []

    class Hanging(Recorded):
        def start(self):
            release.wait(30)
            return "late"

    for name in ("START_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(reporting, name, 0.01)
    monkeypatch.setattr(reporting, "tracker_class", lambda name: Hanging)
    one = reporting.Reporting("mlflow", Run("p", "n", "", tmp_path, {}), opened.append)
    one.start()
    one.row({"a": 1.0}, 1, 1)
    with caplog.at_level(logging.WARNING, "fastseg"):
        one.finish("finished")
    assert "does not wait" in caplog.text and not opened
    release.set()
    one._thread.join(30)
    assert not one.tracker.rows and not one.tracker.states  # all that waited is dropped


def test_a_resumed_fit_continues_its_run(recorded, samples, plug, tmp_path, monkeypatch):
    restore = plug(1)
    with pytest.raises(PulledPlug):
        fitted(samples, "exports/mine")
    restore()
    assert recorded[0].states == ["failed"]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    fastseg.fit("eye", out=tmp_path / "exports/mine", resume=True)
    before, after = recorded
    assert after.run.id == "run 1" and after.run.folder == tmp_path / "runs"
    assert [row.epoch for row in after.rows if row.epoch] == [2]
    first = [row.step for row in before.rows if row.epoch == 1]
    assert [row.step for row in after.rows if row.epoch is None][0] == first[0] + 1
    steps = [row.step for one in recorded for row in one.rows if row.epoch is None]
    assert steps == list(range(1, 2 * first[0] + 1))
    assert after.states == ["finished"]
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["mine"]


@pytest.mark.slow
def test_folds_are_one_run(recorded, samples):
    fitted(samples, "exports/mine", epochs=1, folds=2)
    (run,) = recorded
    names = {name.rpartition("/")[0] for row in run.rows for name in row.values}
    assert names == {f"fold_{fold}/{part}" for fold in (1, 2) for part in ("train", "epoch")}
    steps = [row.step for row in run.rows if row.epoch is None]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_runs_of_a_study_are_one_group(recorded, run, samples, tmp_path):
    line = ["study", "eye", "--data", samples["eye"], "--vary", "opt=adam,sgd", "--seeds", "1"]
    line += [f"--vary=arch={ARCH}", "--vary", "bs=4", "--weights", "none", "--epochs", "1"]
    run(*line, "--size", "64", "--track", "tensorboard")
    assert {(one.run.group, one.run.name) for one in recorded} == {
        ("eye_study", f"opt={opt},seed=1") for opt in ("adam", "sgd")
    }
    assert {one.run.config["options.opt"] for one in recorded} == {"adam", "sgd"}
    assert all(one.run.folder == tmp_path / "runs" for one in recorded)
    assert "--track" in run("study", "eye", "--how-many", "--track", "mlflow", code=2).err


def test_an_unknown_tracker_and_a_missing_package_are_told_first(fails, samples, monkeypatch):
    line = ["fit", "eye", "--data", samples["eye"], "--track"]
    fails(*line, "tensorbord", code="unknown-tracker", suggested="tensorboard")
    monkeypatch.setattr("fastseg.utils.choices.find_spec", lambda name: None)
    fails(*line, "wandb", code="no-tracker", values=["wandb", "pip install 'fastseg[wandb]'"])


def test_a_folder_named_like_a_package_is_no_package(tmp_path, monkeypatch):
    from fastseg.utils.choices import check_tracker

    monkeypatch.setattr("fastseg.utils.choices.TRACKERS", ("runs_of_mine",))
    (tmp_path / "runs_of_mine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with refuses("no-tracker"):
        check_tracker("runs_of_mine")


def test_a_package_that_cannot_be_imported_stops_the_fit(recorded, samples, monkeypatch):
    def broken(name):
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(reporting, "tracker_class", broken)
    with refuses("broken-tracker", "numpy.core.multiarray"):
        fitted(samples, "exports/mine")
    assert not Path("exports/mine").exists()


@pytest.mark.slow
def test_no_tracker_is_imported_without_the_option(samples, tmp_path):
    """In a new process: in this one, tests have imported them. timm imports wandb if it can."""
    for name in TRACKERS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a tracker is imported')")
    code = (
        "import sys, fastseg\n"
        f"fastseg.fit('eye', {str(samples['eye'])!r}, **{ {**OPTIONS, 'epochs': 1} })\n"
        f"found = set({TRACKERS}) & set(sys.modules)\n"
        "assert not found, found\n"
        "assert 'fastseg.tracking.reporting' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()


def test_settings_and_metrics_are_flat():
    given = {"recipe": {"size": (64, 96), "lr": 0.1, "on": True}, "gone": None, "seed": 3}
    assert settings(given) == {
        "recipe.size": "64x96",
        "recipe.lr": 0.1,
        "recipe.on": True,
        "seed": 3,
    }
    metrics = {
        "accuracy": 0.5,
        "classes": {"a/b": {"dice": 0.25, "pixels": 3}},
        "confusion": [[1, 2], [3, 4]],
        "intervals": {"accuracy": [0.25, 0.75], "classes": {"a/b": {"dice": [0.125, 0.5]}}},
    }
    assert figures(metrics) == {
        "total/accuracy": 0.5,
        "total/accuracy_low": 0.25,
        "total/accuracy_high": 0.75,
        "class a/b/dice": 0.25,
        "class a/b/pixels": 3,
        "class a/b/dice_low": 0.125,
        "class a/b/dice_high": 0.5,
    }


# What each tracker writes, by its own reader. The runs are short ones of the tracker alone: that a
# fit tells all of itself is tested above.

CONFIG = {"task": "eye", "recipe.lr": 0.002, "recipe.opt": "adamw"}
SUMMARY = {"class iris & pupil/dice": 0.75, "total/accuracy": 0.5}


@pytest.fixture
def story(tmp_path, monkeypatch):
    """Write the run of a tracker, interrupted and continued; return the ids and both runs."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    picture, model = tmp_path / "show_results.png", tmp_path / "model.safetensors"
    Image.fromarray(np.full((8, 12, 3), 200, np.uint8)).save(picture)
    model.write_bytes(b"weights")

    def written(name, group=""):
        run = Run("eye", "mine", group, tmp_path / "runs", CONFIG)
        first = choice.tracker_class(name)(run)
        known = first.start()
        first.log([Row({"train/loss": 3.0, "train/lr": 0.1}, 1), Row({"train/loss": 2.0}, 2)])
        first.log([Row({"epoch/valid_loss": 2.5}, 2, 1), Row({"train/loss": 9.0}, 3)])
        first.finish("interrupted")
        second = choice.tracker_class(name)(
            Run("eye", "mine", group, tmp_path / "runs", CONFIG, known)
        )
        assert second.start() == known
        second.log([Row({"train/loss": 1.0}, 3), Row({"epoch/valid_loss": 1.5}, 4, 2)])
        second.summarise(SUMMARY, 4)
        second.show("show_results", picture, 4)
        second.keep("mine", [model])
        second.finish("finished")
        return known

    return written


def test_tensorboard_reads_what_is_written(story, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(story("tensorboard"))
    assert folder == tmp_path / "runs/tensorboard/eye/mine"
    read = EventAccumulator(str(folder))
    read.Reload()
    # the loss of 9 came after the last checkpoint
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [(1, 3), (2, 2), (3, 1)]
    valid = [(one.step, one.value) for one in read.Scalars("epoch/valid_loss")]
    assert valid == [(1, 2.5), (2, 1.5)]
    assert [one.value for one in read.Scalars("class iris & pupil/dice")] == [0.75]
    (picture,) = read.Images("show_results")
    assert (picture.width, picture.height) == (12, 8)
    (text,) = (one.tensor_proto.string_val[0] for one in read.Tensors("config/text_summary"))
    assert b"| recipe.lr | 0.002 |" in text
    (kept,) = read.Tensors("export mine/text_summary")
    assert b"model.safetensors" in kept.tensor_proto.string_val[0]
    assert (
        "hparams" in read.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    )
    assert Path(story("tensorboard")).name == "mine_2"  # another fit is another line


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    """MLflow's client of the default folder."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    def made():
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return MlflowClient(tracking_uri=(tmp_path / "runs/mlflow").as_uri())

    return made


def test_mlflow_reads_what_is_written(story, mlflow_client):
    known = story("mlflow", group="eye_study")
    client = mlflow_client()
    run = client.get_run(known)
    assert run.info.status == "FINISHED" and run.info.run_name == "mine"
    assert client.get_experiment(run.info.experiment_id).name == "eye"
    assert run.data.tags["group"] == "eye_study"
    assert run.data.params == {name: str(value) for name, value in CONFIG.items()}
    losses = [(one.step, one.value) for one in client.get_metric_history(known, "train/loss")]
    assert losses == [(1, 3), (2, 2), (3, 9), (3, 1)]
    valid = client.get_metric_history(known, "epoch/valid_loss")
    assert [(one.step, one.value) for one in valid] == [(1, 2.5), (2, 1.5)]
    assert run.data.metrics["class iris _ pupil/dice"] == 0.75
    assert {one.path for one in client.list_artifacts(known)} == {"export", "show_results.png"}
    assert [one.path for one in client.list_artifacts(known, "export")] == [
        "export/model.safetensors"
    ]
    assert story("mlflow") != known
    assert len(client.search_experiments(filter_string="name = 'eye'")) == 1


def test_mlflow_takes_the_place_and_the_names_of_its_environment(
    story, mlflow_client, tmp_path, monkeypatch
):
    story_of = story  # clears the environment first
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "theirs").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "irises")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    story_of("mlflow")
    assert not (tmp_path / "runs").exists() and (tmp_path / "theirs").is_dir()
    assert MLflow(Run("eye", "mine", "", tmp_path, {})).uri.endswith("theirs")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_mlflow_is_quick_to_tell_of_a_dead_server(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    retries, seconds = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(retries, "1")
    monkeypatch.delenv(seconds, raising=False)
    seen = []

    class Dead:
        def __init__(self, tracking_uri):
            seen.append((os.environ[retries], os.environ[seconds]))
            raise OSError(tracking_uri)

    one = MLflow(Run("p", "n", "", tmp_path, {}))
    one.client_class = Dead
    with pytest.raises(OSError, match="127.0.0.1"):
        one.start()
    assert seen == [("1", "4")] and seconds not in os.environ  # later requests may take longer


@needs("wandb")
def test_wandb_writes_a_run_that_is_not_sent(story, tmp_path):
    known = story("wandb", group="eye_study")
    (first, second) = sorted((tmp_path / "runs/wandb").glob(f"offline-run-*-{known}"))
    for folder in (first, second):
        assert (folder / f"run-{known}.wandb").stat().st_size > 100
    assert list(second.glob("files/media/images/show_results_*.png"))
    assert b"weights" in [
        file.read_bytes() for file in (tmp_path / "runs/wandb").rglob("staging/*") if file.is_file()
    ]


@needs("trackio")
def test_trackio_keeps_a_run_in_a_file(tmp_path):
    """In a new process: the package reads its folder once."""
    code = f"""
import socket
def refuse(*_): raise AssertionError("network")
socket.getaddrinfo = socket.socket.listen = refuse
from pathlib import Path
from fastseg.tracking.base import Row, Run
from fastseg.tracking.choice import tracker_class
def begun(id=""):
    run = Run("eye", "mine", "study", Path("runs").absolute(), {CONFIG}, id)
    one = tracker_class("trackio")(run)
    return one, one.start()
one, known = begun()
one.log([Row({{"train/loss": 3.0}}, 1)])
one.finish("interrupted")
one, again = begun(known)
assert again == known
one.log([Row({{"epoch/valid_loss": 2.5}}, 2, 1)])
one.summarise({SUMMARY}, 2)
one.keep("mine", [Path("model.safetensors")])
one.finish("finished")
from trackio.sqlite_storage import SQLiteStorage
print([sorted(row) for row in SQLiteStorage.get_logs("eye", "mine")])
"""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "train/loss" in done.stdout and "class iris & pupil/dice" in done.stdout
    assert "*" not in done.stdout  # what it prints is no result of the fit
    assert (tmp_path / "runs/trackio/eye.db").is_file()
    assert b"weights" in [
        file.read_bytes()
        for file in (tmp_path / "runs/trackio/artifacts").rglob("*")
        if file.is_file()
    ]


@pytest.mark.slow
def test_two_processes_are_one_run(samples, run_process, tmp_path):
    """fastai's own callback hangs there (fastai/fastai#3845)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    line = ["fit", "eye", "--data", samples["eye"], "--arch", ARCH, "--weights", "none"]
    line += ["--size", 64, "--bs", 4, "--epochs", 2, "--processes", 2, "--track", "tensorboard"]
    run_process(*line)
    (folder,) = (tmp_path / "runs/tensorboard/eye").iterdir()
    assert len(list(folder.iterdir())) == 1
    read = EventAccumulator(str(folder))
    read.Reload()
    assert len(read.Scalars("epoch/valid_loss")) == 2
    assert (tmp_path / "exports/eye/card.json").is_file()

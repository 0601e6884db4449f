"""Training from the app: one at a time, in its own process, with a checkpoint if it ends early."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from conftest import ARCH, refuses

from fastseg import tasks
from fastseg.corrections.store import Corrections
from fastseg.data.images import save_image
from fastseg.data.split import splitter
from fastseg.errors import AppError, FastsegError
from fastseg.evaluation.run import FOLDER
from fastseg.exports.card import METRICS, is_unfinished, read_card, work_of
from fastseg.learners.options import OPTIONS, FitOptions
from fastseg.training.progress import TimeLeft
from fastseg.webapp import recipe
from fastseg.webapp.workspace import Workspace

TINY = {"arch": ARCH, "weights": "none", "size": "64", "bs": "4"}
MANY = {**TINY, "epochs": "500"}  # more than any test waits for
WAIT = 120  # s at most for something to happen


class Client:
    """A program that uses an app."""

    def __init__(self, server):
        headers = {"Authorization": f"Bearer {server.keys.token}"}
        self.http = httpx.Client(base_url=server.address, headers=headers, timeout=60)

    def get(self, path, **asked):
        return self.http.get(path, params=asked).json()

    def post(self, path, **body):
        return self.http.post(path, json=body).json()

    def start(self, options, **more):
        return self.post("/api/train/start", options=options, **more)

    def until(self, is_reached, what):
        """Return the training's state as soon as it is as expected."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            found = self.get("/api/train")
            if is_reached(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"not {what}: {found}")

    def until_trained(self, epochs):
        def is_reached(found):
            assert found["state"] == "running", found
            return len((found["progress"] or {}).get("history", [])) >= epochs

        return self.until(is_reached, f"{epochs} epochs trained")

    def storm(self, count=200):
        """Return the status codes of so many requests at once for small pictures."""
        ids = [image["id"] for image in self.get("/api/data/images")["images"]]
        options = dict(base_url=self.http.base_url, headers=self.http.headers, timeout=120)

        async def all_at_once():
            limits = httpx.Limits(max_connections=count)
            async with httpx.AsyncClient(limits=limits, **options) as client:
                asked = [f"/api/images/{ids[k % len(ids)]}/thumbnail" for k in range(count)]
                return await asyncio.gather(*map(client.get, asked))

        return {answer.status_code for answer in asyncio.run(all_at_once())}

    def until_ended(self):
        return self.until(lambda found: found["state"] in ("idle", "interrupted"), "ended")


@pytest.fixture
def app(serve, samples, tmp_path):
    """A client of an app for a new export."""
    client = Client(serve("eye", samples["eye"], export=tmp_path / "exports" / "eye"))
    yield client
    client.http.close()


def test_the_form_has_every_option_with_its_help_and_default():
    task = tasks.get("eye")
    fields = {field["name"]: field for field in recipe.fields(task, ["eye"])}
    assert set(OPTIONS) - set(fields) == {"unlabelled", "track"}  # a browser names no folders
    assert fields["epochs"]["default"] == str(task.recipe.epochs) and fields["epochs"]["min"] == 0
    assert fields["decoder"]["default"] == task.recipe.decoder
    assert "exports/eye" in fields["weights"]["choices"]
    assert all(field["help"] for field in fields.values())
    shown = {field["name"] for field in recipe.fields(tasks.get("mri"), [])}
    assert set(fields) - shown == {"decoder", "windows"}  # a task without masks has neither


def test_what_the_form_says_is_what_the_command_line_gets():
    task = tasks.get("eye")
    given = {
        **{"epochs": "3", "size": "64x96", "lr": "1e-3", "flip": "no", "time_budget": ""},
        **{
            "ema": "0.99",
            "opt": "sgd",
            "cache": "100",
            "weights": "exports/old",
            "loss": "ce+dice",
        },
    }
    options = recipe.read(given, task, {"old": "exports/old"})
    assert options == FitOptions(
        epochs=3,
        size=(64, 96),
        lr="1e-3",
        flip=False,
        ema=0.99,
        opt="sgd",
        cache=100 * 2**20,
        weights="exports/old",
        loss="ce+dice",
    )
    arguments = recipe.arguments(options)
    assert {"--epochs=3", "--size=64x96", "--no-flip", "--cache=100"} <= {*arguments}


@pytest.mark.parametrize(
    "name, text, code",
    [
        ("epochs", "many", "option-range"),
        ("epochs", "-1", "option-range"),
        ("size", "64y64", "option-range"),
        ("decoder", "nothing", "unknown-decoder"),
        ("flip", "perhaps", "option-range"),
        ("time_budget", "soon", "option-range"),
        ("weights", "/etc/passwd", "option-name"),
        ("weights", "exports/other", "option-name"),
        ("arch", "hf-hub:someone/model", "option-name"),
        ("arch", "../model", "option-name"),
        ("folds", "1", "folds"),
        ("cache", "1e999", "option-range"),
    ],
)
def test_faulty_values_name_their_field(name, text, code):
    with refuses(code, kind=FastsegError) as caught:
        recipe.read({name: text}, tasks.get("eye"), {})
    assert caught.value.details["field"] == name


def test_faults_of_the_form_are_told_before_anything_starts(app):
    answer = app.start({"epochs": "-1"})
    assert answer["error"]["code"] == "option-range" and answer["field"] == "epochs"
    assert app.start({"nothing": "1"})["error"]["code"] == "bad-request"
    assert app.start({"unlabelled": "/etc"})["error"]["code"] == "bad-request"  # no folders here
    assert app.start({"epochs": "3", "time_budget": "9m"})["error"]["code"] == "epochs-or-budget"
    assert app.get("/api/train")["state"] == "idle"


def test_a_task_that_only_an_export_knows_is_not_trained(samples, tmp_path):
    from dataclasses import replace

    task = replace(tasks.get("eye"), declared=True, name="foreign")
    workspace = Workspace(task, samples["eye"], tmp_path / "exports" / "foreign")
    with refuses("no-task-file", kind=AppError):
        workspace.training.start([])
    workspace.close()


@pytest.mark.slow
def test_a_training_is_watched_stopped_and_resumed(app, exports, tmp_path):
    out = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye")
    first = read_card(out)
    assert app.start(MANY)["state"] == "running"
    assert app.start(MANY)["error"]["code"] == "busy"
    seen = app.until_trained(2)["progress"]
    assert seen["epochs"] == 500 and 1 < seen["epoch"] < 500 and seen["seconds_left"] > 0
    assert {"train_loss", "valid_loss", "dice"} <= set(seen["history"][0])
    assert app.storm() == {200} and app.get("/api/train")["state"] == "running"
    assert "epoch 1/500" in app.get("/api/train")["output"]
    app.post("/api/train/stop")
    ended = app.until_ended()
    assert ended["state"] == "interrupted" and ended["outcome"]["state"] == "stopped"
    assert is_unfinished(out) and read_card(out).created == first.created
    kept = len(ended["progress"]["history"])
    assert app.start(TINY)["error"]["code"] == "interrupted-fit"
    assert app.post("/api/train/start", resume=True)["state"] == "running"
    assert len(app.until_trained(kept + 1)["progress"]["history"]) > kept
    app.post("/api/train/stop")
    app.until_ended()
    assert app.start({**TINY, "epochs": "2"}, discard=True)["state"] == "running"
    assert app.until_ended()["outcome"]["state"] == "finished"
    assert read_card(out).training["trained_epochs"] == 2 and not is_unfinished(out)
    # Both exports are there, and judged by themselves.
    for _ in range(WAIT):
        rows = app.get("/api/train/exports")["exports"]
        if not any(row["is_waiting"] for row in rows):
            break
        time.sleep(1)
    assert [row["current"] for row in rows] == [True, False]
    assert [row["epochs"] for row in rows] == [2, 1]
    assert app.get("/api/train/exports")["exports"][1]["created"] == first.created
    for row in rows:
        assert row["interval"][0] <= row["value"] <= row["interval"][1]


def test_the_time_left_is_founded_and_does_not_jump():
    """Of 5 epochs with 10 batches of 1 s and 2 of 0.3 s: the first ones take 10 s, one takes 8."""
    time_left, now, seen = TimeLeft(), 0.0, []
    time_left.start(now)
    for epoch in range(5):
        for batch in range(12):
            is_training = batch < 10
            now += 1.0 if is_training else 0.3
            now += 9.0 * (epoch == 0 and batch < 2) + 7.0 * (epoch == 2 and batch == 3)
            time_left.seen(is_training, now)
            train = (4 - epoch) * 10 + max(0, 9 - batch)
            valid = (4 - epoch) * 2 + min(2, 11 - batch)
            seen.append((time_left.left(train, valid, 10, now), now))
    assert all(left is None for left, _ in seen[:10]) and seen[12][0] is not None
    known = [(left, at) for left, at in seen if left is not None]
    assert abs(known[0][0] - 42) < 5 and known[-1][0] < 5
    ends = [left + at for left, at in known]  # when it will be done: changes slowly
    assert max(abs(one - other) for one, other in zip(ends, ends[1:])) < 7


def test_what_goes_wrong_in_the_training_is_told(serve, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    next((data / "imgs_small").iterdir()).unlink()  # a mask without its image
    client = Client(serve("eye", data, export=tmp_path / "exports" / "eye"))
    client.start({**TINY, "epochs": "1"})
    ended = client.until_ended()
    assert ended["state"] == "idle"
    assert (ended["outcome"]["state"], ended["outcome"]["code"]) == ("failed", "no-partner")
    client.http.close()


@pytest.mark.slow
def test_a_server_that_is_closed_leaves_a_checkpoint_and_the_next_one_offers_it(
    samples, serve, tmp_path
):
    out = tmp_path / "exports" / "eye"
    command = [sys.executable, "-m", "fastseg", "app", "eye", "--json", "--export", str(out)]
    process = subprocess.Popen(
        [*command, "--data", str(samples["eye"])], stdout=subprocess.PIPE, text=True
    )
    try:
        told = json.loads(process.stdout.readline())

        class Running:
            address = told["url"].split("?")[0]

            class keys:
                token = told["url"].split("token=")[1]

        client = Client(Running)
        client.start(MANY)
        pid = client.until_trained(1)["progress"]["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
        client.http.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(work_of(out).glob("*/checkpoint.pt"))
    after = Client(serve("eye", samples["eye"], export=out))
    found = after.get("/api/train")
    assert found["state"] == "interrupted" and found["progress"]["history"]
    after.http.close()


@pytest.mark.slow
def test_a_training_that_was_started_elsewhere_is_watched_and_stopped(app, samples, tmp_path):
    out = tmp_path / "exports" / "eye"
    command = [sys.executable, "-m", "fastseg", "fit", "eye", "--data", str(samples["eye"])]
    options = [f"--{name}={value}" for name, value in MANY.items()]
    process = subprocess.Popen([*command, "--out", str(out), *options], stderr=subprocess.DEVNULL)
    try:
        found = app.until(
            lambda now: now["state"] == "elsewhere" and (now["progress"] or {}).get("history"),
            "seen",
        )
        assert found["progress"]["pid"] == process.pid
        assert app.start(TINY)["error"]["code"] == "busy"
        app.post("/api/train/stop")
        assert process.wait(WAIT) == 130
    finally:
        process.kill()
        process.wait()
    assert app.get("/api/train")["state"] == "interrupted"


def add_unlabelled(data):
    """Add two images without a label; return their names."""
    folder = data / "imgs_small"
    first = sorted(folder.iterdir())[0]
    names = [f"new_{number}_frame_1{first.suffix}" for number in (1, 2)]
    for name in names:
        shutil.copy(first, folder / name)
    return {f"imgs_small/{name}" for name in names}


def test_images_without_a_label_wait_and_do_not_stop_a_training(
    serve, samples, tmp_path, monkeypatch
):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    waiting = add_unlabelled(data)
    server = serve("eye", data, export=tmp_path / "exports" / "eye")
    client = Client(server)
    form = client.get("/api/train/form")
    assert form["fault"] is None and form["parts"]["unlabelled"] == 2
    assert sum(form["parts"].values()) == form["images"] == 18 and form["parts"]["valid"] > 0
    for _ in range(600):
        found = client.get("/api/data")
        if found["check"]["state"] != "checking":
            break
        time.sleep(0.1)
    # they count as no fault, neither of an image nor of no single one
    assert not found["check"]["stops"] and found["fault"] is None
    assert not {"no partner", "unlabelled image"} & set(found["check"]["kinds"])
    assert not [fault for fault in found["check"]["general"] if fault["kind"] == "no partner"]
    shown = client.get("/api/data/images", part="unlabelled")["images"]
    assert {image["name"] for image in shown} == waiting
    assert not any("faults" in image for image in shown)
    started = []
    workspace = server.workspace
    monkeypatch.setattr(workspace.training, "start", lambda *given, **more: started.append(given))
    assert not (data / ".fastseg").exists()
    assert client.start(TINY)["state"] == "idle" and started
    assert (data / ".fastseg" / "split.csv").is_file()
    assert len(tasks.get("eye").items(data)) == 16  # a fit takes the others
    # another fault stops it as before
    next((data / "imgs_small").glob("set_*")).unlink()
    time.sleep(2.1)
    assert client.get("/api/train/form")["fault"]
    client.http.close()


def test_corrections_are_counted_by_image_and_what_they_make_old_is_marked(
    serve, samples, exports, tmp_path
):
    from fastseg.corrections.pins import corrected_images

    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    out = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye")
    (out / FOLDER / METRICS).unlink(missing_ok=True)  # other tests may have evaluated it
    task = tasks.get("eye")
    store = Corrections(task, data, out)
    names = read_card(out).valid_files[:2]
    done = dict(action="corrected", by="A", seconds=1)
    for name in names:
        label = store.label(data / name)
        changed = label.copy()
        changed[:5] = (changed[:5] + 1) % 4
        store.save(data / name, changed, **done, prediction=label)
    store.save(data / names[0], label, **done)
    accepted = next(item.image for item in task.items(data) if item.image.name not in str(names))
    label = store.label(accepted)
    store.save(accepted, label, action="accepted", by="A", seconds=1, prediction=label)
    assert set(corrected_images(store)) == set(names)
    server = serve("eye", data, export=out)
    server.workspace.judging.close()  # nothing is judged again
    client = Client(server)
    form = client.get("/api/train/form")
    assert (form["corrections"], form["changed"]) == (2, 3)
    values = json.loads((out / "card.json").read_text())
    for created, is_earlier in (("2020-01-01T00:00:00+00:00", True), ("2999-01-01", False)):
        (out / "card.json").write_text(json.dumps({**values, "created": created}))
        row = client.get("/api/train/exports")["exports"][0]
        assert row["earlier_labels"] is is_earlier
    client.http.close()


def test_the_form_counts_the_images_as_the_next_fit_divides_them(serve, samples, exports, tmp_path):
    """New labelled images are divided by the ledger before any fit has recorded them."""
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    out = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye")
    task = tasks.get("eye")
    store = Corrections(task, data, out)
    store.begin()
    rng, label = np.random.default_rng(0), store.label(task.items(data)[0].image)
    for number in range(12):  # each of a group of its own
        pixels = rng.integers(0, 256, (*label.shape, 3), np.uint8)
        image = store.add(save_image(tmp_path / f"set{number}_frame_1.png", pixels))
        store.save(image, label, action="new", by="A", seconds=1)
    before = (data / ".fastseg" / "split.csv").read_bytes()
    client = Client(serve("eye", data, export=out))
    parts = client.get("/api/train/form")["parts"]
    client.http.close()
    assert (data / ".fastseg" / "split.csv").read_bytes() == before  # looking writes nothing
    train, valid = splitter(task, 42, data=data)(task.items(data))
    assert parts == {"train": len(train), "valid": len(valid)}
    assert len(valid) > len(read_card(out).valid_files)

"""The pages Predict and Compare: results are those of the commands, for both kinds of tasks."""

import csv
import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import rows_of
from PIL import Image

import fastseg
from fastseg.evaluation.pairs import pair
from fastseg.webapp.model import Model


@pytest.fixture
def client_of(serve, samples):
    """Return a function that serves an export with its data, and returns a client."""
    clients = []

    def made(task, export):
        server = serve(str(export), samples[task])
        headers = {"Authorization": f"Bearer {server.keys.token}"}
        clients.append(httpx.Client(base_url=server.address, headers=headers, timeout=120))
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def predicted(client, files, names=None):
    """Send files, and return the batch and what the page gets for each."""
    batch = client.post("/api/predict/new", json={}).json()["batch"]
    found = []
    for number, file in enumerate(files):
        name = names[number] if names else file.name
        where = f"/api/predict/{batch}/images"
        answer = client.post(where, params={"name": name}, content=file.read_bytes())
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return batch, found


def archive_of(client, batch):
    answer = client.get(f"/api/predict/{batch}/zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_archive_has_what_predict_writes(client_of, samples, exports, tmp_path):
    files = sorted((samples["eye"] / "imgs_small").iterdir())[:3]
    client = client_of("eye", exports("eye"))
    batch, shown = predicted(client, files)
    found = archive_of(client, batch)
    out = tmp_path / "out"
    fastseg.predict("eye", files, out, export=exports("eye"))
    expected = {file.name: file.read_bytes() for file in out.iterdir()}
    rows = list(csv.DictReader(io.StringIO(found.pop("predictions.csv").decode())))
    theirs = rows_of(out / "predictions.csv")
    expected.pop("predictions.csv")
    assert found == expected
    for row, their, one in zip(rows, theirs, shown):
        assert float(row["expected_error"]) == pytest.approx(float(their["expected_error"]))
        assert row | {"image": ""} == their | {"image": ""}
        assert one["expected_error"] == float(row["expected_error"])
        assert one["needs_review"] == (row["needs_review"] == "True")
        assert sum(one["shares"]) == pytest.approx(1, abs=1e-4)
    codes = client.get(f"/api/predict/{batch}/0/codes", params={"size": "large"}).content
    with Image.open(io.BytesIO(codes)) as mask, Image.open(out / f"{files[0].stem}.png") as true:
        assert np.array_equal(np.asarray(mask), np.asarray(true))
    for kind in ("image", "uncertainty"):
        assert client.get(f"/api/predict/{batch}/0/{kind}").headers["content-type"] == "image/jpeg"
    for wrong in ("0/other", "9/image", "0/image?size=huge"):
        answer = client.get(f"/api/predict/{batch}/{wrong}")
        assert answer.json()["error"]["code"] == "no-such-result"


def test_equal_names_and_names_with_folders_are_told_apart(client_of, samples, exports):
    files = sorted((samples["eye"] / "imgs_small").iterdir())[:3]
    client = client_of("eye", exports("eye"))
    names = ["a/one.jpg", "b/one.png", "../../one.jpg"]
    batch, shown = predicted(client, files, names)
    assert [one["name"] for one in shown] == names
    found = archive_of(client, batch)
    assert set(found) == {"predictions.csv", "one.png", "one_2.png", "one_3.png"}


def test_a_wrong_prediction_is_added_to_the_data_and_corrected(serve, samples, exports, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    server = serve(str(exports("eye")), data)
    rng = np.random.default_rng(0)
    new = tmp_path / "strange.png"
    Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(new)
    own = sorted((data / "imgs_small").iterdir())[0]
    headers = {"Authorization": f"Bearer {server.keys.token}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=120) as client:
        assert client.get("/api/predict").json()["why_no_adding"] is None
        batch, (shown,) = predicted(client, [new])
        where = f"/api/predict/{batch}/correct"
        added = client.post(where, json={"number": 0, "name": "strange.png"}).json()
        assert (data / added["name"]).read_bytes() == new.read_bytes()
        assert not added["has_label"]
        assert client.post(where, json={"number": 0}).json()["id"] == added["id"]  # once
        start = client.get(f"/api/editor/{added['id']}/label")
        assert start.status_code == 200 and start.headers["x-label-origin"] == "prediction"
        answer = client.post(where, json={"number": 5})
        assert answer.json()["error"]["code"] == "no-such-result"
        held_out = [
            image
            for image in client.get("/api/data/images").json()["images"]
            if image["part"] == "valid"
        ][0]
        batch, _ = predicted(client, [data / held_out["name"]])
        answer = client.post(f"/api/predict/{batch}/correct", json={"number": 0})
        assert answer.json()["error"]["code"] == "never-trains"
        batch, _ = predicted(client, [new], [own.name])  # another image of a name that is there
        Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(new)
        batch, _ = predicted(client, [new], [own.name])
        answer = client.post(f"/api/predict/{batch}/correct", json={"number": 0})
        assert answer.json()["error"]["code"] == "same-name"
        assert str(tmp_path) not in answer.json()["error"]["message"].partition(":")[0]


def test_without_a_data_folder_results_cannot_be_added(serve, samples, exports, tmp_path):
    server = serve(str(exports("eye")), tmp_path / "none")
    headers = {"Authorization": f"Bearer {server.keys.token}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=120) as client:
        assert "--data" in client.get("/api/predict").json()["why_no_adding"]
        batch, _ = predicted(client, sorted((samples["eye"] / "imgs_small").iterdir())[:1])
        answer = client.post(f"/api/predict/{batch}/correct", json={"number": 0})
        assert answer.json()["error"]["code"] == "no-data"


def test_classes_come_as_a_table(client_of, samples, exports, tmp_path):
    files = sorted(next(samples["mri"].glob("val*")).glob("*.png"))[:3]
    client = client_of("mri", exports("mri"))
    batch, shown = predicted(client, files)
    found = archive_of(client, batch)
    out = tmp_path / "subjects.tsv"
    fastseg.predict("mri", files, out, export=exports("mri"))
    assert found["subjects.tsv"] == out.read_bytes()
    rows = csv.DictReader(io.StringIO(found["predictions.csv"].decode()))
    theirs = [{**r, "image": Path(r["image"]).name} for r in rows_of(tmp_path / "predictions.csv")]
    assert list(rows) == theirs
    assert {one["label"] for one in shown} <= {"blurred", "sharp"}


def test_results_are_deleted_with_the_server(samples, exports):
    from fastseg.webapp.workspace import Workspace

    workspace = Workspace.opened(str(exports("eye")), samples["eye"])
    batch = workspace.batches.new(exports("eye"))
    folder = workspace.scratch
    assert batch.folder.parent == folder and folder.stat().st_mode & 0o077 == 0
    workspace.close()
    assert not folder.exists()


def compared(client, **asked):
    client.post("/api/compare/start", json=asked)
    for _ in range(600):
        found = client.get("/api/compare").json()
        if found["state"] != "running":
            return found
        time.sleep(0.1)
    raise AssertionError("the comparison did not end")


@pytest.fixture
def two(exports, samples, tmp_path):
    """Two exports of eyes of the same split, trained for one epoch and for two."""
    first = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye")
    card = json.loads((first / "card.json").read_text())
    (first / "card.json").write_text(json.dumps({**card, "data": str(samples["eye"])}))
    options = dict(arch="test_resnet", weights="none", size=64, bs=4, epochs=2)
    fastseg.fit("eye", samples["eye"], out=first.with_name("longer"), **options)
    return first, first.with_name("longer")


@pytest.mark.slow
def test_a_comparison_is_the_one_of_evaluate(client_of, samples, two):
    first, second = two
    client = client_of("eye", first)
    found = compared(client, first="eye", second="longer")
    assert found["state"] == "done", found
    expected = fastseg.evaluate("eye", samples["eye"], export=first, compare=second)
    dice = expected["comparison"]["difference"]["mean_foreground"]["dice"]
    ends = expected["comparison"]["intervals"]["mean_foreground"]["dice"]
    row = found["result"]["rows"][0]
    assert (row["of"], row["figure"]) == ("mean_foreground", "dice")
    assert row["difference"][0] == pytest.approx(dice, abs=1e-9)
    assert row["difference"][1] == pytest.approx(ends, abs=1e-9)
    assert row["first"][0] == pytest.approx(expected["mean_foreground"]["dice"])
    changes = found["result"]["changes"]
    assert len(changes) == found["result"]["images"] == expected["images"]
    gains = [one["second"] - one["first"] for one in changes]
    assert gains == sorted(gains, reverse=True)
    one = client.get(f"/api/compare/longer/{changes[0]['id']}")
    assert one.headers["content-type"] == "image/png"
    for asked in ({"first": "eye", "second": "eye"}, {"first": "eye", "second": "../eye"}):
        assert client.post("/api/compare/start", json=asked).status_code in (400, 404)


def test_only_images_that_both_held_out_are_compared(samples, two):
    first, second = two
    card = json.loads((second / "card.json").read_text())
    kept = card["valid_files"][:2]
    (second / "card.json").write_text(json.dumps({**card, "valid_files": kept}))
    found = pair("eye", first, second, samples["eye"])
    assert sorted(image.name for image in found.scores[0].images) == sorted(kept)


def test_people_come_before_the_pass_over_all_images(exports):
    """Work behind the pages, which asks again and again, lets a person wait for one part of it."""
    model = Model(exports("eye"), 0, None)
    done, ended = [], threading.Event()

    def work(what):
        done.append(what)
        time.sleep(0.02)

    def behind():
        while not ended.is_set():
            model.call(lambda _: work("pass"), behind=True)

    model.predictor()
    thread = threading.Thread(target=behind)
    thread.start()
    try:
        for _ in range(5):
            before = len(done)
            model.call(lambda _: work("person"))
            assert done.index("person", before) - before <= 1
    finally:
        ended.set()
        thread.join()

"""Labels over HTTP, as the editor asks for them; and a server that is killed while it saves."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pkgutil
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import rows_of
from PIL import Image

from fastseg import tasks
from fastseg.corrections.store import Corrections
from fastseg.data.images import read_raw
from fastseg.data.parts import Ledger
from fastseg.webapp import api
from fastseg.webapp.runs import decode, encode
from fastseg.webapp.server import open_app
from fastseg.webapp.workspace import FRESH_SECONDS

KILLS = 50
# What each of the servers that are killed would import again
PRELOADED = [
    "fastseg.webapp.server",
    "fastseg.corrections.store",
    *(f"fastseg.webapp.api.{module.name}" for module in pkgutil.iter_modules(api.__path__)),
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
]


def client_of(server):
    return httpx.Client(
        base_url=server.address,
        headers={"Authorization": f"Bearer {server.keys.token}"},
        timeout=60,
    )


@pytest.fixture
def eyes(samples, tmp_path):
    return shutil.copytree(samples["eye"], tmp_path / "eye")


class Editor:
    """One image of a client that edits."""

    def __init__(self, client, image):
        self.client, self.id = client, image["id"]
        self.path, self.amend = f"/api/editor/{self.id}/label", 0
        answer = client.get(self.path).raise_for_status()
        self.size = np.frombuffer(answer.content[4:12], "<u4")
        self.codes = decode(answer.content, tuple(int(side) for side in self.size))
        self.base = answer.headers["X-Label-Base"]

    def save(self, codes, error=None, **values):
        query = {"base": self.base, "amend": self.amend, "by": "Ada", "seconds": 2, **values}
        answer = self.client.post(self.path, params=query, content=encode(codes))
        if error is not None:
            assert answer.json()["error"]["code"] == error, answer.text
            return answer
        assert answer.status_code == 200, answer.text
        self.base, self.amend = answer.json()["base"], 1
        return answer.json()


@pytest.fixture
def editor(eyes, serve):
    server = serve("eye", eyes)
    with client_of(server) as client:
        yield Editor(client, client.get("/api/data/images").json()["images"][0])


def painted(codes, side, code=3):
    made = codes.copy()
    made[:side, :side] = code
    return made


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((7, 5), np.uint8),
        np.random.default_rng(0).integers(0, 4, (40, 31)).astype(np.uint8),
        np.full((1, 1), 255, np.uint8),
    ],
    ids=["equal", "noise", "one pixel"],
)
def test_runs_are_exact(codes):
    assert np.array_equal(decode(encode(codes), codes.shape), codes)


def test_a_visit_is_one_version(editor, eyes):
    assert editor.save(painted(editor.codes, 3))["version"] == 1
    assert editor.save(painted(editor.codes, 5))["version"] == 1
    rows = editor.client.get(f"/api/editor/{editor.id}").json()["versions"]
    assert [(row["version"], row["by"]) for row in rows] == [(1, "Ada")]
    first = editor.client.get(editor.path, params={"which": 0})
    assert np.array_equal(decode(first.content, editor.codes.shape), editor.codes)
    item = tasks.get("eye").items(eyes)[0]
    assert np.array_equal(tasks.get("eye").label(item), painted(editor.codes, 5))


def test_a_visit_is_named_by_its_final_difference(editor):
    def last():
        rows = editor.client.get(f"/api/editor/{editor.id}").json()["versions"]
        return len(rows), rows[-1]["action"]

    other = painted(editor.codes, 5, 1 + int(editor.codes[0, 0] == 1))
    editor.save(other)
    assert last() == (1, "corrected")
    editor.save(editor.codes)  # the stroke is undone
    assert last() == (1, "restored")
    editor.save(editor.codes, action="accepted")
    assert last() == (1, "accepted")
    editor.amend = 0  # another visit
    editor.save(other)
    editor.save(other, action="accepted")
    assert last() == (2, "corrected")
    editor.amend = 0  # Back takes the correction back
    editor.save(editor.codes, action="restored")
    editor.save(editor.codes, action="accepted")
    assert last() == (3, "restored")


def test_the_second_editor_is_told_even_within_a_visit(editor):
    editor.save(painted(editor.codes, 3))
    other = Editor(editor.client, {"id": editor.id})
    editor.save(painted(editor.codes, 5))  # the same version, with other content
    answer = other.save(painted(editor.codes, 7), error="edited-meanwhile")
    assert answer.status_code == 409 and answer.json()["by"] == "Ada"
    other.base = answer.json()["base"]
    assert other.save(painted(editor.codes, 7), amend=0)["version"] == 2


def test_a_lost_answer_is_no_conflict(editor):
    before = editor.base
    editor.save(painted(editor.codes, 3))
    after, editor.base, editor.amend = editor.base, before, 0
    assert editor.save(painted(editor.codes, 3)) == {"base": after, "version": 1}


def test_bad_masks_are_refused(editor):
    height, width = editor.codes.shape
    editor.save(np.zeros((height, width + 1), np.uint8), error="mask-size")
    editor.save(painted(editor.codes, 2, 9), error="mask-value")
    editor.save(editor.codes, error="bad-request", base="newest")
    editor.save(editor.codes, error="bad-request", action="painted")
    whole = encode(editor.codes)
    for damaged in (b"", whole[:-3], whole + b"0", b"FSR1" + b"\xff" * 12, whole[:16]):
        answer = editor.client.post(editor.path, params={"base": editor.base}, content=damaged)
        assert answer.json()["error"]["code"] in ("bad-request", "mask-size")
    assert editor.client.get(f"/api/editor/{editor.id}").json()["versions"] == []


def test_the_queue_leaves_out_what_would_never_train_and_tells_new_images_apart(eyes, serve):
    store = Corrections("eye", eyes)
    store.begin()
    held_out = next(row.name for row in Ledger.of(eyes).rows.values() if row.part == "valid")
    folder = (eyes / held_out).parent
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "set_98_frame_0.png")
    with Image.open(eyes / held_out) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "set_99_frame_0.png")
    count = len(tasks.get("eye").items(eyes))
    with client_of(serve("eye", eyes)) as client:

        def queue(**asked):
            return client.get("/api/review/queue", params=asked).json()

        while not queue()["apart_is_done"]:
            time.sleep(0.05)
        found = queue()
        assert [Path(one["name"]).name for one in found["apart"]] == ["set_99_frame_0.png"]
        assert held_out in found["apart"][0]["why"] and found["apart_count"] == 1
        assert found["counts"] == {"new": 1, "labelled": count} and found["left"] == count + 1
        assert [image["part"] for image in queue(kind="new")["images"]] == ["unlabelled"]
        labelled = queue(kind="labelled")
        assert labelled["left"] == count and labelled["counts"] == found["counts"]
        assert queue(kind="odd")["error"]["code"] == "bad-request"


def test_an_unlabelled_image_begins_with_the_prediction(eyes, exports, serve):
    with Image.open(tasks.get("eye").items(eyes)[0].image) as image:
        turned = image.rotate(180)
    Corrections("eye", eyes).begin()
    server = serve("eye", eyes, export=exports("eye"))
    folder = tasks.get("eye").items(eyes)[0].image.parent
    turned.save(folder / "set_99_frame_1.png")
    with client_of(server) as client:
        images = client.get("/api/review/queue?fresh=1").json()["images"]
        image = next(image for image in images if "set_99" in image["name"])
        answer = client.get(f"/api/editor/{image['id']}/label")
        assert answer.headers["X-Label-Origin"] == "prediction"
        predicted = client.get(
            f"/api/editor/{image['id']}/label", params={"which": "prediction"}
        ).content
        assert answer.content == predicted
        while not (advised := client.get("/api/review/queue?order=next").json())["advice"][
            "is_done"
        ]:
            time.sleep(0.1)
        assert advised["images"][0]["id"] == image["id"] and advised["images"][0]["reason"]
        editor = Editor(client, image)
        editor.save(editor.codes, action="accepted")
        row = Corrections("eye", eyes).all()[-1]
        assert (row.action, row.pixels) == ("accepted", 0) and row.source.startswith("eye ")
        left = client.get("/api/review/queue").json()
    assert image["id"] not in [each["id"] for each in left["images"]]
    assert left["reviewed"] == 1 and left["pace"] == 2


def test_looking_writes_nothing_and_the_first_label_keeps_what_was_held_out(
    eyes, exports, serve, tmp_path
):
    export = shutil.copytree(exports("eye"), tmp_path / "elsewhere" / "eyes")
    card = json.loads((export / "card.json").read_text())
    (export / "card.json").write_text(json.dumps({**card, "data": "../../eye"}))
    with client_of(serve("eye", eyes, export=export)) as client:
        for path in ("review/queue?fresh=1", "train/form", "data", "train/exports"):
            assert client.get(f"/api/{path}").status_code == 200
        images = client.get("/api/data/images").json()["images"]
        assert {i["name"] for i in images if i["part"] == "valid"} == {*card["valid_files"]}
        editor = Editor(client, images[0])
        assert not (eyes / ".fastseg").exists()
        editor.save(painted(editor.codes, 3))
    rows = Ledger.of(eyes).rows.values()
    assert {row.name for row in rows if row.part == "valid"} == {*card["valid_files"]}


def test_a_full_disk_is_told_with_its_remedy(editor, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Corrections, "save", full)
    answer = editor.save(painted(editor.codes, 3), error="disk-full")
    assert answer.status_code == 507  # the page keeps the strokes, and sends them again


def test_images_without_a_label_are_queued_and_no_fault(eyes, serve):
    masks = [item.label for item in tasks.get("eye").items(eyes)]
    masks[0].unlink()
    with client_of(serve("eye", eyes)) as client:
        answer = client.get("/api/review/queue").json()
        assert answer["fault"] is None
        assert "unlabelled" in [image["part"] for image in answer["images"]]
        (masks[1].parent / "of_no_image.png").write_bytes(masks[1].read_bytes())
        time.sleep(FRESH_SECONDS)
        assert client.get("/api/review/queue?fresh=1").json()["fault"]


def test_the_queue_is_in_the_order_of_expected_errors(eyes, exports, serve):
    server = serve("eye", eyes, export=exports("eye"))
    with client_of(server) as client:
        while True:
            answer = client.get("/api/review/queue").json()
            if answer["pass"]["is_done"]:
                break
            time.sleep(0.1)
        assert answer["pass"]["done"] == answer["left"] == 16
        order = [(not e["needs_review"], -e["expected_error"]) for e in answer["images"]]
        assert order == sorted(order) and len({*order}) > 8
        predicted = next(Editor(client, e) for e in answer["images"] if e["expected_error"] > 0)
        said = client.get(predicted.path, params={"which": "prediction"}).content
        predicted.save(decode(said, tuple(int(side) for side in predicted.size)), action="accepted")
        assert (
            Corrections("eye", eyes).all()[-1].action == "predicted"
        )  # it took the place of a label
        names = client.get("/api/review/queue", params={"order": "name"}).json()["images"]
        assert [e["name"] for e in names] == sorted(e["name"] for e in names)
        box = {"box": [0, 0, 64, 64]}
        parts = client.post(f"/api/editor/{names[0]['id']}/propose", json=box).json()["parts"]
        point = {"point": [10, 10], "code": 1}
        assert client.post(f"/api/editor/{names[0]['id']}/propose", json=point).status_code == 200
        bad = client.post(f"/api/editor/{names[0]['id']}/propose", json={"point": [1]})
    assert 0 not in [part["code"] for part in parts]
    assert bad.json()["error"]["code"] == "bad-request"


def _serve(data, told):
    server = open_app("eye", data)
    told.send((server.address, server.keys.token))
    server.run()


@pytest.mark.slow
def test_a_killed_server_loses_no_saved_stroke(eyes):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    rng = np.random.default_rng(0)
    item = tasks.get("eye").items(eyes)[0]
    answered = read = read_raw(item.label)  # what the server has confirmed
    sent = None  # what it got before it was killed
    record, strokes, kills = None, 0, 0
    while kills < KILLS:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(eyes, there), daemon=True)
        process.start()
        address, token = here.recv()
        client = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        with client:
            images = client.get("/api/data/images").json()["images"]
            image = next(i for i in images if item.image.name in i["name"])
            path = f"/api/editor/{image['id']}/label"
            if record is None:
                base = client.get(path).headers["X-Label-Base"]
                record = {"base": base, "amend": 0, "by": "Ada", "seconds": 1}
            # the moment counts from the first answer: by then, the server has imported all it needs
            killer = threading.Timer(rng.uniform(0, 0.15), os.kill, (process.pid, signal.SIGKILL))
            try:
                while True:
                    if sent is None:
                        strokes += 1
                        y, x = rng.integers(0, 50, 2)
                        sent = answered.copy()
                        sent[y : y + 9, x : x + 9] = strokes % 4
                    answer = client.post(path, params=record, content=encode(sent))
                    assert answer.status_code == 200, answer.text
                    answered, sent = sent, None
                    if killer.ident is None:
                        killer.start()
                    # every third stroke begins another version, as another visit does
                    record |= {"base": answer.json()["base"], "amend": int(strokes % 3 > 0)}
            except httpx.HTTPError:
                kills += 1
            killer.join()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        read = read_raw(item.label)
        is_answered = np.array_equal(read, answered)
        assert is_answered or (sent is not None and np.array_equal(read, sent))
    store = Corrections("eye", eyes)
    rows = store.history(item.image)
    assert [row.version for row in rows] == [*range(1, len(rows) + 1)] and strokes > KILLS
    assert np.array_equal(store.label(item.image), read)
    for row in rows:
        assert store.version(item.image, row.version).shape == read.shape


@pytest.mark.slow
def test_the_images_of_an_audit_come_first(samples, exports, run, serve, open_page, tmp_path):
    photos = shutil.copytree(samples["eye"] / "imgs_small", tmp_path / "photos")
    command = ["label", photos, "--export", exports("eye"), "--audit", "3", "--json"]
    begun = json.loads(run(*command).out)
    server = serve(begun["data"])
    with client_of(server) as client:
        queue = client.get("/api/review/queue").json()
        images = queue["images"]
        assert [image["is_audit"] for image in images] == [True] * 3 + [False] * 13
        assert {image["part"] for image in images[:3]} == {"audit"} != {images[3]["part"]}
        assert queue["audit"]["total"] == 3 and "--audit 3" in queue["audit"]["command"]
        assert "eye" in client.get("/api/model").json()["text"]
        assert client.get("/api/train/form").json()["fault"]
        assert {image["name"] for image in images[:3]} == {f"images/{n}" for n in begun["left"]}
        editor = Editor(client, images[0])
        editor.save(painted(editor.codes, 5), action="audited")
        left = client.get("/api/review/queue").json()["images"]
        shown = client.get("/api/data").json()["audit"]
    assert shown == {"export": "eye", "total": 3, "done": 1}
    assert [image["is_audit"] for image in left] == [True] * 2 + [False] * 13
    assert len(json.loads(run(*command).out)["left"]) == 2
    page = open_page(server, "/review", person="Ada")
    for counter in ("Audit 2 of 3", "Audit 3 of 3"):
        page.wait_for_selector(f"#counter:has-text('{counter}')")
        page.wait_for_selector("#editor[data-ready]")
        page.keyboard.press("a")
    page.wait_for_selector("#audited:visible")
    assert page.text_content("#audited-command") == queue["audit"]["command"]
    assert page.locator("header nav a").all_inner_texts() == ["Data", "Review"]
    page.click("#others")
    page.wait_for_selector("#editor:visible")
    told = page.text_content("#audited-command").split()[2:]
    told[told.index("--export") + 1] = exports("eye")  # the plan has its name only
    assert json.loads(run("label", *told, "--json").out)["certificate"]["audited"] == 3


def test_classes_are_audited_in_the_app(samples, exports, run, serve, open_page, tmp_path):
    photos = Path(shutil.copytree(samples["mri"] / "train", tmp_path / "slices"))
    (photos / "subjects.tsv").unlink()
    command = ["label", photos, "--export", exports("mri"), "--audit", "2", "--json"]
    begun = json.loads(run(*command).out)
    page = open_page(serve(begun["data"]), "/review", person="Ada")
    page.wait_for_selector("#counter:has-text('Audit 1 of 2')")
    page.wait_for_selector("#editor[data-ready]")
    first = Path(page.get_attribute("#editor", "data-ready")).name
    is_sharp = page.locator("input[value='1']").is_checked()
    page.keyboard.press("1" if is_sharp else "2")  # the prediction is wrong
    page.wait_for_selector('#save[data-state="saved"][data-version="1"]')
    page.keyboard.press("a")
    page.wait_for_selector("#counter:has-text('Audit 2 of 2')")
    page.wait_for_selector(f"#editor[data-ready]:not([data-ready$='{first}'])")
    page.keyboard.press("a")
    page.wait_for_selector("#audited:visible")
    done = json.loads(run(*command).out)
    rows = {Path(row["image"]).name: row for row in rows_of(Path(done["out"]) / "labels.csv")}
    assert done["certificate"]["audited"] == 2
    assert {n: float(rows[n]["error"]) for n in begun["sample"]}[first] == 1
    assert sum(float(rows[name]["error"]) for name in begun["sample"]) == 1

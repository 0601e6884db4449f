"""`fastseg serve`, through a real server: answers, limits, keys, reload, hostile bodies."""

import asyncio
import io
import json
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import refuses, rows_of, size_of
from jsonschema import Draft202012Validator
from PIL import Image
from pycocotools import mask as coco_mask

import fastseg
from fastseg.errors import ServeError
from fastseg.inference import loading
from fastseg.inference.predictor import Predictor
from fastseg.serving import bodies
from fastseg.serving import server as serving_server
from fastseg.serving import service as serving_service
from fastseg.serving.batching import Batcher
from fastseg.serving.keys import read_keys
from fastseg.serving.logs import logging_to
from fastseg.serving.options import ServeOptions
from fastseg.serving.server import Server
from fastseg.utils.http import bound

KEY = "0123456789abcdef"
MASK, RLE, OVERLAY = {"as": "mask"}, {"as": "rle"}, {"as": "overlay"}
WAIT = 20  # s for what must happen


class Served:
    """A server that runs on a thread, and a client of it."""

    def __init__(self, *exports, key_file=None, **options):
        self.server = Server(
            [str(export) for export in exports],
            port=0,
            key_file=key_file,
            options=ServeOptions(**options),
        )
        self.failure = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.client = httpx.Client(base_url=self.server.address, timeout=60, trust_env=False)

    def _run(self):
        try:
            self.server.run(self._started.set)
        except BaseException as error:
            self.failure = error
            self._started.set()

    def __enter__(self):
        assert self._started.wait(WAIT) and self.failure is None, self.failure
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.stop()
        self._thread.join(WAIT)
        assert not self._thread.is_alive()

    def post(self, export, content, kind="image/jpeg", client=None, **query):
        return (client or self.client).post(
            f"/v1/{export}/predict", params=query, content=content, headers={"Content-Type": kind}
        )

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT)

    def metric(self, line):
        """Return the value of a line of /metrics; None if there is none."""
        for text in self.client.get("/metrics").text.splitlines():
            if text.startswith(f"{line} "):
                return float(text.rpartition(" ")[2])
        return None


@pytest.fixture(scope="module")
def three(exports):
    """A server of three tasks: masks of codes, classes, overlays."""
    names = ("eye", "mri", "surfaces")
    with Served(*map(exports, names), max_pixels=10**6, max_bytes=2**20) as served:
        yield served


@pytest.fixture(scope="module")
def eyes(samples):
    return sorted((samples["eye"] / "imgs_small").iterdir())


def eventually(check):
    """Wait until `check` returns something true, and return it."""
    end = time.monotonic() + WAIT
    while not (found := check()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def error_of(answer, status):
    """Return the code of an error, which is one line of JSON."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and "\n" not in answer.json()["error"]["message"]
    return answer.json()["error"]["code"]


def test_masks_are_the_bytes_that_predict_writes(three, samples, exports, eyes, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for file in eyes[:3]:
        shutil.copy(file, images)
    with Image.open(eyes[0]) as picture:
        turned = Image.Exif()
        turned[0x0112] = 6
        picture.save(images / "turned.jpg", exif=turned)
        grey = np.asarray(picture.convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(images / "deep.png")
        picture.convert("RGBA").resize((33, 97)).save(images / "alpha.webp")
    for name in ("eye", "surfaces"):
        files = sorted(images.iterdir())
        for file in files:  # alone: 16-bit images are scaled by what is predicted together
            out = tmp_path / name / file.stem
            fastseg.predict(name, file, out, overlay=True, export=exports(name), runtime="onnx")
        overlay = three.post(name, files[0].read_bytes(), **OVERLAY)
        for file in files:
            answer = three.post(name, file.read_bytes(), **MASK)
            suffix = ".png" if name == "eye" else ".jpg"
            assert answer.headers["content-type"] == f"image/{suffix[1:].replace('jpg', 'jpeg')}"
            written = (tmp_path / name / file.stem / f"{file.stem}{suffix}").read_bytes()
            assert answer.content == written, file.name
        written = tmp_path / name / files[0].stem / "overlays" / f"{files[0].stem}.jpg"
        assert overlay.content == written.read_bytes()


def test_images_that_are_computed_together_have_the_masks_of_each_alone(exports, eyes, tmp_path):
    fastseg.predict("eye", eyes, tmp_path, export=exports("eye"), runtime="onnx")
    with Served(exports("eye"), batch=4, latency=200) as served, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda f: served.post("eye", f.read_bytes()), eyes))
        masks = list(pool.map(lambda f: served.post("eye", f.read_bytes(), **MASK), eyes))
        assert {answer.status_code for answer in answers} == {200}
        for file, mask in zip(eyes, masks):
            assert mask.content == (tmp_path / f"{file.stem}.png").read_bytes()
        assert served.metric('fastseg_batch_size_bucket{le="1.0"}') == 0
        assert served.metric("fastseg_queue_length") == 0
        assert served.metric('fastseg_images_total{export="eye"}') == 2 * len(eyes)


@pytest.mark.slow
def test_torch_computes_where_it_is_asked_for(exports, eyes, tmp_path):
    fastseg.predict("eye", eyes[:4], tmp_path, export=exports("eye"), runtime="torch")
    with Served(exports("eye"), runtime="torch") as served, ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda f: served.post("eye", f.read_bytes(), **MASK), eyes[:4]))
    for file, mask in zip(eyes, masks):
        assert mask.content == (tmp_path / f"{file.stem}.png").read_bytes()


def test_json_has_the_figures_of_predict(three, exports, eyes, samples, tmp_path):
    fastseg.predict("eye", eyes[:3], tmp_path / "eye", export=exports("eye"), runtime="onnx")
    for file, row in zip(eyes, rows_of(tmp_path / "eye" / "predictions.csv")):
        found = three.post("eye", file.read_bytes()).json()
        for name in ("confidence", "entropy", "expected_error"):
            assert found[name] == pytest.approx(float(row[name]), abs=1e-5)
        assert str(found["needs_review"]) == row["needs_review"]
        codes = np.asarray(Image.open(tmp_path / "eye" / f"{file.stem}.png"))
        assert (found["height"], found["width"]) == codes.shape
        for one in found["classes"]:
            assert one["area_px"] == np.count_nonzero(codes == one["code"])
            assert one["share"] == pytest.approx(float(row[f"share_{one['name']}"]))
        drawn = np.zeros_like(codes)
        for one in three.post("eye", file.read_bytes(), **RLE).json()["classes"]:
            drawn[coco_mask.decode(one["segmentation"]) == 1] = one["code"]
        assert np.array_equal(drawn, codes)
    scans = sorted(next(samples["mri"].glob("val*")).glob("*.png"))[:3]
    fastseg.predict("mri", scans, tmp_path / "t.tsv", export=exports("mri"), runtime="onnx")
    rows = {row["image"]: row for row in rows_of(tmp_path / "t_predictions.csv")}
    for file in scans:
        found, row = three.post("mri", file.read_bytes(), "image/png").json(), rows[str(file)]
        assert found["label"] == row["class"] and found["kind"] == "classify"
        for name, share in found["probabilities"].items():
            assert share == pytest.approx(float(row[f"p_{name}"]), abs=1e-5)


@pytest.mark.parametrize(
    ("accept", "query", "export", "media"),
    [
        (None, {}, "eye", "application/json"),
        ("*/*", {}, "eye", "application/json"),
        ("image/*", {}, "eye", "image/png"),
        ("image/jpeg, image/png;q=0.5", {}, "eye", "image/jpeg"),
        ("image/jpeg;q=0.1, image/png", OVERLAY, "eye", "image/png"),
        ("text/html, */*;q=0.1", {}, "eye", "application/json"),
        ("text/html", {}, "eye", None),
        ("text/html", RLE, "eye", "application/json"),
        ("image/png", {}, "surfaces", "image/png"),
        (None, MASK, "mri", None),
        ("image/*, application/json", {}, "mri", None),
        (";;q=x,,", {}, "eye", None),
    ],
)
def test_the_answer_is_by_accept_and_by_as(three, eyes, accept, query, export, media):
    headers = {"Content-Type": "image/jpeg", "Accept": accept or "*/*"}
    where = f"/v1/{export}/predict"
    answer = three.client.post(where, params=query, content=eyes[0].read_bytes(), headers=headers)
    if media is None:
        assert error_of(answer, 400 if export == "mri" else 406) in ("no-picture", "not-offered")
    else:
        assert answer.headers["content-type"] == media
        if media.startswith("image"):
            with Image.open(io.BytesIO(answer.content)) as picture:
                assert picture.size == size_of(eyes[0])


def test_a_form_is_as_good_as_raw_bytes(three, eyes):
    raw = three.post("eye", eyes[0].read_bytes()).json()
    file = {"file": ("../../etc/passwd", eyes[0].read_bytes(), "text/plain")}
    assert three.client.post("/v1/eye/predict", files=file).json() == raw
    octets = three.post("eye", eyes[0].read_bytes(), "application/octet-stream")
    assert octets.json() == raw

    def chunks():
        yield from (eyes[0].read_bytes()[i : i + 5000] for i in range(0, 10**6, 5000))

    assert three.post("eye", chunks()).json() == raw


def test_answers_fit_the_openapi_document(three, eyes, samples):
    document = three.client.get("/openapi.json").json()

    def fits(answer, path, method="post"):
        responses = document["paths"][path][method]["responses"]
        content = responses[str(answer.status_code)]["content"]
        schema = content[answer.headers["content-type"].partition(";")[0]]["schema"]
        whole = {"components": document["components"], **schema}
        Draft202012Validator(whole).validate(answer.json())
        return answer

    image, path = eyes[0].read_bytes(), "/v1/{export}/predict"
    scan = next(samples["mri"].rglob("*.png")).read_bytes()
    for export, body in (("eye", image), ("surfaces", image), ("mri", scan)):
        assert fits(three.post(export, body), path).status_code == 200
    fits(three.post("eye", image, **RLE), path)
    for wrong in (three.post("eye", image[:900]), three.post("no", image), three.post("eye", b"")):
        assert fits(wrong, path).status_code >= 400
    for name in ("/v1", "/healthz", "/readyz"):
        assert fits(three.client.get(name), name, "get").status_code == 200
    page = three.client.get("/docs").text
    assert all(path in page for path in document["paths"]) and "RunsResult" in page
    assert "<script" not in page and 'href="http' not in page and "src=" not in page
    assert document["paths"][path]["post"]["requestBody"]["required"]


def bomb(side):
    """Return a PNG of a few kilobytes that says it has `side`**2 pixels."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    lines = zlib.compress(bytes(10**6), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )


def test_hostile_bodies_are_refused_and_the_server_goes_on(three, eyes, monkeypatch):
    decoded = []
    read = Predictor._read
    monkeypatch.setattr(Predictor, "_read", lambda self, i: decoded.append(i) or read(self, i))
    image, post = eyes[0].read_bytes(), three.post
    for side in (1001, 20_000, 60_000):  # above the limit; Pillow warns; Pillow refuses
        assert error_of(post("eye", bomb(side)), 413) == "too-large"
    assert error_of(post("eye", bytes(2**20 + 1)), 413) == "too-large"
    assert error_of(post("eye", iter([bytes(2**19)] * 4)), 413) == "too-large"
    big = {"file": ("a.png", bytes(2**21))}
    assert error_of(three.client.post("/v1/eye/predict", files=big), 413) == "too-large"
    assert error_of(post("eye", b""), 400) == "empty-body"
    for junk in (b"GIF89a", b"II*\0" + b"\xff" * 60, os.urandom(5000), b"<svg/>", b"\x80\x04."):
        assert error_of(post("eye", junk), 415) == "not-an-image"
    assert error_of(post("eye", image, "text/html"), 415) == "wrong-content-type"
    assert error_of(post("eye", image, ""), 415) == "wrong-content-type"
    for form in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert error_of(post("eye", b"--x\r\nwrong", form), 400) in ("damaged-form", "no-file")
    field = three.client.post("/v1/eye/predict", data={"file": "a"}, files={})
    assert error_of(field, 415) == "wrong-content-type"
    with monkeypatch.context() as patch:
        patch.setattr(bodies, "HELD_BODIES", 0.01)
        assert error_of(post("eye", image), 429) == "uploads-full"
    many = [("file", ("a.png", b"x"))] * 3
    assert error_of(three.client.post("/v1/eye/predict", files=many), 400) == "damaged-form"
    assert error_of(post("eye", image, **{"as": "pickle"}), 400) == "bad-request"
    assert error_of(post("eye", b'{"urls": []}', "application/json"), 403) == "no-urls"
    assert decoded == []
    for cut in (900, len(image) // 2, len(image) - 200):
        answer = post("eye", image[:cut])
        assert error_of(answer, 422) == "unreadable-image"
        assert answer.json()["error"]["message"].startswith("the image: ")
    assert post("eye", image).status_code == 200
    assert not list(three.server.service.scratch.folder.iterdir())


@pytest.mark.parametrize(
    "path", ["../eye", "..%2f..%2fetc", "eye%00", "%2e%2e", "e" * 5000, "EYE", "eye/x", "💥"]
)
def test_names_of_exports_are_no_paths(three, eyes, path):
    answer = three.client.post(f"/v1/{path}/predict", content=eyes[0].read_bytes())
    assert error_of(answer, 404) in ("unknown-export", "no-such-page")
    assert three.client.get("/v1/eye/predict").json()["error"]["code"] == "wrong-method"


def test_slow_bodies_and_headers_end_and_hundreds_of_connections_harm_nothing(
    three, eyes, monkeypatch
):
    monkeypatch.setattr(serving_server, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(serving_server, "LOOK_SECONDS", 0.1)
    reading = three.server.service.bodies
    monkeypatch.setattr(reading, "options", replace(reading.options, timeout=0.8))
    head = b"POST /v1/eye/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    quiet = [three.connect() for _ in range(150)]
    slow = [three.connect() for _ in range(150)]
    uploads = [three.connect() for _ in range(20)]
    for number, one in enumerate(slow):
        one.sendall(head[: 1 + number % len(head)])
    for one in uploads:
        one.sendall(head + b"Content-Length: 5000\r\n\r\nfew")
    assert three.post("eye", eyes[0].read_bytes()).status_code == 200
    for one in uploads:  # the time-out of the body
        assert one.recv(20).startswith(b"HTTP/1.1 408 ")
    for one in quiet + slow:
        try:
            said = one.recv(100)
            assert said == b"" or said.startswith(b"HTTP/1.1 400")
        except ConnectionResetError:
            pass
    for one in quiet + slow + uploads:
        one.close()
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"X" * 200_000):
        with three.connect() as one:
            try:
                one.sendall(junk)
                one.recv(1000)
            except ConnectionError:
                pass
    assert three.post("eye", eyes[0].read_bytes()).status_code == 200


class Gate:
    """Lets predictions wait until it is opened."""

    def __init__(self, monkeypatch):
        self.inside, self.open = threading.Semaphore(0), threading.Event()
        whole = Predictor.predict_batch

        def predict_batch(predictor, *arguments):
            if self.armed:
                self.inside.release()
                assert self.open.wait(WAIT)
            return whole(predictor, *arguments)

        self.armed = False
        monkeypatch.setattr(Predictor, "predict_batch", predict_batch)


def test_a_full_queue_says_when_to_come_again(exports, eyes, monkeypatch):
    gate, image = Gate(monkeypatch), eyes[0].read_bytes()
    with Served(exports("eye"), max_queue=3, batch=1) as served, ThreadPoolExecutor(20) as pool:
        gate.armed = True
        workers = len(served.server.service.batcher._threads)
        sent = [pool.submit(served.post, "eye", image) for _ in range(workers)]
        for _ in sent:
            assert gate.inside.acquire(timeout=WAIT)
        sent += [pool.submit(served.post, "eye", image) for _ in range(3)]
        eventually(lambda: served.metric("fastseg_queue_length") == 3)
        for _ in range(5):
            refused = served.post("eye", image)
            assert error_of(refused, 429) == "queue-full"
            assert int(refused.headers["retry-after"]) >= 1
        assert served.client.get("/healthz").status_code == 200  # the event loop is free
        gate.open.set()
        assert {one.result().status_code for one in sent} == {200}
        assert served.post("eye", image).status_code == 200
        assert served.metric('fastseg_requests_total{code="429",export="eye"}') == 5


def test_images_that_nobody_waits_for_are_not_computed(exports, eyes, monkeypatch):
    gate, image = Gate(monkeypatch), eyes[0].read_bytes()
    with Served(exports("eye"), batch=1) as served:
        service, gate.armed = served.server.service, True
        head = f"Host: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
        request = f"POST /v1/eye/predict HTTP/1.1\r\n{head}".encode() + image
        for _ in range(6):
            with served.connect() as one:
                one.sendall(request)
        with monkeypatch.context() as patch:
            patch.setattr(service, "options", replace(service.options, timeout=0.5))
            late = served.post("eye", image)
        assert error_of(late, 503) == "slow-result" and late.headers["retry-after"]
        gate.open.set()
        assert served.post("eye", image).status_code == 200
        # those that had begun, and the last one
        workers = len(service.batcher._threads)
        assert served.metric("fastseg_batch_size_count") <= workers + 1
        assert served.metric('fastseg_images_total{export="eye"}') == 1


def test_keys_are_asked_for_where_there_are_some(exports, eyes, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# of the clinic\n{KEY}\n\nanother-key-of-20-characters\n")
    image = {"content": eyes[0].read_bytes(), "headers": {"Content-Type": "image/jpeg"}}
    with Served(exports("eye"), key_file=file) as served:
        for path in ("/v1", "/metrics", "/nothing"):
            assert error_of(served.client.get(path), 401) == "wrong-key"
        answer = served.client.post("/v1/eye/predict", **image)
        assert error_of(answer, 401) == "wrong-key" and answer.headers["www-authenticate"]
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert served.client.get(path).status_code == 200
            assert served.client.head(path).status_code == 200
        start = served.client.get("/", follow_redirects=True)
        assert start.url.path == "/docs" and start.history[0].status_code == 307
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": f"bearer {KEY}"},
            {"X-API-Key": "another-key-of-20-characters"},
        ):
            assert served.client.get("/v1", headers=headers).status_code == 200
        for headers in (
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": f"Basic {KEY}"},
            {"X-API-Key": KEY[:-1]},
            {"X-API-Key": "# of the clinic"},
            {"X-API-Key": b"\xff\xfe"},
            {"Authorization": "Bearer"},
        ):
            assert served.client.get("/v1", headers=headers).status_code == 401
    monkeypatch.setenv("FASTSEG_SERVE_KEYS", f"{KEY}, {KEY}2")
    assert read_keys().admit({"x-api-key": f"{KEY}2"})
    monkeypatch.setenv("FASTSEG_SERVE_KEYS", f"{KEY},short")
    with refuses("short-key", "FASTSEG_SERVE_KEYS", 2):
        read_keys()
    file.write_text("# none\n")
    for path in (file, tmp_path / "gone", tmp_path):
        with refuses("no-keys", path):
            read_keys(path)


def test_mistakes_at_the_start_are_told(fails, run, exports, tmp_path, monkeypatch):
    eye = exports("eye")
    fails("serve", "nowhere", code="unknown-task", values=["nowhere"])
    fails("serve", "eye", code="no-export", values=["exports/eye"])
    fails("serve", eye, f"eye={exports('mri')}", code="export-name", values=["eye"])
    fails("serve", f"a/b={eye}", code="export-name", values=["a/b"])
    fails("serve", eye, "--host", "0.0.0.0", code="keys-needed", values=["--key-file"])
    fails("serve", eye, "--max-queue", 0, code="limit", values=["--max-queue"])
    fails("serve", eye, "--error-rate", 0.9, code="error-rate")
    fails("serve", eye / "export.pkl", code="no-pickle", values=[eye])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails("serve", eye, "--port", taken.getsockname()[1], code="port")
    broken = shutil.copytree(eye, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"nothing")
    assert run("serve", broken, "--port", 0, error="exchanged-file").message
    monkeypatch.setattr("fastseg.serving.options.find_spec", lambda name: None)
    fails("serve", eye, code="no-fastapi", values=["fastseg[serve]"])


def test_a_replaced_export_is_loaded_and_a_damaged_one_is_not(exports, eyes, tmp_path, monkeypatch):
    monkeypatch.setattr(serving_service, "WATCH_SECONDS", 0.05)
    place, image = tmp_path / "eye", eyes[0].read_bytes()
    shutil.copytree(exports("eye"), place)
    other = shutil.copytree(exports("eye"), tmp_path / "other")
    card = json.loads((other / "card.json").read_text())
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights + b"\0")
    card["sha256"]["model.safetensors"] = fastseg.exports.card.sha256(other / "model.safetensors")
    card["review"] = {}
    (other / "card.json").write_text(json.dumps(card))

    def exchange(new):
        place.rename(tmp_path / f"old {time.monotonic()}")
        shutil.copytree(new, tmp_path / "part")
        (tmp_path / "part").rename(place)

    gate = Gate(monkeypatch)
    with Served(place) as served, ThreadPoolExecutor(2) as pool:
        first = served.post("eye", image).json()
        assert first["needs_review"] is not None

        def fault():
            return served.client.get("/readyz").json()["exports"]["eye"]["fault"]

        gate.armed = True
        running = pool.submit(served.post, "eye", image)
        assert gate.inside.acquire(timeout=WAIT)
        gate.armed = False
        exchange(other)
        second = eventually(
            lambda: served.client.get("/readyz").json()["exports"]["eye"]["model"] != first["model"]
        )
        gate.open.set()
        assert running.result().json() == first  # it began with the earlier version
        second = served.post("eye", image).json()
        assert second["model"] != first["model"] and second["needs_review"] is None
        eventually(lambda: not fault())
        (place / "model.onnx").write_bytes(b"half a file")
        assert "model.onnx" in eventually(fault)
        assert served.client.get("/readyz").status_code == 200
        assert served.post("eye", image).json() == second
        assert served.metric('fastseg_export_damaged{export="eye"}') == 1
        shutil.rmtree(place)
        eventually(lambda: "card.json" in (fault() or "") or "no export" in (fault() or ""))
        assert served.post("eye", image).json() == second
        shutil.copytree(exports("eye"), tmp_path / "part")
        (tmp_path / "part").rename(place)
        eventually(lambda: not fault())
        assert served.post("eye", image).json() == first
        assert served.metric('fastseg_export_damaged{export="eye"}') == 0


def test_it_answers_while_exports_are_loaded(exports, eyes, monkeypatch):
    loads, go = loading.load, threading.Event()
    monkeypatch.setattr(loading, "load", lambda *a, **k: go.wait(WAIT) and loads(*a, **k))
    served = Served(exports("eye"))
    try:
        answer = served.client.get("/readyz")
        assert answer.status_code == 503 and answer.json()["exports"]["eye"]["model"] is None
        assert served.client.get("/healthz").status_code == 200
        for path, status in (("/healthz", 200), ("/readyz", 503)):
            head = served.client.head(path)
            assert head.status_code == status and head.content == b""
        assert error_of(served.client.get("/v1"), 503) == "not-loaded"
        assert error_of(served.post("eye", eyes[0].read_bytes()), 503) == "not-loaded"
    finally:
        go.set()
        with served:
            assert served.client.get("/readyz").status_code == 200


PROCESS = """
import atexit, sys
atexit.register(lambda: print('torch' in sys.modules, flush=True))
from fastseg.cli import main
main()
"""


def test_sigterm_lets_requests_end_and_the_process_exits_with_0(exports, eyes, tmp_path):
    command = ["serve", f"one={exports('eye')}", f"two={exports('mri')}", "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, *command, "--log-json", "--drain", "1.5"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = json.loads(process.stdout.readline())["url"]
        image, headers = eyes[0].read_bytes(), {"Content-Type": "image/jpeg"}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            codes = []

            def ask():
                while True:
                    try:
                        answer = client.post("/v1/one/predict", content=image, headers=headers)
                    except httpx.TransportError:  # it accepts no more, or closes an idle connection
                        return
                    codes.append(answer.status_code)

            askers = [threading.Thread(target=ask) for _ in range(4)]
            for one in askers:
                one.start()
            eventually(lambda: len(codes) > 4)
            process.send_signal(signal.SIGTERM)
            state = eventually(lambda: (s := client.get("/readyz")).status_code == 503 and s)
            assert state.json()["draining"]
            for one in askers:
                one.join(WAIT)
        out, err = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert process.returncode == 0 and set(codes) == {200}, err
    assert out.split() == ["False"]  # ONNX computes without torch
    lines = [json.loads(line) for line in err.splitlines()]
    requests = [
        line for line in lines if line.get("event") == "request" and line["export"] == "one"
    ]
    assert [line["code"] for line in requests] == codes  # each request that it took has its answer


@pytest.fixture
def pictures(eyes):
    """The address of a web server of this machine that has an image."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/eye.jpg" else 404)
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            self.wfile.write(eyes[0].read_bytes() if self.path == "/eye.jpg" else b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_only_where_that_is_allowed(exports, eyes, pictures):
    urls = {"urls": [f"{pictures}/eye.jpg", f"{pictures}/none.jpg", "file:///etc/passwd"]}
    where = "/v1/eye/predict"
    with Served(exports("eye"), allow_urls=True) as served:
        found = served.client.post(where, json=urls).json()["results"]
        codes = [one["error"]["code"] for one in found]
        assert codes == ["private-address", "private-address", "address-scheme"]
        for wrong in ({}, {"urls": []}, {"urls": "x"}, {"urls": [1]}, {"urls": ["x"] * 17}, []):
            assert error_of(served.client.post(where, json=wrong), 400) == "bad-addresses"
        answer = served.client.post(where, json=urls, params=MASK)
        assert error_of(answer, 400) == "urls-json"
    with Served(exports("eye"), allow_urls=True, allow_private=True) as served:
        found = served.client.post(where, json=urls).json()["results"]
        assert found[0] == served.post("eye", eyes[0].read_bytes()).json()
        assert [one["error"]["code"] for one in found[1:]] == ["server-error", "address-scheme"]


def test_a_list_is_refused_as_a_whole_where_none_of_it_finds_room(
    exports, eyes, pictures, monkeypatch
):
    urls, where = {"urls": [f"{pictures}/eye.jpg"] * 3}, "/v1/eye/predict"
    with Served(exports("eye"), allow_urls=True, allow_private=True) as served:
        batcher, submit = served.server.service.batcher, Batcher.submit
        room = [2]

        def filling(self, *arguments):  # others took the places while addresses were fetched
            room[0] -= 1
            if room[0] < 0:
                raise ServeError("128 images wait already", "queue-full")
            return submit(self, *arguments)

        monkeypatch.setattr(Batcher, "submit", filling)
        found = served.client.post(where, json=urls).json()["results"]
        assert sorted("error" in one for one in found) == [False, False, True]
        refused = served.client.post(where, json=urls)
        assert error_of(refused, 429) == "queue-full"
        assert int(refused.headers["retry-after"]) == batcher.retry_after


def test_the_log_has_lines_of_json_without_names_or_content(exports, eyes):
    stream = io.StringIO()
    with logging_to(stream, as_json=True), Served(exports("eye")) as served:
        file = {"file": ("secret-name.jpg", eyes[0].read_bytes(), "image/jpeg")}
        headers = {"X-Request-ID": "from-the-client.1"}
        answer = served.client.post("/v1/eye/predict?x=secret-query", files=file, headers=headers)
        assert answer.headers["x-request-id"] == "from-the-client.1"
        served.post("secret-export", b"x")
        assert len(
            served.client.get("/v1", headers={"X-Request-ID": "a b"}).headers["x-request-id"]
        )
        logging.getLogger("fastseg.data").warning("of\nany module")
        served.client.get("/healthz")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    asked = [line for line in lines if line.get("event") == "request"]
    assert [line["code"] for line in asked] == [200, 404, 200]
    first = asked[0]
    assert first["id"] == "from-the-client.1" and first["export"] == "eye"
    assert first["pixels"] == 320 * 240 and first["batch"] == 1 and first["ms"] > 0
    assert "secret" not in stream.getvalue()
    assert "of any module" in [line["message"] for line in lines]
    text = io.StringIO()
    with logging_to(text):
        logging.getLogger("fastseg.serving").info("a line")
    assert text.getvalue().rstrip().endswith(" a line")


def test_a_fault_of_the_server_itself_is_one_line_and_it_goes_on(exports, eyes, monkeypatch):
    with Served(exports("eye")) as served, logging_to(io.StringIO()):
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "predict_batch", lambda *_: 1 / 0)
            assert error_of(served.post("eye", eyes[0].read_bytes()), 500) == "internal"
        assert served.post("eye", eyes[0].read_bytes()).status_code == 200


def test_pillow_is_what_decides_what_an_image_is(three, tmp_path):
    for suffix in ("png", "bmp", "gif", "tiff", "webp"):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(buffer, suffix)
        answer = three.post("eye", buffer.getvalue(), "image/anything")
        assert (answer.json()["width"], answer.json()["height"]) == (40, 30)
    assert Path(three.server.service.scratch.folder).stat().st_mode & 0o077 == 0


def test_answers_are_sent_at_once():
    async def options():
        accepted = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = bound("127.0.0.1", 0)
        async with await asyncio.start_server(serve, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await accepted

    assert asyncio.run(options())

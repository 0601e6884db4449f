"""Who may ask the app, and what it never gives away: token, password, other sites, limits."""

import io
import json
import re
import shutil
import socket
import zlib
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import refuses
from PIL import Image

from fastseg.errors import AppError
from fastseg.webapp import login
from fastseg.webapp.guard import HEADERS, Hosts
from fastseg.webapp.page import pages
from fastseg.webapp.server import open_app
from fastseg.webapp.workspace import labelled_in

PACKAGE = Path(open_app.__code__.co_filename).parent


@pytest.fixture
def server(serve, samples):
    return serve("eye", samples["eye"])


@pytest.fixture
def anyone(server):
    """A client that has shown nothing."""
    with httpx.Client(base_url=server.address) as client:
        yield client


@pytest.fixture
def user(server):
    """A browser that opened the printed address."""
    with httpx.Client(base_url=server.address) as client:
        assert client.get(server.url).status_code == 200
        yield client


@pytest.fixture
def program(server):
    """A program that shows the token."""
    headers = {"Authorization": f"Bearer {server.keys.token}"}
    with httpx.Client(base_url=server.address, headers=headers) as client:
        yield client


def code_of(response):
    return response.json()["error"]["code"]


def raw(server, what, *headers):
    """Return the answer to a request as it is written here: httpx would correct it."""
    lines = [f"{what} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close", *headers]
    lines.append(f"Authorization: Bearer {server.keys.token}")
    with closing(socket.create_connection(("127.0.0.1", server.port), 30)) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_nothing_is_shown_without_the_token(anyone):
    assert anyone.get("/").status_code == 401
    assert anyone.get("/data").status_code == 401
    for path in ("/api/data", "/api/task", "/api/images/0/picture", "/api/nothing"):
        response = anyone.get(path)
        assert (response.status_code, code_of(response)) == (401, "not-logged-in")
    assert anyone.get("/", params={"token": "guessed"}).status_code == 401
    assert anyone.get("/api/data", headers={"Authorization": "Bearer guessed"}).status_code == 401
    assert anyone.get("/static/data.js").status_code == 401  # not even the scripts


def test_the_printed_address_gives_a_cookie_for_this_site_only(server, anyone):
    response = anyone.get(server.url)
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert server.keys.token.lower() not in cookie
    assert f"fastseg_{server.port}=" in cookie
    assert anyone.get("/api/data").status_code == 200
    assert anyone.get("/").status_code == 303  # to the first page


def test_another_host_name_is_refused(server, user, program):
    """DNS rebinding: a name of the attacker's resolves to this machine."""
    for host in ("evil.example", f"evil.example:{server.port}", f"localhost:{server.port + 1}", ""):
        for client in (user, program):
            response = client.get("/api/data", headers={"Host": host})
            assert (response.status_code, code_of(response)) == (421, "wrong-host")
    assert user.get("/api/data", headers={"Host": f"localhost:{server.port}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
def test_a_change_from_another_site_is_refused(headers, user):
    response = user.post("/api/train/stop", json={}, headers=headers)
    assert (response.status_code, code_of(response)) == (403, "other-site")


def test_a_change_from_a_page_or_a_program_is_heard(server, user, program):
    origin = server.address.rstrip("/")
    for response in (
        user.post("/api/train/stop", json={}, headers={"Origin": origin}),
        user.post("/api/train/stop", json={}, headers={"Sec-Fetch-Site": "same-origin"}),
        program.post("/api/train/stop", json={}),
    ):
        assert (response.status_code, code_of(response)) == (400, "no-training")


def test_other_sites_read_nothing_but_may_link_here(user):
    for site in ("cross-site", "same-site"):
        read = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert user.get("/api/data", headers=read).status_code == 403
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert user.get("/data", headers=link).status_code == 200


def test_every_answer_forbids_inline_scripts_frames_and_guessed_types(server, user, anyone):
    answers = [user.get(page.address) for page in pages() if page.in_nav]
    answers += [user.get("/api/task"), user.get("/static/app.js"), user.get("/nothing")]
    answers += [anyone.get("/"), anyone.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_no_page_has_an_inline_script_or_style():
    for file in (PACKAGE / "templates").rglob("*.html"):
        text = file.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=\"", text), file
        assert not re.search(r"(src|href)=\"(https?:)?//", text), file  # nothing from elsewhere


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/api/images/..%2f..%2fetc%2fpasswd/picture",
        "/api/images/%2fetc%2fpasswd/picture",
        "/api/images/imgs_small%2fset_0_frame_0.jpg/picture",
        "/api/predict/../../etc/zip",
        "/api/compare/..%2f..%2fexports/0",
    ],
)
def test_no_path_leads_to_a_file(server, path):
    answer = raw(server, f"GET {path}")
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert b"root:" not in answer and b"make_app" not in answer


def test_a_link_to_a_file_outside_the_data_is_not_opened(serve, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first, second = sorted((data / "imgs_small").iterdir())[:2]
    first.rename(tmp_path / "elsewhere.jpg")
    first.symlink_to(tmp_path / "elsewhere.jpg")
    inside = second.with_name("kept.bin")
    second.rename(inside)
    second.symlink_to(inside)  # a link that stays in the data folder is as good as a file
    server = serve("eye", data)
    with httpx.Client(
        base_url=server.address, headers={"Authorization": f"Bearer {server.keys.token}"}
    ) as client:
        ids = {i["name"]: i["id"] for i in client.get("/api/data/images").json()["images"]}
        for what in ("picture", "thumbnail", "overlay"):
            response = client.get(f"/api/images/{ids[f'imgs_small/{first.name}']}/{what}")
            assert (response.status_code, code_of(response)) == (403, "outside-data")
            linked = client.get(f"/api/images/{ids[f'imgs_small/{second.name}']}/{what}")
            assert linked.status_code == 200


def test_a_mask_that_is_a_link_out_of_the_data_is_not_opened(serve, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    image = min((data / "imgs_small").iterdir())
    mask = data / "masks_small" / f"{image.stem}.png"
    mask.rename(tmp_path / "elsewhere.png")
    mask.symlink_to(tmp_path / "elsewhere.png")
    server = serve("eye", data)
    with httpx.Client(
        base_url=server.address, headers={"Authorization": f"Bearer {server.keys.token}"}
    ) as client:
        ids = {i["name"]: i["id"] for i in client.get("/api/data/images").json()["images"]}
        id = ids[f"imgs_small/{image.name}"]
        for what in (f"images/{id}/overlay", f"editor/{id}/label"):
            response = client.get(f"/api/{what}")
            assert (response.status_code, code_of(response)) == (403, "outside-data")


def test_bodies_are_limited(program):
    large = json.dumps({"options": {"arch": "x" * 2**21}}).encode()
    kind = {"Content-Type": "application/json"}
    response = program.post("/api/train/start", content=large, headers=kind)
    assert (response.status_code, code_of(response)) == (413, "too-large")
    parts = (large[start : start + 2**16] for start in range(0, len(large), 2**16))
    response = program.post("/api/train/start", content=parts, headers=kind)  # no length is said
    assert (response.status_code, code_of(response)) == (413, "too-large")
    for body in (b"[1]", b"{", b'"text"', b"[" * 100_000):
        response = program.post("/api/train/start", content=body, headers=kind)
        assert (response.status_code, code_of(response)) == (400, "bad-request")
    misplaced = program.post("/api/train/start", json={"options": {}, "epochs": 1})
    assert misplaced.status_code == 400 and "epochs" in misplaced.text
    form = program.post("/api/train/start", data={"resume": "1"})
    assert (form.status_code, code_of(form)) == (400, "bad-request")


def png_header(width, height):
    """Return a PNG file that says it has so many pixels, and has none."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_uploads_are_limited_by_bytes_pixels_and_kind(serve, samples, exports):
    server = serve(str(exports("eye")), samples["eye"])
    with httpx.Client(
        base_url=server.address, headers={"Authorization": f"Bearer {server.keys.token}"}
    ) as client:
        batch = client.post("/api/predict/new", json={}).json()["batch"]
        where = f"/api/predict/{batch}/images?name=one.png"
        for content, expected in [
            (png_header(20_000, 20_000), "too-large"),
            (b"not an image", "not-an-image"),
            (b"", "not-an-image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not-an-image"),
        ]:
            assert code_of(client.post(where, content=content)) == expected
        # readable by its head alone: the error names the file as the user did, no folder of ours
        cut = (next((samples["eye"] / "imgs_small").iterdir())).read_bytes()[:3000]
        answer = client.post(where, content=cut).json()["error"]
        assert answer["code"] == "unreadable-image" and "one.png" in answer["message"]
        assert "fastseg-" not in answer["message"] and "/" not in answer["message"], answer
        answer = raw(server, f"POST {where}", f"Content-Length: {51 * 2**20}")
        assert answer.startswith(b"HTTP/1.1 413") and b"too-large" in answer
        assert code_of(client.post("/api/predict/guessed/images", content=b"x")) == "no-such-result"
        assert code_of(client.get(f"/api/predict/{batch}/zip")) == "no-such-result"


def test_faults_are_told_as_json_with_a_code(program):
    missing = program.get("/api/images/0123456789abcdef/picture")
    assert (missing.status_code, code_of(missing)) == (404, "no-such-image")
    assert code_of(program.get("/api/nothing")) == "no-such-page"
    assert code_of(program.delete("/api/data")) == "wrong-method"
    assert "<!doctype html>" in program.get("/nothing").text


def test_numbers_of_thousands_of_digits_are_refused(server, program):
    digits = "9" * 5000
    assert not Hosts("127.0.0.1", 8000).has(f"127.0.0.1:{digits}")
    id = program.get("/api/data/images").json()["images"][0]["id"]
    batch = program.get(f"/api/predict/guessed/{digits}/image")
    label = program.get(f"/api/editor/{id}/label", params={"which": digits})
    start = program.get("/api/data/images", params={"from": digits})
    for response in (batch, label, start):
        assert (response.status_code, code_of(response)) == (400, "bad-request")
    assert code_of(program.get("/api/predict/guessed/x/image")) == "no-such-result"


def test_the_masks_in_a_folder_of_label_are_opened(tmp_path):
    folder = tmp_path / "photos_labelled"
    (folder / "png").mkdir(parents=True)
    assert labelled_in(str(folder)) == str(folder)
    (folder / "audit.json").write_text("{}")
    (folder / "png" / "task.toml").write_text("")
    assert labelled_in(str(folder)) == str(folder / "png")
    assert labelled_in("eye") == "eye"


def test_other_machines_need_the_password(samples):
    with refuses("password-needed", "0.0.0.0", kind=AppError):
        open_app("eye", samples["eye"], host="0.0.0.0")


def test_addresses_of_this_machine_are_known():
    local, open_to_all = Hosts("127.0.0.1", 8000), Hosts("0.0.0.0", 8000)
    assert local.has("127.0.0.1:8000") and local.has("[::1]:8000") and local.has("LOCALHOST:8000")
    assert not local.has("192.168.1.7:8000") and not local.has("127.0.0.1")
    assert open_to_all.has("192.168.1.7:8000") and open_to_all.has("[fe80::1]:8000")
    assert open_to_all.has(f"{socket.gethostname()}:8000")
    assert not open_to_all.has("evil.example:8000")


def test_the_password_opens_and_wrong_ones_are_slowed_down(serve, samples, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(login, "wait", sleep)
    server = serve("eye", samples["eye"], password="correct horse")
    assert "token" not in server.url
    origin = {"Origin": server.address.rstrip("/")}
    with httpx.Client(base_url=server.address) as client:
        assert client.get("/").headers["location"] == "/login"
        assert client.get("/", params={"token": server.keys.token}).status_code == 303
        assert "password" in client.get("/login").text
        assert client.get("/static/app.css").status_code == 200
        for _ in range(3):
            wrong = client.post("/login", data={"password": "wrong"}, headers=origin)
            assert wrong.status_code == 403 and "set-cookie" not in wrong.headers
        assert waited == sorted(waited) and waited[0] < waited[-1]
        assert client.get("/api/data").status_code == 401
        foreign = {"Origin": "http://evil.example"}
        right = {"password": "correct horse"}
        assert client.post("/login", data=right, headers=foreign).status_code == 403
        assert client.post("/login", data=right, headers=origin).status_code == 303
        assert client.get("/api/data").status_code == 200


def test_the_command_says_what_it_needs(run, samples, monkeypatch):
    monkeypatch.delenv("FASTSEG_PASSWORD", raising=False)
    run("app", "eye", "--password", code=2)
    monkeypatch.setenv("FASTSEG_PASSWORD", "short")
    run("app", "eye", "--password", code=2)
    run("app", "eye", "--host", "0.0.0.0", error="password-needed")
    run("app", "no_such_task", error="unknown-task")
    run("app", error="no-export")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run("app", "eye", "--port", taken.getsockname()[1], error="port")


def test_a_pickle_is_never_opened(run, exports):
    run("app", exports("eye") / "export.pkl", error="untrusted-pickle")

"""push, pull, pack; exports by address: hub:, zip, http(s), stores; what is refused."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import refuses
from hub_server import TOKEN, hub, running_hub  # noqa: F401  # a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastseg
from fastseg.exports import archive, cache
from fastseg.exports.addresses import fetch
from fastseg.exports.card import read_card, seal, sha256
from fastseg.sharing.model_card import model_card
from fastseg.utils.hub import hub_name

FILES = {"card.json", "history.csv", "metrics.json", "model.onnx", "model.safetensors"}


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in folder.iterdir() if file.name in FILES}


def in_cache() -> list[str]:
    """Return what is in the cache of exports, also what is half-written."""
    folder = cache.cache_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="module")
def eye(exports):
    return exports("eye")


@pytest.fixture(scope="module")
def packed(eye, tmp_path_factory):
    return fastseg.pack(eye, tmp_path_factory.mktemp("packed") / "eye.zip").file


@pytest.fixture
def own(eye, tmp_path):
    """A copy of the export, which a test may change."""
    return Path(shutil.copytree(eye, tmp_path / "own"))


def image_of(samples) -> Path:
    return sorted((samples["eye"] / "imgs_small").iterdir())[0]


# The hub


def test_push_then_pull_gives_the_same_files(eye, hub, run, tmp_path, samples):  # noqa: F811
    pushed = json.loads(run("push", eye, "hub:me/eye", "--json").out)
    repository = hub.repositories["me/eye"]
    assert set(repository.files()) == FILES | {"README.md"} and not repository.private
    assert pushed["files"] == digests(eye)
    assert pushed["address"] == f"hub:me/eye@{pushed['revision']}"
    result = run("pull", "hub:me/eye")
    assert digests(tmp_path / "exports/eye") == digests(eye) and pushed["sha256"] in result.out
    assert {path.name for path in (tmp_path / "exports/eye").iterdir()} == FILES
    found = fastseg.load("hub:me/eye").predict(image_of(samples))
    assert (found.codes == fastseg.load(eye).predict(image_of(samples)).codes).all()
    assert not any("pkl" in path for path in hub.asked)
    assert TOKEN not in result.out + result.err


def test_revisions(eye, own, hub, run, tmp_path):  # noqa: F811
    first = fastseg.push(eye, "hub:me/eye", revision="v1")
    card = read_card(own)
    card.temperature = 2.0
    seal(card, own)
    second = fastseg.push(own, "hub:me/eye")
    assert fetch("hub:me/eye@v1").sha256 == first.sha256 != second.sha256
    assert fetch(first.address).sha256 == first.sha256
    assert fastseg.load("hub:me/eye").card.temperature == 2.0
    run("predict", "hub:me/eye@v3", "x.jpg", error="no-such-revision")
    run("push", eye, "hub:me/eye@v1", "--revision", "v2", error="bad-revision")
    run("push", eye, "hub:me/eye", "--revision", "../v2", error="bad-revision")


def test_the_second_push_replaces_and_deletes_files(eye, own, hub):  # noqa: F811
    fastseg.push(eye, "hub:me/eye")
    card = read_card(own)
    (own / "model.onnx").unlink()
    seal(card, own)
    fastseg.push(own, "hub:me/eye")
    assert set(hub.repositories["me/eye"].files()) == FILES - {"model.onnx"} | {"README.md"}


def test_private_repositories_need_a_token(eye, hub, run, monkeypatch):  # noqa: F811
    fastseg.push(eye, "hub:me/secret", private=True)
    assert hub.repositories["me/secret"].private
    fastseg.push(eye, "hub:me/open")
    run("push", eye, "hub:me/open", "--private", error="public-repository")
    monkeypatch.delenv("HF_TOKEN")
    for command in (["pull", "hub:me/secret"], ["push", eye, "hub:me/secret"]):
        refused = run(*command, error="access-refused")
        assert "HF_TOKEN" in refused.message and refused.err.count("\n") == 1


def test_tokens_are_never_shown(eye, hub, run):  # noqa: F811
    hub.refusal = "bad token"
    refused = run("push", eye, "hub:me/eye", error="access-refused")
    assert TOKEN not in refused.out + refused.err
    with refuses("hub-error") as caught:
        from fastseg.utils.hub import hub_errors

        with hub_errors(hub_name("hub:me/eye"), "cannot be fetched"):
            raise RuntimeError(f"header Bearer {TOKEN}")
    assert TOKEN not in str(caught.value)


def test_what_is_changed_on_the_hub_is_refused(eye, hub, run, tmp_path):  # noqa: F811
    fastseg.push(eye, "hub:me/eye")
    repository = hub.repositories["me/eye"]
    files = repository.files()
    for name in ("model.safetensors", "model.onnx", "metrics.json"):
        damaged = files[name][:-1] + bytes([files[name][-1] ^ 1])
        repository.commit("main", {**files, name: damaged})
        refused = run("pull", "hub:me/eye", error="exchanged-file")
        assert name in refused.message and "hub:me/eye" in refused.message
    repository.commit("main", {**files, "card.json": b"{}"})
    assert "hub:me/eye" in run("predict", "hub:me/eye", "x", error="damaged-card").message
    repository.commit("main", {"README.md": b"nothing"})
    run("pull", "hub:me/eye", error="no-export")
    pin = "#sha256=" + "0" * 64
    repository.commit("main", files)
    run("pull", f"hub:me/eye{pin}", error="wrong-sha256")
    assert in_cache() == [] and not (tmp_path / "exports").exists()
    run("pull", "hub:me/eye#sha256=" + sha256(eye / "card.json"))


def test_a_pickle_on_the_hub_is_not_fetched(eye, hub, tmp_path):  # noqa: F811
    fastseg.push(eye, "hub:me/eye")
    repository = hub.repositories["me/eye"]
    repository.commit("main", {**repository.files(), "export.pkl": b"code", "a/card.json": b""})
    folder = fetch("hub:me/eye").folder
    assert {path.name for path in folder.iterdir()} == FILES
    assert not any("export.pkl" in path for path in hub.asked)


def test_a_download_that_breaks_off_leaves_nothing(eye, hub, run, tmp_path, monkeypatch):  # noqa: F811
    from huggingface_hub import file_download

    fastseg.push(eye, "hub:me/eye")
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    hub.cut = 1000
    broken = run("pull", "hub:me/eye", code=1)
    assert broken.err.startswith("error: hub:me/eye") and broken.err.count("\n") == 1
    assert in_cache() == [] and not (tmp_path / "exports").exists()
    hub.cut = 0
    run("pull", "hub:me/eye")
    assert digests(tmp_path / "exports/eye") == digests(eye)


def test_a_pinned_one_in_the_cache_is_not_asked_for(eye, hub):  # noqa: F811
    pushed = fastseg.push(eye, "hub:me/eye")
    pinned = f"hub:me/eye#sha256={pushed.sha256}"
    first = fetch(pinned)
    hub.asked.clear()
    assert fetch(pinned) == first and first.address == pushed.address
    assert fetch(pinned.replace("#", "@v7#")).address == "hub:me/eye@v7" and hub.asked == []


def test_files_exchanged_beside_the_same_card_are_refused(eye, hub):  # noqa: F811
    first = fastseg.push(eye, "hub:me/eye")
    assert fetch("hub:me/eye").address == first.address
    repository = hub.repositories["me/eye"]
    files = repository.files()
    repository.commit("main", {**files, "model.safetensors": b"x" * 100})
    for _ in range(2):
        with refuses("exchanged-file", "hub:me/eye"):
            fetch("hub:me/eye")
    assert fetch(first.address).sha256 == first.sha256
    last = repository.commit("main", {**files, "README.md": b"mine"})
    assert fetch("hub:me/eye").address == f"hub:me/eye@{last}"


def test_offline_only_the_cache_is_used(eye, hub, run, monkeypatch, tmp_path):  # noqa: F811
    fastseg.push(eye, "hub:me/eye")
    fetch("hub:me/eye")
    hub.asked.clear()
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # restored after the test, which sets it
    run("--offline", "pull", "hub:me/eye")
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
    run("--offline", "pull", "hub:me/other", error="not-fetched")
    run("--offline", "push", eye, "hub:me/eye", error="not-fetched")
    run("--offline", "pull", "https://127.0.0.1:1/eye.zip", error="not-fetched")
    assert hub.asked == [] and digests(tmp_path / "exports/eye") == digests(eye)


def test_without_a_network_the_cache_is_used_or_one_line_says_so(eye, hub, run, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    fastseg.push(eye, "hub:me/eye")
    fetch("hub:me/eye")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub does not answer" in run("pull", "hub:me/eye").err
    for command in (["pull", "hub:me/other"], ["push", eye, "hub:me/eye"]):
        lost = run(*command, error="not-fetched")
        assert "does not answer" in lost.message and lost.err.count("\n") == 1


@pytest.mark.slow
def test_the_endpoint_of_the_environment(eye, run_process, tmp_path):
    with running_hub() as hub:  # noqa: F811
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        said = run_process("push", eye, "hub:me/eye", **environment)
        said += run_process("pull", "hub:me/eye", **environment)
    assert digests(tmp_path / "exports/eye") == digests(eye) and TOKEN not in said


NO_NAMES = """
    hub:eye hub: hub:a/b/c hub:/eye hub:me/ hub:me/.. hub:../eye hub:me/eye@ hub:me/eye@../x
    hub:me/eye@a..b hub:me/a--b hub:-me/eye hub:me/eye.git hub:mé/eye hub:me/e:ye hub:me/eye@/etc
    hub:me\\eye
"""


def test_names_that_are_none(run):
    for name in NO_NAMES.split():
        run("pull", name, error="hub-name")


# One file


def test_pack_writes_the_same_bytes(eye, packed, run, tmp_path):
    os.utime(shutil.copytree(eye, tmp_path / "other") / "card.json", (1, 1))
    again = json.loads(run("pack", "other", "b.zip", "--json").out)
    assert Path("b.zip").read_bytes() == packed.read_bytes()
    assert again["sha256"] == sha256(packed) and again["files"] == digests(eye)
    assert sha256(packed) in run("pack", eye).out and Path("eye.zip").is_file()
    with zipfile.ZipFile(packed) as opened:
        assert set(opened.namelist()) == FILES | {"README.md"} and opened.testzip() is None
    run("pack", eye, "eye.tar", error="output-suffix")
    run("pack", eye / "export.pkl", error="untrusted-pickle")
    run("pull", packed)
    assert sha256(fastseg.pack("exports/eye", "c.zip").file) == sha256(packed)  # nothing is lost


def test_a_damaged_export_is_not_shared(own, run, hub):  # noqa: F811
    (own / "model.onnx").write_bytes(b"damaged")
    run("pack", own, error="exchanged-file")
    run("push", own, "hub:me/eye", error="exchanged-file")
    assert hub.repositories == {} and not Path("own.zip").exists()


def test_what_load_refuses_is_not_shared(own, run, hub):  # noqa: F811
    card = read_card(own)
    card.definition, card.declared = {"kind": "none"}, True
    seal(card, own)
    with refuses("damaged-card") as refused:
        fastseg.load(own)
    assert "the card cannot be read" in str(refused.value)
    for command in (["pack", own], ["push", own, "hub:me/eye"]):
        assert run(*command, error="damaged-card").message == str(refused.value)
    assert hub.repositories == {} and not Path("own.zip").exists()


def test_commands_take_a_zip(eye, packed, samples, run, tmp_path):
    image = image_of(samples)
    shutil.copy(packed, "eye.zip")
    said = run("predict", "eye", image, "--export", "eye.zip", "--out", "a.png")
    assert sha256(packed) in said.err
    run("predict", "zip:eye.zip", image, "--out", "b.png")
    run("predict", "eye", image, "--export", eye, "--out", "c.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() == Path("c.png").read_bytes()
    run("segment", image, "--export", "eye.zip", "--out", "seen")
    common = ["--data", samples["eye"], "--device", "cpu"]
    run("evaluate", "eye.zip", *common, error="read-only-export")
    run("interpret", "eye.zip", *common, error="read-only-export")
    theirs = json.loads(run("evaluate", "eye.zip", *common, "--out", "judged", "--json").out)
    ours = json.loads(run("evaluate", eye, *common, "--out", "judged2", "--json").out)
    assert theirs["classes"] == ours["classes"] and theirs["images"] == ours["images"]
    for command in (["fit", "--from", "eye.zip"], ["app", "eye.zip"]):
        assert "fastseg pull eye.zip" in run(*command, error="export-elsewhere").message
    assert "fastseg pull" in run("fit", "eye", "--weights", "hub:me/eye", code=1).err
    assert in_cache() == [sha256(packed)]
    assert digests(cache.cache_folder() / sha256(packed)) == digests(eye)


@pytest.mark.slow
def test_training_goes_on_from_a_pulled_export(packed, samples, run, tmp_path):
    shutil.copytree(samples["eye"], tmp_path / "data/eye")
    run("pull", packed)
    small = ["--epochs", "1", "--bs", "4", "--device", "cpu"]
    run("fit", "eye", "--weights", "exports/eye", *small, "--out", "exports/on")
    run("fit", "--from", "exports/eye", "--data", "data/eye", *small)
    run("interpret", "eye")
    assert (tmp_path / "exports/eye/report.html").is_file()


def test_pull_keeps_the_export_that_it_replaces(eye, own, packed, run, tmp_path):
    card = read_card(own)
    card.temperature, card.created = 2.0, "2020-01-01T00:00:00+00:00"
    seal(card, own)
    told = json.loads(run("pull", packed, "--out", own, "--json").out)
    assert read_card(own).temperature == read_card(eye).temperature
    assert read_card(told["before"]).temperature == 2.0
    assert json.loads(run("pull", packed, "--out", own, "--json").out)["before"] is None
    run("restore", own)
    assert read_card(own).temperature == 2.0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    run("pull", packed, "--out", "mine", error="not-an-export")
    run("pull", eye, error="no-address")
    run("pull", "gone.zip", error="no-such-path")


def test_a_changed_copy_in_the_cache_is_fetched_again(packed, caplog):
    folder = fetch(str(packed)).folder
    (folder / "model.safetensors").write_bytes(b"changed")
    assert fetch(str(packed)).folder == folder and "deleted" in caplog.text
    assert sha256(folder / "model.safetensors") == read_card(folder).sha256["model.safetensors"]


def test_a_changed_card_in_the_cache_is_fetched_again(eye, packed, hub, caplog):  # noqa: F811
    pushed = fastseg.push(eye, "hub:me/eye")
    for address in (f"{packed}#sha256={sha256(packed)}", f"hub:me/eye#sha256={pushed.sha256}"):
        folder = fetch(address).folder
        card = read_card(folder)
        card.mean, card.classes = [0.9] * 3, card.classes[::-1]
        seal(card, folder)
        caplog.clear()
        assert fetch(address).folder == folder and "deleted" in caplog.text
        assert digests(folder) == digests(eye)
        caplog.clear()
        assert fetch(address).folder == folder and not caplog.text


def test_processes_and_threads_at_the_same_time(packed):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: fetch(str(packed)).folder, range(16)))
    assert len(found) == 1 and in_cache() == [sha256(packed)]


def test_an_interruption_leaves_nothing(packed, run, tmp_path, monkeypatch):
    def interrupted(source, target, name):
        target.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive, "copy", interrupted)
        run("pull", packed, code=130)
    assert in_cache() == [] and not (tmp_path / "exports").exists()
    left = cache.cache_folder() / ".part-killed"  # of a process that had no time to delete it
    left.mkdir()
    os.utime(left, (1, 1))
    run("pull", packed)
    assert in_cache() == [sha256(packed)]


# Archives that may be malicious


def zipped(members: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            opened.writestr(member, data)
    return made.getvalue()


def refused(data: bytes, code: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.zip"
    file.write_bytes(data)
    with refuses(code, "bad.zip"):
        fetch(str(file))
    assert in_cache() == []


def test_what_leads_out_of_an_archive(eye, tmp_path):
    files = {name: (eye / name).read_bytes()[:2000] for name in FILES}
    files["card.json"] = (eye / "card.json").read_bytes()
    for name in ("../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil", "\\\\host\\evil"):
        refused(zipped({**files, name: b""}), "unsafe-archive", tmp_path)
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        refused(zipped(files, {"model.onnx": kind | 0o777}), "unsafe-archive", tmp_path)
    bomb = {**files, "history.csv": bytes(2**25)}
    refused(zipped(bomb), "unsafe-archive", tmp_path)
    refused(zipped({f"{i}": b"" for i in range(1001)}), "unsafe-archive", tmp_path)
    refused(zipped({"readme": b""}), "no-export", tmp_path)
    refused(zipped({"a/card.json": b"{}", "b/card.json": b"{}"}), "no-export", tmp_path)
    refused(zipped({"a/b/card.json": b"{}"}), "no-export", tmp_path)
    refused(zipped({"card.json": files["card.json"]}), "exchanged-file", tmp_path)
    refused(zipped({**files, "model.onnx": b"other"}), "exchanged-file", tmp_path)
    refused(zipped({**files, "card.json": b"[" * 100_000}), "damaged-card", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "MAX_CARD", 100)
        refused(zipped(files), "exchanged-file", tmp_path)
    refused(b"no zip", "damaged-archive", tmp_path)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = io.BytesIO(zipped(files))
        with zipfile.ZipFile(twice, "a") as opened:
            opened.writestr("card.json", b"{}")
    refused(twice.getvalue(), "unsafe-archive", tmp_path)


def test_a_zipped_folder_is_taken_without_its_pickle(own, tmp_path, caplog):
    caplog.set_level("INFO")
    (own / "mine.txt").write_text("mine")
    file = shutil.make_archive(str(tmp_path / "all"), "zip", own.parent, own.name)
    folder = fetch(file).folder
    assert {path.name for path in folder.iterdir()} == FILES and "export.pkl" in caplog.text


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_archives_are_refused_by_a_code(eye, tmp_path, data):
    small = zipped({name: (eye / name).read_bytes()[:3000] for name in FILES})
    bad = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(bad)))
    for content in (bytes(bad), bytes(bad[:end])):
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(fastseg.FastsegError):
            fetch(str(tmp_path / "bad.zip"))
    assert in_cache() == []


# Web servers and stores


@contextmanager
def web(content: bytes):
    """Serve a file on this machine; yields the address, and the answers that were given."""
    state = {"content": content, "status": 200, "answers": [], "location": ""}

    class Web(BaseHTTPRequestHandler):
        def do_GET(self):
            etag = f'"{hash(state["content"])}"'
            status = 304 if self.headers.get("If-None-Match") == etag else state["status"]
            state["answers"].append(status)
            self.send_response(status)
            self.send_header("ETag", etag)
            if status == 302:
                self.send_header("Location", state["location"])
            body = state["content"] if status == 200 else b""
            self.send_header("Content-Length", str(len(state["content"]) if body else 0))
            self.end_headers()
            self.wfile.write(body[: state.get("cut")])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/eye.zip", state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_by_http(packed, eye, own, online, run, tmp_path):
    with web(packed.read_bytes()) as (url, state):
        first = fetch(f"{url}?signature=secret")
        assert digests(first.folder) == digests(eye) and first.sha256 == sha256(packed)
        assert "secret" not in first.address and first.name == "eye"
        assert fetch(f"{url}?signature=secret") == first and state["answers"] == [200, 304]
        assert fetch(f"{url}#sha256={sha256(packed)}") == first  # a pinned one is not asked for
        assert state["answers"] == [200, 304]
        card = read_card(own)
        card.temperature = 2.0
        seal(card, own)
        changed = fastseg.pack(own, tmp_path / "changed.zip")
        state["content"] = changed.file.read_bytes()
        assert fetch(url).sha256 == changed.sha256 != first.sha256
        run("pull", f"{url}#sha256={'0' * 64}", error="wrong-sha256")
        run("pull", f"{url}#sha256=0", error="export-address")
        state["cut"] = 1000
        state["content"] = packed.read_bytes()
        secret = run("pull", f"{url}?signature=secret2", error="not-fetched")
        assert "secret2" not in secret.out + secret.err
        state["status"] = 404
        assert "404" in run("pull", f"{url}?x", error="not-fetched").message
        state["status"], state["location"] = 302, url
        assert "redirect" in run("pull", f"{url}?y", error="not-fetched").message
        assert len(in_cache()) == 2 and not (tmp_path / "exports").exists()
        password = run("pull", url.replace("//", "//me:password@"), error="export-address")
        assert "password@" not in password.message
    lost = run("predict", url, "x.jpg", error="not-fetched")
    assert lost.err.count("\n") == 1


def test_too_large_ones_are_cut_off(packed, online, run, monkeypatch):
    monkeypatch.setattr("fastseg.exports.remote.MAX_BYTES", 1000)
    monkeypatch.setattr("fastseg.exports.archive.MAX_BYTES", 1000)
    with web(packed.read_bytes()) as (url, _):
        run("pull", url, error="too-large")
    run("pull", packed, error="unsafe-archive")
    assert in_cache() == []


def test_stores(packed, eye, online, run):
    import fsspec

    files = fsspec.filesystem("memory")
    try:
        for name in [*FILES, "export.pkl"]:
            files.pipe_file(f"/models/eye/{name}", (eye / name).read_bytes())
        files.pipe_file("/models/eye.zip", packed.read_bytes())
        found = fetch("memory://models/eye")
        assert digests(found.folder) == digests(eye) and found.sha256 == sha256(eye / "card.json")
        assert {path.name for path in found.folder.iterdir()} == FILES
        assert fetch("memory://models/eye/") == fetch("memory://models/eye")
        assert fetch("memory://models/eye.zip").sha256 == sha256(packed)
        run("pull", "memory://models", error="no-export")
        run("pull", "memory://models/none.zip", error="no-such-path")
        files.pipe_file("/models/eye/model.onnx", b"other")
        assert fetch("memory://models/eye") == found  # its card is the same: the copy is complete
        shutil.rmtree(cache.cache_folder())
        run("pull", "memory://models/eye", error="exchanged-file")
    finally:
        files.rm("/models", recursive=True)


# The model card


def test_the_model_card_is_valid_metadata_and_names_all(eye):
    from huggingface_hub import ModelCard

    card = read_card(eye)
    text = model_card(card, "hub:me/eye")
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("fastseg", "image-segmentation")
    assert data.license == "unknown" and {"timm", "onnx"} <= set(data.tags)
    assert data.eval_results[0].metric_type == "dice"
    for section in ("How to use", "Figures", "Data", "Licence of the weights", "Intended use"):
        assert f"## {section}" in text
    value, ends = card.metrics["classes"]["iris"]["dice"], card.metrics["intervals"]["classes"]
    low, high = ends["iris"]["dice"]
    assert f"{value:.3f} ({low:.3f} to {high:.3f})" in text and "## Limits" in text
    assert str(card.train_images) in text and 'fastseg.load("hub:me/eye")' in text


@pytest.mark.parametrize(
    "licence, expected",
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("cc-by-nc-4.0 (non-commercial use only)", {"license": "cc-by-nc-4.0"}),
        ("apache-2.0, if they are timm's x", {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("not stated", {"license": "unknown"}),
        ("NVIDIA Source Code", {"license": "other", "license_name": "nvidia-source-code"}),
    ],
)
def test_licences(eye, licence, expected):
    card = read_card(eye)
    card.licence = licence
    head = yaml.safe_load(model_card(card, "x.zip").split("---\n")[1])
    assert {key: value for key, value in head.items() if key.startswith("license")} == expected


def test_a_strangers_texts_are_no_markup(eye):
    card = read_card(eye)
    evil = "</script>| [x](javascript:1) `rm` ---\n# head\n---\nlicense: mit"
    card.task, card.classes, card.weights_origin, card.data = evil, [evil], evil, evil
    card.fastseg, card.created, card.licence = evil, evil, evil
    card.versions, card.training = {evil: evil}, {"loss": evil, "seconds": [1]}
    card.metrics = {
        "images": 3,
        "classes": {evil: {"dice": "x", "iou": float("nan"), "recall": 0}, "b": []},
        "intervals": [evil],
        "mean": evil,
        "accuracy": {},
    }
    text = model_card(card, "x.zip")
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["license"] != "mit"
    outside = re.sub(r"```.*?```|`fastseg[^`]*`", "", body, flags=re.S)
    assert "<" not in re.sub(r"\\.", "", outside) and "[" not in re.sub(r"\\.", "", outside)
    assert "\n# head" not in body


def test_classifiers_have_a_model_card_too(exports):
    card = read_card(exports("mri"))
    head = yaml.safe_load(model_card(card, "x.zip").split("---\n")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert head["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"


def test_commands_that_share_import_no_torch(eye, tmp_path):
    code = (
        "import sys, fastseg\n"
        f"fastseg.pack({str(eye)!r}, 'eye.zip'); fastseg.pull('eye.zip', 'pulled')\n"
        "assert not {'torch', 'fastai', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""export --to html: the file, and where onnxruntime-web comes from. In a browser: see
test_conversion_html_browser.py.
"""

import base64
import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refuses

from fastseg.conversion import webruntime
from fastseg.conversion.one_file import model_in, write_html
from fastseg.conversion.webruntime import ARCHIVE, SCRIPT, WASM, WebRuntime, web_runtime
from fastseg.data.colours import hexadecimal
from fastseg.exports.read import card_of

FILES = {SCRIPT: b"export const env = 1;\n//# sourceMappingURL=x.map\n", WASM: b"\0asm" * 9}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive of the npm package, which has the pinned digests in this test."""
    path = tmp_path / "packed" / ARCHIVE
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as made:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha512(path.read_bytes()).digest()
    monkeypatch.setattr(webruntime, "SHA512", base64.b64encode(digest).decode())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(webruntime, "SHA256", digests)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Return a function that installs an npm which runs a line of shell, and no other programs."""

    def install(line: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "npm").write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{line}\n")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


def test_npm_downloads_onnxruntime_web_once(archive, npm, monkeypatch):
    npm(f'[ "$1 $2" = "pack onnxruntime-web@{webruntime.VERSION}" ] && cp {archive} .')
    assert web_runtime() == WebRuntime(FILES[SCRIPT].decode(), FILES[WASM])
    monkeypatch.setenv("PATH", "")
    assert web_runtime().wasm == FILES[WASM]  # of the cache


def test_a_given_archive_or_folder_is_taken(archive, tmp_path):
    assert web_runtime(archive).wasm == FILES[WASM]
    with tarfile.open(archive) as opened:
        # Python before 3.11.4 has no filters, and later ones warn without.
        opened.extraction_filter = getattr(tarfile, "data_filter", None)
        opened.extractall(tmp_path / "unpacked")
    for folder in ("unpacked", "unpacked/package", "unpacked/package/dist"):
        assert web_runtime(tmp_path / folder).script == FILES[SCRIPT].decode()
    (tmp_path / "unpacked" / "package" / SCRIPT).write_text("fetch('//elsewhere')")
    with refuses("wrong-web-runtime"):
        web_runtime(tmp_path / "unpacked")


def test_without_the_right_files_it_says_what_to_do(archive, npm, tmp_path, monkeypatch):
    npm("echo ENOTFOUND >&2; exit 1")
    with refuses("no-web-runtime", "ENOTFOUND"):
        web_runtime()
    npm(f"echo other > {ARCHIVE}")
    with refuses("wrong-web-runtime"):
        web_runtime()
    monkeypatch.setenv("PATH", "")
    with refuses("no-npm", "--onnxruntime-web"):
        web_runtime()
    with refuses("no-such-web-runtime"):
        web_runtime(tmp_path)
    archive.write_bytes(archive.read_bytes()[:-9])
    with refuses("wrong-web-runtime"):
        web_runtime(archive)
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_the_file_has_all_and_asks_for_nothing(archive, exports, tmp_path):
    export = exports("eye")
    text = write_html(export, tmp_path / "eye.html", web_runtime(archive)).read_text()
    assert model_in(tmp_path / "eye.html") == (export / "model.onnx").read_bytes()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert policy.startswith("default-src &#39;none&#39;;")
    assert not re.search(r"https?:|connect-src|unsafe-inline", policy)
    for kind, tag in [("script", '<script type="module">'), ("style", "<style>")]:
        content = text.split(tag)[1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy.replace("&#43;", "+")
    assert not re.search(r'<(script|link|img)[^>]* (src|href)="(?!data:)', text)
    settings = re.search(
        r'<script type="application/json" id="settings">(.*?)</script>', text, re.S
    )
    colours = [one["colour"] for one in json.loads(settings.group(1))["classes"]]
    assert colours == [hexadecimal(tuple(one)) for one in card_of(export).palette]  # of overlays
    block = re.search(r'<script type="application/json" id="modules">(.*?)</script>', text, re.S)
    modules = json.loads(block.group(1))
    names = [name for name, _ in modules]
    assert len(set(names)) == len(names) and {"page.js", "worker.js", "ort.js"} <= set(names)
    for place, (_, source) in enumerate(modules):  # each imports only what comes before it
        imported = re.findall(r'^import[^"]* "[^"]*?([a-z]+\.js)";', source, re.M)
        assert set(imported) <= set(names[:place])
        assert "sourceMappingURL" not in source


def test_modules_of_the_page_name_each_of_their_imports_in_one_way():
    """boot.js links them by `from "./x.js"`; what it does not see would not load."""
    root = Path(webruntime.__file__).parents[1]
    for file in [*(root / "conversion/page").glob("*.js"), *(root / "webapp/static").rglob("*.js")]:
        for line in file.read_text().splitlines():
            if line.startswith("import ") or line.startswith("} from"):
                assert re.search(r' from "\.\.?/[./a-z]*[a-z]+\.js";$', line), f"{file}: {line}"


def test_images_of_other_channels_are_refused(archive, exports, tmp_path, monkeypatch):
    from fastseg.conversion import one_file

    whole = one_file.as_trained
    monkeypatch.setattr(one_file, "as_trained", lambda *of: replace(whole(*of), channels=4))
    with refuses("not-in-html"):
        write_html(exports("eye"), tmp_path / "eye.html", web_runtime(archive))
    assert not (tmp_path / "eye.html").exists()


def test_a_failed_conversion_leaves_nothing(run, exports, samples, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    command = ["export", exports("eye"), "--to", "html", "--out", tmp_path / "out"]
    run(*command, "--onnxruntime-web", empty, "--data", samples["eye"], error="no-such-web-runtime")
    assert os.listdir(tmp_path) == ["empty"]

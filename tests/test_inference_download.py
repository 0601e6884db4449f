"""Downloading one image: what is refused. A local server on 127.0.0.1 replaces the web."""

import contextlib
import gzip
import io
import json
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import refuses, size_of
from PIL import Image

from fastseg.errors import FetchError
from fastseg.inference import download


def jpeg(size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(buffer, "JPEG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        path = self.path.strip("/")
        if path.startswith("redirect"):
            left = int(path.removeprefix("redirect") or 0)
            self.send_response(302)
            self.send_header("Location", "/image.jpg" if left == 0 else f"/redirect{left - 1}")
            self.send_header("Set-Cookie", "track=1")
            self.end_headers()
            return
        if path in ("file", "loop"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd" if path == "file" else "/loop")
            self.end_headers()
            return
        if path == "missing":
            return self.send_error(404)
        body, kind = {
            "image.jpg": (jpeg(), "image/jpeg"),
            "page": (b"<html></html>", "text/html"),
            "lie.jpg": (b"<html></html>", "image/jpeg"),
            "half.jpg": (jpeg((400, 300))[:900], "image/jpeg"),
            "large.jpg": (b"x" * 5000, "image/jpeg"),
            "wide.png": (WIDE, "image/png"),
        }[path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if path != "large.jpg":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


buffer = io.BytesIO()
Image.new("1", (10_000, 9_000)).save(buffer, "PNG")
WIDE = buffer.getvalue()


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.seen = []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_an_image_arrives_and_redirects_are_followed(server):
    for path in ("image.jpg", "redirect0", "redirect4"):
        assert download.fetch_image(f"{server.url}/{path}", allow_private=True).shape == (30, 40, 3)
    assert not any("Cookie" in headers or "Authorization" in headers for headers in server.seen)


@pytest.mark.parametrize(
    "path,code",
    [
        ("page", "not-an-image"),
        ("lie.jpg", "not-an-image"),
        ("half.jpg", "not-an-image"),
        ("missing", "server-error"),
        ("loop", "redirects"),
        ("redirect5", "redirects"),
        ("file", "address-scheme"),
        ("wide.png", "too-large"),
    ],
)
def test_what_is_refused(server, path, code):
    with refuses(code):
        download.fetch_image(f"{server.url}/{path}", allow_private=True)


def test_too_many_bytes(server, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with refuses("too-large"):
        download.fetch_image(f"{server.url}/large.jpg", allow_private=True)


@pytest.mark.parametrize(
    "url,code",
    [
        ("file:///etc/passwd", "address-scheme"),
        ("ftp://example.org/a.jpg", "address-scheme"),
        ("room.jpg", "address-scheme"),
        ("http://user:secret@example.org/a.jpg", "address-password"),
        ("http://127.0.0.1/a.jpg", "private-address"),
        ("http://[::1]/a.jpg", "private-address"),
        ("http://[64:ff9b::7f00:1]/a.jpg", "private-address"),
        ("http://[::ffff:10.0.0.1]/a.jpg", "private-address"),
        ("http://[2002:7f00:1::]/a.jpg", "private-address"),
        ("http://10.1.2.3/a.jpg", "private-address"),
        ("http://169.254.169.254/latest", "private-address"),
        ("http://nowhere.invalid/a.jpg", "unreachable"),
        ("http://[bad/a.jpg", "bad-address"),
    ],
)
def test_addresses_that_are_not_fetched(url, code):
    with refuses(code) as caught:
        download.fetch_image(url)
    assert "secret" not in str(caught.value)


def test_unreachable_port():
    with refuses("unreachable", ":9"):
        download.fetch_image("http://127.0.0.1:9/a.jpg", allow_private=True)


def test_segment_a_url(server, exports, run):
    arguments = ["segment", "--url", f"{server.url}/image.jpg", "--export", exports("surfaces")]
    run(*arguments, error="private-address")
    written = json.loads(run(*arguments, "--allow-private", "--json").out)
    assert size_of(written["file"]) == (40, 30) and sum(
        written["shares"].values()
    ) == pytest.approx(1)


class Hostile(Handler):
    """Malicious servers."""

    def do_GET(self):
        path = self.path.strip("/")
        if path == "slow-head":
            for character in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200:
                self.wfile.write(bytes([character]))
                time.sleep(0.1)
        elif path == "slow-body":
            self.begin("image/jpeg", length=100_000)
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif path == "endless":
            self.begin("image/jpeg")
            while True:
                self.wfile.write(b"x" * 65536)
        elif path == "short":
            self.begin("image/jpeg", length=10**6)
            self.wfile.write(jpeg())
        elif path == "bomb":
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(gzip.compress(bytes(200 * 2**20)))
        elif path == "lines":
            self.send_response(302)
            self.send_header("Location", "/x.jpg\x1b[2J")
            self.end_headers()
        else:
            body = {
                "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
                "vast": vast_png(),
                "polyglot": b"<html><script>alert(1)</script>" + jpeg(),
                "polyglot.jpg": jpeg() + b"<script>alert(1)</script>",
            }[path]
            self.begin("image/svg+xml" if path == "svg" else "image/png")
            self.wfile.write(body)

    def begin(self, kind, length=None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def handle(self):
        with contextlib.suppress(OSError):  # the client closes the connection
            super().handle()


def vast_png():
    """A PNG of 50,000 x 50,000 px in a few bytes: a header without pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def hostile():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize(
    "path,codes",
    [
        ("slow-head", {"timeout"}),
        ("slow-body", {"timeout"}),
        ("endless", {"too-large", "timeout"}),
        ("short", {"unreachable"}),
        ("bomb", {"too-large", "timeout", "not-an-image"}),
        ("svg", {"not-an-image"}),
        ("vast", {"too-large"}),
        ("polyglot", {"not-an-image"}),
        ("lines", {"unreachable", "bad-address", "server-error"}),
    ],
)
def test_hostile_servers(hostile, monkeypatch, path, codes):
    monkeypatch.setattr(download, "MAX_SECONDS", 2.0)
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        download.fetch_image(f"{hostile}/{path}", allow_private=True)
    assert caught.value.code in codes
    assert time.monotonic() - started < 10


def test_a_polyglot_is_only_its_picture(hostile, exports, run):
    arguments = [
        "segment",
        "--url",
        f"{hostile}/polyglot.jpg",
        "--export",
        exports("surfaces"),
        "--allow-private",
        "--json",
    ]
    written = json.loads(run(*arguments).out)
    assert b"script" not in Path(written["file"]).read_bytes()


def test_a_name_that_changes_its_address_is_refused(server, monkeypatch):
    """The name is public when it is checked, and private when it is connected to."""
    monkeypatch.setattr(download, "_require_public", lambda *_: None)
    before = len(server.seen)
    with refuses("private-address"):
        download.fetch_image(f"{server.url}/image.jpg")
    assert len(server.seen) == before  # it received no request


def test_names_are_sanitized(hostile, exports, run, tmp_path):
    arguments = [
        "segment",
        "--url",
        f"{hostile}/polyglot.jpg",
        "--export",
        exports("surfaces"),
        "--allow-private",
        "--json",
    ]
    for surname, name in (("../../x", "..\\y"), ("-rf", "\n;rm"), ("<script>", "é" * 300)):
        path = Path(json.loads(run(*arguments, "--surname", surname, "--name", name).out)["file"])
        assert path.parent == Path("output") and path.is_file() and not path.name.startswith("-")

"""Downloading one image: what is refused, and that nothing else gets through. A server on 127.0.0.1 plays the web."""
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ARCH  # noqa: F401 - sets the hub offline
from PIL import Image

from fastseg import fetch
from fastseg.errors import FetchError


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
        body, kind = {"image.jpg": (jpeg(), "image/jpeg"), "page": (b"<html></html>", "text/html"),
                      "lie.jpg": (b"<html></html>", "image/jpeg"), "half.jpg": (jpeg((400, 300))[:900], "image/jpeg"),
                      "large.jpg": (b"x" * 5000, "image/jpeg"), "wide.png": (WIDE, "image/png")}[path]
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


def test_an_image_arrives_and_redirects_are_followed(server):
    for path in ("image.jpg", "redirect0", "redirect4"):
        assert fetch.fetch_image(f"{server.url}/{path}", allow_private=True).shape == (30, 40, 3)
    assert not any("Cookie" in headers or "Authorization" in headers for headers in server.seen)


@pytest.mark.parametrize("path,words", [
    ("page", "is text/html, not an image"), ("lie.jpg", "is not an image that can be read"), ("half.jpg", "is not an image"),
    ("missing", "answered 404"), ("loop", "more than 5 redirects"), ("redirect5", "more than 5 redirects"),
    ("file", "only http and https"), ("wide.png", "too large|too many pixels"),
])
def test_what_is_refused(server, path, words):
    with pytest.raises(FetchError, match=words):
        fetch.fetch_image(f"{server.url}/{path}", allow_private=True)


def test_too_many_bytes(server, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    with pytest.raises(FetchError, match="too large"):
        fetch.fetch_image(f"{server.url}/large.jpg", allow_private=True)


@pytest.mark.parametrize("url,words", [
    ("file:///etc/passwd", "only http and https"), ("ftp://example.org/a.jpg", "only http and https"), ("room.jpg", "only http"),
    ("http://user:secret@example.org/a.jpg", "user name or password"), ("http://127.0.0.1/a.jpg", "private address"),
    ("http://[::1]/a.jpg", "private address"), ("http://10.1.2.3/a.jpg", "private address"),
    ("http://169.254.169.254/latest", "private address"), ("http://nowhere.invalid/a.jpg", "cannot be reached"),
    ("http://[bad/a.jpg", "not an address"),
])
def test_addresses_that_are_not_fetched(url, words):
    with pytest.raises(FetchError, match=words) as caught:
        fetch.fetch_image(url)
    assert "secret" not in str(caught.value)


def test_unreachable_port():
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch.fetch_image("http://127.0.0.1:9/a.jpg", allow_private=True)


def test_segment_a_url(server, exports, run):
    arguments = ["segment", "--url", f"{server.url}/image.jpg", "--export", exports("surfaces")]
    assert "private address" in run(*arguments, code=1).err
    written = json.loads(run(*arguments, "--allow-private", "--json").out)
    assert Image.open(written["file"]).size == (40, 30) and sum(written["shares"].values()) == pytest.approx(1)

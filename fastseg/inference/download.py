"""Guarded download of one image: http(s) only, public addresses, bounded time, bytes and pixels,
every redirect checked.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import threading
import warnings
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
from PIL import Image

from ..data.depth import choose_depth
from ..data.images import as_rgb, is_deep, upright
from ..errors import FetchError

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 60_000_000
MAX_SECONDS = 60.0
MAX_REDIRECTS = 5
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 addresses behind a NAT64 gateway (RFC 6052)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO")


def fetch_image(
    url: str, allow_private: bool = False, depth: int | None = None, alpha: str = "drop"
) -> np.ndarray:
    """Download an image and return it upright as uint8 (H, W, 3); 16-bit values are scaled as
    `depth.choose_depth` says, and `alpha` is as for `images.as_rgb`.

    Loopback and private addresses are refused unless `allow_private`. No cookies or credentials are
    sent. Raises `FetchError` with the reason: unreachable, not an image, too large, too slow,
    refused.
    """
    content = download(url, allow_private)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise FetchError(
                        f"{url}: {image.width}x{image.height} px is too large; the limit is "
                        f"{MAX_PIXELS // 10**6} megapixels",
                        "too-large",
                    )
                has_depth = is_deep(image)
                picture = upright(image, io.BytesIO(content), alpha != "drop")
                values = np.asarray(picture)
                if values.ndim == 3 and values.shape[2] in (2, 4):
                    values = values[..., :-1]  # without alpha
                depth = choose_depth(depth, {url: int(values.max())}) if has_depth else None
                return as_rgb(picture, depth, alpha)
    except FetchError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise FetchError(
            f"{url}: too many pixels; the limit is {MAX_PIXELS // 10**6} megapixels", "too-large"
        ) from None
    except Exception as error:  # decoders raise many kinds of errors on damaged bytes
        raise FetchError(
            f"{url}: is not an image that can be read; "
            "give the address of a JPEG, PNG or WebP file",
            "not-an-image",
        ) from error


def download(url: str, allow_private: bool = False, most: int | None = None) -> bytes:
    """Return what an address of an image has, undecoded: at most `most` bytes (`MAX_BYTES`).

    Addresses are refused, and `FetchError` is raised, as `fetch_image` says.
    """
    guard = _Guard(url, allow_private)
    # trust_env=False: a ~/.netrc would send credentials
    with (
        guard,
        httpx.Client(
            follow_redirects=False,
            timeout=httpx.Timeout(10),
            trust_env=False,
            headers={"User-Agent": "fastseg", "Accept": "image/*", "Accept-Encoding": "identity"},
        ) as client,
    ):
        for _ in range(MAX_REDIRECTS + 1):
            _require_public(url, allow_private)
            try:
                with client.stream("GET", url, extensions={"trace": guard}) as response:
                    client.cookies.clear()
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers["location"])
                        continue
                    return _read_body(response, url, most or MAX_BYTES)
            except httpx.TimeoutException:
                raise FetchError(f"{url}: no answer within 10 seconds", "timeout") from None
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
                if guard.is_late:
                    raise FetchError(
                        f"{url}: took longer than {MAX_SECONDS:.0f} seconds", "timeout"
                    ) from None
                reason = " ".join(str(error).split()) or type(error).__name__
                raise FetchError(
                    f"{url}: cannot be reached ({reason}); check the address and the network",
                    "unreachable",
                ) from None
    raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirects", "redirects")


class _Guard:
    """Checks each connection when it is made, and ends downloads that take too long.

    A host name can resolve to a private address after the check. A server that sends a byte every
    few seconds never triggers the socket's timeout.
    """

    def __init__(self, url: str, allow_private: bool):
        self.url, self.allow_private, self.is_late = url, allow_private, False
        self._socket: Any = None

    def __enter__(self) -> _Guard:
        self._timer = threading.Timer(MAX_SECONDS, self._end_download)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._socket is not None:  # httpx does not close it where `__call__` raises
            self._socket.close()

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._socket = info["return_value"].get_extra_info("socket")
            if not self.allow_private:
                _require_global(info["return_value"].get_extra_info("server_addr")[0], self.url)
            if self.is_late:
                self._end_download()

    def _end_download(self) -> None:
        self.is_late = True
        if self._socket is not None:
            with suppress(OSError):  # it may be closed already
                self._socket.shutdown(socket.SHUT_RDWR)


def _read_body(response: httpx.Response, url: str, most: int) -> bytes:
    if response.status_code != 200:
        raise FetchError(
            f"{url}: the server answered {response.status_code} {response.reason_phrase}".rstrip(),
            "server-error",
        )
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if (
        kind
        and not kind.startswith("image/")
        and kind not in ("application/octet-stream", "binary/octet-stream")
    ):
        raise FetchError(
            f"{url}: is {kind}, not an image; give the address of the image itself", "not-an-image"
        )
    if int(response.headers.get("content-length") or 0) > most:
        raise FetchError(f"{url}: is too large; the limit is {most // 2**20} MiB", "too-large")
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > most:
            raise FetchError(f"{url}: is too large; the limit is {most // 2**20} MiB", "too-large")
    return bytes(body)


def _require_public(url: str, allow_private: bool) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise FetchError(f"{url}: is not an address", "bad-address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError(f"{url}: only http and https addresses are fetched", "address-scheme")
    if parts.username or parts.password:
        raise FetchError(
            f"{parts.scheme}://{host}: an address with a user name or password is not fetched",
            "address-password",
        )
    try:
        found = socket.getaddrinfo(
            host, port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise FetchError(
            f"{url}: cannot be reached (no such host, or no network)", "unreachable"
        ) from None
    for *_, address in found:
        if not allow_private:
            _require_global(str(address[0]), url)


def _require_global(address: str, url: str) -> None:
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if found in NAT64:
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if not (found.is_global and (inner is None or inner.is_global)):
        raise FetchError(
            f"{url}: is a private address; pass --allow-private if that is meant", "private-address"
        )

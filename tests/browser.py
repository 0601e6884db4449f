"""A real browser for the app's pages: fixtures that skip, with the reason, where there is none.

`serve` runs an app on a thread, `open_page` opens one of its pages in Chromium, and `pages_log`
fails the test for errors in the page's console. `no_faults` asks axe-core for accessibility.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from fastseg.webapp.server import Server, open_app

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 15_000  # ms for something to appear
SERIOUS = ("serious", "critical")


def chromium() -> str | None:
    """Return the path of a Chromium: FASTSEG_CHROMIUM, or one that is installed."""
    named = os.environ.get("FASTSEG_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture
def serve():
    """Return a function that starts an app and returns its server; all end with the test."""
    running = []

    def start(*arguments, **options) -> Server:
        server = open_app(*arguments, **{"port": 0, **options})
        started = threading.Event()
        thread = threading.Thread(target=server.run, args=(started.set,))
        thread.start()
        running.append((server, thread))
        assert started.wait(20), "the server did not start"
        return server

    yield start
    for server, _ in running:
        server.stop()
    for _, thread in running:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")  # while it is there, asyncio.run would fail in other modules
def browser():
    """One headless Chromium for the tests of a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set FASTSEG_CHROMIUM")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page of a server: `open_page(server, "/data", width=400)`.

    An error in its console, or an uncaught one, fails the test; so does a request elsewhere.
    """
    contexts, faults = [], []

    def open_it(
        server: Server,
        path: str = "/",
        width: int = 1024,
        height: int = 768,
        person: str = "",
        **options,
    ):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: faults.append(f"{path}: {error}"))
        page.on(
            "console",
            lambda line: faults.append(f"{path}: {line.text}") if line.type == "error" else None,
        )
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith((server.address, "blob:", "data:"))
                else faults.append(f"{path} asks {asked.url}")
            ),
        )
        if person:  # who labels, so that nobody is asked
            cookie = {"name": "fastseg-name", "value": person, "url": server.address}
            context.add_cookies([cookie])
        context.request.get(server.url)  # gives the cookie; to open the first page takes longer
        page.goto(server.address.rstrip("/") + path)
        return page

    open_it.faults = faults  # a test that provokes an error clears them
    yield open_it
    for context in contexts:
        context.close()
    assert faults == []


def no_faults(page, *, also=()) -> None:
    """Fail for what axe-core finds serious in a page. Skips where it is not installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    found = axe.Axe().run(page).response["violations"]
    told = [
        f"{fault['id']} ({fault['impact']}): {fault['help']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in (*SERIOUS, *also)
        for node in fault["nodes"]
    ]
    assert told == [], "\n".join(told)


def screenshots(page, name: str, widths=(400, 1024, 1920)) -> None:
    """Write pictures of a page, light and dark, to $FASTSEG_SCREENSHOTS; nothing without it."""
    folder = os.environ.get("FASTSEG_SCREENSHOTS")
    if not folder:
        return
    for width in widths:
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 800 if width > 500 else 850})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(250)
            page.screenshot(path=Path(folder) / f"{name}_{width}_{scheme}.png", full_page=True)

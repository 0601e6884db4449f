"""The page that asks for the password, where the app has one; wrong ones are slowed down."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..utils.http import same
from .guard import Keys
from .http import body_of

MOST_BYTES = 4096
wait = asyncio.sleep
FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0  # s after a wrong password; doubles with each one


class Login:
    """Counts wrong passwords: each one makes the next answer slower, one after the other."""

    def __init__(self, keys: Keys, templates: Environment):
        self.keys, self.templates = keys, templates
        self.failures, self._turn = 0, asyncio.Lock()

    async def show(self, request: Request) -> Response:
        """Ask for the password."""
        if self.keys.password is None:
            return RedirectResponse("/", 303)
        return self._page()

    async def check(self, request: Request) -> Response:
        """Let the user in, or ask again."""
        form = parse_qs((await body_of(request, MOST_BYTES)).decode("utf-8", "replace"))
        given, password = form.get("password", [""])[0], self.keys.password
        async with self._turn:  # guesses made side by side wait for each other
            if password is not None and same(given, password):
                self.failures = 0
                return self.keys.admit(RedirectResponse("/", 303))
            await wait(min(LONGEST_DELAY, FIRST_DELAY * 2**self.failures))
            self.failures += 1
        return self._page(wrong=True)

    def _page(self, wrong: bool = False) -> Response:
        text = self.templates.get_template("login.html").render(wrong=wrong)
        return HTMLResponse(text, 403 if wrong else 200)


def login_routes(keys: Keys, templates: Environment) -> list[Route]:
    """Return the routes of the login page."""
    login = Login(keys, templates)
    return [
        Route("/login", login.show, methods=["GET"]),
        Route("/login", login.check, methods=["POST"]),
    ]

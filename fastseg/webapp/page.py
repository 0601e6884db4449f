"""What a page is, and which ones there are: each module in `api` with a `page`.

A page NAME has templates/NAME.html, which extends base.html, and static/NAME.js, a module that
base.html loads. `in_nav=False` is for modules that only answer requests, and for pages that are
reached from others.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute

if TYPE_CHECKING:
    from .workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A page, and the routes below /api that its script uses."""

    name: str
    title: str = ""  # in the navigation and the window's title
    order: int = 0  # in the navigation, smallest first
    routes: tuple[BaseRoute, ...] = ()
    in_nav: bool = True
    in_audit: bool = False  # also in the navigation of an audit of predicted labels
    has_page: bool = True  # False: only routes
    path: str = ""  # default: /NAME
    context: Callable[[Workspace], Mapping[str, Any]] = lambda workspace: {}  # for the template

    @property
    def address(self) -> str:
        """The page's path."""
        return self.path or f"/{self.name}"


@cache
def pages() -> tuple[Page, ...]:
    """Return the pages, in the order of the navigation."""
    package = import_module(f"{__package__}.api")
    found = [
        import_module(f"{package.__name__}.{module.name}").page
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_")
    ]
    return tuple(sorted(found, key=lambda page: (page.order, page.name)))

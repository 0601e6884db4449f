"""The Hugging Face hub: names of repositories, whether it can be reached, its errors as one line.

Access tokens are those of huggingface_hub: HF_TOKEN, or `hf auth login`. They are never shown.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ExportError, FastsegError, brief

log = logging.getLogger(__name__)

HUB = "hub:"
HUB_SECONDS = 5  # timeout for reaching the hub; its own retries take most of a minute
# The hub's own rules for names; revisions are branches, tags and commits of git.
NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9](?:[\w./-]{0,198}\w)?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """A repository of models on the hub, such as "me/eye", and a revision of it."""

    repository: str
    revision: str | None = None  # branch, tag or commit; None: the main branch

    def __str__(self) -> str:
        return f"{HUB}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName:
    """Return the repository and revision that "hub:me/eye" or "hub:me/eye@v1" names.

    Raises `ExportError` "hub-name".
    """
    name, at, revision = text.removeprefix(HUB).partition("@")
    parts = name.split("/")
    is_name = len(parts) == 2 and all(map(_is_name, parts))
    if not (text.startswith(HUB) and is_name and (not at or is_revision(revision))):
        raise ExportError(
            f"{brief(text)}: is no name on the hub; give {HUB}OWNER/NAME or "
            f"{HUB}OWNER/NAME@REVISION, such as {HUB}me/eye@main",
            "hub-name",
        )
    return HubName(name, revision or None)


def _is_name(part: str) -> bool:
    return bool(NAME.fullmatch(part)) and not re.search(r"--|\.\.|\.git$", part)


def is_revision(text: str) -> bool:
    """Return whether a text can be a revision: a branch, tag or commit."""
    return bool(REVISION.fullmatch(text)) and not re.search(r"//|\.\.|/\.|\.lock$", text)


def is_offline() -> bool:
    """Return whether nothing may be fetched: --offline, or HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def go_offline() -> None:
    """Fetch nothing from now on, in this process and those that it starts."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "huggingface_hub.constants" in sys.modules:  # it reads the variable on its import
        sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Use only the hub's local cache in a block if the hub does not answer one request."""
    import httpx
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except httpx.HTTPError as error:
        log.debug("%s: %s", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def hub_errors(name: HubName, what: str) -> Iterator[None]:
    """Turn errors of the hub's library into an `ExportError` of one line.

    `what` follows the name in messages, such as "cannot be fetched".
    """
    from huggingface_hub import errors

    try:
        with _quiet_library():
            yield
    except FastsegError:
        raise
    except errors.RevisionNotFoundError:
        raise ExportError(
            f"{name}: there is no such revision; give a branch, tag or commit of it",
            "no-such-revision",
        ) from None
    except errors.LocalEntryNotFoundError:
        reason = "offline" if is_offline() else "the hub does not answer"
        raise ExportError(
            f"{name}: {what} ({reason}), and is not in the cache; connect to the hub once",
            "not-fetched",
        ) from None
    except Exception as error:  # its HTTP client has exceptions of its own, which change
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            raise ExportError(
                f"{name}: {what}: there is no such repository, or {_token_state()}",
                "access-refused",
            ) from None
        cause = error.__cause__ or error
        told = getattr(cause, "server_message", None) or f"{type(cause).__name__}: {cause}"
        raise ExportError(f"{name}: {what} ({brief(_without_token(told))})", "hub-error") from None


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Let the hub's library show bars on a terminal only, and no warnings: errors are raised."""
    from huggingface_hub.utils import logging as library
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    from .progress import console, is_hidden

    level, are_hidden = library.get_verbosity(), are_progress_bars_disabled()
    library.set_verbosity(logging.ERROR)
    if not are_hidden and (is_hidden() or not console.is_terminal):
        disable_progress_bars()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if not are_hidden:
            enable_progress_bars()


def _token_state() -> str:
    from huggingface_hub import get_token

    if get_token():
        return "your access token may not do that; take another: hf auth login, or HF_TOKEN"
    return "it needs an access token: hf auth login, or set HF_TOKEN"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text

"""`fastseg push`: an export on the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError
from ..exports.cache import SHARED
from ..exports.card import CARD
from ..utils.hub import (
    HubName,
    hub_errors,
    hub_name,
    is_offline,
    is_revision,
    offline_unless_reachable,
)
from .files import shared_files

MAIN = "main"


@dataclass(frozen=True)
class Pushed:
    """The result of `push`."""

    address: str  # hub:OWNER/NAME@COMMIT, as commands take it
    url: str  # of the commit, for a browser
    revision: str  # the commit
    sha256: str  # of card.json, which names those of the other files
    files: dict[str, str]  # name -> SHA-256


def push(
    export: Path | str, to: str, *, private: bool = False, revision: str | None = None
) -> Pushed:
    """Upload an export to the hub's repository `to`, "hub:me/eye", which is created if needed.

    Uploaded are card, weights, ONNX model, figures and history, checked by the card's SHA-256, and
    a model card (README.md) written from the card; never a pickle or a picture. `private` creates a
    private repository. `revision` is the branch to write to, created if needed (default: main).
    The access token is that of huggingface_hub: HF_TOKEN, or `hf auth login`.
    Raises `ExportError`: "hub-name", "public-repository" if it is to be private and exists as a
    public one, "access-refused", "not-fetched", "hub-error".
    """
    name = _target(to, revision)
    made = shared_files(export, f"hub:{name.repository}")
    if is_offline():
        raise ExportError(f"{name}: nothing is uploaded offline", "not-fetched")
    with (
        tempfile.TemporaryDirectory(prefix="fastseg-push-") as place,
        hub_errors(name, "cannot be uploaded"),
        offline_unless_reachable(),
    ):
        if is_offline():
            raise ExportError(
                f"{name}: the hub does not answer; check the network, or HF_ENDPOINT", "not-fetched"
            )
        for file in made.names:
            content = made.read(file)
            if isinstance(content, bytes):
                Path(place, file).write_bytes(content)
            else:
                shutil.copyfile(content, Path(place, file))
        return _upload(name, Path(place), made.files, private)


def _target(to: str, revision: str | None) -> HubName:
    """Return the repository and branch to write to."""
    name = hub_name(to)
    if revision is not None and not is_revision(revision):
        raise ExportError(f"{revision}: is no name of a branch", "bad-revision")
    if revision and name.revision not in (None, revision):
        raise ExportError(
            f"{name}: --revision {revision} is another one; give one of them", "bad-revision"
        )
    return HubName(name.repository, revision or name.revision)


def _upload(name: HubName, folder: Path, files: dict[str, str], private: bool) -> Pushed:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name.repository, private=private or None, exist_ok=True)
    if private and not api.repo_info(name.repository).private:
        raise ExportError(
            f"{name}: exists, and everyone can read it; make it private on the hub, or leave "
            "--private out",
            "public-repository",
        )
    if name.revision not in (None, MAIN):
        api.create_branch(name.repository, branch=name.revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=name.repository,
        folder_path=folder,
        revision=name.revision,
        commit_message="Export of fastseg",
        delete_patterns=[file for file in SHARED if file not in files],
    )
    address = str(HubName(name.repository, commit.oid))
    return Pushed(address, commit.commit_url, commit.oid, files[CARD], files)

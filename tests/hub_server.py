"""A hub on this machine: the parts of the Hugging Face hub's HTTP interface that fastseg uses."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "secret" * 5
MAIN = "main"


@dataclass
class Repository:
    """A repository: its branches, and the files of its commits."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {MAIN: "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def files(self, revision: str = MAIN) -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = "".join(
            f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)
        )
        sha = hashlib.sha1(f"{branch} {len(self.commits)} {text}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


class Hub:
    """The state of the hub, and what was asked of it."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.asked: list[str] = []  # methods and paths
        self.url = ""
        self.cut = 0  # bytes after which downloads break off; 0: never
        self.refusal = ""  # what the hub says to every upload, with the token


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answered("HEAD")

    def do_GET(self):
        self._answered("GET")

    def do_POST(self):
        self._answered("POST")

    def do_PUT(self):
        self._answered("PUT")

    @property
    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answered(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        parts = path.strip("/").split("/")
        if path == "/":
            return self._say({})
        if parts[0] == "upload":
            self.hub.uploaded[parts[1]] = body
            return self._say({})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if method == "POST" and not self._has_token:
            return self._refuse(401, "", "Invalid username or password.")
        if self.hub.refusal and method == "POST":
            return self._refuse(403, "", f"{self.hub.refusal} {TOKEN}")
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._has_token):
            return self._refuse(401, "RepoNotFound", "Repository not found")
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if parts[0] != "api":
            return self._resolved(repository, parts[3], "/".join(parts[4:]))
        self._api(repository, name, parts[4:5], "/".join(parts[5:]) or MAIN, body)

    def _api(
        self, repository: Repository, name: str, action: list[str], revision: str, body: bytes
    ) -> None:
        if action == ["preupload"]:
            return self._modes(json.loads(body)["files"])
        if action == ["commit"]:
            return self._committed(repository, name, revision, body)
        if action == ["branch"]:
            known = revision in repository.branches
            if not known:
                repository.branches[revision] = repository.branches[MAIN]
            return self._refuse(409, "", "exists") if known else self._say({})
        if repository.branches.get(revision, revision) not in repository.commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        files = repository.files(revision)
        if action == ["tree"]:
            return self._say(
                [
                    {"type": "file", "path": file, "size": len(data), "oid": _git_oid(data)}
                    for file, data in files.items()
                ]
            )
        sha = repository.branches.get(revision, revision)
        siblings = [{"rfilename": file} for file in files]
        self._say({"id": name, "sha": sha, "private": repository.private, "siblings": siblings})

    def _created(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._say({"url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        self._say({"url": f"{self.hub.url}/{name}"})

    def _modes(self, files: list[dict]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].startswith("model.") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self._say({"files": modes})

    def _batch(self, asked: dict) -> None:
        self._say(
            {
                "transfer": "basic",
                "objects": [
                    {**one, "actions": {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}}
                    for one in asked["objects"]
                ],
            }
        )

    def _committed(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        files = dict(repository.files(branch))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        sha = repository.commit(branch, files)
        self._say({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def _resolved(self, repository: Repository, revision: str, file: str) -> None:
        data = repository.files(revision).get(file)
        if data is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        etag = hashlib.sha256(data).hexdigest()
        commit = repository.branches.get(revision, revision)
        first = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self._send(206 if first else 200, data[first:], headers)

    def _say(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        headers |= {"Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut if "/resolve/" in self.path and len(data) > self.hub.cut else 0
        self.wfile.write(data[:cut] if cut else data)
        if cut:
            self.close_connection = True


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub():
    """Yield a hub that answers on this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    """A hub on this machine, which this process uses, with a cache of its own and a token."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running_hub() as found:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        yield found

"""Shared fixtures: run commands, expect errors by code, samples and tiny exports of each task."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from browser import browser, open_page, serve  # noqa: F401  # fixtures of the app's tests
from PIL import Image
from typer.testing import CliRunner

from fastseg import tasks
from fastseg.cli.app import app
from fastseg.errors import FastsegError

ARCH = "test_resnet"  # timm's own 2-million-parameter test backbone

os.environ["HF_HUB_OFFLINE"] = "1"  # tests never access a hub
# Ray reads it once in a process: without it, a cluster of a later test would be asked for a token.
os.environ["RAY_AUTH_MODE"] = "disabled"
torch.set_num_threads(1)  # two test processes share two cores

shared = Path(os.environ.get("FASTSEG_SHARED", Path(__file__).parents[2] / "shared"))
needs_shared = pytest.mark.skipif(
    not (shared / "data").is_dir(), reason=f"no real data in {shared}; set FASTSEG_SHARED"
)


def rows_of(path: Path | str) -> list[dict[str, str]]:
    """Return a CSV file's rows."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results_in(folder: Path | str) -> dict[str, bytes]:
    """Return the bytes of all results of a prediction but its index, whose files name no order."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and ".fastseg" not in path.parts and path.suffix != ".parquet"
    }


def size_of(path: Path | str) -> tuple[int, int]:
    """Return a picture's width and height, and close its file."""
    with Image.open(path) as picture:
        return picture.size


class Result:
    """A command's result: exit code, both outputs, the expected error's message and details."""

    message = ""
    details: dict = {}

    def __init__(self, result):
        self.code, self.out, self.err, self.exception = (
            result.exit_code,
            result.stdout,
            result.stderr,
            result.exception,
        )


def missing(values: Iterable[object], message: str) -> list[object]:
    """Return the values that a message does not name; an int must be a whole number in it."""
    numbers = set(re.findall(r"\b\d+\b", message))
    return [
        value
        for value in values
        if (str(value) not in numbers if isinstance(value, int) else str(value) not in message)
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the largest share of slow tests first.

    Processes take whole files: near the end, only short ones are left, and none waits for another.
    """
    count = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] / count[item.path])


@contextmanager
def refuses(
    code: str,
    *values: object,
    kind: type[FastsegError] = FastsegError,
    suggested: str | None = None,
):
    """Expect an error with this `code` that names all `values`: names and numbers, no prose.

    `suggested` is the name that it must suggest first for an unknown one.
    """
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code}: {caught.value}"
    assert missing(values, str(caught.value)) == [], str(caught.value)
    if suggested is not None:
        assert caught.value.details["suggested"][0] == suggested


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `fastseg ARGS` in an empty folder; a traceback fails the test.

    `code` is the exit code to expect. `error` is the code of the error to expect: the exit code is
    then 1, `Result.message` is what the error says, and `Result.details` are its details.
    """
    monkeypatch.chdir(tmp_path)

    def call(*args, code: int = 0, error: str | None = None) -> Result:
        if error is not None:
            args, code = (*args, "--json"), 1
        result = Result(CliRunner().invoke(app, [str(a) for a in args]))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.code == code, f"exit {result.code}, not {code}: {result.out}{result.err}"
        if error is not None:
            result.details = json.loads(result.out)
            found = result.details.pop("error")
            assert found["code"] == error, result.err
            result.message = found["message"]
        return result

    return call


@pytest.fixture
def run_process(tmp_path):
    """Run `python -m fastseg ARGS` in an empty folder, as a process with more `environment`.

    `code` is the exit code to expect. Returns standard output and standard error, joined.
    """

    def call(*arguments, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


LINES = """
import json, sys
from typer.testing import CliRunner
from fastseg.cli.app import app
for line in json.load(sys.stdin):
    done = CliRunner().invoke(app, line)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    print(json.dumps([done.exit_code, done.stdout + done.stderr]), flush=True)
"""


@pytest.fixture
def run_lines(tmp_path):
    """Run several command lines in one new process, which imports torch once for all of them.

    For what only a new process shows: more variables of the `environment` (nothing but them, if it
    is `alone`), another copy of the package. `codes` are the exit codes to expect, all 0 by
    default. Returns what each line has printed.
    """

    def call(
        *lines: Iterable[object],
        codes: Sequence[int] = (),
        folder: Path = tmp_path,
        alone: bool = False,
        **environment: str,
    ) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", LINES],
            cwd=folder,
            input=json.dumps([[str(word) for word in line] for line in lines]),
            capture_output=True,
            text=True,
            env={**({} if alone else os.environ), **environment},
        )
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [code for code, _ in found] == list(codes or [0] * len(lines)), found
        return [said for _, said in found]

    return call


@pytest.fixture
def fails(run, tmp_path):
    """Run a command that must fail with the error `code` in one line and write no output.

    All `values` must be in that line: file names, numbers, options; no prose. `suggested` is the
    name that it must suggest first for an unknown one.
    """

    def call(*arguments, code: str, values=(), suggested=None):
        before = set(tmp_path.rglob("*"))
        result = run(*arguments, error=code)
        lines = [line for line in result.err.strip().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and result.err.strip().endswith(lines[0]), result.err
        assert missing(values, lines[0]) == [], lines[0]
        if suggested is not None:
            assert result.details["suggested"][0] == suggested
        exports = tmp_path / "exports"
        assert {p for p in tmp_path.rglob("*") if p.parent != exports} - {exports} <= before
        assert not list(exports.glob("*"))

    return call


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder with a synthetic sample of each task, by name."""
    root = tmp_path_factory.mktemp("samples")
    return {name: tasks.get(name).sample(root / name, n=16, seed=3) for name in tasks.names()}


@pytest.fixture(autouse=True)
def samples_are_only_read(request):
    """Fail a test that corrects labels of the samples, or freezes their parts: it needs a copy."""
    yield
    if "samples" in request.fixturenames:
        folders = request.getfixturevalue("samples").values()
        assert not [folder for folder in folders if (folder / ".fastseg").exists()]


@pytest.fixture(scope="session")
def exports(samples, full_px, tmp_path_factory):
    """Return an export of a task, trained for one epoch at 64 px on first use: `exports("eye")`.

    Its pictures have their full size, whichever test is the first.
    """
    from fastseg import fit

    root, made = tmp_path_factory.mktemp("exports"), {}

    def export(name: str) -> Path:
        if name not in made:
            options = dict(arch=ARCH, weights="none", size=64, bs=4, epochs=1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fastseg.report.panels.MAX_PX", full_px)
                fit(name, samples[name], out=root / name, **options)
            made[name] = root / name
        return made[name]

    return export


class PulledPlug(Exception):
    """Simulates the end of a process for any reason."""


@pytest.fixture
def plug(monkeypatch):
    """Stop a fit at the `count`-th checkpoint, before or after it is written."""
    from fastseg.training import checkpoint

    whole = checkpoint.write

    def pull(count: int, before: bool = False):
        calls = []

        def write(path, state):
            calls.append(path)
            if before and len(calls) == count:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(".half").write_bytes(b"half a checkpoint")
                raise PulledPlug
            whole(path, state)
            if len(calls) == count:
                raise PulledPlug

        monkeypatch.setattr(checkpoint, "write", write)
        return lambda: monkeypatch.setattr(checkpoint, "write", whole)

    return pull


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    """Run a test in both precisions, on any machine: CPUs can emulate bfloat16."""
    monkeypatch.setenv("FASTSEG_PRECISION", request.param)
    return request.param


@pytest.fixture(scope="session")
def full_px():
    """The limit of the width and height of pictures, before any test reduces it."""
    from fastseg.report import panels

    return panels.MAX_PX


@pytest.fixture(autouse=True)
def small_pictures(request, full_px, monkeypatch):
    """Write pictures of at most 300 px, which saves a third of each `interpret`.

    Tests of the size of pictures have the marker `full_pictures`.
    """
    if not request.node.get_closest_marker("full_pictures"):
        monkeypatch.setattr("fastseg.report.panels.MAX_PX", 300)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Give each test its own locks and journals."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

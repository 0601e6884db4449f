"""What the README and the data notes say is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import ARCH

from fastseg import tasks
from fastseg.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = {c.name or c.callback.__name__ for c in app.registered_commands}


def test_every_command_and_task_is_documented():
    assert [c for c in COMMANDS if f"fastseg {c}" not in README] == []
    assert [t for t in tasks.names() if f"data/{t}/README.md" not in README] == []


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^\$ (fastseg .*?)(?:\s+#.*)?$", README, re.M)))
)
def test_transcript_lines_parse(line):
    arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("fastseg", list(arguments), resilient_parsing=True)
    after = next(
        i for i, word in enumerate(arguments) if word in COMMANDS
    )  # before it stand the group's own options
    name, found, rest = command.resolve_command(context, arguments[after:])
    found.make_context(name, rest)


def test_python_block_runs(samples, tmp_path):
    block = re.search(r"```python\n(import fastseg.*?)```", README, re.S)[1]
    small = block.replace('"resnet34"', f'"{ARCH}", weights="none", size=64, bs=4').replace(
        "fit_one_cycle(8", "fit_one_cycle(1"
    )
    assert small != block
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eye").symlink_to(samples["eye"])
    (tmp_path / "one.jpg").symlink_to(next((samples["eye"] / "imgs_small").iterdir()))
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "import matplotlib; matplotlib.use('Agg')\n" + small,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_changelog_has_the_version():
    import fastseg

    assert f"## {fastseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", [n for n in tasks.names() if (ROOT / "data" / n).is_dir()])
def test_data_notes_name_layout_classes_and_counts(name, samples):
    text = (ROOT / "data" / name / "README.md").read_text()
    layout = re.search(r"^\*\*Layout\.\*\*.*?^```text\n(.*?)^```", text, re.M | re.S)[1]
    item = tasks.get(name).items(samples[name])[0]
    for file in (item.image, item.label):
        if isinstance(file, Path):
            assert f"{file.relative_to(samples[name]).parent.as_posix()}/" in layout
    for label in "+".join(tasks.get(name).classes).split("+"):  # kitchen has "pan+background"
        assert re.search(rf"\b{label}\b", text), label
    assert re.search(r"^\*\*Counts to expect\.\*\* .*(\d|fastseg tasks)", text, re.M)
    assert f"fastseg sample {name}" in text


def test_top_level_is_as_promised():
    visible = {
        p
        for p in subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
        ).stdout.split()
        if p[0] != "."
    }
    tops = {p.split("/")[0] for p in visible}
    assert tops <= {
        "fastseg",
        "scripts",
        "data",
        "exports",
        "tests",
        "setup.py",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "pyproject.toml",
    }


@pytest.mark.parametrize("script", ["setup.sh", "demo.sh", "test.sh"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)


def test_scripts_say_in_one_line_what_is_missing(tmp_path):
    """An active environment without a python is the one fault that a test can make without touching the machine."""
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "demo.sh"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": str(tmp_path)},
    )
    assert (
        done.returncode == 1
        and len(done.stderr.strip().splitlines()) == 1
        and "has no python" in done.stderr
    )

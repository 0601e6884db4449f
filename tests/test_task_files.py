"""A sixth dataset is one file: written here as the README shows it, and used through the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ARCH
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def cli(tmp_path):
    """Run fastseg in a fresh process that finds the README's roof.py in its own folder of tasks."""
    folder = tmp_path / "my_tasks"
    folder.mkdir()
    block = re.search(r"```python\n(# roof\.py.*?)```", README.read_text(), re.S)
    (folder / "roof.py").write_text(block[1])

    def call(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "FASTSEG_TASKS": str(folder)},
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def test_a_task_in_one_file(cli, tmp_path):
    assert "roof" in cli("tasks")
    assert "roof" in cli("fit", "rof", code=1)
    cli("sample", "roof", "--n", 8)
    cli("fit", "roof", "--arch", ARCH, "--weights", "none", "--size", 64, "--epochs", 1)
    assert "roof" in cli("evaluate", "roof")
    cli("predict", "roof", "data/roof/images")
    masks = list((tmp_path / "images_inf_masks").glob("*.png"))
    assert len(masks) == 8 and Image.open(masks[0]).size == (160, 120)
    assert "report.html" in cli("interpret")
    cli("show", "roof")
    code = (
        "from fastai.learner import load_learner; from fastseg.learners import roof_learner\n"
        "print(load_learner('exports/roof/export.pkl').record.task)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "FASTSEG_TASKS": str(tmp_path / "my_tasks")},
    )
    assert done.stdout.strip() == "roof", done.stderr


def test_a_faulty_task_file_is_named(cli, tmp_path):
    (tmp_path / "my_tasks" / "roof.py").write_text("tasks = 1\n")
    error = cli("fit", "roof", code=1)
    assert (
        "roof.py: must define task = SegmentationTask(name='roof'" in error
        and "Traceback" not in error
    )

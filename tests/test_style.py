"""Style and types of the package: the rules are in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(*command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rules", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(rules):
    check("ruff", *rules, "--no-cache", ".")


@pytest.mark.slow
def test_mypy_finds_nothing(tmp_path):
    check("mypy", "--cache-dir", str(tmp_path))

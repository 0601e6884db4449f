"""The rooms of the package import in one direction: the contract is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from fastseg.exports.card import sha256

ROOT = Path(__file__).parents[1]
LINT = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(no_cache=True, no_logo=True))
"""


def lint(folder):
    return subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_rooms_import_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_the_other_way_is_found(tmp_path):
    shutil.copytree(
        ROOT / "fastseg", tmp_path / "fastseg", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "fastseg" / "utils" / "progress.py").open("a") as module:
        module.write("\n\ndef late():\n    from ..tasks import get\n    return get\n")
    assert lint(tmp_path).returncode != 0


def test_a_pickle_of_another_version_is_refused_in_one_line(exports, fails, samples, tmp_path):
    folder = shutil.copytree(exports("eye"), tmp_path / "old")
    (folder / "export.pkl").write_bytes(
        b"cfastseg.gone\nGone\n."
    )  # a class of a module that there is no more
    card = (folder / "card.json").read_text()
    (folder / "card.json").write_text(
        card.replace(sha256(exports("eye") / "export.pkl"), sha256(folder / "export.pkl"))
    )
    fails(
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        folder / "export.pkl",
        "--out",
        tmp_path / "found",
        code="old-pickle",
    )

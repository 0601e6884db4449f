"""The code in CONTRIBUTING works: each block is inserted at its place in a copy of the package."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ARCH

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text()


def blocks(section: str) -> list[tuple[str, str]]:
    """Return (file, code) of a section's code blocks."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)[1]
    found = re.findall(r'^```python title="(\S+)"\n(.*?)^```', text, re.M | re.S)
    assert found, section
    return found


@pytest.fixture
def cli(tmp_path, run_lines):
    """Run lines of fastseg of a copy of the package, which `cli.edit` changes."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastseg", tmp_path / "fastseg", ignore=ignored)

    def call(*lines, codes=()):
        return run_lines(*lines, codes=codes, PYTHONPATH=str(tmp_path))

    def edit(file, pattern, replacement):
        path = tmp_path / file
        text, count = re.subn(pattern, lambda m: m[0] + replacement, path.read_text(), count=1)
        assert count, f"{file}: has no {pattern}"
        path.write_text(text)

    call.edit = edit
    return call


@pytest.mark.slow
def test_a_decoder_a_loss_an_option_and_a_metric(cli, tmp_path):
    ((file, code),) = blocks("Add a decoder")
    path = tmp_path / file
    path.write_text(re.sub(r"^OWN = .*\n", lambda _: code, path.read_text(), flags=re.M))
    cli.edit("fastseg/utils/choices.py", r"DECODERS[^=]*= \(\n", '    "linear",\n')

    ((file, code),) = blocks("Add a loss")
    cli.edit(file, r"_SMP_LOSSES[^=]*= \{\n", code)
    cli.edit("fastseg/utils/choices.py", r"LOSSES[^=]*= \(", '"logdice", ')

    (file, code), (user, use) = blocks("Add an option of `fit`")
    cli.edit(file, r"class FitOptions:\n.*\n\n", code)
    statement = re.search(r"^    cbs = .*\n", use)[0]
    cli.edit(user, re.escape(statement), use.removeprefix(statement))
    imports = "from fastai.callback.training import GradientClip\n"
    cli.edit(user, r"from __future__ import annotations\n", imports)

    ((file, code),) = blocks("Add a metric")
    title, line = re.search(r"FIGURES = \{\n(.*?)\}\n.*# in per_class\n(.*)", code, re.S).groups()
    cli.edit(file, r"FIGURES[^=]*= \{.*\n", title)
    cli.edit(file, r'        "dice": .*\n', line)

    small = ["--arch", ARCH, "--weights", "none", "--size", 64, "--bs", 4, "--epochs", 1]
    said = cli(
        ["sample", "eye", "--n", 16],
        ["fit", "--help"],
        ["fit", "eye", "--clip", -1],
        ["fit", "eye", *small, "--decoder", "linear", "--loss", "ce+logdice", "--clip", 0.5],
        ["evaluate", "eye"],
        codes=[0, 0, 1, 0, 0],
    )
    assert "--clip" in said[1] and "--clip" in said[2]
    card = json.loads((tmp_path / "exports" / "eye" / "card.json").read_text())
    assert card["network"]["decoder"] == "linear"
    assert (card["training"]["loss"], card["training"]["clip"]) == ("ce+logdice", 0.5)
    assert re.search(r"volume similarity +\d", said[4])


@pytest.mark.slow
def test_a_check(cli, tmp_path):
    import numpy as np
    from PIL import Image

    ((file, code),) = blocks("Add a check")
    name = re.search(r"def (\w+)", code)[1]
    with (tmp_path / file).open("a") as module:
        module.write("\n\n" + code)
    cli.edit(file, r"    faults \+= \[\n(?=        \*_)", f"        *{name}(task, findings),\n")
    kind = re.search(r'Fault\(\s*"(.*?)"', code)[1]
    entry = f'    "{kind}": (False, "few pixels"),\n'
    cli.edit("fastseg/data/issues.py", r"KINDS[^=]*= \{.*\n", entry)
    cli(["sample", "eye", "--n", 16])
    mask = sorted((tmp_path / "data" / "eye" / "masks_small").iterdir())[0]
    codes = np.array(Image.open(mask))
    codes[codes == 3] = 2
    codes[0, :3] = 3
    Image.fromarray(codes).save(mask)
    assert f"{mask.name}: has 3 px of pupil" in cli(["check", "eye"])[0]


@pytest.mark.slow
def test_a_label_format(cli, tmp_path):
    import numpy as np
    from PIL import Image

    ((file, code),) = blocks("Add a label format")
    (tmp_path / file).write_text(code)
    data = tmp_path / "roofs"
    data.mkdir()
    for name in ("6", "7", "8", "9", "10"):
        noise = np.random.default_rng(int(name)).integers(0, 255, (100, 100, 3), np.uint8)
        Image.fromarray(noise).save(data / f"{name}.jpg")
    lines = [f"{name}.jpg,roof,10,10,90,10,90,60,10,60" for name in (6, 7, 8, 9, 10)]
    (data / "polygons.csv").write_text("\n".join(["image,label,points", *lines]) + "\n")
    (data / "task.toml").write_text(
        'classes = ["ground", "roof"]\n[[layouts]]\nformat = "polygons"\nlabels = "polygons.csv"\n'
    )
    assert re.search(r"5 labelled images.*ground 30,000, roof 20,000", cli(["check", "roofs"])[0])
    (data / "polygons.csv").write_text("\n".join(["header", *lines, "10.jpg,roof,1,2,x"]))
    assert "line 7" in cli(["check", "roofs"], codes=[1])[0]

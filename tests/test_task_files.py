"""A user's own task is one file: the one in README, used on the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, refuses, size_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.training import checkpoint

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def own_tasks(tmp_path):
    """The environment of a process that finds the README's roof.py in its own folder of tasks."""
    folder = tmp_path / "my_tasks"
    folder.mkdir()
    block = re.search(r"```python\n(# roof\.py.*?)```", README.read_text(), re.S)
    (folder / "roof.py").write_text(block[1])
    return {"FASTSEG_TASKS": str(folder)}


@pytest.mark.slow
def test_a_task_in_one_file(run_process, run_lines, own_tasks, tmp_path):
    assert "roof" in run_process("tasks", **own_tasks)
    said = run_lines(
        ["fit", "rof"],
        ["sample", "roof", "--n", 8],
        ["fit", "roof", "--arch", ARCH, "--weights", "none", "--size", 64, "--epochs", 1],
        ["evaluate", "roof"],
        ["predict", "roof", "data/roof/images"],
        ["interpret"],
        ["show", "roof"],
        codes=[1, 0, 0, 0, 0, 0, 0],
        **own_tasks,
    )
    assert "roof" in said[0] and "roof" in said[3] and "report.html" in said[5]
    masks = list((tmp_path / "images_inf_masks").glob("*.png"))
    assert len(masks) == 8 and size_of(masks[0]) == (160, 120)
    code = (
        "from fastai.learner import load_learner; from fastseg.learners import roof_learner\n"
        "print(load_learner('exports/roof/export.pkl').record.task.name)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, **own_tasks},
    )
    assert done.stdout.strip() == "roof", done.stderr


def test_a_faulty_task_file_is_named(run_process, own_tasks, tmp_path):
    (tmp_path / "my_tasks" / "roof.py").write_text("tasks = 1\n")
    error = run_process("fit", "roof", "--json", code=1, **own_tasks)
    assert '"code": "task-file"' in error and f"{tmp_path / 'my_tasks' / 'roof.py'}: " in error
    assert "Traceback" not in error


def test_a_name_that_two_task_files_share_is_refused(run, monkeypatch, tmp_path):
    (tmp_path / "eye.py").write_text("task = None\n")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path), str(tmp_path)])
    assert str(tmp_path / "eye.py") in run("fit", "eye", error="task-name-taken").message
    assert tasks.get("face").name == "face"


def test_a_folder_of_tasks_that_does_not_exist_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "nowhere")])
    with refuses("unknown-task", tmp_path / "nowhere"):
        tasks.get("roof")


EDITED = """
from fastseg.tasks import Layout, Recipe, SegmentationTask

class Roofs(SegmentationTask):
    def image(self, item):
        {image}
        return super().image(item)

    def examine_mask(self, path, source):
        {examine_mask}
        return super().examine_mask(path, source)

task = Roofs(name="roof", classes=("ground", "roof"), palette=((0, 0, 0), (200, 0, 0)),
             layouts=(Layout("images", "masks"),), recipe=Recipe(size=(64, 64)),
             codes={codes}, output="{output}")
"""
DIES = "if {}.stem > 'image_010': raise KeyboardInterrupt"


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Write roof.py with these codes and first lines of its methods; forget the imported module."""
    (tmp_path / "edited").mkdir()
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "edited")])
    # Python takes compiled code for that of a file of equal size and second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(codes, image="pass", examine_mask="pass", output="codes"):
        text = EDITED.format(codes=codes, image=image, examine_mask=examine_mask, output=output)
        (tmp_path / "edited" / "roof.py").write_text(text)
        sys.modules.pop("fastseg.tasks.roof", None)

    yield write
    sys.modules.pop("fastseg.tasks.roof", None)


@pytest.fixture
def roofs(edit, tmp_path):
    """A dataset of roof.py with masks of 0 and 255."""
    edit({0: 0, 255: 1})
    data = tasks.get("roof").sample(tmp_path / "roofs", n=16)
    for mask in (data / "masks").iterdir():
        codes = np.asarray(Image.open(mask))
        Image.fromarray(np.where(codes > 0, 255, 0).astype(np.uint8)).save(mask)
    return data


def test_a_check_that_was_interrupted_starts_again_when_the_task_was_edited(edit, roofs):
    edit({0: 0, 255: 1}, examine_mask=DIES.format("path"))
    with pytest.raises(KeyboardInterrupt):
        fastseg.check("roof", roofs)
    edit({0: 1, 255: 0})
    resumed, whole = (fastseg.check("roof", roofs).classes for _ in range(2))
    assert resumed == whole


def test_an_evaluation_that_was_interrupted_starts_again_when_the_task_was_edited(
    edit, roofs, tmp_path
):
    options = {"arch": ARCH, "weights": "none", "size": 64, "epochs": 1}
    fastseg.fit("roof", roofs, out=tmp_path / "export", **options)
    common = {"data": roofs, "export": tmp_path / "export", "split": "all"}
    edit({0: 0, 255: 1}, examine_mask=DIES.format("path"))
    with pytest.raises(KeyboardInterrupt):
        fastseg.evaluate("roof", out=tmp_path / "resumed", **common)
    edit({0: 1, 255: 0})
    resumed, whole = (
        fastseg.evaluate("roof", out=tmp_path / name, **common) for name in ("resumed", "whole")
    )
    assert resumed["mean_with_background"] == whole["mean_with_background"]


def test_a_prediction_that_was_interrupted_starts_again_when_the_task_was_edited(
    edit, roofs, tmp_path
):
    options = {"arch": ARCH, "weights": "none", "size": 64, "epochs": 1}
    fastseg.fit("roof", roofs, out=tmp_path / "export", **options)
    common = {"paths": roofs / "images", "export": tmp_path / "export", "bs": 2}
    edit({0: 0, 255: 1}, image=DIES.format("item"))
    with pytest.raises(KeyboardInterrupt):
        fastseg.predict("roof", out=tmp_path / "resumed", **common)
    assert list((tmp_path / "resumed").glob("*.png"))
    edit({0: 0, 255: 1}, output="colours")
    for name in ("resumed", "whole"):
        fastseg.predict("roof", out=tmp_path / name, **common)
    resumed, whole = (
        [path.read_bytes() for path in sorted((tmp_path / name).glob("*.png"))]
        for name in ("resumed", "whole")
    )
    assert resumed == whole


def test_an_interrupted_fit_is_not_resumed_when_the_task_was_edited(
    edit, roofs, tmp_path, monkeypatch
):
    options = {"arch": ARCH, "weights": "none", "size": 64, "epochs": 2, "out": tmp_path / "export"}
    write = checkpoint.write

    def dies(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        fastseg.fit("roof", roofs, **options)
    monkeypatch.setattr(checkpoint, "write", write)
    edit({0: 1, 255: 0})
    with refuses("task-edited"):
        fastseg.fit("roof", roofs, resume=True, **options)
    edit({0: 0, 255: 1})
    fastseg.fit("roof", roofs, resume=True, **options)

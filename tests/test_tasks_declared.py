"""task.toml: what it may declare, errors with line and key, folders in place of names, cards."""

import json
import os
import pickle
import sys
from dataclasses import fields
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from conftest import ARCH, refuses, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.errors import TaskError
from fastseg.tasks import Layout, Recipe
from fastseg.tasks.declared import definition_of, read_task, task_from

EYE = """
classes = ["background", "sclera", "iris", "pupil"]

[[layouts]]
images = "imgs_small"
masks = "masks_small"

[recipe]
size = 64
arch = "test_resnet"
epochs = 1
freeze_epochs = 0
bs = 4
"""
FIELDS = ("classes", "palette", "codes", "ignore", "layouts", "group", "output", "recipe")
FIELDS += ("folders", "table", "columns", "background", "masks", "depth", "channels")


def written(folder: Path, text: str) -> Path:
    """Write a task.toml and return its folder."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def roof(samples, tmp_path):
    """A folder with the eye sample and a task.toml, named roof."""
    return written(copytree(samples["eye"], tmp_path / "roof"), EYE)


@pytest.mark.parametrize("name", tasks.names())
def test_every_built_in_task_survives_its_definition(name):
    task = tasks.get(name)
    definition = json.loads(json.dumps(definition_of(task)))
    again = task_from(definition)
    assert definition_of(again) == definition_of(task)
    for field in FIELDS:
        assert getattr(again, field, None) == getattr(task, field, None), field
    assert again.declared and not task.declared


def test_everything_that_a_file_can_declare(tmp_path):
    folder = written(
        tmp_path / "my roof",
        """
        kind = "segment"
        classes = ["ground", "roof", "panel"]
        palette = ["#282828", [204, 60, 60], "#3C78DC"]
        background = "roof"
        masks = "codes"
        ignore = [11, 255]
        group = 'house\\d+'
        output = "overlay"
        depth = 12

        [codes]
        0 = "ground"
        7 = "roof"
        300 = "panel"

        [[layouts]]
        images = "train/x"
        masks = "train/y"
        split = "train"
        mask_end = "_mask"
        deep = true

        [[layouts]]
        images = "other"
        source = "b"
        codes = { 1 = "roof" }
        ignore = [3]

        [recipe]
        size = [96, 128]
        decoder_options = { encoder_depth = 4 }
        flip = false
        blur_sigma = [0.5, 1]
        """,
    )
    task = tasks.get(folder)
    assert task.name == "my-roof" and task.home == folder and task.default_data == folder
    assert task.palette == ((40, 40, 40), (204, 60, 60), (60, 120, 220)) and task.background == 1
    assert task.codes == {0: 0, 7: 1, 300: 2} and task.ignore == (11, 255)
    assert (task.group, task.output, task.depth) == (r"house\d+", "overlay", 12)
    assert task.layouts == (
        Layout("train/x", "train/y", "train", mask_end="_mask", deep=True),
        Layout("other", "other", source="b", codes={1: 1}, ignore=(3,)),
    )
    assert task.recipe == Recipe(
        (96, 128), decoder_options={"encoder_depth": 4}, flip=False, blur_sigma=(0.5, 1)
    )
    assert task_from(definition_of(task)).layouts == task.layouts
    pickled = pickle.loads(pickle.dumps(task))
    assert definition_of(pickled) == definition_of(task) and pickled.home is None


def test_a_classification_task(tmp_path):
    folder = written(
        tmp_path,
        """
        name = "pets"
        kind = "classify"
        classes = ["cat", "dog"]
        labels = "folders"
        [folders]
        train = "train"
        valid = ["val", "validation"]
        all = "."
        """,
    )
    task = tasks.get(folder / "task.toml")
    assert (task.kind, task.labels) == ("classify", "folders")
    assert task.folders == {"train": ("train",), "valid": ("val", "validation"), None: ("",)}


def test_include_begins_with_a_built_in_task(tmp_path):
    same = tasks.get(written(tmp_path / "a", 'include = "eye"\n[recipe]\nepochs = 3\n'))
    eye = tasks.get("eye")
    assert (same.classes, same.layouts, same.draw) == (eye.classes, eye.layouts, eye.draw)
    assert same.recipe.epochs == 3 and same.recipe.size == eye.recipe.size and same.name == "a"
    other = tasks.get(written(tmp_path / "b", 'include = "kitchen"\nclasses = ["no", "yes"]\n'))
    assert other.codes == {} and len(other.palette) == 2 and other.draw is None


def test_every_field_of_a_recipe_can_be_declared(tmp_path):
    values = definition_of(tasks.get("eye"))["recipe"]
    assert set(values) == {entry.name for entry in fields(Recipe)}
    given = {**values, "tta": True, "cutout": 0.25, "resize": "crop", "opt": "sgd"}
    task = task_from({"classes": ["a", "b"], "recipe": given})
    assert definition_of(task)["recipe"] == given


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("clases = ['a', 'b']", "unknown-key", ["line 1", "clases", "classes"]),
        ("classes = ['a', 'b']\n[recipe]\nepoch = 3", "unknown-key", ["line 3", "epochs"]),
        ("classes = ['a', 'b']\n\n[[layouts]]\nmask = 'm'", "unknown-key", ["line 4", "masks"]),
        (
            "classes = ['a', 'b']\n[[layouts]]\nimages='x'\n[[layouts]]\nsplit='tain'",
            "task-toml",
            ["line 5", "layouts[1].split"],
        ),
        ("classes = ['a', 'b']\n[codes]\n7 = 'c'", "unknown-class", ["line 3", "codes.7"]),
        ("classes = ['a', 'a']", "task-toml", ["line 1", "a"]),
        ("name = 'x'", "task-toml", ["classes"]),
        ("classes = 'ab'", "task-toml", ["line 1", "classes"]),
        ("classes = ['a', 'b']\npalette = ['#000']", "task-toml", ["line 2", "palette"]),
        ("classes = ['a', 'b']\nbackground = 'c'", "unknown-class", ["line 2", "background"]),
        ("classes = ['a', 'b']\n[recipe]\nsize = 8", "task-toml", ["line 3", "size"]),
        ("classes = ['a', 'b']\n[recipe]\nloss = 'dise'", "task-toml", ["line 3", "dice"]),
        ("classes = ['a', 'b']\n[recipe]\nlr = nan", "task-toml", ["line 3", "lr"]),
        ("classes = ['a', 'b']\n[[layouts]]\nimages = '../x'", "task-toml", ["line 3", "../x"]),
        ("classes = ['a', 'b']\n[[layouts]]\nimages = '/x'", "task-toml", ["line 3"]),
        ("classes = ['a', 'b']\nkind = 'detect'", "task-toml", ["line 2", "segment"]),
        ("include = 'eyes'", "unknown-task", ["line 1", "eye"]),
        ("include = 'eye'\nkind = 'classify'", "task-toml", ["line 2", "eye"]),
        ("classes = ['a', 'b']\nignore = [1]", "task-codes", ["task.toml"]),
        ("classes = ['a', 'b']\ngroup = '('", "task-group", ["task.toml"]),
        ("classes = ['a'\nb", "task-toml", ["line 2"]),
        ("name = '../x'\nclasses = ['a', 'b']", "task-toml", ["line 1", "name"]),
        ("classes = ['a', 'b']\nrecipe = 3", "task-toml", ["line 2", "recipe"]),
        ("a = " + "[" * 5000, "task-toml", ["task.toml"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(text, code, values, tmp_path):
    with refuses(code, *values, kind=TaskError):
        read_task(written(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "task.toml").write_bytes(b"\xff\xfe\x00")
    with refuses("task-toml", tmp_path / "task.toml"):
        read_task(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["name", "kind", "classes", "palette", "background", "ignore", "codes", "group", "layouts"]
    + ["recipe", "masks", "include", "folders", "columns", "window", "channels", "output"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, JSON))
def test_a_malicious_definition_is_refused_or_a_task(values):
    try:
        task = task_from({"classes": ["a", "b"], **values})
    except TaskError:
        return
    assert task_from(json.loads(json.dumps(definition_of(task)))).classes == task.classes


@pytest.mark.slow
def test_a_folder_stands_for_a_name(roof, run, tmp_path):
    assert "fit" not in run("check", "roof").err
    shown = json.loads(run("fit", "roof", "--weights", "none", "--json").out)
    assert shown["export"] == "exports/roof"
    card = json.loads((tmp_path / "exports/roof/card.json").read_text())
    assert card["declared"] and card["definition"]["layouts"][0]["images"] == "imgs_small"
    assert not [line for line in json.dumps(card) if str(tmp_path) in line]
    run("evaluate", "roof/task.toml")
    run("predict", "./roof", "roof/imgs_small", "--out", "masks")
    assert len(rows_of("masks/predictions.csv")) == 16
    run("interpret", "roof")
    run("show", "roof", "--out", "seen.png")
    learn = fastseg.learner(roof, weights="none")
    assert learn.record.task.name == "roof"


def test_evaluate_says_where_the_judged_images_are(roof, run, tmp_path):
    """A copy of the folder stands for the task; the images are those of the training."""
    export = tmp_path / "exports/roof"
    fastseg.fit(roof, out=export, arch=ARCH, weights="none", size=64, epochs=1)
    copy = copytree(roof, tmp_path / "copies/roof")
    assert "judged are" not in run("evaluate", "roof").err
    told = run("evaluate", copy, "--export", export).err
    assert f"the images of {roof}" in told and "--data copies/roof" in told
    own = run("evaluate", copy, "--export", export, "--data", copy)
    assert "judged are" not in own.err and "copies/roof" in own.out


def test_the_name_of_a_task_comes_before_a_folder(samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "eye", EYE)
    assert not tasks.get("eye").declared
    assert tasks.get("./eye").declared and tasks.get("./eye").reference == "./eye"


def test_messages_name_the_folder(roof, fails, tmp_path):
    mask = next((roof / "masks_small").iterdir())
    Image.fromarray(np.full((240, 320), 77, np.uint8)).save(mask)
    other = sorted((roof / "masks_small").iterdir())[1]
    Image.fromarray(np.full((240, 320), 78, np.uint8)).save(other)
    fails("fit", "roof", "--weights", "none", code="unknown-codes", values=["fastseg check roof "])


def test_folders_without_a_task(fails, tmp_path):
    (tmp_path / "photos").mkdir()
    fails("fit", "photos", code="no-task-file", values=["photos", "fastseg new photos"])
    fails("fit", "no/such", code="no-task-file", values=["no/such"])
    fails("fit", "rof", code="unknown-task")


@pytest.mark.slow
def test_an_export_travels_alone(roof, run, run_lines, tmp_path):
    run("fit", "roof", "--weights", "none")
    away = tmp_path / "away"
    copytree(tmp_path / "exports/roof", away / "roof")
    copytree(roof / "imgs_small", away / "photos")
    data = copytree(roof, tmp_path / "elsewhere")
    for path in (roof, tmp_path / "exports"):
        path.rename(path.with_name(f"{path.name}_hidden"))
    (away / "home").mkdir()

    photo = sorted((away / "photos").iterdir())[0]
    # Where nothing but Python is known
    said = run_lines(
        ["predict", "roof", photo, "--export", "roof/export.pkl", "--out", "pickled.png"],
        ["predict", "roof", "photos"],
        ["segment", photo, "--export", "roof"],
        ["evaluate", "roof", "--data", data],
        ["interpret", "roof", "--data", data, "--out", "report"],
        ["evaluate", "roof", "--json"],
        codes=[0, 0, 0, 0, 0, 1],
        folder=away,
        alone=True,
        HOME=str(away / "home"),
        PYTHONPATH=os.pathsep.join(sys.path),
        OMP_NUM_THREADS="1",
    )
    codes = np.asarray(Image.open(away / f"photos_inf_masks/{photo.stem}.png"))
    assert (fastseg.load(away / "roof").predict(photo).codes == codes).all()
    assert "no-" not in said[3] and (away / "report/report.html").is_file()
    assert '"data-moved"' in said[5]
    with refuses("not-data", away / "roof"):
        tasks.get(away / "roof")


@pytest.mark.slow
def test_a_python_task_travels_without_its_file(samples, tmp_path, run_process):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/hand.py").write_text(
        "from fastseg.tasks import Layout, Recipe, SegmentationTask\n"
        "task = SegmentationTask(name='hand', classes=('a', 'b', 'c', 'd'),"
        " palette=((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)),"
        " layouts=(Layout('imgs_small', 'masks_small'),),"
        f" recipe=Recipe(size=(64, 64), arch='{ARCH}', epochs=1))\n"
    )
    images = samples["eye"] / "imgs_small"
    with_file = {"FASTSEG_TASKS": str(tmp_path / "mine")}
    run_process("fit", "hand", "--data", samples["eye"], "--weights", "none", **with_file)
    run_process("predict", "exports/hand", images, "--out", "masks")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 16


def test_an_export_of_changed_classes_is_refused(roof, run, fails, tmp_path):
    run("fit", "roof", "--weights", "none")
    text = (roof / "task.toml").read_text()
    (roof / "task.toml").write_text(text.replace('"sclera"', '"white"'))
    result = run("predict", "roof", "roof/imgs_small", error="task-changed")
    assert "white" in result.message


def test_a_damaged_definition_in_a_card_is_refused(roof, run, tmp_path):
    run("fit", "roof", "--weights", "none")
    path = tmp_path / "exports/roof/card.json"
    card = json.loads(path.read_text())
    for wrong in (None, {}, {"classes": ["a"]}, {**card["definition"], "colour": 1}):
        path.write_text(json.dumps({**card, "definition": wrong}))
        run("predict", "exports/roof", "roof/imgs_small", code=1)
    path.write_text(json.dumps({**card, "definition": [1]}))
    run("predict", "exports/roof", "roof/imgs_small", error="damaged-card")


def test_a_folder_is_named_as_it_is_typed(samples, run, tmp_path):
    for name, typed in (("eye", "./eye"), ("my data", "'my data'")):
        copytree(samples["eye"], tmp_path / name)
        assert f"fastseg fit {typed}\n" in run("new", name, "--yes").out
        assert f"fastseg fit {typed})" in run("new", name, error="task-file-exists").message
        assert tasks.get(Path(name)).reference == typed

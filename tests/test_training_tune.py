"""tune: its search never sees the held-out images; comparison, files, resuming, what it refuses."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, refuses, rows_of, size_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.engines.local import LocalEngine
from fastseg.training import asked, loop
from fastseg.training.trials import InnerSplit, Trial, Trials
from fastseg.training.work import SentTask
from fastseg.utils.locks import write_lock

TINY = dict(arch=ARCH, weights="none", size=64, epochs=1)
TINY_WORDS = ["--vary", f"arch={ARCH}", "--weights", "none", "--size", "64", "--epochs", "1"]

TASK_TOML = """# Bright squares
name = "squares"
classes = ["ground", "square"]
masks = "codes"

# How it is trained
[recipe]
size = [64, 64]  # as they are
# this rate is far too small
lr = 1e-6  # to be corrected
arch = "test_resnet"
loss = "ce"
epochs = 5
bs = 4
"""


@pytest.fixture
def squares(tmp_path):
    """Images of a bright square, with a task.toml whose learning rate learns nothing."""
    rng, folder = np.random.default_rng(0), tmp_path / "squares"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(20):
        image, codes = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), "uint8")
        top, left = rng.integers(2, 30, 2)
        image[top : top + 30, left : left + 30] += 180
        codes[top : top + 30, left : left + 30] = 1
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(codes).save(folder / "masks" / f"{number}.png")
    (folder / "task.toml").write_text(TASK_TOML)
    return folder


@pytest.mark.slow
@pytest.mark.full_pictures
def test_tune_finds_compares_writes_and_resumes(squares, run, monkeypatch):
    seen, train = [], loop.train
    monkeypatch.setattr(loop, "train", lambda learn, *args: train(_noted(seen, learn), *args))
    words = ["tune", "squares", "--vary", "lr=1e-6,3e-2", "--vary", "rotate=0,20"]
    words += ["--weights", "none", "--seeds", "1"]
    found = json.loads(run(*words, "--trials", "3", "--write", "--json").out)

    folder = Path("exports/squares_tune")
    parts = json.loads((folder / "parts.json").read_text())
    learn, judge, held_out = (set(parts[part]) for part in ("learn", "judge", "valid"))
    assert learn and judge and held_out and len(learn | judge | held_out) == 20
    searching, comparing = seen[:3], seen[3:]
    assert all(one == (learn, judge) for one in searching)  # the search saw no held-out image
    assert all(one == (learn | judge, held_out) for one in comparing) and len(comparing) == 2
    cards = list(folder.glob("final/*/*/card.json"))
    assert len(cards) == 2
    assert all({*json.loads(card.read_text())["valid_files"]} == held_out for card in cards)

    assert found["is_better"] and found["held_out"]["interval"][0] > 0
    assert found["held_out"]["images"] == len(held_out) and found["search"]["recipe"] is not None
    rows = rows_of(folder / "trials.csv")
    assert [row["recipe"] for row in rows] == ["True", "False", "False"]
    assert all(float(row["seconds"]) > 0 for row in rows if row["state"] == "complete")
    assert not list(folder.glob("trial*/")) and all(Path(file).is_file() for file in found["files"])
    assert size_of(folder / "importance.png")[0] > 800 < size_of(folder / "parallel.png")[0]

    text = Path("squares/task.toml").read_text()
    for kept in ("# Bright squares", "# this rate is far too small", "# to be corrected"):
        assert kept in text
    recipe = tasks.get("squares").recipe
    assert recipe.lr == found["best"]["lr"] > 1e-6 and recipe.rotate == found["best"]["rotate"]
    assert recipe.epochs == 5 and f"--lr {recipe.lr}" in found["command"]

    # It was searched around another recipe.
    run(*words, "--trials", "3", error="search-changed")
    Path("squares/task.toml").write_text(TASK_TOML)
    seen.clear()
    again = json.loads(run(*words, "--trials", "3", "--json").out)
    assert not seen and again["trials"] == found["trials"] and again["written"] is None


def _noted(seen, learn):
    seen.append(
        tuple(
            {item.image.relative_to(item.image.parents[1]).as_posix() for item in part.items}
            for part in (learn.dls.train_ds, learn.dls.valid_ds)
        )
    )
    return learn


@pytest.mark.slow
def test_an_interrupted_search_goes_on(samples, tmp_path, monkeypatch):
    begun, real = [], Trials.start

    def start(self):
        work = real(self)

        def run(trial):
            begun.append(trial.setting)
            if len(begun) == 2:
                raise KeyboardInterrupt  # the trial has no outcome, as after kill -9
            return work(trial)

        return run

    monkeypatch.setattr(Trials, "start", start)
    options = dict(vary={"lr": [1e-3, 2e-3, 1e30]}, seeds=1, out=tmp_path / "t", **TINY)
    with pytest.raises(KeyboardInterrupt):
        fastseg.tune("eye", samples["eye"], trials=4, **options)
    found = fastseg.tune("eye", samples["eye"], trials=5, **options)
    assert begun[1] == begun[2]  # the interrupted trial starts again
    assert len(found.trials) == 5 and len(begun) <= 1 + 3  # equal settings are trained once
    failed = [row for row in found.trials if row["lr"] == 1e30]
    assert all(row["state"] == "failed" and row["problem"] for row in failed)
    connection = sqlite3.connect(tmp_path / "t" / "tune.db")
    assert connection.execute("select count(*) from trials").fetchone()[0] == 6
    connection.close()


@pytest.fixture(scope="module")
def trials(samples):
    """The function of a worker that runs one trial of eye."""
    sent = SentTask.to(LocalEngine(), tasks.get("eye"))
    return Trials(sent, str(samples["eye"]), {**TINY, "epochs": 4}, 42).start()


@pytest.mark.slow
def test_trials_end_early_for_a_reason(trials):
    good = [[0.99] * 4] * 3
    outcome = trials(Trial(0, {"lr": 1e-3}, good))
    assert (outcome.state, outcome.value, len(outcome.course)) == ("pruned", None, 3)
    outcome = trials(Trial(1, {"lr": 1e-3}, good, is_pruned=False))
    assert outcome.state == "complete" and 0 <= outcome.value <= 1 and len(outcome.course) == 4
    outcome = trials(Trial(2, {"lr": 1e-3}, [], seconds=0.01))
    assert (outcome.state, len(outcome.course)) == ("time", 1) and outcome.needed > 0.01
    outcome = trials(Trial(3, {"lr": 1e30}))
    assert outcome.state == "failed" and outcome.problem


@pytest.mark.parametrize("name", tasks.names())
def test_held_out_images_are_in_no_part_of_the_search(samples, name):
    task = tasks.get(name)
    items = task.items(samples[name])
    learn, judge, held_out = InnerSplit(task, 7).parts(items)
    train, valid = task.split(items, 7)
    assert held_out == valid and sorted([*learn, *judge]) == sorted(train)
    assert learn and judge and InnerSplit(task, 7)(items) == (learn, judge)
    groups = [{items[i].group for i in part} for part in (learn, judge)]
    assert not groups[0] & groups[1]


def test_tune_refuses_in_one_line(samples, run, tmp_path, monkeypatch):
    common = ["tune", "eye", "--data", samples["eye"], *TINY_WORDS]
    for words, code in (
        (["--trials", "0"], "option-range"),
        (["--seeds", "0"], "no-seeds"),
        (["--vary", "lrr=1,2"], "unknown-option-to-search"),
        (["--vary", "epochs=1,2"], "unknown-option-to-search"),
        (["--vary", "lr=0,1"], "learning-rate"),
        (["--vary", "loss=ce,nope"], "unknown-loss"),
        (["--vary", "bs=4,4"], "nothing-varies"),
        (["--vary", "time_budget=9"], "vary-budget"),
        (["--workers", "0"], "option-range"),
        (["--write"], "no-task-file"),
        (["--time-budget", "5s"], "time-budget"),
    ):
        run(*common, *words, error=code)
    run(*common, "--force", code=2)
    run(*common, "--vary", "lr=1,2", "--vary", "lr=3,4", code=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("")
    run(*common, "--out", other, error="not-a-search")
    with write_lock(other):
        run(*common, "--out", other, error="busy")
    (tmp_path / "exports/eye_tune/tune.db").write_bytes(b"no database at all" * 100)
    run(*common, error="damaged-search")
    run(*common, "--seed", "1", error="search-changed")
    run(*common, "--vary", "lr=1e-4,1e-3", error="search-changed")
    monkeypatch.setattr("fastseg.training.database.find_spec", lambda name: None)
    run(*common, error="no-optuna")


def test_the_space_is_around_the_recipe():
    from fastseg.training.space import Choice, default_space, params_of, setting_of

    eye, mri = tasks.get("eye"), tasks.get("mri")
    space = default_space(eye, eye.recipe, "auto", {})
    assert {"arch", "size", "lr", "loss", "rotate", "cutout"} <= set(space)
    own = params_of(eye.recipe, space)
    assert own is not None
    assert all(getattr(eye.recipe, name) == value for name, value in setting_of(own, space).items())
    assert isinstance(space["size"], Choice) and len(space["size"].values) == 4
    assert all(
        height % 32 == 0 or (height, width) == eye.recipe.size
        for height, width in space["size"].values
    )
    # Resampling and light would change the label of mri; masks have a loss, weights a backbone.
    assert set(default_space(mri, mri.recipe, "auto", {})) == {"arch", "lr", "cutout"}
    assert "arch" not in default_space(eye, eye.recipe, "weights.pth", {})
    assert "size" not in default_space(eye, eye.recipe, "auto", {"size": [64, 64]})


def test_weights_are_for_all_backbones_or_for_none(samples, tmp_path, monkeypatch):
    from fastseg.models import weights

    def settled(have, **options):
        monkeypatch.setattr(weights, "fetched", lambda archs: {*archs} & {*have})
        given = asked.asked_for(tasks.get("eye"), samples["eye"], {}, 42, options)
        return asked._weights(given, False)

    assert settled(["mobilenetv2_100", "resnet18"]) == ("imagenet", ["mobilenetv2_100", "resnet18"])
    weights_of_all, archs = settled(["resnet18"])
    assert weights_of_all == "none" and "resnet34" in archs
    assert settled([], weights="none")[0] == "none"
    with refuses("not-fetched", "resnet34"):
        settled(["mobilenetv2_100"], weights="imagenet")


def test_a_recipe_is_written_wherever_it_stands(tmp_path):
    from fastseg.training.recipe_file import write_recipe

    file = tmp_path / "task.toml"
    for text in (
        'classes = ["a", "b"]\n',
        'classes = ["a", "b"]\r\n[recipe]\r\nlr = 1.0\r\n',
        'classes = ["a", "b"]\nrecipe = {lr = 1.0, bs = 2}\n',
        'recipe.lr = 1.0 # a comment\nclasses = ["a", "b"]\n',
        '\ufeffclasses = ["a", "b"]\n# last line\n',
    ):
        file.write_bytes(text.encode())
        write_recipe(file, {"lr": 0.25, "size": (64, 96), "loss": "ce"})
        recipe = tasks.get(tmp_path).recipe
        assert (recipe.lr, recipe.size, recipe.loss) == (0.25, (64, 96), "ce")
        written = file.read_bytes().decode()
        assert ("# a comment" in text) <= ("# a comment" in written)
        assert ("# last line" in text) <= ("# last line" in written)
        assert ("\r\n" in text) <= ("\r\n" in written)

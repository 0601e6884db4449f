"""Each option of a fit is defined once; everything else is derived from the definition."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH

import fastseg
from fastseg.errors import FastsegError, ModelError
from fastseg.learners.options import LEARNER_OPTIONS, OPTIONS, FitOptions
from fastseg.training.resume import FitRun, _check_same_options
from fastseg.training.study import VARIABLE, _check_values

OTHER = {  # a value of each option that is not its default
    **dict(arch="resnet18", decoder="unet", weights="none", epochs=3, lr="auto", freeze_epochs=2),
    **dict(time_budget=60.0, folds=3, ema=0.9, windows=0.5, progressive=0.5, mixup=0.2),
    **dict(patience=2, size=(64, 96), bs="auto", loss="ce", opt="sgd", seed=1, device="cpu"),
    **dict(precision="float32", cache=2**20, split_seed=1, freeze=True),
    **dict(unlabelled=str(Path(__file__).parents[1] / ".github" / "docs")),  # it has pictures
    **dict(track="tensorboard"),
    **dict(flip=False, rotate=5.0, zoom=0.1, light=0.1, colour=0.1, cutout=0.1),
}


def test_each_option_is_known_to_the_command_line(run):
    told = run("fit", "--help").out
    for option in OPTIONS.values():
        assert re.search(rf"^  {option.flag} ", told, re.MULTILINE), option.flag
        first = option.help.split()[0]
        assert re.search(rf"^  {option.flag} [^\n]*\n?[^\n]*\b{re.escape(first)}", told, re.M)


def test_each_option_is_a_parameter_of_fit_and_learner():
    for function, names in ((fastseg.fit, OPTIONS), (fastseg.learner, LEARNER_OPTIONS)):
        parameters = inspect.signature(function).parameters
        for name in names:
            assert parameters[name].default == OPTIONS[name].default
            assert f"\n    {name}: " in inspect.getdoc(function)
        with pytest.raises(TypeError, match="epoch"):
            function("eye", epoch=3)
    assert set(inspect.signature(fastseg.fit).parameters) - set(OPTIONS) == {
        "task",
        "data",
        "again",
        "strict",
        "pins",
        "out",
        "resume",
        "processes",
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_known_to_study_and_to_an_interrupted_fit(name, tmp_path):
    options = FitOptions(**{name: OTHER[name]})
    options.check()
    assert (name in VARIABLE) == (name not in ("seed", "split_seed", "folds", "track"))
    _check_values([{name: OTHER[name]}] if name != "arch" else [{}])
    assert set(options.to_json()) == {name}
    assert FitOptions.from_json(options.to_json()) == options
    before = FitRun(tmp_path, tmp_path, FitOptions())
    with pytest.raises(ModelError) as caught:
        _check_same_options(before, None, options)
    assert caught.value.code == "resume-options" and OPTIONS[name].flag in str(caught.value)
    _check_same_options(FitRun(tmp_path, tmp_path, options), None, FitOptions())


@pytest.mark.parametrize(
    "name,value",
    [
        ("epochs", -1),
        ("epochs", 1.5),
        ("patience", True),
        ("bs", 0),
        ("bs", "many"),
        ("seed", 2**32),
        ("folds", 1),
        ("folds", 101),
        ("ema", 1.0),
        ("windows", "half"),
        ("lr", 0),
        ("lr", "fast"),
        ("loss", "ce+ce"),
        ("opt", 3),
        ("decoder", "unett"),
        ("size", (16, 64)),
        ("size", 64.5),
        ("time_budget", 0),
        ("weights", "gone.pth"),
        ("precision", "float12"),
        ("flip", 1),
        ("rotate", 181),
        ("zoom", "a lot"),
    ],
)
def test_values_that_an_option_cannot_have_are_refused_early(name, value):
    with pytest.raises(FastsegError):
        FitOptions(**{name: value}).check()
    with pytest.raises(FastsegError):
        _check_values([{name: value}])


def test_equal_options_are_equal_however_they_are_given():
    given = FitOptions(size=[64, 64], weights=Path("none"), epochs=np.int64(3), ema=np.float32(0.5))
    assert given == FitOptions(size=64, weights="none", epochs=3, ema=0.5)
    assert json.loads(json.dumps(given.to_json()))["size"] == [64, 64]


def test_options_take_the_place_of_the_recipe():
    task = fastseg.tasks.get("eye")
    assert FitOptions().recipe(task) == task.recipe
    given = FitOptions(size=64, epochs=2, lr="3e-3", decoder="unet").recipe(task)
    assert (given.size, given.epochs, given.lr) == ((64, 64), 2, 3e-3)
    assert (given.decoder, given.decoder_options) == ("unet", {})
    assert given.freeze_epochs == task.recipe.freeze_epochs


def test_augmentation_and_the_seed_of_the_split_are_options(samples):
    from fastseg.data.augment import Augment

    small = dict(arch=ARCH, weights="none", size=64, bs=4, rotate=33.0, flip=False)
    learn = fastseg.learner("eye", samples["eye"], seed=1, split_seed=7, **small)
    augment = next(t for t in learn.dls.train.after_batch.fs if isinstance(t, Augment))
    assert (augment.rotate, augment.flip, augment.light) == (33.0, False, 0.2)
    other = fastseg.learner("eye", samples["eye"], seed=7, **small)
    held_out = [[item.image for item in one.dls.valid_ds.items] for one in (learn, other)]
    assert held_out[0] == held_out[1]
    assert not (next(learn.model.parameters()) == next(other.model.parameters())).all()

"""fit --unlabelled: images without labels, and what a training takes from them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ARCH, PulledPlug, refuses
from PIL import Image, ImageOps
from safetensors.torch import load_file

import fastseg
from fastseg import tasks
from fastseg.data.unlabelled import unlabelled_in
from fastseg.learners.options import FitOptions
from fastseg.tasks import Item
from fastseg.training import consistency
from fastseg.training.loop import train

SMALL = dict(arch=ARCH, weights="none", size=64, bs=4, epochs=2)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Images of the eye task that are not those of its sample, without their masks."""
    data = tasks.get("eye").sample(tmp_path_factory.mktemp("others"), n=6, seed=11)
    return data / "imgs_small"


def test_copies_of_images_of_the_data_and_unreadable_files_are_left_out(
    samples, others, tmp_path, caplog
):
    """As they are, saved again, mirrored and turned; the others are used."""
    task = tasks.get("eye")
    items = task.items(samples["eye"])
    folder = tmp_path / "photos"
    shutil.copytree(others, folder)
    with Image.open(items[0].image) as picture:
        picture.save(folder / "again.png")
        picture.save(folder / "small.jpg", quality=60)
        ImageOps.mirror(picture).save(folder / "mirrored.png")
        picture.rotate(90, expand=True).save(folder / "turned.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    with caplog.at_level("INFO"):
        found = unlabelled_in(folder, items, [], task.reading)
        found.tell(folder)
    assert (len(found.items), found.copies, found.unreadable) == (6, 4, 1)
    assert {item.image for item in found.items} == {folder / p.name for p in others.iterdir()}
    assert "6 images without labels" in caplog.text and "4 that look" in caplog.text


def test_masks_are_not_learned_from_as_images(samples, tmp_path):
    """Those of folders that are laid out as labelled data, and the data's own."""
    tasks.get("eye").sample(tmp_path / "more", n=6, seed=5)
    tasks.get("eye").sample(tmp_path / "more/deep/er", n=4, seed=6)
    shutil.copytree(samples["eye"], tmp_path / "eye")
    fastseg.fit(
        "eye", tmp_path / "eye", out=tmp_path / "one", unlabelled=tmp_path / "more", **SMALL
    )
    card = json.loads((tmp_path / "one/card.json").read_text())
    assert card["training"]["unlabelled"] == 10
    with refuses("unlabelled-left-out", "16 are masks"):  # its images are copies of themselves
        fastseg.fit(
            "eye", tmp_path / "eye", out=tmp_path / "two", unlabelled=tmp_path / "eye", **SMALL
        )


def test_masks_beside_photographs_are_known_by_their_few_colours(samples, others, tmp_path):
    """Whatever the folders are called: codes, colours, palettes and 16 bits, but no JPEG."""
    task = tasks.get("eye")
    folder = shutil.copytree(others, tmp_path / "photos")
    masks = tmp_path / "photos/annotations"
    masks.mkdir()
    codes = np.random.default_rng(0).integers(0, 20, (48, 64)).astype(np.uint8)
    for name, picture in {
        "codes.png": Image.fromarray(codes),
        "colours.bmp": Image.fromarray(np.stack([codes * 9, 255 - codes, codes], -1)),
        "palette.png": Image.fromarray(codes).convert("P"),
        "deep.png": Image.fromarray(codes.astype(np.uint16) * 1000),
        "two.tif": Image.fromarray(codes > 9),
    }.items():
        picture.save(masks / name)
    items = task.items(samples["eye"])
    found = unlabelled_in(folder, items, [], task.reading)
    assert (len(found.items), found.labels) == (6, 5)
    scans = [Item(image=masks / "two.tif", label=0), *items]  # of two colours themselves
    found = unlabelled_in(folder, scans, [], task.reading)
    assert found.labels == 0 and len(found.items) > 6


@pytest.mark.parametrize("held", ["nothing", "copies", "no folder"])
def test_a_folder_without_a_usable_image_is_refused(held, samples, fails, tmp_path):
    folder = tmp_path / "photos"
    if held != "no folder":
        folder.mkdir()
    if held == "copies":
        image = tasks.get("eye").items(samples["eye"])[0].image
        shutil.copy(image, folder / "one.jpg")
    options = ["--arch", ARCH, "--weights", "none", "--size", "64", "--epochs", "1"]
    command = ["fit", "eye", "--data", samples["eye"], *options, "--unlabelled", folder]
    code = "unlabelled-left-out" if held == "copies" else "unlabelled-folder"
    fails(*command, code=code, values=[folder])


@pytest.mark.parametrize(
    "name, options, code",
    [
        ("mri", {}, "unlabelled-classes"),
        ("eye", dict(ema=0.0), "unlabelled-ema"),
        ("eye", dict(mixup=0.2), "unlabelled-option"),
        ("eye", dict(freeze=True), "freeze-random"),
        ("eye", dict(processes=2), "unlabelled-processes"),
        ("eye", dict(time_budget=60, epochs=None), "unlabelled-option"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, code, samples, others, tmp_path):
    with refuses(code):
        chosen = {**SMALL, **options}
        fastseg.fit(name, samples[name], out=tmp_path / "out", unlabelled=others, **chosen)


@pytest.mark.parametrize(
    "name, options",
    [
        ("eye", {}),
        pytest.param("face", dict(windows=0.5, progressive=0.0), marks=pytest.mark.slow),
        pytest.param("eye", dict(progressive=0.5), marks=pytest.mark.slow),
    ],
)
def test_a_fit_learns_from_them_and_draws_the_same_again(
    name, options, samples, others, tmp_path, caplog
):
    """Two fits give the same weights, others than without these images; the card has the count."""
    chosen = {**SMALL, **options}
    for out in ("one", "two"):
        fastseg.fit(name, samples[name], out=tmp_path / out, unlabelled=others, **chosen)
    fastseg.fit(name, samples[name], out=tmp_path / "plain", ema=0.99, **chosen)
    one, two, plain = (
        load_file(tmp_path / out / "model.safetensors") for out in ("one", "two", "plain")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], plain[key]) for key in one)
    assert re.search(r"\d+ steps are few .* give --epochs \d+, for 670 steps", caplog.text)
    training = json.loads((tmp_path / "one/card.json").read_text())["training"]
    assert training["unlabelled"] == 6 and training["ema"] == 0.99


def test_pseudo_labels_are_what_the_average_sees_and_count_as_labels_do(
    samples, others, monkeypatch
):
    """They are the classes of the averaged network; their loss is added to that of the labels."""
    seen, added, wanted = [], [], []
    original = consistency.Consistency.pseudo_labels
    own_loss = consistency.Consistency.after_loss

    def kept(self, weak):
        codes = original(self, weak)
        average = {k: v.clone() for k, v in self.teacher.average.items()}
        seen.append((self._normal(weak), codes, average))
        return codes

    def after_loss(self):
        weight = min(1.0, 2 * self.learn.train_iter / (self.n_epoch * self.n_iter))
        wanted.append(weight * self.learn.loss_func(self.logits, self.codes).item())
        own_loss(self)
        added.append((self.learn.loss_grad - self.learn.loss).item())

    monkeypatch.setattr(consistency.Consistency, "pseudo_labels", kept)
    monkeypatch.setattr(consistency.Consistency, "after_loss", after_loss)
    learn = fastseg.learner(
        "eye", samples["eye"], **{k: v for k, v in SMALL.items() if k != "epochs"}
    )
    train(learn, FitOptions(**SMALL, unlabelled=str(others)))
    assert len(seen) > 2
    normal, codes, average = seen[-1]
    learn.model.load_state_dict(average)
    with torch.no_grad():
        assert torch.equal(codes, learn.model.eval()(normal).argmax(1))
    assert added == pytest.approx(wanted, rel=1e-3) and added[0] == 0 < added[-1]


def test_pasted_rectangles_bring_their_codes():
    """Image and codes come from the same partner, pixel by pixel."""
    images = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 3, 32, 48).contiguous()
    codes = torch.arange(16).view(16, 1, 1).expand(16, 32, 48).contiguous()
    mixed, labels = consistency._pasted(images, codes, np.random.default_rng(1))
    assert torch.equal(mixed[:, 0].long(), labels)
    changed = (labels != codes).float().mean((1, 2))
    assert changed.any() and float(changed.max()) <= 0.45


@pytest.mark.slow
def test_an_interrupted_fit_ends_as_an_uninterrupted_one(samples, others, tmp_path, plug):
    photos = shutil.copytree(others, tmp_path / "photos")
    chosen = dict(**SMALL, unlabelled=photos)
    fastseg.fit("eye", samples["eye"], out=tmp_path / "whole", **chosen)
    restore = plug(1)
    with pytest.raises(PulledPlug):
        fastseg.fit("eye", samples["eye"], out=tmp_path / "half", **chosen)
    restore()
    shutil.copy(next(photos.iterdir()), tmp_path / "photos/more.png")
    with refuses("data-changed", str(photos)):
        fastseg.fit("eye", out=tmp_path / "half", resume=True)
    (photos / "more.png").unlink()
    fastseg.fit("eye", out=tmp_path / "half", resume=True)
    whole, half = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


@pytest.mark.slow
def test_it_goes_with_folds_and_from_an_export(samples, others, tmp_path):
    """Each fold leaves copies of its own images out; training goes on with other options."""
    short = {**SMALL, "epochs": 1}
    out = tmp_path / "out"
    made = fastseg.fit("eye", samples["eye"], out=out, unlabelled=others, folds=2, **short)
    assert made["metrics"]["images"] == 16
    shutil.rmtree(out)
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    fastseg.fit("eye", data, out=out, **short)
    made = fastseg.fit(again=out, unlabelled=others, epochs=1)
    assert json.loads((out / "card.json").read_text())["training"]["unlabelled"] == 6
    assert "again" in made

"""`--freeze`: the head alone is trained over features that the backbone computes once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from conftest import ARCH, PulledPlug, refuses
from safetensors.torch import load_file, save_file

import fastseg
from fastseg.exports.card import PROGRESS, work_of
from fastseg.learners.options import FitOptions
from fastseg.models.factory import segmenter
from fastseg.models.frozen import KeptMaps, maps_kept
from fastseg.training import loop

PLAIN = dict(flip=False, rotate=0.0, zoom=0.0, light=0.0)  # no augmentation


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Options of a tiny network with weights from a file, as if they were pretrained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model(ARCH).state_dict(), file)
    return dict(arch=ARCH, weights=str(file), size=64, bs=4)


@pytest.fixture
def made(monkeypatch):
    """All `KeptMaps` of a test, in order."""
    found, begin = [], KeptMaps.__init__

    def kept(self, *given):
        begin(self, *given)
        found.append(self)

    monkeypatch.setattr(KeptMaps, "__init__", kept)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_training_over_cached_features_is_the_same_bit_for_bit(
    name, samples, small, made, monkeypatch
):
    """Whether all, some, or none are kept; what is not the head stays as it is."""
    monkeypatch.setattr(loop, "VIEWS", 2)
    learn = fastseg.learner(name, samples[name], **small)
    before = {key: value.clone() for key, value in learn.model.state_dict().items()}
    train, valid = len(learn.dls.train_ds), len(learn.dls.valid_ds)
    decoded, states = (train + valid) * 64 * 64 * 4, []
    for share in (1, 0.5, 0):
        room = decoded + int(share * made[0].bytes) if made and share else 0
        options = {**small, "cache": room if made else None}
        learn = fastseg.learner(name, samples[name], **options)
        loop.train(learn, FitOptions(freeze=True, epochs=loop.VIEWS + 1, **options))
        states.append(learn.model.state_dict())
    assert same(states[0], states[1]) and same(states[0], states[2])
    whole, some, nothing = made
    views = train * loop.VIEWS + valid
    assert whole.computed == len(whole.kept) <= views
    assert whole.computed == views or name == "mri"  # which is only mirrored: views can be equal
    assert 0 < len(some.kept) < len(whole.kept) and some.bytes <= some.budget
    steps = sum(map(len, learn.dls.loaders))
    assert not nothing.kept and nothing.computed > (steps - 2) * 4 * loop.VIEWS
    assert learn.train_bn and "forward" not in vars(learn.model.body)
    body = {value.data_ptr() for value in learn.model.body.state_dict().values()}
    changed = {key for key in before if not torch.equal(before[key], states[2][key])}
    assert changed and not [key for key in changed if states[2][key].data_ptr() in body]
    assert any("running_mean" in key for key in before.keys() - changed)


@pytest.mark.parametrize("arch", [ARCH, "test_vit"])
def test_features_that_the_head_does_not_read_are_not_kept(arch):
    torch.manual_seed(0)
    network, _ = segmenter(arch, 4, "light", size=(64, 96))
    x = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        plain = torch.cat([network.eval()(one) for one in x.split(1)])
        with frozen_maps(network, 10**9) as maps:
            first, again = network(x), network(x.flip(0)).flip(0)
            twice = network(x[:1])
        assert torch.equal(network(x[:1]), plain[:1])  # the network is itself again
    assert torch.allclose(first, plain, atol=1e-5) and torch.equal(first, again)
    assert torch.allclose(twice, plain[:1], atol=1e-5) and maps.computed == 3
    if arch == ARCH:  # the image itself, and the map at half of its size
        assert maps.is_used == [False, False, True, True, True, True]
        assert maps.bytes < 3 * 64 * 96 * 4 * (64 / 16 + 1)


def frozen_maps(network, budget):
    for parameter in network.body.parameters():
        parameter.requires_grad_(False)
    return maps_kept(network, (64, 96), budget)


def test_without_augmentation_an_image_has_one_view(samples, small, made):
    learn = fastseg.learner("eye", samples["eye"], **small, **PLAIN)
    loop.train(learn, FitOptions(freeze=True, epochs=3, **small, **PLAIN))
    assert made[0].computed == len(learn.dls.train_ds) + len(learn.dls.valid_ds)


@pytest.mark.slow
def test_a_frozen_fit_is_resumed_and_its_export_is_like_any_other(samples, small, tmp_path, plug):
    data, out = samples["eye"], tmp_path / "half"
    options = dict(**small, freeze=True, epochs=2)
    learn = fastseg.learner("eye", data, **small)
    loop.train(learn, FitOptions(**options))
    restore = plug(1)
    with pytest.raises(PulledPlug):
        fastseg.fit("eye", data, **options, out=out)
    restore()
    told = json.loads((work_of(out) / "learner_0" / PROGRESS).read_text())
    assert (told["epochs"], told["later_epochs"], told["head_only"]) == (2, 0, False)
    fastseg.fit("eye", out=out, resume=True)
    assert same(load_file(out / "model.safetensors"), learn.model.state_dict())
    training = json.loads((out / "card.json").read_text())["training"]
    assert training["freeze"] and not training["freeze_epochs"] and training["trained_epochs"] == 2
    exports = out, out / "export.pkl"
    plain = dict(runtime="torch", precision="float32", trust=True)
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    safe, pickled = (fastseg.load(export, "cpu", **plain).logits(batch) for export in exports)
    quick = fastseg.load(out, "cpu", runtime="onnx").logits(batch)
    assert np.allclose(safe, pickled, atol=1e-5) and np.allclose(safe, quick, atol=1e-3)


@pytest.mark.slow
def test_other_options_go_with_a_frozen_backbone(samples, small, tmp_path, caplog):
    """The range test, averages, windows, early stops, small images, an export to train on."""
    data = samples["eye"]
    learn = fastseg.learner("eye", data, **small)
    body = {key: value.clone() for key, value in learn.model.body.state_dict().items()}
    course = FitOptions(**small, freeze=True, epochs=2, lr="auto", ema=0.9, windows=0.5, patience=2)
    with caplog.at_level("INFO", "fastseg"):
        loop.train(learn, course)
    assert "the backbone is frozen; the head alone trains over cached features" in caplog.text
    assert same(body, learn.model.body.state_dict())
    fastseg.save(learn, tmp_path / "a")
    options = dict(weights=str(tmp_path / "a"), bs=4)
    again = fastseg.learner("eye", data, **options)
    loop.train(again, FitOptions(**options, freeze=True, epochs=1, progressive=1.0))
    assert same(body, again.model.body.state_dict())
    assert not same(again.model.state_dict(), learn.model.state_dict())


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--weights", "none"], "freeze-random", "--weights"),
        (["--freeze-epochs", "2"], "freeze-epochs", "--freeze-epochs 2"),
        (["--time-budget", "5m"], "freeze-budget", "--time-budget"),
        (["--mixup", "0.2"], "freeze-mixup", "--mixup 0.2"),
    ],
)
def test_what_cannot_go_with_it_is_refused(options, code, named, samples, fails):
    fails("fit", "eye", "--data", samples["eye"], "--freeze", *options, code=code, values=[named])


def test_weights_out_of_reach_and_other_decoders_are_refused(samples, tmp_path):
    small = dict(arch="resnet18", size=64, bs=4, epochs=1, freeze=True, out=tmp_path / "a")
    with refuses("freeze-random", "--weights"):
        fastseg.fit("eye", samples["eye"], **small)
    network, _ = segmenter("resnet18", 4, "fastai", size=(64, 64))
    with refuses("freeze-decoder", "fastai"), frozen_maps(network, 0):
        pass
    assert not (tmp_path / "a").exists()

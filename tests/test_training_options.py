"""fastseg's own options of a fit: averages, windows, budgets, folds, views, cached pixels."""

from __future__ import annotations

import json
import math
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import ARCH, refuses
from fastai.callback.core import Callback

import fastseg
from fastseg import tasks
from fastseg.data.augment import Augment
from fastseg.data.cache import Pixels
from fastseg.data.mirror import mirrored
from fastseg.losses import Loss, class_weights
from fastseg.metrics.calibration import softmax
from fastseg.training.callbacks import AverageWeights, HalfSize, TimeBudget, Windows
from fastseg.utils.device import autocast_dtype

SMALL = dict(arch=ARCH, weights="none", size=64, bs=4)


def quiet(learn):
    learn.no_bar().__enter__()
    learn.logger = lambda *_: None
    return learn


@pytest.fixture
def learn(samples):
    return quiet(fastseg.learner("eye", samples["eye"], **SMALL))


def test_pixels_are_decoded_once_and_never_exported(samples, monkeypatch):
    task = tasks.get("eye")
    items = task.items(samples["eye"])
    pixels = Pixels(task, (64, 80))
    first = pixels.image(items[0]), pixels.label(items[0])
    assert (
        first[0].shape == (64, 80, 3) and first[1].shape == (64, 80) and first[1].dtype == np.uint8
    )
    monkeypatch.setattr(type(task), "image", lambda *_: pytest.fail("decoded again"))
    assert (pixels.image(items[0]) == first[0]).all()
    assert (pixels.label(items[0]) == first[1]).all()
    assert not pickle.loads(pickle.dumps(pixels)).holds(items[:1])
    assert len(pickle.dumps(pixels)) < first[0].nbytes


def test_pixels_keep_to_their_budget(samples):
    task = tasks.get("eye")
    items = task.items(samples["eye"])
    pixels = Pixels(task, (64, 64), budget=3 * 64 * 64 * 3 + 1000)  # and the file's index
    for item in items:
        pixels.image(item)
    assert [pixels.holds([item]) for item in items] == [True] * 3 + [False] * (len(items) - 3)
    assert pixels.used <= pixels.budget
    assert (pixels.image(items[-1]) == Pixels(task, (64, 64)).image(items[-1])).all()


@pytest.mark.slow
def test_a_fit_without_memory_for_pixels_learns_the_same(samples, tmp_path):
    losses = [
        fastseg.fit(
            "eye", samples["eye"], **SMALL, epochs=1, cache=cache, out=tmp_path / str(cache)
        )["history"][0]["train_loss"]
        for cache in (0, None)
    ]
    assert losses[0] == losses[1]


def test_average_is_what_is_validated_and_kept(learn):
    class Watch(Callback):
        order = 56  # after the averaging

        def before_fit(self):
            self.expected = {k: v.clone() for k, v in self.learn.model.state_dict().items()}
            self.steps, self.checked = 0, 0

        def after_batch(self):
            if self.training:
                self.steps += 1
                keep = min(0.9, (1 + self.steps) / (10 + self.steps))
                for key, value in self.learn.model.state_dict().items():
                    self.expected[key] = (
                        (self.expected[key] * keep + value * (1 - keep))
                        if value.is_floating_point()
                        else value.clone()
                    )
            elif not self.checked:
                self.checked = 1
                self.same = all(
                    torch.allclose(v, self.expected[k], atol=1e-5)
                    for k, v in self.learn.model.state_dict().items()
                )

    watch = Watch()
    learn.fit(2, 1e-2, cbs=[AverageWeights(0.9), watch])
    assert watch.checked and watch.same
    assert all(
        torch.allclose(v, watch.expected[k], atol=1e-5) for k, v in learn.model.state_dict().items()
    )


def test_windows_come_first_and_hold_the_foreground(learn):
    seen: list[tuple[int, tuple, float]] = []

    class Watch(Callback):
        order = 13

        def before_batch(self):
            if self.training:
                shares = [
                    (codes.as_subclass(torch.Tensor) > 0).float().mean() for codes in self.yb[0]
                ]
                seen.append(
                    (self.epoch, tuple(self.xb[0].shape[-2:]), float(torch.stack(shares).mean()))
                )
                assert self.xb[0].shape[-2:] == self.yb[0].shape[-2:]

    learn.fit(8, 1e-3, cbs=[Windows(0.5, 4, background=0), Watch()])
    first = [entry for entry in seen if entry[0] < 4]
    later = [entry for entry in seen if entry[0] >= 4]
    assert {shape for _, shape, _ in first} == {(32, 32)} and {shape for _, shape, _ in later} == {
        (64, 64)
    }
    assert np.mean([share for *_, share in first]) > 1.3 * np.mean([share for *_, share in later])


def test_windows_show_the_same_place_in_image_and_mask():
    windows = Windows(0.5, 1, background=0)
    codes = torch.zeros(64, 96, dtype=torch.long)
    codes[50:54, 80:84] = 1
    places = [windows._place(codes, 32, 48, np.random.default_rng(i)) for i in range(60)]
    assert all(0 <= top <= 32 and 0 <= left <= 48 for top, left in places)
    assert sum(top + 32 > 50 and left + 48 > 80 for top, left in places) > len(places) * 0.5


@pytest.mark.parametrize(
    "seconds,reserve,cheaper,epochs",
    [
        (35.0, 0.0, 0, 3.5),  # shortened: an epoch takes 10 s, its validation nothing
        (35.0, 4.0, 0, 3.5),  # 15 s are needed after the epochs: all that is reserved
        (35.0, 45.0, 0, 6.5),  # extended by what is reserved beyond them
        (85.0, 0.0, 0, 8.5),
        (85.0, 0.0, 9, 6.0),  # epochs that are cheaper than the later ones extend nothing
    ],
)
def test_a_cycle_is_fitted_into_the_time_and_ends_at_its_lowest_rate(
    seconds, reserve, cheaper, epochs, learn, monkeypatch
):
    from fastseg.training import callbacks, loop

    clock = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    batches = len(learn.dls.train)

    class Slow(Callback):
        def after_batch(self):
            if self.training:
                clock[0] += 10 / batches

    budget = TimeBudget(seconds, reserve, cheaper)
    with loop._start_at_epoch(learn, 0):
        learn.fit_one_cycle(6, 1e-2, cbs=[budget, Slow()])
    assert budget.last == pytest.approx(epochs)
    assert len(learn.recorder.values) == math.ceil(epochs)
    assert len(learn.recorder.lrs) == pytest.approx(epochs * batches, abs=1)
    assert learn.opt.hypers[-1]["lr"] < 1e-3 and max(learn.recorder.lrs) > 5e-3


@pytest.mark.slow
def test_time_budget_plans_epochs_and_shrinks_the_size(samples, tmp_path, monkeypatch, caplog):
    from fastseg.training import budget

    result = fastseg.fit(
        "eye",
        samples["eye"],
        arch=ARCH,
        weights="none",
        size=64,
        bs=4,
        time_budget=20,
        out=tmp_path / "a",
    )
    assert 1 <= len(result["history"]) and result["seconds"] < 20
    monkeypatch.setattr(budget, "epoch_seconds", lambda learn: 9.0 * learn.record.size[0] / 64)
    with caplog.at_level("INFO", "fastseg"):
        result = fastseg.fit(
            "eye",
            samples["eye"],
            arch=ARCH,
            weights="none",
            size=64,
            bs=4,
            time_budget=20,
            out=tmp_path / "b",
        )
    assert "64x64 to 32x32 px" in caplog.text  # the reduced size
    assert "planned for the time budget: 3 epochs" in caplog.text
    assert len(result["history"]) > 3 and result["seconds"] < 20  # they take less than 4.5 s
    assert json.loads((tmp_path / "b" / "card.json").read_text())["size"] == [32, 32]
    monkeypatch.setattr(budget, "epoch_seconds", lambda learn: 100.0)
    with refuses("time-budget"):
        fastseg.fit(
            "eye",
            samples["eye"],
            arch=ARCH,
            weights="none",
            size=64,
            bs=4,
            time_budget=20,
            out=tmp_path / "c",
        )
    assert not (tmp_path / "c").exists()


def test_a_part_of_an_epoch_at_the_end_is_recorded_as_one(samples, tmp_path, monkeypatch):
    from fastseg.training import budget, callbacks

    monkeypatch.setattr(budget, "epoch_seconds", lambda learn: 2.0)
    monkeypatch.setattr(callbacks.TimeBudget, "_fitting", lambda *args: 2.5)
    options = {**SMALL, "bs": 2}
    history = fastseg.fit("eye", samples["eye"], **options, time_budget=20, out=tmp_path / "a")[
        "history"
    ]
    assert len(history) == 3
    assert {*history[2]} == {*history[0]} and all(0 <= row["dice"] <= 1 for row in history)


@pytest.mark.slow
def test_time_budget_keeps_the_size_of_images_that_are_cropped(
    samples, tmp_path, monkeypatch, caplog
):
    """A smaller crop would cut parts of the slices away; fewer epochs are planned instead."""
    from fastseg.training import budget

    monkeypatch.setattr(budget, "epoch_seconds", lambda learn: 6.0)
    out = tmp_path / "a"
    with caplog.at_level("INFO", "fastseg"):
        fastseg.fit("mri", samples["mri"], **SMALL, time_budget=20, out=out)
    assert json.loads((out / "card.json").read_text())["size"] == [64, 64]
    planned = re.search(r"planned for the time budget: (\d+) epochs", caplog.text)
    assert 1 <= int(planned[1]) < budget.FEWEST_EPOCHS
    monkeypatch.setattr(budget, "epoch_seconds", lambda learn: 100.0)
    with refuses("time-budget") as caught:
        fastseg.fit("mri", samples["mri"], **SMALL, time_budget=20, out=tmp_path / "b")
    assert "--size" not in str(caught.value)


def test_budget_and_epochs_exclude_each_other(run):
    run("fit", "eye", "--epochs", "3", "--time-budget", "5m", code=2)
    run("fit", "eye", "--time-budget", "soon", code=2)
    run("fit", "eye", "--time-budget", "0s", code=2)


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_folds_hold_every_image_out_once(name, samples):
    task = tasks.get(name)
    items = task.items(samples[name])
    parts = [task.fold(items, k, 4, seed=1) for k in range(4)]
    assert sorted(i for _, valid in parts for i in valid) == [
        i for i, item in enumerate(items) if item.split != "test"
    ]
    for train, valid in parts:
        assert not set(train) & set(valid)
        assert not {items[i].group for i in train} & {items[i].group for i in valid}
        assert abs(len(valid) - len(items) / 4) <= 2
    with refuses("folds", "--folds"):
        task.fold(items, 0, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eye", "mri"])
def test_an_ensemble_averages_its_members_and_loads(name, precision, samples, tmp_path, run):
    result = fastseg.fit(name, samples[name], **SMALL, epochs=1, folds=2, out=tmp_path / "e")
    card = json.loads((tmp_path / "e" / "card.json").read_text())
    assert (
        card["network"]["members"] == 2
        and card["valid_files"] == []
        and card["training"]["folds"] == 2
    )
    task = tasks.get(name)
    counted = np.array(result["metrics"]["confusion"]).sum()
    items = [item for item in task.items(samples[name]) if item.split != "test"]
    whole = len(items) if name == "mri" else sum((task.label(i) != 255).sum() for i in items)
    assert counted == whole  # every image was measured, by the learner that never saw it
    predictor = fastseg.load(tmp_path / "e")
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    x = (
        torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
        - torch.tensor(predictor.card.mean).view(1, 3, 1, 1)
    ) / torch.tensor(predictor.card.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        mean = torch.stack([m(x).softmax(1) for m in predictor.network.model.models]).mean(0)
    assert np.allclose(
        np.exp(predictor.logits(batch)), mean, atol={"float32": 1e-4, "bfloat16": 2e-2}[precision]
    )
    assert fastseg.load(tmp_path / "e" / "export.pkl", trust=True).logits(batch).shape == mean.shape
    judge = ["evaluate", name, "--data", samples[name], "--export", tmp_path / "e"]
    assert "--split all" in run(*judge, error="no-images-to-judge").message
    run(*judge, "--split", "all")


def test_one_fold_is_refused(samples, tmp_path):
    with refuses("folds", "--folds 2"):
        fastseg.fit("eye", samples["eye"], folds=1, out=tmp_path / "e")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,options",
    [
        ("eye", {"mixup": 0.3, "progressive": 0.5, "patience": 1}),
        ("eye", {"ema": 0.9, "windows": 0.5, "loss": "wce+lovasz"}),
        # which gives no pixel a class: neither windows nor progressive
        ("mri", {"mixup": 0.3, "patience": 1, "ema": 0.9, "loss": "wce"}),
    ],
)
def test_options_of_a_course(name, options, samples, tmp_path):
    result = fastseg.fit(name, samples[name], **SMALL, epochs=2, out=tmp_path / "e", **options)
    assert all(np.isfinite(row["valid_loss"]) for row in result["history"])
    recorded = json.loads((tmp_path / "e" / "card.json").read_text())["training"]
    assert all(recorded[key] == value for key, value in options.items())


def test_wrong_options_of_a_course(run, samples):
    for option, value, code in (
        ("--ema", "1.5", "option-range"),
        ("--windows", "-1", "option-range"),
        ("--mixup", "99", "option-range"),
        ("--precision", "float12", "unknown-precision"),
    ):
        result = run("fit", "eye", "--data", samples["eye"], option, value, error=code)
        assert option.strip("-") in result.message and value in result.message


def test_the_precision_can_be_forced(samples, monkeypatch):
    device = torch.device("cpu")
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        monkeypatch.setenv("FASTSEG_PRECISION", name)
        assert autocast_dtype(device) is dtype
        assert (
            autocast_dtype(device, "bfloat16") is torch.bfloat16
            and autocast_dtype(device, "float32") is None
        )
    monkeypatch.setenv("FASTSEG_PRECISION", "float12")
    with refuses("unknown-precision"):
        fastseg.learner("eye", samples["eye"], **SMALL)


def test_windows_are_for_segmentation(samples, tmp_path):
    with refuses("no-windows", "--windows"):
        fastseg.fit("mri", samples["mri"], windows=0.5, out=tmp_path / "e")
    with refuses("no-progressive", "--progressive"):
        fastseg.fit("mri", samples["mri"], progressive=0.5, out=tmp_path / "e")


def test_half_size_comes_first(samples):
    learn, seen = quiet(fastseg.learner("eye", samples["eye"], **{**SMALL, "size": 96})), []

    class Watch(Callback):
        order = 13

        def before_batch(self):
            if self.training:
                seen.append(
                    (self.epoch, tuple(self.xb[0].shape[-2:]), tuple(self.yb[0].shape[-2:]))
                )

    learn.fit(2, 1e-3, cbs=[HalfSize(1), Watch()])
    assert set(seen) == {(0, (48, 48), (48, 48)), (1, (96, 96), (96, 96))}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_patience_keeps_the_best_weights(learn, ema):
    from fastseg.learners.options import FitOptions
    from fastseg.training.loop import train

    train(learn, FitOptions(epochs=6, lr=0.5, patience=2, ema=ema))
    scores = [row["dice"] for row in learn.record.history]
    assert abs(float(learn.validate()[1]) - max(scores)) < 1e-6


def test_mirroring_twice_gives_all_but_the_rim_back():
    x = torch.rand(2, 3, 5, 9)
    for shift in (-2, 0, 1):
        inner = slice(abs(shift), 9 - abs(shift))
        assert torch.equal(mirrored(mirrored(x, shift), shift)[..., inner], x[..., inner])
    assert mirrored(torch.arange(5), -1).tolist() == [3, 2, 1, 0, 0] and mirrored(
        torch.arange(5), 1
    ).tolist() == [4, 4, 3, 2, 1]


def test_mirrored_masks_move_and_images_do_not():
    from fastai.torch_core import TensorImage, TensorMask

    torch.manual_seed(0)
    codes = torch.arange(12).expand(16, 8, 12)
    x, y = Augment(flip=True, flip_shift=-1)(
        (TensorImage(codes[:, None].float()), TensorMask(codes)), split_idx=0
    )
    flipped = [bool(image[0, 0, 0] == 11) for image in x]
    assert any(flipped) and not all(flipped)
    for mask, is_flipped in zip(y, flipped):
        assert mask[0].tolist() == (
            [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0] if is_flipped else list(range(12))
        )


def test_cutout_covers_the_image_and_keeps_the_mask():
    from fastai.torch_core import TensorImage, TensorMask

    torch.manual_seed(0)
    x, y = Augment(flip=False, cutout=0.5)(
        (TensorImage(torch.ones(64, 3, 32, 32)), TensorMask(torch.ones(64, 32, 32).long())),
        split_idx=0,
    )
    covered = (x[:, 0] == 0.5).float().mean(dim=(1, 2))
    assert 0.05 < covered.mean() < 0.25 and covered.max() <= 0.26 and (y == 1).all()


def test_blurred_slices_are_labelled_so():
    from fastai.torch_core import TensorCategory, TensorImage
    from scipy.ndimage import gaussian_filter

    from fastseg.data.augment import blur

    torch.manual_seed(0)
    x = torch.rand(40, 3, 48, 48)
    for sigma in (0.5, 1.5):
        expected = gaussian_filter(x[:2].numpy(), (0, 0, sigma, sigma), mode="nearest")
        assert np.abs(blur(x[:2], torch.full((2,), sigma)).numpy() - expected).max() < 1e-3
    seen, labels = Augment(flip=False, blur_share=0.5)(
        (TensorImage(x), TensorCategory(torch.ones(40).long())), split_idx=0
    )
    changed = (torch.Tensor(seen) != x).flatten(1).any(1)
    assert 5 < changed.sum() < 35 and torch.equal(torch.as_tensor(labels.tolist()) == 0, changed)
    valid = Augment(flip=False, blur_share=0.5)(
        (TensorImage(x), TensorCategory(torch.ones(40).long())), split_idx=1
    )
    assert torch.equal(torch.Tensor(valid[0]), x) and set(valid[1].tolist()) == {1}


def test_views_are_averaged_at_the_right_place(exports):
    plain, both = fastseg.load(exports("face"), tta=False), fastseg.load(exports("face"), tta=True)
    batch = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    there = softmax(plain.logits(batch), 1)
    back = mirrored(softmax(plain.logits(batch[:, :, ::-1].copy()), 1), both.card.flip_shift)
    assert both.card.flip_shift == -1 and fastseg.load(exports("face")).tta
    assert np.allclose(np.exp(both.logits(batch)), (there + back) / 2, atol=1e-4)


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_onnx_and_torch_agree(name, exports):
    quick, slow = (
        fastseg.load(exports(name), runtime="onnx"),
        fastseg.load(exports(name), "cpu", runtime="torch", precision="float32"),
    )
    batch = np.random.default_rng(0).integers(0, 256, (3, *quick.card.size, 3), dtype=np.uint8)
    assert np.allclose(quick.logits(batch), slow.logits(batch), atol=1e-3)
    rough = fastseg.load(exports(name), "cpu", runtime="torch", precision="bfloat16")
    assert np.allclose(softmax(quick.logits(batch), 1), softmax(rough.logits(batch), 1), atol=2e-2)


def test_exchanged_onnx_is_noticed(exports, tmp_path):
    import shutil

    folder = shutil.copytree(exports("eye"), tmp_path / "e")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")
    with refuses("exchanged-file", "model.onnx"):
        fastseg.load(folder, "cpu", precision="float32")


def test_class_weights_are_median_frequency():
    assert class_weights(np.array([100, 10, 0, 40])).tolist() == pytest.approx([0.4, 4.0, 1.0, 1.0])
    logits, target = torch.randn(2, 2, 4, 4), torch.zeros(2, 4, 4).long()
    target[:, 0] = 1
    weighted = torch.nn.functional.cross_entropy(logits, target, torch.tensor([0.5, 3.0]))
    assert torch.allclose(Loss("wce", torch.tensor([0.5, 3.0]))(logits, target), weighted)
    assert not torch.allclose(Loss("ce", torch.tensor([0.5, 3.0]))(logits, target), weighted)


def test_small_decoding_gives_nearly_the_same_picture(tmp_path):
    from fastseg.data.images import read_image, read_near, resized, save_image

    image, _ = tasks.get("eye").draw(np.random.default_rng(2))
    big = np.asarray(__import__("PIL.Image").Image.fromarray(image).resize((1280, 960)))
    path = save_image(tmp_path / "big.jpg", big)
    near, own = read_near(path, (240, 320))
    assert own == (960, 1280) and near.shape[0] in range(240, 960)
    difference = resized(near, (240, 320), "squish").astype(int) - resized(
        read_image(path), (240, 320), "squish"
    )
    assert np.abs(difference).mean() < 2


def test_light_decoder_strides():
    from fastseg.models.factory import segmenter

    for stride in (1, 2, 4):
        network, _ = segmenter(ARCH, 3, "light", stride=stride)
        assert network.eval()(torch.rand(1, 3, 70, 90)).shape == (1, 3, 70, 90)
    with refuses("unsupported-backbone", "stride"):
        segmenter(ARCH, 3, "light", stride=3)


def test_mixup_goes_with_the_other_options_and_json_stays_clean(run, samples):
    said = run(
        *("fit", "eye", "--data", samples["eye"], "--arch", ARCH, "--weights", "none"),
        *("--size", "64", "--bs", "4", "--epochs", "2", "--mixup", "0.2"),
        *("--windows", "1", "--progressive", "1", "--patience", "1", "--json"),
    ).out
    assert len(json.loads(said)["history"]) >= 1

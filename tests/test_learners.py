"""Learners are plain fastai Learners: fastai's documented methods work with them."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import ARCH, refuses
from fastai.interpret import SegmentationInterpretation
from fastai.learner import Learner, load_learner

import fastseg
from fastseg import tasks
from fastseg.models import network


@pytest.fixture
def learn(samples):
    return fastseg.learner("eye", samples["eye"], arch=ARCH, weights="none", size=64, bs=4)


@pytest.mark.slow
def test_everything_fastai_promises_works(learn, samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(learn, Learner)
    with learn.no_bar(), learn.no_logging():
        assert 0 < learn.lr_find(show_plot=False).valley < 10
        learn.freeze()
        assert not any(p.requires_grad and p.ndim > 1 for p in learn.model.body.parameters())
        learn.unfreeze()
        assert all(p.requires_grad for p in learn.model.parameters())
        learn.fit_one_cycle(1, slice(1e-4, 1e-3))
        learn.fine_tune(1)
        predictions, targets = learn.get_preds()
        assert predictions.shape == (len(learn.dls.valid_ds), 4, 64, 64) and torch.allclose(
            predictions.sum(1), torch.ones(()), atol=1e-4
        )
        learn.show_results(max_n=2)
        mask, _, probabilities = learn.predict(learn.dls.valid_ds.items[0].image)
        assert mask.shape == (64, 64) and probabilities.shape == (4, 64, 64)
        interpretation = SegmentationInterpretation.from_learner(learn)
        assert len(interpretation.top_losses(2)[0]) == 2
        learn.save("here")
        learn.load("here")
        learn.export(tmp_path / "plain.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_learner(tmp_path / "plain.pkl")
    with loaded.no_bar():
        again = loaded.predict(learn.dls.valid_ds.items[0].image)[2]
    assert torch.allclose(again, probabilities, atol=1e-4)


def test_three_parameter_groups_cover_the_model(learn):
    groups = network.parameter_groups(learn.model)
    assert len(groups) == 3 and all(groups)
    assert sum(p.numel() for g in groups for p in g) == sum(
        p.numel() for p in learn.model.parameters()
    )


def test_vision_learner_takes_fastai_head_arguments(samples):
    dls = tasks.get("mri").datablock(size=(64, 64)).dataloaders(samples["mri"], bs=4, num_workers=0)
    learn = fastseg.vision_learner(dls, ARCH, pretrained=False, ps=0.1, lin_ftrs=[32])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
        assert learn.predict(samples["mri"] / "train" / "sub-OASIS10000.png")[0] in (
            "blurred",
            "sharp",
        )
    with refuses("no-cut"):
        fastseg.vision_learner(dls, ARCH, pretrained=False, cut=-2)
    with refuses("unknown-option", "no_such_option"):
        fastseg.vision_learner(dls, ARCH, pretrained=False, no_such_option=1)


def test_callables_are_passed_on_to_fastai(samples):
    from torchvision.models import resnet18

    dls = tasks.get("eye").datablock(size=(64, 64)).dataloaders(samples["eye"], bs=2, num_workers=0)
    learn = fastseg.unet_learner(dls, resnet18, pretrained=False)
    assert type(learn.model).__name__ == "DynamicUnet"


@pytest.mark.parametrize("name", tasks.names())
def test_each_task_has_its_learner(name, samples):
    make = getattr(__import__("fastseg.learners", fromlist=["x"]), f"{name}_learner")
    learn = make(samples[name], arch=ARCH, weights="none", size=64, bs=2)
    assert isinstance(learn, Learner) and learn.record.task.name == name


def test_normalisation_comes_from_the_backbone(samples):
    dls = tasks.get("eye").datablock(size=(64, 64)).dataloaders(samples["eye"], bs=2, num_workers=0)
    learn = fastseg.unet_learner(dls, "inception_v3", weights="none")
    assert learn.model.mean == (0.5, 0.5, 0.5)
    normalize = [t for t in dls.after_batch.fs if type(t).__name__ == "Normalize"]
    assert len(normalize) == 1 and torch.allclose(
        normalize[0].mean.flatten().cpu(), torch.tensor([0.5, 0.5, 0.5])
    )


@pytest.mark.parametrize(
    "loss", ["ce", "dice", "focal", "lovasz", "tversky", "ce+dice", "focal+lovasz"]
)
def test_losses_learn_and_ignore_unlabelled_pixels(loss):
    from fastseg.losses import Loss

    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 16, 16))
    good = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2).float() * 8
    bad = torch.randn(2, 3, 16, 16, requires_grad=True)
    function = Loss(loss)
    assert function(good, target) < function(bad, target)
    function(bad, target).backward()
    assert bad.grad.abs().sum() > 0
    target[:, :8] = 255
    changed = good.clone()
    changed[:, :, :8] = torch.randn_like(changed[:, :, :8]) * 5
    assert torch.allclose(function(good, target), function(changed, target), atol=1e-5)
    function.reduction = "none"
    assert function(good, target).shape == (2,)
    assert torch.isfinite(function(good, torch.full_like(target, 255))).all()


def test_unknown_loss_and_optimizer_name_the_nearest(samples):
    with refuses("unknown-loss", suggested="dice"):
        fastseg.learner("eye", samples["eye"], arch=ARCH, weights="none", loss="ce+dicee")
    with refuses("unknown-optimizer", suggested="adamw"):
        fastseg.learner("eye", samples["eye"], arch=ARCH, weights="none", opt="adamww")


def test_augmentation_moves_image_and_mask_together():
    from fastai.torch_core import TensorImage, TensorMask

    from fastseg.data.augment import Augment

    torch.manual_seed(3)
    codes = torch.zeros(8, 64, 64, dtype=torch.long)
    codes[:, 20:44, 12:30] = 1
    x, y = Augment(flip=True, rotate=25, zoom=0.3)(
        (TensorImage(codes[:, None].float().repeat(1, 3, 1, 1)), TensorMask(codes)), split_idx=0
    )
    inside = y != 255
    agree = ((x[:, 0] > 0.5).long() == y)[inside].float().mean()
    assert agree > 0.98 and (y != codes).any()


def test_flips_are_exact_and_mri_is_never_resampled(samples):
    from fastai.torch_core import TensorImage

    from fastseg.data.augment import Augment

    task = tasks.get("mri")
    assert (
        task.recipe.rotate == task.recipe.zoom == task.recipe.light == 0
        and task.recipe.resize == "crop"
    )
    image = torch.rand(16, 3, 9, 11)
    out = Augment(flip=True)((TensorImage(image), torch.zeros(16)), split_idx=0)[0]
    assert all((o == i).all() or (o == i.flip(-1)).all() for o, i in zip(out, image))
    assert any((o != i).any() for o, i in zip(out, image))


def test_same_seed_same_learner(samples):
    def weights():
        learn = fastseg.learner(
            "eye", samples["eye"], arch=ARCH, weights="none", size=64, bs=4, seed=7
        )
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    assert torch.equal(weights(), weights())


def test_size_too_small(samples):
    with refuses("size-range", 32):
        fastseg.learner("eye", samples["eye"], arch=ARCH, weights="none", size=16)


def test_metric_is_over_the_dataset_not_the_batch():
    from types import SimpleNamespace

    from fastseg.learners.build import ForegroundMetric

    metric = ForegroundMetric("dice", 2, 0)
    batches = [
        (np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 1]])),
        (np.array([[1, 0, 0, 0]]), np.array([[0, 1, 0, 0]])),
    ]
    for predicted, truth in batches:
        scores = torch.nn.functional.one_hot(torch.tensor(predicted), 2).permute(0, 2, 1).float()
        metric.accumulate(SimpleNamespace(pred=scores, y=torch.tensor(truth)))
    assert metric.value == pytest.approx(2 * 4 / (5 + 5))


def test_the_record_has_the_shift_of_masks_that_a_tool_made(samples, tmp_path):
    data = tmp_path / "face"
    shutil.copytree(samples["face"], data)
    (data / "masks.json").write_text('{"flip_shift": 0}')
    small = dict(arch=ARCH, weights="none", size=64, bs=4)
    assert tasks.get("face").recipe.flip_shift == -1
    assert fastseg.learner("face", data, **small).record.flip_shift == 0

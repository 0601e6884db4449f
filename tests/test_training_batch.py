"""`--bs auto`: the recipe's batch size, or what fits into memory; the probe leaves no trace."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ARCH, PulledPlug, refuses
from safetensors.torch import load_file

import fastseg
from fastseg.errors import ModelError
from fastseg.learners import batch
from fastseg.utils import memory

MB = 2**20
SMALL = {"arch": ARCH, "weights": "none", "size": 64}
FITS_TWO = 800 * MB  # free, where a step needs 100 MB, and 200 MB for each image


@pytest.fixture
def free(monkeypatch):
    """Return a function that sets what is free; steps are taken, and need 100 + 200 MB an image."""
    steps, real = [], batch._step_of

    def recorded(*given):
        step = real(*given)
        return lambda bs: (steps.append(bs), step(bs))

    def needed(work):
        work()
        return (100 + 200 * steps[-1]) * MB

    monkeypatch.setattr(batch, "_step_of", recorded)
    monkeypatch.setattr(batch, "peak_bytes", needed)

    def set_free(bytes):
        steps.clear()
        monkeypatch.setattr(batch, "available_bytes", lambda: bytes)
        return steps

    return set_free


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("free_mb", "chosen", "measured"),
    [(10_000, 8, [1, 2, 4]), (2_000, 4, [1, 2, 4]), (1_100, 2, [1, 2]), (450, 1, [1])],
)
def test_the_largest_part_of_the_recipes_batch_that_fits(
    free_mb, chosen, measured, samples, free, caplog
):
    """Nothing is measured that would not fit, nor more than half of what is asked for."""
    steps = free(free_mb * MB)
    with caplog.at_level("INFO", "fastseg"):
        learn = fastseg.learner("eye", samples["eye"], bs="auto", **SMALL)
    assert (learn.record.planned_bs, learn.dls.train.bs) == (chosen, chosen)
    assert steps == measured
    (told,) = (line for line in caplog.messages if "--bs auto" in line)
    which = "as the recipe says" if chosen == 8 else "the recipe's 8 need about "
    assert f"batches of {chosen} image" in told and which in told


def test_too_little_memory_for_one_image_is_one_line(samples, free):
    free(300 * MB)
    with refuses("out-of-memory", "--bs auto", "64x64", "--size", "--arch"):
        fastseg.learner("eye", samples["eye"], bs="auto", **SMALL)
    steps = free(MB)  # less than one image's activations: no step is taken
    with refuses("out-of-memory", "--bs auto"):
        fastseg.learner("eye", samples["eye"], bs="auto", **SMALL)
    assert not steps


@pytest.mark.parametrize("more", [{}, {"decoder": "fastai", "arch": "resnet18"}, {"opt": "ranger"}])
def test_the_probe_changes_neither_weights_nor_random_states(more, samples, free):
    free(FITS_TWO if "arch" not in more else 1_050 * MB)  # room for the copies of more weights
    found = []
    for bs in (2, "auto"):
        learn = fastseg.learner("eye", samples["eye"], bs=bs, **{**SMALL, **more})
        state = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
        learnt = [p.requires_grad for p in learn.model.parameters()]
        found.append((learn, state, learnt, learn.model.training, learn.dls.train.drop_last))
        assert learn.record.bs == 2
    (one, *before), (other, *after) = found
    assert same(one.model.state_dict(), other.model.state_dict()) and before == after
    assert all(p.grad is None for p in other.model.parameters())


@pytest.mark.parametrize(
    "options",
    [{"epochs": 2}, pytest.param({"epochs": 1, "folds": 2}, marks=pytest.mark.slow)],
)
def test_weights_are_those_of_the_same_number(options, samples, free, tmp_path, plug):
    """Of a fit that was interrupted, too, though there is more memory when it is resumed."""
    free(FITS_TWO)
    given = {**SMALL, **options, "ema": 0.9}
    fastseg.fit("eye", samples["eye"], out=tmp_path / "number", bs=2, **given)
    fastseg.fit("eye", samples["eye"], out=tmp_path / "auto", bs="auto", **given)
    restore = plug(1, False)
    with pytest.raises(PulledPlug):
        fastseg.fit("eye", samples["eye"], out=tmp_path / "resumed", bs="auto", **given)
    restore()
    steps = free(10_000 * MB)
    fastseg.fit("eye", out=tmp_path / "resumed", resume=True)
    assert not steps
    folders = [tmp_path / name for name in ("number", "auto", "resumed")]
    number, *others = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(same(number, other) for other in others)
    cards = [json.loads((folder / "card.json").read_text()) for folder in folders]
    assert [card["training"]["bs"] for card in cards] == [2, 2, 2]


@pytest.mark.slow
def test_a_time_budget_measures_with_the_planned_batch(samples, free, tmp_path):
    free(FITS_TWO)
    fastseg.fit("eye", samples["eye"], out=tmp_path / "out", bs="auto", time_budget=8.0, **SMALL)
    assert json.loads((tmp_path / "out/card.json").read_text())["training"]["bs"] == 2


def test_what_else_needs_memory(samples, free):
    """Images without labels double a batch; the features of --freeze are left room for."""
    learn = fastseg.learner("eye", samples["eye"], bs=8, **SMALL)
    rows = []
    learn.model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    free(10_000 * MB)
    assert batch.plan_bs(learn, (64, 64), 8, None, unlabelled=True) == 8
    assert [n for n in rows if n != 2 or rows.index(n)][-2:] == [4, 8]
    assert batch.plan_bs(learn, (64, 64), 8, None, frozen=True, reserved=7_400 * MB) == 2


def test_two_processes_divide_a_batch(samples, free, monkeypatch):
    """Each takes its rows, computes the loss of all, and may use its share of the memory."""

    class Two:
        size, rank, is_first = 2, 0, True

        def from_all(self, value):
            return [value, value]

    learn = fastseg.learner("eye", samples["eye"], bs=8, **SMALL)
    rows, losses, loss = [], [], learn.loss_func
    learn.model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    learn.loss_func = lambda logits, y: (losses.append(len(logits)), loss(logits, y))[1]
    free(2 * 2_500 * MB)
    monkeypatch.setattr(batch, "world", Two)
    monkeypatch.setattr(batch, "_saved_bytes", lambda *_: 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert batch.plan_bs(learn, (64, 64), 8, None) == 8
    assert (rows, losses) == ([1, 2], [2, 4])
    assert batch.plan_bs(learn, (64, 64), 1, None) == 1  # refused where batches are divided


def test_batch_normalisation_of_single_values_needs_two_images(samples, free):
    free(10_000 * MB)
    learn = fastseg.learner("eye", samples["eye"], decoder="deeplabv3plus", bs=4, **SMALL)
    assert batch.plan_bs(learn, (64, 64), 4, None) == 4
    free(450 * MB)
    with refuses("out-of-memory", "2 images"):
        batch.plan_bs(learn, (64, 64), 4, None)


@pytest.mark.parametrize(
    ("fits", "free_mb", "chosen"), [(8, 10_000, 8), (5, 10_000, 4), (8, 400, 2), (0, 10_000, 0)]
)
def test_on_a_gpu_sizes_are_tried(fits, free_mb, chosen, monkeypatch):
    """Patched functions of torch.cuda: of 10 MB held and 100 MB an image."""
    tried, emptied = [], []

    def step(bs):
        tried.append(bs)
        if bs > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    for name, value in {
        "mem_get_info": lambda _: (free_mb * MB, 16_000 * MB),
        "memory_reserved": lambda _: 10 * MB,
        "max_memory_reserved": lambda _: (10 + 100 * tried[-1]) * MB,
        "reset_peak_memory_stats": lambda _: None,
        "synchronize": lambda _: None,
        "empty_cache": lambda: emptied.append(1),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    found = batch._by_trying([8, 4, 2, 1], step, torch.device("cuda"))
    assert found.bs == chosen and len(emptied) == len(tried)
    assert tried == [bs for bs in (8, 4, 2, 1) if bs >= chosen]
    if fits == 8:
        assert (found.needed, found.room) == (800 * MB, free_mb * MB * batch.SHARE)

    def wrong(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes"):
        batch._by_trying([2, 1], wrong, torch.device("cuda"))


def test_where_the_system_does_not_say_what_is_free(samples, free, caplog):
    free(None)
    with caplog.at_level("INFO", "fastseg"):
        learn = fastseg.learner("eye", samples["eye"], bs="auto", **SMALL)
    assert learn.record.planned_bs == 8 and "does not say" in caplog.text


def test_bs_on_the_command_line(samples, run, free, tmp_path):
    free(FITS_TWO)
    out = tmp_path / "out"
    small = ["--arch", ARCH, "--weights", "none", "--size", 64, "--epochs", 1]
    told = run("fit", "eye", "--data", samples["eye"], "--bs", "auto", "--out", out, *small)
    assert "--bs auto: batches of 2 images" in told.err
    for wrong in ("many", "0", "1.5"):
        assert "--bs" in run("fit", "eye", "--bs", wrong, code=2).err


@pytest.mark.parametrize("value", ["many", "", 0, 1.5, True])
def test_other_values_are_refused(value):
    with pytest.raises(ModelError, match="--bs"):
        fastseg.learner("eye", bs=value)


def test_a_task_file_needs_a_number(samples):
    task = fastseg.tasks.get("eye")
    with pytest.raises(ModelError, match="--bs"):
        fastseg.learner(replace(task, recipe=replace(task.recipe, bs="auto")), samples["eye"])


def _write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("", {}, 5000),
        ("0::/job/step", {"job/memory.max": "max", "job/step/memory.max": "max"}, 5000),
        (
            "0::/job/step",
            {
                "job/memory.max": str(3 * MB),
                "job/memory.current": str(2 * MB),
                "job/memory.stat": f"anon 1\ninactive_file {MB // 2}\n",
                "job/step/memory.max": "max",
            },
            1536,
        ),
        (  # inside a container: the group is at the top
            "5:cpu:/x\n4:memory:/host/name",
            {
                "memory/memory.limit_in_bytes": str(3 * MB),
                "memory/memory.usage_in_bytes": str(2 * MB),
                "memory/memory.stat": "total_inactive_file 0\n",
            },
            1024,
        ),
    ],
)
def test_limits_of_containers_count(groups, files, left, tmp_path, monkeypatch):
    _write(tmp_path, {"meminfo": "MemFree: 1 kB\nMemAvailable:    5000 kB\n"})
    _write(tmp_path, {"self/cgroup": groups} if groups else {})
    _write(tmp_path / "groups", files)
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    assert memory.available_bytes() == left * 1024


def test_memory_of_this_machine(tmp_path, monkeypatch):
    assert memory.available_bytes() > 50 * MB
    torch.ones(64 * MB)  # an earlier peak does not count
    assert 60 * MB < memory.peak_bytes(lambda: torch.ones(16 * MB)) < 90 * MB
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.available_bytes() is None


def test_activations_are_counted_without_memory(samples):
    """Twice the sides are four times the activations."""
    learn = fastseg.learner("eye", samples["eye"], bs=2, **SMALL)
    learn.model.requires_grad_(True)
    small, large = (batch._saved_bytes(learn.model.train(), (n, n)) for n in (64, 128))
    assert small > 0 and large == pytest.approx(4 * small, rel=0.02)

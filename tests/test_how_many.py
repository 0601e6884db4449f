"""study --how-many: laws of learning curves, nested parts, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, refuses

from fastseg import tasks
from fastseg.metrics.learning_curves import Curve, back_test, drawn_laws, gains, scores_at
from fastseg.training.gains import Line, sentences_of
from fastseg.training.how_many import how_many
from fastseg.training.subsets import Part

COUNTS = np.array([50.0, 100.0, 200.0, 400.0])


def test_a_law_without_noise_is_found_again():
    means = 0.9 - 1.5 * COUNTS**-0.6
    curve = Curve(COUNTS, np.tile(means, (3, 1)), np.tile(means, (500, 1)))
    laws = drawn_laws(curve)
    assert np.allclose(np.median(scores_at(laws, 400)), means[-1], atol=0.002)
    truth = 1.5 * (400**-0.6 - 800**-0.6)
    found = gains(laws, 400, [400])[400]
    assert found.low <= truth <= found.high and abs(found.value - truth) < 0.003
    assert (laws[:, 0] <= 1).all() and (laws[:, 1] >= 0).all()
    flat = Curve(COUNTS, np.full((3, 4), 0.8), np.full((500, 4), 0.8))
    assert gains(drawn_laws(flat), 400, [50])[50].high < 0.001  # more images give nothing
    assert back_test(flat).is_inside


def test_intervals_hold_what_they_promise_on_simulated_curves():
    rng = np.random.default_rng(0)
    hits, inside, halves = [], [], []
    for _ in range(200):
        top, exponent = rng.uniform(0.7, 0.98), rng.uniform(0.2, 1.2)
        scale = rng.uniform(0.1, 0.4) * 50**exponent
        truth = top - scale * COUNTS**-exponent
        noise = rng.normal(0, 0.012, (3, 4)) * (2, 1.5, 1, 1)  # of the seeds
        values = truth + rng.normal(0, 0.01) + rng.normal(0, 0.003, 4) + noise
        images = rng.normal(0, 0.01, (300, 1)) + rng.normal(0, 0.003, (300, 4))
        curve = Curve(COUNTS, values, values.mean(0) + images)
        hits.append(back_test(curve).is_inside)
        gain = gains(drawn_laws(curve), 400, [400])[400]
        inside.append(gain.low <= scale * (400**-exponent - 800**-exponent) <= gain.high)
        halves.append(gain.half)
    assert np.mean(hits) > 0.92 and np.mean(inside) > 0.92  # 95 % less two standard errors
    assert np.median(halves) < 0.03  # and they say something


def test_a_flat_curve_of_a_class_that_is_not_learned_says_nothing():
    def sentence(score):
        flat = Curve(COUNTS, np.full((3, 4), score), np.full((500, 4), score))
        laws = drawn_laws(flat)
        given = gains(laws, 400, [50]), back_test(flat), flat, laws
        return next(sentences_of([Line("pupil", "Dice", 400, score, *given)], [50]))

    assert "nothing" in sentence(0.8) and "not known" not in sentence(0.8)
    assert "not known" in sentence(0.06) and "nothing" not in sentence(0.06)


def test_parts_are_nested_and_hold_out_the_same_images(samples):
    task, data = tasks.get("eye"), samples["eye"]
    items = task.items(data)
    train, valid = task.split(items, 42)
    for seed in (1, 2):
        parts = [Part(task, data, 42, seed, share).chosen(items, train) for share in (0.25, 0.5, 1)]
        assert {*parts[0]} < {*parts[1]} < {*parts[2]} == {*train}
        groups = [{items[i].group for i in part} for part in parts]
        assert all(
            {i for i in train if items[i].group in group} == {*part}
            for group, part in zip(groups, parts)
        )
    shown, held_out = Part(task, data, 42, 1, 0.25)(items)
    assert held_out == valid and abs(len(shown) - len(train)) <= len({*shown})
    assert Part(task, data, 42, 1, 0.5).chosen(items, train) != Part(task, data, 42, 2, 0.5).chosen(
        items, train
    )


@pytest.mark.slow
@pytest.mark.full_pictures
def test_how_many_estimates_resumes_and_notices_changes(run, tmp_path):
    data = tasks.get("eye").sample("data/eye", n=30, seed=1)
    common = ["study", "eye", "--how-many", "--vary", f"arch={ARCH}", "--weights", "none"]
    common += ["--size", "64", "--epochs", "1", "--seeds", "2", "--by", r"_frame_(\d)"]
    first = json.loads(run(*common, "--more", "10", "--json").out)
    names = [line["name"] for line in first["lines"]]
    assert names[0] == "all" and {"sclera", "iris", "pupil"} <= {*names}
    assert any(name.startswith("group ") for name in names)
    for line in first["lines"]:
        gain, counts = line["gains"]["10"], line["curve"]["images"]
        assert gain["low"] <= gain["value"] <= gain["high"] and counts == sorted(counts)
        assert len(line["curve"]["scores"]) == 2 and len(counts) >= 3
        assert isinstance(line["back_test"]["inside"], bool)
    assert Path("exports/eye_how_many/how_many.png").stat().st_size > 10_000
    runs = sorted(Path("exports/eye_how_many").rglob("seed_*.json"))
    before = {path: path.stat().st_mtime_ns for path in runs}
    text = run(*common, "--more", "10").out
    assert "10 more images" in text and "check: from" in text
    assert {path: path.stat().st_mtime_ns for path in runs} == before  # nothing trained again
    runs[0].write_text("{")  # cut off
    held_out = tasks.get("eye").items(data)[0]
    assert json.loads(run(*common, "--more", "10", "--json").out)["lines"] == first["lines"]
    Path(held_out.label).touch()  # a corrected label
    run(*common, "--more", "10")
    assert any(path.stat().st_mtime_ns != before[path] for path in runs[1:])
    run(*common, "--vary", "lr=1e-3", error="study-changed")


def test_how_many_refuses_in_one_line(samples, run, tmp_path):
    common = ["study", "eye", "--data", samples["eye"], "--how-many"]
    run(*common, error="too-few-for-curves")
    run(*common, "--seeds", "1", error="no-seeds")
    with refuses("option-range"):
        how_many("eye", samples["eye"], more=[1.5])
    run(*common, "--vary", "opt=adamw,sgd", code=2)
    run(*common, "--together", code=2)
    run("study", "eye", "--data", samples["eye"], code=2)
    run("study", "eye", "--data", samples["eye"], "--vary", "lr=1,2", "--more", "5", code=2)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    data = tasks.get("mri").sample(tmp_path / "mri", n=60)
    common = ["study", "mri", "--data", data, "--how-many", "--out", "taken"]
    run(*common, error="not-a-study")
    run(*common, "--table", "groups.csv", error="table-without-by")

"""Calibration, the review flag's promise, suspected label errors, evidence, what predict writes."""

import json

import numpy as np
import pytest
import torch
from conftest import rows_of
from PIL import Image

import fastseg
from fastseg.metrics import calibration, risk
from fastseg.report import label_issues
from fastseg.report.evidence import grad_cam, hires_cam

EYE = fastseg.tasks.get("eye")


def test_temperature_corrects_overconfident_logits():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 3)) * 2
    truth = np.array([rng.choice(3, p=p) for p in torch.tensor(honest).softmax(1).numpy()])
    assert calibration.temperature(honest, truth, 500) == pytest.approx(1, abs=0.05)
    assert calibration.temperature(honest * 3, truth, 500) == pytest.approx(3, abs=0.15)
    assert calibration.temperature(honest / 2, truth, 500) == pytest.approx(0.5, abs=0.05)


def test_a_few_images_all_right_leave_the_temperature_near_one():
    logits = np.array([[4.0, 0.0]] * 16)
    assert 0.5 < calibration.temperature(logits, np.zeros(16, dtype=int), 16) < 1


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.15])
def test_the_promised_error_rate_holds_on_new_images(rate):
    """Over many draws of held-out and new images, the mean accepted error is at most the rate."""
    rng, let_through = np.random.default_rng(1), []
    for _ in range(400):
        difficulty = rng.beta(1, 4, 260)
        error = np.clip(difficulty + rng.normal(0, 0.15, 260), 0, 1)
        expected = np.clip(difficulty + rng.normal(0, 0.1, 260), 0, 1)
        threshold = risk.thresholds(expected[:60], error[:60])[str(rate)]
        let_through.append((error[60:] * (expected[60:] <= threshold)).mean())
    assert rate - 0.05 < np.mean(let_through) <= rate + 3 * np.std(let_through) / 20


def test_thresholds_at_their_ends():
    few = risk.thresholds(np.array([0.1, 0.2]), np.array([0.0, 0.0]))
    assert few["0.1"] == -1 and few["0.5"] == 1  # two images can promise no less than 1/3
    tied = risk.thresholds(np.full(99, 0.4), np.array([1.0] * 50 + [0.0] * 49))
    assert tied["0.2"] == -1  # images that look alike are let through together or not at all


def test_expected_error_of_hand_made_probabilities():
    p = np.zeros((2, 4, 4), np.float32)
    p[0], p[1] = 1, 0
    p[:, :2] = np.array([0.2, 0.8])[:, None, None]
    assert risk.expected_error(p, 0) == pytest.approx(1 - 2 * 6.4 / (8 + 6.4))
    assert risk.expected_error(np.array([0.3, 0.7]), None) == pytest.approx(0.3)
    counts = np.array([[8, 0], [2, 6]])
    assert risk.actual_error(counts, 0) == pytest.approx(1 - 2 * 6 / (8 + 6))
    assert risk.actual_error(np.array([[16, 0], [0, 0]]), 0) == 0


def test_planted_label_errors_come_first(samples):
    """Of 16 labels, the shifted, swapped and emptied ones are the most suspected."""
    items = EYE.items(samples["eye"])
    labels = [EYE.label(item) for item in items]
    rng = np.random.default_rng(0)
    planted = {0: np.roll(labels[0], 40, 1), 5: labels[6], 9: np.zeros_like(labels[9])}
    found = []
    for number, label in enumerate(labels):
        logits = 4 * np.eye(4)[label].transpose(2, 0, 1) + rng.normal(0, 1, (4, *label.shape))
        probabilities = torch.tensor(logits, dtype=torch.float32).softmax(0).numpy()
        found.append(
            label_issues.of_image(
                probabilities, planted.get(number, label), EYE.classes, EYE.background
            )
        )
    order = sorted(range(16), key=lambda i: found[i].quality)
    assert set(order[:3]) == set(planted)
    emptied = found[9]
    assert emptied.labelled == "background" and emptied.predicted in ("sclera", "iris", "pupil")
    rows, columns = np.nonzero(labels[9])
    left, top, right, bottom = emptied.box
    assert (
        columns.min() - 2 <= left < right <= columns.max() + 3
        and rows.min() - 2 <= top < bottom <= rows.max() + 3
    )


def test_emptied_masks_that_a_model_has_half_learnt_are_suspected():
    """A pale eye where the label has none is suspected; empty images and good labels are not."""
    probabilities = np.zeros((2, 40, 40), dtype=np.float32)
    probabilities[1, 10:20, 10:20] = 0.4
    probabilities[0] = 1 - probabilities[1]
    label = (probabilities[1] > 0).astype(np.uint8)
    emptied, good, empty = (
        label_issues.of_image(p, mask, ("face", "eye"), 0).quality
        for p, mask in (
            (probabilities, np.zeros_like(label)),
            (probabilities, label),
            (
                np.stack([np.ones_like(label), np.zeros_like(label)]).astype(float),
                np.zeros_like(label),
            ),
        )
    )
    assert emptied < 0.1 < good < empty


def test_a_suspect_region_counts_only_pixels_of_the_class_it_names():
    """Iris and pupil that both look like background are one region; the larger pair is counted."""
    label = np.zeros((20, 20), np.uint8)
    label[5:15, 5:15], label[8:12, 8:12] = 2, 3
    background = np.zeros((4, 20, 20), dtype=np.float32)
    background[0] = 1
    found = label_issues.of_image(background, label, EYE.classes, EYE.background)
    assert (found.labelled, found.predicted) == (EYE.classes[2], EYE.classes[0])
    assert found.pixels == (label == 2).sum() and found.box == (5, 5, 15, 15)


def test_unlabelled_pixels_are_not_suspected():
    probabilities = np.zeros((4, 10, 10), dtype=np.float32)
    probabilities[1] = 1
    assert label_issues.of_image(
        probabilities, np.full((10, 10), 255, np.uint8), EYE.classes
    ).quality == pytest.approx(1)
    sure = label_issues.of_image(np.array([0.1, 0.9]), 0, ("blurred", "sharp"))
    assert (sure.quality, sure.labelled, sure.predicted) == (pytest.approx(0.1), "blurred", "sharp")


def test_fit_puts_temperature_and_thresholds_into_the_card(exports):
    card = json.loads((exports("eye") / "card.json").read_text())
    assert 0.2 <= card["temperature"] <= 10 and set(card["review"]) == {
        str(rate) for rate in risk.RATES
    }
    values = list(card["review"].values())
    assert (
        values == sorted(values) and values[0] == -1
    )  # a higher rate never sends more images to review


def test_predict_writes_probabilities_and_review_flags(exports, samples, run):
    folder = samples["eye"] / "imgs_small"
    run("predict", "eye", folder, "--export", exports("eye"), "--probabilities", "--out", "out")
    first = sorted(folder.iterdir())[0]
    found = np.load(f"out/probabilities/{first.stem}.npz")
    p, mask = found["probabilities"], np.asarray(Image.open(f"out/{first.stem}.png"))
    assert (
        p.dtype == np.float16
        and p.shape == (4, *mask.shape)
        and list(found["classes"]) == list(EYE.classes)
    )
    assert np.abs(p.astype(np.float32).sum(0) - 1).max() < 5e-3
    assert (p.argmax(0) == mask).mean() > 0.999
    rows = rows_of("out/predictions.csv")
    threshold = json.loads((exports("eye") / "card.json").read_text())["review"]["0.1"]
    assert [row["needs_review"] for row in rows] == [
        str(float(row["expected_error"]) > threshold) for row in rows
    ]
    common = ["predict", "eye", folder, "--export", exports("eye")]
    error = run(*common, "--error-rate", "0.01", "--out", "out").err
    (told,) = (line for line in error.splitlines() if "0.01" in line)
    assert not told.startswith("warning: ")  # it is how the promise works, and no fault
    possible = risk.lowest_rate(json.loads((exports("eye") / "card.json").read_text())["review"])
    assert possible and f"--error-rate {possible:g}" in told
    assert {row["needs_review"] for row in rows_of("out/predictions.csv")} == {"True"}
    assert "0.7" in run(*common, "--error-rate", "0.7", error="error-rate").message
    run("predict", "mri", samples["mri"] / "validation", "--export", exports("mri"))
    rows = rows_of("validation_inf_predictions.csv")
    assert all(
        float(row["p_blurred"]) + float(row["p_sharp"]) == pytest.approx(1, abs=1e-5)
        for row in rows
    )
    common = ["predict", "mri", samples["mri"] / "validation", "--export", exports("mri")]
    run(*common, "--probabilities", error="no-overlay")


def test_calibration_changes_no_mask(exports, samples):
    image = sorted((samples["eye"] / "imgs_small").iterdir())[0]
    predictor = fastseg.load(exports("eye"))
    plain = predictor.predict(image)
    predictor.card.temperature = 3.0
    warm = predictor.predict(image)
    assert (plain.codes == warm.codes).all() and warm.probabilities.max(
        0
    ).mean() < plain.probabilities.max(0).mean()


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_evidence_maps(name, exports, samples):
    predictor = fastseg.load(exports(name))
    task = predictor.task
    image, _ = task.image_near(task.items(samples[name])[0], tuple(predictor.card.size))
    method = {"eye": hires_cam, "mri": grad_cam}[name]
    maps = method(predictor, image, list(range(len(task.classes))))
    assert maps.shape == (len(task.classes), *predictor.card.size) and np.isfinite(maps).all()
    assert maps.min() >= 0 and 0 < maps.max() <= 1


def test_the_lowest_error_rate_that_can_be_promised():
    assert risk.lowest_rate({"0.1": -1.0, "0.2": 0.3, "0.3": 1.0}) == 0.2
    assert risk.lowest_rate({"0.1": -1.0}) is None


@pytest.mark.parametrize("images", [1, 5, 8, 9, 40])
def test_too_few_images_or_too_large_errors(images):
    """Only where perfect predictions would promise nothing are the images too few."""
    perfect = risk.thresholds(np.full(images, 0.1), np.zeros(images))["0.1"] < 0
    assert ("too few" in risk.review_obstacle(images, 0.1)) == perfect
    assert ("too large" in risk.review_obstacle(images, 0.1)) != perfect

"""Conformal intervals and prediction-powered means hold as often as they say, with fixed seeds."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from fastseg.measuring.calibration import BETWEEN, OBJECTS, WHOLE, calibrated, compare
from fastseg.measuring.cohorts import group_means
from fastseg.measuring.intervals import Intervals
from fastseg.measuring.rows import Ruler
from fastseg.metrics.cohort import plain_mean, prediction_powered_mean, tuned_mean
from fastseg.metrics.conformal import SCALES, Residuals, kept_scores, residuals_of, scales_of

CLASSES = ("background", "iris", "pupil")


def test_the_half_width_is_the_finite_sample_quantile():
    scores = np.arange(1.0, 20)  # 19 residuals
    found = residuals_of(scores, np.ones((19, 3)), np.arange(19), scores)
    for level, rank in ((0.5, 10), (0.9, 18), (0.95, 19)):
        assert math.ceil(level * 20) == rank
        assert found.half_width(level) == pytest.approx(rank, rel=1e-3)
        assert found.half_width(level) >= rank  # rounding excludes no tie
    assert found.half_width(0.96) == math.inf
    assert Residuals.from_json(found.to_json()) == Residuals(
        **{**vars(found), "bias": 10.0, "spread": float(f"{found.spread:.4g}")}
    )
    assert residuals_of(np.full(3, np.nan), np.ones((3, 3)), np.arange(3)) is None


def test_many_residuals_are_kept_as_a_grid_that_covers_no_less():
    scores = np.random.default_rng(0).exponential(size=5000)
    grid = residuals_of(scores, np.ones((5000, 3)), np.arange(5000), kept=50)
    assert len(grid.scores) == 50 and kept_scores(3) == 100 and kept_scores(200) == 20
    for level in (0.5, 0.83, 0.9, 0.99):
        exact = np.quantile(scores, level)
        assert exact <= grid.half_width(level) <= np.quantile(scores, min(1, level + 0.021)) * 1.01


@pytest.mark.parametrize("scale", SCALES)
def test_the_scale_of_the_narrowest_intervals_is_chosen(scale):
    rng = np.random.default_rng(1)
    size, uncertainty = rng.uniform(10, 100, 300), rng.uniform(0.01, 0.5, 300)
    scales = scales_of(1, np.full(300, 200.0), size, uncertainty)
    residuals = rng.normal(size=300) * scales[:, SCALES.index(scale)] * 0.1
    assert residuals_of(residuals, scales, np.arange(300)).scale == scale


def test_intervals_of_new_images_hold_as_often_as_they_say():
    """With biased predictions whose errors grow with the object."""
    rng = np.random.default_rng(2)
    held = []
    for _ in range(400):
        size = rng.uniform(20, 80, 100)
        residuals = 0.1 * size * rng.normal(0.5, 1, 100)
        scales = scales_of(1, np.full(100, 500.0), size, rng.uniform(0.1, 0.2, 100))
        found = residuals_of(residuals[:60], scales[:60], np.arange(60))
        widths = found.half_width(0.9) * scales[60:, SCALES.index(found.scale)]
        held.append((np.abs(residuals[60:]) <= widths).mean())
    assert 0.88 < np.mean(held) < 0.92


def test_prediction_powered_means_hold_under_a_biased_model():
    """The model finds objects 8 % too large; the mean of predictions alone is wrong."""
    rng = np.random.default_rng(3)
    powered, plain, widths = [], [], []
    for _ in range(1500):
        truth = rng.gamma(20, 2, 230)  # mean 40
        predicted = truth * 1.08 + rng.normal(0, 1.5, 230)
        difference = (truth - predicted)[:30]
        bias, spread = difference.mean(), difference.std(ddof=1)
        mean = prediction_powered_mean(predicted[30:], bias, spread, 30, 0.9)
        powered.append(mean.low <= 40 <= mean.high)
        alone = plain_mean(predicted[30:], 0.9)
        plain.append(alone.low <= 40 <= alone.high)
        labelled = plain_mean(truth[:30], 0.9)
        widths.append((mean.high - mean.low) / (labelled.high - labelled.low))
    assert 0.87 < np.mean(powered) < 0.93
    assert np.mean(plain) < 0.05
    assert np.mean(widths) < 0.6  # of the interval that the labelled images alone would give


def test_objects_of_few_images_give_no_intervals():
    """They are alike, and say nothing of those of other images."""
    scores = np.arange(1.0, 41)
    few = residuals_of(scores, np.ones((40, 3)), np.arange(40) % 8)
    enough = residuals_of(scores, np.ones((40, 3)), np.arange(40) % 9)
    assert (few.half_width(0.9), few.images) == (math.inf, 8)
    assert enough.half_width(0.9) == pytest.approx(37, rel=1e-3)


@pytest.mark.parametrize("noise, narrower", [(0.5, 0.7), (30, 1.1)])
def test_labels_in_a_group_are_weighed_with_its_predictions(noise, narrower):
    """Of 60 images, 20 are labelled: the mean is never much worse than theirs alone."""
    rng = np.random.default_rng(5)
    held, widths = [], []
    for _ in range(1500):
        truth = rng.gamma(20, 2, 60)
        said = truth * 1.2 + rng.normal(0, noise, 60)
        mean = tuned_mean(truth[:20], said[:20], said[20:], 0.9)
        alone = plain_mean(truth[:20], 0.9)
        held.append(mean.low <= 40 <= mean.high)
        widths.append((mean.high - mean.low) / (alone.high - alone.low))
    assert 0.87 < np.mean(held) < 0.93
    assert np.mean(widths) < narrower
    assert (mean.images, mean.labelled) == (60, 20)


def test_means_hold_when_the_model_misses_classes_and_sees_specks():
    rng = np.random.default_rng(6)
    rulers = {WHOLE: Ruler(CLASSES, 0, True), OBJECTS: Ruler(CLASSES, 0, False)}
    pool = []
    for _ in range(24):
        truth, predicted = (np.zeros((40, 40), np.uint8) for _ in range(2))
        truth[disc(40, (20, 20), rng.uniform(10, 18))] = 1
        if rng.uniform() < 0.7:
            predicted[truth > 0] = 1
        predicted[rng.integers(0, 3), rng.integers(0, 40)] = 1
        rows = {
            part: [ruler.rows("", codes)[0] for codes in (predicted, truth)]
            for part, ruler in rulers.items()
        }
        pool.append((compare(CLASSES, 0, predicted, truth, np.full(3, 0.1)), rows))
    held = defaultdict(list)
    for _ in range(30):
        card = calibrated((pool[n][0] for n in rng.integers(0, 24, 60)), CLASSES)
        drawn = list(enumerate(rng.integers(0, 24, 60)))
        for part, measure in ((WHOLE, "area"), (WHOLE, "count"), (OBJECTS, "diameter")):
            rows = [replace(row, image=str(i)) for i, n in drawn for row in pool[n][1][part][0]]
            means = group_means(rows, [], set(), 0.9, part, Intervals(card, 0.9), True)
            mean = next(m.mean for m in means if (m.name, m.measure) == ("iris", measure))
            true = np.mean([of[part][1][0].values[measure] for _, of in pool])
            held[part, measure].append(mean.low <= true <= mean.high)
    assert all(np.mean(shares) > 0.75 for shares in held.values())


def test_the_ends_of_a_zero_are_in_mm():
    images = [
        compare(CLASSES, 0, codes, codes, np.full(3, 0.1))
        for codes in (disc(40, (20, 20), wide).astype(np.uint8) for wide in range(10, 30))
    ]
    card = calibrated(images, CLASSES)
    card["whole"]["iris"]["box_x"] |= {"scale": "image", "scores": "0.1"}
    codes = disc(40, (5, 20), 10).astype(np.uint8)
    ends = {}
    for spacing in (None, (0.5, 0.2)):
        ruler = Ruler(CLASSES, 0, True, (), Intervals(card, 0.9))
        row = ruler.rows("", codes, None, spacing, np.full(3, 0.1))[0][0]
        assert row.values["box_x"] == 0
        ends[spacing] = row.ends["box_x"]
    assert ends[None] == pytest.approx((0, 4)) and ends[0.5, 0.2] == pytest.approx((0, 0.8))


def disc(size, centre, diameter):
    y, x = np.mgrid[:size, :size]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= (diameter / 2) ** 2


def test_residuals_are_those_of_matched_objects_and_of_classes():
    truth, predicted = (np.zeros((100, 100), np.uint8) for _ in range(2))
    truth[disc(100, (30, 30), 30)] = 1
    predicted[disc(100, (32, 30), 30)] = 1
    predicted[80:90, 80:90] = 1  # a false alarm
    truth[60:64] = 255  # unlabelled: what is predicted there counts nothing
    predicted[60:64, :20] = 2
    found = compare(CLASSES, 0, predicted, truth, np.full(3, 0.1))
    residual = {key: value for key, value, _ in found.rows}
    assert residual[OBJECTS, "iris", "centroid_x"] == pytest.approx(-2)
    assert residual[OBJECTS, "iris", "diameter"] == 0
    assert residual[WHOLE, "iris", "area"] == -100
    assert residual[WHOLE, "iris", "count"] == -1
    assert not [key for key in residual if key[1] == "pupil"]
    assert math.isnan(residual[BETWEEN, "", "pupil/iris"])
    assert found.objects == {"iris": (2, 1)}


def test_intervals_scale_with_the_image():
    """Residuals of images of one size give the intervals of the same images at twice the size."""
    rng = np.random.default_rng(4)
    images = []
    for _ in range(30):
        centre, wide = rng.uniform(40, 60, 2), rng.uniform(30, 50)
        truth = disc(100, centre, wide).astype(np.uint8)
        truth[disc(100, centre, wide / 2)] = 2
        predicted = disc(100, centre + rng.normal(0, 1, 2), wide + rng.normal(0, 2)).astype(
            np.uint8
        )
        predicted[disc(100, centre, wide / 2 + rng.normal(0, 2))] = 2
        images.append(compare(CLASSES, 0, predicted, truth, np.full(3, 0.1)))
    kept = calibrated(images, CLASSES)
    intervals = Intervals(kept, 0.9)
    row = dict.fromkeys(kept["whole"]["iris"], 0.0) | {"intensity": math.nan}
    row |= {"diameter": 40.0, "area": 1200.0, "angle": 10.0}
    small = intervals.of_row(WHOLE, "iris", row, 100, 0.1)
    large = intervals.of_row(WHOLE, "iris", row | {"diameter": 80.0, "area": 4800.0}, 200, 0.1)
    for name, power in (("diameter", 1), ("area", 2)):
        widths = [np.diff(ends[name])[0] for ends in (small, large)]
        assert widths[1] == pytest.approx(widths[0] * 2**power)
    assert math.isnan(small["intensity"][0])
    assert kept["found"]["iris"] == 1 and 0.9 < kept["found"]["pupil"] < 1  # by overlap

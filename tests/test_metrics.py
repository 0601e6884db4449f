"""Every figure against a hand-made case and an independent library; intervals and groups."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refuses
from scipy import ndimage
from sklearn import metrics as sk

import fastseg
from fastseg.cli import results
from fastseg.evaluation.scores import ClassScore, MaskScore, Scores, scores_of
from fastseg.metrics import boundaries, figures
from fastseg.metrics.calibration import BINS
from fastseg.tasks import Item

TASK = fastseg.tasks.get("eye")
C = len(TASK.classes)


def blobs(seed: int, size=(60, 80)) -> np.ndarray:
    """Smooth random codes with all classes."""
    rng = np.random.default_rng(seed)
    return (
        ndimage.gaussian_filter(rng.normal(size=(C, *size)), (0, 4, 4)).argmax(0).astype(np.uint8)
    )


def pairs(n: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for seed in range(n):
        truth = blobs(seed)
        kept = np.random.default_rng(seed).random(truth.shape) < 0.9
        found.append(
            (truth, np.where(kept, np.roll(truth, seed, 1), blobs(seed + 100)).astype(np.uint8))
        )
    truth, predicted = found[-1]
    found.append(
        (np.where(truth == 3, 0, truth), predicted)
    )  # a class that is absent from the truth
    return found


def scores(found, task=TASK) -> Scores:
    return scores_of(
        task,
        [
            MaskScore(
                Item(Path(f"set_{i % 2}_frame_{i}.jpg"), Path("m.png"), None, f"set_{i % 2}"),
                f"image_{i}",
                figures.confusion(t, p, C),
                boundaries.distances(t, p, C),
            )
            for i, (t, p) in enumerate(found)
        ],
    )


def test_counts_agree_with_torchmetrics_and_scikit_learn():
    from torchmetrics import classification as tm

    found = pairs()
    truth, predicted = (np.concatenate([pair[i].reshape(-1) for pair in found]) for i in (0, 1))
    got = scores(found).metrics()
    arguments = dict(num_classes=C, average="none")
    for name, metric in (
        ("iou", tm.MulticlassJaccardIndex(**arguments)),
        ("dice", tm.MulticlassF1Score(**arguments)),
        ("precision", tm.MulticlassPrecision(**arguments)),
        ("recall", tm.MulticlassRecall(**arguments)),
        ("specificity", tm.MulticlassSpecificity(**arguments)),
    ):
        theirs = metric(torch.from_numpy(predicted), torch.from_numpy(truth))
        assert [values[name] for values in got["classes"].values()] == pytest.approx(
            theirs.tolist(), abs=1e-6
        ), name
    assert got["confusion"] == sk.confusion_matrix(truth, predicted).tolist()
    assert got["pixel_accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert got["frequency_weighted_iou"] == pytest.approx(
        sk.jaccard_score(truth, predicted, average="weighted")
    )
    for code, values in enumerate(got["classes"].values()):
        assert values["pixel_accuracy"] == pytest.approx(
            sk.accuracy_score(truth == code, predicted == code)
        )
    assert got["mean_foreground"]["iou"] == pytest.approx(
        np.mean(sk.jaccard_score(truth, predicted, average=None)[1:])
    )


@pytest.mark.parametrize("number", range(7))
def test_distances_agree_with_monai_and_scipy(number):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    truth, predicted = pairs()[number]
    ours = boundaries.distances(truth, predicted, C)
    hot = [
        torch.nn.functional.one_hot(torch.from_numpy(codes.astype(np.int64)), C).movedim(-1, 0)[
            None
        ]
        for codes in (predicted, truth)
    ]
    far = compute_hausdorff_distance(*hot, include_background=True, percentile=95)[0].numpy()
    near = compute_average_surface_distance(*hot, include_background=True, symmetric=True)[
        0
    ].numpy()
    for code in range(C):
        if not (truth == code).any():
            assert np.isnan(ours[code, 4:]).all()
            continue
        assert ours[code, 4:] == pytest.approx((far[code], near[code]), abs=1e-4)
        edges = [boundaries.outlines(codes) & (codes == code) for codes in (predicted, truth)]
        theirs = [
            (ndimage.distance_transform_edt(~there)[here] <= boundaries.TOLERANCE).mean()
            for here, there in (edges, edges[::-1])
        ]
        f1 = figures.boundary(figures.boundary_sums(ours))["boundary_f1"][code]
        assert f1 == pytest.approx(2 * theirs[0] * theirs[1] / sum(theirs))


def test_hand_made_squares():
    truth, predicted = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[10:20, 10:20], predicted[10:20, 15:25] = 1, 1  # half of each overlaps
    got = scores([(truth, predicted)]).metrics()["classes"]
    assert got["sclera"]["iou"] == pytest.approx(50 / 150) and got["sclera"][
        "dice"
    ] == pytest.approx(0.5)
    assert got["sclera"]["precision"] == got["sclera"]["recall"] == 0.5
    assert got["sclera"]["specificity"] == pytest.approx(1450 / 1500)
    assert got["sclera"]["hausdorff95"] == 5
    assert (
        got["iris"]["iou"] is None
        and got["iris"]["boundary_f1"] is None
        and got["iris"]["specificity"] == 1
    )
    same = scores([(truth, truth)]).metrics()["classes"]["sclera"]
    assert (
        same["iou"],
        same["boundary_f1"],
        same["hausdorff95"],
        same["mean_surface_distance"],
    ) == (1, 1, 0, 0)
    missed = scores([(truth, np.zeros_like(truth))]).metrics()["classes"]["sclera"]
    assert (missed["iou"], missed["boundary_f1"], missed["precision"], missed["hausdorff95"]) == (
        0,
        0,
        None,
        None,
    )


def test_unlabelled_pixels_count_nowhere():
    truth, predicted = blobs(1), blobs(2)
    truth[:, :30] = 255
    changed = predicted.copy()
    changed[:, :29] = 3  # beyond the pixels that touch labelled ones
    assert (figures.confusion(truth, predicted, C) == figures.confusion(truth, changed, C)).all()
    assert figures.confusion(truth, predicted, C).sum() == 60 * 50
    edges = boundaries.distances(truth, predicted, C)
    assert edges == pytest.approx(boundaries.distances(truth, changed, C), nan_ok=True)


def test_absent_classes_are_left_out_of_an_images_mean():
    found = pairs()
    rows = [row for row in scores(found).rows() if row["image"] == "image_6"]
    by_class = {row["class"]: row for row in rows}
    assert np.isnan(by_class["pupil"]["dice"]) and by_class["pupil"]["predicted_pixels"] > 0
    assert by_class["foreground mean"]["dice"] == pytest.approx(
        (by_class["sclera"]["dice"] + by_class["iris"]["dice"]) / 2
    )
    means = [row["dice"] for row in scores(found).rows() if row["class"] == "foreground mean"]
    assert scores(found).metrics()["mean_of_images"]["dice"] == pytest.approx(np.mean(means))


def test_classification_agrees_with_scikit_learn_and_torchmetrics():
    from torchmetrics.classification import MulticlassCalibrationError

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    logits = rng.normal(size=(200, 2)) + np.eye(2)[truth]
    p = torch.tensor(logits).softmax(1).numpy()
    p[:50] = p[50:100]  # equal scores
    got = figures.to_json(figures.classification(truth, p, ("blurred", "sharp"), np.ones(200)))
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(truth, p.argmax(1)))
    assert got["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, p[:, 1]))
    assert got["pr_auc"] == pytest.approx(sk.average_precision_score(truth, p[:, 1]))
    assert got["brier"] == pytest.approx(sk.brier_score_loss(truth, p[:, 1]))
    assert got["classes"]["sharp"]["f1"] == pytest.approx(sk.f1_score(truth, p.argmax(1)))
    theirs = MulticlassCalibrationError(2, n_bins=BINS, norm="l1")(
        torch.tensor(p), torch.tensor(truth)
    )
    assert got["expected_calibration_error"] == pytest.approx(float(theirs), abs=1e-6)
    one_class = figures.to_json(
        figures.classification(np.ones(5, dtype=int), p[:5], ("blurred", "sharp"), np.ones(5))
    )
    assert one_class["roc_auc"] is None and one_class["pr_auc"] is None
    weights = rng.integers(0, 4, 200).astype(float)
    weighted = figures.to_json(figures.classification(truth, p, ("blurred", "sharp"), weights))
    assert weighted["roc_auc"] == pytest.approx(
        sk.roc_auc_score(truth, p[:, 1], sample_weight=weights)
    )
    assert weighted["pr_auc"] == pytest.approx(
        sk.average_precision_score(truth, p[:, 1], sample_weight=weights)
    )


def test_intervals_are_seeded_and_hold_the_figure():
    found = scores(pairs(20))
    got, again = found.metrics(200), found.metrics(200)
    assert got == again and got["intervals"] != found.metrics(200, seed=1)["intervals"]
    low, high = got["intervals"]["mean_foreground"]["dice"]
    assert low < got["mean_foreground"]["dice"] < high
    for name, values in got["classes"].items():
        for key, ends in got["intervals"]["classes"][name].items():
            assert ends is None or ends[0] - 1e-9 <= values[key] <= ends[1] + 1e-9, (name, key)


def test_intervals_cover_the_truth():
    """Of 150 datasets with accuracy 0.8, about 95 % have 0.8 in their interval."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(150):
        images = [
            ClassScore(
                Item(Path("a.png"), 1),
                "a",
                truth=1,
                probabilities=np.array([0.2, 0.8] if right else [0.8, 0.2]),
            )
            for right in rng.random(40) < 0.8
        ]
        low, high = figures.intervals(
            scores_of(fastseg.tasks.get("mri"), images).resampled(100, 0)
        )["accuracy"]
        held += low <= 0.8 <= high
    assert 130 <= held <= 149


def test_paired_comparison_sees_what_unpaired_intervals_hide():
    """Slightly better on every image: a significant difference, though single intervals overlap."""
    better, worse = [], []
    for seed in range(30):
        truth = blobs(seed)
        noise = np.random.default_rng(seed).random(truth.shape)
        wrong = (truth + 1) % C
        share = 0.02 + 0.3 * seed / 30  # images differ much
        better.append((truth, np.where(noise < share, wrong, truth)))
        worse.append((truth, np.where(noise < share + 0.01, wrong, truth)))
    ours, theirs = scores(better), scores(worse)
    a, b = (s.metrics(300)["intervals"]["mean_foreground"]["dice"] for s in (ours, theirs))
    assert b[1] > a[0]  # single intervals overlap
    low, high = ours.compare(theirs, 300)["intervals"]["mean_foreground"]["dice"]
    assert 0 < low < high < 0.05
    assert ours.compare(ours, 100)["intervals"]["mean_foreground"]["dice"] == [0, 0]


def test_groups_and_rows(tmp_path):
    found = scores(pairs())
    groups = found.by(lambda item: item.group)
    assert {name: part["images"] for name, part in groups.items()} == {"set_0": 4, "set_1": 3}
    counts = np.sum([part["confusion"] for part in groups.values()], axis=0)
    assert counts.tolist() == found.metrics()["confusion"]
    assert len(list(found.rows())) == 7 * (C + 1)


def test_a_mask_of_another_size_is_named():
    class Half:
        labels = np.zeros((5, 5), np.uint8)

    item, truth = Item(Path("a.jpg"), Path("m.png")), np.zeros((4, 4), np.uint8)
    with refuses("size-mismatch", "m.png", "5x5"):
        scores_of(TASK).judge(item, "a.jpg", Half(), truth)


def test_classes_that_are_never_found_are_named(capsys):
    """Those that labels have: a class that no label has cannot be found."""
    task = fastseg.tasks.get("eye")
    truth, predicted = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[:5], predicted[:5], truth[5:8], predicted[12:] = 1, 1, 2, 3
    score = MaskScore(
        Item(Path("a.png"), Path("a.png")),
        "a.png",
        figures.confusion(truth, predicted, 4),
        boundaries.distances(truth, predicted, 4),
    )
    found = scores_of(task, [score]).metrics()
    assert figures.never_found(found) == ["iris"]
    results.figures(found)
    assert "never found: iris" in capsys.readouterr().out

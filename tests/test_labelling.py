"""What to label next, and certified labels."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCH, refuses, rows_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.corrections import selection
from fastseg.corrections.audit import left_to_audit
from fastseg.corrections.certificate import Plan, at_best, certify
from fastseg.corrections.labelled import Predicted
from fastseg.corrections.looks import Looks
from fastseg.corrections.store import Corrections
from fastseg.exports.card import read_card
from fastseg.inference.predictor import Predictor
from fastseg.metrics.bounds import certified_part, mean_bound
from fastseg.models.factory import classifier

AUDITS, IMAGES, DELTA = 500, 1000, 0.05
SLACK = 0.02  # two standard errors of a share of 5 % in 500


def looks(errors, shares, features) -> Looks:
    names = [Path(f"{i}.png") for i in range(len(errors))]
    return Looks(names, np.array(errors), np.array(shares), np.array(features), {})


def test_orders_choose_what_they_say():
    line = np.array([[0.0], [1.0], [1.0], [2.0], [9.0]])
    # farthest from the labelled one at 0 is 9, then 2 (2 away), then one of the copies at 1
    assert selection.by_diversity(line, 3, np.array([[0.0]])).tolist() == [4, 3, 1]
    assert selection.by_diversity(line, 9).tolist() == [3, 4, 0, 1, 2]  # each once, copies last
    assert selection.by_diversity(line[:0], 2).tolist() == []
    seen = looks([0.1, 0.9, 0.8, 0.7, 0.2], np.zeros((5, 2)), line)
    assert selection.by_error(seen).tolist() == [1, 2, 3, 4, 0]
    # among the three of the largest errors, the one farthest from the labelled image
    assert selection.by_error_and_diversity(seen, 1, np.array([[0.0]])).tolist() == [3]
    shares = np.array([[0.5, 0.5, 0.0], [0.96, 0.0, 0.04], [0.1, 0.9, 0.0]])
    # class 2 is rare: 4 % of it count more than 90 % of the common class 1
    common = np.array([0.5, 0.49, 0.01])
    assert selection.rarity(shares, 0, common).argsort()[::-1].tolist() == [1, 2, 0]
    assert selection.rarity(np.eye(3)[[0, 0]], 0).tolist() == [0, 0]
    assert sorted(selection.at_random(50, 1)) == list(range(50))


@pytest.mark.parametrize("arch", [ARCH, "test_vit", "test_convnext"])
def test_features_are_one_row_an_image(arch):
    network, _ = classifier(arch, 2, "none")
    network.eval()
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        features = network.features(images)
        assert torch.equal(features[:1], network.features(images[:1]))
    assert features.shape == (2, network.body.model.num_features)
    assert not torch.equal(features[0], features[1])


@pytest.fixture
def half_labelled(samples, tmp_path):
    """A copy of the eye sample whose last six images have no mask."""
    data = tmp_path / "eye_data"
    shutil.copytree(samples["eye"], data)
    for mask in sorted((data / "masks_small").iterdir())[-6:]:
        mask.unlink()
    return data


def test_next_orders_the_images_without_a_label(half_labelled, exports, run, monkeypatch):
    common = ["next", "eye", "--data", half_labelled, "--export", exports("eye"), "--json"]
    without = {image.name for image in Corrections("eye", half_labelled).unlabelled()}
    orders = {}
    for by in ("auto", "mixed", "error", "diversity", "rarity", "random"):
        found = json.loads(run(*common, "--n", "4", "--by", by).out)
        orders[by] = [Path(row["image"]).name for row in found]
        assert len({*orders[by]}) == 4 and {*orders[by]} <= without
        assert all(0 <= row["expected_error"] <= 1 and row["reason"] for row in found)
    every = json.loads(run(*common, "--n", "99", "--by", "error").out)
    errors = [row["expected_error"] for row in every]
    assert len(errors) == 6 and errors == sorted(errors, reverse=True)
    assert {*orders["error"]} == {Path(row["image"]).name for row in every[:4]}
    table = run(*common[:-1], "--n", "2").out
    assert f"fastseg fit --from {exports('eye')}" in table and orders["auto"][0] in table
    both = json.loads(run(*common, "--n", "99", "--by", "error", "--labelled").out)
    assert len(both) == 16 and sum(row["labelled"] for row in both) == 10

    def never(*_):
        raise AssertionError("was computed again")

    monkeypatch.setattr(Predictor, "logits", never)  # all rows are in the cache, by content
    moved = half_labelled / "imgs_small" / min(without)
    moved.rename(moved.with_name("set_99_frame_0.jpg"))
    assert len(json.loads(run(*common, "--n", "99").out)) == 6


def test_next_takes_a_folder_of_photographs_and_leaves_out_damaged_ones(
    samples, exports, run, tmp_path
):
    photos = tmp_path / "photos"
    others = tasks.get("mri").sample(tmp_path / "others", seed=9)  # not those with a label
    shutil.copytree(others / "train", photos)
    (photos / "broken.png").write_bytes(b"no image")
    result = run("next", photos, "--export", exports("mri"), "--n", "3", "--json")
    assert len(json.loads(result.out)) == 3 and "broken.png" in result.err
    rare = json.loads(
        run("next", photos, "--export", exports("mri"), "--by", "rarity", "--json").out
    )
    assert all(abs(sum(row["shares"].values()) - 1) < 1e-4 for row in rare)


def test_the_folder_of_the_data_is_not_one_of_photographs(samples, exports, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye_data")
    export = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye")
    values = json.loads((export / "card.json").read_text())
    (export / "card.json").write_text(json.dumps({**values, "data": "../../eye_data"}))
    run("next", data, "--export", export, error="no-unlabelled")  # all have a label
    sorted((data / "masks_small").iterdir())[-1].unlink()
    told = run("next", data, "--export", export, "--n", "1").out
    assert "copy" not in told and "label it" in told
    written = run("predict", export, data / "imgs_small", "--out", tmp_path / "out")
    assert "copy" not in written.err and "need review" in written.err


def test_next_leaves_out_what_would_never_train(half_labelled, exports, run, tmp_path):
    photos, held_out = tmp_path / "photos", read_card(exports("eye")).valid_files
    photos.mkdir()
    shutil.copy(half_labelled / held_out[0], photos / "copy.jpg")
    with Image.open(half_labelled / held_out[1]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.png")
    trains = next(
        image
        for image in sorted((half_labelled / "imgs_small").iterdir())
        if f"imgs_small/{image.name}" not in held_out
    )
    shutil.copy(trains, photos / "labelled.jpg")  # it needs no other label
    common = ["next", photos, "--export", exports("eye"), "--data", half_labelled]
    run(*common, error="no-unlabelled")
    new = sorted((half_labelled / "imgs_small").iterdir())[-1]
    new.rename(photos / new.name)
    result = run(*common, "--json")
    assert [Path(row["image"]).name for row in json.loads(result.out)] == [new.name]
    assert "3 images are left out" in result.err
    assert not (half_labelled / ".fastseg").exists()  # asking writes nothing
    (photos / new.name).write_bytes(b"damaged")
    told = run(*common, error="unreadable-image")
    assert told.err.count(new.name) == 1


def test_next_refuses_in_one_line(samples, exports, run, tmp_path):
    common = ["next", "eye", "--data", samples["eye"], "--export", exports("eye")]
    run(*common, error="no-unlabelled")
    near = run(*common, "--by", "eror", error="unknown-order")
    assert near.details["suggested"][0] == "error"
    with refuses("no-such-path"):
        fastseg.next_images("eye", export=exports("eye"), photos=tmp_path / "none")
    with refuses("option-range"):
        fastseg.next_images("eye", samples["eye"], exports("eye"), 0)


def populations():
    """Yield errors of whole folders: small, mixed, rare and large ones, and none at all."""
    rng = np.random.default_rng(0)
    yield np.clip(rng.gamma(1.2, 0.04, IMAGES), 0, 1)
    yield np.where(rng.random(IMAGES) < 0.07, rng.uniform(0.3, 1, IMAGES), 0.01)
    yield (rng.random(IMAGES) < 0.03).astype(float)
    yield rng.beta(2, 5, IMAGES)
    yield np.zeros(IMAGES)


@pytest.mark.parametrize("count", [60, 100, 300])
def test_the_bound_holds_in_500_audits_and_is_not_vacuous(count):
    rng = np.random.default_rng(1)
    for errors in populations():
        drawn = np.array([rng.permutation(IMAGES)[:count] for _ in range(AUDITS)])
        bounds = mean_bound(errors[drawn], IMAGES, DELTA)
        assert np.mean(bounds >= errors.mean()) >= 1 - DELTA - SLACK
        # Serfling's form of Hoeffding's bound, Annals of Statistics 2 (1974), corollary 1.1
        width = np.sqrt((1 - (count - 1) / IMAGES) * np.log(1 / DELTA) / (2 * count))
        assert np.mean(bounds - errors.mean()) < 0.85 * width


def test_an_audit_of_all_is_exact_and_of_none_says_nothing():
    errors = np.random.default_rng(0).random(50)
    assert abs(mean_bound(errors, 50, DELTA) - errors.mean()) < 1e-9
    assert mean_bound(errors[:0], 50, DELTA) == 1
    one_wrong = np.zeros(50)
    one_wrong[7] = 1
    assert mean_bound(np.zeros(50), 1000, 0.05) < mean_bound(one_wrong, 1000, 0.05)
    # more confidence costs width
    assert mean_bound(one_wrong, 1000, 0.05) < mean_bound(one_wrong, 1000, 0.01)


@pytest.mark.slow
def test_the_certified_part_is_rarely_wrong_in_500_audits():
    rng = np.random.default_rng(2)
    sizes, wrong = [], 0
    for _ in range(AUDITS):
        # a folder whose easy images are near the limit, with expected errors that say little
        easy = rng.uniform(0, 0.13, IMAGES)
        errors = np.where(rng.random(IMAGES) < 0.3, rng.uniform(0.2, 0.8, IMAGES), easy)
        expected = np.clip(errors * rng.uniform(0.3, 1.2, IMAGES), 0, 1)
        drawn = rng.permutation(IMAGES)[:150]
        found = certified_part(expected, drawn, errors[drawn], 0.1, DELTA)
        sizes.append(found.size)
        first = np.argsort(expected, kind="stable")[: found.size]
        wrong += bool(found.size) and errors[first].mean() > 0.1
    assert wrong / AUDITS <= DELTA + SLACK
    assert np.median(sizes) >= 400  # some 700 have a mean error of at most 0.1
    none = certified_part(np.full(9, 0.5), np.arange(5), np.full(5, 0.5), 0.1, DELTA)
    assert none.size == 0


@pytest.fixture
def photos(samples, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(samples["eye"] / "imgs_small", folder)
    return folder


def correct(samples, data: Path, names: list[str]) -> None:
    """Correct labels as a person does who knows the truth: by files."""
    for name in names:
        truth = samples["eye"] / "masks_small" / f"{Path(name).stem}.png"
        Image.open(truth).save(data / "masks" / truth.name)


def test_label_certifies_after_an_audit_of_files(samples, photos, exports, run):
    common = ["label", photos, "--export", exports("eye"), "--audit", "10", "--error", "0.4"]
    begun = json.loads(run(*common, "--json").out)
    out, data = Path(begun["out"]), Path(begun["data"])
    assert begun["at_best"]["bound"] == mean_bound(np.zeros(10), 16, DELTA)
    assert out.name == "photos_labelled" and begun["certificate"] is None
    assert len({*begun["sample"]}) == len(begun["left"]) == 10
    assert {row["state"] for row in rows_of(out / "labels.csv")} == {"not certified yet"}
    assert tasks.get(data).items(data)  # a data folder, to be corrected and trained on
    before = {path: path.read_bytes() for path in (data / "masks").iterdir()}
    correct(samples, data, begun["sample"])
    done = json.loads(run(*common, "--finish", "--json").out)
    certificate, rows = done["certificate"], rows_of(out / "labels.csv")
    assert done["sample"] == begun["sample"] and done["left"] == []
    assert certificate["audited"] == 10 and certificate["images"] == 16 == len(rows)
    assert 0 < certificate["found"] <= certificate["bound"] <= 1
    found = [float(row["error"]) for row in rows if row["error"]]
    assert len(found) == 10 and np.isclose(np.mean(found), certificate["found"])
    lost = certificate["bound"] - sum(found) / 16
    assert np.isclose(certificate["corrected_bound"], max(0, lost))
    assert {row["image"] for row in rows if row["audited"] == "True"} == {
        str(photos / name) for name in begun["sample"]
    }
    assert all(row["source"].startswith("eye ") for row in rows)
    written = json.loads((out / "audit.json").read_text())
    assert written["certificate"] == certificate and done["at_best"] is None
    untouched = [path for path in before if path.stem not in {Path(n).stem for n in done["sample"]}]
    assert untouched and all(path.read_bytes() == before[path] for path in untouched)
    for changed in (("--audit", "9"), ("--error", "0.3"), ("--seed", "1"), ("--confidence", "0.9")):
        run(*common, *changed, error="audit-changed")


def test_label_takes_what_the_app_saved(samples, photos, exports, run):
    common = ["label", photos, "--export", exports("eye"), "--audit", "3", "--json"]
    begun = json.loads(run(*common).out)
    data = Path(begun["data"])
    assert [path.name for path in left_to_audit(data)] == begun["left"]
    corrections = Corrections(data, data)
    for name in begun["left"][:2]:
        truth = tasks.get("eye").decode(samples["eye"] / "masks_small" / f"{Path(name).stem}.png")
        corrections.save(data / "images" / name, truth, action="audited", by="Ann", seconds=9)
    assert json.loads(run(*common).out)["left"] == begun["left"][2:]
    assert [path.name for path in left_to_audit(data)] == begun["left"][2:]
    last = data / "images" / begun["left"][2]
    corrections.save(last, corrections.label(last), action="audited", by="Ann", seconds=2)
    done = json.loads(run(*common).out)
    rows = {Path(row["image"]).name: row for row in rows_of(Path(done["out"]) / "labels.csv")}
    assert done["certificate"]["audited"] == 3 and float(rows[last.name]["error"]) == 0
    assert float(rows[begun["left"][0]]["error"]) > 0 and left_to_audit(data) == []
    review = next(name for name, row in rows.items() if row["state"] == "review")
    corrections.save(data / "images" / review, truth, action="corrected", by="Ann", seconds=2)
    again = json.loads(run(*common).out)
    assert again["certificate"]["review"] == done["certificate"]["review"] - 1
    assert again["certificate"]["bound"] == done["certificate"]["bound"]
    assert left_to_audit(photos) == []


def test_what_an_audit_can_give_at_best_is_said_when_it_is_drawn():
    predicted = [Predicted(Path(f"{i}"), f"{i}", i / 4000, "", "") for i in range(200)]
    order = np.random.default_rng(0).permutation(200)

    def plan(count: int) -> Plan:
        names = [predicted[i].name for i in order[:count]]
        return Plan("", "", 200, 0.05, 0.95, 0, names, "", count)

    few = at_best(plan(20), predicted, order)
    assert few.certified == 0 and few.bound > 0.05 and 20 < few.needed < 200
    assert str(few.needed) in few.sentence(plan(20))
    perfect = {name: 0.0 for name in plan(few.needed).sample}
    assert certify(plan(few.needed), predicted, perfect, {*perfect}).part.size
    fewer = {name: 0.0 for name in plan(few.needed - 1).sample}
    assert not certify(plan(few.needed - 1), predicted, fewer, {*fewer}).part.size
    assert at_best(plan(few.needed), predicted, order).certified


def test_an_audit_of_all_images_keeps_the_number_that_was_asked_for(photos, exports, run):
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    common = ["label", photos, "--export", exports("eye"), "--finish"]
    run(*common, "--audit", "100", "--json")
    assert "--audit 100" in run(*common, "--audit", "3", error="audit-changed").message
    file = photos.with_name("photos_labelled") / "audit.json"
    document = json.loads(file.read_text())
    del document["plan"]["asked"]  # as an earlier version wrote it
    file.write_text(json.dumps(document))
    assert json.loads(run(*common, "--audit", "3", "--json").out)["certificate"]["audited"] == 1


def test_label_of_a_task_that_draws_overlays_has_masks_to_correct(samples, exports, run, tmp_path):
    images = next(iter(tasks.get("surfaces").items(samples["surfaces"]))).image.parent
    photos = tmp_path / "rooms"
    shutil.copytree(images, photos, ignore=shutil.ignore_patterns("*.png"))
    common = ["label", photos, "--export", exports("surfaces"), "--audit", "2"]
    done = json.loads(run(*common, "--finish", "--json").out)
    assert done["certificate"]["found"] == 0  # nobody corrected anything


def test_labels_of_classes_are_audited_in_a_data_folder(samples, exports, run, tmp_path):
    photos = tmp_path / "slices"
    shutil.copytree(samples["mri"] / "train", photos)
    (photos / "subjects.tsv").unlink()
    common = ["label", photos, "--export", exports("mri"), "--audit", "99", "--json"]
    begun = json.loads(run(*common).out)
    data = Path(begun["data"])
    rows = rows_of(data / "classes.csv")
    items = tasks.get(data).items(data)
    assert [item.image.name for item in items] == sorted(begun["sample"])
    store = Corrections(tasks.get(data), data)
    first, *others = begun["left"]
    wrong = 1 - store.label(data / "images" / first)
    store.save(data / "images" / first, wrong, action="audited", by="Ann", seconds=2)
    assert json.loads(run(*common).out)["left"] == others
    for name in others:
        label = store.label(data / "images" / name)
        store.save(data / "images" / name, label, action="audited", by="Ann", seconds=2)
    done = json.loads(run(*common).out)
    assert np.isclose(done["certificate"]["bound"], 1 / len(rows))  # all were looked at
    table = data / "classes.csv"
    table.write_text(table.read_text().replace("sharp", "shrap"))
    run(*common, error="unknown-class")
    # and the files may be corrected with any other tool
    table.write_text(table.read_text().replace("shrap", "sharp"))
    run("check", data)


def test_label_refuses_in_one_line(photos, exports, run, tmp_path):
    common = ["label", photos, "--export", exports("eye")]
    run("label", tmp_path / "none", "--export", exports("eye"), error="no-such-path")
    run(*common, "--error", "1", error="option-range")
    run(*common, "--confidence", "0.2", error="option-range")
    run(*common, "--audit", "0", code=2)
    out = tmp_path / "other"
    out.mkdir()
    (out / "audit.json").write_text("{}")
    run(*common, "--out", out, error="not-an-audit")
    (out / "audit.json").unlink()
    (out / "png").mkdir()
    (out / "png" / "corrections.csv").touch()  # nobody's work is replaced
    run(*common, "--out", out, error="holds-corrections")


def test_predict_and_next_say_where_wrong_images_are_corrected(samples, exports, run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"strange_{number}.png")
    told = run("next", photos, "--export", exports("eye"), "--data", samples["eye"]).out
    assert str(samples["eye"] / "imgs_small") in told
    out = tmp_path / "out"
    result = run("predict", "eye", photos, "--out", out, "--export", exports("eye"))
    with (out / "predictions.csv").open(newline="") as file:
        count = sum(row["needs_review"] == "True" for row in csv.DictReader(file))
    assert ("fastseg app" in result.err) == (count > 0)
    result = run("predict", "eye", photos, "--out", out, "--export", exports("eye"),
                 "--error-rate", "0.01")  # fmt: skip
    with (out / "predictions.csv").open(newline="") as file:
        count = sum(row["needs_review"] == "True" for row in csv.DictReader(file))
    assert count > 0 and "fastseg app" in result.err and f"{count} image" in result.err

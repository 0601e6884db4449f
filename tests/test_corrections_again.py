"""`fit --from`: trains on, keeps the earlier export, compares both, and reports corrections."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, missing, refuses, rows_of

import fastseg
from fastseg import tasks
from fastseg.cli import results
from fastseg.corrections.favoured import accepted_predictions, favour_of
from fastseg.corrections.pins import (
    Pin,
    Pins,
    check_pins,
    corrected_images,
    record_held,
    source_of,
)
from fastseg.corrections.store import Corrections
from fastseg.data.assigning import TRAIN, VALID
from fastseg.data.images import save_image
from fastseg.data.parts import Ledger
from fastseg.errors import ModelError
from fastseg.evaluation.run import trained_on
from fastseg.exports.card import read_card, work_of
from fastseg.exports.earlier import keep
from fastseg.learners.options import FitOptions
from fastseg.training.resume import interruptible
from fastseg.utils.io import name_below
from fastseg.utils.locks import write_lock

QUICK = ("--epochs", "1", "--freeze-epochs", "0", "--bs", "4")


def copied(name: str, samples, exports, folder: Path) -> tuple[Path, Path]:
    """Return copies of a sample and of its export, in data/ and exports/ of a folder."""
    data = shutil.copytree(samples[name], folder / "data" / name)
    export = shutil.copytree(exports(name), folder / "exports" / name)
    values = json.loads((export / "card.json").read_text())
    (export / "card.json").write_text(json.dumps({**values, "data": f"../../data/{name}"}))
    return data, export


def patched(codes: np.ndarray, rows: slice, to) -> np.ndarray:
    changed = codes.copy()
    changed[rows] = to
    return changed


def test_a_correction_holds_if_half_of_what_was_changed_is_right(samples, exports, tmp_path):
    data, export = copied("eye", samples, exports, tmp_path)
    task, predictor = tasks.get("eye"), fastseg.load(export)
    store = Corrections(task, data, export)
    images = [item.image for item in task.items(data)][:4]
    now = [predictor.predict(image).codes for image in images]
    wrong = [(codes + 1) % 4 for codes in now]
    done = dict(action="corrected", by="A", seconds=1)
    # the person corrected an earlier prediction: the export is right now in 12 of 20, or 8, rows
    rows = slice(0, 20)
    for codes, image, right in zip(now, images, (12, 8)):
        label = patched(codes, slice(0, 20 - right), wrong[0][: 20 - right])
        store.save(image, label, **done, prediction=patched(label, rows, (label[rows] + 2) % 4))
    # not a pin: accepted as it was predicted, and labelled without a prediction
    store.save(images[2], now[2], action="accepted", by="A", seconds=1, prediction=now[2])
    store.save(images[3], wrong[3], **done)
    pins = check_pins(task, data, export)
    names = [name_below(data, image) for image in images]
    assert (pins.held, pins.total) == (1, 2)
    assert pins.not_learned == [names[1]] and pins.came_back == []
    assert [round(pin.right, 1) for pin in pins.pins] == [0.6, 0.4]
    assert pins.pins[0].pixels == 20 * now[0].shape[1]
    # it held under an earlier export: then it came back
    record_held(data, Pins("x", [Pin(names[1], 1, 9, 1.0, False, False)]), "x 123")
    pins = check_pins(task, data, export)
    assert pins.came_back == [names[1]] and pins.not_learned == []
    assert missing([1, 2], pins.text) == [] and json.loads(json.dumps(pins.to_json()))
    # a new correction of the image is another pin
    store.save(images[1], wrong[1], **done, prediction=now[1])
    assert check_pins(task, data, export).not_learned == [names[1]]
    assert rows_of(data / ".fastseg" / "pins.csv")[0]["image"] == names[1]


def test_what_nobody_changed_is_no_pin(samples, exports, tmp_path):
    data, export = copied("eye", samples, exports, tmp_path)
    task, predictor = tasks.get("eye"), fastseg.load(export)
    store = Corrections(task, data, export)
    image = task.items(data)[0].image
    first, now = store.label(image), predictor.predict(image).codes
    done = dict(by="A", seconds=1, prediction=(first + 1) % 4)
    store.save(image, first, action="accepted", **done)  # the label is right, the prediction not
    assert check_pins(task, data, export).total == 0
    store.save(image, now, action="corrected", **done)
    assert check_pins(task, data, export).total == 1
    store.save(image, now, action="accepted", **done)  # the correction stays
    assert check_pins(task, data, export).total == 1
    store.restore(image, 1, by="A")
    assert check_pins(task, data, export).total == 0
    store.restore(image, 2, by="A")
    assert check_pins(task, data, export).held == 1


def test_what_the_report_says_if_nothing_was_learned():
    def text(*pins):
        found = [Pin("i", 1, 9, right, apart, before) for right, before, apart in pins]
        return Pins("x", found).text

    never, back, held = (0, False, False), (0, True, False), (1, False, False)
    assert missing([2], text(never, never)) == []
    assert "still" not in text(never, never) and "still" not in text(never)
    assert "still" in text(never, back) and "still" not in text(held)


def test_a_correction_of_a_held_out_image_is_not_to_be_learned(samples, exports, tmp_path):
    data, export = copied("eye", samples, exports, tmp_path)
    task, predictor, held_out = tasks.get("eye"), fastseg.load(export), read_card(export)
    store = Corrections(task, data, export)
    trains = next(
        i.image for i in task.items(data) if i.image.name not in str(held_out.valid_files)
    )
    for image in (trains, data / held_out.valid_files[0]):
        now = predictor.predict(image).codes
        label = patched(now, slice(0, 9), (now[:9] + 1) % 4)
        store.save(image, label, action="corrected", by="A", seconds=1, prediction=now)
    pins = check_pins(task, data, export)
    assert pins.not_learned == [name_below(data, trains)]
    assert pins.never_trained == held_out.valid_files[:1] == pins.to_json()["never_trained"]
    record_held(data, Pins("x", [Pin(pins.never_trained[0], 1, 9, 1.0, True, False)]), "x 123")
    again = check_pins(task, data, export)  # that it held once, and does not now, is news
    assert again.came_back == held_out.valid_files[:1] and not again.never_trained


def test_a_proposal_that_was_taken_back_is_no_correction(samples, exports, tmp_path):
    """The editor saves after each step: one version of a visit, which ends as the label was."""
    data, export = copied("eye", samples, exports, tmp_path)
    task = tasks.get("eye")
    store = Corrections(task, data, export)
    image = task.items(data)[0].image
    label = store.label(image)
    done = dict(by="A", seconds=1, prediction=(label + 1) % 4)
    store.save(image, (label + 2) % 4, action="corrected", **done)
    assert corrected_images(store) == [name_below(data, image)]
    store.save(image, label, action="restored", amend=True, base=1, **done)
    assert corrected_images(store) == [] and check_pins(task, data, export).total == 0


def test_held_out_labels_that_are_predictions_are_counted(samples, exports, tmp_path, run):
    data, export = copied("eye", samples, exports, tmp_path)
    task, predictor = tasks.get("eye"), fastseg.load(export)
    store = Corrections(task, data, export)
    store.begin()
    held = {row.name for row in Ledger.of(data).rows.values() if row.part == VALID}
    items = {name_below(data, item.image): item for item in task.items(data)}
    new, corrected, right = sorted(held)[:3]
    now = {name: predictor.predict(data / name).codes for name in (new, corrected, right)}
    for name in (new, corrected):
        items[name].label.unlink()  # nobody had labelled it
    store.refresh()
    done = dict(by="A", seconds=1, source=source_of(export))

    def save(name, label, action):
        store.save(data / name, label, action=action, prediction=now[name], **done)

    save(new, now[new], "accepted")
    assert accepted_predictions(store) == {new: source_of(export)}
    save(corrected, patched(now[corrected], slice(0, 9), 1), "corrected")
    save(right, store.label(data / right), "accepted")  # as it was labelled before
    assert accepted_predictions(store) == {new: source_of(export)}
    text = favour_of(task, data, {"this export": export})
    assert missing([1, len(held), "this export"], text) == []
    assert (
        missing([1, "another export", *source_of(export).split()], favour_of(task, data, {})) == []
    )
    assert favour_of(task, data, {}, {corrected, right}) == ""
    result = json.loads(run("evaluate", "eye", "--export", export, "--data", data, "--json").out)
    assert result["favour"] == text
    assert text in run("evaluate", "eye", "--export", export, "--data", data).out
    save(new, patched(now[new], slice(0, 9), 1), "corrected")
    assert new in corrected_images(store)
    store.withdraw(data / new, by="A")  # then nothing is left to hold
    assert new not in corrected_images(store)
    assert favour_of(task, data, {}) == ""


def test_a_corrected_class_holds_if_it_is_predicted(samples, exports, tmp_path):
    data, export = copied("mri", samples, exports, tmp_path)
    task, predictor = tasks.get("mri"), fastseg.load(export)
    store = Corrections(task, data, export)
    for number, item in enumerate(task.items(data)[:2]):
        said = predictor.predict(item.image).index
        label = said if number else 1 - said
        store.save(item.image, label, action="corrected", by="A", seconds=1, prediction=1 - label)
    pins = check_pins(task, data, export)
    assert (pins.held, pins.total, len(pins.not_learned)) == (1, 2, 1)


@pytest.mark.slow
def test_fit_from_an_export(samples, exports, tmp_path, run):
    """One round: corrections on both sides, new images; the earlier export is kept whole."""
    data, export = copied("eye", samples, exports, tmp_path)
    before = read_card(export)
    bytes_before = (export / "model.safetensors").read_bytes()
    task, predictor = tasks.get("eye"), fastseg.load(export)
    store = Corrections(task, data)
    trains, held_out = (
        [
            i.image
            for i in task.items(data)
            if (name_below(data, i.image) in before.valid_files) is v
        ]
        for v in (False, True)
    )
    for image in (trains[0], held_out[0]):
        truth = store.label(image)
        store.save(
            image, np.roll(truth, 5, 1), action="corrected", by="Ada", seconds=3,
            source=source_of(export), prediction=predictor.predict(image).codes,
        )  # fmt: skip
    for number in (0, 1):  # a new frame of a set that trains, and one of a set that is held out
        old = (trains, held_out)[number][0]
        group = "_".join(old.stem.split("_")[:2])
        new = Path(
            shutil.copy(samples["eye"].parent / "eye" / old.parent.name / old.name, tmp_path)
        )
        changed = np.ascontiguousarray(task.image(new)[:, ::-1])

        copy = store.add(save_image(tmp_path / f"{group}_frame_99.jpg", changed))
        store.save(copy, store.label(old)[:, ::-1], action="new", by="Ada", seconds=60)
    result = json.loads(run("fit", "--from", export, *QUICK, "--seed", "7", "--json").out)
    after = read_card(export)
    added = {name for name in after.valid_files if "frame_99" in name}
    assert {*after.valid_files} == {*before.valid_files} | added and len(added) == 1
    assert after.train_images == before.train_images + 1  # for the new one; another seed
    assert after.weights_origin.startswith("export ")
    again = result["again"]
    kept = Path(again["earlier"])
    assert kept.parent == export.resolve().parent / ".earlier"
    assert (kept / "model.safetensors").read_bytes() == bytes_before
    assert read_card(kept).data_folder == data.resolve() and fastseg.load(kept)
    assert again["comparison"]["images"] == len(after.valid_files)
    assert again["comparison"]["seen_by_earlier"] == 0
    assert again["pins"]["total"] == 2 and not again["pins"]["came_back"]
    assert json.loads((export / "again.json").read_text())["pins"]["total"] == 2
    held = {pin["image"]: pin["held_out"] for pin in again["pins"]["pins"]}
    assert held == {name_below(data, trains[0]): False, name_below(data, held_out[0]): True}
    items = {name_below(data, item.image): item for item in task.items(data)}
    assert trained_on(before, [items[name] for name in after.valid_files], data) == set()
    # the figures of both are of the corrected labels
    figures = json.loads(run("evaluate", "eye", "--compare", kept, "--json").out)
    assert figures["comparison"]["images"] == again["comparison"]["images"]
    difference = figures["comparison"]["difference"]["mean_foreground"]["dice"]
    assert difference == pytest.approx(again["comparison"]["difference"]["mean_foreground"]["dice"])
    # nothing that was trained on is held out, in the next plain fit too
    ledger = Ledger.of(data)
    rows = {row.name: row.part for row in ledger.rows.values()}
    assert {name for name, part in rows.items() if part == VALID} == {*after.valid_files}
    assert sum(part == TRAIN for part in rows.values()) == after.train_images


@pytest.mark.slow
def test_strict_keeps_the_export_if_a_correction_came_back(samples, exports, tmp_path, run):
    data, export = copied("eye", samples, exports, tmp_path)
    task = tasks.get("eye")
    store = Corrections(task, data, export)
    image = task.items(data)[0].image
    label = np.random.default_rng(0).integers(0, 4, store.size(image)).astype(np.uint8)
    store.save(
        image, label, action="corrected", by="A", seconds=1, prediction=(label + 1) % 4
    )  # noise, which nothing learns
    name = name_below(data, image)
    record_held(data, Pins("x", [Pin(name, 1, 9, 1.0, False, False)]), "x 123")
    before = {file.name: file.read_bytes() for file in export.iterdir() if file.is_file()}
    failed = run("fit", "--from", export, "--strict", *QUICK, error="came-back")
    assert {f.name: f.read_bytes() for f in export.iterdir() if f.is_file()} == before
    assert failed.details["pins"]["came_back"] == [name]
    refused = Path(failed.details["refused"])
    assert refused.parent.name == ".refused" and str(refused.name) in failed.message
    assert read_card(refused).data_folder == data.resolve() and fastseg.load(refused)
    assert not work_of(export).exists() and not (export.parent / ".earlier").exists()
    # any fit tells it, and replaces the export without --strict
    small = ("--arch", ARCH, "--weights", "none", "--size", "64", *QUICK)
    told = run("fit", "eye", *small).out
    assert f"came back: {name}" in told and (export / "again.json").is_file()


@pytest.mark.slow
def test_folds_leave_the_held_out_part_alone(samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    task = tasks.get("eye")
    Corrections(task, data).begin()
    held_out = {row.name for row in Ledger.of(data).rows.values() if row.part == VALID}
    result = fastseg.fit(
        "eye", data, arch=ARCH, weights="none", size=64, bs=4, epochs=1, folds=2,
        out=tmp_path / "out",
    )  # fmt: skip
    assert {*read_card(tmp_path / "out").valid_files} == held_out
    assert result["metrics"]["images"] == 16 - len(held_out)
    assert fastseg.evaluate("eye", data, export=tmp_path / "out")["images"] == len(held_out)


def test_mistakes(samples, exports, tmp_path, run):
    data, export = copied("eye", samples, exports, tmp_path)
    run("fit", code=2)
    run("fit", "kitchen", "--from", export, error="wrong-task")
    run("fit", "--from", export, "--weights", "none", error="from-weights")
    run("fit", "--from", export, "--arch", "resnet18", error="export-arch")
    run("fit", "--from", "exports/none", error="no-export")
    with refuses("no-task"):
        fastseg.fit(data=data)
    shutil.rmtree(data)
    run("fit", "--from", export, error="no-data")


def test_an_interrupted_fit_knows_what_it_trains_on_from(samples, exports, tmp_path):
    data, export = copied("eye", samples, exports, tmp_path)
    task, options = tasks.get("eye"), FitOptions(weights=str(export))
    with (
        pytest.raises(KeyboardInterrupt),
        interruptible(export, task, data, options, None, export, True) as fit_run,
    ):
        checkpoint = fit_run.folder / "learner_0" / "checkpoint.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        raise KeyboardInterrupt
    with (  # --resume without --from, which a message may have told
        pytest.raises(ModelError),
        interruptible(export, task, None, FitOptions(), True) as resumed,
    ):
        assert (resumed.again, resumed.strict) == (export, True)
        raise ModelError("ends here")


def test_an_earlier_export_is_kept_once(exports, samples, tmp_path):
    _, export = copied("eye", samples, exports, tmp_path)
    one, two = keep(export), keep(export)
    assert one == two and len(list(one.parent.iterdir())) == 1
    assert {f.name for f in one.iterdir()} == {f.name for f in export.iterdir()}


def test_an_earlier_export_is_taken_back(exports, samples, tmp_path, run):
    """The command swaps the two; nothing is lost, and the card still leads to its data."""
    _, export = copied("eye", samples, exports, tmp_path)
    run("restore", export, error="no-earlier")
    other = exports("mri")
    run("restore", export, "--earlier", other, error="wrong-task")
    kept = keep(export)
    run("restore", kept, error="not-earlier")
    data = read_card(export).data_folder
    card = json.loads((export / "card.json").read_text())
    (export / "card.json").write_text(json.dumps({**card, "created": "2030-01-01T00:00:00+00:00"}))
    (export / "history.csv").write_text("epoch\n")  # files of the new one go with it
    (export / "notes.txt").write_text("mine")
    before = os.path.relpath(kept, export)
    (export / "again.json").write_text(json.dumps({"from": before, "earlier": before}))
    restored = json.loads(run("restore", export, "--json").out)
    assert Path(restored["earlier"]) == kept and (export / "notes.txt").is_file()
    assert read_card(export).created == card["created"]
    assert read_card(export).data_folder == data == read_card(restored["kept"]).data_folder
    again = json.loads((Path(restored["kept"]) / "again.json").read_text())
    for place in again.values():  # it leads to the same export as before it was moved
        assert (Path(restored["kept"]) / place).resolve() == kept.resolve()
    assert (export / "history.csv").read_text() != "epoch\n"
    assert (Path(restored["kept"]) / "history.csv").read_text() == "epoch\n"
    with write_lock(export):
        run("restore", restored["kept"], error="busy")
    run("restore", restored["kept"])  # and back again
    assert read_card(export).created.startswith("2030")


@pytest.mark.parametrize("is_worse", [True, False])
def test_a_worse_export_is_told_with_the_command_that_takes_the_earlier_one_back(is_worse, capsys):
    comparison = {"verdict": "so it is", "favour": "", "is_worse": is_worse}
    again = {"comparison": comparison, "earlier": "exports/.earlier/eye-1"}
    results.trained_again({"export": "exports/eye", "again": again})
    assert ("fastseg restore exports/eye" in capsys.readouterr().out) == is_worse

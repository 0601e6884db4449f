"""check: finds planted faults of every kind, reports nothing else, and repairs a copy."""

import json
import os
import shutil
import sys
import unittest.mock
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses, size_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.checks import dataset, repair
from fastseg.checks import image as examination
from fastseg.checks.preflight import _missing_classes, survey
from fastseg.checks.repair import fix
from fastseg.data import images as masks
from fastseg.data.images import save_image
from fastseg.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import planting  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(planting.PLANTS))
def test_planted_faults_are_found_and_repaired(name, tmp_path):
    data = tasks.get(name).sample(tmp_path / "data", n=60, seed=5)
    assert fastseg.check(name, data).faults == []
    planted = planting.plant(name, data, len(planting.PLANTS[name]), seed=2)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    result = planting.judge(name, data, planted, set())
    assert result["missed"] == [] and result["false alarms"] == []
    assert all(fault.file and fault.detail and fault.remedy for fault in result["audit"].faults)
    log = fix(result["audit"], tmp_path / "repaired")
    assert {
        path: path.read_bytes() for path in data.rglob("*") if path.is_file()
    } == before  # the source stays
    assert fastseg.check(name, tmp_path / "repaired").faults == []
    changed = log.log.read_text()
    assert all(Path(file).stem.removeprefix("again_") in changed for _, file in planted)
    tasks.get(name).split(tasks.get(name).items(tmp_path / "repaired"))  # a fit would take it


def test_kinds_that_concern_the_whole(tmp_path):
    eye = tasks.get("eye").sample(tmp_path / "eye", n=30, seed=5)
    for number, mask in enumerate(sorted((eye / "masks_small").iterdir())):
        values = planting.pixels(mask).copy()
        values[values == 3] = 2
        if number == 4:
            values[100:103, 100:103] = 3
        planting.rewritten(mask, values)
    assert Counter(fault.kind for fault in fastseg.check("eye", eye).faults) == {
        "rare class": 1,
        "imbalance": 1,
    }
    mri = tasks.get("mri").sample(tmp_path / "mri", n=80)
    table = mri / "train/subjects.tsv"
    lines = table.read_text().splitlines()
    for line in lines[4:]:
        if line.endswith("\t0"):
            lines.remove(line)
            (mri / "train" / f"{line.split()[0]}.png").unlink()
    table.write_text("\n".join(lines))
    shutil.rmtree(mri / "validation")
    kinds = {fault.kind for fault in fastseg.check("mri", mri).faults}
    assert kinds & {"rare class", "imbalance"}


def test_check_on_the_command_line(samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    assert "nothing is wrong" in run("check", "eye", "--data", data).out
    planted = planting.plant("eye", data, 4)
    told = run("check", "eye", "--data", data, code=1).out
    assert all(kind in told and file.name in told for kind, file in planted)
    listed = json.loads(run("check", "eye", "--data", data, "--json", code=1).out)
    found = {(fault["kind"], fault["file"]) for fault in listed["faults"]}
    assert listed["stops"] and found >= {(kind, str(file)) for kind, file in planted}
    run("check", "eye", "--data", data, "--fix", "better")
    assert "nothing is wrong" in run("check", "eye", "--data", "better").out
    run("check", "eye", "--data", data, "--fix", "better", error="not-empty")
    run("check", "eye", "--data", data, "--fix", data / "better", error="output-in-data")
    run("check", "eye", "--data", "nowhere", error="no-data")


def test_an_interrupted_check_resumes(samples, tmp_path, monkeypatch):
    data, examine, seen = shutil.copytree(samples["eye"], tmp_path / "eye"), dataset.examine, []

    def dies(*arguments):
        seen.append(arguments)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return examine(*arguments)

    whole = fastseg.check("eye", data).to_json()
    monkeypatch.setattr(dataset, "examine", dies)
    with pytest.raises(KeyboardInterrupt):
        fastseg.check("eye", data)
    before = len(seen)
    assert fastseg.check("eye", data).to_json() == whole and len(seen) - before < 16


def test_a_repair_is_atomic(samples, tmp_path, monkeypatch):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    planting.plant("eye", data, 9)
    audit = fastseg.check("eye", data)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastseg.checks.repair.shutil.copyfile", fails)
    with refuses("not-writable", "No space left"):
        fix(audit, tmp_path / "repaired")
    assert [path.name for path in tmp_path.iterdir()] == ["eye"]


def test_what_is_no_file_does_not_stop_a_repair(samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first, second, third = sorted((data / "imgs_small").iterdir())[:3]
    for file in (first, second):
        file.unlink()
    first.symlink_to("nowhere.jpg")
    second.mkdir()
    shutil.copyfile(third, third.with_name(".hidden.jpg"))
    found = run("check", "eye", "--data", data, "--fix", "repaired")
    assert (
        "1 image files whose names begin with a dot" in found.err and "unreadable (2)" in found.out
    )
    assert "left out: it is no file" in Path("repaired/changes.csv").read_text()
    assert "14 labelled images" in run("check", "eye", "--data", "repaired").out
    run("check", "eye", "--data", data, "--fix", "/proc/x", error="not-writable")


def test_misalignment_says_where_the_mask_belongs():
    task = tasks.get("eye")
    image, codes = task.draw(np.random.default_rng(1))
    moved = np.roll(codes, (-20, 30), (0, 1))
    score, (x, y) = examination.misalignment(image, moved)
    assert (
        score > dataset.MIN_OFFSET > examination.misalignment(image, codes)[0]
        and abs(x + 30) < 6
        and abs(y - 20) < 6
    )
    assert examination.misalignment(image, np.zeros_like(codes)) == (0.0, (0, 0))


def test_frames_of_one_recording_may_look_alike(samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first = sorted((data / "imgs_small").iterdir())[0]
    with Image.open(first) as image:
        image.save(first.with_stem(f"{first.stem}77"), quality=60)
    shutil.copyfile(
        data / "masks_small" / f"{first.stem}.png", data / "masks_small" / f"{first.stem}77.png"
    )
    assert fastseg.check("eye", data).faults == []


def _kinds(task, folder):
    return set(dataset.check(task, folder).kinds)


def test_side_by_side_images_keep_their_names_apart_from_masks(tmp_path):
    """An image repaired as PNG would take its mask's name."""
    root = tasks.get("kitchen").sample(tmp_path / "data", 12)
    for folder in ("train", "val"):
        images, labels = (
            sorted((root / folder / "images").iterdir()),
            sorted((root / folder / "masks").iterdir()),
        )
        for file in images + labels:
            shutil.move(file, root / folder / file.name)
        (root / folder / "images").rmdir(), (root / folder / "masks").rmdir()
    image = sorted((root / "train").glob("*.jpg"))[0]
    Image.open(image).convert("CMYK").save(image)
    assert _kinds("kitchen", root) >= {"image mode"}
    repair.fix(dataset.check("kitchen", root), tmp_path / "repaired")
    assert not dataset.check("kitchen", tmp_path / "repaired").stops
    assert len(tasks.get("kitchen").items(tmp_path / "repaired")) == len(
        tasks.get("kitchen").items(root)
    )


def test_groups_move_to_the_folders_that_the_data_use(tmp_path):
    layouts = (
        tasks.Layout("valid/images", "valid/masks", "valid"),
        tasks.Layout("val/images", "val/masks", "valid"),
        tasks.Layout("train/images", "train/masks", "train"),
    )
    eye = tasks.get("eye")
    task = tasks.SegmentationTask(
        name="eye",
        classes=eye.classes,
        palette=eye.palette,
        layouts=layouts,
        group=r"set_\d+(?=_)",
        recipe=eye.recipe,
    )
    rng = np.random.default_rng(0)
    for part, names in (
        ("train", ("set_1_1", "set_1_2", "set_2_1", "set_3_1")),
        ("val", ("set_1_1", "set_1_3", "set_4_1")),
    ):
        for name in names:
            image, codes = eye.draw(np.random.default_rng(int(rng.integers(1 << 30))))
            for kind, pixels in (("images", image), ("masks", codes)):
                save_image(tmp_path / "data" / part / kind / f"{name}.png", pixels)
    before = {
        file.name: file.read_bytes() for file in (tmp_path / "data" / "train" / "images").iterdir()
    }
    audit = dataset.check(task, tmp_path / "data")
    assert "group on both sides" in audit.kinds
    repaired = tmp_path / "repaired"
    with unittest.mock.patch.object(repair, "get", lambda name: task):  # it lives in no file
        repair.fix(audit, repaired)
    after = {file.name: file.read_bytes() for file in (repaired / "train" / "images").iterdir()}
    assert before.items() <= after.items() and set(after) - set(before) == {"set_1_3.png"}
    assert (
        repaired / "set_aside" / "val" / "images" / "set_1_1.png"
    ).is_file() and not dataset.check(task, repaired).stops


def test_label_maps_with_255_are_unlabelled_there(tmp_path):
    root = tasks.get("surfaces").sample(tmp_path / "data", 8)
    mask = sorted(root.glob("annotations/*"))[0]
    codes = np.asarray(Image.open(mask)).copy()
    codes[:20] = 255
    Image.fromarray(codes).save(mask)
    assert not dataset.check("surfaces", root).stops
    item = next(item for item in tasks.get("surfaces").items(root) if item.label == mask)
    assert (tasks.get("surfaces").label(item)[:20] == 255).all()


@pytest.mark.parametrize("gone", ["removed", "emptied"])
def test_masks_whose_images_are_gone_are_reported(gone, tmp_path):
    root = tasks.get("kitchen").sample(tmp_path / "data", 12)
    for file in (root / "val" / "images").iterdir():
        file.unlink()
    if gone == "removed":
        (root / "val" / "images").rmdir()
    audit = dataset.check("kitchen", root)
    assert audit.kinds == {
        "no partner": len(list((root / "val" / "masks").iterdir()))
    } and audit.faults[0].file.endswith("val/masks")
    with refuses("no-partner", "val/masks"):
        tasks.get("kitchen").items(root)


@pytest.mark.parametrize("folder", ["train", "validation"])
def test_a_table_of_a_header_only(folder, tmp_path):
    root = tasks.get("mri").sample(tmp_path / "data", 12)
    (root / folder / "subjects.tsv").write_text("Subject\tLabel\n")
    assert dataset.check("mri", root).stops
    with refuses("no-partner", "subjects.tsv"):
        tasks.get("mri").items(root)


@pytest.mark.parametrize("suffix, mode", [(".tif", "RGB"), (".jpg", "CMYK"), (".png", "RGBA")])
def test_turned_images_of_every_kind_are_repaired(suffix, mode, tmp_path):
    root = tasks.get("eye").sample(tmp_path / "data", 10)
    image = sorted(root.glob("imgs_small/*"))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(image).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    image.unlink()
    picture.save(
        image.with_suffix(suffix), exif=exif
    )  # stored as it was: only the note says to turn it
    assert "exif rotation" in _kinds("eye", root)
    repair.fix(dataset.check("eye", root), tmp_path / "repaired")
    assert not _kinds("eye", tmp_path / "repaired") & {
        "exif rotation",
        "size mismatch",
        "image mode",
    }
    repaired = next((tmp_path / "repaired").glob(f"imgs_small/{image.stem}.*"))
    assert (
        np.abs(masks.read_image(repaired).astype(int) - np.asarray(picture.convert("RGB"))).mean()
        < 6
    )  # JPEG noise


def test_a_square_image_to_be_turned_is_uncertain(tmp_path):
    root = tasks.get("eye").sample(tmp_path / "data", 10)
    for file in (*root.glob("imgs_small/*"), *root.glob("masks_small/*")):
        Image.open(file).crop((0, 0, 200, 200)).save(file)
    image = sorted(root.glob("imgs_small/*"))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).save(image, exif=exif)
    assert "exif flip" in _kinds("eye", root)


def _as_codes(mask):
    Image.fromarray((np.asarray(Image.open(mask).convert("L")) > 127).astype(np.uint8)).save(
        mask.with_suffix(".png")
    )
    mask.unlink()


@pytest.mark.parametrize(
    "name, spoil, kind",
    [
        (
            "eye",
            lambda root: [
                file.rename(file.with_name(f"set_1_frame_{i}{file.suffix}"))
                for folder in ("imgs_small", "masks_small")
                for i, file in enumerate(sorted((root / folder).iterdir()))
            ],
            "split",
        ),
        (
            "eye",
            lambda root: [
                Image.new("L", size_of(file)).save(file) for file in root.glob("masks_small/*")
            ],
            "one class",
        ),
        (
            "mri",
            lambda root: [
                table.write_text(table.read_text().replace("\t0", "\t1"))
                for table in root.glob("*/subjects.tsv")
            ],
            "one class",
        ),
        (
            "face",
            lambda root: [
                shutil.rmtree(root / f"Dataset_Faces{part}_training") for part in ("", "_Mask")
            ],
            "split",
        ),
        (
            "face",
            lambda root: _as_codes(sorted(root.glob("Dataset_Faces_Mask_training/*"))[0]),
            "0/255 mask",
        ),
    ],
)
def test_check_and_fit_agree(name, spoil, kind, tmp_path):
    root = tasks.get(name).sample(tmp_path / "data", 16)
    spoil(root)
    audit = dataset.check(name, root)
    assert audit.stops and kind in audit.kinds
    with pytest.raises(DataError):
        survey(name, root)


def test_a_pipe_among_the_images_holds_nobody_up(tmp_path):
    root = tasks.get("eye").sample(tmp_path / "data", 10)
    os.mkfifo(root / "imgs_small" / "pipe.jpg")
    os.mkfifo(root / "masks_small" / "pipe.png")
    assert dataset.check("eye", root).kinds.get("unreadable") == 1


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_a_copy_in_which_repairing_makes_two_the_same_is_clean(name, tmp_path):
    root = tasks.get(name).sample(tmp_path / "data", 20)
    one, other = [item for item in tasks.get(name).items(root) if item.split != "valid"][:2]
    pixels = Image.open(one.image).convert("RGB")
    other.image.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.convert("CMYK").save(
        other.image.with_suffix(".tif"), **({"exif": exif} if name == "eye" else {})
    )
    if name == "eye":
        shutil.copy(one.label, other.label)
    audit = dataset.check(name, root)
    assert "image mode" in audit.kinds
    repair.fix(audit, tmp_path / "repaired")
    assert dataset.check(name, tmp_path / "repaired").kinds == {}


def test_classes_that_cannot_be_learnt_are_one_warning():
    found = _missing_classes(tasks.get("eye"), Path("eyes"), np.array([5, 1, 0, 0]))
    assert len(found) == 1 and "iris" in found[0] and "pupil" in found[0]
    assert _missing_classes(tasks.get("eye"), Path("eyes"), np.array([5, 1, 2, 3])) == []

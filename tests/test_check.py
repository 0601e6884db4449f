"""The audit: planted faults of every kind are found where they are, nothing else is told, and the mended copy is clean."""
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastseg
from fastseg import examination, inspection, tasks
from fastseg.errors import DataError
from fastseg.repair import fix

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import planting  # noqa: E402


@pytest.mark.parametrize("name", sorted(planting.PLANTS))
def test_planted_faults_are_found_and_mended(name, tmp_path):
    data = tasks.get(name).sample(tmp_path / "data", n=60, seed=5)
    assert fastseg.check(name, data).faults == []
    planted = planting.plant(name, data, len(planting.PLANTS[name]), seed=2)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    result = planting.judge(name, data, planted, set())
    assert result["missed"] == [] and result["false alarms"] == []
    assert all(fault.file and fault.detail and fault.remedy for fault in result["audit"].faults)
    log = fix(result["audit"], tmp_path / "mended")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before  # the source stays
    assert fastseg.check(name, tmp_path / "mended").faults == []
    changed = log.read_text()
    assert all(Path(file).stem.removeprefix("again_") in changed for _, file in planted)
    tasks.get(name).split(tasks.get(name).items(tmp_path / "mended"))  # a fit would take it


def test_kinds_that_concern_the_whole(tmp_path):
    eye = tasks.get("eye").sample(tmp_path / "eye", n=30, seed=5)
    for number, mask in enumerate(sorted((eye / "masks_small").iterdir())):
        values = planting.pixels(mask).copy()
        values[values == 3] = 2
        if number == 4:
            values[100:103, 100:103] = 3
        planting.rewritten(mask, values)
    assert Counter(fault.kind for fault in fastseg.check("eye", eye).faults) == {"rare class": 1, "imbalance": 1}
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
    assert "a mended copy is in better" in run("check", "eye", "--data", data, "--fix", "better").out
    assert "nothing is wrong" in run("check", "eye", "--data", "better").out
    assert "is not empty" in run("check", "eye", "--data", data, "--fix", "better", code=1).err
    assert "lies in the data" in run("check", "eye", "--data", data, "--fix", data / "better", code=1).err
    assert "does not exist" in run("check", "eye", "--data", "nowhere", code=1).err


def test_an_interrupted_check_goes_on(samples, tmp_path, monkeypatch):
    data, examine, seen = shutil.copytree(samples["eye"], tmp_path / "eye"), inspection.examine, []

    def dies(*arguments):
        seen.append(arguments)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return examine(*arguments)
    whole = fastseg.check("eye", data).plain()
    monkeypatch.setattr(inspection, "examine", dies)
    with pytest.raises(KeyboardInterrupt):
        fastseg.check("eye", data)
    before = len(seen)
    assert fastseg.check("eye", data).plain() == whole and len(seen) - before < 16


def test_a_repair_is_whole_or_not_there(samples, tmp_path, monkeypatch):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    planting.plant("eye", data, 9)
    audit = fastseg.check("eye", data)

    def fails(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("fastseg.repair.shutil.copyfile", fails)
    with pytest.raises(DataError, match="No space left"):
        fix(audit, tmp_path / "mended")
    assert [path.name for path in tmp_path.iterdir()] == ["eye"]


def test_what_is_no_file_does_not_stop_a_repair(samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first, second, third = sorted((data / "imgs_small").iterdir())[:3]
    for file in (first, second):
        file.unlink()
    first.symlink_to("nowhere.jpg")
    second.mkdir()
    shutil.copyfile(third, third.with_name(".hidden.jpg"))
    found = run("check", "eye", "--data", data, "--fix", "mended")
    assert "1 image files whose names begin with a dot" in found.err and "2 files that cannot be decoded" in found.out
    assert "left out: it is no file" in Path("mended/changes.csv").read_text()
    assert "14 labelled images" in run("check", "eye", "--data", "mended").out
    assert "cannot be written" in run("check", "eye", "--data", data, "--fix", "/proc/x", code=1).err


def test_misalignment_says_where_the_mask_belongs():
    task = tasks.get("eye")
    image, codes = task.draw(np.random.default_rng(1))
    moved = np.roll(codes, (-20, 30), (0, 1))
    score, (x, y) = examination.misalignment(image, moved)
    assert score > inspection.OFFSET > examination.misalignment(image, codes)[0] and abs(x + 30) < 6 and abs(y - 20) < 6
    assert examination.misalignment(image, np.zeros_like(codes)) == (0.0, (0, 0))


def test_frames_of_one_recording_may_look_alike(samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first = sorted((data / "imgs_small").iterdir())[0]
    with Image.open(first) as image:
        image.save(first.with_stem(f"{first.stem}77"), quality=60)
    shutil.copyfile(data / "masks_small" / f"{first.stem}.png", data / "masks_small" / f"{first.stem}77.png")
    assert fastseg.check("eye", data).faults == []

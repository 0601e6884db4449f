"""Pictures that are labelled twice: they stay on one side, and say how far labels agree."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.data.copies import copies
from fastseg.metrics.agreement import agreement, labelled_twice
from fastseg.tasks import Item


def moved(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, 4, axis=1)


@pytest.fixture
def twice(samples, tmp_path):
    """Eyes of which four are there a second time, labelled 4 px farther to the right."""
    data = tmp_path / "eye"
    shutil.copytree(samples["eye"], data)
    for number, item in enumerate(tasks.get("eye").items(data)[:16:4]):
        name = f"set_9{number}_frame_0"
        shutil.copyfile(item.image, item.image.with_name(name + item.image.suffix))
        mask = Image.fromarray(moved(np.array(Image.open(item.label))))
        mask.save(item.label.with_name(name + item.label.suffix))
    return data


def test_copies_are_found_by_their_bytes(twice):
    task = tasks.get("eye")
    items = task.items(twice)
    found = copies(items, task.reading)
    assert len(found) == 4 and all(len(places) == 2 for places in found)
    for one, other in found:
        assert items[one].image.read_bytes() == items[other].image.read_bytes()
    changed = items[found[0][1]].image
    data = bytearray(changed.read_bytes())
    data[len(data) // 4] ^= 1  # of equal size, and equal in both blocks that are compared first
    changed.write_bytes(data)
    assert len(copies(items, task.reading)) == 3
    items[found[1][0]].image.unlink()
    assert len(copies(items, task.reading)) == 2


def test_copies_stay_on_one_side(twice):
    task = tasks.get("eye")
    items = task.items(twice)
    pairs = copies(items, task.reading)
    for seed in range(8):
        train, valid = task.split(items, seed)
        assert sorted(train + valid) == list(range(len(items)))
        assert all(len({place in valid for place in pair}) == 1 for pair in pairs)
        groups = [{items[i].group for i in side} for side in (train, valid)]
        assert not groups[0] & groups[1]
    sides = [task.fold(items, number, 3)[1] for number in range(3)]
    assert sorted(sum(sides, [])) == list(range(len(items)))
    assert all(len({place in valid for place in pair}) == 1 for pair in pairs for valid in sides)


def test_a_picture_of_every_group_joins_nothing(tmp_path):
    """One test card in each recording must not make the recordings one group."""
    items = [
        Item(tmp_path / f"{group}_{number}.png", 0, group=str(group))
        for group in range(5)
        for number in range(4)
    ]
    for item in items:
        card = item.image.stem.endswith("_0")
        item.image.write_bytes(b"card" * 1000 if card else item.image.name.encode())
    task = tasks.get("mri")
    train, valid = task.split(items)
    assert train and valid
    assert not {items[i].group for i in train} & {items[i].group for i in valid}


def test_agreement_of_known_labels(twice):
    task = tasks.get("eye")
    items = task.items(twice)
    found = labelled_twice(task, items, samples=200)
    pairs = [(task.label(items[i]), task.label(items[j])) for i, j in copies(items, task.reading)]
    assert found["pictures"] == 4
    same = sum((one == other).sum() for one, other in pairs)
    assert found["accuracy"] == pytest.approx(same / sum(one.size for one, _ in pairs))
    for code, name in enumerate(task.classes):
        both = sum(((one == code) & (other == code)).sum() for one, other in pairs)
        either = sum(((one == code) | (other == code)).sum() for one, other in pairs)
        assert found["classes"][name]["iou"] == pytest.approx(both / either)
        low, high = found["intervals"]["classes"][name]["iou"]
        assert low <= found["classes"][name]["iou"] <= high
    assert 0.2 < found["mean_foreground"]["dice"] < 1


def test_pixels_that_one_leaves_open_do_not_count(samples, tmp_path):
    task = tasks.get("eye")
    items = task.items(samples["eye"])[:2]
    labels = [np.full((8, 8), 1, np.uint8) for _ in items]
    labels[0][:4], labels[1][4:] = 255, 2
    for number, label in enumerate(labels):
        Image.fromarray(label).save(tmp_path / f"{number}.png")
    two = [Item(items[0].image, tmp_path / f"{n}.png", source=items[0].source) for n in range(2)]
    task_label = {str(item.label): label for item, label in zip(two, labels)}

    class Read:
        classes, background = task.classes, task.background

        def label(self, item):
            return task_label[str(item.label)]

    found = agreement(Read(), two, [[0, 1]])
    assert found["accuracy"] == 0 and "intervals" not in found
    assert agreement(Read(), two, []) is None


@pytest.mark.slow
def test_commands_show_it_beside_the_score(twice, exports, tmp_path):
    result = fastseg.evaluate(
        "eye", twice, export=exports("eye"), split="all", out=tmp_path / "judged", samples=50
    )
    assert result["agreement"]["pictures"] == 4
    assert json.loads((tmp_path / "judged" / "metrics.json").read_text())["agreement"]
    found = fastseg.interpret("eye", twice, export=exports("eye"), split="all", out=tmp_path / "r")
    assert found.agreement["pictures"] == 4
    assert "labelled twice" in (tmp_path / "r" / "report.html").read_text()


def test_check_reports_it_and_fix_keeps_both_on_request(twice, run, tmp_path):
    audit = fastseg.check("eye", twice)
    assert audit.kinds["duplicate"] == 4 and audit.agreement["pictures"] == 4
    assert "labelled twice" in run("check", "eye", "--data", twice).out
    run("check", "eye", "--data", twice, "--keep-copies", code=2)
    run("check", "eye", "--data", twice, "--fix", tmp_path / "one")
    run("check", "eye", "--data", twice, "--fix", tmp_path / "both", "--keep-copies")
    number = len(tasks.get("eye").items(twice))
    assert len(tasks.get("eye").items(tmp_path / "one")) == number - 4
    assert len(tasks.get("eye").items(tmp_path / "both")) == number
    assert fastseg.check("eye", tmp_path / "one").agreement is None
    assert fastseg.check("eye", tmp_path / "both").agreement["pictures"] == 4


def test_a_class_of_one_picture_has_no_interval(samples, tmp_path):
    """Resampled pictures would always give the same figure."""
    task = tasks.get("eye")
    items = task.items(shutil.copytree(samples["eye"], tmp_path / "eye"))[:3]
    pairs = []
    for number, item in enumerate(items):
        codes = np.array(Image.open(item.label))
        codes[codes == 3] = 2
        codes[:2, :2] = 3 if number == 0 else 2  # one picture alone has a pupil
        for name, mask in (("one", codes), ("two", np.roll(codes, 1, 0))):
            target = tmp_path / f"{name}_{number}.png"
            Image.fromarray(mask).save(target)
            pairs.append(Item(image=item.image, label=target))
    found = agreement(task, pairs, [[0, 1], [2, 3], [4, 5]])
    assert found["classes"]["pupil"]["dice"] is not None
    assert found["intervals"]["classes"]["pupil"] == {"iou": None, "dice": None}
    low, high = found["intervals"]["classes"]["iris"]["dice"]
    assert low < high

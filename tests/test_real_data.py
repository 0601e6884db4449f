"""Tests with the real data, if they exist: reading layouts, decoding labels."""

import numpy as np
from conftest import needs_shared, shared

from fastseg import tasks
from fastseg.checks.preflight import survey
from fastseg.data.decoding import match_colours
from fastseg.data.images import read_image

pytestmark = needs_shared
DATA = shared / "data"


def test_eye_photographs_and_renders():
    task = tasks.get("eye")
    items = task.items(DATA / "eye")
    assert len(items) == 558 and len({i.group for i in items}) == 558
    label = task.label(next(i for i in items if not i.image.stem.startswith("r")))
    assert set(np.unique(label)) <= {0, 1, 2, 3, 255}
    pair = task.items(DATA / "senseye_pair")
    assert len(pair) == 1 and pair[0].group == "set_1" and task.label(pair[0]).shape == (816, 816)


def test_face_and_mri_splits():
    items = tasks.get("face").items(DATA / "face")
    assert [sum(i.split == s for i in items) for s in ("train", "valid")] == [800, 200]
    assert 20 < tasks.get("face").label(items[0]).sum() < 1000
    facts = survey("mri", DATA / "mri")
    assert (
        facts.splits == {"train": 400, "valid": 16}
        and facts.sizes == {(121, 121): 416}
        and facts.classes["sharp"] == 208
    )


def test_palette_masks_decode_to_the_code_masks_of_the_same_photographs():
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    for path in sorted((DATA / "palette" / "masks").iterdir()):
        codes, _ = match_colours(read_image(path), palette)
        assert (codes == tasks.get("eye").decode(DATA / "eye" / "masks" / path.name)).mean() > 0.999


def test_surfaces_from_both_sources_together_and_alone():
    task = tasks.get("surfaces")
    both = task.items(DATA / "surfaces")
    assert {i.source: sum(j.source == i.source for j in both) for i in both} == {
        "ade20k": 3,
        "cocostuff": 21,
    }
    assert (
        len(task.items(DATA / "surfaces" / "ade20k")) == 3
        and len(task.items(DATA / "surfaces" / "cocostuff")) == 21
    )
    train, valid = task.split(both)
    assert len(train) + len(valid) == 24 and valid
    totals = sum(np.bincount(task.label(i).ravel(), minlength=256) for i in both)
    assert (totals[:4] > 0).all() and totals[255] > 0

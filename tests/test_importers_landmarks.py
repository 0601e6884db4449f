"""Masks by landmarks: drawing, rejected faces with reasons, a dataset that a fit accepts.

The face finder itself needs the extra `face`.
"""

import json

import numpy as np
import pytest
from conftest import needs_shared, refuses, rows_of, shared
from PIL import Image

from fastseg import tasks
from fastseg.data.images import read_raw
from fastseg.importers import face_masks, landmarks
from fastseg.importers.face_masks import make_masks
from fastseg.importers.landmarks import Eye, Face, mask

FACE = tasks.get("face")


def _eye(x, y, radius=5.0, lids=4.0):
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.array([(x + radius, y), (x, y - radius), (x - radius, y), (x, y + radius)])
    return Eye(
        np.stack([x + 9 * np.cos(angles), y + lids * np.sin(angles)], 1), np.array([x, y]), rim
    )


def _face(confidence=0.9, yaw=5.0, lids=4.0):
    return Face((_eye(30.3, 40.7, lids=lids), _eye(70.2, 41.1, lids=lids)), confidence, yaw)


def test_irises_are_discs_to_a_part_of_a_pixel():
    covered = mask([_eye(30.3, 40.7)], (80, 100))
    assert covered.dtype == np.float32 and covered.sum() == pytest.approx(np.pi * 25, rel=0.01)
    y, x = np.indices(covered.shape) + 0.5
    assert (covered * x).sum() / covered.sum() == pytest.approx(30.3, abs=0.1)
    assert (covered * y).sum() / covered.sum() == pytest.approx(40.7, abs=0.1)
    assert set(np.unique(mask([_eye(30, 40)], (80, 100))[37:43, 27:33])) == {1.0}
    lids = mask([_eye(30.3, 40.7)], (80, 100), "eye")
    assert (
        lids.sum() == pytest.approx(np.pi * 9 * 4, rel=0.05)
        and lids[:, 40:].max() == 0 < lids[40, 22:38].min()
    )


def test_what_lies_outside_the_picture_is_cut_off():
    assert mask([_eye(0.0, 40.0)], (80, 100)).sum() == pytest.approx(np.pi * 25 / 2, rel=0.02)
    assert mask([_eye(-50.0, 400.0)], (80, 100)).sum() == 0


@pytest.mark.parametrize(
    "face, reason",
    [
        (_face(), None),
        (_face(confidence=0.3), "low confidence"),
        (_face(yaw=-55.0), "turned away"),
        (_face(lids=0.4), "eye closed"),
    ],
)
def test_faults_of_a_face(face, reason):
    assert (face.fault((80, 100)) or (None,))[0] == reason
    assert _face().fault((80, 60))[0] == "eye outside the picture"


def test_how_much_of_an_iris_is_open():
    assert _eye(30, 40, lids=9).open_share == pytest.approx(1, abs=0.02)
    assert _eye(30, 40, lids=0.1).open_share < 0.05
    assert _eye(30, 40, lids=4).open_share > _eye(30, 40, lids=2).open_share > 0.3


class FakeFinder:
    """A finder that returns faces according to each picture's first pixel."""

    found = {
        0: ([_face()], 0),
        1: ([], 0),
        2: ([_face(), _face(lids=0.3)], 0),
        3: ([_face()], 1),
        4: ([], 2),
    }
    looked = 0

    def faces(self, image):
        FakeFinder.looked += 1
        return self.found[int(image[0, 0, 0]) // 10]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(face_masks, "Finder", FakeFinder)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, kind in enumerate((0, 0, 0, 0, 0, 0, 1, 2, 3, 4)):
        Image.fromarray(np.full((80, 100, 3), 10 * kind, dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "9x.png").write_bytes(b"no picture")
    return folder


def test_a_dataset_that_a_fit_takes(pictures, tmp_path):
    before = {file: file.read_bytes() for file in pictures.iterdir()}
    made = make_masks("face", pictures, tmp_path / "out", valid=0.4, test=0.2, preview=True)
    assert made.rejected == {"no face": 1, "eye closed": 1, "low confidence": 2, "unreadable": 1}
    assert sum(made.splits.values()) == 6 and made.eyes == 12
    rows = {
        row["image"].rpartition("/")[2]: row for row in rows_of(tmp_path / "out" / "rejected.csv")
    }
    assert (
        set(rows) == {"6.png", "7.png", "8.png", "9.png", "9x.png"} and rows["7.png"]["face"] == "2"
    )  # its second face
    masks = sorted((tmp_path / "out").glob("Dataset_Faces_Mask_*/*"))
    assert len(masks) == 6 and all(
        read_raw(file).max() == 255 for file in masks
    )  # none is empty, and none of a rejected picture
    assert len(list((tmp_path / "out" / "preview").iterdir())) == 10
    items = FACE.items(tmp_path / "out")
    assert {item.split for item in items} <= {"train", "valid", "test"}
    assert FACE.label(items[0]).sum() == pytest.approx(2 * np.pi * 25, abs=8)
    assert {file: file.read_bytes() for file in pictures.iterdir()} == before
    assert json.loads((tmp_path / "out" / "masks.json").read_text())["flip_shift"] == 0
    assert (
        FACE.recipe.flip_shift == -1 and FACE.adapted(tmp_path / "out").recipe.flip_shift == 0
    )  # drawn with care: mirrored as they are


def test_soft_edges_and_lids(pictures, tmp_path):
    make_masks("face", pictures, tmp_path / "soft", edge="soft")
    make_masks("face", pictures, tmp_path / "lids", region="eye")
    soft, lids = (
        read_raw(sorted((tmp_path / name).glob("Dataset_Faces_Mask_training/*"))[0])
        for name in ("soft", "lids")
    )
    assert (
        20 < len(np.unique(soft))
        and set(np.unique(lids)) == {0, 255}
        and (lids > 0).sum() > (soft > 127).sum()
    )


def test_resumes_where_it_stopped(pictures, tmp_path, monkeypatch):
    real, calls = face_masks.save_image, []

    def dies(path, *rest, **options):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, *rest, **options)

    monkeypatch.setattr(face_masks, "cpu_count", lambda: 1)
    monkeypatch.setattr(face_masks, "save_image", dies)
    with pytest.raises(KeyboardInterrupt):
        make_masks("face", pictures, tmp_path / "out")
    monkeypatch.setattr(face_masks, "save_image", real)
    FakeFinder.looked = 0
    made = make_masks("face", pictures, tmp_path / "out")
    assert (
        sum(made.splits.values()) == 6 and FakeFinder.looked < 10
    )  # those that were finished are not looked at again
    with refuses("not-empty"):
        make_masks("face", pictures, tmp_path / "out")


def test_a_folder_that_is_split_already_stays_so(tmp_path, monkeypatch):
    monkeypatch.setattr(face_masks, "Finder", FakeFinder)
    for part, names in (("training", "12"), ("validation", "3")):
        (tmp_path / "faces" / f"Dataset_Faces_{part}").mkdir(parents=True)
        for name in names:
            Image.new("RGB", (100, 80)).save(
                tmp_path / "faces" / f"Dataset_Faces_{part}" / f"{name}.png"
            )
    assert make_masks("face", tmp_path / "faces", tmp_path / "out").splits == {
        "train": 2,
        "valid": 1,
    }


def test_mistakes_of_users(pictures, tmp_path):
    with refuses("masks-task"):
        make_masks("eye", pictures)
    with refuses("unknown-region", "pupil"):
        make_masks("face", pictures, region="pupil")
    with refuses("split-shares"):
        make_masks("face", pictures, valid=0.7, test=0.5)
    with refuses("output-in-data"):
        make_masks("face", pictures, pictures / "out")
    with refuses("no-such-path", "gone"):
        make_masks("face", tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_one_friendly_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    folder = FACE.sample(tmp_path / "faces", 8)
    told = run("masks", "face", folder, "--out", tmp_path / "out", error="no-mediapipe").err
    assert (
        told.count("\n") == 1
        and 'pip install "mediapipe==0.10.21"' in told
        and not (tmp_path / "out").exists()
    )
    with refuses("no-mediapipe", "mediapipe"):
        landmarks.Finder()


@needs_shared
def test_masks_of_real_faces(tmp_path):
    """With published rounding, masks are equal to the published ones; else within a pixel."""
    pytest.importorskip("mediapipe")
    theirs = {item.image.stem: FACE.label(item) for item in FACE.items(shared / "data" / "face")}
    chosen = tmp_path / "faces"
    chosen.mkdir()
    for number in (
        *range(1, 60),
        149,
        189,
        199,
        283,
    ):  # the last four: laughing, looking down, hidden by hair, in profile
        (chosen / f"{number}.jpg").symlink_to(
            shared / "data" / "face" / "Dataset_Faces_training" / f"{number}.jpg"
        )
    overlap = {}
    for rounding in ("published", "subpixel"):
        made = make_masks("face", chosen, tmp_path / rounding, rounding=rounding)
        ours = {item.image.stem: FACE.label(item) for item in FACE.items(tmp_path / rounding)}
        assert {"149", "189", "199", "283"} & ours.keys() == set() and made.rejected["no face"] == 1
        overlap[rounding] = [
            (ours[name] & theirs[name]).sum() / (ours[name] | theirs[name]).sum() for name in ours
        ]
        assert len(ours) >= 55 and made.eyes >= 2 * len(ours)
    assert np.median(overlap["published"]) >= 0.95 and 0.6 < np.median(overlap["subpixel"]) < 0.85


@needs_shared
def test_faces_that_are_small_or_upside_down(tmp_path):
    pytest.importorskip("mediapipe")
    finder = landmarks.Finder()
    face = Image.open(shared / "data" / "face" / "Dataset_Faces_training" / "1.jpg").convert("RGB")
    scene = Image.new("RGB", (2000, 1500), (90, 110, 90))
    scene.paste(face.resize((712, 872), Image.BICUBIC), (100, 300))
    for i, width in enumerate((110, 178)):
        scene.paste(
            face.resize((width, round(width * 218 / 178)), Image.BICUBIC), (1100 + 300 * i, 900)
        )
    found, missed = finder.faces(np.asarray(scene))
    assert len(found) + missed == 3 and len(found) >= 2
    turned, missed = finder.faces(np.asarray(face.rotate(180)))
    assert missed or all(one.fault((218, 178)) for one in turned)


def test_accepted_pictures_are_divided_not_all(tmp_path, monkeypatch):
    monkeypatch.setattr(face_masks, "Finder", FakeFinder)
    (tmp_path / "many").mkdir()
    for i in range(60):
        Image.fromarray(np.full((80, 100, 3), 10 * (i % 3 == 0), dtype=np.uint8)).save(
            tmp_path / "many" / f"{i}.png"
        )
    assert make_masks(
        "face", tmp_path / "many", tmp_path / "out", valid=0.25, test=0.25
    ).splits == {"train": 20, "valid": 10, "test": 10}


@needs_shared
def test_every_face_of_a_group_is_found(tmp_path):
    pytest.importorskip("mediapipe")
    faces = [
        Image.open(shared / "data" / "face" / "Dataset_Faces_training" / f"{number}.jpg").convert(
            "RGB"
        )
        for number in (1, 2, 5, 6)
    ]
    group = Image.new("RGB", (4 * 178, 218))
    for i, face in enumerate(faces):
        group.paste(face, (i * 178, 0))
    found, missed = landmarks.Finder().faces(np.asarray(group))
    assert (
        sorted(int(face.eyes[0].centre[0] // 178) for face in found) == [0, 1, 2, 3] and missed == 0
    )

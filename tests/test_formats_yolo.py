"""YOLO segmentation: data.yaml in its forms, what is refused and where, and masks back."""

import numpy as np
import pytest
from conftest import refuses
from format_cases import CLASSES, class_masks, iou_by_class, smooth_codes, write_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastseg.formats import get
from fastseg.formats.geometry import draw

YOLO = get("yolo")
TRIANGLE = "0.1 0.1 0.9 0.1 0.9 0.9"


def write(folder, yaml=None, lines=(f"0 {TRIANGLE}",), images=("images/train/a.jpg",)):
    """Write images without content, their label files, and data.yaml."""
    for image in images:
        label = folder / image.replace("images/", "labels/").replace(".jpg", ".txt")
        for file, text in ((folder / image, ""), (label, "\n".join(lines))):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return folder


def read(folder):
    faults = []
    return list(YOLO.read(YOLO.find(folder), faults)), faults


BOTH = ("images/train/a.jpg", "images/val/b.jpg")
FORMS = {
    "a list of names": "train: images/train\nval: images/val\nnames: [roof, tree]\n",
    "names by index": "train: images/train\nval: images/val\nnames:\n  0: roof\n  1: tree\n",
    "a path": "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [roof, tree]\n",
    "a path of another machine": "path: /data/x\ntrain: images/train\nval: images/val\n"
    "names: [roof, tree]\n",
    "a path above": "train: ../images/train\nval: ../images/val\nnames: ['roof', 'tree']\n",
    "lists of folders": "train: [images/train]\nval: [images/val]\nnames: [roof, tree]\n",
    "lists of images": "train: train.txt\nval: val.txt\nnames: [roof, tree]\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_data_yaml(tmp_path, form):
    folder = write(tmp_path / "x", FORMS[form], images=BOTH)
    (folder / "train.txt").write_text("./images/train/a.jpg\n")
    (folder / "val.txt").write_text("data/images/val/b.jpg\n\n")
    found, faults = read(folder)
    assert faults == []
    assert [(one.images, one.split) for one in found] == [
        (("images/train/a.jpg", "../../images/train/a.jpg"), "train"),
        (("images/val/b.jpg", "../../images/val/b.jpg"), "valid"),
    ]
    assert YOLO.classes(YOLO.find(folder)) == {"roof": None, "tree": None}
    assert all(one.is_relative and one.size is None for one in found)
    assert set(YOLO.also(YOLO.find(folder))) >= {one.file for one in found}


def test_equal_folders_are_no_split(tmp_path):
    folder = write(tmp_path, "train: images/train\nval: images/train\nnames: [roof]\n")
    (labelled,), faults = read(folder)
    assert (labelled.split, faults) == (None, [])


@pytest.mark.parametrize("names", [["roof", "tree"], None])
def test_label_files_without_data_yaml(tmp_path, names):
    folder = write(tmp_path, lines=(f"1 {TRIANGLE}",))
    if names:
        (folder / "labels" / "classes.txt").write_text("\n".join(names))
    (labelled,), faults = read(folder)
    expected = names or ["class 0", "class 1"]
    assert faults == [] and labelled.regions[0].label == expected[1]
    assert list(YOLO.classes(YOLO.find(folder))) == expected
    assert labelled.images[0] == "a.*"


def test_larger_regions_lie_below(tmp_path):
    small = "1 0.4 0.4 0.5 0.4 0.5 0.5"
    folder = write(tmp_path, FORMS["a list of names"], (small, f"0 {TRIANGLE}"), BOTH)
    (labelled, _), _ = read(folder)
    assert [(one.label, one.place) for one in labelled.regions] == [
        ("roof", "line 2"),
        ("tree", "line 1"),
    ]


LINES = {  # a line -> kind of its fault, and what the message names
    "0 0.5 0.5 0.2 0.2": ("label file", "box"),
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.9": ("label file", "7"),
    "0 0.1 0.1": ("label file", "1"),
    "0": ("label file", "0"),
    f"2 {TRIANGLE}": ("unknown class", "2", "1"),
    f"-1 {TRIANGLE}": ("unknown class", "-1"),
    f"0.5 {TRIANGLE}": ("unknown class", "0.5"),
    f"roof {TRIANGLE}": ("label file", "roof"),
    "0 0.1 nan 0.2 0.2 0.3 0.3": ("label file",),
    "0 0.1 1e999 0.2 0.2 0.3 0.3": ("label file",),
}


@pytest.mark.parametrize("line", LINES)
def test_lines_that_cannot_be_used_are_named(tmp_path, line):
    kind, *values = LINES[line]
    folder = write(tmp_path, FORMS["a list of names"], (f"0 {TRIANGLE}", line))
    (folder / "images" / "val").mkdir()
    (labelled,), (fault,) = read(folder)
    assert (fault.kind, fault.place) == (kind, "line 2") and fault.file.endswith("a.txt")
    assert all(value in fault.detail for value in values), fault.detail
    assert len(labelled.regions) == 1


YAMLS = {  # a data.yaml -> the place of its fault
    "train: images/train\nval: images/nowhere\nnames: [roof]\n": "line 2",
    "train: ../../..\nnames: [roof]\n": "line 1",
    "train: images/train\nnames: [roof, roof]\n": "line 2",
    "train: images/train\nnames: {0: roof, 2: tree}\n": "line 2",
    "train: images/train\nnames: 3\n": "line 2",
    "train: images/train\nnames: [[[]]]\n": "line 2",
    "train: 3\nnames: [roof]\n": "line 1",
    "names: [roof]\nnc: 1\n": "",
    "train: images/train\nnames: [roof\n": "line 3",
    "- train:\n- names:\n": "",
    "train: x\nnames: " + "[" * 5000: "",
    "train: 2020-99-99\nnames: [a]": "",
    "train: bad.txt\nnames: [a]": "line 1",
}


@pytest.mark.parametrize("yaml", YAMLS)
def test_a_data_yaml_that_cannot_be_used(tmp_path, yaml):
    folder = write(tmp_path / "x", yaml)
    (folder / "bad.txt").write_text("../../../etc/passwd\n")
    faults = []
    found = list(YOLO.read([folder / "data.yaml"], faults))
    (fault,) = faults
    assert len(found) == ("nowhere" in yaml)  # the images of the other folder
    assert (fault.kind, fault.place) == ("label file", YAMLS[yaml]), fault
    assert fault.file.endswith("data.yaml") and len(str(fault).splitlines()) == 1


def test_names_that_are_wrong_are_refused(tmp_path):
    with refuses("label-file", "data.yaml", "line 2"):
        YOLO.classes(YOLO.find(write(tmp_path, "train: images/train\nnames: 3\n")))


def test_labels_without_an_image_are_named(tmp_path):
    folder = write(tmp_path, "train: images/train\nnames: [roof]\n")
    (folder / "labels" / "train" / "lost.txt").write_text(f"0 {TRIANGLE}")
    (folder / "images" / "train" / "unlabelled.jpg").write_text("")
    (labelled,), (fault,) = read(folder)
    assert fault.kind == "no partner" and fault.file.endswith("lost.txt")


def test_other_text_files_are_not_found(tmp_path):
    (tmp_path / "notes.txt").write_text("1 roof was repaired")
    (tmp_path / "classes.txt").write_text("roof\ntree")
    (tmp_path / "setup.yaml").write_text("names: 3")
    assert YOLO.find(tmp_path) == []


def back(codes, out):
    """Return the codes that are read from what is written of `codes`."""
    out.mkdir(parents=True, exist_ok=True)
    write_labels(YOLO, {"images/a.png": codes}, out)
    (labelled,), faults = read(out)
    assert faults == []
    found, names = np.zeros_like(codes), {name: code for code, name in enumerate(CLASSES)}
    for region in labelled.regions:
        code = 255 if region.label == "__ignore__" else names[region.label]
        draw(found, region, code, YOLO.rule, is_relative=True)
    return found


def test_written_masks_come_back_with_an_iou_of_99_percent(tmp_path):
    for seed in range(5):
        codes = smooth_codes(seed)
        found = back(codes, tmp_path / str(seed))
        assert min(iou_by_class(found, codes).values()) >= 0.99


@pytest.mark.slow
@settings(deadline=None)
@given(codes=class_masks(unlabelled=True))
def test_rough_masks_come_back(codes, tmp_path_factory):
    """Regions of few pixels, touching, with holes and lines of one pixel."""
    found = back(codes, tmp_path_factory.mktemp("yolo"))
    assert min(iou_by_class(found, codes).values()) >= 0.99


def test_the_background_is_no_class_of_yolo(tmp_path):
    write_labels(YOLO, {"images/a.png": smooth_codes()}, tmp_path)
    assert list(YOLO.classes(YOLO.find(tmp_path))) == list(CLASSES[1:])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_have_faults_and_no_traceback(data, tmp_path):
    write(tmp_path, FORMS["names by index"], (f"0 {TRIANGLE}", f"1 {TRIANGLE}"), BOTH)
    file = data.draw(
        st.sampled_from([tmp_path / "data.yaml", tmp_path / "labels" / "train" / "a.txt"])
    )
    text = file.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        start, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 10))
        new = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"&a [*a]", b"-1", b"/"]))
        )
        text = text[:start] + new + text[start + length :]
    file.write_bytes(text)
    faults = []
    for labelled in YOLO.read([tmp_path / "data.yaml"], faults):
        assert all(len(region.polygons[0]) >= 3 for region in labelled.regions)
    assert all(len(str(fault).splitlines()) == 1 for fault in faults)

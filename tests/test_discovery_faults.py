"""What `new` refuses, `check` lists completely; label files that nothing can read are named."""

import json

import numpy as np
import pytest
from conftest import refuses
from PIL import Image

import fastseg

COUNT = 4


def coco(**changes):
    """Return COCO instances of `COUNT` images of 30 x 20 px, one region each."""
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 30, "height": 20}
            for number in range(COUNT)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [square]}
            for number in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "roof"}],
        **changes,
    }


@pytest.fixture
def data(tmp_path):
    """A folder with images and without labels."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
    return root


def faults_of(run, data):
    """Return (kind, place) of the faults that `check` lists and that stop a fit."""
    found = json.loads(run("check", data, "--json", code=1).out)["faults"]
    return sorted((fault["kind"], fault["place"]) for fault in found if fault["stops"])


def test_check_lists_what_new_refuses(data, run, fails):
    labels = coco()
    labels["images"][0]["width"] = 31
    labels["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    labels["annotations"][2]["segmentation"] = [[1e308, 2, 3, 4, 5, 6]]
    (data / "labels.json").write_text(json.dumps(labels))
    fails("new", data, "--yes", code="label-file", values=["$.annotations[1]", "fastseg check"])
    assert faults_of(run, data) == [
        ("label file", "$.annotations[1].segmentation[0]"),
        ("outside image", "$.annotations[2]"),
        ("size mismatch", "$.images[0]"),
    ]
    assert not (data / "task.toml").exists()


@pytest.mark.parametrize(
    "entry", [{"id": 1, "name": "tree"}, {"id": 2, "name": "a\nb"}, {"name": "tree"}]
)
def test_check_lists_faulty_categories(data, run, fails, entry):
    labels = coco(categories=[{"id": 1, "name": "roof"}, entry])
    (data / "labels.json").write_text(json.dumps(labels))
    fails("new", data, "--yes", code="label-file", values=["labels.json", "$.categories[1]"])
    assert faults_of(run, data) == [("label file", "$.categories[1]")]


def test_check_of_a_folder_without_task_toml(data, run):
    (data / "labels.json").write_text(json.dumps(coco()))
    found = json.loads(run("check", data, "--json").out)
    assert found["images"] == COUNT and not found["stops"]
    assert not (data / "task.toml").exists()


@pytest.mark.parametrize(
    ("content", "value"), [(b"", "empty"), (json.dumps(coco()).encode("utf-16"), "UTF-16")]
)
def test_a_label_file_that_nothing_can_read_is_named(data, content, value):
    (data / "labels.json").write_bytes(content)
    with refuses("not-understood", "labels.json", value):
        fastseg.new(data)


def test_the_pictures_of_a_panoptic_file_are_no_masks(data, run):
    segments = [{"id": 1, "category_id": 1, "area": 300, "bbox": [0, 0, 15, 20], "iscrowd": 0}]
    annotations = [
        {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        for number in range(COUNT)
    ]
    pictures = data / "annotations" / "panoptic_train"
    pictures.mkdir(parents=True)
    ids = np.zeros((20, 30, 3), np.uint8)
    ids[:, :15, 0] = 1
    for number in range(COUNT):
        Image.fromarray(ids).save(pictures / f"{number}.png")
    labels = json.dumps(coco(annotations=annotations))
    (data / "annotations" / "panoptic_train.json").write_text(labels)
    run("new", data, "--yes")
    assert fastseg.tasks.get(data).layouts[0].format == "coco_panoptic"


def test_a_yaml_that_grows_is_refused(data):
    (data / "labels").mkdir()
    (data / "labels" / "0.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    (data / "data.yaml").write_text("\n".join([*lines, "names: [roof]", "train: *a59"]))
    with refuses("label-file", "data.yaml"):
        fastseg.new(data)


def labelme(number):
    """Return LabelMe's labels of an image."""
    shape = {"label": "roof", "points": [[2, 2], [12, 2], [12, 12]], "shape_type": "polygon"}
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [shape],
        "imagePath": f"{number}.jpg",
        "imageData": None,
        "imageHeight": 20,
        "imageWidth": 30,
    }


@pytest.mark.parametrize(
    "content",
    [b"", json.dumps(labelme(1)).encode("utf-16"), b'{"version": "5', b'{"shapes": {}}'],
)
def test_a_damaged_file_of_labelme_is_a_fault(data, run, content):
    for number in range(COUNT):
        (data / "images" / f"{number}.json").write_text(json.dumps(labelme(number)))
    (data / "images" / "1.json").write_bytes(content)
    found = json.loads(run("check", data, "--json", code=1).out)["faults"]
    faulty = [fault["file"] for fault in found if fault["stops"]]
    assert faulty == [str(data / "images" / "1.json")]


def test_new_names_a_folder_that_is_called_like_a_task(data, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data.rename(tmp_path / "eye")
    (tmp_path / "eye" / "labels.json").write_text(json.dumps(coco()))
    assert "fastseg fit ./eye\n" in run("new", "eye", "--yes").out


@pytest.mark.parametrize(
    ("code", "line", "key"),
    [
        ("task-group", "group = '('", "group"),
        ("task-channels", "channels = 4\nshown_channels = [9, 0, 1]", "shown_channels"),
        ("unknown-format", "[[layouts]]\nformat = 'cocoo'\nlabels = 'x'", "layouts[0].format"),
    ],
)
def test_contradictions_in_a_task_toml_have_line_and_key(data, code, line, key):
    (data / "task.toml").write_text(f'classes = ["a", "b"]\n{line}\n')
    number = 2 if code == "task-group" else 3
    with refuses(code, "task.toml", f"line {number}, {key}"):
        fastseg.tasks.get(data)


def test_a_list_that_is_not_used_is_named(data):
    (data / "masks").mkdir()
    codes = np.zeros((20, 30), np.uint8)
    codes[5:15] = 1
    for number in range(COUNT):
        Image.fromarray(codes).save(data / "masks" / f"{number}.png")
    (data / "train.txt").write_text("0\n1\ngone\n")
    assert any("train.txt" in line for line in fastseg.new(data).evidence["layouts"])

"""Label Studio's exports: full JSON and JSON_MIN, brush strokes, which annotation counts."""

import copy
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import needs_shared, refuses, shared
from format_cases import (
    CLASSES,
    blobs,
    class_masks,
    iou_by_class,
    read_back,
    round_trip,
    smooth_codes,
    write_labels,
)
from format_fuzz import mutated, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastseg.formats import get
from fastseg.formats.brush import decode_brush, encode_brush
from fastseg.formats.cache import masks_of
from fastseg.formats.documents import Bad

form = get("labelstudio")
SIZE = (40, 60)
MEANING = {"roof": 1, "tree": 2}
SQUARE = [[10, 10], [50, 10], [50, 50], [10, 50]]  # in percent: x 6 to 30, y 4 to 20 px


def region(kind="polygonlabels", label="roof", **value):
    value = value or {"points": SQUARE}
    return {
        "id": "abc",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }


def annotation(*results, **more):
    return {"id": 7, "was_cancelled": False, "result": list(results), **more}


def task(*annotations, image="/data/upload/1/ab12cd34-a.png", **more):
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations), **more}


def brush(pixels: np.ndarray, label="roof"):
    return region("brushlabels", label, format="rle", rle=list(encode_brush(pixels)))


@pytest.fixture
def data(tmp_path):
    """Write an image and tasks, and return the folder."""

    def make(*tasks, name="a.png"):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", SIZE[::-1]).save(root / name)
        (root / "project.json").write_text(json.dumps(list(tasks)))
        return root

    return make


def codes_of(root):
    found, faults = masks_of(form, root, root, root, MEANING, 0)
    assert faults == []
    return np.asarray(Image.open(found[0].mask))


def faults_of(root):
    return masks_of(form, root, root / "project.json", root, MEANING, 0)[1]


def test_polygons_are_in_percent_and_later_ones_lie_on_top(data):
    other = region(label="tree", points=[[30, 30], [100, 30], [100, 100], [30, 100]])
    codes = codes_of(data(task(annotation(region(), other))))
    assert (codes == 1).sum() == 24 * 16 - 12 * 8 and codes[4, 6] == 1 and codes[3, 6] == 0
    assert codes[39, 59] == 2 and codes[12, 18] == 2
    assert codes_of(data(task(annotation(other, region()))))[12, 18] == 1


def test_ellipses_are_drawn_with_their_angle(data):
    ellipse = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90}
    codes = codes_of(data(task(annotation(region("ellipselabels", **ellipse)))))
    rows, columns = np.nonzero(codes == 1)
    # radii of 12 and 4 px, turned by a quarter
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 31, 26, 33)
    assert abs(len(rows) - np.pi * 12 * 4) < 6


def test_brush_strokes_have_their_own_pixels(data):
    pixels = np.random.default_rng(0).random(SIZE) > 0.7
    assert np.array_equal(codes_of(data(task(annotation(brush(pixels))))) == 1, pixels)


@given(mask=blobs())
def test_any_mask_is_encoded_and_decoded(mask):
    encoded = encode_brush(mask)
    assert np.array_equal(decode_brush(list(encoded), mask.shape, "$") > 0, mask)
    assert encoded == reference_encoder(mask)


def reference_encoder(mask: np.ndarray) -> bytes:
    """Encode a mask bit by bit as the format is described, one run at a time."""
    values = [255 * int(value) for value in mask.reshape(-1) for _ in range(4)]
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 65536:
            end += 1
        kind = next(kind for kind, n in enumerate((3, 4, 8, 16)) if end - at <= 2**n)
        bits += "1" + f"{kind:02b}" + f"{end - at - 1:0{(3, 4, 8, 16)[kind]}b}"
        bits += f"{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


@given(
    values=st.lists(st.integers(0, 255), min_size=4, max_size=64).filter(lambda v: len(v) % 4 == 0),
    cuts=st.lists(st.integers(1, 8), min_size=64, max_size=64),
)
def test_runs_of_single_values_are_decoded(values, cuts):
    """Strokes in colour have another value in each channel: runs of values, not of one value."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    at = 0
    for cut in cuts:
        part = values[at : at + cut]
        if part:
            bits += "000" + f"{len(part) - 1:03b}" + "".join(f"{value:08b}" for value in part)
        at += cut
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(rle, (1, len(values) // 4), "$").tolist() == [values[3::4]]


@given(rle=st.lists(st.integers(0, 255), max_size=40), junk=st.booleans())
def test_damaged_run_lengths_are_refused(rle, junk):
    header = [0, 0, 0, 96, 57, 27, 252] if junk else []
    try:
        assert decode_brush(header + rle, (4, 6), "$.rle").shape == (4, 6)
    except Bad as bad:
        assert bad.place.startswith("$.rle")


def test_run_lengths_cannot_fill_the_memory():
    giant = [255, 255, 255, 255, 57, 27, 252, *[255] * 30]
    for size in ((30_000, 30_000), (10, 10)):
        with pytest.raises(Bad):
            decode_brush(giant, size, "$")
    with pytest.raises(Bad):
        decode_brush([0] * 100_000, (10, 10), "$")


def test_of_several_annotations_the_ground_truth_or_the_newest_counts(data):
    old = annotation(region(label="roof"), updated_at="2024-01-01T10:00:00Z")
    new = annotation(region(label="tree"), updated_at="2024-03-01T10:00:00Z")
    cancelled = annotation(region(), was_cancelled=True, updated_at="2025-01-01T10:00:00Z")
    assert codes_of(data(task(new, old, cancelled))).max() == 2
    truth = {**old, "ground_truth": True}
    assert codes_of(data(task(truth, new, cancelled))).max() == 1
    del old["updated_at"], new["updated_at"]
    assert codes_of(data(task(old, new))).max() == 2  # Label Studio appends


def test_tasks_without_annotation_are_unlabelled_and_predictions_are_not_read(data):
    predicted = [{"model_version": "1", "score": 0.5, "result": [region()]}]
    root = data(task(predictions=predicted), task(annotation(region()), image="b.png"))
    Image.new("RGB", SIZE[::-1]).save(root / "b.png")
    found, faults = masks_of(form, root, root, root, MEANING, 0)
    assert [one.image.name for one in found] == ["b.png"]
    assert [(one.kind, one.stops) for one in faults] == [("unlabelled image", False)]
    # a file with nothing else says why it is of no use
    stopping = [one for one in faults_of(data(task(predictions=predicted))) if one.stops]
    assert [one.kind for one in stopping] == ["label file"]
    # an empty annotation says that there is nothing in the image
    assert codes_of(data(task(annotation()))).max() == 0


@pytest.mark.parametrize(
    ("image", "stored"),
    [
        ("/data/upload/1/ab12cd34-7.jpg", "images/ab12cd34-7.jpg"),
        ("/data/upload/1/ab12cd34-7.jpg", "images/7.jpg"),
        ("/data/local-files/?d=images/my%207.jpg", "images/my 7.jpg"),
        ("/data/local-files/?d=deep/images/7.jpg", "images/7.jpg"),
        ("https://example.com/photos/7.jpg?token=1", "7.jpg"),
        ("s3://bucket/photos/7.jpg", "photos/7.jpg"),
        ("images\\7.jpg", "images/7.jpg"),
        ("7#1.jpg", "7#1.jpg"),
    ],
)
def test_images_are_found_by_the_names_label_studio_gives_them(data, image, stored):
    assert codes_of(data(task(annotation(region()), image=image), name=stored)).max() == 1


def test_the_image_is_the_field_that_looks_like_one(data):
    one = task(annotation(region()))
    one["data"] = {"text": "a roof", "photo": "/data/upload/1/ab12cd34-a.png"}
    assert codes_of(data(one)).max() == 1
    one["data"] = {"image": "/image2"}
    assert codes_of(data({**one, "file_upload": "e97d4735-a.png"})).max() == 1


def flat(*regions, **more):
    values = [
        {**one["value"], "original_width": SIZE[1], "original_height": SIZE[0]} for one in regions
    ]
    return {"image": "/data/upload/1/ab12cd34-a.png", "id": 1, "label": values, **more}


def test_json_min_is_read(data):
    pixels = np.zeros(SIZE, bool)
    pixels[30:, 50:] = True
    root = data(flat(region(), brush(pixels, "tree"), choice="good", updated_at="2024-01-02"))
    assert form.find(root) == [root / "project.json"]
    codes = codes_of(root)
    assert (codes == 1).sum() == 24 * 16 and np.array_equal(codes == 2, pixels)
    newer = flat(region(label="tree"), updated_at="2024-01-03")
    older = flat(region(), updated_at="2024-01-01")
    assert codes_of(data(newer, older)).max() == 2  # two annotations of one task
    faults = faults_of(data(flat(region(points=[[1, 1], [2, 2]]))))
    assert [one.place for one in faults if one.stops] == ["$[0].label[0].value.points"]


def test_regions_of_separate_label_tags_and_notes_are_read_once(data):
    shape = region() | {"type": "polygon", "value": {"points": SQUARE}}
    label = region() | {"type": "labels", "value": {"points": SQUARE, "labels": ["roof"]}}
    note = region() | {"type": "choices", "value": {"points": SQUARE, "choices": ["good"]}}
    relation = {"type": "relation", "from_id": "abc", "to_id": "abd"}
    assert (codes_of(data(task(annotation(shape, label, note, relation)))) == 1).sum() == 24 * 16
    faults = faults_of(data(task(annotation(shape))))
    assert [one.place for one in faults] == ["$[0].annotations[0].result[0].value"]


AT = "$[0].annotations[0].result[0]"
LOST = region(points=[[1, 1], [20, 2], [float("nan"), 3]])
WRONG = {  # result, kind of the fault, its place
    "two points": (
        region(points=[[1, 1], [2, 2]]),
        "label file",
        f"{AT}.value.points",
    ),
    "nan": (LOST, "label file", f"{AT}.value.points[2][0]"),
    "outside": (
        region(points=[[1, 1], [120, 1], [1, 20]]),
        "outside image",
        f"{AT}.value",
    ),
    "box": (region("rectanglelabels", x=1, y=1, width=9, height=9), "label file", f"{AT}.value"),
    "key point": (region("keypointlabels", x=1, y=1, width=1), "label file", f"{AT}.value"),
    "video": (region("videorectangle", sequence=[]) | {"value": 3}, "label file", f"{AT}.value"),
    "ellipse": (
        region("ellipselabels", x=1, y=1, radiusX=-1, radiusY=2),
        "label file",
        f"{AT}.value",
    ),
    "two labels": (
        region() | {"value": {"points": SQUARE, "polygonlabels": ["roof", "tree"]}},
        "label file",
        f"{AT}.value",
    ),
    "no size": (region() | {"original_width": None}, "label file", f"{AT}.original_width"),
    "turned": (region() | {"image_rotation": 90}, "label file", f"{AT}.image_rotation"),
    "size": (
        region() | {"original_width": 61},
        "size mismatch",
        "$[0]",
    ),
    "brush size": (
        brush(np.ones((40, 59), bool)),
        "label file",
        f"{AT}.value.rle",
    ),
    "no byte": (
        region("brushlabels", format="rle", rle=[0, 0, 37, 128, 256]),
        "label file",
        f"{AT}.value.rle[4]",
    ),
    "true": (
        region("brushlabels", format="rle", rle=[0, True]),
        "label file",
        f"{AT}.value.rle[1]",
    ),
    "unknown": (region(label="rooof"), "unknown class", f"{AT}.value"),
    "no result": (7, "label file", AT),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_regions_are_faults_with_their_place(data, name):
    result, kind, place = WRONG[name]
    faults = [one for one in faults_of(data(task(annotation(result)))) if one.stops]
    assert [(one.kind, one.place) for one in faults] == [(kind, place)]
    assert faults[0].file.endswith("project.json")


@pytest.mark.parametrize(
    ("image", "kind"),
    [("gone.png", "no partner"), ("/data/local-files/?d=../../a.png", "label file")],
)
def test_absent_images_and_ways_out_of_the_folder_are_faults(data, image, kind):
    faults = faults_of(data(task(annotation(region()), image=image)))
    assert [(one.kind, one.place) for one in faults if one.stops] == [(kind, "$[0]")]


def test_a_task_that_is_damaged_does_not_hide_the_ones_before_it(data):
    root = data(task(annotation(region())), task(annotation(region()), image="b.png"))
    Image.new("RGB", SIZE[::-1]).save(root / "b.png")
    text = (root / "project.json").read_text()
    for damaged, place in (
        (text[: len(text) - 50], "$[1]"),
        (text[:-1] + ", " + "[" * 20_000, "$[2]"),
        (text + "x", "$[2]"),
    ):
        (root / "project.json").write_text(damaged)
        found, faults = masks_of(form, root, root / "project.json", root, MEANING, 0)
        assert found[0].image.name == "a.png"
        assert [(one.kind, one.place) for one in faults if one.stops] == [("label file", place)]


def test_classes_come_from_the_configuration_or_else_by_first_use(data):
    root = data(task(annotation(region(label="tree"), region())))
    assert list(form.classes(form.find(root))) == ["tree", "roof"]
    config = root / "label_config.xml"
    config.write_text(
        '<View><BrushLabels name="b" toName="i"><Label value="Roof" alias="roof" '
        'background="#ff8000"/><Label value="tree" background="green"/><Label value="car"/>'
        '</BrushLabels><Choices name="c" toName="i"><Choice value="good"/></Choices></View>'
    )
    expected = {"roof": (255, 128, 0), "tree": (0, 128, 0), "car": None}
    assert form.classes(form.find(root)) == expected
    for text in ("<View>", '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "x" * (2 << 20)):
        config.write_text(text)
        with refuses("label-file", "label_config.xml"):
            form.classes(form.find(root))


VALID = [
    task(annotation(region(), brush(np.ones(SIZE, bool), "tree"))),
    flat(region("ellipselabels", x=50, y=50, radiusX=10, radiusY=10), id=2, image="b.png"),
]


@given(text=mutated(VALID))
@settings(max_examples=100, deadline=None)
def test_damaged_files_are_faults(text, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    Image.new("RGB", SIZE[::-1]).save(root / "a.png")
    (root / "project.json").write_bytes(text)
    survives(form, root / "project.json", root, MEANING)


@given(codes=class_masks(unlabelled=True))
@settings(max_examples=40, deadline=None)
def test_masks_come_back(codes, tmp_path_factory):
    back = round_trip(form, codes, tmp_path_factory.mktemp("data") / "out")
    assert min(iou_by_class(codes, back).values()) >= 0.99


def test_written_tasks_go_with_their_configuration(tmp_path):
    codes = smooth_codes()
    codes[10:100, 10:100] = 1
    codes[40:60, 40:60] = 0  # a hole of background: a brush stroke
    tasks, config = write_labels(form, {"images/a b.png": codes}, tmp_path)
    root = ElementTree.parse(config).getroot()
    tags = {tag.get("name"): tag for tag in root if tag.tag != "Image"}
    (written,) = json.loads(tasks.read_text())
    assert "predictions" not in written
    kinds = set()
    for result in written["annotations"][0]["result"]:
        tag = tags[result["from_name"]]
        assert tag.tag.lower() == result["type"]
        assert tag.get("toName") == result["to_name"] == root.find("Image").get("name")
        (label,) = result["value"][result["type"]]
        assert label in {one.get("value") for one in tag}
        kinds.add(result["type"])
    assert kinds == {"polygonlabels", "brushlabels"}
    assert list(form.classes([tasks])) == list(CLASSES[1:])


def test_masks_with_scores_are_predictions(tmp_path):
    codes = smooth_codes()
    scores = {0: 0.9, 1: 0.8, 2: 0.5, 3: 0.25}
    tasks, _ = write_labels(form, {"a.png": codes}, tmp_path, scores=scores)
    (written,) = json.loads(tasks.read_text())
    (prediction,) = written["predictions"]
    assert "annotations" not in written and prediction["model_version"]
    assert 0.25 <= prediction["score"] <= 0.9
    for result in prediction["result"]:
        (label,) = result["value"][result["type"]]
        assert result["score"] == scores[CLASSES.index(label)]
    # corrected in Label Studio, and exported: what was a prediction is an annotation
    corrected = copy.deepcopy(written)
    corrected["annotations"] = [annotation(*prediction["result"])]
    tasks.write_text(json.dumps([corrected]))
    found, faults = read_back(form, tmp_path)
    assert faults == []
    assert min(iou_by_class(codes, found["a.png"]).values()) >= 0.99


@needs_shared
def test_the_real_file_is_read(tmp_path):
    root = tmp_path / "data"
    shutil.copytree(shared / "data" / "formats" / "label_studio", root)
    classes = form.classes(form.find(root))
    assert classes == {"Airplane": (255, 0, 0), "Car": (0, 0, 255)}
    Image.new("RGB", (640, 426)).save(root / "000000000025.jpg")
    meaning = {"Airplane": 1, "Car": 2}
    (drawn,), faults = masks_of(form, root, root, root, meaning, 0)
    codes = np.asarray(Image.open(drawn.mask))
    assert faults == [] and codes.shape == (426, 640) and set(np.unique(codes)) == {0, 1}
    # the aeroplane stands at the right: its box in the file, in percent
    rows, columns = np.nonzero(codes)
    box = [columns.min() / 6.4, columns.max() / 6.4, rows.min() / 4.26, rows.max() / 4.26]
    assert np.allclose(box, [60, 90.46, 14.88, 83.75], atol=0.4)

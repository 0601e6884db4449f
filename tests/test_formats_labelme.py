"""LabelMe's files: shapes as LabelMe draws them, its conventions, and files that are wrong."""

import base64
import io
import json
import math
import tracemalloc

import numpy as np
import pytest
from conftest import needs_shared, refuses, shared
from format_cases import (
    CLASSES,
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
from PIL import Image, ImageDraw

from fastseg.formats import documents, get
from fastseg.formats.cache import masks_of

form = get("labelme")
SIZE = (40, 60)
MEANING = {"roof": 1, "tree": 2}


def polygon(label="roof", points=((5, 5), (20, 5), (20, 30)), **more):
    points = [list(point) for point in points]
    return {"label": label, "points": points, "shape_type": "polygon", "flags": {}, **more}


def content(*shapes, **more):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **more,
    }


def png_text(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture
def data(tmp_path):
    """Write an image and its label file, and return the folder."""

    def make(labels, name="a.json"):
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / "a.png")
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(labels if isinstance(labels, str) else json.dumps(labels))
        return root

    return make


def codes_of(root, background=0, meaning=None):
    found, faults = masks_of(form, root, root, root, meaning or MEANING, background)
    assert faults == []
    return np.asarray(Image.open(found[0].mask))


def faults_of(root):
    return masks_of(form, root, root, root, MEANING, 0)[1]


def expected(draw_shape):
    """Return what LabelMe's `shape_to_mask` draws in an image of SIZE."""
    image = Image.new("L", SIZE[::-1])
    draw_shape(ImageDraw.Draw(image))
    return np.asarray(image) > 0


# Shapes with fractions, at the border, beyond it, upside down, and of no extent
CIRCLES = [((30.7, 20.2), (35.1, 25.9)), ((2.3, 1.9), (9.5, 3.2)), ((10, 10), (10, 10))]
BOXES = [((5.9, 6.1), (20.2, 15.7)), ((20.2, 15.7), (5.9, 6.1)), ((3, 3), (3, 3))]
LINES = [((5.5, 5.5), (50.2, 30.1)), ((0, 0), (59, 0)), ((10, 39), (10, 1)), ((8, 8), (8, 8))]


@pytest.mark.parametrize("points", CIRCLES)
def test_circles_are_drawn_as_labelme_does(data, points):
    (x, y), edge = points
    radius = math.dist(*points)
    root = data(content({"label": "roof", "points": points, "shape_type": "circle"}))
    box = [x - radius, y - radius, x + radius, y + radius]
    drawn = expected(lambda draw: draw.ellipse(box, outline=1, fill=1))
    assert np.array_equal(codes_of(root) == 1, drawn)
    assert drawn.any() == (radius > 0)


@pytest.mark.parametrize("points", BOXES)
def test_boxes_are_drawn_as_labelme_does(data, points):
    root = data(content({"label": "roof", "points": points, "shape_type": "rectangle"}))
    (x0, y0), (x1, y1) = points
    box = (min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))
    drawn = expected(lambda draw: draw.rectangle(box, outline=1, fill=1))
    assert np.array_equal(codes_of(root) == 1, drawn) and drawn.any()


@pytest.mark.parametrize("points", LINES)
def test_lines_are_ten_px_wide(data, points):
    root = data(content({"label": "roof", "points": points, "shape_type": "line"}))
    drawn = expected(lambda draw: draw.line(points, fill=1, width=10))
    assert np.array_equal(codes_of(root) == 1, drawn) and drawn.any()


def test_strips_of_lines_and_points_are_drawn_as_labelme_does(data):
    strip = [(5.5, 5.5), (50.2, 30.1), (40, 8)]
    root = data(content({"label": "roof", "points": strip, "shape_type": "linestrip"}))
    drawn = expected(lambda draw: draw.line(strip, fill=1, width=10))
    assert np.array_equal(codes_of(root) == 1, drawn)
    root = data(content({"label": "roof", "points": [[2.5, 30.5]], "shape_type": "point"}))
    drawn = expected(lambda draw: draw.ellipse([-2.5, 25.5, 7.5, 35.5], outline=1, fill=1))
    assert np.array_equal(codes_of(root) == 1, drawn)


@given(
    points=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 40)), min_size=2, max_size=2),
    kind=st.sampled_from(["circle", "rectangle", "line"]),
)
@settings(max_examples=40)
def test_any_shape_is_drawn_as_labelme_does(points, kind, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    Image.new("RGB", SIZE[::-1]).save(root / "a.png")
    shape = {"label": "roof", "points": points, "shape_type": kind}
    (root / "a.json").write_text(json.dumps(content(shape)))
    (x0, y0), (x1, y1) = points
    radius = math.dist(*points)
    draws = {
        "circle": lambda draw: draw.ellipse(
            [x0 - radius, y0 - radius, x0 + radius, y0 + radius], outline=1, fill=1
        ),
        "rectangle": lambda draw: draw.rectangle(
            [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1
        ),
        "line": lambda draw: draw.line(points, fill=1, width=10),
    }
    assert np.array_equal(codes_of(root) == 1, expected(draws[kind]))


def test_masks_have_the_pixels_of_their_png(data):
    pixels = np.random.default_rng(0).random((12, 20)) > 0.5
    corners = [[7, 9], [26, 20]]
    shape = polygon(points=corners, mask=png_text(pixels)) | {"shape_type": "mask"}
    codes = codes_of(data(content(shape)))
    assert np.array_equal(codes[9:21, 7:27] == 1, pixels) and codes.sum() == pixels.sum()
    # newer versions write boxes with fractions, and grey masks
    shape = polygon(
        points=[[7.4, 8.6], [25.6, 20.3]], mask=png_text(pixels.astype(np.uint8) * 255)
    ) | {"shape_type": "mask"}
    assert np.array_equal(codes_of(data(content(shape))), codes)


def test_later_shapes_lie_on_top_and_labelmes_own_labels_keep_their_meaning(data):
    square = [[5, 5], [30, 5], [30, 30], [5, 30]]
    inner = [[10, 10], [20, 10], [20, 20], [10, 20]]
    shapes = [polygon("roof", square), polygon("tree", inner)]
    codes = codes_of(data(content(*shapes)))
    assert codes[15, 15] == 2 and codes[6, 6] == 1 and codes[0, 0] == 0
    assert codes_of(data(content(*reversed(shapes))))[15, 15] == 1
    for label, code in (("__ignore__", 255), ("_background_", 0)):
        root = data(content(polygon("roof", square), polygon(label, inner)))
        assert codes_of(root)[15, 15] == code
        assert label in form.classes(form.find(root)) or label == "__ignore__"


def test_old_versions_state_neither_size_nor_kind_of_shape(data):
    old = {
        "shapes": [{"label": "roof", "points": [[5, 5], [20, 5], [20, 30]], "fill_color": None}],
        "lineColor": [0, 255, 0, 128],
        "imagePath": "a.png",
        "imageData": "iVBORw0KGgo=",
    }
    root = data(old)
    assert [file.name for file in form.find(root)] == ["a.json"]
    assert (codes_of(root) == 1).sum() == (codes_of(data(content(polygon()))) == 1).sum() > 100


@pytest.mark.parametrize("path", ["../images/a.png", "..\\images\\a.png"])
def test_paths_of_images_are_relative_and_may_have_backslashes(data, path):
    root = data(content(polygon(), imagePath=path), name="labels/a.json")
    (root / "images").mkdir()
    (root / "a.png").rename(root / "images" / "a.png")
    assert codes_of(root).any()


def test_classes_come_from_labels_txt_or_else_by_first_use(data):
    root = data(content(polygon("tree"), polygon("roof"), polygon("__ignore__")))
    assert list(form.classes(form.find(root))) == ["tree", "roof"]
    (root.parent / "labels.txt").write_text("__ignore__\n_background_\n roof\ntree\n\ncar\n")
    assert list(form.classes(form.find(root))) == ["_background_", "roof", "tree", "car"]


def test_embedded_images_are_skipped_without_being_read(data):
    text = json.dumps(content(polygon(), imageData="@"))
    root = data(text.replace("@", "A" * (60 << 20)))
    tracemalloc.start()
    try:
        regions = next(iter(form.read(form.find(root), []))).regions
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(regions) == 1 and peak < 4 << 20
    assert codes_of(root).any()
    # the same key inside a text is no image
    trap = polygon(description='"imageData": "', group_id=3)
    assert codes_of(data(content(trap, imageData="AAAA"))).any()


def bomb() -> str:
    """Return a PNG of 20,000 x 20,000 px in 50 kB, as base64."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG", compress_level=9)
    return base64.b64encode(stream.getvalue()).decode()


MASK = {"shape_type": "mask"}
WRONG = {  # labels, kind of the fault, its place
    "two points": (polygon(points=[[1, 1], [2, 2]]), "label file", "$.shapes[0].points"),
    "nan": (
        polygon(points=[[1, 1], [float("nan"), 2], [3, 3]]),
        "label file",
        "$.shapes[0].points[1][0]",
    ),
    "text": (polygon(points=[[1, 1], [2, "2"], [3, 3]]), "label file", "$.shapes[0].points[1][1]"),
    "huge": (
        polygon(points=[[1, 1], [2, 10**400], [3, 3]]),
        "label file",
        "$.shapes[0].points[1][1]",
    ),
    "three": (polygon(points=[[1, 1], [2, 2, 2], [3, 3]]), "label file", "$.shapes[0].points[1]"),
    "no points": (polygon() | {"points": None}, "label file", "$.shapes[0].points"),
    "no label": (polygon(label=None), "label file", "$.shapes[0].label"),
    "line break": (polygon(label="a\nb"), "label file", "$.shapes[0].label"),
    "no shape": (7, "label file", "$.shapes[0]"),
    "kind": (polygon(shape_type="spline"), "label file", "$.shapes[0].shape_type"),
    "outside": (polygon(points=[[1, 1], [62, 1], [3, 3]]), "outside image", "$.shapes[0]"),
    "circle outside": (
        polygon(points=[[1, 1], [1, 90]], shape_type="circle"),
        "outside image",
        "$.shapes[0].points[1]",
    ),
    "long circle": (
        polygon(points=[[1, 1], [2, 2], [3, 3]], shape_type="circle"),
        "label file",
        "$.shapes[0].points",
    ),
    "no mask": (
        polygon(points=[[1, 1], [5, 5]], shape_type="mask"),
        "label file",
        "$.shapes[0].mask",
    ),
    "no base64": (
        polygon(points=[[1, 1], [5, 5]], shape_type="mask", mask="A"),
        "label file",
        "$.shapes[0].mask",
    ),
    "mask size": (
        polygon(points=[[1, 1], [5, 5]], shape_type="mask", mask=png_text(np.ones((3, 3), bool))),
        "label file",
        "$.shapes[0].mask",
    ),
    "png bomb": (
        polygon(points=[[1, 1], [40, 30]], shape_type="mask", mask=bomb()),
        "label file",
        "$.shapes[0].mask",
    ),
    "unknown": (polygon(label="rooof"), "unknown class", "$.shapes[0]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_faults_with_their_place(data, name):
    shape, kind, place = WRONG[name]
    faults = faults_of(data(content(shape, polygon("tree"))))
    assert [(one.kind, one.place) for one in faults] == [(kind, place)]
    assert faults[0].file.endswith("a.json")


WRONG_FILES = {
    "no json": ('{"shapes": [', "label file", "line 1, column 13"),
    "nested": (
        '{"imagePath": "a.png", "shapes": ' + "[" * 10_000 + "]" * 10_000 + "}",
        "label file",
        "",
    ),
    "a list": ('[{"shapes": [], "imagePath": "a.png"}]', "label file", "$"),
    "no shapes": (content(shapes=None), "label file", "$.shapes"),
    "no image": (content(imagePath=None), "label file", "$.imagePath"),
    "absent": (content(imagePath="b.png"), "no partner", "$.imagePath"),
    "leaves": (content(imagePath="../../a.png"), "label file", "$.imagePath"),
    "absolute": (content(imagePath="/etc/a.png"), "label file", "$.imagePath"),
    "size": (content(imageHeight=41), "size mismatch", "$.imageHeight"),
    "half": (content(imageHeight=40.5), "label file", "$.imageHeight"),
    "giant": (content(imageHeight=90_000, imageWidth=90_000), "label file", "$.imageHeight"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_are_faults_with_their_place(data, name):
    labels, kind, place = WRONG_FILES[name]
    root = data(labels)
    found, faults = masks_of(form, root, root / "a.json", root, MEANING, 0)
    assert found == []
    assert [(one.kind, one.place) for one in faults if one.stops] == [(kind, place)]


def test_classes_refuse_files_that_cannot_be_parsed(data):
    root = data('{"shapes": [')
    with refuses("label-file", "a.json"):
        form.classes([root / "a.json"])


def test_too_many_bitmaps_are_refused_before_they_fill_the_memory(data, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BITMAPS", 3000)
    shape = polygon(
        points=[[0, 0], [49, 29]], shape_type="mask", mask=png_text(np.ones((30, 50), bool))
    )
    faults = faults_of(data(content(shape, shape, shape)))
    assert [one.place for one in faults] == ["$.shapes[2]"]


def test_files_larger_than_the_limit_are_refused(data, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BYTES", 1000)
    assert codes_of(data(content(polygon(), imageData="A" * 2000))).any()
    faults = faults_of(data(content(polygon(description="A" * 2000))))
    assert [one.kind for one in faults if one.stops] == ["label file"]


VALID = content(
    polygon(),
    polygon("tree", [[30, 10], [40, 20]], shape_type="circle"),
    polygon("tree", [[2, 2], [6, 5]], shape_type="mask", mask=png_text(np.ones((4, 5), bool))),
)


@given(text=mutated(VALID))
@settings(max_examples=100, deadline=None)
def test_damaged_files_are_faults(text, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    Image.new("RGB", SIZE[::-1]).save(root / "a.png")
    (root / "a.json").write_bytes(text)
    survives(form, root / "a.json", root, MEANING)


@pytest.mark.slow
@given(codes=class_masks(unlabelled=True))
@settings(max_examples=40, deadline=None)
def test_masks_come_back(codes, tmp_path_factory):
    back = round_trip(form, codes, tmp_path_factory.mktemp("data") / "out")
    assert min(iou_by_class(codes, back).values()) >= 0.99


@pytest.mark.slow
@given(codes=class_masks())
@settings(max_examples=20, deadline=None)
def test_masks_without_background_come_back(codes, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "out"
    out.mkdir()
    codes[0, 0] = 255
    write_labels(form, {"picture.png": codes}, out, background=None)
    found, faults = read_back(form, out, background=None)
    assert faults == [] and found["picture.png"][0, 0] == 255
    assert min(iou_by_class(codes, found["picture.png"]).values()) >= 0.99


def test_written_polygons_can_be_edited(tmp_path):
    """Few points, no masks where nothing would be lost, classes in labels.txt, no image inside."""
    codes = smooth_codes(size=(480, 640), scale=40)
    labels, file = write_labels(form, {"images/a.png": codes}, tmp_path)
    assert labels.read_text().split() == ["__ignore__", "_background_", *CLASSES[1:]]
    written = json.loads(file.read_text())
    assert file == tmp_path / "images" / "a.json" and written["imagePath"] == "a.png"
    assert written["imageData"] is None
    assert (written["imageHeight"], written["imageWidth"]) == codes.shape
    polygons = [shape for shape in written["shapes"] if shape["shape_type"] == "polygon"]
    assert len(polygons) >= 3 and all(len(shape["points"]) >= 3 for shape in polygons)
    boundary = (np.diff(codes, axis=0) != 0).sum() + (np.diff(codes, axis=1) != 0).sum()
    assert sum(len(shape["points"]) for shape in polygons) < boundary / 2


def test_scores_of_predictions_are_kept(tmp_path):
    _, file = write_labels(form, {"a.png": smooth_codes()}, tmp_path, scores={1: 0.5, 2: 0.25})
    found = {shape["label"]: shape["score"] for shape in json.loads(file.read_text())["shapes"]}
    assert found == {CLASSES[1]: 0.5, CLASSES[2]: 0.25, CLASSES[3]: 0}


def test_holes_of_background_are_written_as_masks(tmp_path):
    codes = np.zeros((50, 50), np.uint8)
    codes[5:45, 5:45] = 1
    codes[20:30, 20:30] = 2  # fills its hole: a polygon around both is enough
    (_, file) = write_labels(form, {"a.png": codes}, tmp_path)
    kinds = [shape["shape_type"] for shape in json.loads(file.read_text())["shapes"]]
    assert kinds == ["polygon", "polygon"]
    codes[22:25, 22:25] = 0
    (_, file) = write_labels(form, {"a.png": codes}, tmp_path)
    shapes = json.loads(file.read_text())["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["mask", "mask"]
    found, faults = read_back(form, tmp_path)
    assert faults == [] and np.array_equal(found["a.png"], codes)


def test_files_beside_their_images_become_a_task_with_one_command(data, run):
    root = data(content(polygon(), polygon("tree", [[30, 10], [50, 10], [50, 30]])))
    data(content(polygon("tree"), imagePath="b.png"), name="b.json")
    Image.new("RGB", SIZE[::-1], "red").save(root / "b.png")
    run("new", root, "--yes")
    found = json.loads(run("check", root, "--json").out)["classes"]
    assert list(found) == ["background", "roof", "tree"] and min(found.values()) > 100


@needs_shared
def test_real_files_give_the_masks_that_labelme_drew(tmp_path):
    """All pixels but one: Pillow has since changed how it draws one corner of a polygon."""
    root = shared / "data" / "formats" / "labelme"
    classes = form.classes(form.find(root))
    meaning = {name: code for code, name in enumerate(classes)}
    assert list(meaning) == (root / "expected_class_names.txt").read_text().split("\n")
    drawn, faults = masks_of(form, root, root / "annotated", root / "annotated", meaning, 0)
    assert faults == [] and len(drawn) == 3
    differing = 0
    for one in drawn:
        codes = np.asarray(Image.open(one.mask))
        theirs = np.asarray(Image.open(root / "expected_masks" / f"{one.image.stem}.png"))
        differing += int((codes != theirs).sum())
        assert min(iou_by_class(codes, theirs).values()) >= 0.9999
    assert differing <= 1

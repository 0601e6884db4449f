"""Supervisely's projects: polygons with holes, bitmaps, classes of meta.json, wrong files."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from conftest import refuses
from format_cases import blobs
from format_fuzz import mutated, survives
from hypothesis import given, settings
from PIL import Image

from fastseg.formats import get
from fastseg.formats.cache import masks_of

form = get("supervisely")
SIZE = (40, 60)
MEANING = {"roof": 1, "tree": 2}
SQUARE = [[5, 5], [30, 5], [30, 30], [5, 30]]
INNER = [[10, 10], [20, 10], [20, 20], [10, 20]]


def polygon(label="roof", exterior=SQUARE, interior=()):
    return {
        "classTitle": label,
        "geometryType": "polygon",
        "tags": [],
        "points": {"exterior": exterior, "interior": list(interior)},
    }


def packed(pixels: np.ndarray) -> str:
    """Return a bitmap as Supervisely packs it: a palette PNG, transparent where it is not set."""
    image = Image.fromarray(pixels.astype(np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0, bits=1)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def bitmap(pixels, origin=(0, 0), label="roof", data=None):
    return {
        "classTitle": label,
        "geometryType": "bitmap",
        "bitmap": {"data": data or packed(pixels), "origin": list(origin)},
    }


def content(*objects, **more):
    size = {"height": SIZE[0], "width": SIZE[1]}
    return {"description": "", "tags": [], "size": size, "objects": list(objects), **more}


META = {
    "classes": [
        {"title": "roof", "shape": "bitmap", "color": "#FF8000"},
        {"title": "tree", "shape": "polygon", "color": "no colour"},
    ],
    "tags": [],
}


@pytest.fixture
def data(tmp_path):
    """Write a project with one image, and return its folder."""

    def make(labels, dataset="ds1"):
        root = tmp_path / "data"
        for folder in ("img", "ann"):
            (root / dataset / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / dataset / "img" / "a.jpg")
        text = labels if isinstance(labels, str) else json.dumps(labels)
        (root / dataset / "ann" / "a.jpg.json").write_text(text)
        (root / "meta.json").write_text(json.dumps(META))
        return root

    return make


def codes_of(root):
    found, faults = masks_of(form, root, root, root, MEANING, 0)
    assert faults == []
    return np.asarray(Image.open(found[0].mask))


def stopping(root):
    faults = masks_of(form, root, root / "ds1" / "ann" / "a.jpg.json", root, MEANING, 0)[1]
    return [one for one in faults if one.stops]


def test_polygons_lose_their_holes_with_the_outline_and_later_ones_lie_on_top(data):
    codes = codes_of(
        data(content(polygon(interior=[INNER]), polygon("tree", [[0, 0], [8, 0], [0, 8]])))
    )
    assert (codes == 1)[5:31, 5:31].sum() > 26 * 26 - 11 * 11 - 20
    assert codes[10, 10] == codes[20, 20] == 0 and codes[9, 10] == codes[21, 20] == 1
    assert codes[0, 0] == 2 and codes[39, 59] == 0
    top = codes_of(data(content(polygon(), polygon("tree", INNER))))
    assert top[15, 15] == 2 and top[6, 6] == 1
    assert codes_of(data(content(polygon("tree", INNER), polygon())))[15, 15] == 1


@given(mask=blobs())
@settings(max_examples=40, deadline=None)
def test_bitmaps_have_the_pixels_of_their_png(mask, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "ann").mkdir()
    height, width = mask.shape
    Image.new("RGB", (width + 3, height + 5)).save(root / "a.png")
    labels = content(bitmap(mask, (2, 4)), size={"height": height + 5, "width": width + 3})
    (root / "ann" / "a.png.json").write_text(json.dumps(labels))
    codes = codes_of(root)
    assert np.array_equal(codes[4 : height + 4, 2 : width + 2] == 1, mask)
    assert codes.sum() == mask.sum()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_bitmaps_of_other_modes_are_read(data, mode):
    pixels = np.random.default_rng(0).random((10, 14)) > 0.5
    image = Image.fromarray(pixels.astype(np.uint8) * 255).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(pixels.astype(np.uint8) * 255))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    text = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    codes = codes_of(data(content(bitmap(None, (3, 2), data=text))))
    assert np.array_equal(codes[2:12, 3:17] == 1, pixels)


def test_projects_are_found_with_their_classes_and_splits(data):
    root = data(content(polygon()), dataset="train")
    files = form.find(root)
    assert [file.name for file in files] == ["a.jpg.json"]
    assert form.classes(files) == {"roof": (255, 128, 0), "tree": None}
    (labelled,) = form.read(files, [])
    assert labelled.split == "train"
    root = data(content(polygon(), tags=[{"name": "val"}]), dataset="train")
    assert [one.split for one in form.read(form.find(root), [])] == ["valid"]
    (root / "meta.json").unlink()
    assert list(form.classes(files)) == ["roof"]


AT = "$.objects[0]"
WRONG = {  # object, kind of the fault, its place
    "two points": (polygon(exterior=[[1, 1], [2, 2]]), "label file", f"{AT}.points.exterior"),
    "hole": (polygon(interior=[[[1, 1]]]), "label file", f"{AT}.points.interior[0]"),
    "nan": (
        polygon(exterior=[[1, 1], [2, float("nan")], [3, 3]]),
        "label file",
        f"{AT}.points.exterior[1][1]",
    ),
    "outside": (polygon(exterior=[[1, 1], [90, 2], [3, 3]]), "outside image", AT),
    "outside with hole": (
        polygon(exterior=[[1, 1], [90, 2], [3, 3]], interior=[INNER]),
        "outside image",
        f"{AT}.points.exterior[1]",
    ),
    "box": ({**polygon(), "geometryType": "rectangle"}, "label file", AT),
    "line": ({**polygon(), "geometryType": "line"}, "label file", AT),
    "kind": ({**polygon(), "geometryType": [1]}, "label file", AT),
    "no class": ({**polygon(), "classTitle": None}, "label file", f"{AT}.classTitle"),
    "unknown": (polygon("rooof"), "unknown class", AT),
    "no bitmap": ({**bitmap(np.ones((2, 2))), "bitmap": []}, "label file", f"{AT}.bitmap"),
    "origin": (bitmap(np.ones((2, 2)), [1]), "label file", f"{AT}.bitmap.origin[0]"),
    "bitmap outside": (bitmap(np.ones((9, 9)), (55, 3)), "outside image", AT),
    "no zlib": (bitmap(None, data="QUJD"), "label file", f"{AT}.bitmap.data"),
    "no base64": (bitmap(None, data="Q"), "label file", f"{AT}.bitmap.data"),
    "no png": (
        bitmap(None, data=base64.b64encode(zlib.compress(b"GIF89a")).decode()),
        "label file",
        f"{AT}.bitmap.data",
    ),
    "zlib bomb": (
        bitmap(None, data=base64.b64encode(zlib.compress(bytes(50 << 20), 9)).decode()),
        "label file",
        f"{AT}.bitmap.data",
    ),
    "png bomb": (bitmap(np.zeros((9000, 9000))), "label file", f"{AT}.bitmap.data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_objects_are_faults_with_their_place(data, name):
    one, kind, place = WRONG[name]
    assert [(one.kind, one.place) for one in stopping(data(content(one)))] == [(kind, place)]


@pytest.mark.parametrize(
    ("labels", "kind", "place"),
    [
        ("{", "label file", "line 1, column 2"),
        ('{"size": 3, "objects": ' + "[" * 10_000 + "]" * 10_000 + "}", "label file", ""),
        (content(size=None), "label file", "$.size"),
        (content(size={"height": 0, "width": 3}), "label file", "$.size.height"),
        (content(size={"height": 41, "width": 60}), "size mismatch", "$.size"),
        (content(objects={}), "label file", "$.objects"),
    ],
)
def test_wrong_files_are_faults_with_their_place(data, labels, kind, place):
    assert [(one.kind, one.place) for one in stopping(data(labels))] == [(kind, place)]


def test_a_wrong_meta_file_is_refused(data):
    root = data(content(polygon()))
    (root / "meta.json").write_text('{"classes": [{"title": 3}]}')
    with refuses("label-file", "meta.json", "$.classes[0].title"):
        form.classes(form.find(root))


VALID = content(polygon(interior=[INNER]), bitmap(np.ones((4, 5)), (3, 3), "tree"))


@given(text=mutated(VALID))
@settings(max_examples=100, deadline=None)
def test_damaged_files_are_faults(text, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    Image.new("RGB", SIZE[::-1]).save(root / "a.jpg")
    (root / "a.jpg.json").write_bytes(text)
    survives(form, root / "a.jpg.json", root, MEANING)

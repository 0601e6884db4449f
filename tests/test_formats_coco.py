"""COCO instances and panoptic: read as pycocotools does, written so that pycocotools loads it."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_shared, shared
from format_cases import (
    CLASSES,
    PALETTE,
    class_masks,
    few,
    iou_by_class,
    read_back,
    round_trip,
    smooth_codes,
    write_labels,
)
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fastseg.errors import DataError
from fastseg.formats import get
from fastseg.formats.cache import masks_of
from fastseg.formats.coco import MAX_FAULTS, CocoFormat, split_of
from fastseg.formats.runs import decoded_runs
from fastseg.utils import json_stream

COCO_FORMAT, PANOPTIC = get("coco"), get("coco_panoptic")
FORMATS = shared / "data" / "formats"
SIZE = (20, 30)
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
CATEGORIES = [{"id": 7, "name": "roof"}, {"id": 3, "name": "tree", "color": [0, 128, 0]}]


def image(number=1, name="a.png", size=SIZE):
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def annotation(outline, image_id=1, category=7, **more):
    return {"image_id": image_id, "category_id": category, "segmentation": outline, **more}


def content(*annotations, images=None, categories=CATEGORIES):
    return {
        "images": [image()] if images is None else [*images],
        "annotations": [*annotations],
        "categories": [*categories],
    }


def put(folder, value, name="instances.json", images=("a.png",), size=SIZE):
    for one in images:
        file = folder / "images" / one
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(file)
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def read(file, form=COCO_FORMAT, background=0):
    meaning = {name: index for index, name in enumerate(CLASSES)}
    root = file.parent
    drawn, faults = masks_of(form, root, file, root / "images", meaning, background)
    return [np.asarray(Image.open(one.mask)) for one in drawn], faults


def places(faults):
    return [(one.kind, one.place) for one in faults]


def rle(pixels, compressed):
    encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = pixels.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [*pixels.shape], "counts": [0, *counts] if flat[0] else counts}


def loaded(file):
    """Return pycocotools' own view of a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


# --- reading ---


def test_polygons_and_run_lengths_are_drawn(tmp_path):
    pixels = np.zeros(SIZE, bool)
    pixels[10:15, 20:25] = True
    for compressed in (True, False):
        file = put(
            tmp_path,
            content(annotation([SQUARE]), annotation(rle(pixels, compressed), category=3)),
        )
        (codes,), faults = read(file)
        assert faults == []
        assert (codes[2:6, 2:6] == 1).all() and (codes == 1).sum() == 16
        assert np.array_equal(codes == 2, pixels)


def test_smaller_regions_lie_on_top_and_crowds_below(tmp_path):
    large, small = [0, 0, 20, 0, 20, 20, 0, 20], [4, 4, 8, 4, 8, 8, 4, 8]
    crowd = rle(np.ones(SIZE, bool), True)
    file = put(
        tmp_path,
        content(annotation([small], category=3), annotation([large]), annotation(crowd, iscrowd=1)),
    )
    (codes,), faults = read(file)
    assert faults == []
    assert {int(c): int((codes == c).sum()) for c in np.unique(codes)} == {1: 384, 2: 16, 255: 200}


def test_annotations_may_come_before_their_images(tmp_path):
    value = content(annotation([SQUARE]))
    file = put(tmp_path, dict(reversed(value.items())))
    assert list(json.loads(file.read_text())) == ["categories", "annotations", "images"]
    (codes,), faults = read(file)
    assert (codes == 1).sum() == 16 and faults == []


def test_annotations_of_several_images_may_be_mixed(tmp_path):
    names = [f"train/{i}.png" if i % 2 else f"val/{i}.png" for i in range(6)]
    annotations = [
        annotation([[0, 0, x + 1, 0, x + 1, 2, 0, 2]], image_id=f"id{x}")
        for x in [5, 3, 1, 0, 2, 4]
    ]
    images = [image(f"id{i}", name) for i, name in enumerate(names)]
    file = put(tmp_path, content(*annotations, images=images), images=names)
    masks, faults = read(file)
    assert faults == [] and [int((codes == 1).sum()) for codes in masks] == [2, 4, 6, 8, 10, 12]


def test_an_image_without_annotations_is_background(tmp_path):
    (codes,), faults = read(put(tmp_path, content()))
    assert (codes == 0).all() and faults == []


def test_a_size_that_is_not_stated_is_the_images(tmp_path):
    named = {"id": 1, "file_name": "a.png"}
    (codes,), faults = read(put(tmp_path, content(annotation([SQUARE]), images=[named])))
    assert codes.shape == SIZE and faults == []
    wrong = rle(np.ones((5, 5), bool), True)
    masks, faults = read(put(tmp_path, content(annotation(wrong), images=[named])))
    assert masks == [] and places(faults) == [("size mismatch", "$.images[0]")]


@given(codes=class_masks(max_side=30), compressed=st.booleans())
@few
def test_run_lengths_are_those_of_pycocotools(codes, compressed):
    for code in np.unique(codes):
        pixels = codes == code
        value = rle(pixels, compressed)
        runs = decoded_runs(value["counts"]) if compressed else np.array(value["counts"])
        assert np.array_equal(runs.sum(), pixels.size)
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), pixels.T.reshape(-1))


def test_find_takes_instances_only(tmp_path):
    expected = put(tmp_path, content(), "annotations/instances_train2017.json")
    named = {"images": [image()], "annotations": [{"image_id": 1, "caption": "a roof"}]}
    put(tmp_path, named, "annotations/captions_train2017.json")
    joints = [{"id": 1, "name": "person", "keypoints": ["nose"]}]
    put(tmp_path, content(categories=joints), "annotations/person_keypoints_train2017.json")
    segments = {**content(), "annotations": [{"image_id": 1, "segments_info": []}]}
    panoptic = put(tmp_path, segments, "annotations/panoptic_train2017.json")
    put(tmp_path, {"shapes": [], "imagePath": "a.png"}, "labelme.json")
    put(tmp_path, content(), ".hidden/instances.json")
    (tmp_path / "large.json").write_text('{"images": [' + " " * 200000 + '], "categories": []}')
    assert COCO_FORMAT.find(tmp_path) == [expected, tmp_path / "large.json"]
    assert PANOPTIC.find(tmp_path) == [panoptic]


@pytest.mark.parametrize(
    ("name", "split", "word"),
    [
        ("instances_train.json", "train", "train"),
        ("instances_val2017.json", "valid", "val2017"),
        ("image_info_test-dev2017.json", "test", "test"),
        ("valid/_annotations.coco.json", "valid", "valid"),
        ("instances_default.json", None, ""),
        ("trains.json", None, ""),
        ("contest.json", None, ""),
    ],
)
def test_the_name_says_the_split(name, split, word):
    assert split_of(Path("/data/x") / name) == (split, word)


def test_several_files_give_their_splits(tmp_path):
    for part in ("train", "val"):
        file = put(
            tmp_path,
            content(annotation([SQUARE])),
            f"annotations/instances_{part}2017.json",
            [f"{part}2017/a.png"],
        )
    drawn, faults = masks_of(
        COCO_FORMAT, tmp_path, file.parent, tmp_path / "images", {"roof": 1, "tree": 2}, 0
    )
    assert faults == []
    assert [(one.split, one.image.parent.name) for one in drawn] == [
        ("train", "train2017"),
        ("valid", "val2017"),
    ]


def test_classes_are_the_categories_in_order(tmp_path):
    file = put(tmp_path, content(categories=[*CATEGORIES, {"id": 9, "name": "__ignore__"}]))
    assert COCO_FORMAT.classes([file]) == {"roof": None, "tree": (0, 128, 0)}
    with pytest.raises(DataError) as error:
        COCO_FORMAT.classes([put(tmp_path, content(categories=[{"id": 1}]))])
    assert error.value.code == "label-file"


def test_polygons_of_labelmes_converter_are_drawn_as_labelme_draws(tmp_path):
    for stated, pixels in ((25, 25), (16, 16), (None, 16), (20.5, 16)):
        more = {} if stated is None else {"area": stated}
        (codes,), faults = read(put(tmp_path, content(annotation([SQUARE], **more))))
        assert (codes == 1).sum() == pixels and faults == []


# --- what cannot be used ---

NAN = float("nan")
HUGE = 10**9
FIRST_RING = ("label file", "$.annotations[0].segmentation[0]")
WRONG = {  # name: (annotations or parts of the file, kind and place of its fault)
    "box only": (annotation([]), ("label file", "$.annotations[0]")),
    "no outline": (annotation(None), ("label file", "$.annotations[0]")),
    "two points": (
        annotation([SQUARE, [1, 1, 5, 5]]),
        ("label file", "$.annotations[0].segmentation[1]"),
    ),
    "odd": (
        annotation([[1, 1, 5, 5, 6, 6, 7]]),
        FIRST_RING,
    ),
    "nan": (
        annotation([[1, 1, 5, NAN, 6, 6]]),
        FIRST_RING,
    ),
    "infinite": (
        annotation([[1, 1, 5, -float("inf"), 6, 6]]),
        FIRST_RING,
    ),
    "huge": (
        annotation([[1, 1, 5, 10**400, 6, 6]]),
        FIRST_RING,
    ),
    "text": (
        annotation([["1", 1, 5, 5, 6, 6]]),
        FIRST_RING,
    ),
    "pairs": (
        annotation([[[1, 1], [5, 5], [6, 6]]]),
        FIRST_RING,
    ),
    "flat": (annotation(SQUARE), FIRST_RING),
    "word": (annotation("all"), ("label file", "$.annotations[0].segmentation")),
    "outside": (annotation([[0, 0, 500, 0, 500, 5]]), ("outside image", "$.annotations[0]")),
    "billions": (annotation([[0, 0, 1e9, 0, 1e9, 1e9]]), ("outside image", "$.annotations[0]")),
    "negative": (annotation([[-9, 0, 5, 0, 5, 5]]), ("outside image", "$.annotations[0]")),
    "category": (annotation([SQUARE], category=99), ("label file", "$.annotations[0]")),
    "image": (annotation([SQUARE], image_id=99), ("label file", "$.annotations[0]")),
    "no ids": ({"segmentation": [SQUARE]}, ("label file", "$.annotations[0]")),
    "list": ([1, 2], ("label file", "$.annotations[0]")),
    "panoptic": ({"image_id": 1, "segments_info": []}, ("label file", "")),
    "rle size": (
        annotation({"size": [5, 5], "counts": [25]}),
        ("label file", "$.annotations[0].segmentation.size"),
    ),
    "rle zero": (
        annotation({"size": [0, 5], "counts": []}),
        ("label file", "$.annotations[0].segmentation.size"),
    ),
    "rle short": (
        annotation({"size": [*SIZE], "counts": [25]}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle negative": (
        annotation({"size": [*SIZE], "counts": [700, -100]}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle overflow": (
        annotation({"size": [*SIZE], "counts": [2**62, 2**62, 2**62, 2**62, 600]}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle digits": (
        annotation({"size": [*SIZE], "counts": [10**30]}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle text": (
        annotation({"size": [*SIZE], "counts": "zzz\u00e9"}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle cut": (
        annotation({"size": [*SIZE], "counts": "o"}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
    "rle bomb": (
        annotation({"size": [*SIZE], "counts": "oooooooooooo0"}),
        ("label file", "$.annotations[0].segmentation.counts"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_annotations_are_faults_with_their_place(tmp_path, case):
    wrong, expected = WRONG[case]
    good = annotation([SQUARE])
    _, faults = read(put(tmp_path, content(wrong, good)))
    assert places(faults) == [expected]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([image(size=(HUGE, HUGE))], ("size mismatch", "$.images[0]")),
        ([image(size=(19, 30))], ("size mismatch", "$.images[0]")),
        ([image(size=(-1, 30))], ("label file", "$.images[0]")),
        ([image(size=("20", 30))], ("label file", "$.images[0]")),
        ([image(size=(NAN, 30))], ("label file", "$.images[0]")),
        ([image(size=(10**400, 30))], ("label file", "$.images[0]")),
        ([image(), image(2, "b.png")], ("no partner", "$.images[1]")),
        ([image(), image(2, "../../b.png")], ("label file", "$.images[1]")),
        ([image(), image(2, "/etc/passwd")], ("label file", "$.images[1]")),
        ([image(), image(2)], ("label file", "$.images[1]")),  # the same image again
        ([image(), image(name="b.png")], ("label file", "$.images[1]")),  # the same id
        ([image(), {"id": 2}], ("label file", "$.images[1]")),
        ([image(), image(2, name=3)], ("label file", "$.images[1]")),
        ([image(), image(True, "b.png")], ("label file", "$.images[1]")),
        ([image(), None], ("label file", "$.images[1]")),
    ],
)
def test_wrong_images_are_faults_with_their_place(tmp_path, images, expected):
    _, faults = read(put(tmp_path, content(images=images)))
    assert expected in places(faults)
    assert {one.kind for one in faults} <= {expected[0], "unlabelled image"}


@pytest.mark.parametrize("outline", [{"size": [HUGE, HUGE], "counts": [HUGE * HUGE]}, [SQUARE]])
def test_an_image_of_a_billion_pixels_a_side_takes_no_memory(tmp_path, outline):
    file = put(tmp_path, content(annotation(outline), images=[image(size=(HUGE, HUGE))]))
    masks, faults = read(file)
    assert masks == [] and ("size mismatch", "$.images[0]") in places(faults)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "{}",
        "[]",
        '{"images": 3, "annotations": {}}',
        '{"images": [{"id": 1',
        '{"images": [] "annotations": []}',
        '{"annotations": [' + "[" * 100000 + "]" * 100000 + "]}",
        '{"images": [{"id": ' + "1" * 5000 + "}]}",
        '{"images": [], "annotations": []} more',
        '{3: "images"}',
        '{"images": [' + "x" * 3000000,
    ],
)
def test_files_that_are_not_coco_are_faults(tmp_path, text):
    masks, faults = read(put(tmp_path, text))
    assert masks == []
    assert [one.kind for one in faults if one.stops] != []
    assert {one.kind for one in faults} <= {"label file", "unlabelled image"}


def test_bytes_that_are_not_text_are_a_fault(tmp_path):
    file = put(tmp_path, "")
    file.write_bytes(b'{"images": ["\xff\xfe"]}')
    assert places(read(file)[1])[0] == ("label file", "")


def test_faults_of_one_file_are_listed_up_to_a_limit(tmp_path):
    wrong = [annotation([[1, 1, 2, 2]])] * (MAX_FAULTS + 5)
    faults = read(put(tmp_path, content(*wrong)))[1]
    assert len(faults) == MAX_FAULTS + 1 and " 5 more" in faults[-1].detail


def test_boxes_are_one_fault_that_counts_them(tmp_path):
    faults = read(put(tmp_path, content(*[annotation([])] * 3)))[1]
    assert places(faults) == [("label file", "$.annotations[0]")] and "2 more" in faults[0].detail


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([HUGE, -1, 2**63, "../a.png", "oo0", [SQUARE]]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "size", "counts", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths_in(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))


@st.composite
def mutated(draw, value):
    """Draw a file in which some values are replaced by others, or which is cut off."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in paths_in(value) if path]))
        target = value
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = draw(JSON_VALUES)
    text = json.dumps(value)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 5)) == 0 else text


WHOLE = content(
    annotation([SQUARE, SQUARE], score=0.5, area=16),
    annotation(rle(np.eye(20, 30, dtype=bool), True), iscrowd=1),
    annotation(rle(np.eye(20, 30, dtype=bool), False), category=3),
)


@given(text=mutated(WHOLE))
@few
def test_malformed_files_give_faults_and_no_other_error(text):
    with tempfile.TemporaryDirectory() as folder:
        masks, faults = read(put(Path(folder), text))
        assert all(
            codes.shape == SIZE and set(np.unique(codes)) <= {0, 1, 2, 3, 255} for codes in masks
        )
        assert all(one.detail and one.remedy and "\n" not in str(one) for one in faults)
        with contextlib.suppress(DataError):
            COCO_FORMAT.classes([Path(folder) / "instances.json"])


@given(text=st.text(alphabet=st.characters(max_codepoint=127), max_size=30))
@example("oooooooooooo0")
@example("PPPPPPPPPP")
@few
def test_any_text_as_run_lengths_is_refused_or_of_the_images_size(text):
    with tempfile.TemporaryDirectory() as folder:
        value = content(annotation({"size": [*SIZE], "counts": text}))
        masks, faults = read(put(Path(folder), value))
        assert all(codes.shape == SIZE for codes in masks)
        assert {one.place for one in faults} <= {"$.annotations[0].segmentation.counts"}


# --- writing ---


@given(codes=class_masks(unlabelled=True, max_side=30))
@few
def test_run_lengths_give_masks_back_exactly(codes):
    with tempfile.TemporaryDirectory() as folder:
        assert np.array_equal(round_trip(CocoFormat(exact=True), codes, Path(folder) / "x"), codes)


@given(codes=class_masks(unlabelled=True))
@few
def test_polygons_keep_each_class(codes):
    with tempfile.TemporaryDirectory() as folder:
        back = round_trip(COCO_FORMAT, codes, Path(folder) / "x")
        assert min(iou_by_class(codes, back).values()) >= 0.99


def test_smooth_shapes_are_polygons_that_people_can_edit(tmp_path):
    codes = smooth_codes()
    write_labels(COCO_FORMAT, {"a.png": codes}, tmp_path)
    found = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    polygons = [one["segmentation"][0] for one in found if isinstance(one["segmentation"], list)]
    assert len(polygons) >= 0.7 * len(found)
    assert max(map(len, polygons)) < 240
    back, _ = read_back(COCO_FORMAT, tmp_path)
    assert min(iou_by_class(codes, back["a.png"]).values()) >= 0.99


def test_pycocotools_loads_what_is_written(tmp_path):
    masks = {"images/a.png": smooth_codes(1), "images/b.png": smooth_codes(2, (60, 50))}
    masks["images/b.png"][:5] = 255
    files = write_labels(COCO_FORMAT, masks, tmp_path, scores={1: 0.8125, 2: 0.5})
    coco = loaded(*files)
    assert [coco.cats[i]["name"] for i in sorted(coco.cats)] == [*CLASSES[1:], "__ignore__"]
    assert [tuple(coco.cats[i]["color"]) for i in (1, 2, 3)] == [*PALETTE[1:]]
    for number, codes in enumerate(masks.values(), start=1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert {one["iscrowd"] for one in annotations} <= {0, 1}
        for one in annotations:
            pixels = coco.annToMask(one).astype(bool)
            rows, columns = np.nonzero(pixels)
            x, y, width, height = one["bbox"]
            assert abs(rows.min() - y) <= 2 and abs(columns.max() + 1 - x - width) <= 2
            assert abs(pixels.sum() - one["area"]) <= 0.01 * one["area"]
            code = 255 if one["iscrowd"] else one["category_id"]
            assert (codes[pixels] == code).mean() > 0.95
            assert one.get("score") == {1: 0.8125, 2: 0.5}.get(code)


def test_without_background_every_class_is_a_category(tmp_path):
    codes = smooth_codes()
    codes[:9] = 255
    write_labels(COCO_FORMAT, {"a.png": codes}, tmp_path, background=None)
    back, faults = read_back(COCO_FORMAT, tmp_path, background=None)
    assert faults == [] and min(iou_by_class(codes, back["a.png"]).values()) >= 0.99


def test_writing_takes_one_image_at_a_time(tmp_path):
    alive = []

    def images():
        for number in range(20):
            alive.append(number)
            yield from ()

    assert COCO_FORMAT.write(images(), tmp_path, CLASSES, PALETTE, 0) == [
        tmp_path / "annotations.json"
    ]
    assert len(alive) == 20 and loaded(tmp_path / "annotations.json").imgs == {}


# --- panoptic ---


def panoptic(folder, segments, ids, png="panoptic/a.png", size=SIZE, **more):
    """Put a panoptic file, and its PNG of ids, uint (H, W), into `folder`."""
    file = folder / png
    file.parent.mkdir(parents=True, exist_ok=True)
    levels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    Image.fromarray(levels.astype(np.uint8)).save(file)
    one = {"image_id": 1, "file_name": "a.png", "segments_info": segments, **more}
    return put(folder, content(one, images=[image(size=size)]), "panoptic.json")


def segment(number, category=7, **more):
    return {"id": number, "category_id": category, **more}


INFO = ("label file", "$.annotations[0].segments_info")
IDS = np.zeros(SIZE, int)
IDS[:5], IDS[5:9], IDS[9:12] = 70000, 300, 5


def test_panoptic_segments_are_drawn(tmp_path):
    file = panoptic(tmp_path, [segment(70000), segment(300, 3), segment(5, iscrowd=1)], IDS)
    (codes,), faults = read(file, PANOPTIC)
    assert faults == []
    assert [codes[row, 0] for row in (0, 5, 9, 12)] == [1, 2, 255, 255]
    assert PANOPTIC.classes([file]) == {"roof": None, "tree": (0, 128, 0)}


def test_a_changed_picture_of_ids_is_drawn_again(tmp_path):
    segments = [segment(70000), segment(300, 3), segment(5)]
    (before,), _ = read(panoptic(tmp_path, segments, IDS), PANOPTIC)
    (after,), _ = read(panoptic(tmp_path, segments, IDS[::-1]), PANOPTIC)
    assert np.array_equal(before[::-1], after)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            {"segments": [segment(70000), segment(5)]},
            ("label file", "$.annotations[0].segments_info"),
        ),
        ({"segments": [segment("x")]}, ("label file", "$.annotations[0].segments_info[0]")),
        ({"segments": None}, INFO),
        ({"segments": [segment(70000, 99)]}, ("label file", "$.annotations[0]")),
        ({"segments": [], "file_name": "none.png"}, ("no partner", "$.annotations[0].file_name")),
        ({"segments": [], "file_name": "../a.png"}, ("label file", "$.annotations[0].file_name")),
        ({"segments": [], "file_name": "/a.png"}, ("label file", "$.annotations[0].file_name")),
        ({"segments": [], "file_name": "\ud800"}, ("label file", "$.annotations[0].file_name")),
        ({"segments": [], "size": (9, 9)}, ("size mismatch", "$.annotations[0].file_name")),
        ({"segments": [], "size": (HUGE, HUGE)}, ("size mismatch", "$.annotations[0].file_name")),
    ],
)
def test_wrong_panoptic_entries_are_faults(tmp_path, case, expected):
    case = dict(case)
    ids = np.where(IDS == 70000, 70000, 0) if case["segments"] == [segment(70000, 99)] else IDS
    file = panoptic(
        tmp_path, case["segments"], ids, **{k: v for k, v in case.items() if k != "segments"}
    )
    _, faults = read(file, PANOPTIC)
    assert expected in places(faults)


def test_formats_are_not_confused(tmp_path):
    file = panoptic(tmp_path, [], IDS)
    assert "coco_panoptic" in read(file)[1][0].remedy
    assert "coco" in read(put(tmp_path, content(annotation([SQUARE]))), PANOPTIC)[1][0].remedy


@given(
    text=mutated(
        {
            **content(),
            "annotations": [
                {
                    "image_id": 1,
                    "file_name": "a.png",
                    "segments_info": [segment(5), segment(300, 3)],
                }
            ],
        }
    )
)
@few
def test_malformed_panoptic_files_give_faults(text):
    with tempfile.TemporaryDirectory() as folder:
        file = panoptic(Path(folder), [], IDS)
        file.write_text(text)
        masks, faults = read(file, PANOPTIC)
        assert all(codes.shape == SIZE for codes in masks)
        assert all("\n" not in str(one) for one in faults)


# --- streams ---


@given(
    value=st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4), window=st.integers(1, 9)
)
def test_streams_are_what_json_reads(value, window):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.json"
        file.write_text(json.dumps(value, indent=window % 3 or None))
        before = json_stream.WINDOW
        json_stream.WINDOW = window
        try:
            found = list(json_stream.entries(file))
        finally:
            json_stream.WINDOW = before
    back = {}
    for key, index, one in found:
        if index < 0:
            back[key] = one
        else:
            back.setdefault(key, []).append(one)
    expected = {key: one for key, one in json.loads(json.dumps(value)).items() if one != []}
    assert repr(back) == repr(expected)


def test_an_endless_entry_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    file = tmp_path / "x.json"
    file.write_text('{"a": [1, "' + "x" * 100000 + '"]}')
    stream = json_stream.entries(file, largest=1000)
    assert next(stream) == ("a", 0, 1)
    with pytest.raises(json_stream.JsonError, match="more than 1000"):
        next(stream)


# --- real files ---


@needs_shared
def test_files_of_labelmes_converter_agree_with_its_masks():
    root = FORMATS / "coco"
    names = (FORMATS / "labelme" / "expected_class_names.txt").read_text().split("\n")
    meaning = {name: index for index, name in enumerate(names)}
    drawn, faults = masks_of(COCO_FORMAT, root, root / "annotations.json", root, meaning, 0)
    assert faults == [] and len(drawn) == 3
    for one in drawn:
        expected = np.asarray(Image.open(FORMATS / "coco_expected_masks" / f"{one.image.stem}.png"))
        # the converter leaves out what LabelMe's users have marked as to be ignored
        found = np.where(expected == 255, 255, np.asarray(Image.open(one.mask)))
        assert min(iou_by_class(found, expected).values()) >= 0.99


@needs_shared
def test_crowds_of_real_files_are_unlabelled():
    root = FORMATS / "coco_crowd"
    meaning = {"a": 1, "b": 2, "c": 3}
    drawn, faults = masks_of(COCO_FORMAT, root, root / "annotations", root / "images", meaning, 0)
    assert [(one.kind, one.place) for one in faults] == [("label file", "$.annotations[0]")]
    (codes,) = (np.asarray(Image.open(one.mask)) for one in drawn if one.split == "valid")
    assert codes[:2, 0].tolist() == [1, 1] and (codes == 255).sum() == 18

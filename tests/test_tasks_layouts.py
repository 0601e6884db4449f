"""Layouts of other data sets: ends, subfolders, lists, one mask a class, label files, tables."""

import json
import shutil
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, refuses, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from platformdirs import user_cache_path

from fastseg import tasks
from fastseg.checks.dataset import check
from fastseg.checks.repair import fix
from fastseg.data.listing import read_list
from fastseg.errors import TaskError
from fastseg.evaluation.groups import group_function
from fastseg.evaluation.run import require_results_folder
from fastseg.inference.outputs import MaskOutput, TableOutput
from fastseg.tasks import ClassificationTask, Layout, Recipe, SegmentationTask
from fastseg.training.resume import _digest_of_items

WIDTH, HEIGHT = 20, 16
CLASSES = ("background", "iris", "pupil")


def draw(path, value=0, box=(0, 0, WIDTH, HEIGHT), size=(WIDTH, HEIGHT), mode=None):
    """Write a grey image of 0 with `value` inside `box`: left, upper, right, lower."""
    pixels = np.zeros(size[::-1], np.uint16 if value > 255 else np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def photo(path):
    """Write an image of noise, so that no two are duplicates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    noise = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def segmentation(*layouts, **fields):
    return SegmentationTask(
        name="t",
        classes=CLASSES,
        palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)),
        layouts=layouts,
        recipe=Recipe(size=(64, 64)),
        **fields,
    )


def classification(**fields):
    fields = {"folders": {None: ("",)}, **fields}
    return ClassificationTask(
        name="c", classes=("cat", "dog"), recipe=Recipe(size=(64, 64)), **fields
    )


def found(task, root):
    """Return {image: label} below the data folder, and the kinds of the faults by their files."""
    items, faults = task.listed(root)
    pairs = {
        item.image.relative_to(root).as_posix(): item.label
        if isinstance(item.label, int) or item.origin
        else item.label.relative_to(root).as_posix()
        for item in items
    }
    named = [
        (f.kind, Path(f.file).relative_to(root).as_posix() if f.file != str(root) else "", f.place)
        for f in faults
    ]
    return pairs, named


# ends of names, subfolders


@pytest.mark.parametrize(
    ("image", "mask", "ends"),
    [
        ("7.jpg", "7_mask.png", {"mask_end": "_mask"}),
        ("7.png", "7_mask.png", {"mask_end": "_mask"}),
        ("7.png", "7.mask.png", {"mask_end": ".mask"}),
        ("7.JPG", "7_mask.PNG", {"mask_end": "_mask"}),
        ("7.jpg", "7.jpg.png", {"mask_end": ".jpg"}),
        ("7_img.png", "7.png", {"image_end": "_img"}),
        ("7_rgb.png", "7_gt.png", {"image_end": "_rgb", "mask_end": "_gt"}),
        ("7 (2)_rgb.png", "7 (2)_mask_rgb.png", {"image_end": "_rgb", "mask_end": "_mask_rgb"}),
        ("Auge é.jpg", unicodedata.normalize("NFD", "Auge é_mask.png"), {"mask_end": "_mask"}),
        ("7.jpg", "7.png", {"deep": True}),
    ],
)
def test_images_and_masks_in_one_folder(image, mask, ends, tmp_path):
    photo(tmp_path / image), draw(tmp_path / mask)
    pairs, faults = found(segmentation(Layout("", "", **ends)), tmp_path)
    assert pairs == {image: mask} and faults == []


def test_equal_ends_are_for_two_folders(tmp_path):
    photo(tmp_path / "images" / "7_x.png"), draw(tmp_path / "masks" / "7_x.png")
    both = {"image_end": "_x", "mask_end": "_x"}
    pairs, _ = found(segmentation(Layout("images", "masks", **both)), tmp_path)
    assert pairs == {"images/7_x.png": "masks/7_x.png"}
    with refuses("task-layouts", "_x"):
        segmentation(Layout("images", "images", **both))


def test_lone_files_and_doubled_names_are_faults(tmp_path):
    for name in ("7.jpg", "8.jpg", "9.jpg", "9.png"):
        photo(tmp_path / name)
    for name in ("7_mask.png", "9_mask.png", "10_mask.png"):
        draw(tmp_path / name)
    pairs, faults = found(segmentation(Layout("", "", mask_end="_mask")), tmp_path)
    assert pairs == {"7.jpg": "7_mask.png", "9.jpg": "9_mask.png"}
    assert sorted(faults) == [
        ("doubled name", "9.png", ""),
        ("no partner", "10_mask.png", ""),
        ("no partner", "8.jpg", ""),
    ]


def test_deep_folders_pair_by_path_and_keep_equal_stems_apart(tmp_path):
    for city in ("aachen", "ulm"):
        photo(tmp_path / f"leftImg8bit/train/{city}/0_leftImg8bit.png")
        for kind in ("labelIds", "color"):
            draw(tmp_path / f"gtFine/train/{city}/0_gtFine_{kind}.png")
    photo(tmp_path / "leftImg8bit/train/.trash/1_leftImg8bit.png")
    (tmp_path / "leftImg8bit/train/loop").symlink_to(tmp_path / "leftImg8bit")
    layout = Layout(
        "leftImg8bit/train",
        "gtFine/train",
        image_end="_leftImg8bit",
        mask_end="_gtFine_labelIds",
        deep=True,
    )
    task = segmentation(layout)
    pairs, faults = found(task, tmp_path)
    assert pairs == {
        f"leftImg8bit/train/{city}/0_leftImg8bit.png": f"gtFine/train/{city}/0_gtFine_labelIds.png"
        for city in ("aachen", "ulm")
    }
    assert faults == [] or {kind for kind, _, _ in faults} == {"no partner"}
    items = task.listed(tmp_path)[0]
    assert len({item.group for item in items}) == 2
    train, valid = task.split(items)
    assert len(train) == len(valid) == 1


def test_masks_in_a_subfolder_of_the_images_are_not_images(tmp_path):
    photo(tmp_path / "a" / "7.png"), draw(tmp_path / "masks" / "a" / "7.png")
    pairs, faults = found(segmentation(Layout("", "masks", deep=True)), tmp_path)
    assert pairs == {"a/7.png": "masks/a/7.png"} and faults == []


def test_a_pattern_of_groups_matches_the_beginning_of_the_stem(tmp_path):
    for name in ("set_1_a", "set_1_b", "x"):
        photo(tmp_path / "i" / f"{name}.jpg"), draw(tmp_path / "m" / f"{name}_mask.png")
    task = segmentation(Layout("i", "m", mask_end="_mask", deep=True), group=r"set_\d+")
    assert [item.group for item in task.listed(tmp_path)[0]] == ["set_1", "set_1", "/x"]


# lists


@pytest.fixture
def camvid(tmp_path):
    """CamVid's folders, with three pairs; `camvid(text)` writes the list and returns its layout."""
    for number in range(3):
        photo(tmp_path / "train" / f"{number:04}.png")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:9, :9], mask[-1] = 11, 2
        draw(tmp_path / "trainannot" / f"{number:04}.png")
        Image.fromarray(mask).save(tmp_path / "trainannot" / f"{number:04}.png")

    def write(text, **fields):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "train.txt").write_bytes(data)
        return Layout("train", "trainannot", "train", list_file="train.txt", **fields)

    return write


CAMVID = "/SegNet/CamVid/train/0000.png /SegNet/CamVid/trainannot/0000.png;"
CAMVID_CODES = {255: 81, 2: WIDTH, 0: WIDTH * HEIGHT - 81 - WIDTH}
PAIR = {"train/0000.png": "trainannot/0000.png"}


@pytest.mark.parametrize(
    "text",
    [
        CAMVID,
        f"\ufeff# all of them\r\n\r\n  {CAMVID}\r\n",
        "train/0000.png\ttrainannot/0000.png",
        "train/0000.png, trainannot/0000.png",
        r"C:\My Documents\train\0000.png C:\My Documents\trainannot\0000.png",
        "0000",
        "0000.png",
        "train/0000",
        "./train/0000.png",
        "/home/someone/train/0000.png",
        "0000 0000",
    ],
)
def test_a_list_names_images_and_masks_in_many_ways(text, camvid, tmp_path):
    pairs, faults = found(segmentation(camvid(text)), tmp_path)
    assert pairs == PAIR and faults == []


def test_a_list_keeps_its_order_and_voids_are_declared(camvid, tmp_path):
    task = segmentation(camvid("0002\n0000\n"), ignore=(11,))
    items, faults = task.listed(tmp_path)
    assert [item.image.stem for item in items] == ["0002", "0000"] and faults == []
    assert Counter(task.label(items[0]).ravel().tolist()) == CAMVID_CODES


def test_names_in_a_list_may_have_spaces_and_accents(tmp_path):
    name = "ein Auge, é 1"
    photo(tmp_path / "images" / f"{name}.jpg")
    draw(tmp_path / "masks" / f"{unicodedata.normalize('NFD', name)}_gt.png")
    for text in (f"{name}\n", f"images/{name}.jpg\n", f"images/{name}.jpg masks/{name}_gt.png\n"):
        (tmp_path / "all.txt").write_text(text, encoding="utf-8")
        layout = Layout("images", "masks", mask_end="_gt", list_file="all.txt")
        pairs, faults = found(segmentation(layout), tmp_path)
        assert len(pairs) == 1 and faults == [], (text, faults)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/SegNet/CamVid/train/0009.png /SegNet/CamVid/trainannot/0009.png;", "no partner"),
        ("train/0001.png trainannot/0009.png", "no partner"),
        ("0009", "no partner"),
        ("absent.png /x/train/0001.png", "no partner"),
        ("trainannot/0001.png train/0001.png", "label file"),
        ("train/0001.png train/0001.png", "label file"),
        ("../secret.png trainannot/0001.png", "label file"),
        ("train/../../secret.png", "label file"),
        ("train/0000.png trainannot/0000.png", "label file"),
        ("train/0001.png trainannot/0001.png more", "label file"),
        ("\0", "no partner"),
        ("x" * 5000, "no partner"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(line, kind, camvid, tmp_path):
    photo(tmp_path.parent / "secret.png")
    pairs, faults = found(segmentation(camvid(f"{CAMVID}\n\n{line}\n")), tmp_path)
    assert pairs == PAIR and faults == [(kind, "train.txt", "line 3")]


def test_a_listed_image_without_a_mask_is_named_with_its_line(camvid, tmp_path):
    (tmp_path / "trainannot" / "0001.png").unlink()
    pairs, faults = found(segmentation(camvid("0000\n0001\n")), tmp_path)
    assert pairs == PAIR and faults == [("no partner", "train/0001.png", "train.txt, line 2")]


@pytest.mark.parametrize("content", [b"\xff\xfe0\x000\x00", None])
def test_a_list_that_cannot_be_read_is_named(content, camvid, tmp_path):
    layout = camvid(content or "")
    if content is None:
        (tmp_path / "train.txt").unlink()
        (tmp_path / "train.txt").mkdir()
    assert found(segmentation(layout), tmp_path) == ({}, [("label file", "train.txt", "")])
    shutil.rmtree(tmp_path / "train.txt", ignore_errors=True)
    (tmp_path / "train.txt").unlink(missing_ok=True)
    assert found(segmentation(layout), tmp_path) == ({}, [("label file", "train.txt", "")])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("01/\\.pngtrai .;,\t\n#\0é\u2028"), max_size=60))
def test_no_list_leads_out_of_the_data(text, tmp_path):
    root = tmp_path / "data"
    if not root.exists():
        photo(root / "train" / "0.png"), draw(root / "an" / "0.png"), photo(tmp_path / "0.png")
    (tmp_path / "list.txt").write_bytes(text.encode())
    faults = []
    folders = root / "train", root / "an"
    for entry in read_list(tmp_path / "list.txt", root, folders, ("", ""), True, faults):
        assert root in entry.image.parents and entry.image.is_file()
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip(" ;,\t\u2028")]
    assert all(fault.place.startswith("line ") for fault in faults)
    assert len(faults) <= len(lines)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"list_file": "../train.txt"}, "task-layouts"),
        ({"list_file": "/etc/train.txt"}, "task-layouts"),
        ({"class_masks": "files"}, "task-layouts"),
        ({"deep": "yes"}, "task-layouts"),
        ({"mask_end": "/x"}, "task-layouts"),
        ({"format": "labelme"}, "task-layouts"),
        ({"labels": "a.json"}, "task-layouts"),
        ({"format": "labelme", "labels": "../a.json"}, "task-layouts"),
        ({"format": "labelme", "labels": "a.json", "mask_end": "_m"}, "task-layouts"),
        ({"format": "cocoo", "labels": "a.json"}, "unknown-format"),
        ({"mask_end": None}, "task-layouts"),
    ],
)
def test_declarations_that_contradict_each_other(fields, code):
    with refuses(code, kind=TaskError):
        segmentation(Layout("a", "b", **fields))


def test_label_names_are_for_formats_only():
    with refuses("task-codes", "car"):
        segmentation(Layout("a", "b"), codes={"car": 1})
    with refuses("task-codes", "car"):
        layout = Layout("a", "b", format="labelme", labels="c.json")
        segmentation(layout, codes={"car": 1}, ignore=("car",))


# one mask a class


@pytest.fixture
def class_masks(tmp_path):
    """Images 1 to 3 with an iris of 8 x 8 px, and pupils of 4 x 4 px in it in 1 and 2.

    `class_masks(how)` writes them as files or as folders and returns the task.
    """

    def write(how, values=(255, 255)):
        for number in "123":
            photo(tmp_path / "images" / f"{number}.jpg")
            for name, value, box in (
                ("iris", values[0], (2, 2, 10, 10)),
                ("pupil", values[1], (4, 4, 8, 8)),
            ):
                file = f"{number}_{name}.png" if how == "names" else f"{name}/{number}.png"
                if (number, name) != ("3", "pupil"):
                    draw(tmp_path / "masks" / file, value, box)
        return segmentation(Layout("images", "masks", class_masks=how))

    return write


@pytest.mark.parametrize("how", ["names", "folders"])
@pytest.mark.parametrize("values", [(255, 255), (1, 255), (200, 1), (65535, 128)])
def test_class_masks_become_codes(how, values, class_masks, tmp_path):
    """The later class lies on top; the file's content says whether 1 or 255 is the class."""
    task = class_masks(how, values)
    items, faults = task.listed(tmp_path)
    assert faults == [] and [item.image.stem for item in items] == ["1", "2", "3"]
    codes = task.label(items[0])
    assert codes.shape == (HEIGHT, WIDTH) and Counter(codes.ravel().tolist()) == {
        0: WIDTH * HEIGHT - 64,
        1: 48,
        2: 16,
    }
    assert (codes[4:8, 4:8] == 2).all() and set(np.unique(task.label(items[2]))) == {0, 1}
    first = tmp_path / "masks" / ("1_iris.png" if how == "names" else "iris/1.png")
    assert str(first) in items[0].shown_label and "pupil" in items[0].shown_label
    assert check(task, tmp_path).stops is False


def test_class_masks_are_drawn_once_and_again_when_a_file_changes(class_masks, tmp_path):
    task = class_masks("names")
    before = task.listed(tmp_path)[0]
    stamps = [item.label.stat().st_mtime_ns for item in before]
    assert [item.label.stat().st_mtime_ns for item in task.listed(tmp_path)[0]] == stamps
    digest = _digest_of_items(before)
    shutil.rmtree(user_cache_path("fastseg"))
    assert _digest_of_items(task.listed(tmp_path)[0]) == digest
    draw(tmp_path / "masks" / "1_iris.png", 255, (0, 0, 3, 3))
    after = task.listed(tmp_path)[0]
    assert after[0].label != before[0].label and after[1].label == before[1].label
    assert _digest_of_items(after) != digest


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "1", "LA"])
def test_class_masks_of_every_mode(mode, class_masks, tmp_path):
    task = class_masks("names")
    draw(tmp_path / "masks" / "1_iris.png", 255, (2, 2, 10, 10), mode=mode)
    codes = task.label(task.listed(tmp_path)[0][0])
    assert Counter(codes.ravel().tolist())[1] == 48


def test_faults_of_class_masks_are_named(class_masks, tmp_path):
    task = class_masks("names")
    photo(tmp_path / "images" / "4.jpg")
    draw(tmp_path / "masks" / "9_iris.png", 255)
    draw(tmp_path / "masks" / "1_pupl.png", 255)
    draw(tmp_path / "masks" / "2_pupil.png", 3)
    draw(tmp_path / "masks" / "3_pupil.png", 255, size=(9, 9))
    pairs, faults = found(task, tmp_path)
    assert list(pairs) == ["images/1.jpg"]
    assert sorted(faults) == [
        ("no partner", "images/4.jpg", ""),
        ("no partner", "masks/9_iris.png", ""),
        ("size mismatch", "masks/3_pupil.png", ""),
        ("unknown class", "masks/1_pupl.png", ""),
        ("unknown codes", "masks/2_pupil.png", ""),
    ]
    (unknown,) = (f for f in task.listed(tmp_path)[1] if f.kind == "unknown class")
    assert "pupil" in unknown.detail
    (tmp_path / "masks" / "1_iris.png").write_bytes(b"nothing")
    assert ("unreadable", "masks/1_iris.png", "") in found(task, tmp_path)[1]


def test_unknown_folders_of_classes_are_named(class_masks, tmp_path):
    task = class_masks("folders")
    draw(tmp_path / "masks" / "pupils" / "1.png", 255)
    (tmp_path / "masks" / "notes").mkdir()
    assert found(task, tmp_path)[1] == [("unknown class", "masks/pupils", "")]


def test_class_masks_beside_their_images(tmp_path):
    for name in ("7", "7_b", "set 1"):
        photo(tmp_path / f"{name}.png")
        draw(tmp_path / f"{name}_Iris.png", 255, (0, 0, 5, 5))
    draw(tmp_path / "7_dining table.png", 255)
    task = segmentation(Layout("", "", class_masks="names"))
    pairs, faults = found(task, tmp_path)
    assert sorted(pairs) == ["7.png", "7_b.png", "set 1.png"]
    assert faults == [("unknown class", "7_dining table.png", "")]
    for name in ("7_dining table", "7_Iris", "7_b_Iris", "set 1_Iris"):
        (tmp_path / f"{name}.png").unlink()
    for number in ("7", "7_b", "set 1"):
        draw(tmp_path / "iris" / f"{number}.png", 255, (0, 0, 5, 5))
    pairs, faults = found(segmentation(Layout("", "", class_masks="folders")), tmp_path)
    assert sorted(pairs) == ["7.png", "7_b.png", "set 1.png"] and faults == []


def test_pixels_of_no_class_are_unlabelled_without_a_background(class_masks, tmp_path):
    layout = class_masks("names").layouts[0]
    task = segmentation(layout, background=None)
    assert set(np.unique(task.label(task.listed(tmp_path)[0][0]))) == {1, 2, 255}


# label files of other tools


def labelme(path, shapes, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "imagePath": f"{path.stem}.jpg",
        "imageData": None,
        "imageWidth": size[0],
        "imageHeight": size[1],
        "shapes": [
            {"label": label, "points": points, "shape_type": "polygon"} for label, points in shapes
        ],
    }
    path.write_text(json.dumps(values))


SQUARE = [[2, 2], [9, 2], [9, 9], [2, 9]]


@pytest.fixture
def tools(tmp_path):
    """Images with LabelMe files: train/1 to 4, and valid/1 to 2."""
    for split, count in (("train", 4), ("valid", 2)):
        for number in range(1, count + 1):
            photo(tmp_path / split / f"{number}.jpg")
            labelme(tmp_path / split / f"{number}.json", [("iris", SQUARE), ("Auge", SQUARE[:3])])
    return tuple(
        Layout(split, "", split, format="labelme", labels=split) for split in ("train", "valid")
    )


def test_label_files_of_a_tool_are_drawn(tools, tmp_path):
    task = segmentation(*tools, codes={"Auge": 2})
    items, faults = task.listed(tmp_path)
    assert faults == [] and Counter(item.split for item in items) == {"train": 4, "valid": 2}
    assert "1.json" in items[0].shown_label and items[0].label.suffix == ".png"
    counts = Counter(task.label(items[0]).ravel().tolist())
    assert counts[1] + counts[2] == 64 and counts[2] > 20
    ignored = segmentation(*tools, ignore=("Auge",))
    assert Counter(ignored.label(ignored.listed(tmp_path)[0][0]).ravel().tolist())[255] > 20
    unknown = segmentation(*tools).listed(tmp_path)[1]
    assert {fault.kind for fault in unknown} == {"unknown class"} and len(unknown) == 6
    assert check(task, tmp_path).kinds.keys() <= {"empty mask", "misaligned mask"}


def test_a_damaged_drawn_mask_is_named_by_its_label_file_and_drawn_again(tools, tmp_path):
    task = segmentation(*tools, codes={"Auge": 2})
    item = task.items(tmp_path)[0]
    codes, content = task.label(item), bytearray(item.label.read_bytes())
    content[45:-20] = bytes(len(content) - 65)
    item.label.write_bytes(content)
    (fault,) = [fault for fault in check(task, tmp_path).faults if fault.stops]
    assert (fault.kind, fault.file) == ("unreadable", item.shown_label)
    assert str(item.label.parent) not in f"{fault.detail} {fault.remedy}"
    assert (task.label(task.items(tmp_path)[0]) == codes).all()


def test_a_damaged_mask_of_class_masks_is_drawn_again(class_masks, tmp_path):
    task = class_masks("names")
    item = task.items(tmp_path)[0]
    codes = task.label(item)
    item.label.write_bytes(b"")
    assert (task.label(task.items(tmp_path)[0]) == codes).all()


@pytest.mark.parametrize("how", ["names", "folders"])
def test_results_are_not_written_among_class_masks(how, class_masks, tmp_path):
    task = class_masks(how)
    items = task.items(tmp_path)
    for place in ["masks", *(["masks/iris"] if how == "folders" else [])]:
        with refuses("output-in-data", place):
            require_results_folder(tmp_path / place, items, tmp_path, task)
    require_results_folder(tmp_path / "masks/report", items, tmp_path, task)


def test_results_are_not_written_among_label_files(tmp_path):
    photo(tmp_path / "images" / "7.jpg")
    labelme(tmp_path / "labels" / "a" / "7.json", [("iris", SQUARE)])
    task = segmentation(Layout("images", "", format="labelme", labels="labels"))
    items = task.items(tmp_path)
    for place in ("labels", "labels/a"):
        with refuses("output-in-data", place):
            require_results_folder(tmp_path / place, items, tmp_path, task)
    require_results_folder(tmp_path / "report", items, tmp_path, task)


def test_images_of_another_label_file_are_not_unlabelled(tools, tmp_path):
    layouts = tuple(
        Layout("", "", split, format="labelme", labels=split) for split in ("train", "valid")
    )
    photo(tmp_path / "train" / "9.jpg")
    _, faults = found(segmentation(*layouts, codes={"Auge": 2}), tmp_path)
    assert {fault for fault in faults} == {("unlabelled image", "train/9.jpg", "")}


def test_label_files_that_are_absent_are_named(tools, tmp_path):
    shutil.rmtree(tmp_path / "valid")
    absent = Layout("train", "", "valid", format="labelme", labels="valid")
    _, faults = found(segmentation(tools[0], absent, codes={"Auge": 2}), tmp_path)
    assert faults == [("label file", "valid", "")]


# samples


def test_samples_follow_the_layout(tmp_path):
    ends = {"image_end": "_rgb", "mask_end": "_gt", "deep": True}
    task = segmentation(Layout("data", "data", **ends))
    task.sample(tmp_path / "a", 6)
    assert len(task.items(tmp_path / "a")) == 6
    for fields in ({"list_file": "l.txt"}, {"class_masks": "names"}):
        with refuses("no-sample"):
            segmentation(Layout("images", "masks", **fields)).sample(tmp_path / "b", 6)


def test_a_sample_of_folders_of_classes(tmp_path):
    mri = tasks.get("mri")
    task = classification(labels="folders", draw=mri.draw)
    task.sample(tmp_path / "a", 6)
    assert Counter(item.label for item in task.items(tmp_path / "a")) == {0: 3, 1: 3}


# the repaired copy


def repaired(task, root, out):
    """Repair data; return the copy's task and its items."""
    fix(check(task, root), out)
    copy = tasks.get(str(out)) if (out / "task.toml").is_file() else task
    assert not check(copy, out).stops
    return copy, copy.items(out)


def test_a_repaired_copy_of_drawn_masks_is_plain(class_masks, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    task = class_masks("names")
    for name in ("images", "masks"):
        (tmp_path / name).rename(root / name)
    draw(root / "masks" / "9_iris.png", 255)
    (root / "masks" / "2_iris.png").write_bytes(b"")
    before = {item.image.stem: task.label(item) for item in task.listed(root)[0]}
    copy, items = repaired(task, root, tmp_path / "out")
    assert copy.layouts == (Layout("images", "masks"),) and set(before) == {"1", "3"}
    assert {item.image.stem for item in items} == {"1", "3"}
    assert all((copy.label(item) == before[item.image.stem]).all() for item in items)
    changes = rows_of(tmp_path / "out" / "changes.csv")
    assert {row["fault"] for row in changes} == {"no partner", "unreadable"}
    assert (tmp_path / "out" / "set_aside" / "masks" / "9_iris.png").is_file()


def test_a_repaired_copy_of_lists_and_ends_keeps_the_split(camvid, tmp_path):
    root = tmp_path / "data"
    layout = camvid("0000\n0001\n0009\n")
    root.mkdir()
    for name in ("train", "trainannot", "train.txt"):
        (tmp_path / name).rename(root / name)
    for number in range(2):
        photo(root / "val" / f"{number}.jpg"), draw(root / "val" / f"{number}_m.png", 1)
    other = Layout("val", "val", "valid", mask_end="_m")
    task = segmentation(layout, other, ignore=(11,))
    copy, items = repaired(task, root, tmp_path / "out")
    assert sorted((item.split, item.image.stem) for item in items) == [
        ("train", "0000"),
        ("train", "0001"),
        ("valid", "0"),
        ("valid", "1"),
    ]
    codes = copy.label(next(item for item in items if item.image.stem == "0000"))
    assert Counter(codes.ravel().tolist()) == CAMVID_CODES
    assert "0009" in (tmp_path / "out" / "changes.csv").read_text()


def test_a_repaired_copy_of_folders_of_classes(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            for number in (1, 2):
                photo(root / split / name / f"{number}.png")
    Image.new("CMYK", (WIDTH, HEIGHT), (9, 200, 7, 1)).save(root / "train/cat/3.jpg")
    photo(root / "train" / "dgo" / "7.png")
    shutil.copyfile(root / "train/cat/1.png", root / "train/dog/8.png")
    task = classification(labels="folders", folders={"train": ("train",), "valid": ("valid",)})
    copy, items = repaired(task, root, tmp_path / "out")
    assert Counter((item.split, item.label) for item in items)["train", 0] == 3
    assert (tmp_path / "out/train/cat/3.png").is_file()
    assert (tmp_path / "out/set_aside/train/dgo/7.png").is_file()
    assert (tmp_path / "out/set_aside/train/dog/8.png").is_file()


def test_a_repaired_copy_of_a_table_of_paths(tmp_path):
    root = tmp_path / "data"
    for name in ("cat/1", "dog/1", "cat/2", "dog/2"):
        photo(root / "photos" / f"{name}.png")
    rows = "image,label\nphotos/cat/1.png,cat\ncat/2,0\ndog/1.png,dog\nphotos/dog/2.png,1\n"
    (root / "labels.csv").write_text(f"{rows}nobody,cat\n")
    task = classification(table="labels.csv", columns=("image", "label"))
    copy, items = repaired(task, root, tmp_path / "out")
    assert {item.image.relative_to(tmp_path / "out").as_posix(): item.label for item in items} == {
        "photos/cat/1.png": 0,
        "photos/cat/2.png": 0,
        "photos/dog/1.png": 1,
        "photos/dog/2.png": 1,
    }


# classification


def test_folders_of_classes_keep_equal_stems_apart(tmp_path):
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            for number in (1, 2):
                photo(tmp_path / split / name / f"{number}.jpg")
    photo(tmp_path / "train" / "dgo" / "1.jpg"), photo(tmp_path / "train" / "9.jpg")
    photo(tmp_path / "train" / "cat" / "deep" / "3.jpg")
    task = classification(labels="folders", folders={"train": ("train",), "valid": ("valid",)})
    items, faults = task.listed(tmp_path)
    assert Counter((item.split, item.label) for item in items) == {
        ("train", 0): 3,
        ("train", 1): 2,
        ("valid", 0): 2,
        ("valid", 1): 2,
    }
    assert len({item.group for item in items}) == len(items) == 9
    assert [(fault.kind, Path(fault.file).name) for fault in faults] == [
        ("unknown class", "dgo"),
        ("unlabelled image", "train"),
    ]
    assert "dog" in faults[0].detail
    assert len(task.split(items)[0]) == 5
    table = tmp_path / "table.csv"
    table.write_text("image,eye\ntrain/cat/1.jpg,left\ntrain/dog/1.jpg,right\n1,none\n")
    group = group_function("eye", table, items, tmp_path)
    assert [group(item) for item in items if item.group in ("train/cat/1", "train/dog/1")] == [
        "left",
        "right",
    ]
    assert group(next(item for item in items if item.group == "valid/cat/1")) == "not listed"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image,label\n1.jpg,cat\n2.jpg,dog\n"),
        ("l.csv", "label;other;image\ncat;x;1\ndog;;2\n"),
        ("l.csv", '\ufeff"image","label"\r\n"1.jpg","0"\r\n\r\n"2.jpg","1"\r\n'),
        ("l.tsv", "image\tlabel\n1\t0\n2\tdog\n"),
        ("l.txt", "image\tlabel\n./1.jpg\tcat\n/foreign/2.jpg\t1\n"),
    ],
)
def test_tables_of_any_separator(name, text, tmp_path):
    photo(tmp_path / "1.jpg"), photo(tmp_path / "2.jpg")
    (tmp_path / name).write_text(text, encoding="utf-8")
    task = classification(table=name, columns=("image", "label"))
    assert found(task, tmp_path) == ({"1.jpg": 0, "2.jpg": 1}, [])


def test_what_a_table_cannot_say_is_named(tmp_path):
    for name in ("cat/1.jpg", "dog/1.jpg", "cat/2.jpg", "7.jpg", "7.png", "8.jpg"):
        photo(tmp_path / "photos" / name)
    lines = ["image,label", "1,cat", "cat/2.jpg,cat", "2.jpg,dog", "7.jpg,cta", "7.png,2", "9,cat"]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "../x.jpg,dog", "8.jpg,dog"]))
    task = classification(table="labels.csv", columns=("image", "label"))
    pairs, faults = found(task, tmp_path)
    assert pairs == {"photos/8.jpg": 1, "photos/2.jpg": 1} or pairs.keys() == {
        "photos/8.jpg",
        "photos/cat/2.jpg",
    }
    assert sorted(faults) == [
        ("table", "labels.csv", "line 2"),  # two images have this name
        ("table", "labels.csv", "line 3"),  # the image of line 4
        ("table", "labels.csv", "line 6"),
        ("table", "labels.csv", "line 7"),
        ("table", "labels.csv", "line 8"),
        ("unknown class", "labels.csv", "line 5"),
        ("unlabelled image", "photos/cat", ""),
        ("unlabelled image", "photos/dog", ""),
    ]


def test_classes_that_are_numbers_are_names(tmp_path):
    photo(tmp_path / "1.jpg"), photo(tmp_path / "2.jpg")
    (tmp_path / "l.csv").write_text("image,label\n1,1\n2,3\n")
    task = ClassificationTask(
        name="c",
        classes=("1", "3"),
        recipe=Recipe(size=(64, 64)),
        folders={None: ("",)},
        table="l.csv",
        columns=("image", "label"),
    )
    assert found(task, tmp_path)[0] == {"1.jpg": 0, "2.jpg": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": "files"},
        {"table": "../l.csv"},
        {"columns": ("a", "a")},
        {"image_as": "file"},
        {"label_as": "number"},
    ],
)
def test_declarations_of_tables_that_cannot_be(fields):
    with refuses("task-table"):
        classification(**fields)


@pytest.mark.parametrize(
    ("fields", "names", "text"),
    [
        ({}, ["1.jpg", "2.jpg"], "Name\tLabel\n1\t0\n2\t1\n"),
        ({"label_as": "name"}, ["1.jpg", "2.jpg"], "Name\tLabel\n1\tcat\n2\tdog\n"),
        (
            {"table": "l.csv", "image_as": "name"},
            ["1.jpg", "2.jpg"],
            "Name,Label\n1.jpg,0\n2.jpg,1\n",
        ),
        (
            {"labels": "folders"},
            ["cat/1.jpg", "dog/1.jpg"],
            "Name\tLabel\ncat/1.jpg\tcat\ndog/1.jpg\tdog\n",
        ),
    ],
)
def test_predictions_are_named_as_the_labels_are(fields, names, text, tmp_path):
    task = classification(**fields)
    files = [photo(tmp_path / "data" / name) for name in names]
    output = TableOutput(task)
    output.plan(files, tmp_path / "out")
    rows = {file: [index, {"image": str(file)}] for index, file in enumerate(files)}
    table, described = output.write_tables(rows)
    assert table.read_text() == text and len(rows_of(described)) == 2


def test_predictions_of_equal_stems_need_paths(tmp_path):
    files = [photo(tmp_path / name / "1.jpg") for name in ("cat", "dog")]
    with refuses("same-target"):
        TableOutput(classification()).plan(files, tmp_path / "out")


# commands


@pytest.mark.parametrize(
    ("layout", "out"),
    [
        (Layout("images", "masks", class_masks="folders"), "masks/iris"),
        (Layout("images", "masks", deep=True), "masks/a"),
        (Layout("images", "masks", list_file="l.txt"), "masks/a"),
        (Layout("images", "masks", mask_end="_m"), "masks"),
        (Layout("images", "", format="labelme", labels="masks"), "masks"),
    ],
)
def test_predictions_are_not_written_among_true_masks(layout, out, tmp_path):
    image = photo(tmp_path / "images" / "7.jpg")
    draw(tmp_path / out / "7.png")
    with refuses("output-in-data"):
        MaskOutput(segmentation(layout)).plan([image], tmp_path / out)
    MaskOutput(segmentation(layout)).plan([image], tmp_path / "new")


TOML = """
classes = ["background", "iris", "pupil"]
[[layouts]]
images = "images"
masks = "masks"
class_masks = "names"
[recipe]
size = [64, 64]
"""


@pytest.mark.slow
def test_class_masks_right_through_the_commands(run, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(10):
        left, top = (int(value) for value in rng.integers(0, 60, 2))
        pixels = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
        for name, grow, colour in (("iris", 30, 140), ("pupil", 12, 250)):
            mask = np.zeros((96, 96), np.uint8)
            mask[top : top + grow, left : left + grow] = 255
            pixels[mask > 0] = colour
            path = tmp_path / "eyes" / "masks" / f"{number}_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        image = tmp_path / "eyes" / "images" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
    (tmp_path / "eyes" / "task.toml").write_text(TOML)
    run("check", "eyes")
    run("show", "eyes")
    run("fit", "eyes", "--arch", ARCH, "--weights", "none", "--bs", 4, "--epochs", 1)
    result = json.loads(run("evaluate", "eyes", "--json").out)
    assert result["images"] == 2 and set(result["classes"]) == {*CLASSES}
    run("interpret")
    assert (tmp_path / "exports" / "eyes" / "report.html").is_file()
    run("predict", "eyes", "eyes/images", "--out", "eyes/masks", error="output-in-data")
    run("predict", "eyes", "eyes/images")
    assert len(list((tmp_path / "images_inf_masks").glob("*.png"))) == 10
    run("check", "eyes", "--fix", "copy")
    assert len(tasks.get("copy").items("copy")) == 10

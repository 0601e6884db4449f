"""CVAT for images 1.1: what is read, what is refused and where, and masks back unchanged."""

import re
from collections import Counter

import numpy as np
import pytest
from conftest import needs_shared, refuses, shared
from format_cases import CLASSES, PALETTE, class_masks, smooth_codes, write_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastseg.formats import get
from fastseg.formats.geometry import draw

CVAT = get("cvat")
LABELS = """<meta><task><labels>
<label><name>roof</name><color>#cc3c3c</color></label>
<label><name>tree</name></label>
</labels></task></meta>"""


def write(folder, *shapes, image='id="0" name="a.jpg" width="20" height="10"', meta=LABELS):
    """Write an annotations.xml: its shapes are on the lines from 7 on."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f"<annotations>{meta}", f"<image {image}>"]
    file = folder / "annotations.xml"
    file.write_text("\n".join([*lines, *shapes, "</image>", "</annotations>"]))
    return file


def polygon(label="roof", points="1,1;9,1;9,9", more=""):
    return f'<polygon label="{label}" points="{points}" {more}/>'


def read(file):
    faults = []
    return list(CVAT.read([file], faults)), faults


def pixels(labelled, meaning):
    codes = np.zeros(labelled.size, np.uint8)
    for region in labelled.regions:
        draw(codes, region, meaning[region.label], CVAT.rule)
    return codes


def test_polygons_masks_and_ellipses(tmp_path):
    file = write(
        tmp_path,
        polygon(points="0,0;4,0;4,4;0,4"),
        '<mask label="tree" rle="1, 2, 1" left="10" top="5" width="2" height="2" z_order="0"/>',
        '<ellipse label="roof" cx="15" cy="5" rx="4" ry="2" rotation="90.0"/>',
    )
    (labelled,), faults = read(file)
    assert faults == [] and labelled.size == (10, 20) and "a.jpg" in labelled.images
    assert [region.place for region in labelled.regions] == ["line 7", "line 8", "line 9"]
    codes = pixels(labelled, {"roof": 1, "tree": 2})
    assert (codes[:4, :4] == 1).all() and codes[5, 11] == codes[6, 10] == 2
    assert codes[5, 10] == codes[6, 11] == 0
    rows, columns = np.nonzero(codes[:, 12:])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (8, 4)  # turned by 90 degrees
    assert abs((codes[:, 12:] == 1).sum() - np.pi * 8) < 2


def test_higher_z_order_is_drawn_later_then_file_order(tmp_path):
    shapes = [polygon("a", more='z_order="2"'), polygon("b"), polygon("c", more='z_order="2"')]
    (labelled,), _ = read(write(tmp_path, *shapes))
    assert [region.label for region in labelled.regions] == ["b", "a", "c"]


def test_classes_and_colours_are_those_of_the_labels(tmp_path):
    assert CVAT.classes([write(tmp_path, polygon("roof"))]) == {"roof": (204, 60, 60), "tree": None}
    assert CVAT.classes([write(tmp_path, polygon("b"), polygon("a"), meta="")]) == {
        "b": None,
        "a": None,
    }


@pytest.mark.parametrize(
    "subset, split", [("Train", "train"), ("Validation", "valid"), ("test", "test"), ("x", None)]
)
def test_subsets_are_splits(tmp_path, subset, split):
    image = f'id="0" name="a.jpg" subset="{subset}" width="20" height="10"'
    (labelled,), _ = read(write(tmp_path, image=image))
    assert labelled.split == split and f"images/{subset}/a.jpg" in labelled.images
    meta = f"<meta><task><subset>{subset}</subset></task></meta>"
    (labelled,), _ = read(write(tmp_path, meta=meta))
    assert labelled.split == split


FAULTS = {  # a shape -> kind of its fault, and what the message names
    '<box label="roof" xtl="1" ytl="1" xbr="4" ybr="4"/>': ("label file", "roof", "box"),
    '<polyline label="roof" points="1,1;2,2"/>': ("label file", "polyline"),
    '<points label="roof" points="1,1"/>': ("label file", "points"),
    '<cuboid label="roof"/>': ("label file", "cuboid"),
    '<skeleton label="roof"/>': ("label file", "skeleton"),
    polygon(label=""): ("unknown class", "polygon"),
    polygon(points="1,1;2,2"): ("label file", "2"),
    polygon(points="1,1;2,nan;3,3"): ("label file",),
    polygon(points="1,1;2;3,3"): ("label file", "1,1;2;3,3"),
    polygon(points=""): ("label file",),
    polygon(more='z_order="top"'): ("label file", "z_order", "top"),
    '<ellipse label="roof" cx="1" cy="1" rx="0" ry="3"/>': ("label file", "0", "3"),
    '<ellipse label="roof" cx="1" cy="inf" rx="1" ry="3"/>': ("label file", "cy", "inf"),
    '<mask label="roof" rle="1, 2" left="0" top="0" width="2" height="2"/>': ("label file", "2"),
    '<mask label="roof" rle="1, x" left="0" top="0" width="2" height="2"/>': ("label file", "x"),
    '<mask label="roof" rle="-1, 5" left="0" top="0" width="2" height="2"/>': ("label file",),
    '<mask label="roof" rle="0, 4" left="0" top="0" width="2"/>': ("label file", "height"),
    '<mask label="roof" rle="4" left="19" top="0" width="2" height="2"/>': ("outside image", "20"),
    '<mask label="roof" rle="1" left="0" top="0" width="999999" height="999999"/>': (
        "outside image",
        "999999",
    ),
}


@pytest.mark.parametrize("shape", FAULTS)
def test_shapes_that_cannot_be_used_are_named_with_their_line(tmp_path, shape):
    kind, *values = FAULTS[shape]
    (labelled,), (fault,) = read(write(tmp_path, polygon(), shape))
    assert (fault.kind, fault.place) == (kind, "line 8")
    assert all(value in fault.detail for value in values), fault.detail
    assert len(labelled.regions) == 1 and len(str(fault).splitlines()) == 1


@pytest.mark.parametrize(
    "image", ['id="0" width="20" height="10"', 'name="a.jpg" width="0" height="10"']
)
def test_images_that_cannot_be_used(tmp_path, image):
    found, (fault,) = read(write(tmp_path, polygon(), image=image))
    assert found == [] and (fault.kind, fault.place) == ("label file", "line 6")


def test_tracks_name_the_right_export(tmp_path):
    file = tmp_path / "annotations.xml"
    file.write_text(
        "<annotations>\n<track id='0' label='a'>\n<polygon outside='0'/>\n</track>\n"
        "<track id='1' label='a'></track></annotations>"
    )
    found, (fault,) = read(file)
    assert found == [] and fault.place == "line 2" and "CVAT for images 1.1" in fault.remedy


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotations><image name="&b;" width="1" height="1"/></annotations>"""
BROKEN = {
    "a bomb": (BOMB, "line 2"),
    "cut off": ("<annotations>\n<image name='a' width='2' height='2'>", "line 2"),
    "not XML": ("{}", "line 1"),
    "empty": ("", "line 1"),
    "another root": ("<annotation>\n</annotation>", "line 1"),
    "deep": ("<annotations>\n" + "<a>" * 100, "line 2"),
    "an unknown encoding": ("<?xml version='1.0' encoding='klingon'?>\n<annotations/>", "line 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    content, place = BROKEN[name]
    file = tmp_path / "annotations.xml"
    file.write_text(content)
    _, (fault,) = read(file)
    assert (fault.kind, fault.place, len(str(fault).splitlines())) == ("label file", place, 1)
    with refuses("label-file", place):
        CVAT.classes([file])


def test_only_files_of_cvat_are_found(tmp_path):
    file = write(tmp_path, polygon())
    (tmp_path / "voc.xml").write_text("<annotation><object/></annotation>")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden", polygon())
    assert CVAT.find(tmp_path) == [file]


@needs_shared
def test_the_real_export_is_refused_line_by_line():
    files = CVAT.find(shared / "data" / "formats" / "cvat")
    assert CVAT.classes(files) == {"label1": None, "label2": None}
    faults = []
    found = list(CVAT.read(files, faults))
    assert [one.images[-1] for one in found] == ["img0.jpg", "img1.jpg"]
    assert [(one.kind, one.place) for one in faults] == [
        ("label file", "line 44"),
        ("label file", "line 50"),
        ("unknown class", "line 53"),
        ("label file", "line 54"),
    ]


def back(codes, out):
    """Return the codes that are read from what is written of `codes`."""
    out.mkdir(parents=True, exist_ok=True)
    write_labels(CVAT, {"images/a.png": codes}, out)
    (labelled,), faults = read(*CVAT.find(out))
    assert faults == [] and labelled.size == codes.shape
    names = {name: code for code, name in enumerate(CLASSES)}
    return pixels(labelled, {**names, "__ignore__": 255})


@settings(deadline=None)
@given(codes=class_masks(unlabelled=True))
def test_masks_come_back_unchanged(codes, tmp_path_factory):
    assert np.array_equal(back(codes, tmp_path_factory.mktemp("cvat")), codes)


def test_what_is_written_has_labels_and_colours(tmp_path):
    codes = smooth_codes()
    (file,) = write_labels(CVAT, {"images/ä&b.png": codes}, tmp_path)
    assert list(CVAT.classes([file]).items()) == list(zip(CLASSES, PALETTE))[1:]
    codes[0, 0] = 255
    write_labels(CVAT, {"images/a.png": codes}, tmp_path)
    assert "<name>__ignore__</name>" in file.read_text()
    assert "__ignore__" not in CVAT.classes([file])
    assert not list(tmp_path.glob(".*"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_have_faults_and_no_traceback(data, tmp_path):
    """Parts of a good file are removed, doubled or replaced."""
    codes = smooth_codes(size=(12, 16), scale=2)
    (file,) = write_labels(CVAT, {"images/a.png": codes}, tmp_path)
    text = file.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 30))
        new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"-1", b"1e999", b"<"])))
        text = text[:start] + new + text[start + length :]
    file.write_bytes(text)
    found, faults = read(file)
    for fault in faults:
        assert re.fullmatch(r"line \d+", fault.place) and len(str(fault).splitlines()) == 1
    for labelled in found:
        if labelled.size and max(labelled.size) < 1000:
            pixels(labelled, Counter())

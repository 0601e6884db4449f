"""Label files are drawn once: images are found, faults listed, masks kept in the user's cache."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.formats.base import Format, Labelled, Region, fault
from fastseg.formats.cache import cached_mask, masks_of

SQUARE = ((2, 2), (6, 2), (6, 6), (2, 6))
MEANING = {"ground": 0, "roof": 1, "tree": 2, "void": 255}


class Simple(Format):
    """JSON: {image name: {"size": [h, w], "regions": [[label, points], ...]}}; counts readings."""

    name, title = "simple", "Simple"

    def __init__(self):
        self.readings = 0

    def find(self, folder):
        return sorted(folder.rglob("*.json"))

    def classes(self, files):
        return dict.fromkeys(MEANING)

    def read(self, files, faults):
        self.readings += 1
        for file in files:
            try:
                entries = json.loads(file.read_text())
            except ValueError:
                faults.append(fault(file, "", "is not JSON", "export it again"))
                continue
            for number, (image, entry) in enumerate(entries.items()):
                place = f"$[{number}]"
                regions = tuple(
                    Region(label, (np.array(points, float),), place=f"{place}.regions[{index}]")
                    for index, (label, points) in enumerate(entry.get("regions", ()))
                )
                size = entry.get("size")
                yield Labelled(
                    file,
                    (entry.get("image", image),),
                    tuple(size) if size else None,
                    regions,
                    place,
                    entry.get("split"),
                )


@pytest.fixture
def form():
    return Simple()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "fastseg" / "labels"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name in ("a.png", "b.png"):
        picture(folder / "images" / name)
    return folder


def picture(file: Path, size=(10, 12), **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(file, **options)
    return file


def write(data: Path, entries: dict, name: str = "labels.json") -> Path:
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    (data / name).write_text(json.dumps(entries))
    return data / name


def entry(*regions, **more):
    return {"regions": list(regions), **more}


def read(form, data, labels="labels.json", images="images", meaning=MEANING, background=0):
    return masks_of(form, data, data / labels, data / images, meaning, background)


def kinds(faults):
    return [(one.kind, one.place) for one in faults]


def codes(drawn):
    return np.asarray(Image.open(drawn.mask))


def test_regions_are_drawn_bottom_first_over_the_background(form, data):
    small = ((3, 3), (5, 3), (5, 5), (3, 5))
    write(data, {"a.png": entry(["roof", SQUARE], ["tree", small]), "b.png": entry(split="valid")})
    (a, b), faults = read(form, data)
    assert faults == [] and (a.image, b.image) == (data / "images/a.png", data / "images/b.png")
    assert np.bincount(codes(a).reshape(-1)).tolist() == [104, 12, 4]
    assert (codes(b) == 0).all() and (a.split, b.split) == (None, "valid")
    assert a.origin == f"{data / 'labels.json'} ($[0])"


def test_without_background_the_rest_is_unlabelled(form, data):
    write(data, {"a.png": entry(["roof", SQUARE], ["void", SQUARE]), "b.png": entry()})
    (a, b), _ = read(form, data, background=None)
    assert (codes(a) == 255).all() and (codes(b) == 255).all()


def test_a_second_reading_parses_nothing(form, data):
    write(data, {"a.png": entry(["roof", SQUARE], ["raof", SQUARE])})
    first = read(form, data)
    assert read(form, data) == first and form.readings == 1
    assert kinds(first[1]) == [("unknown class", "$[0].regions[1]"), ("unlabelled image", "")]


@pytest.mark.parametrize(
    "change", ["labels", "image", "new image", "meaning", "program", "lost", "cut off"]
)
def test_what_has_changed_is_drawn_again(form, data, change, monkeypatch):
    write(data, {"a.png": entry(["roof", SQUARE]), "b.png": entry()})
    ((a, _), _), meaning = read(form, data), MEANING
    if change == "labels":
        write(data, {"a.png": entry(), "b.png": entry()})
    elif change == "image":
        picture(data / "images/a.png", (30, 30))
    elif change == "new image":
        picture(data / "images/c.png")
    elif change == "meaning":
        meaning = {**MEANING, "roof": 2}
    elif change == "program":
        monkeypatch.setattr("fastseg.formats.cache._program", lambda: "another")
    elif change == "cut off":
        a.mask.write_bytes(a.mask.read_bytes()[:-9])
    else:
        a.mask.unlink()
    read(form, data, meaning=meaning)
    assert form.readings == 2


def test_an_image_that_was_missing_is_found_when_it_is_added(form, data):
    write(data, {"../more/c.png": entry(["roof", SQUARE])}, "labels/labels.json")
    drawn, faults = read(form, data, "labels")
    assert drawn == [] and kinds(faults)[0] == ("no partner", "$[0]")
    picture(data / "more/c.png")
    drawn, faults = read(form, data, "labels")
    assert [one.image for one in drawn] == [data / "more/c.png"]


def test_a_damaged_cache_is_drawn_again(form, data, cache_folder):
    write(data, {"a.png": entry(["roof", SQUARE]), "b.png": entry()})
    before = read(form, data)
    (index,) = cache_folder.glob("*/index.json")
    index.write_text(index.read_text()[:-9])
    assert read(form, data) == before and form.readings == 2


def test_masks_look_as_old_as_their_labels(form, data):
    file = write(data, {"a.png": entry(["roof", SQUARE]), "b.png": entry()})
    os.utime(file, (10**9, 10**9))
    (a, _), _ = read(form, data)
    assert a.mask.stat().st_mtime == 10**9


def test_two_readings_at_once_draw_once(form, data):
    write(data, {f"{name}.png": entry(["roof", SQUARE]) for name in "ab"})
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(form, data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert form.readings == 1 and len(found) == 4 and all(one == found[0] for one in found)


def test_an_interrupted_reading_leaves_nothing(form, data, cache_folder, monkeypatch):
    write(data, {"a.png": entry(["roof", SQUARE]), "b.png": entry()})
    with monkeypatch.context() as broken:
        broken.setattr("fastseg.formats.cache._save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read(form, data)
    assert [path for path in cache_folder.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("images/train/x.png", "images/train/x.png"),  # below the data folder, by its last parts
        ("train/x.png", "images/train/x.png"),  # below the folder of images
        ("..\\images\\train\\x.png", "images/train/x.png"),  # from Windows
        ("x.png", "images/train/x.png"),  # by name
        ("train/x.*", "images/train/x.png"),  # any suffix
        ("train/x", "images/train/x.png"),
        ("../pictures/y.png", "pictures/y.png"),  # from the label file
        ("z.png", "labels/z.png"),  # next to the label file
        ("test/same.png", "images/test/same.png"),  # the one of most equal parts
    ],
)
def test_images_are_found(form, data, name, image):
    for path in ("images/train/x.png", "pictures/y.png", "labels/z.png"):
        picture(data / path)
    for part in ("train", "test"):
        picture(data / "images" / part / "same.png")
    write(data, {name: entry(["roof", SQUARE])}, "labels/labels.json")
    drawn, faults = read(form, data, "labels")
    assert [one.image for one in drawn] == [data / image]
    assert {one.kind for one in faults} == {"unlabelled image"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../secret.png", "label file"),
        ("../../../../../etc/passwd", "label file"),
        ("/etc/passwd", "label file"),
        ("{outside}", "label file"),
        ("link.png", "label file"),
        ("linked/secret.png", "label file"),
        ("none.png", "no partner"),
        ("same.png", "no partner"),  # two images have this name
        ("", "no partner"),
        ("a\0.png", "no partner"),
        ("\ud800.png", "no partner"),
        ("x" * 5000, "no partner"),
        (".", "no partner"),
        ("..", "no partner"),
    ],
)
def test_images_that_are_absent_or_outside_are_faults(form, data, name, kind):
    outside = picture(data.parent / "secret.png")
    (data / "images" / "link.png").symlink_to(outside)
    (data / "images" / "linked").symlink_to(data.parent)
    for part in ("train", "test"):
        picture(data / "images" / part / "same.png")
    write(data, {"one": entry(image=name.format(outside=outside))}, "labels/labels.json")
    drawn, faults = read(form, data, "labels")
    assert drawn == []
    assert kinds(faults)[0] == (kind, "$[0]")


def test_an_absolute_name_inside_the_data_folder_is_found(form, data):
    write(data, {str(data / "images" / "a.png"): entry()})
    assert [one.image for one in read(form, data)[0]] == [data / "images/a.png"]


def test_a_linked_data_folder_is_read(form, data):
    write(data, {"images/a.png": entry(), "b.png": entry()})
    linked = data.parent / "linked"
    linked.symlink_to(data)
    drawn, faults = read(form, linked)
    assert len(drawn) == 2 and faults == []


def test_faults_of_images(form, data):
    picture(data / "images/turned.jpg", (10, 12), exif=_exif(6))
    (data / "images/damaged.png").write_bytes(b"no image")
    write(
        data,
        {
            "a.png": entry(size=(12, 10)),
            "turned.jpg": entry(size=(10, 12)),
            "damaged.png": entry(),
            "b.png": entry(size=(10, 12)),
            "images/b.png": entry(),
        },
    )
    drawn, faults = read(form, data)
    assert [one.image.name for one in drawn] == ["b.png"]
    assert sorted(kinds(faults)) == [
        ("exif rotation", "$[1]"),
        ("label file", "$[4]"),  # b.png a second time
        ("size mismatch", "$[0]"),
        ("unreadable", ""),
    ]


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_points_up_to_one_pixel_outside_are_cut_off(form, data):
    near = ((-1, -1), (13, -1), (13, 11), (-1, 11))
    far = ((0, 0), (5, 0), (5, 11.01))
    write(data, {"a.png": entry(["roof", near]), "b.png": entry(["roof", SQUARE], ["roof", far])})
    (a, b), faults = read(form, data)
    assert (codes(a) == 1).all() and codes(b).any()
    assert kinds(faults) == [("outside image", "$[1].regions[1]")]
    assert "(5, 11.01)" in faults[0].detail


def test_an_unknown_class_is_named_with_the_nearest(form, data):
    write(data, {"a.png": entry(*[["raof", SQUARE]] * 3, ["qq", SQUARE]), "b.png": entry()})
    _, faults = read(form, data)
    assert kinds(faults) == [
        ("unknown class", "$[0].regions[0]"),
        ("unknown class", "$[0].regions[3]"),
    ]
    assert "did you mean roof" in faults[0].detail and "3 regions" in faults[0].detail
    assert "ground, roof, tree, void" in faults[1].detail


def test_a_folder_without_label_files_is_a_fault(form, data):
    assert kinds(read(form, data, "images")[1]) == [("no partner", "")]


def test_damaged_label_files_are_listed_with_the_others(form, data):
    (data / "labels").mkdir()
    (data / "labels" / "bad.json").write_text("{")
    write(data, {"a.png": entry(["roof", SQUARE])}, "labels/good.json")
    drawn, faults = read(form, data, "labels")
    assert len(drawn) == 1
    assert kinds(faults) == [("label file", ""), ("unlabelled image", "")]


def test_masks_unused_for_long_are_deleted(form, data, cache_folder):
    write(data, {"a.png": entry(), "b.png": entry()})
    (a, _), _ = read(form, data)
    os.utime(a.mask.parent / "index.json", (10**9, 10**9))
    write(data, {"a.png": entry(["roof", SQUARE]), "b.png": entry()})
    (changed, _), _ = read(form, data)
    assert not a.mask.exists() and changed.mask.exists()


def test_a_single_mask_is_drawn_once(tmp_path):
    calls, like = [], tmp_path / "like"
    like.touch()
    os.utime(like, (10**9, 10**9))

    def draw():
        calls.append(1)
        return np.full((3, 4), 7, np.uint8)

    first = cached_mask(["key", b"\0"], draw, like)
    assert cached_mask(["key", b"\0"], draw, like) == first and len(calls) == 1
    assert cached_mask(["key\0", b""], draw) != first and len(calls) == 2
    assert (np.asarray(Image.open(first)) == 7).all() and first.stat().st_mtime == 10**9

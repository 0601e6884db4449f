"""`fastseg.new`: classes of whole images, label files of other tools, groups, channels; the
command.
"""

import json
import shlex
import shutil

import numpy as np
import pytest
from conftest import needs_shared, refuses, shared
from PIL import Image
from test_discovery_layouts import EYE, Writer

import fastseg
from fastseg import tasks
from fastseg.cli import console
from fastseg.data.images import save_image


@pytest.fixture(scope="module")
def drawn():
    return [EYE.draw(np.random.default_rng([5, number])) for number in range(8)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Writer(tmp_path / "data" / "eyes")


def photo(root, path, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    save_image(root / path, noise)


def labels_of(root):
    task = tasks.get(root)
    return {i.image.relative_to(root).as_posix(): task.class_name(i) for i in task.items(root)}


@pytest.mark.parametrize("form", ["{c}/{n}.jpg", "photos/{c}/{n}.jpg", "{s}/{c}/{n}.jpg"])
def test_a_folder_a_class(data, form):
    truth = {}
    for number in range(12):
        name, split = ("cat", "dog", "owl")[number % 3], "val" if number < 3 else "train"
        path = form.format(c=name, n=number, s=split)
        photo(data.root, path, number)
        truth[path] = name
    fastseg.new(data.root)
    assert labels_of(data.root) == truth
    assert tasks.get(data.root).kind == "classify"
    found = {item.split for item in tasks.get(data.root).items(data.root)}
    assert found == ({"train", "valid"} if "{s}" in form else {None})


def test_in_the_folder_itself_twice(data, monkeypatch):
    """The picture of the first run is no image of the data."""
    for number in range(8):
        photo(data.root, f"{('cat', 'dog')[number % 2]}/{number}.jpg", number)
    monkeypatch.chdir(data.root)
    for force in (False, True):
        fastseg.new(".", force=force)
        assert tasks.get(".").classes == ("cat", "dog")
    assert (data.root / "new_eyes.png").is_file()


@pytest.mark.parametrize("suffix, separator", [("csv", ","), ("tsv", "\t"), ("csv", ";")])
@pytest.mark.parametrize("cell", ["{n}", "{n}.jpg", "photos/{n}.jpg"])
def test_tables(data, suffix, separator, cell):
    rows = [separator.join(["image", "width", "label"])]
    truth = {}
    for number in range(9):
        photo(data.root, f"photos/{number}.jpg", number)
        name = ("cat", "dog")[number % 2]
        rows.append(separator.join([cell.format(n=number), "80", name]))
        truth[f"photos/{number}.jpg"] = name
    (data.root / f"labels.{suffix}").write_text("\n".join(rows) + "\n")
    fastseg.new(data.root)
    assert labels_of(data.root) == truth


def test_two_columns_of_labels_are_ambiguous(data):
    rows = ["file,animal,colour"]
    for number in range(9):
        photo(data.root, f"{number}.jpg", number)
        rows.append(f"{number}.jpg,{('cat', 'dog')[number % 2]},{('red', 'grey')[number // 5]}")
    (data.root / "labels.csv").write_text("\n".join(rows))
    with refuses("ambiguous", "animal", "colour", "--label-column"):
        fastseg.new(data.root)
    fastseg.new(data.root, label_column="colour")
    assert set(labels_of(data.root).values()) == {"red", "grey"}
    with refuses("no-such-column", "colours", "animal"):
        fastseg.new(data.root, label_column="colours", force=True)


def test_images_alone_are_not_understood(data):
    for number in range(3):
        photo(data.root, f"photos/{number}.jpg", number)
    with refuses("not-understood", "photos", 3):
        fastseg.new(data.root)
    assert not (data.root / "task.toml").exists()


def test_folders_of_images_and_masks_without_equal_names_are_no_classes(data, drawn):
    for number, (image, codes) in enumerate(drawn):
        save_image(data.root / f"images/a{number}.jpg", image)
        save_image(data.root / f"masks/{number}x.png", codes)
    with refuses("not-understood", "images", "masks"):
        fastseg.new(data.root)


def pairs(data, drawn, names="{}"):
    for number, (image, codes) in enumerate(drawn):
        name = names.format(number, a=number // 4, b=number % 4)
        data.pair(f"images/{name}.jpg", image, f"masks/{name}.png", codes, codes)


@pytest.mark.parametrize(
    "names, pattern", [("subject0{a}_frame{b}", r"subject\d+"), ("set_{a}_frame_{b}", r"set_\d+")]
)
def test_groups_are_proposed_and_taken_only_when_confirmed(data, drawn, names, pattern):
    pairs(data, drawn, names)
    made = fastseg.new(data.root)
    assert not tasks.get(data.root).grouped
    assert pattern in made.path.read_text()
    assert [question.subject for question in made.questions] == ["group"]
    fastseg.new(data.root, force=True, group="auto")
    assert tasks.get(data.root).group == pattern
    assert len({item.group for item in tasks.get(data.root).items(data.root)}) == 2
    fastseg.new(data.root, force=True, ask=lambda question: "auto")
    assert tasks.get(data.root).group == pattern
    made = fastseg.new(data.root, force=True, ask=lambda question: "none")
    assert not tasks.get(data.root).grouped and made.questions == []  # it was answered


def test_numbers_alone_are_no_groups(data, drawn):
    pairs(data, drawn, "image_{}")
    assert fastseg.new(data.root).questions == []


@pytest.mark.parametrize("ends", [("_R", "_G", "_B", "_NIR"), ("_red", "_nir")])
def test_a_file_a_channel(data, drawn, ends):
    for number, (image, codes) in enumerate(drawn):
        for at, end in enumerate(ends):
            save_image(data.root / f"images/{number}{end}.png", image[..., at % 3])
        save_image(data.root / f"masks/{number}.png", codes)
        data.truth[f"images/{number}{ends[0]}.png"] = codes
    fastseg.new(data.root)
    task = data.check()
    assert task.channel_files == ends and task.channels == len(ends)


@pytest.mark.parametrize("opaque, alpha", [(True, "drop"), (False, "white")])
def test_transparent_images(data, drawn, opaque, alpha):
    for number, (image, codes) in enumerate(drawn):
        cover = np.full(codes.shape, 255, np.uint8)
        cover[:5] = 255 if opaque else 0
        rgba = np.dstack([image, cover])
        data.pair(f"images/{number}.png", rgba, f"masks/{number}.png", codes, codes)
    fastseg.new(data.root)
    assert data.check().alpha == alpha


def labelme(data, drawn, with_masks=False):
    for number, (image, codes) in enumerate(drawn):
        height, width = codes.shape
        save_image(data.root / f"{number}.jpg", image)
        shape = {
            "label": "eye",
            "shape_type": "polygon",
            "points": [[20, 20], [100, 20], [100, 90], [20, 90]],
            "group_id": None,
            "flags": {},
        }
        text = {
            "version": "5.0.1",
            "flags": {},
            "shapes": [shape],
            "imagePath": f"{number}.jpg",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (data.root / f"{number}.json").write_text(json.dumps(text))
        if with_masks:
            save_image(data.root / f"masks/{number}.png", (codes > 0).astype(np.uint8))


def test_label_files(data, drawn):
    labelme(data, drawn)
    fastseg.new(data.root)
    task = tasks.get(data.root)
    assert task.classes == ("background", "eye") and task.layouts[0].format == "labelme"
    codes = task.label(task.items(data.root)[0])
    assert codes[50, 50] == 1 and codes[5, 5] == 0 and set(np.unique(codes)) == {0, 1}


def test_label_files_and_masks_are_ambiguous(data, drawn):
    labelme(data, drawn, with_masks=True)
    with refuses("ambiguous", "--format labelme", "--format masks"):
        fastseg.new(data.root)
    fastseg.new(data.root, format="masks", images=".", masks="masks")
    assert tasks.get(data.root).layouts[0].format == ""
    fastseg.new(data.root, format="labelme", force=True)
    assert tasks.get(data.root).layouts[0].format == "labelme"
    with refuses("unknown-format", "labelm"):
        fastseg.new(data.root, format="labelm", force=True)


@pytest.mark.parametrize("form", ["png", "voc", "coco", "labelme", "cvat", "labelstudio", "yolo"])
def test_what_convert_writes(data, samples, form):
    """Each format is understood again, and items have the same codes but at outlines."""
    source = samples["eye"]
    truth = {item.image.stem: EYE.label(item) for item in EYE.items(source)}
    fastseg.convert("eye", data.root, form, source)
    (data.root / "task.toml").unlink(missing_ok=True)
    fastseg.new(data.root)
    task = tasks.get(data.root)
    index = np.array([EYE.classes.index(name) for name in task.classes])
    items = task.items(data.root)
    assert len(items) == len(truth)
    for item in items:
        assert (index[task.label(item)] == truth[item.image.stem]).mean() > 0.998


def test_volumes(data, drawn):
    nibabel = pytest.importorskip("nibabel")
    for folder in ("images", "labels"):
        (data.root / folder).mkdir(parents=True)
    for number, (image, codes) in enumerate(drawn[:4]):
        for folder, plane in (("images", image[..., 0]), ("labels", codes)):
            volume = np.stack([plane.T] * 3, axis=2).astype(np.int16)
            file = data.root / folder / f"p{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), file)
    made = fastseg.new(data.root)
    assert made.questions == []  # slices of a volume are together in any case
    task = tasks.get(data.root)
    items = task.items(data.root)
    assert len(items) == 12 and len(task.classes) == 4
    assert (
        np.bincount(task.label(items[0]).ravel()).tolist()
        == np.bincount(drawn[0][1].ravel()).tolist()
    )


def test_the_command(run, data, drawn, tmp_path):
    pairs(data, drawn)
    said = run("new", data.root)
    assert "images/ + masks/" in said.out and "task.toml" in said.out
    text = (data.root / "task.toml").read_text()
    assert "# images/ + masks/" in text and (tmp_path / "here" / "new_eyes.png").is_file()
    assert max(map(len, text.splitlines())) <= 100
    run("new", data.root, error="task-file-exists")
    found = json.loads(run("new", data.root, "--force", "--yes", "--json").out)
    assert found["name"] == "eyes" and found["definition"]["recipe"]["size"]
    assert run("check", data.root).code == 0
    run("new", tmp_path / "nothing", error="no-such-path")
    run("new", data.root, "--force", "--pixels", "codez", error="unknown-kind-of-pixels")
    run("new", data.root, "--force", "--masks", "mask", error="no-such-path")


def test_the_command_asks_on_a_terminal(run, data, drawn, monkeypatch):
    for number, (image, codes) in enumerate(drawn):
        save_image(data.root / f"images/{number}.jpg", image)
        for name in "ab":
            save_image(data.root / f"masks_{name}/{number}.png", codes)
    run("new", data.root, error="ambiguous")
    asked = []
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    monkeypatch.setattr(console, "ask", lambda question: asked.append(question) or "masks_b")
    run("new", data.root, "--yes", error="ambiguous")
    assert not asked
    run("new", data.root)
    assert asked[0].subject == "masks"
    assert tasks.get(data.root).layouts[0].masks == "masks_b"


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind, classes",
    [
        ("eye", "segment", 4),
        ("palette", "segment", 4),
        ("face", "segment", 2),
        ("mri", "classify", 2),
        ("surfaces/ade20k", "segment", 150),
        ("surfaces/cocostuff", "segment", 86),
        ("formats/coco", "segment", 21),
    ],
)
def test_real_data(data, name, kind, classes):
    source = shared / "data" / name
    for file in source.rglob("*"):
        target = data.root / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():  # label files name images inside the folder: no links there
            shutil.copy(file, target) if "formats" in name else target.symlink_to(file)
    made = fastseg.new(data.root)
    task = tasks.get(data.root)
    assert task.kind == kind and len(task.classes) >= classes
    assert made.picture is not None
    with Image.open(made.picture) as picture:
        assert picture.width > 100


def test_the_next_command_can_be_typed_as_it_is_shown(run, data, drawn, tmp_path):
    pairs(data, drawn)
    folder = data.root.rename(data.root.with_name("my eyes"))
    refused = run("fit", folder, error="no-task-file").message
    assert shlex.split(refused.rpartition("fastseg new ")[2]) == [str(folder)]
    said = run("new", folder).out
    assert shlex.split(said.rpartition("fastseg fit ")[2]) == [str(folder)]

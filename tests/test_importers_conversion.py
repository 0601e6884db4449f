"""`convert` and `predict --format`: what is written is read back, with its splits and classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, refuses, rows_of
from format_cases import iou_by_class, smooth_codes
from PIL import Image

import fastseg
from fastseg import formats, tasks
from fastseg.tasks.converted import targets, unique_names

EXACT = ("cvat", "png", "voc")  # formats of pixels; the others are of polygons


def lowest_iou(one, other):
    return min(iou_by_class(one, other).values())


def make(folder, codes, more="", split=""):
    """Write a task.toml, and images and masks of codes, by name, below `folder`."""
    for name, mask in codes.items():
        image, label = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        shown = np.stack([np.where(mask == 255, 0, mask) * 60] * 3, axis=-1)
        Image.fromarray(shown.astype(np.uint8)).save(image)
        Image.fromarray(mask).save(label)
    (folder / "task.toml").write_text(
        'classes = ["ground", "roof", "tree", "road"]\n' + more + "\n[recipe]\nsize = [96, 128]\n"
    )
    return folder


@pytest.mark.parametrize("to", targets())
@pytest.mark.parametrize("name", ["eye", "kitchen", "face", "surfaces"])
def test_what_is_written_is_read_back(name, to, samples, tmp_path):
    task, out = tasks.get(name), tmp_path / "out"
    made = fastseg.convert(name, out, to, samples[name])
    again = tasks.get(out)
    assert (again.classes, again.palette) == (task.classes, task.palette)
    assert (again.background, again.recipe) == (task.background, task.recipe)
    found = {item.image.stem: item for item in again.items(out)}
    items = task.items(samples[name])
    assert made.images == len(found) == len(items)
    for item in items:
        copy = found[item.image.stem]
        assert copy.image.read_bytes() == item.image.read_bytes()
        assert copy.split == item.split
        codes, mask = task.label(item), again.label(copy)
        if to in EXACT:
            assert np.array_equal(codes, mask)
        else:
            assert lowest_iou(codes, mask) >= 0.99
    groups = {item.image.stem: item.group for item in items}
    if task.group:
        assert {stem: item.group for stem, item in found.items()} == groups
    assert all(file.is_file() and out in file.parents for file in made.files)


@pytest.mark.parametrize("to", targets())
def test_unlabelled_pixels_stay_unlabelled(to, tmp_path):
    codes = {}
    for number in range(4):
        mask = codes[f"picture_{number}"] = smooth_codes(number)
        mask[20:60, 30:90] = 255
    source = make(tmp_path / "source", codes)
    fastseg.convert(source, tmp_path / "out", to)
    task = tasks.get(tmp_path / "out")
    for item in task.items(tmp_path / "out"):
        mask = codes[item.image.stem]
        assert lowest_iou(mask, task.label(item)) >= (1 if to in EXACT else 0.99)


@pytest.mark.parametrize("to", targets())
def test_a_task_without_background_has_all_its_classes(to, tmp_path):
    codes = {f"picture_{number}": smooth_codes(number) for number in range(4)}
    fastseg.convert(make(tmp_path / "source", codes, "background = false"), tmp_path / "out", to)
    task = tasks.get(tmp_path / "out")
    assert task.background is None
    for item in task.items(tmp_path / "out"):
        mask, found = codes[item.image.stem], task.label(item)
        # Between simplified outlines, some pixels belong to none.
        found_iou = iou_by_class(mask, found)
        assert min(found_iou[code] for code in np.unique(mask).tolist()) >= 0.99
        assert np.mean(found == 255) < (1e-9 if to in EXACT else 0.01)


@pytest.mark.slow
def test_the_parts_of_a_split_that_is_partly_drawn(tmp_path):
    """Images without a split beside a test folder."""
    codes = {f"{part}/picture_{n}": smooth_codes(n) for part in ("rest", "test") for n in range(4)}
    layouts = "".join(
        f'[[layouts]]\nimages = "images/{part}"\nmasks = "masks/{part}"\n{split}\n'
        for part, split in (("rest", ""), ("test", 'split = "test"'))
    )
    source = make(tmp_path / "source", codes, layouts)
    for to in targets():
        made = fastseg.convert(source, tmp_path / to, to)
        assert made.splits == {"": 4, "test": 4}
        items = tasks.get(tmp_path / to).items(tmp_path / to)
        splits = sorted(str(item.split) for item in items)
        assert splits == ["None"] * 4 + ["test"] * 4, to
        stems = {item.image.stem for item in items}
        assert "picture_0" not in stems and len(stems) == 8, to


@pytest.mark.parametrize("to", targets())
def test_images_of_a_file_a_channel_are_kept_together(to, tmp_path):
    codes = {f"picture_{number}": smooth_codes(number) for number in range(4)}
    more = 'channels = 2\nchannel_files = ["_R", "_NIR"]\nshown_channels = [0, 1, 0]\n'
    source = make(tmp_path / "source", codes, more)
    for image in list((source / "images").iterdir()):
        for number, end in enumerate(("_R", "_NIR")):
            channel = np.asarray(Image.open(image))[..., 0] // (number + 1)
            Image.fromarray(channel).save(image.with_name(f"{image.stem}{end}.png"))
        image.unlink()
    fastseg.convert(source, tmp_path / "out", to)
    old, new = tasks.get(source), tasks.get(tmp_path / "out")
    pairs = zip(old.items(source), new.items(tmp_path / "out"), strict=True)
    for before, after in pairs:
        assert after.image.name == before.image.name
        assert np.array_equal(old.image(before), new.image(after))
        assert lowest_iou(old.label(before), new.label(after)) >= 0.99


def test_names_of_copies_are_unique():
    paths = ["a/7.jpg", "b/7.jpg", "8.jpg", "c/8.PNG", "d/7_a.jpg", "c/Ä.png", "ä.png"]
    found = unique_names([Path("/data", path) for path in paths], Path("/data"))
    stems = [name.rpartition(".")[0].lower() for name in found]
    assert len({*stems}) == len(paths)
    assert found[:2] == ["7_a_2.jpg", "7_b.jpg"] and found[4] == "7_a.jpg"
    assert unique_names([Path("/x/1.jpg")], Path("/data")) == ["1.jpg"]


def test_the_command_says_what_it_wrote(run, samples):
    result = run("convert", "face", "out", "--to", "voc", "--data", samples["face"], "--json")
    found = json.loads(result.out)
    assert found["images"] == sum(found["splits"].values()) and found["format"] == "voc"
    assert all(Path(file).is_file() for file in found["files"])
    assert {*found["splits"]} == {"train", "valid", "test"}
    lists = sorted(path.name for path in Path("out/ImageSets/Segmentation").iterdir())
    assert lists == ["test.txt", "train.txt", "val.txt"]
    mask = next(Path("out/SegmentationClass").iterdir())
    with Image.open(mask) as picture:
        colours = picture.getpalette()
    assert tuple(colours[3:6]) == tasks.get("face").palette[1]
    assert "eye:" in Path("out/labelmap.txt").read_text()
    assert "16" in run("convert", "face", "x", "--to", "png", "--data", samples["face"]).out
    names = Path("x/class_names.txt").read_text().split()
    assert names == list(tasks.get("face").classes)


def test_what_is_refused_writes_nothing(fails, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eyes")
    eye = ("convert", "eye", "--data", data, "--to", "png")
    fails("convert", "mri", "out", "--to", "png", "--data", samples["mri"], code="no-masks")
    fails(*eye, data / "out", code="output-in-data", values=[data / "out"])
    fails(*eye, tmp_path, code="not-empty", values=[tmp_path])
    fails(*eye[:-1], "pgn", "out", code="unknown-format", suggested="png")
    fails("convert", "eyes_", "out", "--to", "png", code="unknown-task")
    first = sorted((data / "masks_small").iterdir())[0]
    Image.open(first).resize((20, 20)).save(first)
    fails(*eye, "out", code="size-mismatch", values=[first, 20])
    first.write_bytes(b"")
    fails(*eye, "out", code="unreadable-image", values=[first])


@pytest.mark.slow
def test_a_converted_folder_is_fitted_at_once(run, samples):
    run("convert", "eye", "eyes_yolo", "--to", "yolo", "--data", samples["eye"])
    small = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4", "--epochs", "1"]
    run("fit", "eyes_yolo", *small)
    assert json.loads(Path("exports/eyes_yolo/card.json").read_text())["task"] == "eyes_yolo"


@pytest.fixture
def photos(samples, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in sorted((samples["eye"] / "imgs_small").iterdir())[:3]:
        shutil.copy(image, folder)
    return folder


def accept(file):
    """Make the predictions of Label Studio's tasks annotations, as a person does there."""
    entries = json.loads(file.read_text())
    for entry in entries:
        (prediction,) = entry.pop("predictions")
        assert 0 < prediction["score"] <= 1
        entry["annotations"] = [{"result": prediction["result"]}]
    file.write_text(json.dumps(entries))


@pytest.mark.parametrize("to", targets())
def test_predictions_are_labels_that_are_read_back(to, run, exports, photos):
    run("predict", "eye", photos, "--export", exports("eye"), "--format", to)
    out = Path("photos_inf_masks", to)
    task = tasks.get(out)
    if to == "labelstudio":
        accept(out / "label_studio.json")
    assert (task.name, task.classes) == ("eye_corrected", tasks.get("eye").classes)
    items = task.items(out)
    assert len(items) == 3
    for item in items:
        predicted = np.asarray(Image.open(f"photos_inf_masks/{item.image.stem}.png"))
        assert lowest_iou(predicted, task.label(item)) >= (1 if to in EXACT else 0.99)
        assert item.image.read_bytes() == (photos / item.image.name).read_bytes()
    assert "scores" not in rows_of("photos_inf_masks/predictions.csv")[0]


def test_writers_get_the_mean_probability_of_each_class(run, exports, photos, monkeypatch):
    got = []
    form = formats.get("cvat")
    write = type(form).write

    def spy(self, images, *arguments):
        return write(self, (got.append(image) or image for image in images), *arguments)

    monkeypatch.setattr(type(form), "write", spy)
    run("predict", "eye", photos, "--export", exports("eye"), "--format", "cvat")
    model = fastseg.load(exports("eye"))
    for image in got:
        prediction = model.predict(photos / image.image.name)
        chosen = prediction.probabilities
        for code in np.unique(prediction.codes).tolist():
            mean = chosen[code][prediction.codes == code].mean()
            assert image.scores[code] == pytest.approx(mean, abs=0.1)
        assert {*image.scores} == {*np.unique(prediction.codes).tolist()}


def test_labels_that_people_may_have_corrected_are_kept(fails, run, exports, photos, samples):
    eye = ("predict", "eye", photos, "--export", exports("eye"), "--format", "yolo")
    run(*eye)
    before = Path("photos_inf_masks/yolo/data.yaml").read_bytes()
    fails(*eye, code="not-empty", values=["yolo"])
    assert Path("photos_inf_masks/yolo/data.yaml").read_bytes() == before
    fails(*eye[:-1], "yol", code="unknown-format", suggested="yolo")
    one = sorted(photos.iterdir())[0]
    fails("predict", "eye", one, *eye[3:], "--out", "one.png", code="one-file-for-many")
    mri = next((samples["mri"]).rglob("*.png"))
    fails("predict", "mri", mri, "--export", exports("mri"), "--format", "coco", code="no-masks")


def test_tasks_that_write_colours_get_masks_of_codes_too(run, exports, samples):
    photos = Path("photos")
    photos.mkdir()
    for item in tasks.get("surfaces").items(samples["surfaces"])[:2]:
        shutil.copy(item.image, photos)
    out = ("--out", "found", "--format", "png")
    run("predict", "surfaces", photos, "--export", exports("surfaces"), *out)
    codes = sorted(Path("found/codes").iterdir())
    assert len(codes) == 2
    for file in codes:
        written = np.asarray(Image.open(Path("found/png/masks", file.name)))
        assert np.array_equal(np.asarray(Image.open(file)), written)


def test_an_unknown_format_is_refused_in_python(samples, tmp_path):
    with refuses("unknown-format", "ping"):
        fastseg.convert("eye", tmp_path / "x", "ping", samples["eye"])

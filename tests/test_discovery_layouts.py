"""`fastseg.new`: each layout of images and masks is understood, and items have the true codes."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.data.images import codes_to_colours, save_image
from fastseg.discovery.known_classes import CITYSCAPES, VOC_NAMES, voc_colour
from fastseg.types import IGNORE

EYE = tasks.get("eye")
COUNT = 8


@pytest.fixture(scope="module")
def drawn():
    """Images, uint8 (H, W, 3), and codes 0 to 3, uint8 (H, W)."""
    return [EYE.draw(np.random.default_rng([5, number])) for number in range(COUNT)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Pictures are written into the current folder: one beside the data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


class Writer:
    """Writes images and masks below a folder, and keeps the true codes by image path."""

    def __init__(self, root: Path):
        self.root = root
        self.truth: dict[str, np.ndarray] = {}

    def pair(self, image_path, image, mask_path, mask, codes, **options):
        save_image(self.root / image_path, image)
        if isinstance(mask, Image.Image):
            (self.root / mask_path).parent.mkdir(parents=True, exist_ok=True)
            mask.save(self.root / mask_path)
        else:
            save_image(self.root / mask_path, mask, **options)
        self.truth[image_path] = codes

    def check(self, names=None, tolerance=0.0):
        """Compare the items of the written task.toml with the truth, class by class.

        `names` maps class names to true codes; without it, the class's index is the code.
        """
        task = tasks.get(self.root)
        items = task.items(self.root)
        found = {item.image.relative_to(self.root).as_posix(): item for item in items}
        assert found.keys() == self.truth.keys()
        lookup = np.full(256, IGNORE, dtype=np.uint8)
        for index, name in enumerate(task.classes):
            lookup[index] = names[name] if names else index
        for path, codes in self.truth.items():
            wrong = lookup[task.label(found[path])] != codes
            assert wrong.mean() <= tolerance, (path, wrong.mean())
        return task


@pytest.fixture
def data(tmp_path):
    return Writer(tmp_path / "data" / "eyes")


def palette_image(codes, colours):
    image = Image.fromarray(codes, mode=None).convert("L")
    made = Image.frombytes("P", image.size, image.tobytes())
    made.putpalette([level for colour in colours for level in colour])
    return made


@pytest.mark.parametrize(
    "image_path, mask_path",
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("imgs/{}.png", "annotations/{}.png"),
        ("a/b/photos/{}.jpg", "a/b/gt/{}.png"),
        ("first/{}.jpg", "second/{}.png"),
        ("{}.jpg", "{}.png"),
        ("{}.jpg", "{}_mask.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}_label.png"),
        ("{}.png", "{}_seg.png"),
        ("{}.png", "{}_gt.png"),
        ("{}.png", "{}.mask.png"),
        ("deep/{}.tif", "deep/{}.mask.tif"),
        ("{}_img.png", "{}_mask.png"),
        ("x/{}_sat.jpg", "y/{}_mask.png"),
        ("images/img_{}.jpg", "masks/gt_{}.png"),
        ("images/{}.jpg", "masks/{}_mask.png"),
        ("subject{}/image.png", "subject{}/mask.png"),
    ],
)
def test_pairs_of_folders_and_ends(data, drawn, image_path, mask_path):
    for number, (image, codes) in enumerate(drawn):
        data.pair(image_path.format(number), image, mask_path.format(number), codes, codes)
    made = fastseg.new(data.root)
    task = data.check()
    assert task.classes == ("background", "class 1", "class 2", "class 3")
    assert task.background == 0 and task.name == "eyes"
    assert made.path == data.root / "task.toml" and made.picture.is_file()
    assert any(str(COUNT) in line for line in made.evidence["layouts"])


@pytest.mark.parametrize(
    "image_path, mask_path",
    [
        ("{split}/images/{n}.jpg", "{split}/masks/{n}.png"),
        ("images/{split}/{n}.jpg", "labels/{split}/{n}.png"),
        ("img_{split}/{n}.jpg", "mask_{split}/{n}.png"),
        ("{split}/{n}.png", "{split}annot/{n}.png"),
        ("{split}/{n}.png", "{split}/{n}_mask.png"),
        ("images/{split}/a{odd}/{n}.jpg", "masks/{split}/a{odd}/{n}.png"),
    ],
)
@pytest.mark.parametrize("valid", ["val", "validation"])
def test_split_folders(data, drawn, image_path, mask_path, valid):
    splits = {}
    for number, (image, codes) in enumerate(drawn):
        split = valid if number % 4 == 0 else "train"
        names = {"split": split, "n": number, "odd": number % 2}
        data.pair(image_path.format(**names), image, mask_path.format(**names), codes, codes)
        splits[image_path.format(**names)] = "valid" if split == valid else "train"
    fastseg.new(data.root)
    task = data.check()
    found = {i.image.relative_to(data.root).as_posix(): i.split for i in task.items(data.root)}
    assert found == splits


def test_a_folder_of_each_subject(data, drawn):
    for number, (image, codes) in enumerate(drawn):
        folder = f"subject{number % 3}"
        data.pair(
            f"{folder}/images/{number}.jpg", image, f"{folder}/masks/{number}.png", codes, codes
        )
    fastseg.new(data.root)
    data.check()


def test_lists_of_camvid(data, drawn):
    """Two columns, with the paths of another machine; 11 is void; the names are CamVid's."""
    lines = {"train": [], "val": []}
    for number, (image, codes) in enumerate(drawn):
        split = "val" if number % 4 == 0 else "train"
        bands = np.arange(codes.shape[1])[None] * 12 // codes.shape[1]
        mask = np.broadcast_to(bands, codes.shape).astype(np.uint8)
        name = f"0001TP_{number:06d}.png"
        truth = np.where(mask == 11, IGNORE, mask).astype(np.uint8)
        data.pair(f"{split}/{name}", image, f"{split}annot/{name}", mask, truth)
        lines[split].append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
    for split, text in lines.items():
        (data.root / f"{split}.txt").write_text("\n".join(text) + "\n")
    fastseg.new(data.root)
    task = data.check()
    assert task.classes[0] == "sky" and len(task.classes) == 11 and task.background is None
    assert task.ignore == (11,)
    assert {layout.list_file for layout in task.layouts} == {"train.txt", "val.txt"}


def test_a_void_code_that_a_class_file_leaves_out(data, drawn):
    names = ["road", "sky", "tree", "car"]
    for number, (image, codes) in enumerate(drawn):
        mask = codes.copy()
        mask[:20] = 4
        mask[60:90, :15] = 4
        truth = np.where(mask == 4, IGNORE, mask).astype(np.uint8)
        data.pair(f"train/{number}.png", image, f"trainannot/{number}.png", mask, truth)
    (data.root / "classes.txt").write_text("\n".join([*names, "void"]))
    made = fastseg.new(data.root)
    task = data.check({name: code for code, name in enumerate(names)})
    assert task.classes == tuple(names) and task.ignore == (4,)
    assert any("void" in line for line in made.evidence["ignore"])


def test_lists_of_voc(data, drawn):
    """Stems in ImageSets/Segmentation; images without a mask are in no list."""
    palette = [voc_colour(code) for code in range(256)]
    for number, (image, codes) in enumerate(drawn):
        mask = (codes * 5).astype(np.uint8)
        edge = np.zeros(codes.shape, bool)
        edge[:, 1:] = codes[:, 1:] != codes[:, :-1]
        mask[edge] = IGNORE
        name = f"2011_{number:06d}"
        data.pair(
            f"JPEGImages/{name}.jpg",
            image,
            f"SegmentationClass/{name}.png",
            palette_image(mask, palette),
            mask,
        )
        save_image(data.root / f"SegmentationObject/{name}.png", mask)
    save_image(data.root / "JPEGImages" / "2012_000001.jpg", drawn[0][0])
    sets = data.root / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    stems = sorted(Path(path).stem for path in data.truth)
    (sets / "train.txt").write_text("\n".join(stems[:6]))
    (sets / "val.txt").write_text("\n".join(stems[6:]))
    (sets / "trainval.txt").write_text("\n".join(stems))
    fastseg.new(data.root)
    task = data.check({name: code for code, name in enumerate(VOC_NAMES)})
    assert task.classes == VOC_NAMES and task.palette[1] == (128, 0, 0)
    assert [item.split for item in task.items(data.root)].count("valid") == 2


@pytest.mark.parametrize("end", ["_gtFine_labelIds", "_gtFine_labelTrainIds"])
def test_cityscapes(data, drawn, end):
    ids = {name: code for name, code, _ in CITYSCAPES}
    for number, (image, codes) in enumerate(drawn):
        split, city = ("val", "ulm") if number % 4 == 0 else ("train", f"city{number % 2}")
        name = f"{city}_000000_{number:06d}"
        meant = codes + np.uint8(10)  # sky, person, rider, car
        truth = meant.copy()
        truth[:8] = IGNORE
        if end.endswith("labelIds"):
            mask = np.array([code for _, code, _ in CITYSCAPES], np.uint8)[meant]
            mask[:8] = 4  # static: not evaluated
        else:
            mask = truth.copy()
        base = f"gtFine/{split}/{city}/{name}"
        image_path = f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"
        data.pair(image_path, image, f"{base}{end}.png", mask, truth)
        save_image(data.root / f"{base}_gtFine_instanceIds.png", mask.astype(np.uint16) * 1000)
        save_image(data.root / f"{base}_gtFine_color.png", codes_to_colours(codes, EYE.palette))
        (data.root / f"{base}_gtFine_polygons.json").write_text('{"imgHeight": 1, "objects": []}')
    fastseg.new(data.root)
    task = data.check()
    assert task.classes == tuple(ids) and task.background is None
    assert sum(item.split == "valid" for item in task.items(data.root)) == 2


@pytest.mark.parametrize(
    "mask_path",
    [
        "{n}_{name}.png",
        "{n}_{name}_mask.png",
        "masks/{n}_{name}.png",
        "masks/{name}/{n}.png",
        "{name}/{n}.png",
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_one_mask_a_class(data, drawn, mask_path, suffix):
    names = ["sclera", "iris", "pupil"]
    for number, (image, codes) in enumerate(drawn):
        folder = "images/" if "/" in mask_path else ""
        save_image(data.root / f"{folder}{number}{suffix}", image)
        data.truth[f"{folder}{number}{suffix}"] = codes
        for code, name in enumerate(names, 1):
            mask = (codes == code).astype(np.uint8) * 255
            save_image(data.root / mask_path.format(n=number, name=name), mask)
    fastseg.new(data.root)
    task = data.check({"background": 0, **{name: code for code, name in enumerate(names, 1)}})
    assert sorted(task.classes[1:]) == sorted(names)


def test_nothing_but_task_toml_is_written(data, drawn):
    for number, (image, codes) in enumerate(drawn):
        data.pair(f"images/{number}.jpg", image, f"masks/{number}.png", codes, codes)
    before = {file: file.read_bytes() for file in data.root.rglob("*") if file.is_file()}
    fastseg.new(data.root)
    after = {file: file.read_bytes() for file in data.root.rglob("*") if file.is_file()}
    assert after.pop(data.root / "task.toml")
    assert after == before
    assert os.listdir() == ["new_eyes.png"]


def test_an_image_without_a_mask_waits_for_one_and_a_mask_without_an_image_is_refused(
    data, drawn, run
):
    for number, (image, codes) in enumerate(drawn):
        data.pair(f"images/{number}.jpg", image, f"masks/{number}.png", codes, codes)
    lone = save_image(data.root / "images" / "lone.jpg", drawn[0][0])
    assert fastseg.new(data.root).waiting == 1
    out = run("new", data.root, "--force").out
    assert "1 has no label yet" in out and "next: fastseg app" in out
    lone.unlink()
    save_image(data.root / "masks" / "other.png", drawn[0][1])
    with refuses("no-partner", "other.png"):
        fastseg.new(data.root, force=True)


def test_two_folders_of_masks_are_ambiguous(data, drawn):
    for number, (image, codes) in enumerate(drawn):
        data.pair(f"images/{number}.jpg", image, f"masks_anna/{number}.png", codes, codes)
        save_image(data.root / f"masks_bert/{number}.png", np.flipud(codes))
    with refuses("ambiguous", "masks_anna", "masks_bert", "--masks"):
        fastseg.new(data.root)
    assert not (data.root / "task.toml").exists()
    fastseg.new(data.root, masks="masks_anna")
    data.check()
    fastseg.new(data.root, ask=lambda question: "masks_bert", force=True)
    data.truth = {path: np.flipud(codes) for path, codes in data.truth.items()}
    data.check()


def test_one_mask_a_class_beside_images_that_few_files_are(data, drawn):
    """Most files of the folder are masks, whichever of them are looked at."""
    for number, (image, codes) in enumerate(drawn[:4] * 5):
        save_image(data.root / f"{number}.jpg", image)
        data.truth[f"{number}.jpg"] = codes
        for code, name in enumerate(["sclera", "iris", "pupil"], 1):
            save_image(data.root / f"{number}_{name}.png", (codes == code).astype(np.uint8) * 255)
    fastseg.new(data.root)
    data.check({"background": 0, "sclera": 1, "iris": 2, "pupil": 3})


def test_links_that_lead_nowhere_are_no_folders(data, drawn):
    for number, (image, codes) in enumerate(drawn):
        data.pair(f"images/{number}.jpg", image, f"masks/{number}.png", codes, codes)
    (data.root / "loop").symlink_to("loop")
    fastseg.new(data.root)
    data.check()

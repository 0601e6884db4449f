"""Common label formats: void pixels, 0/255, JPEG and colour masks, files of other tools."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import ARCH, missing, needs_shared, shared
from PIL import Image

from fastseg import tasks
from fastseg.checks.dataset import check
from fastseg.checks.preflight import survey
from fastseg.checks.repair import fix
from fastseg.data.decoding import IGNORE
from fastseg.errors import DataError
from fastseg.formats.recognise import recognise

FIT = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4", "--epochs", "1"]
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
ROOF = """
from fastseg.tasks import Layout, Recipe, SegmentationTask
task = SegmentationTask(name="roof", classes=("ground", "roof"), palette=((0, 0, 0), (200, 0, 0)),
                        layouts=(Layout("images", "masks"),), recipe=Recipe(size=(64, 64)){more})
"""


@pytest.fixture
def data(samples, tmp_path):
    """Copy the eye sample; `change` the codes of the masks `only`, written with `suffix`."""

    def build(change, suffix=".png", only=slice(None)):
        root = shutil.copytree(samples["eye"], tmp_path / "data" / "eye")
        for mask in sorted((root / "masks_small").iterdir())[only]:
            codes = np.asarray(Image.open(mask))
            mask.unlink()
            Image.fromarray(change(codes)).save(mask.with_suffix(suffix))
        return root

    return build


@pytest.fixture
def roof(tmp_path, monkeypatch):
    """A task file with two classes, and a 0/255 dataset; `roof(more)` adds declarations."""

    def build(more=""):
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "roof.py").write_text(ROOF.format(more=more))
        monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
        monkeypatch.delitem(__import__("sys").modules, "fastseg.tasks.roof", raising=False)
        root = tasks.get("roof").sample(tmp_path / "data" / "roof", n=10)
        for mask in (root / "masks").iterdir():
            codes = np.asarray(Image.open(mask))
            Image.fromarray(np.where(codes > 0, 255, 0).astype(np.uint8)).save(mask)
        return root

    yield build
    __import__("sys").modules.pop("fastseg.tasks.roof", None)


def with_void(codes):
    codes = codes.copy()
    codes[:20] = 255
    return codes


def as_binary(codes):
    return np.where(codes > 0, 255, 0).astype(np.uint8)


def kinds(audit):
    return {fault.kind for fault in audit.faults}


@pytest.mark.slow
def test_void_pixels_are_unlabelled_for_check_fit_and_evaluate(data, run):
    root = data(with_void)
    audit = check("eye", root)
    assert audit.faults == [] and audit.unlabelled == 16 * 20 * 320
    assert survey("eye", root).unlabelled == audit.unlabelled
    run("fit", "eye", *FIT)
    result = json.loads(run("evaluate", "eye", "--json").out)
    counted = sum(row["pixels"] for row in result["classes"].values())
    assert counted == result["images"] * 220 * 320


def test_one_0_255_mask_beside_codes_is_unlabelled_and_named(data, tmp_path):
    root = data(as_binary, only=slice(0, 1))
    mask = sorted((root / "masks_small").iterdir())[0]
    audit = check("eye", root)
    assert not audit.stops and [(fault.kind, fault.file) for fault in audit.faults] == [
        ("empty mask", str(mask))
    ]
    assert any(str(mask) in warning for warning in survey("eye", root).warnings)
    fix(audit, tmp_path / "repaired")
    assert not list(
        (tmp_path / "repaired" / "masks_small").glob(mask.name)
    )  # what 255 means there is not guessed


def test_0_255_masks_of_more_than_two_classes_are_refused_and_never_guessed(data, fails, tmp_path):
    root = data(as_binary)
    fails("fit", "eye", *FIT, code="0-255-mask")
    audit = check("eye", root)
    assert audit.stops and audit.kinds == {"0/255 mask": 16} and audit.counted == 0
    fails("check", "eye", "--data", root, "--fix", "repaired", code="0-255-mask")


def test_0_255_masks_of_two_classes_are_named_and_rewritten(roof, fails, run, tmp_path):
    root = roof()
    fails("fit", "roof", *FIT, code="0-255-mask", values=[255, "roof"])
    run("check", "roof", "--fix", "repaired")
    assert set(
        np.unique(np.asarray(Image.open(next((tmp_path / "repaired" / "masks").iterdir()))))
    ) == {0, 1}
    assert check("roof", tmp_path / "repaired").faults == []
    assert check("roof", root).kinds == {"0/255 mask": 10}


def test_0_255_masks_that_are_declared_are_taken_as_they_are(roof, run):
    root = roof(", codes={0: 0, 255: 1}")
    assert check("roof", root).faults == []
    run("fit", "roof", *FIT)


def test_a_declared_void_code(roof):
    root = roof(", ignore=(11,)")
    for mask in (root / "masks").iterdir():
        codes = np.where(np.asarray(Image.open(mask)) > 0, 1, 0).astype(np.uint8)
        codes[:10] = 11
        Image.fromarray(codes).save(mask)
    audit = check("roof", root)
    assert (
        audit.faults == []
        and audit.unlabelled > 0
        and survey("roof", root).unlabelled == audit.unlabelled
    )


def test_jpeg_masks_of_codes_are_named_all_of_them(data, fails):
    root = data(lambda codes: codes, ".jpg")
    fails("fit", "eye", *FIT, code="lossy-mask")
    audit = check("eye", root)
    assert audit.kinds == {"lossy mask": 16} and audit.counted == 0


def test_colour_masks_in_a_task_of_codes_list_their_colours(data, fails):
    data(lambda codes: COLOURS[codes])
    fails(
        "fit",
        "eye",
        *FIT,
        code="unknown-colours",
        values=["(255, 0, 0)", "(0, 0, 255)", 'masks="colours"'],
    )


def test_16_bit_masks_of_codes_are_read_as_they_are(data):
    assert check("eye", data(lambda codes: codes.astype(np.uint16))).faults == []


def test_a_transparent_mask_is_told_to_become_grey_not_rgb(data):
    (fault,) = check(
        "eye",
        data(
            lambda codes: np.dstack([codes, codes, codes, np.full_like(codes, 9)]), only=slice(0, 1)
        ),
    ).faults
    assert fault.kind == "image mode" and "grey" in fault.remedy and "RGB" not in fault.remedy


@pytest.mark.parametrize("image, mask", [("{}", "{}_mask"), ("{}", "mask_{}"), ("{}_img", "{}_gt")])
def test_common_beginnings_and_ends_of_names_pair(samples, run, tmp_path, image, mask):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    for folder, pattern in (("imgs_small", image), ("masks_small", mask)):
        for file in (root / folder).iterdir():
            file.rename(file.with_stem(pattern.format(file.stem)))
    assert len(tasks.get("eye").items(root)) == 16
    first = sorted((root / "masks_small").iterdir())[0]
    assert first.name in run("check", "eye", "--data", root).err
    log = fix(check("eye", root), tmp_path / "repaired")
    assert log.remaining == 16


def test_unrelated_names_do_not_pair(samples, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    for number, file in enumerate((root / "masks_small").iterdir()):
        file.rename(file.with_stem(f"label{number}x"))
    with pytest.raises(DataError) as caught:
        tasks.get("eye").items(root)
    assert caught.value.code == "no-partner"


def test_kitchen_takes_one_folder_of_each_and_a_black_background(tmp_path):
    task, rng = tasks.get("kitchen"), np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(8):
        image, codes = task.draw(rng)
        painted = np.array([(255, 0, 0), (0, 0, 0), (0, 0, 255)], np.uint8)[codes]
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.jpg")
        Image.fromarray(painted).save(tmp_path / "masks" / f"{number}.png")
        assert (task.decode(tmp_path / "masks" / f"{number}.png") == codes).all()
    assert not check("kitchen", tmp_path).stops and survey("kitchen", tmp_path).images == 8


@pytest.mark.parametrize(
    "tool, name, text",
    [
        (
            "LabelMe",
            "{}.json",
            '{{"version": "5.0", "flags": {{}}, "shapes": [], "imagePath": "{}.jpg"}}',
        ),
        (
            "COCO",
            "instances.json",
            '{{"info": {{}}, "images": [], "annotations": [], "categories": []}}',
        ),
        (
            "CVAT",
            "annotations.xml",
            '<?xml version="1.0"?><annotations><version>1.1</version></annotations>',
        ),
        (
            "Label Studio",
            "project.json",
            '[{{"id": 1, "annotations": [{{"result": []}}], "data": {{"image": "a.jpg"}}}}]',
        ),
        (
            "Supervisely",
            "{}.jpg.json",
            '{{"description": "", "size": {{"height": 2, "width": 2}}, "objects": []}}',
        ),
    ],
)
def test_label_files_of_other_tools_are_named(samples, fails, tmp_path, tool, name, text):
    root = tmp_path / "data" / "eye"
    shutil.copytree(samples["eye"] / "imgs_small", root / "imgs_small")
    for image in sorted((root / "imgs_small").iterdir()):
        image.with_name(name.format(image.stem)).write_text(text.format(image.stem))
    fails("fit", "eye", *FIT, code="no-partner", values=[tool])
    (root / "imgs_small").rename(root / "pictures")
    fails("fit", "eye", *FIT, code="no-data", values=[tool])


@needs_shared
def test_real_label_files_are_recognised():
    root = shared / "data" / "formats"
    tools = {
        "labelme": "LabelMe",
        "coco": "COCO",
        "coco_crowd": "COCO",
        "cvat": "CVAT",
        "label_studio": "Label Studio",
    }
    for folder, tool in tools.items():
        assert list(recognise(root / folder)) == [tool]


def test_a_repair_says_how_many_remain_and_fails_with_none(data, run, tmp_path):
    root = data(lambda codes: np.full_like(codes, 9), only=slice(0, 3))
    repaired = run("check", "eye", "--data", root, "--fix", "some").out
    assert missing([13, 16, "fastseg check eye --data some"], repaired) == []
    for mask in (root / "masks_small").iterdir():
        Image.fromarray(np.full((240, 320), 9, np.uint8)).save(mask)
    result = run("check", "eye", "--data", root, "--fix", "none", "--json", code=1)
    assert json.loads(result.out)["remaining"] == 0
    assert "fastseg check eye --data" not in result.out + result.err
    assert len(list((tmp_path / "none" / "set_aside" / "imgs_small").iterdir())) == 16


def test_a_repair_that_a_fit_would_refuse_says_so(data, run):
    root = data(lambda codes: np.full_like(codes, 9), only=slice(0, 15))
    assert "1 of 16" in run("check", "eye", "--data", root, "--fix", "one", code=1).err


def test_sizes_are_described_as_they_are(samples, run, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    files = [sorted((root / folder).iterdir()) for folder in ("imgs_small", "masks_small")]
    for number, pair in enumerate(zip(*files)):
        size = (100, 400) if number == 0 else (200 + number, 100 + number)
        for file in pair:
            Image.open(file).resize(size, Image.NEAREST).save(file)
    (fault,) = (fault for fault in check("eye", root).faults if fault.kind == "outlier size")
    assert (
        "100x400" in fault.detail
        and fault.detail.count("100x400") == 1
        and "208x108" in fault.detail
    )
    sizes = json.loads(run("check", "eye", "--data", root, "--json").out)["sizes"]
    assert len(sizes) == 16 and set(sizes.values()) == {1}
    last = run("check", "eye", "--data", root).out.splitlines()[-1]
    assert missing([16], last) == [] and missing(sizes, last) == list(sizes)


def test_missing_masks_are_counted_by_file(samples, run, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    for mask in (root / "masks_small").iterdir():
        mask.unlink()
    result = json.loads(run("check", "eye", "--data", root, "--json", code=1).out)
    assert result["kinds"] == {"no partner": 16} and result["sizes"] == {}
    last = run("check", "eye", "--data", root, code=1).out.splitlines()[-1]
    assert re.findall(r"\d+|px", last) == ["0"]


def test_refused_masks_are_not_counted_as_empty_classes(data, run):
    root = data(lambda codes: np.full_like(codes, 9))
    result = json.loads(run("check", "eye", "--data", root, "--json", code=1).out)
    assert result["counted"] == 0 and IGNORE not in result["classes"].values()
    last = run("check", "eye", "--data", root, code=1).out.splitlines()[-1]
    assert missing([16], last) == [] and missing(result["classes"], last) == [*result["classes"]]


def test_code_masks_in_a_task_of_colours_are_named(tmp_path):
    task, rng = tasks.get("kitchen"), np.random.default_rng(0)
    _, codes = task.draw(rng)
    Image.fromarray(codes).save(tmp_path / "m.png")
    (fault,) = task.examine_mask(tmp_path / "m.png").faults
    assert (
        fault.stops
        and "0, 1, 2" in fault.detail.replace("0 to 2", "0, 1, 2")
        and 'masks="codes"' in fault.remedy
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_soft_0_255_masks_are_named(suffix, tmp_path):
    y, x = np.mgrid[:60, :60]
    grey = np.clip(127 + 20 * (20 - np.hypot(x - 30, y - 30)), 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / f"m{suffix}")
    (fault,) = tasks.get("eye").examine_mask(tmp_path / f"m{suffix}").faults
    assert fault.kind == "unknown codes" and 'masks="threshold"' in fault.remedy


def test_codes_multiplied_by_257_are_named(tmp_path):
    Image.fromarray((np.arange(4).repeat(25).reshape(10, 10) * 257).astype(np.uint16)).save(
        tmp_path / "m.png"
    )
    (fault,) = tasks.get("eye").examine_mask(tmp_path / "m.png").faults
    assert fault.stops and "divide them by 257" in fault.remedy


def test_names_with_different_words_pair_and_several_masks_of_one_image_do_not(samples, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    masks = sorted((root / "masks_small").iterdir())
    for number, mask in enumerate(masks[1:]):
        mask.rename(mask.with_stem(f"{mask.stem}_{'mask' if number % 2 else 'label'}"))
    assert len(tasks.get("eye").items(root)) == 16
    renamed = sorted((root / "masks_small").glob("*_mask.png"))[0]
    shutil.copy(renamed, renamed.with_name(renamed.name.replace("_mask", "_iris")))
    items, faults = tasks.get("eye").listed(root)
    assert len(items) == 15 and {fault.kind for fault in faults} == {"no partner"}


def test_label_files_beside_some_images_are_named(samples, fails, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "data" / "eye")
    first = sorted((root / "imgs_small").iterdir())[0]
    (root / "masks_small" / f"{first.stem}.png").unlink()
    first.with_suffix(".json").write_text(
        '{"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg"}'
    )
    fails("fit", "eye", *FIT, code="no-partner", values=["LabelMe"])


def test_a_repair_counts_what_is_set_aside(samples, run, tmp_path):
    root = shutil.copytree(samples["eye"], tmp_path / "eye")
    for mask in sorted((root / "masks_small").iterdir())[:6]:
        mask.unlink()
    assert fix(check("eye", root), tmp_path / "repaired").set_aside == 6
    for mask in (root / "masks_small").iterdir():
        mask.unlink()
    error = run("check", "eye", "--data", root, "--fix", "none", code=1).err.splitlines()[-1]
    assert missing([16, "none/set_aside", "none/changes.csv"], error) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ", ignore=11",
        ", codes=[0, 1]",
        ", codes=None",
        ", background=9",
        ', group="("',
        ', masks="threshold", codes={1: 1}',
        ", code_counts={}",
        ", unlabelled={}",
    ],
)
def test_slips_in_a_task_file_are_one_line(wrong, run, tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "slip.py").write_text(
        ROOF.replace('"roof"', '"slip"', 1).format(more=wrong)
    )
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    result = run("check", "slip", "--json", code=1)
    assert (
        json.loads(result.out)["error"]["code"].startswith("task")
        and len(result.err.strip().splitlines()) == 1
    )

"""Images of 2 to 16 channels: reading, training, exports, predictions, pictures; transparency."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from channel_data import SIDE, dataset, scene, tiff
from conftest import ARCH, refuses, rows_of
from fastai.learner import load_learner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import fastseg
from fastseg import tasks
from fastseg.data.augment import Augment
from fastseg.data.channels import channel_statistics, read, read_near, shown
from fastseg.data.images import read_image, resized
from fastseg.data.reading import Reading
from fastseg.errors import DataError
from fastseg.exports.onnx import Session
from fastseg.models.factory import classifier, segmenter


def values(shape, dtype=np.uint8, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def written(path, *args, **options):
    path.write_bytes(tiff(*args, **options))
    return path


FORMS = (
    {},
    {"order": ">"},
    {"deflate": True},
    {"deflate": True, "predictor": True},
    {"planar": True},
    {"planar": True, "deflate": True, "predictor": True, "order": ">"},
    {"tile": 32},
    {"tile": 32, "deflate": True, "predictor": True},
    {"tile": 32, "planar": True},
)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("channels", (2, 4, 5, 16))
def test_tiffs_of_every_form_are_read(tmp_path, channels, dtype, options):
    stored = values((41, 50, channels), dtype)
    path = written(tmp_path / "x.tif", [stored], **options)
    pixels = read(path, Reading(channels=channels))
    expected = stored if dtype == np.uint8 else (stored / np.float32(65535) * 255).round()
    assert pixels.dtype == np.uint8 and (pixels == expected).all()
    assert read_near(path, (8, 8), Reading(channels=channels))[1] == (41, 50)


def test_pages_are_channels_and_thumbnails_are_not(tmp_path):
    stored = values((20, 30, 5))
    path = written(tmp_path / "x.tif", list(np.moveaxis(stored, 2, 0)[..., None]))
    assert (read(path, Reading(channels=5)) == stored).all()
    with refuses("channels", path, 5, 4):
        read(path, Reading(channels=4))


@pytest.mark.parametrize("mode,channels", [("LA", 2), ("RGBA", 4)])
def test_alpha_channels_are_channels(tmp_path, mode, channels):
    stored = values((9, 8, channels))
    Image.fromarray(stored, mode).save(tmp_path / "x.png")
    assert (read(tmp_path / "x.png", Reading(channels=channels)) == stored).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extra", (None, 2))
def test_planar_16_bit_colours_are_read(tmp_path, order, extra):
    stored = values((12, 10, 3 if extra is None else 4), np.uint16)
    path = written(tmp_path / "x.tif", [stored], planar=True, order=order, photometric=2,
                   extra=extra)  # fmt: skip
    expected = (stored[..., :3] / np.float32(65535) * 255).round()
    assert (read_image(path) == expected).all()


def test_three_grey_samples_are_read_as_rgb(tmp_path):
    stored = values((12, 10, 3))
    assert (read_image(written(tmp_path / "x.tif", [stored])) == stored).all()


def test_one_range_holds_for_all_channels(tmp_path):
    stored = values((12, 10, 4), np.uint16) % 4096
    stored[..., 0] //= 16
    path = written(tmp_path / "x.tif", [stored])
    expected = (stored.astype(np.float32) / 4095 * 255).round()
    assert (read(path, Reading(channels=4)) == expected).all()
    assert (read(path, Reading(channels=4, depth=12)) == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path, orientation):
    stored = values((6, 9, 4))
    path = written(tmp_path / "x.tif", [stored], orientation=orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored[..., 0]).save(tmp_path / "x.png", exif=exif)
    plane = read_image(tmp_path / "x.png")[..., 0]
    assert (read(path, Reading(channels=4))[..., 0] == plane).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-3],
        lambda data: b"II*\0" + bytes(4),
        lambda data: b"II*\0\xff\xff\xff\xff" + data[8:],
    ],
)
def test_damaged_tiffs_are_one_line(tmp_path, change):
    path = tmp_path / "x.tif"
    path.write_bytes(change(tiff([values((40, 50, 4))])))
    with refuses("unreadable-image", path) as caught:
        read(path, Reading(channels=4))
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), st.booleans())
def test_mutated_tiffs_give_an_image_or_one_line(tmp_path, changes, deflate):
    data = bytearray(tiff([values((20, 21, 4))], deflate=deflate, predictor=deflate))
    head = len(data) - 260  # the directory is at the end
    for place, byte in changes:
        data[head + place % 260] = byte
    path = tmp_path / "x.tif"
    path.write_bytes(data)
    try:
        assert read(path, Reading(channels=4)).shape[2] == 4
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_a_tiff_that_would_fill_the_memory_is_refused(tmp_path):
    data = tiff([np.zeros((16, 64, 4), np.uint8)], deflate=True)
    for old, new in ((257, 100_000), (256, 100_000), (278, 100_000)):
        entry = data.index(np.array([old, 4, 1], "<u2").tobytes()[:4])
        data = data[: entry + 8] + np.uint32(new).tobytes() + data[entry + 12 :]
    path = tmp_path / "x.tif"
    path.write_bytes(data)
    with refuses("unreadable-image", path):
        read(path, Reading(channels=4))


@pytest.mark.parametrize("options", [{"sample_format": 2}, {"sample_format": 3}])
def test_signed_and_float_samples_are_refused(tmp_path, options):
    path = written(tmp_path / "x.tif", [values((9, 9, 4), np.uint16)], **options)
    with refuses("unreadable-image", path):
        read(path, Reading(channels=4))


def test_wrong_numbers_of_channels_are_one_line(tmp_path):
    four = written(tmp_path / "four.tif", [values((9, 9, 4))], photometric=2, extra=0)
    five = written(tmp_path / "five.tif", [values((9, 9, 5))])
    Image.fromarray(values((9, 9, 3))).save(tmp_path / "rgb.jpg")
    for path, how, found, wanted in (
        (four, Reading(), 4, 3),
        (five, Reading(), 5, 3),
        (tmp_path / "rgb.jpg", Reading(channels=4), 3, 4),
        (five, Reading(channels=4), 5, 4),
    ):
        with refuses("channels", path, found, wanted):
            read(path, how)


def test_channels_resize_as_grey_images_do():
    image = values((37, 50, 4))
    small = resized(image, (20, 30), "squish")
    for channel in range(4):
        grey = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        plane = np.asarray(grey.resize((30, 20), Image.Resampling.BILINEAR))
        assert (small[..., channel] == plane).all()
    assert resized(image, (40, 40), "crop").shape == (40, 40, 4)


def test_pictures_show_the_declared_channels():
    image = values((4, 5, 6))
    assert (shown(image, (5, 0, 1)) == image[..., [5, 0, 1]]).all()
    assert (shown(image) == image[..., :3]).all()
    two = shown(image[..., :2])
    assert (two[..., :2] == image[..., :2]).all() and not two[..., 2].any()


def test_statistics_are_those_of_all_pixels():
    images = [values((9, 8, 4), seed=seed) for seed in range(3)]
    mean, std = channel_statistics(images)
    pixels = np.concatenate([image.reshape(-1, 4) for image in images]) / 255
    assert np.allclose(mean, pixels.mean(0), atol=1e-6)
    assert np.allclose(std, pixels.std(0), atol=1e-6)
    assert channel_statistics([np.zeros((4, 4, 2), np.uint8)])[1] == (round(1 / 255, 6),) * 2


@pytest.mark.parametrize("channels", (3, 5))
def test_augmentation_takes_any_number_of_channels(channels):
    from fastai.torch_core import TensorImage

    augment = Augment(rotate=10, zoom=0.2, light=0.2, colour=0.4, blur_share=0.5, cutout=0.2)
    x = TensorImage(torch.rand(4, channels, 24, 24))
    augment.before_call((x,), 0)
    assert augment.encodes(x).shape == x.shape


# Weights


@pytest.mark.parametrize("channels", (2, 4, 8))
def test_three_channel_weights_are_inflated_as_timm_does(tmp_path, channels):
    torch.manual_seed(1)
    model = timm.create_model(ARCH, num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    wanted = timm.create_model(
        ARCH, num_classes=0, in_chans=channels,
        pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors")},
    ).state_dict()  # fmt: skip
    for network, origin in (
        segmenter(ARCH, 2, "light", str(tmp_path / "w.safetensors"), n_in=channels),
        classifier(ARCH, 2, str(tmp_path / "w.safetensors"), channels),
    ):
        body = network.body.state_dict()
        assert "random" not in origin and body
        first = next(k for k, v in body.items() if v.ndim == 4)
        assert body[first].shape[1] == channels
        assert torch.equal(body[first], wanted[first.removeprefix("model.")])


@pytest.mark.parametrize("decoder", ("light", "unet", "fpn", "deeplabv3plus", "segformer"))
def test_every_decoder_takes_channels(decoder):
    network, _ = segmenter(ARCH, 3, decoder, n_in=5)
    assert network.eval()(torch.rand(1, 5, 64, 70)).shape == (1, 3, 64, 70)
    assert network.spec.to_json()["channels"] == 5 and len(network.mean) == 5


def test_cards_of_three_channels_are_as_before():
    network, _ = segmenter(ARCH, 3)
    assert "channels" not in network.spec.to_json()


# End to end


@pytest.fixture(scope="module")
def plants(tmp_path_factory):
    """A dataset whose class shows only in the fourth channel."""
    return dataset(tmp_path_factory.mktemp("plants") / "plants", 4, count=16)


@pytest.fixture(scope="module")
def trained(plants, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "plants"
    fastseg.fit(str(plants), weights="none", epochs=8, out=out)
    return out


def card_of(export):
    return json.loads((export / "card.json").read_text())


@pytest.mark.slow
def test_the_fourth_channel_is_learnt_and_kept_in_the_card(trained, plants):
    card = card_of(trained)
    assert card["channels"] == card["network"]["channels"] == 4
    assert len(card["mean"]) == len(card["std"]) == 4
    valid = {name.partition("/")[2] for name in card["valid_files"]}
    items = tasks.get(str(plants)).items(plants)
    train = [read(i.image, Reading(channels=4)) for i in items if i.image.name not in valid]
    assert len(train) == card["train_images"]
    assert (card["mean"], card["std"]) == tuple(map(list, channel_statistics(train)))
    assert card["metrics"]["mean_foreground"]["dice"] > 0.7


def test_arrays_files_runtimes_and_pickle_agree(trained, plants, monkeypatch):
    monkeypatch.setenv("FASTSEG_PRECISION", "float32")
    file = sorted((plants / "images").iterdir())[0]
    pixels, codes = scene(0, 4)
    found = [
        fastseg.load(trained, runtime="onnx").predict(file),
        fastseg.load(trained, runtime="torch").predict(file),
        fastseg.load(trained / "export.pkl").predict(pixels),
    ]
    for prediction in found:
        assert np.allclose(prediction.logits, found[0].logits, atol=1e-3)
        assert prediction.image.shape == (SIDE, SIDE, 3)
    assert (found[0].codes == codes).mean() > 0.9
    learn = load_learner(trained / "export.pkl")
    with learn.no_bar():
        for source in (file, pixels):
            mask = learn.predict(source)[0]
            assert (np.asarray(mask) == found[1].codes).mean() > 0.99
    assert Session(trained / "model.onnx")(pixels[None]).shape == (1, 2, SIDE, SIDE)
    with refuses("image-array", 4):
        fastseg.load(trained).predict(pixels[..., :3])


def test_mirrored_and_tiled_predictions(trained, plants):
    pixels, _ = scene(3, 4)
    large = resized(pixels, (4 * SIDE, 4 * SIDE), "squish")
    assert fastseg.load(trained, tta=True).predict(pixels).codes.shape == (SIDE, SIDE)
    assert fastseg.load(trained).predict(large, tiles=2).codes.shape == (4 * SIDE, 4 * SIDE)


@pytest.mark.slow
def test_every_command_takes_them(trained, plants, run, tmp_path):
    shutil.copytree(plants, tmp_path / "plants")
    run("check", "plants")
    run("show", "plants", "--out", "show.png")
    run("show", "plants", "--out", "show.html")
    run("predict", trained, "plants/images", "--out", "out", "--overlay", "--probabilities")
    assert len(rows_of("out/predictions.csv")) == 16
    assert np.asarray(Image.open("out/overlays/s00.jpg")).shape == (SIDE, SIDE, 3)
    run("evaluate", "plants", "--export", trained, "--out", "evaluation")
    run("interpret", "plants", "--export", trained, "--out", "interpretation")
    run("segment", "plants/images/s01.tif", "--export", trained, "--out", "output")
    picture = next((tmp_path / "output").glob("*.jpg"))
    assert np.asarray(Image.open(picture)).shape == (SIDE, SIDE, 3)


def test_images_of_other_channels_are_refused(trained, exports, plants, fails, tmp_path):
    Image.fromarray(values((SIDE, SIDE, 3))).save(tmp_path / "rgb.png")
    fails("predict", trained, "rgb.png", code="unreadable-image", values=("rgb.png", 3, 4))
    image = shutil.copy(plants / "images" / "s00.tif", tmp_path / "four.tif")
    fails("predict", "eye", image, "--export", exports("eye"), code="unreadable-image",
          values=("four.tif", 3, 4))  # fmt: skip


@pytest.mark.slow
def test_training_goes_on_from_exports_and_files(trained, exports, plants, run, fails, tmp_path):
    run("fit", plants, "--weights", trained, "--epochs", "1", "--out", "more")
    assert card_of(tmp_path / "more")["mean"] == card_of(trained)["mean"]
    run("fit", plants, "--weights", trained / "model.safetensors", "--epochs", 1, "--out", "file")
    state = load_file(tmp_path / "file" / "model.safetensors")
    assert state["model.encoder.model.conv1.0.weight"].shape[1] == 4
    three = exports("eye")
    fails("fit", plants, "--weights", three, code="wrong-task")
    run("fit", plants, "--weights", three / "model.safetensors", "--epochs", 1, "--out", "three")
    assert "backbone tensors" in card_of(tmp_path / "three")["weights_origin"]


def test_an_export_of_other_channels_is_not_trained_on(trained, tmp_path, fails):
    data = dataset(tmp_path / "plants", 5, count=4)
    fails("fit", data, "--weights", trained, code="channels", values=(trained, 4, 5))


@pytest.mark.slow
def test_an_ensemble_has_one_normalisation(plants, run, tmp_path):
    run("fit", plants, "--weights", "none", "--epochs", 1, "--folds", 2, "--out", "both")
    card = card_of(tmp_path / "both")
    items = tasks.get(str(plants)).items(plants)
    every = channel_statistics(read(i.image, Reading(channels=4)) for i in items)
    assert (card["mean"], card["std"]) == tuple(map(list, every))
    assert card["network"]["members"] == 2 and card["network"]["channels"] == 4
    assert fastseg.load(tmp_path / "both").predict(scene(0, 4)[0]).codes.shape == (SIDE, SIDE)


@pytest.mark.slow
@pytest.mark.parametrize("channels,top", [(2, 255), (6, 4095)])
def test_classes_of_whole_images(tmp_path, run, channels, top):
    data = dataset(tmp_path / "light", channels, classes=True, top=top)
    run("check", data)
    run("fit", data, "--weights", "none", "--epochs", 2)
    card = card_of(tmp_path / "exports" / "light")
    assert card["channels"] == channels and card["depth"] == (12 if top == 4095 else None)
    run("interpret", data)
    run("predict", data, data / "images", "--out", "out.tsv")


@pytest.mark.slow
def test_recipe_options_take_channels(plants, run):
    run("fit", plants, "--weights", "none", "--epochs", 2, "--decoder", "fastai",
        "--arch", "resnet18", "--out", "a")  # fmt: skip
    run("fit", plants, "--weights", "none", "--epochs", 2, "--mixup", 0.4, "--windows", 0.5,
        "--progressive", 0.5, "--out", "b")  # fmt: skip


def test_cards_that_contradict_themselves_are_damaged(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    for change in ({"channels": 3}, {"mean": [0.1] * 3}, {"channels": 17}, {"std": []}):
        (copy / "card.json").write_text(json.dumps({**card_of(trained), **change}))
        with refuses("damaged-card"):
            fastseg.load(copy)


# Declarations


@pytest.mark.parametrize(
    "fields,code",
    [
        ({"channels": 1}, "task-channels"),
        ({"channels": 17}, "task-channels"),
        ({"channels": 4, "channel_files": ("_a", "_b")}, "task-channels"),
        ({"channels": 2, "channel_files": ("_a", "_a")}, "task-channels"),
        ({"channels": 4, "shown_channels": (0, 1, 4)}, "task-channels"),
        ({"channels": 4, "shown_channels": (0, 1)}, "task-channels"),
        ({"alpha": "red"}, "task-alpha"),
        ({"alpha": "white", "channels": 4}, "task-alpha"),
        ({"window": (40.0, 0.0)}, "task-window"),
        ({"window": (float("nan"), 1.0)}, "task-window"),
        ({"depth": 17}, "task-depth"),
    ],
)
def test_contradicting_declarations_are_refused(fields, code):
    from dataclasses import replace

    with refuses(code):
        replace(tasks.get("eye"), **fields)


# A file a channel

ENDS = ("_R", "_G", "_NIR")


@pytest.mark.parametrize("top", (255, 4095))
def test_files_of_channels_are_stacked(tmp_path, top):
    data = dataset(tmp_path / "field", 3, ends=ENDS, count=4, top=top)
    task = tasks.get(str(data)).adapted(data)
    items = task.items(data)
    assert [item.image.name for item in items] == [f"s{n:02d}_R.tif" for n in range(4)]
    assert task.depth == (12 if top == 4095 else None)
    expected = (scene(2, 3, top)[0] / np.float32(top) * 255).round()
    assert (task.image(items[2]) == expected).all()
    nir = data / "images" / "s02_NIR.tif"
    Image.fromarray(np.asarray(Image.open(nir))).save(nir.with_suffix(".png"))
    nir.unlink()
    assert (task.image(items[2]) == expected).all()  # of another suffix


def test_faulty_files_of_channels_are_named(tmp_path, run):
    data = dataset(tmp_path / "field", 3, ends=ENDS, count=4)
    images = data / "images"
    (images / "s00_NIR.tif").unlink()
    Image.new("L", (9, 9)).save(images / "s01_G.tif")
    Image.new("RGB", (SIDE, SIDE)).save(images / "s02_NIR.tif")
    found = json.loads(run("check", data, "--json", code=1).out)["faults"]
    kinds = {Path(fault["file"]).name: fault["kind"] for fault in found if fault["stops"]}
    assert kinds == {"s00_R.tif": "no partner", "s01_R.tif": "unreadable",
                     "s02_R.tif": "unreadable"}  # fmt: skip
    text = json.dumps(found)
    assert all(name in text for name in ("s00_NIR.tif", "s01_G.tif", "s02_NIR.tif"))
    with refuses("size-mismatch", "s01_G.tif", "9x9", "64x64"):
        read(images / "s01_R.tif", Reading(channels=3, files=ENDS))
    with refuses("channels", "s01_G.tif"):
        read(images / "s01_G.tif", Reading(channels=3, files=ENDS))


@pytest.mark.slow
def test_files_of_channels_from_check_to_predict(tmp_path, run):
    data = dataset(tmp_path / "field", 3, ends=ENDS, count=12)
    run("check", data)
    run("fit", data, "--weights", "none", "--epochs", 6)
    run("predict", "exports/field", data / "images", "--out", "out", "--overlay")
    masks = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert masks == [f"s{n:02d}.png" for n in range(12)]
    codes = np.asarray(Image.open(tmp_path / "out" / "s03.png"))
    assert (codes == scene(3, 3)[1]).mean() > 0.85
    run("predict", "exports/field", data / "images" / "s03_R.tif", "--out", "one")
    assert (np.asarray(Image.open(tmp_path / "one" / "s03.png")) == codes).all()
    run("evaluate", data)
    run("check", data, "--fix", "fixed")
    assert len(list((tmp_path / "fixed" / "images").iterdir())) == 36


def test_labels_of_other_tools_fit_images_of_channels(tmp_path, run):
    data = dataset(tmp_path / "field", 4, count=4)
    shutil.rmtree(data / "masks")
    for number in range(4):
        shape = {"label": "disc", "shape_type": "rectangle", "points": [[10, 10], [40, 50]]}
        label = {"imagePath": f"../images/s{number:02d}.tif", "imageHeight": SIDE,
                 "imageWidth": SIDE, "shapes": [shape]}  # fmt: skip
        (data / "labels").mkdir(exist_ok=True)
        (data / "labels" / f"s{number:02d}.json").write_text(json.dumps(label))
    task = (data / "task.toml").read_text()
    task = task.replace('masks = "masks"', 'format = "labelme"\nlabels = "labels"')
    (data / "task.toml").write_text(task)
    items = tasks.get(str(data)).items(data)
    assert len(items) == 4
    assert tasks.get(str(data)).label(items[0]).sum() > 1000


# Transparency


def test_a_card_keeps_how_images_were_read(trained):
    from dataclasses import replace

    from fastseg.exports.card import read_card
    from fastseg.exports.read import as_trained, task_of

    card = read_card(trained)
    assert card.definition["channels"] == 4
    card.declared = False  # as for a task in Python that was changed since
    changed = replace(task_of(card), channels=3, alpha="white", window=(1.0, 2.0))
    same = as_trained(changed, card)
    assert (same.channels, same.alpha, same.window) == (4, "drop", None)


def test_the_colour_below_transparent_pixels_holds_at_prediction(tmp_path, run):
    data = dataset(tmp_path / "roof", 4, count=8)
    for file in (data / "images").iterdir():
        pixels = read(file, Reading(channels=4))
        Image.fromarray(pixels, "RGBA").save(file.with_suffix(".png"))
        file.unlink()
    task = (data / "task.toml").read_text().replace("channels = 4", 'alpha = "white"')
    (data / "task.toml").write_text(task)
    found = json.loads(run("check", data, "--json").out)
    assert found["kinds"] == {"image mode": 8}
    run("fit", data, "--weights", "none", "--epochs", 1)
    prediction = fastseg.load("exports/roof").predict(data / "images" / "s00.png")
    assert (prediction.image == read_image(data / "images" / "s00.png", alpha="white")).all()


def transparent(path, mode="RGBA"):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:] = (200, 100, 50, 255)
    pixels[:, 1] = (200, 100, 50, 51)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_transparent_images_are_laid_on_the_declared_colour(tmp_path):
    path = transparent(tmp_path / "x.png")
    assert (read_image(path)[0] == [[0, 0, 0], *[[200, 100, 50]] * 3]).all()
    white, black = (read_image(path, alpha=ground)[0] for ground in ("white", "black"))
    assert (white == [[255] * 3, [244, 224, 214], *[[200, 100, 50]] * 2]).all()
    assert (black == [[0] * 3, [40, 20, 10], *[[200, 100, 50]] * 2]).all()
    grey = transparent(tmp_path / "la.png", "LA")
    assert (read_image(grey, alpha="white")[0, 0] == 255).all()
    opaque = tmp_path / "rgb.png"
    Image.fromarray(values((4, 4, 3))).save(opaque)
    assert (read_image(opaque, alpha="white") == read_image(opaque)).all()


def test_transparent_16_bit_images_are_laid_on_the_declared_colour(tmp_path):
    from test_data_depth import png

    stored = np.full((3, 3, 4), 65535, np.uint16)
    stored[..., :3] = 0
    stored[0, 0, 3] = 0
    (tmp_path / "x.png").write_bytes(png(stored))
    pixels = read_image(tmp_path / "x.png", alpha="white")
    assert (pixels[0, 0] == 255).all() and not pixels[1:].any()
    (tmp_path / "la.png").write_bytes(png(stored[..., 2:]))
    pixels = read_image(tmp_path / "la.png", alpha="white")
    assert (pixels[0, 0] == 255).all() and not pixels[1:].any()

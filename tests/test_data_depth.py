"""16-bit images of 8 to 16 bits: one range a dataset, kept in the card, used by every command."""

import json
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH, rows_of
from fastai.learner import load_learner
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.data.depth import largest_values, misfit
from fastseg.data.images import as_rgb, bits_of, read_image, read_near
from fastseg.exports.card import read_card
from fastseg.inference import download

TOP = 4095  # of 12 bits
GOLDEN = Path(__file__).parent / "golden" / "mri_0.1.0"


def png(values: np.ndarray, exif: bytes = b"") -> bytes:
    """Return a 16-bit PNG of values (H, W) or (H, W, 2 to 4); Pillow writes one channel only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(
            b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
        )
        + (chunk(b"eXIf", exif) if exif else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, order: str = "<", compression: int = 1, planar: int = 1) -> bytes:
    """Return a 16-bit TIFF of values (H, W, 3 or 4).

    `order` is the byte order; `compression` 1 (none) or 8 (deflate); `planar` 1 (interleaved) or 2.
    """
    height, width, channels = values.shape
    planes = [values] if planar == 1 else np.moveaxis(values, 2, 0)
    strips = [
        zlib.compress(data) if compression == 8 else data
        for data in (plane.astype(f"{order}u2").tobytes() for plane in planes)
    ]
    extra, entries = b"", b""
    longs = {
        256: [width],
        257: [height],
        273: None,
        278: [height],
        279: [len(strip) for strip in strips],
    }
    shorts = {
        258: [16] * channels,
        259: [compression],
        262: [2],
        277: [channels],
        284: [planar],
        339: [1] * channels,
    }
    shorts |= {338: [2]} if channels == 4 else {}  # alpha
    count = len(longs) + len(shorts)
    start = 8 + 2 + 12 * count + 4  # of what does not fit into the entries
    strips_at = start + 4 * channels + (8 * len(strips) if len(strips) > 1 else 0)
    longs[273] = [strips_at + sum(map(len, strips[:i])) for i in range(len(strips))]
    for tag, kind, numbers in sorted(
        [(t, "I", n) for t, n in longs.items()] + [(t, "H", n) for t, n in shorts.items()]
    ):
        data = struct.pack(order + kind * len(numbers), *numbers)
        if len(data) > 4:
            data, extra = struct.pack(order + "I", start + len(extra)), extra + data
        entries += struct.pack(
            order + "HHI", tag, 4 if kind == "I" else 3, len(numbers)
        ) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, count)
    return head + entries + bytes(4) + extra.ljust(strips_at - start, b"\0") + b"".join(strips)


def twelve_bits(shape: tuple, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, TOP + 1, shape).astype(np.uint16)
    values.flat[0] = TOP
    return values


def to_8(values: np.ndarray, top: int = TOP) -> np.ndarray:
    return (values.astype(np.float32) / top * 255).round().astype(np.uint8)


def deepened(source: Path, out: Path, colour: bool = False) -> tuple[Path, Path]:
    """Copy a dataset twice: with its images as 8-bit PNGs, and as 12-bit values in 16-bit PNGs."""
    eight, twelve = out / "eight", out / "twelve"
    images = {
        item.image
        for item in tasks.get("eye" if (source / "imgs_small").is_dir() else "mri").items(source)
    }
    for folder in (eight, twelve):
        shutil.copytree(source, folder)
        for image in images:
            file = folder / image.relative_to(source)
            pixels = np.asarray(Image.open(image).convert("RGB" if colour else "L"))
            file.unlink()
            if folder == eight:
                Image.fromarray(pixels).save(file.with_suffix(".png"))
            else:
                file.with_suffix(".png").write_bytes(
                    png((pixels.astype(np.float64) * TOP / 255).round())
                )
    return eight, twelve


@pytest.fixture(scope="module")
def eyes(samples, tmp_path_factory):
    """The eye sample in grey, of 8 bits and of 12: equal once scaled."""
    return deepened(samples["eye"], tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="module")
def trained(eyes, tmp_path_factory):
    """An export trained on the 12-bit eyes."""
    out = tmp_path_factory.mktemp("trained") / "eye"
    fastseg.fit("eye", eyes[1], arch=ARCH, weights="none", size=64, bs=4, epochs=1, out=out)
    return out


def warnings(result) -> list[str]:
    return [
        line for line in result.err.splitlines() if line.startswith("warning:") and "bits" in line
    ]


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return (
        one.keys() == other.keys()
        and len(one) > 0
        and all((one[name] == other[name]).all() for name in one)
    )


@pytest.mark.parametrize(
    "kind",
    ["L", "LA", "RGB", "RGBA", "tif", "tif MM", "tif RGBA", "tif deflate", "tif deflate RGBA MM"],
)
def test_all_bits_of_16_bit_images_are_read(kind, tmp_path):
    channels = {"L": 1, "LA": 2}.get(kind, 4 if "RGBA" in kind else 3)
    values = twelve_bits((20, 30, channels) if channels > 1 else (20, 30))
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque: alpha is no part of the range
    path = tmp_path / ("x.tif" if "tif" in kind else "x.png")
    path.write_bytes(
        tiff(values, ">" if "MM" in kind else "<", 8 if "deflate" in kind else 1)
        if "tif" in kind
        else png(values)
    )
    colours = (
        values[..., :3]
        if channels > 2
        else np.repeat(values.reshape(20, 30, -1)[..., :1], 3, axis=2)
    )
    for found in (read_image(path, 12), read_image(path), read_near(path, (20, 30), 12)[0]):
        assert found.dtype == np.uint8 and (found == to_8(colours)).all()
    assert largest_values([path]) == {path: TOP}
    if path.suffix == ".png":
        from torchvision.io import ImageReadMode, decode_image

        peer = decode_image(str(path), ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
        assert (peer[..., :3] == colours if channels > 2 else peer[..., 0] == colours[..., 0]).all()


def test_16_bit_colours_are_turned_as_their_exif_says(tmp_path):
    values = twelve_bits((20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "x.png").write_bytes(png(values, exif.tobytes().removeprefix(b"Exif\0\0")))
    assert (read_image(tmp_path / "x.png") == to_8(np.rot90(values, -1))).all()


@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_channels_stored_one_after_the_other_are_read(compression, tmp_path):
    path, values = tmp_path / "x.tif", twelve_bits((20, 30, 3))
    path.write_bytes(tiff(values, planar=2, compression=compression))
    assert (read_image(path) == to_8(values)).all() and largest_values([path]) == {path: TOP}


@pytest.mark.parametrize(
    "largest,bits",
    [(0, 8), (255, 8), (256, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16), (70000, 16)],
)
def test_the_fewest_bits_that_hold_a_value(largest, bits):
    assert bits_of(largest) == bits


def test_values_beyond_the_range_are_clipped():
    picture = Image.fromarray(np.array([[-5, 0, 2048, 4095, 5000, 100_000]], dtype=np.int32))
    assert as_rgb(picture, 12)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    assert as_rgb(picture, 16)[0, :, 0].tolist() == [0, 0, 8, 16, 19, 255]


def test_what_fits_a_range():
    assert [bool(misfit(value, 12)) for value in (0, 1, 511, 512, 4095, 4096)] == [
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_depth_stays_in_the_pickle():
    eye = tasks.get("eye")
    assert pickle.loads(pickle.dumps(eye)) is eye  # named as earlier versions named it
    assert pickle.loads(pickle.dumps(eye.adapted)).__self__ is eye
    from dataclasses import replace

    assert pickle.loads(pickle.dumps(replace(eye, depth=12))).depth == 12


def test_check_states_the_depth(eyes, run):
    found = json.loads(run("check", "eye", "--data", eyes[1], "--json").out)
    plain = json.loads(run("check", "eye", "--data", eyes[0], "--json").out)
    assert found["depth"] == 12 and plain["depth"] is None
    assert found["faults"] == [] and found["kinds"] == plain["kinds"]
    assert (
        "(12 bits)" in run("check", "eye", "--data", eyes[1]).out
        and " bits)" not in run("check", "eye", "--data", eyes[0]).out
    )


@pytest.mark.parametrize("colour", [False, True])
def test_a_fixed_copy_is_not_black(colour, samples, tmp_path, run):
    """Tolerance: 1 of 255 levels. A turned image and a transparent one are written again."""
    eight, twelve = deepened(samples["eye"], tmp_path, colour)
    files = sorted((twelve / "imgs_small").iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(eight / "imgs_small" / files[0].name)).astype(np.float64)
    values = (pixels * TOP / 255).round()
    files[0].write_bytes(png(values, exif.tobytes().removeprefix(b"Exif\0\0")))
    pixels = np.asarray(Image.open(eight / "imgs_small" / files[1].name).convert("RGB")).astype(
        np.float64
    )
    alpha = np.full((*pixels.shape[:2], 1), 30_000)
    files[1].write_bytes(png(np.concatenate([(pixels * TOP / 255).round(), alpha], axis=2)))
    kinds = json.loads(
        run("check", "eye", "--data", twelve, "--json", "--fix", tmp_path / "fixed").out
    )["kinds"]
    assert kinds == {"exif rotation": 1, "image mode": 1}
    fixed = tmp_path / "fixed"
    again = json.loads(run("check", "eye", "--data", fixed, "--json").out)
    assert again["kinds"] == {} and again["depth"] == 12
    task = tasks.get("eye").adapted(fixed)
    for item in task.items(fixed):
        original = read_image(eight / "imgs_small" / item.image.name)
        assert np.abs(task.image(item).astype(int) - original).max() <= 1


def test_a_fit_keeps_the_depth(trained):
    assert json.loads((trained / "card.json").read_text())["depth"] == 12
    assert fastseg.load(trained).task.depth == 12


@pytest.mark.slow
def test_a_fit_states_the_depth_and_a_fit_without_16_bits_does_not(eyes, run):
    arguments = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4", "--out", "x.png"]
    twelve, eight = (run("lr", "eye", "--data", data, *arguments).err for data in reversed(eyes))
    assert "12-bit" in twelve and "4095" in twelve and "-bit" not in eight


def test_predictions_of_12_bits_are_those_of_8(trained, eyes, run, tmp_path):
    """The same pixels in both: masks are equal, without tolerance."""
    for data in eyes:
        result = run(
            "predict",
            "eye",
            data / "imgs_small",
            "--export",
            trained,
            "--overlay",
            "--out",
            data.name,
        )
        assert warnings(result) == []
    assert same(masks_in(tmp_path / "eight"), masks_in(tmp_path / "twelve"))
    first = sorted((eyes[1] / "imgs_small").iterdir())[0]
    one, other = (fastseg.load(trained).predict(data / "imgs_small" / first.name) for data in eyes)
    assert (one.image == other.image).all() and (one.codes == other.codes).all()


@pytest.mark.slow
@pytest.mark.full_pictures
def test_evaluate_interpret_and_show_read_12_bits_as_8(trained, eyes, run, tmp_path):
    for data in eyes:
        common = ["eye", "--data", data, "--export", trained, "--split", "all"]
        run("evaluate", *common, "--out", tmp_path / f"evaluated_{data.name}")
        run("interpret", *common, "--out", tmp_path / f"interpreted_{data.name}")
        run("show", "eye", "--data", data, "--out", f"{data.name}.png", "--rows", 2)
        run(
            "show",
            "eye",
            "--data",
            data,
            "--export",
            trained,
            "--wrong",
            "--out",
            f"wrong_{data.name}.png",
            "--rows",
            2,
        )
    for name in ("evaluated_{}/per_image.csv", "interpreted_{}/images.csv"):
        one, other = (rows_of(tmp_path / name.format(data.name)) for data in eyes)
        assert one == other and one
    for name in ("{}.png", "wrong_{}.png", "interpreted_{}/show_results.png"):
        one, other = (np.asarray(Image.open(tmp_path / name.format(data.name))) for data in eyes)
        assert one.shape == other.shape and (one == other).all()


def test_fastai_reads_files_alike(trained, eyes, tmp_path):
    """A dark image, whose own values have fewer bits, is scaled by the pickle's bit depth."""
    file = sorted((eyes[1] / "imgs_small").iterdir())[0]
    values = np.asarray(Image.open(file)).astype(int) // 6
    assert bits_of(int(values.max())) == 10
    dim, plain = tmp_path / "dim.png", tmp_path / "plain.png"
    dim.write_bytes(png(values))
    Image.fromarray(to_8(values)).save(plain)
    learn = load_learner(trained / "export.pkl")
    with learn.no_bar():
        for source in (dim, str(dim)):
            assert np.allclose(learn.predict(source)[2], learn.predict(plain)[2], atol=1e-6)
        batch, other = (learn.dls.test_dl([source]).one_batch()[0].cpu() for source in (dim, plain))
    assert (batch == other).all()


def test_an_export_that_saw_no_16_bits_finds_the_depth_of_what_it_is_given(
    exports, eyes, run, tmp_path
):
    assert read_card(exports("eye")).depth is None
    dim = tmp_path / "photos"
    shutil.copytree(eyes[1] / "imgs_small", dim)
    first = sorted(dim.iterdir())[0]
    values = (
        np.asarray(Image.open(first)).astype(int) // 6
    )  # alone it would be taken for one of 10 bits
    first.write_bytes(png(values))
    plain = tmp_path / "plain"
    shutil.copytree(eyes[0] / "imgs_small", plain)
    Image.fromarray(to_8(values)).save(plain / first.name)
    common = ["predict", "eye", "--export", exports("eye")]
    result = run(*common, dim, "--out", "of_twelve")
    assert "12-bit" in result.err and warnings(result) == []
    run(*common, plain, "--out", "of_eight")
    assert same(masks_in(tmp_path / "of_twelve"), masks_in(tmp_path / "of_eight"))
    alone = run(*common, sorted(dim.iterdir())[1], first, "--out", "two")
    assert "12-bit" in alone.err


@pytest.mark.parametrize("values", ["above", "dark"])
def test_an_image_of_another_depth_warns(values, trained, eyes, run, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(eyes[1] / "imgs_small", folder)
    file = sorted(folder.iterdir())[2]
    pixels = np.asarray(Image.open(file)).astype(int)
    file.write_bytes(png(pixels * 16 if values == "above" else pixels // 16))
    found = warnings(run("predict", "eye", folder, "--export", trained, "--out", "out"))
    assert len(found) == 1 and file.name in found[0]
    assert len(masks_in(tmp_path / "out")) == len(list(folder.iterdir()))


@pytest.mark.slow
def test_images_of_another_depth_in_a_dataset(eyes, run, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(eyes[1], root)
    file = sorted((root / "imgs_small").iterdir())[0]
    file.write_bytes(
        png(np.asarray(Image.open(file)).astype(int) * 16)
    )  # one of 16 images does not make the others dark
    found = json.loads(run("check", "eye", "--data", root, "--json", "--fix", "fixed").out)
    names = {path.name: path.read_bytes() for path in (root / "imgs_small").iterdir()}
    assert (
        found["depth"] == 12
        and not found["stops"]
        and [fault["file"] for fault in found["faults"]] == [str(file)]
    )
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "fixed" / "imgs_small").iterdir()
    } == names  # for a person to decide
    result = run(
        "lr",
        "eye",
        "--data",
        root,
        "--arch",
        ARCH,
        "--weights",
        "none",
        "--size",
        "64",
        "--bs",
        "4",
        "--out",
        "x.png",
    )
    assert len(warnings(result)) == 1


def test_exports_of_earlier_versions_read_16_bits_as_they_did(samples, run, tmp_path):
    _, twelve = deepened(samples["mri"], tmp_path)
    file = sorted((twelve / "train").glob("*.png"))[0]
    predictor = fastseg.load(GOLDEN)
    assert read_card(GOLDEN).depth == 16
    assert (predictor.task.image(file)[..., 0] == to_8(np.asarray(Image.open(file)), 65535)).all()
    result = run("predict", "mri", twelve / "train", "--export", GOLDEN, "--out", "out.tsv")
    assert len(warnings(result)) == 1 and rows_of(tmp_path / "out_predictions.csv")


@pytest.mark.parametrize("depth", [0, 17, 12.0, "12", True])
def test_a_card_with_a_wrong_depth_is_refused(depth, trained, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(trained, folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "depth": depth}))
    with pytest.raises(fastseg.FastsegError):
        fastseg.load(folder)


def test_classification_learns_from_12_bits_what_it_learns_from_8(samples, tmp_path):
    eight, twelve = (
        fastseg.learner("mri", data, arch=ARCH, weights="none", size=64, bs=4)
        for data in deepened(samples["mri"], tmp_path)
    )
    assert (eight.record.depth, twelve.record.depth) == (None, 12)
    for (one, label), (other, same_label) in zip(eight.dls.valid_ds, twelve.dls.valid_ds):
        assert label == same_label and (np.asarray(one) == np.asarray(other)).all()


def test_segment_reads_12_bits_as_8(exports, samples, tmp_path, monkeypatch):
    pixels = np.asarray(Image.open(sorted(samples["surfaces"].glob("images/*"))[0]).convert("RGB"))
    eight, twelve = tmp_path / "eight.png", tmp_path / "twelve.png"
    Image.fromarray(pixels).save(eight)
    twelve.write_bytes(png((pixels.astype(np.float64) * TOP / 255).round()))
    monkeypatch.setattr(download, "download", lambda url, allow_private: twelve.read_bytes())
    one, other, fetched = (
        fastseg.segment(*file, url=url, out=tmp_path / "out", export=exports("surfaces"))
        for file, url in (((eight,), None), ((twelve,), None), ((), "https://example.org/x.png"))
    )
    for found in (other, fetched):
        assert (found.prediction.codes == one.prediction.codes).all() and (
            found.prediction.image == one.prediction.image
        ).all()


def test_a_fetched_image_of_a_given_depth(monkeypatch):
    values = twelve_bits((20, 30, 3))
    monkeypatch.setattr(download, "download", lambda url, allow_private: png(values))
    assert (
        download.fetch_image("https://example.org/x.png", depth=16) == to_8(values, 65535)
    ).all()
    assert (download.fetch_image("https://example.org/x.png") == to_8(values)).all()


def test_codes_in_16_bit_colour_masks(tmp_path):
    codes = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint16)
    (tmp_path / "m.png").write_bytes(png(np.repeat(codes[..., None], 3, axis=2)))
    assert (tasks.get("eye").decode(tmp_path / "m.png") == codes).all()


def test_what_is_damaged_is_told_by_what_reads_it(trained, eyes, run, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(eyes[1] / "imgs_small", folder)
    file = sorted(folder.iterdir())[0]
    file.write_bytes(png(twelve_bits((40, 50, 3)))[:2000])
    run("predict", "eye", folder, "--export", trained, "--out", "out", code=1)
    assert [Path(row["image"]).name for row in rows_of(tmp_path / "out" / "failed.csv")] == [
        file.name
    ]


def test_one_hot_pixel_does_not_make_the_others_dark(caplog):
    from fastseg.data.depth import choose_depth, depth_of

    values = {f"{i}.png": 4000 for i in range(19)} | {"hot.png": 65535}
    assert depth_of(values) == 12 and depth_of({"a": 4000, "b": 65535}) == 16
    assert choose_depth(None, values) == 12
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "hot.png" in warning and "1 of 20" in warning


def test_images_that_all_fit_a_smaller_range_are_reported(caplog):
    from fastseg.data.depth import choose_depth

    assert choose_depth(14, {f"{i}.png": 4095 for i in range(5)}) == 14 and len(caplog.records) == 1
    caplog.clear()
    assert choose_depth(14, {"a.png": 4095}) == 14 and not caplog.records
    assert (
        choose_depth(14, {**{f"{i}.png": 4095 for i in range(5)}, "b.png": 9000}) == 14
        and not caplog.records
    )
    assert (
        choose_depth(14, {**{f"{i}.png": 4095 for i in range(20)}, "b.png": 9000}) == 14
        and not caplog.records
    )

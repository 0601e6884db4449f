"""The model as one HTML file, in Chromium from file:// with the network off.

It needs onnxruntime-web: the archive that FASTSEG_ONNXRUNTIME_WEB names, or npm and a network.
"""

import os
import shutil
import time
import zipfile

import numpy as np
import pytest
from browser import WAIT, no_faults, screenshots
from conftest import needs_shared, shared
from PIL import Image

import fastseg
from fastseg.conversion.one_file import write_html
from fastseg.conversion.webruntime import web_runtime
from fastseg.corrections.store import Corrections
from fastseg.errors import ModelError

pytestmark = pytest.mark.slow

LARGEST_SHARE = 1e-4  # of pixels that differ: ties, and float32 in another order of summation
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web, or a skip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("npm_config_fetch_retries", "0")
        patch.setenv("npm_config_fetch_timeout", "60000")
        try:
            return web_runtime(os.environ.get("FASTSEG_ONNXRUNTIME_WEB"))
        except ModelError as error:
            pytest.skip(f"no onnxruntime-web ({error.code}): set FASTSEG_ONNXRUNTIME_WEB")


@pytest.fixture
def open_file(browser, runtime, tmp_path):
    """Return a function that writes an export's HTML file and opens it without a network.

    An error in its console, an uncaught one, and a request fail the test.
    """
    contexts, faults = [], []

    def open_it(export):
        file = write_html(export, tmp_path / "model.html", runtime)
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(4 * WAIT)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(("blob:", "data:")) or asked.url == file.as_uri()
                else faults.append(f"asks {asked.url}")
            ),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert faults == []


def predicted(page, files) -> None:
    """Give the page images and wait for all of them."""
    page.set_input_files("#files", files)
    for _ in range(600):
        waiting = page.locator("#images button[data-state=waiting]").count()
        if page.locator("#images button").count() == len(files) and not waiting:
            break
        time.sleep(0.1)
    page.wait_for_selector("#measured tr")


def downloaded(page, selector):
    with page.expect_download() as download:
        page.click(selector)
    return download.value.path()


def mask_of(page, number) -> np.ndarray:
    """Open an image of the page and download its mask."""
    page.locator("#images button").nth(number).click()
    page.wait_for_selector(f"#images li:nth-child({number + 1}) button[aria-current=true]")
    return np.asarray(Image.open(downloaded(page, "#save-mask")))


@pytest.fixture
def kinds(samples, tmp_path):
    """Images of many kinds and sizes, as files."""
    first, *_, last = sorted((samples["eye"] / "imgs_small").iterdir())
    folder, made = tmp_path / "kinds", []
    folder.mkdir()

    def save(name, image, **options):
        image.save(folder / name, **options)
        made.append(folder / name)

    image, other = (Image.open(file).convert("RGB") for file in (first, last))
    for orientation in (1, 3, 5, 6, 8):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        large = image.resize((1001 + orientation, 748))
        save(f"turned_{orientation}.jpg", large, exif=exif, quality=80)
    save("tall.jpg", other.resize((301, 1203)), subsampling=1, progressive=True)
    save("plain.jpg", other.resize((90, 71)), subsampling=0)
    save("grey.jpg", other.convert("L").resize((517, 300)), progressive=True, optimize=True)
    save("restarts.jpg", other.resize((260, 131)), restart_marker_blocks=2, quality=30)
    save("small.png", image.resize((40, 33)))
    save("palette.png", other.convert("P"))
    save("same.png", image.resize((64, 64)))
    save("large.webp", other.resize((900, 640)), lossless=True)
    save("bitmap.bmp", image)
    return made


def test_masks_equal_those_of_predict(open_file, exports, kinds):
    predictor = fastseg.load(exports("eye"), runtime="onnx")
    page = open_file(exports("eye"))
    predicted(page, kinds)
    differing = places = 0
    for number, file in enumerate(kinds):
        mask, codes = mask_of(page, number), predictor.predict(file).codes
        assert mask.shape == codes.shape, file.name
        differing, places = differing + int((mask != codes).sum()), places + codes.size
    assert differing / places < LARGEST_SHARE
    shares = page.locator("#measured tr td:nth-child(2)").all_inner_texts()
    counts = [int(text.replace(",", "")) for text in shares]
    assert counts == np.bincount(mask.reshape(-1), minlength=4).tolist()


def test_files_that_are_no_images_are_named_with_the_reason(open_file, exports, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(deep)
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((90, 90, 3), dtype=np.uint8)).save(tmp_path / "half.jpg")
    half = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(half[: len(half) // 2 + 300])
    Image.new("CMYK", (30, 30)).save(tmp_path / "inks.jpg")
    page = open_file(exports("eye"))
    files = [deep, *(tmp_path / f"{name}.jpg" for name in ("text", "half", "inks"))]
    page.set_input_files("#files", files)
    for file in files:
        page.wait_for_selector(f"#notes :text('{file.name}: cannot be read')")
    assert page.locator("#images button:disabled").count() == len(files)


def test_corrections_come_into_the_data(open_file, exports, samples, tmp_path, run):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    files = [tmp_path / f"set_8{number}_frame_1.jpg" for number in range(3)]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((300, 240)).save(file)
    page = open_file(exports("eye"))
    predicted(page, files)
    no_faults(page)
    screenshots(page, "one_file", widths=(400, 1280))
    page.set_viewport_size({"width": 1280, "height": 800})
    before = mask_of(page, 0)
    page.fill("#person", "Ada")
    page.keyboard.press("Tab")

    box = page.locator("#marks").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def stroke(key, to):
        page.locator("#marks").focus()
        page.keyboard.press(key)
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + to, middle[1], steps=4)
        page.mouse.up()

    stroke("3", 60)
    stroke("1", -60)
    page.keyboard.press("Control+z")
    painted = mask_of(page, 0)
    changed = painted != before
    assert changed.sum() > 100 and set(np.unique(painted[changed])) == {3}
    assert (mask_of(page, 1) != painted).any()  # another image
    page.click("#accept")
    assert (mask_of(page, 0) == painted).all()  # it keeps what was painted
    page.keyboard.press("Control+z")  # and its steps
    assert (mask_of(page, 0) == before).all()
    page.keyboard.press("Control+y")
    assert "(2)" in page.inner_text("#save-corrections")
    archive = downloaded(page, "#save-corrections")
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.read(f"images/{files[0].name}") == files[0].read_bytes()

    run("add", "eye", archive, "--data", data)
    store = Corrections("eye", data)
    first, second = store.all()
    assert [first.action, second.action] == ["corrected", "accepted"]
    assert first.by == "Ada" and first.source.startswith("eye ") and first.seconds > 0
    assert first.pixels == changed.sum() and second.pixels == 0
    assert (store.label(data / first.image) == painted).all()
    assert (store.prediction(data / first.image, 1) == before).all()


def test_a_class_is_shown_and_corrected(open_file, exports, samples, tmp_path, run):
    data = shutil.copytree(samples["mri"], tmp_path / "mri")
    file = tmp_path / "sub-new.png"
    pixels = np.random.default_rng(0).integers(0, 256, (121, 121), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    prediction = fastseg.load(exports("mri"), runtime="onnx").predict(file)
    page = open_file(exports("mri"))
    predicted(page, [file])
    no_faults(page)
    screenshots(page, "one_file_class", widths=(400, 1280))
    assert page.locator("#classes input:checked").get_attribute("value") == str(prediction.index)
    shown = page.locator("#measured td").all_inner_texts()
    shares = [float(text.removesuffix(" %")) / 100 for text in shown]
    assert np.allclose(shares, prediction.probabilities, atol=6e-4)
    other = 1 - prediction.index
    page.keyboard.press(str(other + 1))
    archive = downloaded(page, "#save-corrections")
    run("add", "mri", archive, "--data", data)
    (row,) = Corrections("mri", data).all()
    assert (row.action, row.pixels) == ("corrected", 1)
    assert Corrections("mri", data).label(data / row.image) == other


@needs_shared
def test_real_eyes_have_the_masks_of_predict(open_file, exports):
    files = sorted((shared / "data" / "eye" / "images").glob("r*.jpg"))[::14][:20]
    predictor = fastseg.load(exports("eye"), runtime="onnx")
    page = open_file(exports("eye"))
    predicted(page, files)
    pairs = [(mask_of(page, n), predictor.predict(f).codes) for n, f in enumerate(files)]
    differing = sum(int((mask != codes).sum()) for mask, codes in pairs)
    assert differing / sum(mask.size for mask, _ in pairs) < LARGEST_SHARE

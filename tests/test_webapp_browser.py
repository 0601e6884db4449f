"""The app's pages in a real browser. Without Chromium these tests are skipped."""

import json
import os
import shutil
import time
import zipfile

import numpy as np
import pytest
from browser import no_faults, screenshots
from conftest import ARCH
from PIL import Image

from fastseg.exports.card import read_card
from fastseg.exports.earlier import keep
from fastseg.webapp.jobs import Outcome

LONG = 120_000  # ms for a training to get somewhere


def until(page, script, arg=None):
    """Wait until a script is true; Playwright's own way to wait is forbidden by the pages."""
    for _ in range(150):
        if page.evaluate(script, arg):
            return
        time.sleep(0.1)
    raise AssertionError(f"never true: {script}")


@pytest.fixture
def two(exports, tmp_path):
    """Two exports of eyes; returns the folder of the current one."""
    # without what other tests have evaluated: the figures are those of the cards
    ignored = shutil.ignore_patterns("evaluation")
    made = shutil.copytree(exports("eye"), tmp_path / "exports" / "eye", ignore=ignored)
    other = shutil.copytree(made, made.with_name("eye_before"))
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps({**card, "created": "2025-01-01T00:00:00+00:00"}))
    return made


def test_an_earlier_export_is_taken_back_from_the_page(serve, open_page, samples, two):
    keep(two)
    values = json.loads((two / "card.json").read_text())
    (two / "card.json").write_text(json.dumps({**values, "created": "2030-01-01T00:00:00+00:00"}))
    server = serve("eye", samples["eye"], export=two)
    server.workspace.training.outcome = Outcome("finished")  # the one that made it
    page = open_page(server, "/train")
    page.wait_for_selector("#now:not([hidden])")
    page.locator("#history button", has_text="Take back").click()
    page.wait_for_selector("#notes :text('is the current export again')")
    assert read_card(two).created == values["created"]
    assert not page.is_visible("#now")  # its result is of an export that is not used any more
    page.reload()
    page.wait_for_selector("#history button")
    assert not page.is_visible("#now")


def test_training_on_shows_what_the_export_brings_with_it(serve, open_page, samples, two):
    page = open_page(serve("eye", samples["eye"], export=two), "/train")
    page.wait_for_selector("#field-arch")
    recipe = page.get_attribute("#field-size", "placeholder")
    page.check('#how [value="again"]')
    assert not page.is_visible("#field-arch") and not page.is_visible("#field-weights")
    assert page.get_attribute("#field-size", "placeholder") == "64x64" != recipe
    page.check('#how [value="fresh"]')
    assert page.is_visible("#field-arch")
    assert page.get_attribute("#field-size", "placeholder") == recipe


def test_pages_have_no_serious_fault_of_accessibility(serve, open_page, samples, two):
    server = serve("eye", samples["eye"], export=two)
    page = open_page(server, "/data")
    page.wait_for_selector("#grid img")
    page.wait_for_selector("#class:not([disabled])")
    no_faults(page)
    screenshots(page, "data")
    page.set_viewport_size({"width": 1024, "height": 768})
    page.locator("#grid button").first.click()
    page.wait_for_selector("#facts *")
    no_faults(page)
    for name, ready in [
        ("train", "#history td"),
        ("predict", "#classes input"),
        ("compare", "#first option"),
    ]:
        page.goto(f"{server.address}{name}")
        page.wait_for_selector(ready, state="attached")
        for details in page.locator("details:visible").all():
            details.evaluate("one => { one.open = true }")
        no_faults(page)
        page.emulate_media(color_scheme="dark")
        no_faults(page)
        screenshots(page, name)
        page.emulate_media(color_scheme="light")


def test_images_are_found_by_the_keyboard(serve, open_page, samples):
    page = open_page(serve("face", samples["face"]), "/data")
    page.wait_for_selector("#grid button")
    whole = "one => one.getBoundingClientRect().height <= one.parentElement.clientHeight + 1"
    assert page.locator("#grid img").first.evaluate(whole)  # portraits, too
    page.locator("#grid button").first.focus()
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.title")
    page.keyboard.press("Enter")
    page.wait_for_selector("#look[open]")
    assert page.locator("#look-name").inner_text() == second
    page.keyboard.press("ArrowRight")
    until(page, "name => document.querySelector('#look-name').textContent !== name", second)
    third = page.locator("#look-name").inner_text()
    page.keyboard.press("Escape")
    until(page, "name => document.activeElement.title === name", third)
    tile = page.locator("#grid button:focus").element_handle()
    page.locator("#labels").dispatch_event("change")  # the grid is loaded again, as after a check
    until(page, "tile => !tile.isConnected", tile)
    assert page.evaluate("document.activeElement.title") == third
    page.fill("#text", third)
    page.wait_for_selector('#grid li[aria-setsize="1"]')
    page.locator("#grid button").click()
    page.wait_for_selector("#look[open] #facts a")
    assert page.locator("#picture").evaluate(whole)
    page.click("#facts a")
    page.click(".return a")  # the editor leads back to what was looked at
    page.wait_for_selector("#look[open]")
    assert page.input_value("#text") == page.locator("#look-name").inner_text() == third


def test_thousands_of_images_are_a_few_elements(serve, open_page, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    image, mask = (
        next(iter(sorted((data / name).iterdir()))) for name in ("imgs_small", "masks_small")
    )
    for number in range(3000):
        (data / "imgs_small" / f"set_99_frame_{number}{image.suffix}").hardlink_to(image)
        (data / "masks_small" / f"set_99_frame_{number}{mask.suffix}").hardlink_to(mask)
    server = serve("eye", data)
    server.workspace.checking.start = lambda: None  # the check is not what is tested
    page = open_page(server, "/data")
    page.wait_for_selector("#grid img")
    assert page.locator("#grid li").count() < 80
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector('#grid li[aria-posinset="3016"]')
    assert page.locator("#grid li").count() < 80
    page.fill("#text", "frame_2999.")
    page.wait_for_selector('#grid li[aria-setsize="1"]')
    assert page.locator("#grid li").count() == 1


def test_a_training_is_started_watched_and_stopped_from_the_page(
    serve, open_page, samples, tmp_path
):
    server = serve("eye", samples["eye"], export=tmp_path / "exports" / "eye")
    page = open_page(server, "/train")
    page.wait_for_selector("#field-epochs")
    for name, value in {"epochs": "500", "size": "64", "bs": "4", "arch": ARCH}.items():
        page.fill(f"#field-{name}", value)
    page.select_option("#field-weights", "none")
    page.fill("#field-size", "sixty")
    page.click("#start")
    page.wait_for_selector("#field-size[aria-invalid=true]")
    open_page.faults.clear()  # the browser's own line about the refused request
    page.fill("#field-size", "64")
    page.click("#start")
    page.wait_for_selector("#charts svg", timeout=LONG)
    assert "of 500" in page.locator("#figures").inner_text()
    no_faults(page)
    screenshots(page, "training")
    page.goto(f"{server.address}data")  # the training goes on without its page
    page.wait_for_selector("#grid img")
    page.goto(f"{server.address}train")
    page.click("#stop", timeout=LONG)
    page.wait_for_selector("#resume", timeout=LONG)
    assert page.locator("#charts svg.lines").count() == 2


def test_train_says_what_waits_and_why_it_cannot_start(serve, open_page, samples, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    first = sorted((data / "imgs_small").iterdir())[0]
    shutil.copy(first, first.with_name(f"new_1_frame_1{first.suffix}"))
    server = serve("eye", data, export=tmp_path / "exports" / "eye")
    page = open_page(server, "/train")
    page.wait_for_selector("#form-title:has-text('1 waits for a label')")
    page.wait_for_selector("#start:enabled")
    assert page.locator("#fault").is_hidden()
    page.goto(f"{server.address}compare")
    page.wait_for_selector("#few:visible")
    assert page.locator("#form").is_hidden()
    page.goto(f"{server.address}train")
    first.unlink()  # a mask without its image
    server.workspace.changed()
    page.reload()
    page.wait_for_selector("#form .actions #fault:visible a[href='/review']")
    assert page.locator("#start").is_disabled()


def test_images_are_predicted_one_by_one_and_downloaded(serve, open_page, samples, two, tmp_path):
    page = open_page(serve("eye", samples["eye"], export=two), "/predict")
    images = sorted((samples["eye"] / "imgs_small").iterdir())[:3]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"not an image")
    page.wait_for_selector("#classes input", state="attached")
    page.set_input_files("#files", [*images, damaged])
    page.wait_for_selector("#results .failed", timeout=LONG)
    until(page, "() => document.querySelectorAll('#results canvas').length === 3")
    open_page.faults.clear()
    painted = (
        "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(v => v)"
    )
    page.locator("#results .result").nth(1).click()
    until(page, f"() => ({painted})(document.querySelector('#mask'))")
    no_faults(page)
    screenshots(page, "prediction", (400, 1024))
    page.keyboard.press("Escape")
    for box in page.locator("#classes input").all():
        box.uncheck()
    assert not page.locator("#results canvas").first.evaluate(painted)
    with page.expect_download() as download:
        page.click("#zip")
    download.value.save_as(tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert set(archive.namelist()) == {"predictions.csv", *(f"{i.stem}.png" for i in images)}


def test_images_chosen_while_the_page_still_loads_are_predicted(serve, open_page, samples, two):
    page = open_page(serve("eye", samples["eye"], export=two), "/predict")
    held: list = []
    page.route("**/api/predict", lambda route: held.append(route))
    page.reload()
    page.set_input_files("#files", [next((samples["eye"] / "imgs_small").iterdir())])
    page.wait_for_timeout(500)
    held[0].continue_()
    page.wait_for_selector("#results button.correct", timeout=LONG)


def test_a_wrong_prediction_is_corrected_from_its_page(serve, open_page, samples, two, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    new = tmp_path / "strange.png"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(new)
    page = open_page(serve("eye", data, export=two), "/predict")
    page.wait_for_selector("#classes input", state="attached")
    page.set_input_files("#files", [new])
    page.wait_for_selector("#results button.correct", timeout=LONG)
    no_faults(page)
    screenshots(page, "predict_correct", (400, 1024))
    page.locator("#results .result").click()
    shown = """() => {
      const { width } = document.querySelector("#stage").getBoundingClientRect();
      return parseFloat(document.querySelector("#mask").style.clipPath.split(" ")[1]) / width;
    }"""
    until(page, f"() => ({shown})() < 0.5")  # of its width, the mask is hidden there
    page.locator("#slide").fill("0")
    until(page, f"() => ({shown})() > 0.5")
    screenshots(page, "predict_image_alone", (400, 1024))
    page.keyboard.press("Escape")
    with page.context.expect_page() as opened:
        page.click("#results button.correct")
    editor = opened.value
    editor.wait_for_selector("#editor[data-ready]", timeout=LONG)
    assert "Proposed by the model" in editor.locator("#save").inner_text()
    assert page.locator("#results a.correct").count() == 1
    page.reload()  # the results are still there, and what was added
    page.wait_for_selector("#results canvas")
    page.wait_for_selector("#progress:has-text('1 image done')")
    assert page.locator("#results a.correct").count() == 1
    page.set_input_files("#files", [new])  # the next ones come to them
    until(page, "() => document.querySelectorAll('#results canvas').length === 2")


def test_two_exports_are_compared(serve, open_page, samples, two):
    server = serve("eye", samples["eye"], export=two)
    page = open_page(server, "/compare")
    page.wait_for_selector("#first option", state="attached")
    assert page.locator("#first option").all_inner_texts() == ["eye", "eye_before"]
    page.click("#start")
    page.wait_for_selector("#verdict:not(:empty)", timeout=LONG)
    assert "no clear difference" in page.locator("#verdict").inner_text()  # it is the same model
    no_faults(page)
    screenshots(page, "comparison")
    card = two / "card.json"  # another export of this name, such as after it is taken back
    os.utime(card, ns=(0, card.stat().st_mtime_ns + 1_000_000_000))
    page.reload()
    page.wait_for_selector("#first option", state="attached")
    page.wait_for_timeout(500)
    assert not page.is_visible("#result")


def test_a_link_starts_the_comparison_with_the_earlier_export(serve, open_page, samples, two):
    page = open_page(serve("eye", samples["eye"], export=two), "/compare?start")
    page.wait_for_selector("#verdict:not(:empty)", timeout=LONG)
    assert page.input_value("#first") == "eye" and page.input_value("#second") == "eye_before"
    assert page.url.endswith("/compare")  # a reload shows it, and does not start it again


def test_a_worse_export_is_told_and_the_earlier_one_taken_back(serve, open_page, samples, two):
    earlier = two.with_name(".earlier") / "eye-20250101000000"
    shutil.move(two.with_name("eye_before"), earlier)
    compared = {
        "images": 12,
        "difference": {"mean_foreground": {"dice": -0.03}},
        "intervals": {"mean_foreground": {"dice": [-0.05, -0.01]}},
    }
    (two / "again.json").write_text(json.dumps({"comparison": compared}))
    metrics = json.loads((two / "card.json").read_text())
    metrics["metrics"]["classes"]["pupil"]["recall"] = 0.0
    (two / "card.json").write_text(json.dumps(metrics))
    server = serve("eye", samples["eye"], export=two)
    server.workspace.judging.want = lambda folder: None  # figures are those of the cards
    now = {
        "state": "running",
        "output": "",
        "outcome": None,
        "progress": {
            **{"head_only": True, "head_epochs": 1, "later_epochs": 5, "epoch": 1, "epochs": 1},
            **{"done": 0.1, "batch": 1, "batches": 9, "loss": 1.5, "history": [], "fold": 1},
            "seconds_left": None,
        },
    }
    page = open_page(server, "/data")
    page.route("**/api/train", lambda route: route.fulfill(json=now))
    page.goto(f"{server.address}train")
    page.wait_for_selector("#figures:has-text('before 5 epochs'):has-text('estimating')")
    now["state"], now["outcome"] = "idle", {"state": "finished", "corrections": {}}
    now["outcome"]["corrections"]["compared"] = {
        "difference": -0.03,
        "interval": [-0.05, -0.01],
        "images": 12,
    }
    page.wait_for_selector("#corrections .down:has-text('worse by 0.030 (0.010 to 0.050)')")
    page.wait_for_selector("#corrections a[href='/compare?start']")
    page.wait_for_selector("#history th .down:has-text('worse by 0.030')")
    page.wait_for_selector("#never:has-text('pupil'):visible")
    no_faults(page)
    page.click("#history button")
    page.wait_for_selector("#never", state="hidden")
    rows = page.locator("#history tbody th")
    assert "current" in rows.nth(1).inner_text() and "current" not in rows.nth(0).inner_text()
    assert read_card(two).created.startswith("2025")

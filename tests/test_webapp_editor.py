"""The editor and the queue in a real browser: what is painted is what is saved."""

from __future__ import annotations

import os
import shutil

import httpx
import numpy as np
import pytest
from browser import no_faults, screenshots
from PIL import Image

from fastseg import tasks
from fastseg.data.images import read_raw

BACKGROUND, SCLERA, IRIS = 0, 1, 2
SIZE = (200, 300)  # (height, width) of the images that are painted on


@pytest.fixture
def eyes(tmp_path):
    """A folder of eyes: 6 grey images with empty masks, as images/N.png and masks/N.png."""
    data = tmp_path / "eyes"
    rng = np.random.default_rng(0)
    for number in range(6):
        save(data, f"{number}.png", rng.integers(60, 90, (*SIZE, 3)).astype(np.uint8))
    return data


def save(data, name, pixels, mask=None, **options):
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(data / "images" / name, **options)
    if mask is None:
        mask = np.zeros(pixels.shape[:2], np.uint8)
    Image.fromarray(mask).save((data / "masks" / name).with_suffix(".png"))


def give_name(page):
    """Say who corrects, as the page asks before the first stroke."""
    page.wait_for_selector("#ask-name[open]")
    page.keyboard.type("Grace")
    page.keyboard.press("Enter")


def mask_of(data, name):
    return read_raw(data / "masks" / name)


def client_of(server):
    return httpx.Client(
        base_url=server.address,
        headers={"Authorization": f"Bearer {server.keys.token}"},
        timeout=60,
    )


def id_of(server, name):
    with client_of(server) as client:
        images = client.get("/api/data/images").json()["images"]
    return next(image["id"] for image in images if image["name"].endswith(name))


class Canvas:
    """The editor in a page: paints at places in image px."""

    def __init__(self, page):
        self.page = page
        page.wait_for_selector("#editor[data-ready]")

    def at(self, x, y):
        """Return the place in the window of a place in image px."""
        return self.page.evaluate(
            """([x, y]) => {
              const { view } = document.querySelector("#editor").desk;
              const box = view.marks.getBoundingClientRect();
              const [left, top] = view.toCanvas(x, y);
              return [box.left + left / view.ratio, box.top + top / view.ratio];
            }""",
            [x, y],
        )

    def drag(self, *points, steps=8):
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=steps)
        mouse.up()

    def click(self, x, y):
        self.page.mouse.click(*self.at(x, y))

    def set(self, **values):
        self.page.evaluate("(v) => document.querySelector('#editor').desk.set(v)", values)

    def key(self, *names):
        for name in names:
            self.page.keyboard.press(name)

    def saved(self):
        """Wait until the server has everything."""
        self.page.wait_for_selector('#save[data-state="saved"]')


@pytest.fixture
def edit(serve, open_page):
    """Open the editor of an image of a data folder: `edit(data, "0.png")` -> server, Canvas."""

    def open_it(data, name, server=None, task="eye", **options):
        server = server or serve(task, data)
        page = open_page(server, f"/edit/{id_of(server, name)}", person="Ada", **options)
        return server, Canvas(page)

    return open_it


@pytest.mark.parametrize("size", [(1400, 900), (1024, 1300), (1000, 600)])
def test_no_part_of_the_whole_image_is_below_the_zoom(size, eyes, edit):
    """As wide, as high, or of the shape of the stage: buttons never cover what is to be painted."""
    _, canvas = edit(eyes, "0.png")
    page = canvas.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(200)
    box, stage = (page.locator(it).bounding_box() for it in (".zoom", "#stage"))
    height, width = mask_of(eyes, "0.png").shape
    (left, top), (right, bottom) = canvas.at(0, 0), canvas.at(width, height)
    assert right <= box["x"] or top >= box["y"] + box["height"]
    assert left >= stage["x"] and bottom <= stage["y"] + stage["height"]
    used = max((right - left) / stage["width"], (bottom - top) / stage["height"])
    assert used > 0.8


def test_a_stroke_changes_exactly_its_pixels(eyes, edit):
    _, canvas = edit(eyes, "0.png")
    canvas.set(size=1)
    canvas.key("2")
    canvas.drag((50.5, 80.5), (149.5, 80.5))
    canvas.saved()
    want = np.zeros(SIZE, np.uint8)
    want[80, 50:150] = IRIS
    assert (mask_of(eyes, "0.png") == want).all()
    canvas.key("Control+z")
    canvas.saved()
    assert not mask_of(eyes, "0.png").any()
    canvas.key("Control+y")
    canvas.saved()
    assert (mask_of(eyes, "0.png") == want).all()


@pytest.mark.slow
def test_the_name_is_not_asked_for_in_a_stroke(eyes, edit):
    _, canvas = edit(eyes, "0.png")
    page = canvas.page
    page.context.clear_cookies(name="fastseg-name")
    canvas.drag((20, 20), (40, 20))
    page.mouse.move(*canvas.at(20, 40))
    page.mouse.down()
    page.mouse.move(*canvas.at(40, 40))
    page.wait_for_timeout(2500)  # the first stroke waits to be saved, with a name
    assert page.locator("#ask-name[open]").count() == 0
    page.mouse.up()
    give_name(page)
    canvas.saved()
    assert mask_of(eyes, "0.png")[40, 30]


def test_the_name_is_asked_for_before_the_first_stroke_and_known_at_any_port(
    eyes, serve, open_page
):
    server, other = serve("eye", eyes), serve("eye", eyes)
    page = open_page(server, f"/edit/{id_of(server, '0.png')}")
    give_name(page)
    canvas = Canvas(page)
    canvas.drag((20, 20), (40, 20))
    canvas.saved()
    page.goto(other.url)
    page.wait_for_url(lambda url: "token=" not in url)
    open_page.faults.clear()  # the fixture knows one address
    page.goto(f"{other.address}edit/{id_of(other, '1.png')}")
    page.wait_for_selector("#editor[data-ready]")
    page.wait_for_timeout(300)
    assert page.locator("#ask-name[open]").count() == 0
    assert page.locator("#who").inner_text() == "Grace"
    open_page.faults.clear()


def test_a_polygon_with_a_hole(eyes, edit):
    _, canvas = edit(eyes, "1.png")
    canvas.key("p", "1")
    for x, y in ((20, 20), (120, 20), (120, 120), (20, 120)):
        canvas.click(x, y)
    canvas.key("Shift+Enter")
    for x, y in ((50, 50), (80, 50), (80, 70), (50, 70)):
        canvas.click(x, y)
    canvas.key("Enter")
    canvas.saved()
    want = np.zeros(SIZE, np.uint8)
    want[20:120, 20:120] = SCLERA
    want[50:70, 50:80] = BACKGROUND
    assert (mask_of(eyes, "1.png") == want).all()


def test_an_image_that_exif_turns(tmp_path, edit):
    pixels = np.full((200, 300, 3), 80, np.uint8)
    pixels[:100, :100] = 200  # stored at the left top, shown at the right top
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, "0.jpg", pixels, np.zeros((300, 200), np.uint8), exif=exif)
    save(tmp_path, "1.jpg", pixels)
    _, canvas = edit(tmp_path, "0.jpg")
    canvas.key("f", "3")
    canvas.click(150, 50)
    canvas.saved()
    mask = mask_of(tmp_path, "0.png")
    assert mask.shape == (300, 200)
    assert (mask[:96, 104:] == 3).all() and not mask[104:].any() and not mask[:, :96].any()


def test_a_16_bit_image(tmp_path, edit):
    values = np.full(SIZE, 1000, np.uint16)
    values[50:150, 100:200] = 3000
    for name in ("0.png", "1.png"):
        save(tmp_path, name, values, np.zeros(SIZE, np.uint8))
    _, canvas = edit(tmp_path, "0.png")
    canvas.key("f", "2")
    canvas.click(150, 100)
    canvas.saved()
    want = np.zeros(SIZE, np.uint8)
    want[50:150, 100:200] = IRIS
    assert (mask_of(tmp_path, "0.png") == want).all()
    with Image.open(tmp_path / "images" / "0.png") as image:
        assert image.mode.startswith("I")


def test_strokes_snap_to_edges(tmp_path, edit):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (rows + 0.5 - 100) ** 2 + (columns + 0.5 - 150) ** 2 <= 40**2
    noise = np.random.default_rng(1).integers(-15, 15, (*SIZE, 3))
    pixels = (np.where(disc, 170, 80)[..., None] + noise).astype(np.uint8)
    save(tmp_path, "0.png", pixels)
    save(tmp_path, "1.png", pixels)
    _, canvas = edit(tmp_path, "0.png")
    canvas.set(size=70)
    canvas.key("s")
    canvas.click(153, 98)
    canvas.saved()
    found = mask_of(tmp_path, "0.png") > 0
    assert (found & disc).sum() / (found | disc).sum() > 0.97


def test_the_keyboard_paints(eyes, edit):
    _, canvas = edit(eyes, "2.png")
    page = canvas.page
    page.focus("#marks")
    canvas.set(size=1)
    for _ in range(20):
        canvas.key("+")  # one px on the screen is far less than one in the image
    canvas.key("1", "ArrowRight")  # the cursor starts in the middle
    page.keyboard.down(" ")
    canvas.key("ArrowDown", "ArrowDown", "ArrowLeft")
    page.keyboard.up(" ")
    canvas.saved()
    want = np.zeros(SIZE, np.uint8)
    want[100:103, 151] = want[102, 150] = SCLERA
    assert (mask_of(eyes, "2.png") == want).all()
    assert "4 px" in page.text_content("#told")


@pytest.mark.slow
def test_the_second_of_two_tabs_is_told(eyes, edit, open_page):
    server, first = edit(eyes, "0.png")
    _, second = edit(eyes, "0.png", server)
    for canvas, key in ((first, "1"), (second, "2")):
        canvas.set(size=9)
        canvas.key(key)
    first.click(50, 50)
    first.saved()
    second.click(100, 100)
    second.page.wait_for_selector("#conflict[open]")
    open_page.faults.clear()  # the browser logs the refusal
    assert (mask_of(eyes, "0.png") != IRIS).all()
    second.page.click("#conflict button[value=load]")
    second.page.wait_for_selector("#conflict:not([open])", state="attached")
    second.page.wait_for_selector("#loading", state="hidden")
    second.click(100, 100)
    second.saved()
    assert {*np.unique(mask_of(eyes, "0.png"))} == {BACKGROUND, SCLERA, IRIS}

    first.click(70, 50)
    first.page.wait_for_selector("#conflict[open]")
    open_page.faults.clear()
    first.page.click("#conflict button[value=over]")
    first.saved()
    assert {*np.unique(mask_of(eyes, "0.png"))} == {BACKGROUND, SCLERA}
    with client_of(server) as client:
        versions = client.get(f"/api/editor/{id_of(server, '0.png')}").json()["versions"]
    assert [row["by"] for row in versions] == ["Ada"] * len(versions)


def test_strokes_survive_a_lost_connection_and_a_closed_page(eyes, edit, open_page):
    server, canvas = edit(eyes, "3.png")
    page, context = canvas.page, canvas.page.context
    canvas.set(size=5)
    context.set_offline(True)
    canvas.click(30, 30)
    page.wait_for_selector('#save[data-state="offline"]')
    context.set_offline(False)
    canvas.saved()
    assert (mask_of(eyes, "3.png") == SCLERA).sum() > 20

    context.set_offline(True)
    canvas.click(200, 100)
    page.wait_for_selector('#save[data-state="offline"]')
    other = context.new_page()
    page.close(run_before_unload=False)
    context.set_offline(False)
    assert mask_of(eyes, "3.png")[100, 200] == BACKGROUND
    other.goto(f"{server.address}edit/{id_of(server, '3.png')}")
    Canvas(other).saved()
    assert mask_of(eyes, "3.png")[100, 200] == SCLERA
    open_page.faults.clear()


def test_an_open_page_goes_on_after_the_server_is_started_again(eyes, edit, serve, open_page):
    server, canvas = edit(eyes, "3.png")
    page = canvas.page
    server.stop()
    page.wait_for_timeout(500)
    canvas.click(200, 100)
    page.wait_for_selector('#save[data-state="offline"]')
    again = serve("eye", eyes, port=server.port)
    page.wait_for_selector("#save:has-text('started again')")  # the cookie was of the first server
    other = page.context.new_page()
    other.goto(again.url)
    canvas.saved()
    assert mask_of(eyes, "3.png")[100, 200] == SCLERA
    open_page.faults.clear()


DIFFERENT = """() => {
  const { view } = document.querySelector("#editor").desk;
  const shown = () => {
    view.draw();
    const { width, height } = view.base;
    return new Uint32Array(view.context.getImageData(0, 0, width, height).data.buffer);
  };
  const partial = shown();
  view.redraw();
  return shown().reduce((count, pixel, at) => count + (pixel !== partial[at]), 0);
}"""


@pytest.mark.parametrize("ratio", [1, 1.5])
def test_what_is_drawn_of_a_change_is_a_drawing_of_everything(tmp_path, edit, ratio):
    """At each zoom and place, strokes, polygons, fills, proposals and undo leave no border."""
    rng = np.random.default_rng(0)
    save(tmp_path, "0.png", rng.integers(0, 255, (480, 640, 3)).astype(np.uint8))
    save(tmp_path, "1.png", np.zeros((9, 9, 3), np.uint8))
    _, canvas = edit(tmp_path, "0.png", width=500, height=400, device_scale_factor=ratio)
    page = canvas.page
    canvas.set(size=9, code=IRIS)

    def same(what):
        assert page.evaluate(DIFFERENT) == 0, what

    for scale, place in [(0.31, (0, 0)), (1, (13.37, 7.9)), (1.4, (0.3, 0.6)), (3.33, (200.21, 9))]:
        page.evaluate(
            """([scale, left, top]) => {
              const { view } = document.querySelector("#editor").desk;
              Object.assign(view, { scale, left, top, isFitted: false });
              view.redraw();
              view.draw();
            }""",
            [scale, *place],
        )
        wide = 60 / scale
        x, y = place[0] + wide, place[1] + wide / 2
        canvas.key("b")
        canvas.drag((x, y), (x + wide, y + wide / 3))
        same(f"a stroke at {scale}")
        canvas.key("Control+z")
        same(f"undo at {scale}")
        canvas.key("Control+y")
        same(f"redo at {scale}")
        canvas.key("p")
        for point in [(x, y), (x + wide, y), (x + wide / 2, y + wide)]:
            canvas.click(*point)
        canvas.key("Enter")
        same(f"a polygon at {scale}")
        page.evaluate(
            """([x, y]) => {
              const { desk } = document.querySelector("#editor");
              desk.proposed([{ code: 1, runs: [y, x, x + 9, y + 1, x, x + 11] }]);
            }""",
            [int(x), int(y) + 5],
        )
        same(f"a proposal at {scale}")
        canvas.key("Enter")
        same(f"a taken proposal at {scale}")


@pytest.mark.slow
def test_twelve_megapixels(tmp_path, edit):
    pixels = np.full((3000, 4000, 3), 90, np.uint8)
    save(tmp_path, "0.jpg", pixels)
    save(tmp_path, "1.jpg", pixels[:64, :64])
    _, canvas = edit(tmp_path, "0.jpg")
    canvas.set(size=40)
    canvas.key("2")
    canvas.drag((500, 500), (3500, 2500), steps=20)
    canvas.saved()
    mask = mask_of(tmp_path, "0.png")
    assert mask.shape == (3000, 4000) and mask[500, 500] == mask[2500, 3500] == IRIS
    assert 120_000 < (mask == IRIS).sum() < 180_000


def test_fingers_and_pens(eyes, edit):
    _, canvas = edit(eyes, "0.png", has_touch=True)
    page = canvas.page
    devtools = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(canvas.at(*p) for p in points)]
        devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})

    def view():
        return page.evaluate("document.querySelector('#editor').desk.view.scale")

    canvas.set(size=3)
    before = view()
    touch("Start", (100, 100))
    touch("Start", (100, 100), (200, 100))
    touch("Move", (100, 100), (240, 100))
    touch("End")
    assert view() > 1.2 * before
    assert page.text_content("#save") == ""  # the first finger's stroke is taken back

    touch("Start", (150, 120))
    touch("Move", (160, 120))
    touch("End")
    canvas.saved()
    assert mask_of(eyes, "0.png")[120, 155] == SCLERA

    x, y = canvas.at(150, 60)
    for kind, force in (("mousePressed", 0.5), ("mouseReleased", 0)):
        devtools.send(
            "Input.dispatchMouseEvent",
            {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1,
             "pointerType": "pen", "force": force},
        )  # fmt: skip
    canvas.saved()
    mask = mask_of(eyes, "0.png")
    assert mask[60, 150] == SCLERA
    place = canvas.at(0, 0)
    touch("Start", (150, 150))
    touch("Move", (170, 160))
    touch("End")
    assert canvas.at(0, 0) != place  # the palm moves the image and paints nothing
    assert (mask_of(eyes, "0.png") == mask).all()


@pytest.mark.slow
def test_what_was_before_can_be_seen_and_taken(eyes, edit):
    _, canvas = edit(eyes, "0.png")
    page = canvas.page
    assert page.is_disabled("[data-show=previous]")
    canvas.set(size=20)
    canvas.click(100, 100)
    canvas.saved()
    page.keyboard.down("x")
    page.wait_for_selector("#shown:has-text('before')")
    page.keyboard.up("x")
    page.wait_for_selector("#shown", state="hidden")
    page.click("[data-show=previous]")
    canvas.click(50, 50)  # what is only shown cannot be painted on
    assert "go back" in page.text_content("#told")
    page.click("[data-do=take]")
    canvas.saved()
    assert not mask_of(eyes, "0.png").any()
    canvas.key("Control+z")
    canvas.saved()
    assert mask_of(eyes, "0.png")[100, 100] == SCLERA
    page.click("summary:has-text('Versions')")
    assert page.locator("#versions li").count() == 1


def test_a_hundred_steps_within_the_memory(eyes, edit):
    _, canvas = edit(eyes, "0.png")
    found = canvas.page.evaluate(
        """async () => {
          const { History } = await import("/static/editor/history.js");
          const noise = () => crypto.getRandomValues(new Uint8Array(1000));
          const rect = { x: 0, y: 0, width: 1000, height: 1 };
          const [steps, small] = [new History(), new History(100, 10_000)];
          for (let i = 0; i < 120; i++) {
            steps.push(`${i}`, [{ rect, before: noise(), after: noise() }]);
            small.push(`${i}`, [{ rect, before: noise(), after: noise() }]);
          }
          return [steps.done.length, steps.undo().name, small.done.length, small.bytes];
        }"""
    )
    assert found == [100, "119", 5, 10_000]


def test_a_task_without_background_has_nothing_to_erase_to(eyes, edit):
    (eyes / "task.toml").write_text(
        'classes = ["soil", "crop"]\nbackground = false\nmasks = "threshold"\n'
        '[[layouts]]\nimages = "images"\nmasks = "masks"\n'
    )
    _, canvas = edit(eyes, "0.png", task=str(eyes))
    assert canvas.page.is_disabled("[data-tool=eraser]")
    assert "no background" in canvas.page.get_attribute("[data-tool=eraser]", "title")
    assert canvas.page.get_attribute("[data-show=previous]", "title")  # why it is disabled
    assert canvas.page.locator("#classes label").count() == 2


def test_review_by_keyboard_alone(eyes, serve, open_page):
    server = serve("eye", eyes)
    page = open_page(server, "/review")

    def at(name):
        page.wait_for_selector(f'#editor[data-ready="{name}"]', state="attached")

    give_name(page)
    at("images/0.png")
    for name, key in {"accept": "A", "next": "N", "skip": "K", "back": "U"}.items():
        assert f"({key})" in page.get_attribute(f'[data-do="{name}"]', "title")
    page.keyboard.press("a")
    at("images/1.png")
    page.keyboard.press("k")
    at("images/2.png")
    page.keyboard.press("1")
    page.keyboard.press(" ")
    page.wait_for_selector('#save[data-state="saved"]')
    page.keyboard.press("n")
    for number in (3, 4, 5):
        at(f"images/{number}.png")
        page.keyboard.press("Enter")
    at("images/1.png")  # the skipped one comes last
    assert page.text_content("#counter") == "5 of 6"
    page.keyboard.press("a")
    at("none")
    assert page.is_visible("#finished")
    with client_of(server) as client:
        answer = client.get("/api/review/queue").json()
        ids = {name: id_of(server, name) for name in ("1.png", "2.png")}
        rows = {n: client.get(f"/api/editor/{i}").json()["versions"] for n, i in ids.items()}
    assert answer["left"] == 0 and answer["reviewed"] == 6
    assert rows["1.png"][-1]["action"] == "accepted" and rows["1.png"][-1]["by"] == "Grace"
    assert rows["2.png"][-1]["action"] == "corrected"
    assert (mask_of(eyes, "2.png") == SCLERA).sum() > 50


@pytest.mark.slow
def test_going_back_restores_the_label(eyes, serve, open_page):
    server = serve("eye", eyes)
    page = open_page(server, "/review", person="Ada")
    canvas = Canvas(page)
    canvas.set(size=31)
    canvas.click(100, 100)
    canvas.saved()
    assert mask_of(eyes, "0.png").any()
    canvas.key("n")
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    canvas.key("u")
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    canvas.saved()
    assert page.text_content("#counter") == "0 of 6"
    assert not mask_of(eyes, "0.png").any()


@pytest.mark.slow
def test_a_decision_that_was_taken_back_is_open_again(eyes, serve, open_page):
    server = serve("eye", eyes)
    page = open_page(server, "/review")
    give_name(page)
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    page.keyboard.press("a")
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    page.keyboard.press("u")
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    page.wait_for_selector('#save[data-state="saved"]')
    page.keyboard.press("k")
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    with client_of(server) as client:
        left = client.get("/api/review/queue").json()
        versions = client.get(f"/api/editor/{id_of(server, '0.png')}").json()["versions"]
    assert left["reviewed"] == 0 and left["left"] == 6
    assert [row["action"] for row in versions] == ["accepted", "reopened"]
    page.reload()
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    assert page.text_content("#counter") == "0 of 6"


@pytest.mark.slow
def test_back_takes_the_label_of_a_new_image_away(eyes, serve, open_page):
    (eyes / "masks" / "5.png").unlink()
    server = serve("eye", eyes)
    page = open_page(server, "/review")
    give_name(page)
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    page.select_option("#kind", "new")
    page.wait_for_selector('#editor[data-ready="images/5.png"]')
    canvas = Canvas(page)
    canvas.set(size=31)
    canvas.click(100, 100)
    canvas.saved()
    page.keyboard.press("a")
    page.wait_for_selector('#editor[data-ready="none"]', state="attached")
    assert mask_of(eyes, "5.png").any()
    page.keyboard.press("u")
    page.wait_for_selector('#editor[data-ready="images/5.png"]')
    page.wait_for_selector("#versions:has-text('label taken back')", state="attached")
    assert not (eyes / "masks" / "5.png").exists()
    assert page.text_content("#save") == "No label yet"
    with client_of(server) as client:
        assert client.get("/api/review/queue").json()["counts"]["new"] == 1
    canvas.click(60, 60)  # it can be labelled again
    canvas.saved()
    assert mask_of(eyes, "5.png").any()
    page.keyboard.press("a")
    page.keyboard.press("u")  # at once: it waits for the decision, and is not lost
    page.wait_for_selector('#editor[data-ready="images/5.png"]')
    page.wait_for_selector("#save:has-text('No label yet')")
    assert not (eyes / "masks" / "5.png").exists()
    page.keyboard.press("k")


@pytest.mark.slow
def test_the_queue_shows_new_images_alone_and_counts_on(eyes, serve, open_page):
    (eyes / "masks" / "5.png").unlink()
    page = open_page(serve("eye", eyes), "/review")
    give_name(page)
    page.wait_for_selector('#editor[data-ready="images/0.png"]')
    page.keyboard.press("a")
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    assert page.text_content("#kind option:checked") == "all (6)"
    page.select_option("#kind", "new")
    page.wait_for_selector('#editor[data-ready="images/5.png"]')
    assert page.text_content("#counter") == "1 of 2"
    page.select_option("#kind", "labelled")
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    counter = page.text_content("#counter")
    page.reload()  # what was chosen stays chosen, and what was reviewed stays reviewed
    page.wait_for_selector('#editor[data-ready="images/1.png"]')
    assert page.input_value("#kind") == "labelled"
    assert page.text_content("#counter") == counter
    page.select_option("#kind", "")
    page.wait_for_selector("#counter:text-is('1 of 6')")


@pytest.mark.slow
def test_enter_takes_and_back_undoes_the_last_decision(eyes, serve, open_page):
    server = serve("eye", eyes)
    page = open_page(server, "/review", person="Ada")
    canvas = Canvas(page)
    page.route("**/propose", lambda route: route.fulfill(json={"parts": []}))

    def at(number, counter):
        page.wait_for_selector(f'#editor[data-ready="images/{number}.png"]')
        assert page.text_content("#counter") == counter

    def versions(number):
        with client_of(server) as client:
            answer = client.get(f"/api/editor/{id_of(server, f'{number}.png')}").json()
        return [row["action"] for row in answer["versions"]]

    at(0, "0 of 6")
    assert page.is_disabled("[data-tool=help]")  # there is no model
    canvas.set(canAsk=True)
    canvas.key("m")
    canvas.click(100, 100)
    page.wait_for_selector("#told:has-text('finds nothing')", state="attached")
    canvas.key("Enter", "Enter")
    page.wait_for_selector("#stage .note:has-text('Nothing to take')")
    canvas.key("p", "Enter")
    assert not page.evaluate("document.querySelector('#editor').desk.proposal")
    at(0, "0 of 6")
    assert versions(0) == []

    canvas.key("b", "Enter")
    at(1, "1 of 6")
    canvas.key("k")
    at(2, "1 of 6")
    canvas.key("u")  # the skip, not the image that was accepted before it
    at(1, "1 of 6")
    page.wait_for_selector(".note:has-text('the skip of images/1.png')")
    canvas.key("k")
    at(2, "1 of 6")
    canvas.key("u")
    at(1, "1 of 6")
    canvas.click(100, 100)
    canvas.saved()
    canvas.key("Control+z", "a")
    at(2, "2 of 6")
    assert versions(1) == ["accepted"]
    canvas.click(100, 100)
    canvas.key("a")
    at(3, "3 of 6")
    assert versions(2) == ["corrected"]
    canvas.key("u")
    at(2, "2 of 6")
    canvas.saved()
    assert not mask_of(eyes, "2.png").any()
    canvas.key("a")
    at(3, "3 of 6")
    assert versions(2) == ["corrected", "restored"]


def test_classes_are_chosen_by_key(samples, tmp_path, serve, open_page):
    data = shutil.copytree(samples["mri"], tmp_path / "mri")
    task = tasks.get("mri")
    server = serve("mri", data)
    page = open_page(server, "/review", person="Ada")
    page.wait_for_selector("#editor[data-ready]")
    name = page.get_attribute("#editor", "data-ready")
    was = task.label(next(item for item in task.items(data) if item.image == data / name))
    assert page.locator("#photo").bounding_box()["width"] > 300
    page.keyboard.press("1" if was else "2")
    page.wait_for_selector(f"#chosen:visible:has-text('{task.classes[1 - was]}')")
    page.wait_for_selector('#save[data-state="saved"][data-version="1"]')
    item = next(item for item in task.items(data) if item.image == data / name)
    assert task.label(item) == 1 - was
    page.keyboard.press("a")
    page.wait_for_selector("text=1 of")
    page.keyboard.press("u")
    page.wait_for_selector(f"#chosen:visible:has-text('{task.classes[was]}')")
    page.wait_for_selector("#versions:has-text('reopened')", state="attached")
    item = next(item for item in task.items(data) if item.image == data / name)
    assert task.label(item) == was


def test_a_proposal_is_taken_or_left(eyes, edit):
    _, canvas = edit(eyes, "4.png")
    page = canvas.page
    asked = []

    def answer(route):
        asked.append(route.request.post_data_json)
        route.fulfill(json={"parts": [{"code": 2, "runs": [10, 20, 40, 11, 20, 40]}]})

    page.route("**/propose", answer)
    canvas.set(canAsk=True)  # there is no model: the route answers for it
    canvas.key("m")
    canvas.click(30.5, 10.5)
    page.wait_for_selector("#proposal:visible")
    canvas.key("Escape")
    page.wait_for_selector("#proposal", state="hidden")
    canvas.drag((10, 5), (60, 30))
    page.wait_for_selector("#proposal:visible")
    canvas.key("Enter")
    canvas.saved()
    want = np.zeros(SIZE, np.uint8)
    want[10:12, 20:40] = IRIS
    assert (mask_of(eyes, "4.png") == want).all()
    assert asked[0]["point"] == [30, 10]
    assert np.abs(np.array(asked[1]["box"]) - (10, 5, 60, 30)).max() <= 1


def test_no_accessibility_faults(eyes, edit, serve, open_page):
    server, canvas = edit(eyes, "0.png")
    no_faults(canvas.page)
    screenshots(canvas.page, "editor")
    canvas.key("?")
    canvas.page.wait_for_selector("#keys[open]")
    no_faults(canvas.page)
    page = open_page(server, "/review")  # what is known of the image is not cut, however long
    page.wait_for_selector("#editor[data-ready]")
    page.evaluate("document.querySelector('#current .name').textContent = 'x'.repeat(200)")
    box, facts = (page.locator(s).bounding_box() for s in ("#current", "#current .facts-of"))
    assert 0 < facts["width"] <= box["width"] and facts["x"] >= box["x"]
    page = open_page(server, "/review", width=400, color_scheme="dark")
    page.wait_for_selector("#editor[data-ready]")
    no_faults(page)
    page.evaluate("document.querySelector('#model').textContent = 'an-export-' + 'x'.repeat(60)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    screenshots(page, "review")


def test_a_name_that_is_not_utf8_is_shown_and_its_label_saved(eyes, serve, open_page):
    odd = os.fsdecode(b"latin\xe9.png")
    Image.fromarray(read_raw(eyes / "images" / "0.png") // 2).save(eyes / "images" / odd)
    shutil.copy(eyes / "masks" / "0.png", eyes / "masks" / odd)
    server = serve("eye", eyes)
    page = open_page(server, "/review", person="Ada")
    page.wait_for_selector("#editor[data-ready]")
    assert page.text_content("#counter") == "0 of 7"
    with client_of(server) as client:
        found = next(
            image
            for image in client.get("/api/data/images").json()["images"]
            if "latin" in image["name"]
        )
    page.goto(f"{server.address}edit/{found['id']}")
    canvas = Canvas(page)
    canvas.set(size=31)
    canvas.click(100, 100)
    page.wait_for_selector('#save[data-state="saved"][data-version="1"]')
    page.goto(f"{server.address}")
    page.wait_for_selector("#grid:has-text('latin')")
    page.goto(f"{server.address}review")
    page.wait_for_selector("#editor[data-ready]")
    page.wait_for_selector("#counter:has-text('1 of 7')")

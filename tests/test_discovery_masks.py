"""`fastseg.new`: what mask pixels mean: codes, colours, 0/255; void codes, names and background."""

import json

import numpy as np
import pytest
from conftest import refuses
from PIL import Image, ImageFilter
from test_discovery_layouts import EYE, Writer, palette_image

import fastseg
from fastseg import tasks
from fastseg.data.images import codes_to_colours
from fastseg.types import IGNORE

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
NAMES = ("background", "sclera", "iris", "pupil")


@pytest.fixture(scope="module")
def drawn():
    return [EYE.draw(np.random.default_rng([5, number])) for number in range(6)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Writer(tmp_path / "data" / "eyes")


def write(data, drawn, make, suffix=".png", truth=lambda codes: codes):
    """Write pairs whose masks are `make(codes)`; the true codes are `truth(codes)`."""
    for number, (image, codes) in enumerate(drawn):
        name = f"masks/{number}{suffix}"
        data.pair(f"images/{number}.jpg", image, name, make(codes), truth(codes))


def by_codes(task, codes):
    """Return {class name: true code} of a task in codes, in the order of their values."""
    return dict(zip(task.classes, codes))


@pytest.mark.parametrize(
    "values",
    [(0, 1, 2, 3), (0, 7, 9, 20), (0, 50, 100, 150), (0, 85, 170, 255), (1, 2, 3, 4)],
)
def test_codes(data, drawn, values):
    write(data, drawn, lambda codes: np.array(values, np.uint8)[codes])
    fastseg.new(data.root)
    task = data.check()
    assert task.classes == ("background", "class 1", "class 2", "class 3")
    assert bool(task.codes) == (values != (0, 1, 2, 3))


@pytest.mark.parametrize("values", [(0, 300, 5000, 65535), (0, 257, 514, 771)])
def test_codes_of_16_bits(data, drawn, values):
    write(data, drawn, lambda codes: np.array(values, np.uint16)[codes])
    fastseg.new(data.root)
    data.check()


def test_equal_channels_are_codes(data, drawn):
    write(data, drawn, lambda codes: np.repeat(codes[..., None], 3, axis=2))
    fastseg.new(data.root)
    data.check()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("soft", [False, True])
def test_black_and_white(data, drawn, suffix, soft):
    def mask(codes):
        image = Image.fromarray((codes > 0).astype(np.uint8) * 255)
        return np.asarray(image.filter(ImageFilter.GaussianBlur(1)) if soft else image)

    write(data, drawn, mask, suffix, lambda codes: (codes > 0).astype(np.uint8))
    fastseg.new(data.root)
    task = data.check(tolerance=0.005 if soft or suffix == ".jpg" else 0.0)
    assert task.masks == "threshold" and task.background == 0


def test_black_and_white_with_a_class_file_of_more_classes_is_ambiguous(data, drawn):
    write(data, drawn, lambda codes: (codes > 0).astype(np.uint8) * 255)
    (data.root / "classes.txt").write_text("wall\nfloor\ndoor\n")
    with refuses("ambiguous", "classes.txt", "--pixels", "threshold", "codes"):
        fastseg.new(data.root)
    fastseg.new(data.root, pixels="threshold")
    assert tasks.get(data.root).masks == "threshold"


def test_names_of_black_and_white(data, drawn):
    write(data, drawn, lambda codes: (codes > 0).astype(np.uint8) * 255)
    (data.root / "class_names.txt").write_text("skin\neye\n")
    fastseg.new(data.root)
    assert tasks.get(data.root).classes == ("skin", "eye")


def smoothed(codes):
    """Colours at four times the size, reduced: edges are blended."""
    image = Image.fromarray(codes_to_colours(codes, COLOURS))
    height, width = codes.shape
    return np.asarray(
        image.resize((2 * width, 2 * height), 0).rotate(0.6).resize((width, height), 1)
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_colours(data, drawn, suffix):
    write(data, drawn, lambda codes: codes_to_colours(codes, COLOURS), suffix)
    fastseg.new(data.root)
    task = tasks.get(data.root)
    assert set(task.palette) == set(COLOURS) and task.classes[task.background] == "background"
    data.check(
        {name: COLOURS.index(colour) for name, colour in zip(task.classes, task.palette)},
        tolerance=0.02 if suffix == ".jpg" else 0.0,
    )


def test_blended_edges(data, drawn):
    write(data, drawn, smoothed)
    made = fastseg.new(data.root)
    task = tasks.get(data.root)
    assert set(task.palette) == set(COLOURS)
    names = {name: COLOURS.index(colour) for name, colour in zip(task.classes, task.palette)}
    data.check(names, tolerance=0.04)
    assert any("blended" in line for line in made.evidence["masks"])


@pytest.mark.parametrize(
    "file, text",
    [
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsclera:255,0,0::\n"
            "iris:0,255,0::\npupil:0,0,255::\n",
        ),
        ("label_colors.txt", "0 0 0\tbackground\n255 0 0\tsclera\n0 255 0\tiris\n0 0 255\tpupil\n"),
        (
            "class_dict.csv",
            "name,r,g,b\nbackground,0,0,0\nsclera,255,0,0\niris,0,255,0\npupil,0,0,255\n",
        ),
        (
            "meta.json",
            json.dumps(
                {
                    "classes": [
                        {"title": name, "color": "#{:02x}{:02x}{:02x}".format(*colour)}
                        for name, colour in zip(NAMES, COLOURS)
                    ]
                }
            ),
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_names_by_colour(data, drawn, file, text, suffix):
    write(data, drawn, lambda codes: codes_to_colours(codes, COLOURS), suffix)
    (data.root / file).write_text(text)
    made = fastseg.new(data.root)
    task = data.check(dict(zip(NAMES, range(4))), tolerance=0.02 if suffix == ".jpg" else 0.0)
    assert task.classes == NAMES and any(file in line for line in made.evidence["classes"])


def test_a_void_colour(data, drawn):
    void = (224, 224, 192)

    def mask(codes):
        rgb = codes_to_colours(codes, COLOURS).copy()
        rgb[:10] = void
        return rgb

    def truth(codes):
        codes = codes.copy()
        codes[:10] = IGNORE
        return codes

    write(data, drawn, mask, truth=truth)
    lines = [f"{n}:{c[0]},{c[1]},{c[2]}::" for n, c in zip((*NAMES, "void"), (*COLOURS, void))]
    (data.root / "labelmap.txt").write_text("\n".join(lines))
    fastseg.new(data.root)
    task = data.check(dict(zip(NAMES, range(4))))
    assert task.ignore == (void,)


@pytest.mark.parametrize(
    "file, text",
    [
        ("class_names.txt", "\n".join(NAMES)),
        ("classes.txt", "\n".join(NAMES[1:])),  # background is not named
        ("labels.txt", "\n".join(f"{code} {name}" for code, name in enumerate(NAMES))),
        ("labels.txt", "\n".join(["__ignore__", "_background_", *NAMES[1:]])),  # as in LabelMe
        ("data.yaml", "names: [background, sclera, iris, pupil]\n"),
        ("data.yaml", "names:\n  0: background\n  1: sclera\n  2: iris\n  3: pupil\n"),
        ("info.yaml", "label_names: [background, sclera, iris, pupil]\n"),
        ("id2label.json", json.dumps({str(code): name for code, name in enumerate(NAMES)})),
        ("classes.json", json.dumps({name: code for code, name in enumerate(NAMES)})),
    ],
)
def test_names_by_code(data, drawn, file, text):
    write(data, drawn, lambda codes: codes)
    (data.root / file).write_text(text)
    fastseg.new(data.root)
    task = data.check()
    assert [name.strip("_") for name in task.classes] == list(NAMES)
    assert task.background == 0


def test_palettes_of_png(data, drawn):
    """Codes with a palette: their own colours, and names by colour."""
    colours = [*COLOURS, *[(9, 9, 9)] * 252]
    write(data, drawn, lambda codes: palette_image(codes, colours))
    lines = [f"{n}:{c[0]},{c[1]},{c[2]}::" for n, c in zip(NAMES, COLOURS)]
    (data.root / "labelmap.txt").write_text("\n".join(lines))
    fastseg.new(data.root)
    task = data.check()
    assert task.classes == NAMES and task.palette == COLOURS and task.masks == "codes"


def test_palettes_that_differ_are_colours(data, drawn):
    """Drawing programs number the colours of each file by use."""
    for number, (image, codes) in enumerate(drawn):
        order = np.roll(np.arange(4), number)
        palette = [(0, 0, 0)] * 256
        for code in range(4):
            palette[order[code]] = COLOURS[code]
        mask = palette_image(order[codes].astype(np.uint8), palette)
        data.pair(f"images/{number}.jpg", image, f"masks/{number}.png", mask, codes)
    fastseg.new(data.root)
    task = tasks.get(data.root)
    assert task.masks == "colours"
    data.check({n: COLOURS.index(c) for n, c in zip(task.classes, task.palette)})


def bordered(codes, width=2):
    """Return where two classes touch, in lines of 2 * width px."""
    image = Image.fromarray(codes)
    low = np.asarray(image.filter(ImageFilter.MinFilter(2 * width - 1)))
    high = np.asarray(image.filter(ImageFilter.MaxFilter(2 * width - 1)))
    return low != high


@pytest.mark.parametrize("void", [4, 255])
def test_void_at_borders_only(data, drawn, void):
    def mask(codes):
        return np.where(bordered(codes), void, codes).astype(np.uint8)

    def truth(codes):
        return np.where(bordered(codes), IGNORE, codes).astype(np.uint8)

    write(data, drawn, mask, truth=truth)
    made = fastseg.new(data.root)
    task = data.check()
    assert len(task.classes) == 4 and made.evidence["ignore"]
    assert task.ignore == (() if void == 255 else (void,))


def test_255_beside_spread_greys_is_ambiguous(data, drawn):
    write(data, drawn, lambda codes: np.array((0, 40, 90, 255), np.uint8)[codes])
    with refuses("ambiguous", "--ignore 255", "--ignore none"):
        fastseg.new(data.root)
    fastseg.new(data.root, ignore="none")
    data.check()
    fastseg.new(data.root, ignore="255", force=True)
    data.truth = {p: np.where(c == 3, IGNORE, c).astype(np.uint8) for p, c in data.truth.items()}
    data.check()


def test_one_code_more_than_names_is_ambiguous(data, drawn):
    """Either code 0 is background, or the last one is void."""
    values = np.array((3, 0, 1, 2), np.uint8)
    write(data, drawn, lambda codes: values[codes], truth=lambda codes: values[codes])
    (data.root / "classes.txt").write_text("sclera\niris\npupil\n")
    with refuses("ambiguous", "classes.txt", "--ignore 3", "--ignore none"):
        fastseg.new(data.root)
    fastseg.new(data.root, ignore="3")
    data.truth = {p: np.where(c == 3, IGNORE, c).astype(np.uint8) for p, c in data.truth.items()}
    assert data.check().classes == ("sclera", "iris", "pupil")


def test_stray_pixels_make_no_class(data, drawn):
    def mask(codes):
        codes = codes.copy()
        codes[3, 3] = 9
        return codes

    write(data, drawn, mask)
    made = fastseg.new(data.root)
    assert len(tasks.get(data.root).classes) == 4
    assert any("9" in line and "stray" in line for line in made.evidence["masks"])


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value_are_refused(data, drawn, value):
    write(data, drawn, lambda codes: np.full_like(codes, value))
    with refuses("one-class", value):
        fastseg.new(data.root)


def test_the_smallest_objects_decide_the_size(data):
    """An object of 10 px in an image of 1200 px does not vanish."""
    rng = np.random.default_rng(3)
    for number in range(4):
        codes = np.zeros((900, 1200), np.uint8)
        y, x = rng.integers(50, 800, 2)
        codes[y : y + 10, x : x + 10] = 1
        image = rng.integers(90, 110, (900, 1200, 3), dtype=np.uint8)
        data.pair(f"images/{number}.jpg", image, f"masks/{number}.png", codes, codes)
    made = fastseg.new(data.root)
    recipe = made.definition["recipe"]
    assert recipe["size"][1] >= 900 and recipe["decoder_options"]["stride"] == 1
    assert recipe["bs"] >= 1 and "10 px" in made.path.read_text()


def test_a_pole_is_as_wide_as_it_is_thick():
    from fastseg.discovery.mask_values import measure

    codes = np.zeros((100, 100), np.uint8)
    codes[10:90, 50:52] = 1
    codes[10:40, 10:40] = 2
    small = measure([codes], 0).small
    assert small[1] <= 3 and 25 <= small[2] <= 31

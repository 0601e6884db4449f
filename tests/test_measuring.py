"""`measure`: drawn shapes of known size, units, ratios, groups, what is written and refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import rows_of
from PIL import Image, TiffImagePlugin
from test_data_medical import shipped

import fastseg
from fastseg.errors import DataError

SCLERA, IRIS, PUPIL = 1, 2, 3


def ellipse(shape, centre, axes, angle, spacing=(1.0, 1.0)):
    """Return a drawn ellipse, bool (H, W): centre (x, y) and full axes in px or mm, angle in
    degrees, counter-clockwise from the right.
    """
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x * spacing[1] - centre[0], centre[1] - y * spacing[0]
    turn = math.radians(angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return (along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 0.25


def save(folder: Path, name: str, codes: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(codes.astype(np.uint8)).save(folder / name)
    return folder / name


@pytest.fixture
def masks(tmp_path):
    """Two masks of eyes: an iris with a pupil in it, and two pieces of sclera; the second is empty
    but for a pupil.
    """
    codes = np.zeros((120, 160), np.uint8)
    codes[ellipse(codes.shape, (80, 60), (80, 80), 0)] = IRIS
    codes[ellipse(codes.shape, (80, 60), (40, 40), 0)] = PUPIL
    codes[50:70, :20] = SCLERA
    codes[55:65, 140:150] = SCLERA
    save(tmp_path / "masks", "set_1_frame_0.png", codes)
    save(tmp_path / "masks", "set_2_frame_0.png", np.where(codes == PUPIL, PUPIL, 0))
    return tmp_path / "masks"


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.1, 0.25), (0.3, 0.12)])
def test_drawn_ellipses_have_their_axes_and_angles(spacing, tmp_path):
    shape, sizes = (400, 400), {}
    for number, angle in enumerate((0, 25, 45, 90, 110)):
        extent = min(side * length for side, length in zip(shape, spacing))
        axes = extent * (0.5 + 0.08 * number), extent * 0.3
        middle = shape[1] * spacing[1] / 2, shape[0] * spacing[0] / 2
        drawn = ellipse(shape, middle, axes, angle, spacing)
        save(tmp_path / "masks", f"{number}.png", drawn * PUPIL)
        sizes[f"{number}.png"] = axes, angle
    text = None if spacing == (1, 1) else f"{spacing[0]}x{spacing[1]}"
    found = fastseg.measure("eye", tmp_path / "masks", spacing=text, pictures=0, out=tmp_path / "o")
    assert found["unit"] == ("px" if text is None else "mm")
    for row in found["rows"]:
        axes, angle = sizes[Path(row["image"]).name]
        assert row["major_axis"] == pytest.approx(axes[0], rel=0.01)
        assert row["minor_axis"] == pytest.approx(axes[1], rel=0.01)
        assert abs((row["angle"] - angle + 90) % 180 - 90) < 1
        assert row["area"] == pytest.approx(math.pi / 4 * axes[0] * axes[1], rel=0.01)
        assert row["diameter"] == pytest.approx(math.sqrt(axes[0] * axes[1]), rel=0.01)
        assert row["feret"] == pytest.approx(axes[0], rel=0.02)
        h = ((axes[0] - axes[1]) / (axes[0] + axes[1])) ** 2  # Ramanujan's approximation
        around = math.pi / 2 * sum(axes) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
        assert row["perimeter"] == pytest.approx(around, rel=0.06)
        assert 0.96 < row["solidity"] <= 1


def test_a_row_for_each_object_or_class(masks, tmp_path):
    found = fastseg.measure("eye", masks, tmp_path / "objects", pictures=0)
    assert [(r["class"], r["object"], r["count"]) for r in found["rows"]] == [
        ("sclera", 1, 2),
        ("sclera", 2, 2),
        ("iris", 1, 1),
        ("pupil", 1, 1),
        ("pupil", 1, 1),
    ]
    large, small, iris, pupil, _ = found["rows"]
    assert (large["area"], large["touches_border"]) == (400, True)
    assert (small["area"], small["touches_border"]) == (100, False)
    box = [small[f"box_{side}"] for side in ("x", "y", "width", "height")]
    assert box == [140, 55, 10, 10]
    assert (small["centroid_x"], small["centroid_y"]) == (144.5, 59.5)
    assert small["share"] == pytest.approx(100 / (120 * 160), rel=1e-5)
    assert small["intensity"] is None  # there is no image
    assert iris["outer_diameter"] == pytest.approx(80, rel=0.01)  # the pupil is a hole in it
    assert iris["diameter"] == pytest.approx(math.sqrt(80**2 - 40**2), rel=0.01)
    assert pupil["outer_diameter"] == pupil["diameter"] == pytest.approx(40, rel=0.01)
    assert "area_low" not in large  # masks are no predictions

    whole = fastseg.measure("eye", masks, tmp_path / "whole", whole=True, pictures=0)["rows"]
    assert [(r["class"], r["object"]) for r in whole[:3]] == [
        ("sclera", None),
        ("iris", None),
        ("pupil", None),
    ]
    assert (whole[0]["area"], whole[0]["count"], whole[0]["box_width"]) == (500, 2, 150)
    absent = {row["class"]: row for row in whole[3:]}["iris"]
    assert (absent["area"], absent["count"], absent["diameter"]) == (0, 0, None)


def test_ratios_and_distances(masks, tmp_path):
    ratios = ["pupil/iris", "pupil.diameter/iris.diameter", "pupil.area / iris.area"]
    options = dict(ratios=ratios, pictures=0)
    found = fastseg.measure("eye", masks, tmp_path / "px", **options)
    values = {row["between"]: row for row in found["between"]}  # the second image has one class
    assert len(values) == len(found["between"]) == 6
    assert values["pupil/iris"]["value"] == pytest.approx(0.5, rel=0.01)  # the iris is a ring
    plain = values["pupil.diameter/iris.diameter"]["value"]
    assert plain == pytest.approx(40 / math.sqrt(4800), rel=0.01)
    assert values["pupil.area/iris.area"]["value"] == pytest.approx(1 / 3, rel=0.02)
    assert values["distance iris to pupil"]["value"] == pytest.approx(0, abs=0.1)
    far = values["distance sclera to pupil"]
    x = (400 * 9.5 + 100 * 144.5) / 500
    assert (far["value"], far["unit"]) == (pytest.approx(80 - x, abs=0.2), "px")
    scaled = fastseg.measure("eye", masks, tmp_path / "mm", spacing="0.2x0.5", **options)
    values = {row["between"]: row for row in scaled["between"]}
    assert values["distance sclera to pupil"]["value"] == pytest.approx(0.5 * far["value"], abs=0.1)
    assert values["pupil/iris"]["value"] == pytest.approx(0.5, rel=0.01)


def test_the_command_writes_tables_pictures_and_page(run, samples, exports, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for image in sorted((samples["eye"] / "imgs_small").iterdir())[:5]:
        shutil.copy(image, photos)
    export, options = exports("eye"), ["--whole", "--ratio", "pupil/iris", "--by", "group"]
    out = run("measure", export, "photos", *options, "--parquet", "--pictures", 2).out
    folder = tmp_path / "photos_measures"
    assert "photos_measures/summary.html" in out and "with 90 % intervals" in out
    rows = rows_of(folder / "measures.csv")
    count = len(list(photos.iterdir()))
    assert len(rows) == 3 * count and len(list((folder / "pictures").iterdir())) == 2
    assert {row["group"] for row in rows} == {f"set_{n}" for n in {r["group"][4:] for r in rows}}
    present = [row for row in rows if float(row["area"])]
    for row in present:
        for measure in ("area", "diameter", "intensity", "feret"):
            if row[f"{measure}_low"]:
                low, high = float(row[f"{measure}_low"]), float(row[f"{measure}_high"])
                assert 0 <= low <= float(row[measure]) <= high
    page = (folder / "summary.html").read_text()
    assert "pupil/iris" in page and "http" not in page.replace("http-equiv", "")
    parquet = pytest.importorskip("pyarrow.parquet").read_table(folder / "measures.parquet")
    assert parquet.num_rows == len(rows) and parquet["area"].type == "double"
    again = json.loads(run("measure", export, "photos", "--whole", "--json").out)
    assert len(again["rows"]) == len(rows) and again["unit"] == "px"
    assert [row["area"] for row in again["rows"]] == [float(row["area"]) for row in rows]
    assert {mean["measure"] for mean in again["groups"]} >= {"area", "diameter", "value"}
    assert not (folder / "measures.parquet").exists()  # the earlier results are replaced


def test_masks_without_objects_have_a_table_without_rows(run, tmp_path):
    save(tmp_path / "blank", "a.png", np.zeros((40, 40)))
    told = run("measure", "eye", "blank", "--masks", "--out", "out").out
    assert "0 objects in 1 mask" in told
    assert (tmp_path / "out/measures.csv").read_text().startswith("image,class,object,unit,area")


def test_groups_of_one_image_are_told(run, masks):
    told = run("measure", "eye", masks, "--by", "set_(.)")
    assert "each of the 2 groups has one image" in told.err
    assert "each of" not in run("measure", "eye", masks).err


def test_an_export_without_residuals_measures_and_says_why(run, samples, exports, tmp_path):
    export = tmp_path / "earlier"
    shutil.copytree(exports("eye"), export)
    card = json.loads((export / "card.json").read_text())
    assert set(card.pop("measures")) == {"whole", "objects", "between", "found"}
    (export / "card.json").write_text(json.dumps(card))
    image = next((samples["eye"] / "imgs_small").iterdir())
    told = run("measure", export, image, "--out", "a", "--whole")
    assert "no residuals of measures" in told.err and "--calibrate" in told.err
    assert "area_low" not in rows_of(tmp_path / "a/measures.csv")[0]
    given = ["--calibrate", "--data", samples["eye"], "--level", 0.5]
    now = json.loads(run("measure", export, image, "--out", "b", "--whole", *given, "--json").out)
    then = run("measure", exports("eye"), image, "--out", "c", "--whole", "--level", 0.5, "--json")
    assert now["rows"] == json.loads(then.out)["rows"]  # as the fit calibrated it
    assert now["intervals"] is None
    few = run("measure", export, image, "--out", "d", *given[:3], "--level", 0.999)
    assert "are too few for intervals of 99.9 %" in few.err


def test_a_damaged_card_is_refused(run, exports, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(exports("eye"), export)
    card = json.loads((export / "card.json").read_text())
    whole = card["measures"]["whole"]
    name = next(iter(whole))
    for wrong in ({"scores": "2 1"}, {"scale": "own"}, {"count": 0}, {"bias": "x"}):
        whole[name] = {"area": {**whole[name]["area"], **wrong}}
        (export / "card.json").write_text(json.dumps(card))
        run("measure", export, export / "show_results.png", error="damaged-card")


def test_true_masks_rectify_means(samples, exports, tmp_path):
    images, labels = samples["eye"] / "imgs_small", samples["eye"] / "masks_small"
    (tmp_path / "truth").mkdir()
    for mask in sorted(labels.iterdir())[:12]:
        shutil.copy(mask, tmp_path / "truth")
    options = dict(whole=True, pictures=0, out=tmp_path / "out")
    found = fastseg.measure(exports("eye"), images, truth=tmp_path / "truth", **options)
    means = {(m["class"], m["measure"]): m for m in found["groups"]}
    predicted = {Path(r["image"]).stem: r["area"] for r in found["rows"] if r["class"] == "iris"}
    true = fastseg.measure("eye", tmp_path / "truth", **options)["rows"]
    true = {Path(r["image"]).stem: r["area"] for r in true if r["class"] == "iris"}
    labelled = np.mean(list(true.values()))
    bias = np.mean([true[name] - predicted[name] for name in true])
    rest = np.mean([area for name, area in predicted.items() if name not in true])
    area = means["iris", "area"]
    low, high = sorted((labelled, rest + bias))  # a weight of 0, and of 1
    assert low * 0.999 <= area["mean"] <= high * 1.001
    assert (area["labelled"], area["images"]) == (12, len(predicted))
    assert area["low"] < area["mean"] < area["high"]
    for mask in labels.iterdir():
        shutil.copy(mask, tmp_path / "truth")
    found = fastseg.measure(exports("eye"), images, truth=tmp_path / "truth", **options)
    true = fastseg.measure("eye", labels, **options)["rows"]
    for name in ("iris", "pupil"):  # the truth alone counts, also where a class is not found
        mean = next(m for m in found["groups"] if (m["class"], m["measure"]) == (name, "diameter"))
        values = [row["diameter"] for row in true if row["class"] == name and row["area"]]
        assert mean["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        assert mean["labelled"] == mean["images"] == len(values)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(next(images.iterdir()), tmp_path / folder)
    shared = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(DataError, match="have the same name"):
        fastseg.measure(exports("eye"), shared, truth=tmp_path / "truth", **options)


def tagged(path: Path, **tags) -> Path:
    """Save an empty mask as TIFF with tags."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[{"description": 270, "x": 282, "y": 283, "unit": 296}[name]] = value
    codes = np.zeros((60, 80), np.uint8)
    codes[10:30, 10:30] = PUPIL
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(codes).save(path, tiffinfo=info)
    return path


OME = '<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="250" PhysicalSizeYUnit="nm"/></OME>'


@pytest.mark.parametrize(
    "tags, sides",
    [
        ({"x": 50.0, "y": 25.0, "unit": 3}, (0.4, 0.2)),  # pixels a cm
        ({"x": 2.0, "y": 2.0, "description": "ImageJ=1.53\nunit=micron\n"}, (5e-4, 5e-4)),
        ({"description": OME}, (2.5e-4, 5e-4)),
        ({"description": OME.replace("nm", "µm").encode()}, (0.25, 5e-4)),
        ({"description": OME.replace('"', "'")}, (2.5e-4, 5e-4)),
        ({"x": 254.0, "y": 254.0, "unit": 2}, (0.1, 0.1)),  # dots an inch
    ],
)
def test_spacing_comes_from_headers(tags, sides, tmp_path):
    path = tagged(tmp_path / "masks/a.tif", **tags)
    found = fastseg.measure("eye", path, mm=True, masks=True, pictures=0, out=tmp_path / "out")
    (row,) = found["rows"]
    assert row["area"] == pytest.approx(400 * sides[0] * sides[1], rel=1e-5)
    sizes = row["box_height"] / 20, row["box_width"] / 20
    assert sizes == pytest.approx(sides, rel=1e-5)


def test_a_turned_photograph_has_a_turned_spacing(tmp_path):
    from fastseg.measuring.spacing import header_of

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", dpi=(254, 127), exif=exif)
    assert header_of(tmp_path / "x.jpg").spacing == pytest.approx((0.1, 0.2))
    assert header_of(shipped("CT_small.dcm")).spacing == pytest.approx((0.661, 0.661))


@pytest.mark.parametrize("name", ["eye", "kitchen", "face", "surfaces"])
def test_images_and_masks_are_told_apart(name, samples):
    from fastseg.measuring.inputs import are_masks

    task = fastseg.tasks.get(name)
    items = task.items(samples[name])
    assert not are_masks(task, [item.image for item in items])
    assert are_masks(task, [item.label for item in items])


def test_bad_input_is_one_line_and_nothing_is_written(run, masks, samples, exports, tmp_path):
    def refused(*arguments, error):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        told = run("measure", *arguments, "--out", "out", error=error).message
        assert "\n" not in told
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert {p: t for p, t in after.items() if p.is_file()} == {
            p: t for p, t in before.items() if p.is_file()
        }
        assert not (tmp_path / "out").exists()
        return told

    refused("mri", masks, error="no-masks")
    refused("eye", masks, "--mm", error="no-spacing")
    refused("eye", masks, "--spacing", "wide", error="spacing")
    refused("eye", masks, "--spacing", "0.1x0.2x0.3", error="spacing")
    refused("eye", masks, "--spacing", "-1", error="spacing")
    refused("eye", masks, "--ratio", "pupil", error="ratio")
    assert "did you mean pupil" in refused(
        "eye", masks, "--ratio", "pupi/iris", error="unknown-class"
    )
    refused("eye", masks, "--ratio", "pupil.size/iris.size", error="unknown-measure")
    refused("eye", masks, "--ratio", "background/iris", error="unknown-class")
    refused("eye", masks, "--level", "1.5", error="option-range")
    refused("eye", masks, "--truth", masks, error="truth-of-masks")
    refused("eye", masks, "--table", "x.csv", error="table-without-by")
    refused("eye", tmp_path / "nowhere", error="no-such-path")
    odd = tmp_path / "odd"
    save(odd, "a.png", np.eye(40) * 7)
    assert "other than" in refused("eye", odd, error="unknown-codes")
    save(tmp_path / "blank", "a.png", np.zeros((40, 40)))
    assert "--masks" in refused("eye", tmp_path / "blank", error="images-or-masks")
    table = tmp_path / "groups.csv"
    table.write_text("image,arm\nset_1_frame_0.png,a\n")
    told = refused("eye", masks, "--by", "arm", "--table", table, error="incomplete-table")
    assert "set_2_frame_0.png" in told
    tagged(tmp_path / "scans/a.tif", x=100.0, y=100.0, unit=3)
    scans = [tmp_path / "scans", "--masks"]
    refused("eye", *scans, "--spacing", "0.2", error="contradicting-spacing")
    tagged(tmp_path / "scans/b.tif")
    refused("eye", *scans, "--mm", error="mixed-spacings")
    images = samples["eye"] / "imgs_small"
    refused(exports("eye"), images, "--truth", tmp_path / "odd", error="no-truth")
    (tmp_path / "photos").mkdir()
    shutil.copy(next(images.iterdir()), tmp_path / "photos/a.jpg")
    (tmp_path / "photos/b.jpg").write_bytes(b"no image")
    refused(exports("eye"), tmp_path / "photos", "--images", error="unreadable-image")
    shutil.copy(next(images.iterdir()), tmp_path / "clip.mp4")
    assert "--measure" in refused("eye", tmp_path / "clip.mp4", error="video-to-measure")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    run("measure", "eye", masks, "--out", "mine", error="not-empty")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
    shutil.copytree(masks, tmp_path / "album/pictures")  # named as a folder of results
    run("measure", "eye", "album/pictures", "--out", "album", error="not-empty")
    assert len(list((tmp_path / "album/pictures").iterdir())) == 2

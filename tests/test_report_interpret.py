"""interpret: its object, page and tables; the pages of show."""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import rows_of
from matplotlib.figure import Figure

import fastseg
from fastseg import tasks
from fastseg.errors import DataError
from fastseg.report import browse, painting, panels, results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eye", "mri"])
def test_the_object_is_like_fastais_interpretation(name, exports, tmp_path):
    found = fastseg.interpret(name, export=exports(name), out=tmp_path / "look")
    for figure in (
        found.plot_confusion_matrix(),
        found.plot_top_losses(2),
        found.plot_reliability(),
        found.plot_per_class(),
    ):
        assert isinstance(figure, Figure)
    confused = found.most_confused()
    assert confused == sorted(confused, key=lambda entry: -entry[2]) and all(
        true != said for true, said, _ in confused
    )
    assert [image.loss for image in found.top_losses(3)] == sorted(
        found.losses.values(), reverse=True
    )[:3]
    ranked = found.ranked()
    assert max(i.error for i in ranked["best"]) <= min(i.error for i in ranked["worst"])
    suspected = rows_of(tmp_path / "look" / "suspects.csv")
    assert [row["image"] for row in suspected] == [image.name for image in found.suspects()]
    images = {row["image"]: row for row in rows_of(tmp_path / "look" / "images.csv")}
    assert {name for name, row in images.items() if row["needs_review"] == "True"} == {
        i.name for i in found.needing_review()
    }
    assert found.reliability[:, 0].sum() == (sum(map(sum, found.metrics["confusion"])))


@pytest.mark.slow
def test_every_split_can_be_interpreted(exports, samples, run):
    said = json.loads(
        run(
            "interpret",
            "eye",
            "--export",
            exports("eye"),
            "--split",
            "all",
            "--out",
            "look",
            "--json",
        ).out
    )
    held_out = json.loads((exports("eye") / "card.json").read_text())["valid_files"]
    warned = re.findall(r'<p class="warning">(\d+) ', Path("look/report.html").read_text())
    assert len(said["losses"]) == 16 and warned == [str(16 - len(held_out))]


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (dict(freeze_epochs=1), "2 + 1 of the head"),
        (dict(freeze=True), "3 of the head alone: the backbone is frozen"),
    ],
)
def test_the_page_names_export_date_images_and_epochs(training, told, exports, run, tmp_path):
    export = shutil.copytree(exports("mri"), tmp_path / "second_try")
    card = json.loads((export / "card.json").read_text())
    card["training"].update(trained_epochs=3, **training)
    (export / "card.json").write_text(json.dumps(card))
    data = exports("mri") / card["data"]
    run("interpret", "mri", "--data", data, "--export", export, "--out", "look")
    page = Path("look/report.html").read_text()
    assert "<title>mri: second_try, " in page and card["created"][:10] in page.split("<nav")[0]
    assert f"<dd>{told}</dd>" in page and "trained epochs" not in page


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to open the page with")
@pytest.mark.parametrize("name", ["eye", "mri"])
def test_the_page_works_in_a_browser(name, exports, tmp_path):
    """A script appended to the page checks toggles and slider; no console message, no request."""
    fastseg.interpret(name, export=exports(name), out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    probe = """<script>{
    const seen = [];
    const box = document.querySelector("[data-class]"), slider = document.getElementById("opacity");
    if (box) {
      const layers = [...document.querySelectorAll(".layer-" + box.dataset.class)];
      box.click(); seen.push(layers.every(layer => getComputedStyle(layer).display === "none"));
      box.click(); seen.push(layers.every(layer => getComputedStyle(layer).display !== "none"));
      slider.value = 20; slider.dispatchEvent(new Event("input"));
      const painted = [...document.querySelectorAll(".layer")];
      seen.push(painted.every(layer => getComputedStyle(layer).opacity === "0.2"));
    }
    seen.push([...document.images].every(image => image.naturalWidth > 0));
    seen.push(document.documentElement.scrollWidth <= innerWidth);
    const requests = performance.getEntriesByType("resource");
    seen.push(requests.every(entry => entry.name.startsWith("data:")));
    document.title = "probe " + seen.join(" ");
    }</script>"""
    (tmp_path / "probe.html").write_text(page.replace("</body>", f"{probe}</body>"))
    arguments = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        "--window-size=500,900",
        "--virtual-time-budget=4000",
        "--dump-dom",
        f"file://{tmp_path / 'probe.html'}",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title.startswith("probe ") and "false" not in title, title
    assert "CONSOLE" not in done.stderr, done.stderr


def test_show_by_class_wrong_ones_and_a_page(exports, samples, run):
    run(
        "show",
        "eye",
        "--data",
        samples["eye"],
        "--class",
        "pupil",
        "--rows",
        "3",
        "--out",
        "eye.html",
    )
    page = Path("eye.html").read_text()
    assert "<h1>eye: 3 of 16 labelled images, with pupil</h1>" in page
    assert page.count('class="line"') == 3 and "http" not in page.replace("http-equiv", "")
    run("show", "eye", "--wrong", "--export", exports("eye"), "--rows", "2", "--out", "wrong.html")
    assert Path("wrong.html").read_text().count("errors") >= 2
    run("show", "mri", "--data", samples["mri"], "--class", "sharp", "--rows", "1")
    near = run("show", "eye", "--data", samples["eye"], "--class", "pupl", error="unknown-class")
    assert near.details["suggested"][0] == "pupil"


def test_errors_are_drawn_by_their_kind():
    truth, codes = np.array([[0, 0, 1, 1, 255]], np.uint8), np.array([[0, 1, 0, 2, 1]], np.uint8)
    kinds = painting.wrong_pixels(truth, codes, 0)
    assert [list(np.flatnonzero(where)) for where in kinds.values()] == [[2], [1], [3]]
    drawn = painting.error_map(np.zeros((1, 5, 3), np.uint8), truth, codes, 0)
    assert [tuple(drawn[0, i]) for i in (2, 1, 3)] == list(painting.ERRORS.values()) and (
        drawn[0, [0, 4]] == 150
    ).all()


def test_tasks_without_a_background_have_colours():
    for name in tasks.names():
        colours = painting.class_colours(tasks.get(name))
        assert len(colours) == len(set(colours)) == len(tasks.get(name).classes)


@pytest.mark.parametrize(("classes", "least"), [(8, 60), (21, 30), (80, 10), (150, 5)])
def test_many_classes_have_colours_that_differ(classes, least):
    task = tasks.declared.task_from({"classes": [f"class {i}" for i in range(classes)]})
    for found in (painting.class_colours(task), task.palette):
        colours = np.array(found, dtype=float)
        distance = np.linalg.norm(colours[:, None] - colours, axis=2)
        assert distance[~np.eye(classes, dtype=bool)].min() >= least


def test_results_are_not_written_among_the_data(exports, samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    before = sorted(data.rglob("*"))
    common = ["eye", "--data", data, "--export", exports("eye"), "--split", "all", "--out"]
    for command in (
        ["interpret", *common, data / "imgs_small"],
        ["evaluate", *common, data / "masks_small"],
        ["show", "eye", "--data", data, "--out", data / "imgs_small" / "grid.png"],
    ):
        assert "--out" in run(*command, error="output-in-data").message
    run("evaluate", *common, exports("mri"), error="holds-export")
    assert sorted(data.rglob("*")) == before


def test_dollar_signs_and_class_names_are_taken_literally(capsys):
    from fastseg.cli import results as printed
    from fastseg.metrics import figures
    from fastseg.report import charts

    figure = charts.confusion([[3, 1], [0, 2]], ["$x^", "cost $"], "pixels")
    figure.savefig(io.BytesIO(), format="png")
    panels.grid(
        [[panels.Panel(np.zeros((9, 9, 3), np.uint8), "$\\frac$.jpg")]], title="$a$"
    ).savefig(io.BytesIO(), format="png")
    counts = np.array([[5, 1, 0], [0, 7, 0], [2, 0, 9]])
    classes = ("background", "foreground", "mean")
    tree = figures.to_json(figures.segmentation(counts, np.zeros((3, 8)), classes, 0))
    for name, pixels in zip(classes, counts.sum(axis=1)):
        tree["classes"][name] = {"pixels": int(pixels), **tree["classes"][name]}
    printed.figures(tree)
    shown = capsys.readouterr().out
    assert f"{tree['classes']['foreground']['dice']:.4f}" in shown and "foreground mean" in shown


@pytest.mark.slow
def test_names_that_are_not_utf8(exports, samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    for folder, suffix in (("imgs_small", ".jpg"), ("masks_small", ".png")):
        first = sorted((data / folder).iterdir())[0]
        try:
            os.rename(os.fsencode(first), os.fsencode(first.parent) + b"/caf\xe9" + suffix.encode())
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    common = ["eye", "--data", data, "--export", exports("eye"), "--split", "all"]
    run("evaluate", *common, "--out", "judged")
    assert b"caf\xe9" in Path("judged/per_image.csv").read_bytes()
    run("predict", "eye", data / "imgs_small", "--export", exports("eye"), "--out", "masks")
    assert b"caf\xe9" in Path("masks/predictions.csv").read_bytes()
    run("interpret", *common, "--out", "look")
    run("show", "eye", "--data", data, "--rows", "16", "--out", "all.html")
    run("show", "eye", "--data", data, "--rows", "16", "--out", "all.png")


def test_a_file_that_vanishes_between_two_passes_is_named(exports, samples, tmp_path, monkeypatch):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    seen = results.analyse

    def then_vanishes(*arguments):
        found = seen(*arguments)
        for image in found.images:
            image.item.image.unlink()
        return found

    monkeypatch.setattr(results, "analyse", then_vanishes)
    with pytest.raises(DataError) as error:
        fastseg.interpret("eye", data, export=exports("eye"), split="all", out=tmp_path / "look")
    assert error.value.code == "no-such-image"


def test_an_image_that_vanishes_while_the_wrong_ones_are_found_is_named(
    exports, samples, tmp_path, monkeypatch
):
    data = shutil.copytree(samples["eye"], tmp_path / "eye")
    score_images = browse.score_images

    def then_vanishes(predictor, items, root):
        yield from list(score_images(predictor, items, root))
        for item in items:
            item.image.unlink()

    monkeypatch.setattr(browse, "score_images", then_vanishes)
    with pytest.raises(DataError) as error:
        fastseg.show("eye", data, export=exports("eye"), wrong=True, out=tmp_path / "wrong.png")
    assert error.value.code == "no-such-image"
    assert not (tmp_path / "wrong.png").exists()

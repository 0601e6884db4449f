"""The command line: every command on every task, its files and its output."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import ARCH, size_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.cli.app import app

COMMANDS = [
    "tasks",
    "sample",
    "new",
    "show",
    "check",
    "backbones",
    "lr",
    "fit",
    "study",
    "tune",
    "export",
    "restore",
    "pack",
    "push",
    "pull",
    "evaluate",
    "interpret",
    "predict",
    "segment",
    "measure",
    "next",
    "add",
    "label",
    "app",
    "serve",
    "masks",
    "convert",
    "adopt",
    "gather",
]
SMALL = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4"]
segmenting = [name for name in tasks.names() if tasks.get(name).kind == "segment"]


def words(text: str) -> str:
    return "".join(text.split())


def test_every_command_has_help_with_an_example(run):
    group = typer.main.get_command(app)
    overview = run("--help").out
    assert [c.name or c.callback.__name__ for c in app.registered_commands] == COMMANDS
    for command in COMMANDS:
        assert command in overview
        text = run(command, "--help").out
        assert f"Example: fastseg {command}" in text
        helped = group.commands[command]
        told = [helped.help, *(p.help for p in helped.params)]  # each paragraph is wrapped
        assert all(told) and [t for t in told if words(t) not in words(text)] == []
        options = [p.opts[-1] for p in helped.params if p.param_type_name == "option"]
        assert set(options) - set(re.split(r"[\s/,]+", text)) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["tasks"], ["fit", "--help"], ["sample", "--help"]]
)
def test_light_commands_import_no_numpy_or_torch(arguments, tmp_path):
    code = (
        f"import sys; sys.argv = ['fastseg', *{arguments}]\n"
        "from fastseg.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'fastai', 'timm', 'numpy', 'pandas', 'matplotlib', 'scipy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_python_dash_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastseg", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"fastseg {fastseg.__version__}"


def test_exit_codes(run):
    run("tasks")
    run("fit", "nothing", error="unknown-task")
    run("fit", code=2)
    run("fit", "eye", "--no-such-option", code=2)
    assert "--size" in run("fit", "eye", "--size", "big", code=2).err
    run("segment", code=2)


def test_tasks_shows_data_and_exports(run, tmp_path):
    before = {row["task"]: row for row in json.loads(run("tasks", "--json").out)}
    assert before["eye"]["data_state"] == "data/eye: not there" and before["eye"]["export"] is None
    run("sample", "eye", "--n", "8")
    run("fit", "eye", *SMALL, "--epochs", "1")
    after = {row["task"]: row for row in json.loads(run("tasks", "--json").out)}
    assert after["eye"]["images"] == {"images": 8} and after["eye"]["export"] == "exports/eye"
    assert "sclera" in run("tasks").out


def test_the_table_of_tasks_is_narrow_whatever_the_data_are(run, samples, tmp_path):
    for name in tasks.names():
        shutil.copytree(samples[name], tmp_path / "data" / name)
    assert max(map(len, run("tasks").out.splitlines())) <= 92  # 100 with counts of four digits
    shutil.rmtree(tmp_path / "data" / "face")
    (tmp_path / "data" / "face").mkdir()
    (tmp_path / "data" / "face" / "README.md").touch()
    Image.new("RGB", (32, 32)).save(tmp_path / "data" / "face" / "study.png")
    for mask in (tmp_path / "data" / "eye" / "masks_small").iterdir():
        mask.unlink()
    states = {row["task"]: row["data_state"] for row in json.loads(run("tasks", "--json").out)}
    assert (states["face"], states["eye"]) == ("data/face: not there", "data/eye: faulty")
    shown = run("tasks")
    assert max(map(len, shown.out.splitlines())) <= 92
    assert "masks_small" in shown.err and "face: " not in shown.err


@pytest.mark.slow
@pytest.mark.full_pictures
def test_a_newcomers_first_commands(run, tmp_path):
    """No option but speed's: sample, show, lr, fit, evaluate, predict, interpret in one folder."""
    assert "next: fastseg fit eye" in run("sample", "eye", "--n", "12").out
    run("show", "eye")
    assert size_of("eye_show.png")[0] > 300
    suggestion = re.search(r"suggested learning rate: ([\d.e+-]+)", run("lr", "eye", *SMALL).out)
    assert 0 < float(suggestion[1]) < 10 and size_of("eye_lr_find.png")[0] > 300
    fitted = run("fit", "eye", *SMALL, "--epochs", "2", "--lr", "auto")
    assert (
        "foreground" in fitted.out
        and "export: exports/eye" in fitted.out
        and "epoch 2/2" in fitted.err
    )
    result = json.loads(run("evaluate", "eye", "--json").out)
    held_out = json.loads(Path("exports/eye/card.json").read_text())["valid_files"]
    eye = tasks.get("eye")
    masks = [
        eye.label(i) for i in eye.items("data/eye") if f"imgs_small/{i.image.name}" in held_out
    ]
    assert result["classes"]["iris"]["pixels"] == np.sum(np.array(masks) == 2) > 0
    assert (
        run("predict", "eye", "data/eye/imgs_small").out.strip()
        == "12 files in imgs_small_inf_masks"
    )
    listed = run("interpret").out
    for name in (
        "show_results.png",
        "top_losses.png",
        "confusion_matrix.png",
        "per_class.png",
        "report.html",
    ):
        assert (tmp_path / "exports" / "eye" / name).is_file() and f"exports/eye/{name}" in listed


@pytest.mark.parametrize("name", segmenting)
def test_predict_writes_masks_of_the_images_own_sizes_in_the_tasks_format(
    name, exports, run, tmp_path
):
    task = tasks.get(name)
    (tmp_path / "test").mkdir()
    sizes = {"a": (50, 70), "b": (131, 64), "c": (240, 320)}
    for stem, size in sizes.items():
        image, _ = task.draw(np.random.default_rng(1))
        Image.fromarray(image).resize(size[::-1]).save(tmp_path / "test" / f"{stem}.jpg")
    before = {p: p.read_bytes() for p in (tmp_path / "test").iterdir()}
    run("predict", name, "test/", "--export", exports(name), "--overlay")
    for stem, size in sizes.items():
        mask = Image.open(
            tmp_path / "test_inf_masks" / f"{stem}{'.jpg' if task.output == 'overlay' else '.png'}"
        )
        mask.load()  # closes the file
        assert mask.size == size[::-1]
        assert size_of(tmp_path / "test_inf_masks" / "overlays" / f"{stem}.jpg") == size[::-1]
        if task.output == "colours":
            assert {tuple(c) for c in np.asarray(mask).reshape(-1, 3)} <= set(task.palette)
        if task.output == "codes":
            assert mask.mode == "L" and np.asarray(mask).max() < len(task.classes)
    assert {p: p.read_bytes() for p in (tmp_path / "test").iterdir()} == before


def test_predict_takes_files_folders_globs_and_one_output_file(exports, samples, run, tmp_path):
    folder = samples["eye"] / "imgs_small"
    files = sorted(folder.iterdir())
    export = ["--export", exports("eye")]
    run("predict", "eye", files[0], files[1], *export, "--out", "two")
    assert len(list((tmp_path / "two").glob("*.png"))) == 2
    rows = list(csv.DictReader((tmp_path / "two" / "predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [str(file) for file in files[:2]]
    assert sum(
        float(rows[0][f"share_{name}"]) for name in tasks.get("eye").classes
    ) == pytest.approx(1, abs=1e-5)
    assert {row["needs_review"] for row in rows} <= {"True", "False"}
    run("predict", "eye", folder / "set_1_*.jpg", *export, "--out", "globbed")
    assert {p.stem for p in (tmp_path / "globbed").glob("*.png")} == {
        f.stem for f in files if f.stem.startswith("set_1_")
    }
    run("predict", "eye", files[0], *export, "--out", "one.png")
    assert (
        np.asarray(Image.open("one.png"))
        == np.asarray(Image.open(tmp_path / "two" / f"{files[0].stem}.png"))
    ).all()
    listed = json.loads(run("predict", "eye", folder, *export, "--json").out)
    assert len(listed["written"]) == len(files) + 1 and listed["written"][-1].endswith(
        "predictions.csv"
    )


def test_mri_table_has_the_columns_and_order_of_the_folders(exports, samples, run):
    folder = samples["mri"] / "validation"
    run("predict", "mri", folder, "--export", exports("mri"))
    written, true = (
        [*csv.reader(Path(p).read_text().splitlines(), delimiter="\t")]
        for p in ("validation_inf_subjects.tsv", folder / "subjects.tsv")
    )
    assert written[0] == ["Subject", "Label"] and [r[0] for r in written] == [r[0] for r in true]
    assert {r[1] for r in written[1:]} <= {"0", "1"}


@pytest.mark.parametrize("name", tasks.names())
def test_evaluate_and_interpret_each_task(name, exports, samples, run, tmp_path):
    result = json.loads(run("evaluate", name, "--export", exports(name), "--json").out)
    assert result["split"] == "valid" and list(result["classes"]) == list(tasks.get(name).classes)
    counts = np.array(result["confusion"])
    if tasks.get(name).kind == "segment":
        assert result["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    everything = json.loads(
        run(
            "evaluate",
            name,
            "--data",
            samples[name],
            "--split",
            "all",
            "--export",
            exports(name),
            "--json",
        ).out
    )
    assert everything["images"] > result["images"]
    listed = json.loads(
        run("interpret", name, "--export", exports(name), "--out", "look", "--json").out
    )
    for file in listed["files"]:
        assert (tmp_path / file).stat().st_size > 0
    assert len(listed["losses"]) == result["images"]
    page = (tmp_path / "look" / "report.html").read_text()
    assert (
        not re.search(r"https?:|//", re.sub(r"data:image/[a-z+]+;base64,[^\")]*", "", page))
        and "random weights" in page
    )


def test_metrics_against_scikit_learn(exports, samples, run):
    from sklearn.metrics import f1_score, jaccard_score

    task = tasks.get("eye")
    result = json.loads(
        run(
            "evaluate",
            "eye",
            "--split",
            "all",
            "--data",
            samples["eye"],
            "--export",
            exports("eye"),
            "--json",
        ).out
    )
    run("predict", "eye", samples["eye"] / "imgs_small", "--export", exports("eye"))
    items = task.items(samples["eye"])
    truth = np.concatenate([task.label(i).reshape(-1) for i in items])
    said = np.concatenate(
        [
            np.asarray(Image.open(f"imgs_small_inf_masks/{i.image.stem}.png")).reshape(-1)
            for i in items
        ]
    )
    dice, iou = (
        f1_score(truth, said, average=None, labels=range(4)),
        jaccard_score(truth, said, average=None, labels=range(4)),
    )
    for code, name in enumerate(task.classes):
        assert result["classes"][name]["iou"] == pytest.approx(iou[code])
        assert result["classes"][name]["dice"] == pytest.approx(dice[code])
    assert result["mean_foreground"]["dice"] == pytest.approx(dice[1:].mean())
    assert result["mean_with_background"]["iou"] == pytest.approx(iou.mean())


def test_segment_a_file(exports, samples, run):
    image = tasks.get("surfaces").items(samples["surfaces"])[0].image
    out = run(
        "segment", image, "--export", exports("surfaces"), "--surname", "Doe", "--name", "Jane/.."
    ).out
    path = out.strip().splitlines()[-1]
    assert re.fullmatch(r"output/Doe_Jane__\d{8}-\d{6}\.jpg", path)
    assert size_of(path) == size_of(image)
    shares = [float(line.split()[-1].rstrip("%")) for line in out.strip().splitlines()[:-1]]
    assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=0.3)


def test_segment_script_is_the_command(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "segment.py"
    done = subprocess.run(
        [sys.executable, script, "--url", "ftp://x/y.jpg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "error:" in done.stderr and "Traceback" not in done.stderr

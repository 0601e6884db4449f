"""User mistakes: one line that names file, value and remedy; exit 1; no partial output."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCH
from PIL import Image

from fastseg import tasks

FIT = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4", "--epochs", "1"]


@pytest.fixture
def data(samples, tmp_path):
    """A private copy of a task's sample, to be damaged."""
    return lambda name: shutil.copytree(samples[name], tmp_path / "data" / name)


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def test_unknown_task(fails):
    fails(
        "fit",
        "eyes",
        code="unknown-task",
        values=["eyes", "kitchen", "surfaces"],
        suggested="eye",
    )


@pytest.mark.parametrize("name", tasks.names())
def test_missing_and_empty_data_folder(fails, tmp_path, name):
    fails("fit", name, *FIT, code="no-data", values=[f"data/{name}", f"fastseg sample {name}"])
    (tmp_path / "data" / name).mkdir(parents=True)
    fails("fit", name, *FIT, code="no-data", values=[f"data/{name}", f"fastseg sample {name}"])
    (tmp_path / "data" / name / "notes.txt").write_text("x")
    fails("fit", name, *FIT, code="no-data", values=[f"data/{name}"])


def test_image_without_mask_and_mask_without_image(fails, data):
    folder = data("eye")
    first(folder, "masks_small/*").unlink()
    fails(
        "fit",
        "eye",
        *FIT,
        code="no-partner",
        values=["imgs_small/set_0_frame_0.jpg"],
    )
    first(folder, "imgs_small/*").unlink()
    first(folder, "imgs_small/*").unlink()
    fails("fit", "eye", *FIT, code="no-partner", values=["masks_small/set_0_frame_1.png"])


def test_sizes_differ(fails, data):
    mask = first(data("eye"), "masks_small/*")
    Image.open(mask).resize((100, 90), Image.NEAREST).save(mask)
    fails("fit", "eye", *FIT, code="size-mismatch", values=[mask.name, "100x90", "320x240"])


def test_codes_outside_the_classes(fails, data):
    folder = data("eye")
    mask = first(folder, "masks_small/*")
    Image.fromarray(np.full((240, 320), 7, np.uint8)).save(mask)
    fails("fit", "eye", *FIT, code="unknown-codes", values=[mask.name, 7, 76800, 0, 3])


def test_colour_mask_for_codes_and_unknown_colours(fails, data):
    mask = first(data("eye"), "masks_small/*")
    Image.fromarray(
        np.dstack([np.asarray(Image.open(mask)) * 60, np.zeros((240, 320, 2), np.uint8)])
    ).save(mask)
    fails("fit", "eye", *FIT, code="unknown-colours", values=[mask.name, "(60, 0, 0)"])
    mask = first(data("kitchen"), "train/masks/*")
    pixels = np.array(Image.open(mask))
    pixels[:10, :10] = (255, 255, 255)
    Image.fromarray(pixels).save(mask)
    fails(
        "fit",
        "kitchen",
        *FIT,
        code="unknown-colours",
        values=[mask.name, "(255, 255, 255)", 100],
    )


@pytest.mark.parametrize("folder", ["imgs_small", "masks_small"])
@pytest.mark.parametrize("damage", ["truncated", "zero", "text"])
def test_damaged_files(fails, data, folder, damage):
    file = first(data("eye"), f"{folder}/*")
    content = file.read_bytes()
    file.write_bytes(
        {"truncated": content[: len(content) // 2], "zero": b"", "text": b"not an image"}[damage]
    )
    fails("fit", "eye", *FIT, code="unreadable-image", values=[file.name])


@pytest.mark.parametrize(
    "table,code,values",
    [
        ("Name\tLabel\nx\t0\n", "table", ["Subject"]),
        ("Subject,Label\nx,0\n", "table", ["Subject", "Label"]),
        ("{rows}{first}\t0\n", "table", ["{first}"]),
        ("{rows}nobody\t1\n", "table", ["nobody"]),
        ("{without_first}", "no-partner", ["{first}"]),
        ("{without_first}{first}\t\n", "table", ["{first}", "0 (blurred)", "1 (sharp)"]),
        ("{without_first}{first}\t2\n", "table", ["{first}", "'2'"]),
        (None, "table", []),
    ],
)
def test_faulty_tables(fails, data, table, code, values):
    path = data("mri") / "train" / "subjects.tsv"
    rows = path.read_text()
    name = rows.splitlines()[1].split("\t")[0]
    path.unlink()
    if table is not None:
        without = "".join(
            line for line in rows.splitlines(keepends=True) if not line.startswith(f"{name}\t")
        )
        path.write_text(table.format(rows=rows, first=name, without_first=without))
    fails(
        "fit",
        "mri",
        *FIT,
        code=code,
        values=["subjects.tsv", *(value.format(first=name) for value in values)],
    )


def test_subject_on_both_sides(fails, data):
    folder = data("mri")
    subject = (folder / "train" / "subjects.tsv").read_text().splitlines()[1]
    shutil.copy(folder / "train" / f"{subject.split()[0]}.png", folder / "validation")
    with (folder / "validation" / "subjects.tsv").open("a") as table:
        table.write(f"{subject}\n")
    fails("fit", "mri", *FIT, code="group-on-both-sides", values=[subject.split()[0]])


def test_one_class_only(fails, data):
    for mask in data("eye").glob("masks_small/*"):
        Image.new("L", (320, 240)).save(mask)
    fails("fit", "eye", *FIT, code="one-class", values=["background"])
    folder = data("mri")
    for split in ("train", "validation"):
        table = folder / split / "subjects.tsv"
        table.write_text(table.read_text().replace("\t0", "\t1"))
    fails("fit", "mri", *FIT, code="one-class", values=["sharp"])


def test_backbones_sizes_names(fails, data):
    data("eye")
    rest = ["--weights", "none", "--epochs", "1"]
    fails(
        "fit",
        "eye",
        "--arch",
        "resnt34",
        *rest,
        code="unknown-backbone",
        values=["resnt34", "resnet34"],
    )
    fails(
        "fit",
        "eye",
        "--arch",
        ARCH,
        "--size",
        "16",
        *rest,
        code="size-range",
        values=["16x16", 32],
    )
    fails(
        "fit",
        "eye",
        *FIT,
        "--decoder",
        "unett",
        code="unknown-decoder",
        suggested="unet",
    )
    fails("fit", "eye", *FIT, "--loss", "dicee", code="unknown-loss", suggested="dice")
    fails("fit", "eye", *FIT, "--lr", "fast", code="learning-rate", values=["fast", "1e-3"])
    fails(
        "fit",
        "eye",
        "--arch",
        ARCH,
        "--weights",
        "gone.pth",
        "--epochs",
        "1",
        code="no-weights-file",
        values=["gone.pth"],
    )
    fails(
        "fit",
        "eye",
        "--arch",
        ARCH,
        "--weights",
        "none",
        "--epochs",
        "0",
        "--freeze-epochs",
        "0",
        code="no-epoch",
        values=["--epochs"],
    )


def test_not_enough_images_to_split(fails, data):
    folder = data("eye")
    for sub in ("imgs_small", "masks_small"):
        for file in sorted((folder / sub).iterdir())[1:]:
            file.unlink()
    fails("fit", "eye", *FIT, code="split")


def test_no_export_foreign_export_and_wrong_folder(fails, run, exports, tmp_path, samples):
    for command in (
        ["predict", "eye", samples["eye"] / "imgs_small"],
        ["evaluate", "eye"],
        ["interpret", "eye"],
    ):
        fails(*command, code="no-export", values=["fastseg fit eye"])
    fails("interpret", code="no-export", values=["fastseg fit"])
    fails(
        "segment",
        samples["eye"] / "imgs_small" / "set_0_frame_0.jpg",
        code="no-export",
        values=["fastseg fit surfaces"],
    )
    fails(
        "predict",
        "face",
        samples["eye"] / "imgs_small",
        "--export",
        exports("eye"),
        code="wrong-task",
        values=["eye", "face"],
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("precious")
    fails(
        "fit",
        "eye",
        *FIT,
        "--data",
        samples["eye"],
        "--out",
        "mine",
        code="not-an-export",
        values=["mine"],
    )


def test_predict_without_images(fails, exports, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes.txt").write_text("x")
    export = ["--export", exports("eye")]
    fails("predict", "eye", "test/", *export, code="no-images", values=["test"])
    fails("predict", "eye", "nowhere/", *export, code="no-such-path", values=["nowhere"])
    fails("predict", "eye", "*.jpg", *export, code="no-such-path", values=["*.jpg"])
    fails(
        "predict", "eye", "test/notes.txt", *export, code="unreadable-image", values=["notes.txt"]
    )


def test_predict_never_overwrites_inputs_or_mixes_names(fails, exports, samples, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    for suffix in (".jpg", ".png"):
        Image.new("RGB", (40, 40)).save(folder / f"a{suffix}")
    fails(
        "predict",
        "eye",
        "both",
        "--export",
        exports("eye"),
        code="same-target",
        values=["a.jpg", "a.png"],
    )
    fails(
        "predict",
        "eye",
        "both/a.png",
        "--export",
        exports("eye"),
        "--out",
        "both",
        code="output-in-data",
        values=["both", "--out"],
    )
    fails(
        "predict",
        "mri",
        samples["mri"] / "validation",
        "--export",
        exports("mri"),
        "--overlay",
        code="no-overlay",
        values=["--overlay"],
    )


def test_one_damaged_image_does_not_stop_the_others(run, exports, samples, tmp_path):
    folder = shutil.copytree(samples["eye"] / "imgs_small", tmp_path / "test")
    (folder / "set_3_frame_0.jpg").write_bytes(b"")
    failed = run("predict", "eye", "test", "--export", exports("eye"), error="unreadable-image")
    assert failed.message.startswith("test/set_3_frame_0.jpg: ")
    masks = {path.name for path in (tmp_path / "test_inf_masks").glob("*.png")}
    assert len(masks) == 15 and masks <= {Path(name).name for name in failed.details["written"]}


def test_one_image_is_done_and_is_not_called_interrupted(run, exports, samples, tmp_path):
    image = sorted((samples["eye"] / "imgs_small").iterdir())[0]
    shutil.copy(image, tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"")
    command = ["predict", "eye", "good.jpg", "bad.jpg", "--export", exports("eye"), "--out", "out"]
    command += ["--error-rate", "0.01"]
    first = run(*command, error="unreadable-image")
    assert "1 images" not in first.message and "needs_review" not in first.err
    second = run(*command, error="unreadable-image")
    assert "1 of 2 images was done" in second.err and "interrupt" not in second.err


def test_folders_in_the_place_of_images(run, exports, samples, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(samples["eye"] / "imgs_small", folder / "test")
    error = run("predict", "eye", "photos", "--export", exports("eye"), error="no-images")
    assert "photos/test" in error.message
    error = run("segment", folder, "--export", exports("surfaces"), error="not-a-file")
    assert "fastseg predict" in error.message and "remove" not in error.message
    os.mkfifo(tmp_path / "pipe.jpg")
    error = run("segment", "pipe.jpg", "--export", exports("surfaces"), error="not-a-file")
    assert "remove" not in error.message


def test_evaluate_on_other_data(fails, exports, data, samples, tmp_path):
    other = tasks.get("eye").sample(tmp_path / "other", n=4)
    for file in other.rglob("*.*"):
        file.rename(file.with_name(f"x{file.name}"))
    fails(
        "evaluate",
        "eye",
        "--data",
        other,
        "--export",
        exports("eye"),
        code="no-images-to-judge",
        values=["--split all"],
    )
    fails(
        "evaluate",
        "eye",
        "--split",
        "half",
        "--export",
        exports("eye"),
        code="unknown-split",
        values=["half", "valid"],
    )


def test_missing_mask_folder(fails, data):
    shutil.rmtree(data("kitchen") / "val" / "masks")
    fails(
        "fit",
        "kitchen",
        *FIT,
        code="no-partner",
        values=["val/images", "val/masks"],
    )


def test_one_class_in_the_training_part(fails, data):
    table = data("mri") / "train" / "subjects.tsv"
    table.write_text(table.read_text().replace("\t0", "\t1"))
    fails("fit", "mri", *FIT, code="one-class", values=["sharp"])


def test_codes_that_a_foreign_label_map_does_not_have(fails, data):
    mask = first(data("surfaces"), "annotations/*")
    Image.fromarray(np.full((240, 320), 200, np.uint8)).save(mask)
    fails(
        "fit",
        "surfaces",
        *FIT,
        code="unknown-codes",
        values=[mask.name, 200, 76800, 150],
    )


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
def test_devices_that_are_not_there(fails, exports, samples, device):
    expected = {"code": "no-device", "values": [device, "--device"]}
    fails("fit", "eye", *FIT, "--data", samples["eye"], "--device", device, **expected)
    fails(
        "predict",
        "eye",
        samples["eye"] / "imgs_small",
        "--export",
        exports("eye"),
        "--device",
        device,
        **expected,
    )


def test_nothing_is_written_over_inputs_or_labels(fails, exports, data, samples, tmp_path):
    fails(
        "predict",
        "eye",
        samples["eye"] / "imgs_small",
        "--export",
        exports("eye"),
        "--out",
        exports("eye"),
        code="holds-export",
    )
    eye, mri = data("eye"), data("mri")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for arguments in (
        ["eye", eye / "imgs_small", "--out", eye / "imgs_small"],
        ["eye", eye / "imgs_small", "--out", eye / "masks_small"],
        ["mri", mri / "train", "--out", mri / "validation"],
        ["mri", mri / "train", "--out", mri / "train"],
        ["mri", mri / "train", "--out", first(mri / "train", "*.png")],
    ):
        code = "output-suffix" if arguments[-1].suffix else "output-in-data"
        fails("predict", *arguments, "--export", exports(arguments[0]), code=code)
    fails("show", "eye", "--out", first(eye, "masks_small/*"), code="output-in-data")
    shutil.move(eye / "imgs_small", tmp_path / "x" / "overlays")
    fails(
        "predict",
        "eye",
        "x/overlays",
        "--out",
        "x",
        "--overlay",
        "--export",
        exports("eye"),
        code="output-in-data",
        values=["x/overlays"],
    )
    shutil.move(tmp_path / "x" / "overlays", eye / "imgs_small")
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_exports_of_other_tasks_and_own_files_survive_a_fit(run, exports, samples, tmp_path):
    folder = shutil.copytree(exports("eye"), tmp_path / "out")
    (folder / "notes.txt").write_text("mine")
    run("fit", "eye", *FIT, "--data", samples["eye"], "--out", "out")
    assert (folder / "notes.txt").read_text() == "mine"
    mri = ["fit", "mri", *FIT, "--data", samples["mri"]]
    assert "eye" in run(*mri, "--out", "out", error="holds-export").message
    run(*mri, "--out", ".", error="out-is-current-folder")
    (tmp_path / "link").symlink_to(folder)
    run("fit", "eye", *FIT, "--data", samples["eye"], "--out", "link")
    assert (tmp_path / "link").is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == [
        "link",
        "out",
    ]


def test_batches_of_one_and_diverging_rates(run, samples):
    base = [
        "fit",
        "eye",
        "--data",
        samples["eye"],
        "--arch",
        ARCH,
        "--weights",
        "none",
        "--size",
        "64",
    ]
    one = [*base, "--epochs", "1"]
    assert "--bs" in run(*one, "--bs", "1", "--decoder", "deeplabv3", error="batch-of-one").message
    assert "--lr 1e+30" in run(*one, "--lr", "1e30", error="diverged").message
    run(*base, "--epochs", "0", error="no-epoch")


@pytest.mark.slow
def test_linked_images_are_fine(run, samples, tmp_path):
    for folder in ("imgs_small", "masks_small"):
        (tmp_path / "data" / "eye" / folder).mkdir(parents=True)
        for file in (samples["eye"] / folder).iterdir():
            (tmp_path / "data" / "eye" / folder / file.name).symlink_to(file)
    run("fit", "eye", *FIT)
    run("evaluate", "eye")
    run("interpret")


@pytest.mark.slow
def test_terminated_fit_leaves_what_it_learnt_and_no_more(samples, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    command = [
        sys.executable,
        "-m",
        "fastseg",
        "fit",
        "eye",
        *FIT[:-1],
        "500",
        "--data",
        str(samples["eye"]),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 1/500"):
            break
    deadline = time.monotonic() + 60
    while (
        not list(tmp_path.glob("exports/.eye.fit/**/checkpoint.pt")) and time.monotonic() < deadline
    ):
        time.sleep(0.05)  # the epoch is printed before its checkpoint is written
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert (
        process.returncode == 130
        and "Traceback" not in error
        and "fastseg fit eye --resume" in error
    )
    assert [path.name for path in tmp_path.glob("exports/*")] == [".eye.fit"]


def test_masks_of_another_dataset_are_not_overwritten(run, exports, samples, data, tmp_path):
    folder = data("eye")
    before = {p: p.read_bytes() for p in folder.rglob("*.png")}
    image = shutil.copy(first(samples["eye"], "imgs_small/*"), tmp_path / "elsewhere.jpg")
    for out in (folder / "masks_small", first(folder, "masks_small/*")):
        run(
            "predict",
            "eye",
            image,
            "--export",
            exports("eye"),
            "--out",
            out,
            error="output-in-data",
        )
    assert {p: p.read_bytes() for p in folder.rglob("*.png")} == before


def test_empty_arguments_name_no_folder(run, exports):
    for arguments in (
        ["predict", "eye", ""],
        ["predict", "eye", "x.jpg", "--out", ""],
        ["predict", "eye", "x.jpg", "--device", ""],
    ):
        run(*arguments, "--export", exports("eye"), code=2)  # other mistakes here exit with 1


def test_weights_of_another_backbone_are_refused(fails, data, exports, tmp_path):
    folder = data("eye")
    fails(
        "fit",
        "eye",
        "--data",
        folder,
        "--arch",
        "resnet18",
        "--weights",
        exports("eye") / "model.safetensors",
        *FIT[4:],
        code="weights-mismatch",
        values=["model.safetensors", "--arch"],
    )


def test_a_loss_named_twice(fails, data):
    data("eye")
    fails("fit", "eye", *FIT, "--loss", "ce+ce", code="repeated-loss", values=["ce+ce"])


def test_a_plot_is_refused_before_the_work(fails, data):
    data("eye")
    fails("lr", "eye", *FIT[:-2], "--out", "lr.txt", code="output-suffix", values=["lr.txt"])


@pytest.mark.parametrize(
    "error, code, name",
    [
        (MemoryError(), 1, "out-of-memory"),
        (RuntimeError("CUDA out of memory"), 1, "out-of-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out-of-memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_too_little_memory_and_ctrl_c_are_json_too(error, code, name, run, monkeypatch):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("fastseg.checks.dataset.check", stop)
    result = run("check", "eye", "--json", code=code)
    assert json.loads(result.out)["error"]["code"] == name


def test_a_bug_is_not_taken_for_too_little_memory(run, monkeypatch):
    def stop(*_, **__):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("fastseg.checks.dataset.check", stop)
    with pytest.raises(RuntimeError):
        run("check", "eye", "--json")


def test_a_file_that_may_not_be_read_is_named(run, exports, samples, monkeypatch):
    """Root may read every file, so that the system's refusal is simulated."""
    opened, export = Path.open, exports("eye")

    def refused(path, *args, **kwargs):
        if path.name == "model.onnx":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    image = tasks.get("eye").items(samples["eye"])[0].image
    result = run("predict", export, image, "--runtime", "onnx", error="permission")
    assert str(export / "model.onnx") in result.message

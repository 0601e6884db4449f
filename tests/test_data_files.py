"""Which files are images: one rule for folders, datasets and named files; others are counted."""

import json
import logging
import shutil

import numpy as np
import pytest
from conftest import rows_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.data import images as masks
from fastseg.data.pairing import IMAGE_SUFFIXES, image_files, is_image
from fastseg.data.slices import DICOM, NIFTI


@pytest.fixture
def folder(samples, tmp_path):
    """A folder with one eye in several formats, with other files, and with fastseg's own files."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    eye = Image.open(sorted((samples["eye"] / "imgs_small").iterdir())[0])
    for suffix in (".jpg", ".gif", ".jp2", ".ppm", ".tga"):
        eye.save(folder / f"eye_{suffix[1:]}{suffix}")
    shutil.copy(folder / "eye_jpg.jpg", folder / ".hidden.jpg")
    for name in (
        "notes.txt",
        "Thumbs.db",
        "README.md",
        "masks.json",
        "predictions.csv",
        "failed.csv",
    ):
        (folder / name).write_text("x")
    for name in ("more", "overlays", "mixed_inf_masks"):
        (folder / name).mkdir()
    return folder


def test_suffixes_are_those_that_pillow_reads():
    Image.init()
    known = Image.registered_extensions()
    suffixes = set(IMAGE_SUFFIXES) - {*DICOM, *NIFTI}  # of the extra `medical`
    assert suffixes - {".mpo"} <= {suffix for suffix, kind in known.items() if kind in Image.OPEN}
    formats = {"JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "PPM"}
    assert {known[suffix] for suffix in suffixes} >= formats
    left_out = {".avifs", ".jps"}  # animations alone
    assert {suffix for suffix, kind in known.items() if kind in formats} - left_out <= set(
        IMAGE_SUFFIXES
    )


def test_a_folder_is_predicted_as_its_files_are_when_they_are_named(folder, run, exports, tmp_path):
    export = ["--export", exports("eye")]
    said = run("predict", "eye", folder, *export, "--out", "whole", "--json")
    written = {path.stem for path in (tmp_path / "whole").glob("*.png")}
    assert written == {"eye_jpg", "eye_gif", "eye_jp2", "eye_ppm", "eye_tga"}
    skipped = ["Thumbs.db", "notes.txt", ".hidden.jpg", "more"]
    assert sorted(json.loads(said.out)["skipped"]) == sorted(str(folder / name) for name in skipped)
    warning = next(line for line in said.err.splitlines() if "skipped" in line)
    assert (
        "4" in warning and all(name in warning for name in skipped) and "README.md" not in warning
    )
    for name in written:
        file = next(folder.glob(f"{name}.*"))
        run("predict", "eye", file, *export, "--out", "named")
        assert (tmp_path / "named" / f"{name}.png").read_bytes() == (
            tmp_path / "whole" / f"{name}.png"
        ).read_bytes()


def test_many_skipped_files_are_counted_in_one_line(folder, exports, caplog, tmp_path):
    for number in range(20):
        (folder / f"a_{number:02d}.txt").write_text("x")
    with caplog.at_level(logging.WARNING):
        written = fastseg.predict("eye", folder, tmp_path / "out", export=exports("eye"))
    assert len(written.skipped) == 24 and isinstance(written, list)
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(lines) == 1 and "24" in lines[0] and "19 more" in lines[0]


def test_nothing_is_said_where_nothing_is_skipped(run, exports, samples):
    for name, part in (("eye", "imgs_small"), ("mri", "validation")):
        said = run("predict", name, samples[name] / part, "--export", exports(name), "--json")
        assert json.loads(said.out)["skipped"] == [] and "skipped" not in said.err


def test_a_damaged_gif_is_listed_among_the_failed(folder, run, exports, tmp_path):
    (folder / "eye_gif.gif").write_bytes(b"GIF89a")
    run("predict", "eye", folder, "--export", exports("eye"), "--out", "out", code=1)
    assert [row["image"] for row in rows_of(tmp_path / "out" / "failed.csv")] == [
        str(folder / "eye_gif.gif")
    ]
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp"])
def test_of_several_frames_the_first_is_used_and_said_so_once(suffix, tmp_path, caplog):
    frames = [Image.fromarray(np.full((16, 20, 3), value, np.uint8)) for value in (10, 200, 90)]
    file = tmp_path / f"frames{suffix}"
    frames[0].save(
        file,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    frames[0].save(tmp_path / f"one{suffix}")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert abs(int(masks.read_image(file).max()) - 10) < 3
        masks.read_image(tmp_path / f"one{suffix}")
    assert [
        str(file) in record.getMessage() and "3 frames" in record.getMessage()
        for record in caplog.records
    ] == [True]


def test_datasets_read_the_same_files(samples, tmp_path):
    """Masks as GIF, as some published datasets have them."""
    task = tasks.get("eye")
    for item in task.items(samples["eye"])[:3]:
        for kind, file in (("images", item.image), ("masks", item.label)):
            target = tmp_path / kind / f"{file.stem}.gif"
            target.parent.mkdir(exist_ok=True)
            Image.open(file).save(target)
    items = task.items(tmp_path)
    assert (
        len(items) == 3
        and all(is_image(item.label) for item in items)
        and image_files(tmp_path / "masks")
    )
    before = task.items(samples["eye"])[:3]
    assert all((task.label(item) == task.label(old)).all() for item, old in zip(items, before))


def test_masks_that_another_run_wrote_are_not_taken_for_those_of_an_interrupted_one(
    exports, samples, tmp_path, monkeypatch
):
    import fastseg
    from fastseg.inference.outputs import MaskOutput

    out, images = tmp_path / "out", samples["eye"] / "imgs_small"
    write, done = MaskOutput.write_image_results, []

    def dies(*arguments, **options):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(arguments)
        return write(*arguments, **options)

    monkeypatch.setattr(MaskOutput, "write_image_results", dies)
    with pytest.raises(KeyboardInterrupt):
        fastseg.predict("eye", images, out, export=exports("eye"), bs=1)
    first = sorted(out.glob("*.png"))[0]
    before = first.read_bytes()
    first.write_bytes(b"another run's mask")
    monkeypatch.setattr(MaskOutput, "write_image_results", write)
    fastseg.predict("eye", images, out, export=exports("eye"), bs=1)
    assert first.read_bytes() == before


def test_what_is_skipped_and_written_is_listed_beside_a_failure(exports, samples, run, tmp_path):
    folder = shutil.copytree(samples["eye"] / "imgs_small", tmp_path / "mixed")
    (folder / "notes.txt").write_text("x")
    (folder / "broken.jpg").write_bytes(b"")
    result = json.loads(
        run("predict", "eye", folder, "--export", exports("eye"), "--json", code=1).out
    )
    assert (
        result["skipped"] == [str(folder / "notes.txt")]
        and result["error"]["code"] == "unreadable-image"
    )
    assert len([path for path in result["written"] if path.endswith(".png")]) == 16

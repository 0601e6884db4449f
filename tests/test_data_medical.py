"""DICOM images and NIfTI volumes: windows, spacing, slices, training, label volumes."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.data import medical, pairing, slices
from fastseg.data.channels import read
from fastseg.data.images import read_raw
from fastseg.data.reading import Reading
from fastseg.data.slices import real_file, slice_of, split_slice, stem_of
from fastseg.errors import DataError
from fastseg.inference.inputs import expand

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

SHAPE = (48, 56, 5)  # across, down, slices
SPACING = (0.9, 0.8)  # mm down, across


def shipped(name: str) -> Path:
    """Return one of pydicom's own test files."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def dicom(path, values, **tags):
    """Write a DICOM file of 16-bit values (H, W) with more tags."""
    data = pydicom.Dataset()
    data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 16, 15
    data.PixelRepresentation, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = values.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    return path


def nifti(path, values, spacing=(0.8, 0.9, 2.5), **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1]))
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def organs(folder: Path, count: int = 4, ends=("",)) -> Path:
    """Write volumes with a bright disc in each slice, label volumes and a task.toml."""
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for number in range(count):
        rng = np.random.default_rng(number)
        values, codes = rng.normal(100, 10, (len(ends), *SHAPE)), np.zeros(SHAPE, np.uint8)
        for k in range(SHAPE[2]):
            place = rng.uniform(15, 30), rng.uniform(15, 40)
            codes[..., k] = np.hypot(x - place[0], y - place[1]) < rng.uniform(7, 12)
        values[-1] += 200.0 * codes
        for end, volume in zip(ends, values):
            nifti(folder / "images" / f"case{number}{end}.nii.gz", volume.astype(np.int16))
        nifti(folder / "masks" / f"case{number}.nii.gz", codes)
    lines = ['classes = ["rest", "organ"]']
    if len(ends) > 1:
        lines += [f"channels = {len(ends)}", f"channel_files = {list(ends)}"]
    lines += ["[[layouts]]", 'images = "images"', 'masks = "masks"']
    lines += ["[recipe]", "size = [64, 64]", 'arch = "test_resnet"', "bs = 4"]
    (folder / "task.toml").write_text("\n".join(lines) + "\n")
    return folder


# DICOM


def test_a_declared_window_comes_before_the_files_own(tmp_path):
    values = np.array([[-1000, 39, 40, 240, 1000]])
    path = dicom(tmp_path / "x.dcm", values, RescaleSlope=1, RescaleIntercept=0,
                 WindowCenter=0, WindowWidth=10)  # fmt: skip
    assert medical.read(path, (40.0, 400.0)).tolist() == [[0, 127, 128, 255, 255]]
    assert medical.read(path).tolist() == [[0, 255, 255, 255, 255]]


def test_slope_intercept_and_inversion(tmp_path):
    values = np.array([[0, 500, 1000]])
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    plain = dicom(tmp_path / "a.dcm", values, **tags)
    inverted = dicom(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1", **tags)
    assert medical.read(plain, (0.0, 2000.0)).tolist() == [[0, 128, 255]]
    assert medical.read(inverted, (0.0, 2000.0)).tolist() == [[255, 127, 0]]
    assert medical.read(plain).tolist() == [[0, 128, 255]]


def test_the_files_own_window_is_that_of_the_standard(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 2000, (20, 30))
    path = dicom(tmp_path / "x.dcm", values, WindowCenter=[40, 500], WindowWidth=[400, 2000])
    data = pydicom.dcmread(path)
    theirs = pydicom.pixels.apply_voi_lut(data.pixel_array, data)
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min()) * 255
    assert np.abs(medical.read(path) - theirs).max() <= 1


def test_encodings_of_one_picture_are_equal():
    first = medical.read(shipped("MR_small.dcm"))
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"):
        assert (medical.read(shipped(name)) == first).all()
    red = medical.read(shipped("SC_rgb_rle.dcm"))[5, 50]
    assert red.tolist() == [255, 0, 0]
    ybr = medical.read(shipped("SC_ybr_full_422_uncompressed.dcm"))[5, 50].astype(int)
    assert np.abs(ybr - red).max() <= 2
    image = read(shipped("MR_small.dcm"), Reading())
    assert image.shape == (64, 64, 3) and (image[..., 0] == first).all()


def test_spacing_is_read(tmp_path):
    assert medical.spacing_of(shipped("CT_small.dcm")) == (0.661, 0.661)
    assert medical.spacing_of(dicom(tmp_path / "x.dcm", np.zeros((4, 4)))) is None
    path = nifti(tmp_path / "x.nii.gz", np.zeros(SHAPE, np.int16))
    assert medical.spacing_of(slice_of(path, 0)) == SPACING


def test_the_first_of_several_frames_is_read(tmp_path, caplog):
    values = np.stack([np.full((4, 4), 7), np.full((4, 4), 9)])
    path = dicom(tmp_path / "x.dcm", values, NumberOfFrames=2)
    assert medical.codes(path).tolist() == [[7] * 4] * 4
    assert any(str(path) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "name", ["MR_truncated.dcm", "rtplan.dcm", "examples_palette.dcm", "JPEGLSNearLossless_08.dcm",
             "badVR.dcm", "no_meta.dcm"]
)  # fmt: skip
def test_unreadable_dicoms_are_one_line(name):
    with refuses("unreadable-image", name) as caught:
        medical.read(shipped(name))
    assert "\n" not in str(caught.value)


def test_sizes_that_headers_claim_are_bounded(tmp_path):
    path = dicom(tmp_path / "x.dcm", np.zeros((4, 4)), Rows=65535, Columns=65535)
    with refuses("unreadable-image", path, "65535x65535"):
        medical.read(path)
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    with refuses("unreadable-image", "x.nii.gz"):
        medical.slices_of(tmp_path / "x.nii.gz")


def test_large_deflated_files_are_refused(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(shipped("image_dfl.dcm").read_bytes())
    assert medical.read(path).shape == (512, 512)
    path.write_bytes(path.read_bytes() + bytes(medical.MOST_DEFLATED))
    with refuses("unreadable-image", path):
        medical.read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12), st.booleans())
def test_mutated_files_give_an_image_or_one_line(tmp_path, changes, is_volume):
    path = tmp_path / ("x.nii" if is_volume else "x.dcm")
    if not path.exists():
        if is_volume:
            nifti(path, np.arange(60, dtype=np.int16).reshape(5, 4, 3))
        else:
            shutil.copy(shipped("MR_small.dcm"), path)
        shutil.copy(path, tmp_path / f"whole{path.suffix}")
    data = bytearray((tmp_path / f"whole{path.suffix}").read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(data)
    try:
        for part in medical.slices_of(path)[:3]:
            assert medical.read(part).dtype == np.uint8
    except DataError as error:
        assert "\n" not in str(error) and path.name in str(error)


# NIfTI


def test_slices_are_paths():
    volume = Path("data/case1.nii.gz")
    part = slice_of(volume, 12)
    assert part.name == "case1_012.nii" and split_slice(part) == (volume, 12)
    assert real_file(part) == volume and stem_of(volume) == "case1"
    assert split_slice(volume) is None and split_slice(Path("a/b_012.nii")) is None
    assert real_file(Path("a/b.png")) == Path("a/b.png")


def test_slices_are_upright_and_scaled_by_the_volume(tmp_path):
    values = np.zeros((3, 4, 2), np.float32)
    values[2, 3, 0], values[..., 1] = 1000, 500  # the last of both axes: top right
    path = nifti(tmp_path / "x.nii", values, cal_min=0, cal_max=1000)
    first, second = (medical.read(part) for part in medical.slices_of(path))
    assert first.shape == (4, 3) and first[0, 2] == 255 and first.sum() == 255
    assert (second == 128).all()
    assert (medical.read(slice_of(path, 1), (500.0, 10.0)) == 128).all()
    with refuses("unreadable-image", path):
        medical.read(path)
    with refuses("unreadable-image", 2):
        medical.read(slice_of(path, 2))


def test_without_a_window_the_range_is_the_volumes(tmp_path):
    values = np.tile(np.linspace(0, 1, 100, dtype=np.float32)[:, None, None], (1, 100, 3))
    values[0, 0, 0] = 1e6
    path = nifti(tmp_path / "x.nii.gz", values)
    pixels = medical.read(slice_of(path, 1))
    assert pixels.min() == 0 and pixels.max() == 255 and 126 <= np.median(pixels) <= 129


def test_slope_and_changed_files_are_seen(tmp_path):
    path = tmp_path / "x.nii.gz"
    for value in (4, 6):
        image = nibabel.Nifti1Image(np.full((3, 3, 2), value, np.float64), np.eye(4))
        image.header.set_data_dtype(np.int16)
        image.header.set_slope_inter(0.5, 1)
        image.to_filename(path)
        os.utime(path, (value, value))
        assert (medical.codes(slice_of(path, 0)) == value / 2 + 1).all()


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (7,)])
def test_other_shapes_are_refused(tmp_path, shape):
    path = nifti(tmp_path / "x.nii.gz", np.zeros(shape, np.int16))
    with refuses("unreadable-image", path):
        medical.slices_of(path)


def test_masks_that_are_no_codes_are_refused(tmp_path):
    path = nifti(tmp_path / "x.nii.gz", np.full((3, 3, 1), 0.5, np.float32))
    with refuses("unreadable-image", path):
        read_raw(path)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "find_spec", lambda name: None)
    with refuses("no-medical", "x.dcm", "pip install"):
        medical.read(tmp_path / "x.dcm")
    with refuses("no-medical", "x.nii.gz", "nibabel"):
        medical.slices_of(tmp_path / "x.nii.gz")


def test_folders_of_such_files_without_the_extra_name_it(tmp_path, monkeypatch):
    data = organs(tmp_path / "organs")
    task = tasks.get(str(data))
    monkeypatch.setattr(slices, "find_spec", lambda name: None)
    monkeypatch.setattr(pairing, "IMAGE_SUFFIXES", (".jpg", ".png"))
    with refuses("no-medical", data, "nibabel"):
        task.items(data)
    with refuses("no-medical", data / "images", "nibabel"):
        expand([data / "images"], lambda path: False)
    (data / "task.toml").unlink()
    with refuses("no-medical", data, "nibabel"):
        fastseg.new(data)


# Datasets


def test_volumes_become_items_of_one_group(tmp_path):
    data = organs(tmp_path / "organs")
    items = tasks.get(str(data)).items(data)
    assert len(items) == 4 * SHAPE[2] and len({item.group for item in items}) == 4
    train, valid = tasks.get(str(data)).split(items)
    assert not {items[i].group for i in train} & {items[i].group for i in valid}


def test_faulty_volumes_are_named(tmp_path, run):
    data = organs(tmp_path / "organs")
    nifti(data / "masks" / "case1.nii.gz", np.zeros((48, 56, 4), np.uint8))
    (data / "masks" / "case2.nii.gz").unlink()
    Image.new("L", (48, 56)).save(data / "masks" / "case2.png")
    (data / "images" / "case3.nii.gz").write_bytes(b"nothing")
    found = json.loads(run("check", data, "--json", code=1).out)
    assert {Path(f["file"]).name: f["kind"] for f in found["faults"] if f["stops"]} == {
        "case1.nii.gz": "size mismatch",
        "case2.png": "size mismatch",
        "case3.nii.gz": "unreadable",
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organs")
    data = organs(folder / "organs")
    fastseg.fit(str(data), weights="none", epochs=6, out=folder / "export")
    return data, folder / "export"


@pytest.mark.slow
def test_spacing_is_in_the_card(trained):
    card = json.loads((trained[1] / "card.json").read_text())
    assert card["spacing"] == list(SPACING) and card["channels"] == 3
    assert all(name.split("/")[-1].endswith(".nii") for name in card["valid_files"])
    assert card["metrics"]["mean_foreground"]["dice"] > 0.7


@pytest.mark.slow
def test_predictions_of_slices_are_a_volume_too(trained, run, tmp_path):
    data, export = trained
    run("predict", export, data / "images", "--out", "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 4 * SHAPE[2]
    rows = rows_of("out/predictions.csv")
    assert rows[0]["mask"] == "case0_000.png"
    assert (rows[0]["mm_down"], rows[0]["mm_across"]) == ("0.9", "0.8")
    source = nibabel.load(data / "images" / "case1.nii.gz")
    made = nibabel.load(tmp_path / "out" / "case1.nii.gz")
    assert made.shape == source.shape and np.allclose(made.affine, source.affine)
    for number in range(SHAPE[2]):
        mask = np.asarray(Image.open(tmp_path / "out" / f"case1_{number:03d}.png"))
        assert (read_raw(slice_of(tmp_path / "out" / "case1.nii.gz", number)) == mask).all()
    truth = nibabel.load(data / "masks" / "case1.nii.gz").get_fdata()
    assert (made.get_fdata() == truth).mean() > 0.9


@pytest.mark.slow
def test_other_commands_take_volumes(trained, run, tmp_path):
    data, export = trained
    run("show", data, "--out", "show.png")
    run("evaluate", data, "--export", export, "--out", "evaluation")
    run("interpret", data, "--export", export, "--out", "interpretation")
    run("segment", slice_of(data / "images" / "case0.nii.gz", 2), "--export", export)
    run("check", data, "--fix", "fixed", error="volume-repair")
    run("convert", data, "coco", "--to", "coco", error="volume-labels")
    run("predict", export, data / "images", "--format", "labelme", "--out", "out",
        error="volume-labels")  # fmt: skip
    assert not (tmp_path / "coco").exists() and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_sequences_are_channels(tmp_path, run):
    data = organs(tmp_path / "organs", ends=("_t1", "_t2"))
    run("fit", data, "--weights", "none", "--epochs", 6)
    card = json.loads((tmp_path / "exports" / "organs" / "card.json").read_text())
    assert card["channels"] == 2 and card["metrics"]["mean_foreground"]["dice"] > 0.6
    run("predict", data, data / "images", "--out", "out")
    assert (tmp_path / "out" / "case0.nii.gz").is_file()
    assert (tmp_path / "out" / "case0_004.png").is_file()
    (data / "images" / "case0_t2.nii.gz").unlink()
    found = json.loads(run("check", data, "--json", code=1).out)
    assert "no partner" in found["kinds"]


def test_dicoms_with_png_masks(tmp_path, run):
    data = tmp_path / "ct"
    (data / "images").mkdir(parents=True)
    (data / "masks").mkdir()
    y, x = np.mgrid[:64, :64]
    for number in range(8):
        inside = np.hypot(y - 20 - 2 * number, x - 30) < 10
        dicom(data / "images" / f"s{number}.dcm", inside * 300 - 100, RescaleIntercept=-100,
              RescaleSlope=1, PixelSpacing=[0.7, 0.7])  # fmt: skip
        Image.fromarray(inside.astype(np.uint8)).save(data / "masks" / f"s{number}.png")
    (data / "task.toml").write_text(
        'classes = ["rest", "organ"]\nwindow = [40, 400]\n[[layouts]]\nimages = "images"\n'
        'masks = "masks"\n[recipe]\nsize = [64, 64]\narch = "test_resnet"\nbs = 4\n'
    )
    run("check", data)
    run("fit", data, "--weights", "none", "--epochs", 2)
    card = json.loads((tmp_path / "exports" / "ct" / "card.json").read_text())
    assert card["spacing"] == [0.7, 0.7] and card["definition"]["window"] == [40, 400]
    run("predict", "exports/ct", data / "images", "--out", "out")
    assert rows_of("out/predictions.csv")[0]["mm_down"] == "0.7"

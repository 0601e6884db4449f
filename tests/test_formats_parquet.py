"""Parquet files as `datasets` writes them: images, masks and classes as columns."""

import builtins
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses
from format_cases import smooth_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastseg import formats, tasks
from fastseg.corrections.store import Corrections
from fastseg.formats.parquet import Columns, columns_of, extract, find, split_of

pytest.importorskip("pyarrow", reason="needs the extra parquet")
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
IMAGE = {"_type": "Image"}


def png(pixels, path=None):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": path}


def write(file, columns, features=None):
    """Write columns, lists of values, with the metadata of `datasets`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: pyarrow.array(values, STRUCT if isinstance(values[0], dict) else None)
        for name, values in columns.items()
    }
    table = pyarrow.table(arrays)
    if features is not None:
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pyarrow.parquet.write_table(table, file)
    return file


def picture(number):
    return np.repeat((smooth_codes(number) * 60)[..., None], 3, axis=2)


def with_masks(folder):
    """Write four rows to train on and three to validate on, with masks of codes."""
    for split, numbers in (("train", range(4)), ("validation", range(4, 7))):
        columns = {
            "image": [png(picture(n), f"subject{n // 2}_{n}.png") for n in numbers],
            "annotation": [png(smooth_codes(n)) for n in numbers],
        }
        write(
            folder / "data" / f"{split}-00000-of-00001.parquet",
            columns,
            {"image": IMAGE, "annotation": IMAGE},
        )
    return folder


TASK = """classes = ["ground", "roof", "tree", "road"]
group = 'subject\\d+'
[[layouts]]
images = "."
format = "parquet"
labels = "data"
"""


def test_masks_are_read_with_their_splits_and_names(tmp_path):
    folder = with_masks(tmp_path / "roofs")
    (folder / "task.toml").write_text(TASK)
    task = tasks.get(folder)
    items = task.items(folder)
    assert [item.split for item in items] == ["train"] * 4 + ["valid"] * 3
    assert [item.group for item in items[:4]] == ["subject0", "subject0", "subject1", "subject1"]
    for number, item in enumerate(items):
        assert np.array_equal(task.label(item), smooth_codes(number))
        assert np.array_equal(task.image(item), picture(number))
        assert item.image.stem == f"subject{number // 2}_{number}"
        assert folder not in item.image.parents  # the data folder stays as it is


def test_files_are_extracted_once_and_again_when_they_change(tmp_path):
    folder = with_masks(tmp_path)
    first = extract(folder / "data", [])
    first[0].image.touch()
    stamp = first[0].image.stat().st_mtime_ns
    assert extract(folder / "data", []) == first
    assert first[0].image.stat().st_mtime_ns == stamp
    first[0].image.unlink()  # someone cleaned up the cache
    assert extract(folder / "data", [])[0].image.is_file()
    write(folder / "data" / "train-00000-of-00001.parquet", {"image": [png(picture(9))]})
    assert [row.mask is None for row in extract(folder / "data", [])] == [True, *[False] * 3]


def test_masks_of_codes_are_mapped_as_elsewhere(tmp_path):
    folder = with_masks(tmp_path / "roofs")
    more = TASK.replace("group", "ignore = [3]\ngroup")
    (folder / "task.toml").write_text(
        more + '[codes]\n0 = "ground"\n1 = "tree"\n2 = "roof"\n9 = "road"\n'
    )
    task = tasks.get(folder)
    codes = task.label(task.items(folder)[0])
    assert np.array_equal(codes, np.array([0, 2, 1, 255], np.uint8)[smooth_codes(0)])


def with_classes(folder, features):
    for split in ("train", "test"):
        columns = {
            "image": [png(picture(n)) for n in range(4)],
            "label": [0, 1, 1, 0],
        }
        write(folder / f"{split}.parquet", columns, features)
    return folder


CLASSES = 'kind = "classify"\nclasses = ["sharp", "blurred"]\nlabels = "parquet"\n'


@pytest.mark.parametrize("names, expected", [(["blurred", "sharp"], 1), (None, 0)])
def test_classes_are_read_by_name_or_index(tmp_path, names, expected):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": names}}
    folder = with_classes(tmp_path / "blur", features if names else None)
    (folder / "task.toml").write_text(CLASSES)
    items = tasks.get(folder).items(folder)
    assert [item.label for item in items[:4]] == [expected, 1 - expected, 1 - expected, expected]
    assert {item.split for item in items} == {"train", "test"}
    assert len({item.group for item in items if item.split == "train"}) == 4


def test_classes_that_the_task_lacks_are_named(tmp_path):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["sharp", "blurry"]}}
    folder = with_classes(tmp_path / "blur", features)
    (folder / "task.toml").write_text(CLASSES)
    with refuses("unknown-class", "blurry", "blurred", "row 1"):
        tasks.get(folder).items(folder)


def test_the_columns_are_found(tmp_path):
    both = {"image": [png(picture(0))], "mask": [png(smooth_codes(0))], "label": [1]}
    assert columns_of(write(tmp_path / "a.parquet", both)) == Columns("image", "mask", "label")
    named = {"img": [png(picture(0))], "fine": [1]}
    features = {"img": IMAGE, "fine": {"_type": "ClassLabel", "names": ["a", "b"]}}
    found = columns_of(write(tmp_path / "b.parquet", named, features))
    assert found == Columns("img", "", "fine", ("a", "b"))
    with refuses("parquet", "c.parquet", "text"):
        columns_of(write(tmp_path / "c.parquet", {"text": ["a"]}))


def test_splits_and_files_by_their_names(tmp_path):
    names = {
        "data/train-00000-of-00002.parquet": "train",
        "validation.parquet": "valid",
        "default/test/0000.parquet": "test",
        "0.parquet": None,
    }
    for name, split in names.items():
        assert split_of(tmp_path / name) == split
        write(tmp_path / name, {"image": [png(picture(0))]})
    write(tmp_path / ".cache" / "x.parquet", {"image": [png(picture(0))]})
    assert find(tmp_path) == sorted(tmp_path / name for name in names)
    assert "parquet" not in formats.names()


def test_rows_that_cannot_be_used_are_named(tmp_path):
    columns = {"image": [png(picture(0)), {"bytes": None, "path": "elsewhere/1.png"}]}
    file = write(tmp_path / "train.parquet", columns)
    faults = []
    (row,) = extract(file, faults)
    (fault,) = faults
    assert (fault.kind, fault.file, fault.place) == ("label file", str(file), "row 1")
    assert row.place == f"{file} (row 0)"


def test_names_in_rows_do_not_lead_out_of_the_cache(tmp_path):
    names = ["../../x.png", "/etc/passwd.png", "a\0b.png", "..", "x.png", "X.png", "y" * 999]
    file = write(tmp_path / "train.parquet", {"image": [png(picture(0), name) for name in names]})
    faults = []
    rows = extract(file, faults)
    assert faults == [] and len({row.image.name.lower() for row in rows}) == len(names)
    assert len({row.image.parent for row in rows}) == 1


def test_pyarrow_that_is_missing_is_named(tmp_path, monkeypatch):
    file = write(tmp_path / "train.parquet", {"image": [png(picture(0))]})
    there = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return there(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with refuses("no-pyarrow", "fastseg[parquet]"):
        extract(file, [])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_have_faults_and_no_traceback(data, tmp_path):
    columns = {"image": [png(smooth_codes(0)[:8, :8])], "label": [1]}
    file = write(tmp_path / "train.parquet", columns, {"image": IMAGE})
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    faults = []
    extract(file, faults)
    assert all(len(str(fault).splitlines()) == 1 for fault in faults)


def test_a_conversion_writes_the_images_of_rows(run, tmp_path):
    folder = with_masks(tmp_path / "roofs")
    (folder / "task.toml").write_text(TASK)
    run("convert", "roofs", "out", "--to", "png")
    assert sorted(path.name for path in Path("out/images/valid").iterdir()) == [
        f"subject{n // 2}_{n}.png" for n in (4, 5, 6)
    ]
    assert "nothing" in run("check", "out").out


def test_labels_in_parquet_files_are_corrected_in_a_converted_copy(run, tmp_path):
    folder = with_masks(tmp_path / "roofs")
    (folder / "task.toml").write_text(TASK)
    assert "fastseg convert roofs" in run("app", "roofs", error="packed-images").message
    store = Corrections("roofs", "roofs")
    with refuses("packed-images"):
        store.label(store.task.items("roofs")[0].image)
    with refuses("packed-images"):
        store.begin()
    run("convert", "roofs", "out", "--to", "png")
    copy = Corrections("out", "out")
    image = copy.task.items("out")[0].image
    label = copy.label(image) * 0
    copy.save(image, label, action="corrected", by="Ada", seconds=1)
    assert not Corrections("out", "out").label(image).any()


def test_new_describes_masks_in_parquet_files(run, tmp_path):
    folder = with_masks(tmp_path / "roofs")
    found = json.loads(run("new", "roofs", "--yes", "--json").out)
    assert "parquet" in str(found)
    task = tasks.get(folder)
    (layout,) = task.layouts
    assert (layout.format, layout.labels, len(task.classes)) == ("parquet", "data", 4)
    items = task.items(folder)
    assert len(items) == 7 and np.array_equal(task.label(items[6]), smooth_codes(6))


@pytest.mark.parametrize("names", [["blurred", "sharp"], None])
def test_new_describes_classes_in_parquet_files(run, tmp_path, names):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": names}}
    folder = with_classes(tmp_path / "blur", features if names else None)
    run("new", "blur", "--yes")
    task = tasks.get(folder)
    assert list(task.classes) == (names or ["class 0", "class 1"])
    labels = [item.label for item in task.items(folder) if item.split == "train"]
    assert labels == [0, 1, 1, 0]

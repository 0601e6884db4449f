"""Manifests: tables that name images and their masks or classes."""

from __future__ import annotations

import csv
import json

import pytest
from conftest import ARCH, refuses, rows_of
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.tasks.declared import definition_of, task_from

SEGMENT = """classes = ["background", "sclera", "iris", "pupil"]

[[layouts]]
manifest = "manifest.csv"
"""
CLASSIFY = """kind = "classify"
labels = "manifest"
classes = ["left", "right"]
"""
SMALL = dict(size=64, arch=ARCH, weights="none", bs=4, epochs=1)


def write(folder, rows, delimiter=",", name="manifest.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


@pytest.fixture
def eyes(tmp_path):
    """Images and masks of other names in other folders, and their manifest; its rows."""
    task = tasks.get("eye")
    data = tmp_path / "data"
    rows = [["image", "mask", "split", "note"]]
    for number, item in enumerate(task.items(task.sample(tmp_path / "eye", 10))):
        image, mask = f"pictures/a{number % 2}/é {number}.jpg", f"truth/{number:03d}.png"
        for name, file in ((image, item.image), (mask, item.label)):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(file.read_bytes())
        rows.append([image, mask, "val" if number < 3 else "train", "any"])
    (data / "task.toml").write_text(SEGMENT)
    write(data, rows)
    return data, rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_manifest_pairs_what_its_rows_name(eyes, delimiter):
    data, rows = eyes
    write(data, rows, delimiter)
    items = tasks.get(data).items(data)
    names = [
        [item.image.relative_to(data).as_posix(), item.label.relative_to(data).as_posix()]
        for item in items
    ]
    assert names == [row[:2] for row in rows[1:]]
    assert [item.split for item in items] == ["valid"] * 3 + ["train"] * 7
    assert len({item.group for item in items}) == 10


def test_without_a_column_split_the_split_is_drawn_by_groups(eyes):
    data, rows = eyes
    write(data, [row[:2] for row in rows])
    (data / "task.toml").write_text("group = 'é'\n" + SEGMENT)
    task = tasks.get(data)
    items = task.items(data)
    assert {item.split for item in items} == {None} and {item.group for item in items} == {"é"}
    with refuses("split"):
        task.split(items)


def test_a_parquet_manifest_is_read(eyes):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data, rows = eyes
    table = arrow.table(dict(zip(rows[0], zip(*rows[1:]))))
    parquet.write_table(table, data / "all.parquet")
    (data / "task.toml").write_text(SEGMENT.replace("manifest.csv", "all.parquet"))
    assert [item.split for item in tasks.get(data).items(data)] == ["valid"] * 3 + ["train"] * 7
    (data / "all.parquet").write_bytes(b"PAR1" * 10)
    with refuses("table", data / "all.parquet"):
        tasks.get(data).items(data)


FAULTS = [
    (lambda r: r[2].__setitem__(0, "pictures/none.jpg"), "no-partner", "line 3", "none.jpg"),
    (lambda r: r[2].__setitem__(1, "truth/none.png"), "no-partner", "line 3", "none.png"),
    (lambda r: r[2].__setitem__(1, ""), "no-partner", "line 3", "mask"),
    (lambda r: r[2].__setitem__(0, ""), "table", "line 3", "image"),
    (lambda r: r[4].__setitem__(0, r[2][0]), "doubled-name", "line 5", "line 3"),
    (lambda r: r[2].__setitem__(2, "tran"), "table", "line 3", "tran"),
    (lambda r: r[2].__setitem__(0, "../a.jpg"), "table", "line 3", "../a.jpg"),
    (lambda r: r[2].__setitem__(0, "/etc/a.jpg"), "table", "line 3", "/etc/a.jpg"),
    (lambda r: r[0].__setitem__(1, "masks"), "table", "line 1", "mask"),
    (lambda r: r[0].__setitem__(0, "file"), "table", "line 1", "image"),
]


@pytest.mark.parametrize("change, code, line, value", FAULTS)
def test_rows_that_cannot_be_used_are_named(eyes, change, code, line, value):
    data, rows = eyes
    change(rows)
    write(data, rows)
    with refuses(code, data / "manifest.csv", line, value):
        tasks.get(data).items(data)


def test_check_counts_all_faulty_rows_and_fit_refuses_them(eyes, run, tmp_path):
    data, rows = eyes
    rows[2][0], rows[3][1] = "none.jpg", "none.png"
    write(data, rows)
    found = run("check", data, "--json", code=1)
    assert sum(fault["kind"] == "no partner" for fault in json.loads(found.out)["faults"]) == 2
    with refuses("no-partner", "1 more"):
        fastseg.fit(data, out=tmp_path / "out", **SMALL)


def test_a_file_that_is_no_table_or_is_missing_is_named(eyes):
    data, _ = eyes
    (data / "manifest.csv").write_bytes(b"image,mask\n\xff\xfe\x00")
    with refuses("table", data / "manifest.csv"):
        tasks.get(data).items(data)
    (data / "manifest.csv").unlink()
    with refuses("label-file", data / "manifest.csv"):
        tasks.get(data).items(data)


@pytest.mark.parametrize("more", ['images = "pictures"', 'list_file = "a.txt"', "deep = true"])
def test_a_manifest_stands_alone(eyes, more):
    data, _ = eyes
    (data / "task.toml").write_text(f"{SEGMENT}{more}\n")
    with refuses("task-layouts", more.split()[0]):
        tasks.get(data)


def test_fit_predict_and_repair_with_a_manifest(eyes, run, tmp_path):
    data, rows = eyes
    result = fastseg.fit(data, out=tmp_path / "out", **SMALL)
    assert result["metrics"]["images"] == 3
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert sorted(card["valid_files"]) == sorted(row[0] for row in rows[1:4])
    assert fastseg.evaluate(tmp_path / "out", data=data)["images"] == 3
    run("check", data, "--fix", tmp_path / "fixed")
    assert len(tasks.get(tmp_path / "fixed").items(tmp_path / "fixed")) == 10


@pytest.fixture
def classes(tmp_path):
    data = tmp_path / "sides"
    rows = [["image", "class", "split"]]
    for number in range(12):
        name = f"photos/{number % 3}/{number}.png"
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number * 20, number % 2 * 200, 0)).save(data / name)
        rows.append([name, ("left", "right")[number % 2], "valid" if number > 8 else "train"])
    (data / "task.toml").write_text(CLASSIFY)
    write(data, rows)
    return data, rows


def test_a_manifest_of_classes_trains(classes, run, tmp_path):
    data, rows = classes
    task = tasks.get(data)
    items = task.items(data)
    assert [task.class_name(item) for item in items] == [row[1] for row in rows[1:]]
    assert task_from(definition_of(task)).table == "manifest.csv"
    result = fastseg.fit(data, out=tmp_path / "out", **SMALL)
    assert result["metrics"]["images"] == 3
    run("predict", tmp_path / "out", data / "photos/0", "--out", tmp_path / "predicted.csv")
    predicted = rows_of(tmp_path / "predicted.csv")
    assert {row["image"] for row in predicted} == {"0.png", "3.png", "6.png", "9.png"}
    assert {row["class"] for row in predicted} <= {"left", "right"}
    for row, code, value in (
        (["photos/0/0.png", "lft", ""], "unknown-class", "left"),
        (["photos/0/0.png", "", ""], "no-partner", "class"),
    ):
        write(data, [rows[0], row, *rows[2:]])
        with refuses(code, data / "manifest.csv", "line 2", value):
            task.items(data)
    run("check", data, "--fix", tmp_path / "fixed", error="manifest-repair")
    (data / "manifest.csv").unlink()
    with refuses("table", data / "manifest.csv"):
        task.items(data)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_new_finds_a_manifest(eyes, run, suffix):
    data, rows = eyes
    (data / "task.toml").unlink()
    if suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            arrow.table(dict(zip(rows[0], zip(*rows[1:])))), data / "manifest.parquet"
        )
        (data / "manifest.csv").unlink()
    run("new", data)
    task = tasks.get(data)
    assert [layout.manifest for layout in task.layouts] == [f"manifest{suffix}"]
    assert len(task.classes) == 4 and len(task.items(data)) == 10
    rows[2][0] = "none.jpg"
    write(data, rows)
    if suffix == ".csv":
        run("new", data, "--force", error="no-partner")

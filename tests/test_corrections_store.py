"""Labels that people save: exact in every format, every version kept, nothing lost."""

import csv
import errno
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_shared, refuses, rows_of, shared
from PIL import Image

from fastseg import tasks
from fastseg.checks.dataset import check
from fastseg.checks.preflight import survey
from fastseg.corrections import renames
from fastseg.corrections.log import COLUMNS, Log
from fastseg.corrections.store import Corrections
from fastseg.data.contents import digests
from fastseg.data.images import read_raw
from fastseg.data.loaders import items_for_fit
from fastseg.data.split import splitter
from fastseg.errors import DataError
from fastseg.tasks.converted import Entry, targets, write_dataset
from fastseg.types import IGNORE

SIZE = (24, 32)  # height and width in px
CLASSES = ("ground", "roof", "tree")
DONE = dict(action="corrected", by="Ada", seconds=4.0)


def codes_of(seed: int, size=SIZE, classes: int = 3) -> np.ndarray:
    """Return codes with areas and single pixels of each class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size[0] // 4 + 1, size[1] // 4 + 1)).astype(np.uint8)
    codes = np.kron(coarse, np.ones((4, 4), np.uint8))[: size[0], : size[1]].copy()
    codes[rng.random(size) < 0.03] = rng.integers(classes)
    return codes


def pixels_of(seed: int, size=SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save(path: Path, pixels, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def make(folder: Path, toml: str, names=("1", "2", "3", "4"), write=None) -> tasks.Task:
    """Write a folder with a task.toml, images, and masks by `write(name, codes)`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(f'classes = ["ground", "roof", "tree"]\n{toml}')
    for seed, name in enumerate(names):
        save(folder / "images" / f"{name}.jpg", pixels_of(seed))
        if write is None:
            save(folder / "masks" / f"{name}.png", codes_of(seed))
        else:
            write(name, codes_of(seed))
    return tasks.get(folder)


def mode_of(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files that people see in a data folder, but of the list."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".fastseg" not in path.parts and path.name != "corrections.csv"
    }


def take_back(task, folder: Path, image: Path, before: dict[str, bytes]) -> None:
    """Take the label of a new image away: all files are as before, and its versions are kept."""
    store = Corrections(task, folder)
    label, newest = store.label(image), store.newest(image)
    row = store.withdraw(image, by="Ada", base=newest)
    assert (row.action, row.version, row.pixels) == ("withdrawn", newest + 1, 0)
    assert files_of(folder) == before
    store = Corrections(task, folder)  # it repairs what does not agree
    assert store.label(image) is None and store.unlabelled() == [image]
    assert np.array_equal(store.version(image, newest), label)
    assert [r.version for r in store.history(image)] == list(range(1, newest + 2))
    with refuses("no-label"):
        store.withdraw(image, by="Ada")
    store.save(image, label, action="new", by="Ada", seconds=1, base=newest + 1)
    assert np.array_equal(store.label(image), label) and not store.unlabelled()
    assert store.newest(image) == newest + 2


def round_trip(task, folder: Path, image: Path, new) -> Corrections:
    """Save a label, and read it again: by the store, another store, and the task's own items."""
    store = Corrections(task, folder)
    before = store.label(image)
    row = store.save(image, new, **DONE, base=0)
    assert row.version == 1 and store.newest(image) == 1
    assert np.array_equal(store.label(image), new)
    assert np.array_equal(Corrections(task, folder).label(image), new)
    items = {item.image: item for item in task.items(folder)}
    assert np.array_equal(task.label(items[image]), new)
    assert not check(task, folder).stops
    if before is not None:
        assert np.array_equal(store.version(image, 0), before)
        store.restore(image, 0, by="Bo")
        assert np.array_equal(Corrections(task, folder).label(image), before)
        assert np.array_equal(store.version(image, 1), new)
    return store


@pytest.mark.parametrize("name", tasks.names())
def test_each_task_keeps_its_format(name, samples, tmp_path):
    folder = Path(shutil.copytree(samples[name], tmp_path / name))
    task = tasks.get(name)
    items = task.items(folder)
    image, before = items[0].image, task.label(items[0])
    kind = None if task.kind == "classify" else mode_of(items[0].label)
    if task.kind == "classify":
        new = 1 - before
    else:
        new = np.roll(before, (3, 7), (0, 1))
        new[5:9, 5:9] = (new[5:9, 5:9] + 1) % len(task.classes)
    store = round_trip(task, folder, image, new)
    assert len(task.items(folder)) == len(items) and not store.unlabelled()
    if kind is not None:
        assert mode_of(items[0].label) == kind


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_masks_keep_their_mode(mode, tmp_path):
    def write(name, codes):
        mask = Image.fromarray(codes)
        if mode == "P":
            mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        save(tmp_path / "d" / "masks" / f"{name}.png", mask if mode in "PL" else mask.convert(mode))

    task = make(tmp_path / "d", "", write=write)
    image = tmp_path / "d" / "images" / "1.jpg"
    round_trip(task, tmp_path / "d", image, codes_of(9))
    with Image.open(tmp_path / "d" / "masks" / "1.png") as written:
        assert written.mode == ("RGB" if mode == "RGBA" else mode)
        if mode == "P":
            assert written.getpalette()[3:6] == [200, 0, 0]


def test_codes_of_one_class_stay_where_nobody_painted(tmp_path):
    """ADE20K has 150 codes for four classes: the others of them are not lost."""
    task = tasks.get("surfaces")
    masks = []
    for number in range(4):
        save(tmp_path / "images" / f"{number}.jpg", pixels_of(number))
        codes = np.random.default_rng(number).integers(1, 151, SIZE).astype(np.uint8)
        masks.append((save(tmp_path / "annotations" / f"{number}.png", codes), codes))
    (mask, codes), image = masks[0], tmp_path / "images" / "0.jpg"
    store = Corrections(task, tmp_path)
    label = store.label(image).copy()
    label[:4] = 3
    label[4, 0] = IGNORE
    store.save(image, label, **DONE)
    with Image.open(mask) as picture:
        written = np.asarray(picture)
    same = label == task.decode(tmp_path / ".fastseg/versions/images/0.jpg/0.png", "ade20k")
    assert (written[same] == codes[same]).all() and len(np.unique(written[5:])) > 50
    assert np.array_equal(Corrections(task, tmp_path).label(image), label)


DECLARED = {
    "codes": 'codes = {"7" = "roof", "40" = "tree", "0" = "ground"}\n',
    "sixteen bits": 'codes = {"700" = "roof", "4000" = "tree", "0" = "ground"}\n',
    "colours": 'masks = "colours"\npalette = ["#000000", "#ff0000", "#00ff00"]\n'
    'ignore = ["#ffffff"]\n',
    "ends": '[[layouts]]\nimages = "images"\nmasks = "masks"\nmask_end = "_labels"\n',
    "affixes": "",
    "list": '[[layouts]]\nimages = "images"\nmasks = "masks"\nlist_file = "train.txt"\n',
    "class names": '[[layouts]]\nimages = "images"\nmasks = "masks"\nclass_masks = "names"\n',
    "class folders": '[[layouts]]\nimages = "images"\nmasks = "masks"\nclass_masks = "folders"\n',
    "manifest": '[[layouts]]\nmanifest = "files.csv"\n',
}


def declared(kind: str, folder: Path) -> tasks.Task:
    masks = folder / "masks"

    def write(name, codes):
        if kind == "codes":
            save(masks / f"{name}.png", np.array([0, 7, 40], np.uint8)[codes])
        elif kind == "sixteen bits":
            save(masks / f"{name}.png", np.array([0, 700, 4000], np.uint16)[codes])
        elif kind == "colours":
            palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
            save(masks / f"{name}.png", palette[codes])
        elif kind == "ends":
            save(masks / f"{name}_labels.png", codes)
        elif kind == "affixes":
            save(masks / f"gt_{name}.png", codes)
        elif kind.startswith("class"):
            for code in (1, 2):
                parts = f"{name}_{CLASSES[code]}", f"{CLASSES[code]}/{name}"
                there = (codes == code).astype(np.uint8) * 255
                save(masks / f"{parts[kind.endswith('folders')]}.png", there)
        else:
            save(masks / f"{name}.png", codes)

    names = ("img_1", "img_2", "img_3", "img_4") if kind == "affixes" else ("1", "2", "3", "4")
    task = make(folder, DECLARED[kind], names, write)
    (folder / "train.txt").write_text("1\n2\n3\n4\n")
    rows = [f"images/{name}.jpg,masks/{name}.png" for name in names]
    (folder / "files.csv").write_text("\n".join(["image,mask", *rows]) + "\n")
    return task


@pytest.mark.parametrize("kind", DECLARED)
def test_declared_tasks(kind, tmp_path):
    task = declared(kind, tmp_path / "d")
    items = task.items(tmp_path / "d")
    new = codes_of(9)
    store = round_trip(task, tmp_path / "d", items[1].image, new)
    # an image that nobody labelled yet
    added = save(tmp_path / "new.jpg", pixels_of(50))
    if kind != "manifest":
        copy = store.add(added)
        assert copy == tmp_path / "d" / "images" / "new.jpg" and store.label(copy) is None
        assert store.unlabelled() == [copy] and not check(task, tmp_path / "d").stops
        before = files_of(tmp_path / "d")
        row = store.save(copy, new, action="new", by="Ada", seconds=9, base=0)
        assert row.pixels == new.size and not store.unlabelled()
        assert np.array_equal(Corrections(task, tmp_path / "d").label(copy), new)
        assert len(task.items(tmp_path / "d")) == len(items) + 1
        survey(task, tmp_path / "d")
        with refuses("no-version"):
            store.version(copy, 0)
        take_back(task, tmp_path / "d", copy, before)
        with refuses("had-label"):
            store.withdraw(items[1].image, by="Ada")


@pytest.mark.parametrize("target", targets())
def test_label_files_of_other_tools(target, tmp_path):
    """They stay as they are; corrected labels are in DIR/.fastseg/masks, and come before them."""
    plain = make(tmp_path / "plain", "")
    entries = [
        Entry(item.image, item.image.name, None, lambda item=item: (plain.label(item), None))
        for item in plain.items(tmp_path / "plain")
    ]
    folder = tmp_path / target
    folder.mkdir()
    write_dataset(plain, target, entries, folder)
    task = tasks.get(folder)
    items = task.items(folder)
    labels = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".xml", ".txt")]
    before = {path: path.read_bytes() for path in labels}
    image, origin = items[0].image, items[0].origin
    store = round_trip(task, folder, image, codes_of(9))
    assert {path: path.read_bytes() for path in labels} == before
    item = next(item for item in task.items(folder) if item.image == image)
    assert item.origin == origin and item.is_corrected == bool(origin)
    stamp = item.files
    if origin:  # a later version is another file for journals and for interrupted fits
        assert stamp[1] == folder / ".fastseg/masks" / f"{store.all()[0].image}.png"
    copy = store.add(save(tmp_path / "new.png", pixels_of(50)))
    before = files_of(folder)
    store.save(copy, codes_of(10), action="new", by="Ada", seconds=1)
    assert np.array_equal(Corrections(task, folder).label(copy), codes_of(10))
    assert len(task.items(folder)) == len(items) + 1 and not check(task, folder).stops
    take_back(task, folder, copy, before)


@pytest.mark.parametrize("labels", ["table", "folders", "manifest"])
def test_classes_of_images(labels, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    toml = f'kind = "classify"\nclasses = ["ground", "roof", "tree"]\nlabels = "{labels}"\n'
    (folder / "task.toml").write_text(
        toml + ('table = "l.csv"\ncolumns = ["file", "what"]\n' if labels == "table" else "")
    )
    for number in range(6):
        place = f"{CLASSES[number % 3]}/" if labels == "folders" else ""
        save(folder / f"{place}{number}.png", pixels_of(number))
    lines = [f"{n},note {n},{CLASSES[n % 3]}" for n in range(6)]
    if labels == "table":
        text = "\r\n".join(["file,remark,what", *lines]) + "\r\n"
        (folder / "l.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    if labels == "manifest":
        rows = [f"{n}.png,{CLASSES[n % 3]}" for n in range(6)]
        (folder / "manifest.csv").write_text("\n".join(["image,class", *rows]) + "\n")
    task = tasks.get(folder)
    image = task.items(folder)[1].image
    store = round_trip(task, folder, image, 2)
    store.save(image, 2, **DONE)
    if labels == "table":
        changed = [*lines]
        changed[1] = changed[1].replace("roof", "tree")
        text = "\r\n".join(["file,remark,what", *changed]) + "\r\n"
        assert (folder / "l.csv").read_bytes() == b"\xef\xbb\xbf" + text.encode()
    copy = store.add(save(tmp_path / "new one.png", pixels_of(50)))
    assert store.label(copy) is None and copy in store.unlabelled()
    assert not check(task, folder).stops
    before = files_of(folder)
    store.save(copy, 1, action="new", by="Ada", seconds=1)
    assert Corrections(task, folder).label(copy) == 1 and copy not in store.unlabelled()
    assert len(task.items(folder)) == 7
    take_back(task, folder, copy, before)
    with refuses("mask-value"):
        store.save(image, 3, **DONE)


def test_a_label_that_is_taken_back_leaves_the_other_cells_of_its_row(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "task.toml").write_text(
        'kind = "classify"\nclasses = ["ground", "roof"]\ntable = "l.csv"\n'
        'columns = ["file", "what"]\n'
    )
    for number in range(4):
        save(tmp_path / "d" / f"{number}.png", pixels_of(number))
    table = tmp_path / "d" / "l.csv"
    table.write_text("file,what,who\n0.png,roof,P1\n1.png,ground,P2\n2.png,roof,P3\n3.png,,P4\n")
    before, store = table.read_bytes(), Corrections(tmp_path / "d", tmp_path / "d")
    store.save(tmp_path / "d" / "3.png", 1, action="new", by="Ada", seconds=1)
    assert b"3.png,roof,P4\n" in table.read_bytes()
    store.withdraw(tmp_path / "d" / "3.png", by="Ada")
    assert table.read_bytes() == before


@pytest.mark.parametrize("kind", ["codes", "class names", "class folders"])
def test_a_process_that_is_killed_while_it_takes_a_label_back(kind, tmp_path, monkeypatch):
    """At each file that is moved or removed: the whole label is there, or none, as the log says."""

    class Killed(BaseException):
        pass

    for step in range(1, 30):
        folder = tmp_path / str(step)
        task = declared(kind, folder)
        store = Corrections(task, folder)
        image = store.add(save(tmp_path / f"new{step}.jpg", pixels_of(50)))
        store.save(image, codes_of(9), action="new", by="Ada", seconds=1)
        left = step
        with monkeypatch.context() as patched:

            def dying(real):
                def call(*args, **options):
                    nonlocal left
                    left -= 1
                    if left <= 0:  # what comes after the kill never happens
                        raise Killed
                    return real(*args, **options)

                return call

            patched.setattr(os, "replace", dying(os.replace))
            patched.setattr(Path, "unlink", dying(Path.unlink))
            try:
                store.withdraw(image, by="Ada")
                break
            except Killed:
                pass
        store = Corrections(task, folder)
        label, rows = store.label(image), store.history(image)
        assert (label is None) == (rows[-1].action == "withdrawn"), step
        assert label is None or np.array_equal(label, codes_of(9)), step
        assert np.array_equal(store.version(image, 1), codes_of(9)), step
    assert left > 0 and step > 4


def test_a_mask_has_the_size_at_which_the_image_is_shown(tmp_path):
    """EXIF: the image is stored lying, and shown upright; so is its mask."""
    task = make(tmp_path / "d", "")
    image = tmp_path / "d" / "images" / "1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    save(image, pixels_of(0), exif=exif)
    store = Corrections(task, tmp_path / "d")
    assert store.size(image) == SIZE[::-1] == task.image(image).shape[:2]
    with refuses("size-mismatch"):  # its mask is of the lying image
        store.label(image)
    with refuses("mask-size"):
        store.save(image, codes_of(1), **DONE)
    new = codes_of(1, SIZE[::-1])
    store.save(image, new, **DONE)
    assert np.array_equal(store.label(image), new)
    assert not check(task, tmp_path / "d").stops
    survey(task, tmp_path / "d")


def test_a_mask_with_an_orientation_of_its_own_is_read_and_written_upright(tmp_path):
    task = make(tmp_path / "d", "")
    mask, exif = tmp_path / "d" / "masks" / "1.png", Image.Exif()
    exif[0x0112] = 3
    save(mask, codes_of(0), exif=exif)
    store = Corrections(task, tmp_path / "d")
    image = tmp_path / "d" / "images" / "1.jpg"
    before = store.label(image)
    assert np.array_equal(before, codes_of(0)[::-1, ::-1])
    after = before.copy()
    after[0, 0] = (after[0, 0] + 1) % 3
    store.save(image, after, **DONE)
    assert np.array_equal(store.label(image), after)
    assert np.array_equal(store.version(image, 0), before)


def test_what_a_format_cannot_hold_is_refused(samples, tmp_path):
    """Nothing changes then."""
    for name in ("face", "kitchen"):
        folder = Path(shutil.copytree(samples[name], tmp_path / name))
        store = Corrections(name, folder)
        item = tasks.get(name).items(folder)[0]
        label, mask = store.label(item.image).copy(), item.label.read_bytes()
        label[0, 0] = IGNORE
        with refuses("not-representable"):
            store.save(item.image, label, **DONE)
        assert item.label.read_bytes() == mask and store.all() == []
        assert not list((folder / ".fastseg").rglob("*.png"))


def test_masks_outside_the_folder_are_not_changed(tmp_path):
    """The label goes to DIR/.fastseg/masks."""
    task = make(tmp_path / "d", "")
    shutil.move(tmp_path / "d" / "masks", tmp_path / "elsewhere")
    (tmp_path / "d" / "masks").symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere" / "1.png").read_bytes()
    image = tmp_path / "d" / "images" / "1.jpg"
    store = round_trip(task, tmp_path / "d", image, codes_of(9))
    assert (tmp_path / "elsewhere" / "1.png").read_bytes() == before
    assert store.history(image)


def test_names_lead_nowhere_else(tmp_path):
    task = make(tmp_path / "d", "deep = 1\n".replace("deep = 1\n", ""))
    outside = save(tmp_path / "outside.jpg", pixels_of(8))
    (tmp_path / "d" / "images" / "link.jpg").symlink_to(outside)
    hidden = save(tmp_path / "d" / ".fastseg" / "x.jpg", pixels_of(8))
    store = Corrections(task, tmp_path / "d")
    for path in (outside, "../outside.jpg", "images/../../outside.jpg", "images/link.jpg", hidden):
        with refuses("outside-data"):
            store.save(path, codes_of(1), **DONE)
    with refuses("no-such-image"):
        store.label("images/none.jpg")
    save(tmp_path / "d" / "photos" / "1.jpg", pixels_of(9))
    with refuses("no-layout"):
        store.save("photos/1.jpg", codes_of(1), **DONE)
    with refuses("unknown-action"):
        store.save("images/1.jpg", codes_of(1), action="painted", by="", seconds=0)
    for wrong in (np.full(SIZE, 3, np.uint8), np.zeros(SIZE, float)):
        with refuses("mask-value"):
            store.save("images/1.jpg", wrong, **DONE)


def test_any_name_is_kept(tmp_path):
    names = ("a b", "größe", "sub/日本 7", "sub/x'\"y")
    toml = '[[layouts]]\nimages = "images"\nmasks = "masks"\ndeep = true\n'
    task = make(tmp_path / "d", toml, names)
    store = Corrections(task, tmp_path / "d")
    for seed, name in enumerate(names):
        store.save(f"images/{name}.jpg", codes_of(90 + seed), **DONE, prediction=codes_of(seed))
    again = Corrections(task, tmp_path / "d")
    assert [row.image for row in again.all()] == [f"images/{name}.jpg" for name in names]
    for seed, name in enumerate(names):
        assert np.array_equal(again.label(f"images/{name}.jpg"), codes_of(90 + seed))
        assert np.array_equal(again.prediction(f"images/{name}.jpg", 1), codes_of(seed))


def test_every_version_is_kept_and_listed(tmp_path):
    folder = tmp_path / "d"
    task = make(folder, "")
    store = Corrections(task, folder)
    image, original = folder / "images" / "1.jpg", (folder / "masks" / "1.png").read_bytes()
    for number in range(1, 4):
        store.save(
            image, codes_of(number + 10), action="corrected", by="Ada\nL", seconds=1.26,
            source="d 123456789abc", prediction=codes_of(0), base=number - 1,
        )  # fmt: skip
    assert (folder / ".fastseg/versions/images/1.jpg/0.png").read_bytes() == original
    for number in range(1, 4):
        assert np.array_equal(store.version(image, number), codes_of(number + 10))
    rows = rows_of(folder / "corrections.csv")
    assert list(rows[0]) == list(COLUMNS) and [row["version"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["image"] == "images/1.jpg" and rows[0]["by"] == "Ada L"
    assert rows[0]["seconds"] == "1.3" and rows[0]["when"].endswith("+00:00")
    assert rows[0]["source"] == "d 123456789abc"
    assert int(rows[2]["pixels"]) == (codes_of(13) != codes_of(0)).sum()
    assert store.history(image) == store.all()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    task = make(folder, "")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as readonly, refuses("not-writable", folder):
        readonly.setattr(Path, "mkdir", refuse)
        Corrections(task, folder).save("images/1.jpg", codes_of(9), **DONE)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_full_disk_changes_no_saved_label(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of file sizes are of Unix")
    folder = tmp_path / "d"
    task = make(folder, "")
    store = Corrections(task, folder)
    store.save("images/1.jpg", codes_of(9), **DONE, prediction=codes_of(8))
    saved = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    before, failed = resource.getrlimit(resource.RLIMIT_FSIZE), 0
    for limit in range(0, 600, 60):  # bytes that a file may have: the write stops in the middle
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            store.save("images/1.jpg", codes_of(limit), **DONE, prediction=codes_of(7))
        except DataError as error:
            assert error.code == "not-writable"
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {p: p.read_bytes() for p in saved} == saved
        assert np.array_equal(Corrections(task, folder).label("images/1.jpg"), codes_of(9))
    assert failed > 2 and len(Corrections(task, folder).all()) in (1, 2)


def test_the_second_of_two_editors_is_told(tmp_path):
    task = make(tmp_path / "d", "")
    one, two = Corrections(task, tmp_path / "d"), Corrections(task, tmp_path / "d")
    image = tmp_path / "d" / "images" / "1.jpg"
    one.save(image, codes_of(10), **DONE, base=0)
    with refuses("edited-meanwhile", "Ada", 1):
        two.save(image, codes_of(11), **DONE, base=0)
    assert np.array_equal(two.label(image), codes_of(10))
    two.save(image, codes_of(11), **DONE, base=two.newest(image))


def test_many_writers_lose_no_version(tmp_path):
    task = make(tmp_path / "d", "")
    failed = []

    def write(seed: int) -> None:
        try:
            store = Corrections(task, tmp_path / "d")
            for number in range(4):
                for name in "12":
                    image = f"images/{name}.jpg"
                    store.save(image, codes_of(100 * seed + number), **DONE)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    store = Corrections(task, tmp_path / "d")
    written = {codes_of(100 * s + n).tobytes() for s in range(4) for n in range(4)}
    for name in "12":
        rows = store.history(f"images/{name}.jpg")
        assert [row.version for row in rows] == list(range(1, 17))
        versions = {store.version(f"images/{name}.jpg", v).tobytes() for v in range(1, 17)}
        assert versions == written


def test_new_images_are_copied_once(tmp_path):
    task = make(tmp_path / "d", "")
    store = Corrections(task, tmp_path / "d")
    new = save(tmp_path / "cam" / "9.jpg", pixels_of(50))
    copy = store.add(new)
    assert copy.read_bytes() == new.read_bytes() and store.add(new) == copy
    renamed = Path(shutil.copy(new, tmp_path / "cam" / "10.jpg"))
    assert store.add(renamed) == copy  # the same content
    other = save(tmp_path / "cam" / "1.jpg", pixels_of(51))
    with refuses("same-name", kind=Exception):
        store.add(other)
    with refuses("same-name"):
        store.add(save(tmp_path / "cam" / "9.png", pixels_of(52)))  # stems pair images and masks
    broken = tmp_path / "cam" / "broken.jpg"
    broken.write_bytes(b"nothing")
    with refuses("unreadable-image"):
        store.add(broken)
    (tmp_path / "cam" / "notes.txt").write_text("x")
    with refuses("unreadable-image"):
        store.add(tmp_path / "cam" / "notes.txt")


def test_new_images_go_to_the_folder_of_their_part(samples, tmp_path):
    """Where folders divide the images: by the hash, in the share of one in five."""
    folder = Path(shutil.copytree(samples["kitchen"], tmp_path / "kitchen"))
    store = Corrections("kitchen", folder)
    parts = [
        store.add(save(tmp_path / "cam" / f"{n}.jpg", pixels_of(200 + n))).relative_to(folder)
        for n in range(24)
    ]
    counts = [sum(part.parts[0] == name for part in parts) for name in ("train", "val")]
    assert sum(counts) == 24 and 1 <= counts[1] <= 12


def test_a_new_image_is_never_taken_for_a_mask(tmp_path):
    folder = tmp_path / "d"
    for number in range(4):
        save(folder / f"{number}.jpg", pixels_of(number))
        save(folder / f"{number}.png", codes_of(number))
    (folder / "task.toml").write_text(
        'classes = ["ground", "roof", "tree"]\n[[layouts]]\nimages = "."\n'
    )
    store = Corrections(folder, folder)
    with refuses("image-is-mask"):
        store.add(save(tmp_path / "new.png", pixels_of(50)))
    copy = store.add(save(tmp_path / "new.jpg", pixels_of(50)))
    store.save(copy, codes_of(9), action="new", by="Ada", seconds=1)
    assert np.array_equal(Corrections(folder, folder).label(copy), codes_of(9))


def test_images_of_several_files(tmp_path):
    """A file a channel: all of them are copied, and the first one names the image."""
    folder = tmp_path / "d"

    def write(place: Path, name: str, seed: int) -> Path:
        for channel, end in enumerate(("_red", "_nir")):
            save(place / f"{name}{end}.png", pixels_of(seed)[..., channel])
        return place / f"{name}_red.png"

    for number in range(4):
        write(folder / "images", str(number), number)
        save(folder / "masks" / f"{number}.png", codes_of(number))
    (folder / "task.toml").write_text(
        'classes = ["ground", "roof", "tree"]\nchannels = 2\nchannel_files = ["_red", "_nir"]\n'
    )
    task = tasks.get(folder)
    store = round_trip(task, folder, folder / "images" / "1_red.png", codes_of(9))
    copy = store.add(write(tmp_path / "cam", "new", 50))
    assert copy == folder / "images" / "new_red.png" and copy.with_name("new_nir.png").is_file()
    assert store.unlabelled() == [copy]
    store.save(copy, codes_of(8), action="new", by="Ada", seconds=1)
    assert (folder / "masks" / "new.png").is_file() and not check(task, folder).stops
    assert np.array_equal(Corrections(task, folder).label(copy), codes_of(8))


def test_images_without_a_label_stop_a_fit_unless_they_wait_for_one(tmp_path):
    task = make(tmp_path / "d", "")
    save(tmp_path / "d" / "images" / "9.jpg", pixels_of(50))
    with refuses("no-partner"):
        task.items(tmp_path / "d")
    Corrections(task, tmp_path / "d").begin()
    assert len(task.items(tmp_path / "d")) == 4
    assert check(task, tmp_path / "d").kinds["unlabelled image"] == 1
    (tmp_path / "d" / "masks" / "7.png").write_bytes((tmp_path / "d/masks/1.png").read_bytes())
    with refuses("no-partner"):  # a mask without an image is still a fault
        task.items(tmp_path / "d")


def test_what_was_taken_away_is_repaired_when_the_folder_is_opened(tmp_path):
    folder = tmp_path / "d"
    task = make(folder, "")
    store = Corrections(task, folder)
    for number in range(1, 4):
        store.save("images/1.jpg", codes_of(number + 10), **DONE)
    store.save("images/2.jpg", codes_of(30), **DONE)
    (folder / "corrections.csv").unlink()
    again = Corrections(task, folder)  # versions without rows
    assert [row.version for row in again.history("images/1.jpg")] == [1, 2, 3]
    assert [row.version for row in again.history("images/2.jpg")] == [1]
    (folder / ".fastseg/versions/images/1.jpg/1.png").unlink()
    again = Corrections(task, folder)  # a row without its version
    assert [row.version for row in again.history("images/1.jpg")] == [2, 3]
    assert np.array_equal(again.version("images/1.jpg", 2), codes_of(12))
    assert again.save("images/1.jpg", codes_of(14), **DONE).version == 4
    with (folder / "corrections.csv").open("a") as file:
        csv.writer(file).writerow(["images/1.jpg", "five"])
    assert len(Corrections(task, folder).history("images/1.jpg")) == 3  # the others are read


@pytest.mark.parametrize("moment", ("done", "written down", "half"))
def test_a_renamed_image_keeps_its_history(moment, tmp_path, monkeypatch):
    folder = tmp_path / "d"
    task = make(folder, "")
    store = Corrections(task, folder)
    for number in (1, 2):
        store.save("images/1.jpg", codes_of(number), **DONE, prediction=codes_of(9))
    store.save("images/2.jpg", codes_of(5), **DONE)
    rows = store.history("images/1.jpg")
    (folder / ".fastseg/pins.csv").write_text("image,version,source,when\nimages/1.jpg,2,e,now\n")
    for kind in ("images", "masks"):
        (first,) = (folder / kind).glob("1.*")
        first.rename(first.with_stem("new"))
    if moment != "done":  # killed

        def stop(*_):
            raise KeyboardInterrupt

        where = (renames, "_carry") if moment == "written down" else (Log, "write")
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(*where, stop)
            Corrections(task, folder)
    again = Corrections(task, folder)
    assert [replace(row, image="images/1.jpg") for row in again.history("images/new.jpg")] == rows
    assert len(again.all()) == 3 and np.array_equal(again.version("images/new.jpg", 1), codes_of(1))
    assert np.array_equal(again.version("images/new.jpg", 2), codes_of(2))
    assert np.array_equal(again.prediction("images/new.jpg", 2), codes_of(9))
    assert rows_of(folder / ".fastseg/pins.csv")[0]["image"] == "images/new.jpg"
    assert not (folder / ".fastseg/renamed.json").exists()
    assert not (folder / ".fastseg/versions/images/1.jpg").exists()
    assert Corrections(task, folder).save("images/new.jpg", codes_of(7), **DONE).version == 3


def test_a_renamed_image_of_an_older_history_is_found_by_the_ledger(tmp_path):
    folder = tmp_path / "d"
    task = make(folder, "", "1234567")
    Corrections(task, folder).save("images/1.jpg", codes_of(1), **DONE)
    (folder / ".fastseg/versions/images/1.jpg/content.sha256").unlink()
    for kind in ("images", "masks"):
        (first,) = (folder / kind).glob("1.*")
        first.rename(first.with_stem("new"))
    assert Corrections(task, folder).newest("images/new.jpg") == 1
    (folder / "images/new.jpg").write_bytes((folder / "images/2.jpg").read_bytes())
    (folder / "images/new.jpg").rename(folder / "images/other.jpg")  # another content
    assert Corrections(task, folder).newest("images/other.jpg") == 0


def test_the_state_is_no_data(samples, tmp_path, run):
    """Commands that look through the folder find neither versions nor corrections.csv."""
    folder = Path(shutil.copytree(samples["eye"], tmp_path / "eye"))
    task = tasks.get("eye")
    store = Corrections(task, folder)
    images = [item.image for item in task.items(folder)]
    store.save(images[0], store.label(images[1]), **DONE, prediction=store.label(images[0]))
    assert [item.image for item in task.items(folder)] == images
    assert len(items_for_fit(task, folder)) == len(images)
    assert check("eye", folder).kinds.keys() - {"misaligned mask"} == set()
    (folder / "task.toml").unlink(missing_ok=True)
    found = run("new", folder, "--json").out
    assert ".fastseg" not in found and "corrections.csv" not in found
    out = run("convert", folder, tmp_path / "coco", "--to", "coco").out
    assert out and not list((tmp_path / "coco").rglob("corrections.csv"))
    converted = tasks.get(tmp_path / "coco")
    assert len(converted.items(tmp_path / "coco")) == len(images)


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("name", ["eye", "face", "mri", "surfaces"])
def test_real_labels(name, tmp_path):
    """Masks and tables as their makers wrote them: exact, and unchanged where nobody painted."""
    if not (shared / "data" / name).is_dir():
        pytest.skip(f"no real {name} data")
    folder = Path(shutil.copytree(shared / "data" / name, tmp_path / name))
    task, rng = tasks.get(name), np.random.default_rng(1)
    store = Corrections(task, folder)
    store.begin()
    items = task.items(folder)
    for i in rng.choice(len(items), 8, replace=False):
        image, label = items[i].image, store.label(items[i].image)
        if task.kind == "classify":
            new, raw = 1 - label, None
        else:
            new, raw = label.copy(), read_raw(items[i].label)
            height, width = label.shape
            part = slice(height // 4, height // 2), slice(width // 4, width // 2)
            new[part] = rng.integers(len(task.classes))
        store.save(image, new, **DONE, prediction=label)
        assert np.array_equal(Corrections(task, folder).label(image), new)
        assert np.array_equal(store.version(image, 0), label)
        if raw is not None and items[i].label.suffix == ".png":
            same = (new == label) & (label != IGNORE)  # stray codes become unlabelled
            assert (read_raw(items[i].label)[same] == raw[same]).all()
    assert len(task.items(folder)) == len(items)
    train, valid = splitter(task, 1, data=folder)(items)
    contents = digests(items)
    assert not {contents[i] for i in train} & {contents[i] for i in valid}
    # the ledger names each picture once: copies of held-out ones are in neither part
    assert {contents[i] for i in valid} == {contents[i] for i in task.split(items, 42)[1]}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_killed_process_leaves_whole_labels_all_versions_and_a_log_that_agrees(tmp_path):
    """More than 100 moments: at each renaming of a file, and 51 at random."""
    program = Path(__file__).with_name("corrections_case.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path / "kill", "51", "1"],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    killings, told, more = map(int, done.stdout.split())
    assert killings > 100 and told > 20 and more > 10


@pytest.mark.parametrize("damage", ["garbage", "a row", "the end", "all"])
@pytest.mark.parametrize("is_reopened", [False, True])
def test_no_version_is_lost_when_the_list_is_damaged(damage, is_reopened, samples, tmp_path):
    data = Path(shutil.copytree(samples["eye"], tmp_path / "eye"))
    store = Corrections("eye", data)
    first, second = (item.image for item in store.task.items(data)[:2])

    def saved(store, image, rows):
        label = store.label(image).copy()
        label[:rows] = (label[:rows] + 1) % 4
        return store.save(
            image, label, action="corrected", by="Ada", seconds=1, base=store.newest(image)
        )

    for number in (1, 2, 3):
        saved(store, first, 9 * number)
    folder = data / ".fastseg" / "versions" / "imgs_small" / first.name
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    newest = store.label(first)
    file = data / "corrections.csv"
    lines = file.read_text().splitlines(keepends=True)
    if damage == "all":
        file.unlink()
    else:
        texts = {
            "garbage": "garbage\n",
            "a row": "".join([*lines[:-1], lines[-1].replace(",3,", ",x,", 1)]),
            "the end": "".join(lines[:-2]),
        }
        file.write_text(texts[damage])
    store = Corrections("eye", data) if is_reopened else store
    saved(store, second, 5)
    assert saved(Corrections("eye", data), first, 50).version == 4
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert np.array_equal(Corrections("eye", data).version(first, 3), newest)
    assert [row.version for row in Corrections("eye", data).history(first)] == [1, 2, 3, 4]
    kept = list((data / ".fastseg" / "damaged").glob("*_corrections.csv"))
    assert len(kept) == (damage in ("garbage", "a row"))


def test_a_fit_with_images_without_a_label_says_where_they_are_labelled(tmp_path):
    """Unless something else is wrong, too: that is to be corrected first."""
    task = make(tmp_path / "d", "")
    (tmp_path / "d" / "masks" / "1.png").unlink()
    with refuses("no-partner", "1.jpg", "fastseg app"):
        task.items(tmp_path / "d")
    save(tmp_path / "d" / "masks" / "9.png", codes_of(1))
    with refuses("no-partner") as caught:
        task.items(tmp_path / "d")
    assert "fastseg app" not in str(caught.value)


def test_rows_of_new_images_are_made_again_when_the_list_is_lost(tmp_path):
    """They have no version before the first label; a spreadsheet's byte order mark is no damage."""
    task = make(tmp_path / "d", "")
    store = Corrections(task, tmp_path / "d")
    images = [store.add(save(tmp_path / f"new{i}.jpg", pixels_of(50 + i))) for i in range(3)]
    for image in images:
        store.save(image, codes_of(9), action="new", by="Ada", seconds=1)
    store.withdraw(images[1], by="Ada")
    log = tmp_path / "d" / "corrections.csv"
    text = log.read_bytes().replace(b"\n", b"\r\n")
    log.write_bytes(b"\xef\xbb\xbf" + text)
    assert [row.by for row in Corrections(task, tmp_path / "d").all()] == ["Ada"] * 4
    log.unlink()
    store = Corrections(task, tmp_path / "d")
    rows = {image.name: [r.action for r in store.history(image)] for image in images}
    assert rows == {
        "new0.jpg": ["corrected"],
        "new1.jpg": ["corrected", "withdrawn"],
        "new2.jpg": ["corrected"],
    }
    assert np.array_equal(store.version(images[1], 1), codes_of(9))

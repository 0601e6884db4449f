"""fastseg add: corrections.zip comes into a data folder, whatever is in it."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from conftest import refuses
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.corrections.store import Corrections

NEW = "set_77_frame_1.png"


def _png(codes):
    stream = io.BytesIO()
    Image.fromarray(codes).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def data(samples, tmp_path):
    """A copy of the synthetic eyes."""
    return shutil.copytree(samples["eye"], tmp_path / "eye")


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes a corrections.zip of one image of random pixels."""

    def write(name=NEW, label=None, task="eye", files=None, about=None, entry=None):
        rng = np.random.default_rng(5)
        pixels, drawn = rng.integers(0, 256, (40, 48, 3)), rng.integers(0, 4, (40, 48))
        codes = drawn.astype(np.uint8) if label is None else label
        row = {"image": f"images/{name}", "action": "corrected", "seconds": 12.34}
        path = tmp_path / "corrections.zip"
        with zipfile.ZipFile(path, "w") as made:
            with made.open(f"images/{name}", "w") as file:
                Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            if isinstance(codes, np.ndarray):
                for kind, values in [("label", codes), ("prediction", np.zeros_like(codes))]:
                    row.setdefault(kind, f"{kind}s/x.png")
                    with made.open(f"{kind}s/x.png", "w") as file:
                        Image.fromarray(values).save(file, "PNG")
            else:
                row = {"label": codes, "prediction": 1 - codes, **row}
            row |= entry or {}
            for place, content in (files or {}).items():
                made.writestr(place, content)
            classes = list(tasks.get(task).classes)
            told = {"schema": 1, "task": task, "classes": classes, "by": "Ada", "images": [row]}
            told |= {"source": "eye 0123456789ab", **(about or {})}
            made.writestr("corrections.json", json.dumps(told))
        return path, codes

    return write


def test_a_new_image_comes_with_its_label_and_its_prediction(run, data, pack):
    archive, codes = pack()
    said = run("add", "eye", archive, "--data", data).out
    assert "labels added: 1" in said and "fit --from exports/eye" in said
    store = Corrections("eye", data)
    (row,) = store.all()
    assert (row.image, row.action, row.by, row.seconds) == (
        f"imgs_small/{NEW}",
        "corrected",
        "Ada",
        12.3,
    )
    assert (row.source, row.version, row.pixels) == ("eye 0123456789ab", 1, int((codes > 0).sum()))
    assert (store.label(data / row.image) == codes).all()
    assert (store.prediction(data / row.image, 1) == 0).all()
    items = {item.image.name: item for item in tasks.get("eye").items(data)}
    assert (tasks.get("eye").label(items[NEW]) == codes).all()  # a fit reads it


def test_what_is_there_already_is_not_added_again(run, data, pack):
    archive, codes = pack()
    assert len(fastseg.add("eye", archive, data).saved) == 1
    again = json.loads(run("add", "eye", archive, "--data", data, "--json").out)
    assert (again["saved"], again["known"], again["refused"]) == ([], [NEW], {})
    archive, codes = pack(label=codes[::-1].copy())
    (row,) = fastseg.add("eye", archive, data).saved  # the same image, another label
    store = Corrections("eye", data)
    assert row.version == 2 and (store.version(data / row.image, 1) == codes[::-1]).all()


def test_a_class_is_added_to_the_table(samples, tmp_path, pack):
    data = shutil.copytree(samples["mri"], tmp_path / "mri")
    archive, _ = pack(name="sub-new.png", label=1, task="mri")
    (row,) = fastseg.add("mri", archive, data).saved
    assert Corrections("mri", data).label(data / row.image) == 1
    assert row.pixels == 1  # the prediction was the other one


def test_an_image_that_cannot_be_added_does_not_stop_the_others(run, data, pack):
    archive, _ = pack(label=np.zeros((8, 8), dtype=np.uint8))
    with zipfile.ZipFile(archive) as opened:
        about = json.loads(opened.read("corrections.json"))
        first = opened.read(f"images/{NEW}")
    good = {**about["images"][0], "image": "images/set_78_frame_1.png"}
    files = {
        "images/set_78_frame_1.png": first + b"\n",  # other bytes: another image
        "labels/good.png": _png(np.ones((40, 48), dtype=np.uint8)),
    }
    good |= {"label": "labels/good.png", "prediction": "labels/good.png"}
    archive, _ = pack(
        label=np.zeros((8, 8), dtype=np.uint8),
        files=files,
        about={"images": [*about["images"], good]},
    )
    result = run("add", "eye", archive, "--data", data, code=1)
    assert "labels added: 1" in result.out
    assert NEW in result.err and "8x8" in result.err


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "images/../../set_1.png"},
        {"image": "images/.hidden.png"},
        {"image": "images/a\\b.png"},
        {"image": "images/notes.txt"},
        {"label": "labels/none.png"},
        {"label": 1},
        {"prediction": None},
        {"action": "predicted"},
        {"seconds": "soon"},
        {"image": 7},
    ],
)
def test_malicious_entries_are_refused(data, pack, entry, tmp_path):
    archive, _ = pack(entry=entry)
    before = {path for path in tmp_path.rglob("*")}
    with refuses("damaged-corrections-zip", archive):
        fastseg.add("eye", archive, data)
    assert {path for path in tmp_path.rglob("*")} == before


def test_archives_that_are_none_or_of_another_task_are_refused(data, pack, tmp_path, monkeypatch):
    archive, _ = pack()
    with refuses("corrections-task", "kitchen"):
        fastseg.add("kitchen", archive, data)
    with refuses("no-such-path"):
        fastseg.add("eye", tmp_path / "none.zip", data)
    monkeypatch.setattr("fastseg.corrections.incoming.LARGEST_FILE", 100)
    with refuses("damaged-corrections-zip"):
        fastseg.add("eye", archive, data)
    for content in (b"", archive.read_bytes()[:-60], b"PK\x03\x04" * 9):
        archive.write_bytes(content)
        with refuses("damaged-corrections-zip"):
            fastseg.add("eye", archive, data)
    archive, _ = pack(about={"schema": 2})
    with refuses("damaged-corrections-zip", 2):
        fastseg.add("eye", archive, data)

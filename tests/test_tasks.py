"""Every task, the built-in and any later one: sample, layout, labels, split, DataBlock."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import refuses, size_of
from PIL import Image

from fastseg import tasks

segmenting = [name for name in tasks.names() if tasks.get(name).kind == "segment"]


def digest(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_the_five_tasks_are_there():
    assert {"eye", "kitchen", "mri", "face", "surfaces"} <= set(tasks.names())


@pytest.mark.parametrize("name", tasks.names())
def test_sample_is_deterministic_different_and_refuses_to_mix(name, tmp_path):
    task = tasks.get(name)
    first, again, other = (
        digest(task.sample(tmp_path / str(i), n=6, seed=seed)) for i, seed in enumerate((1, 1, 2))
    )
    assert first == again and first != other
    pictures = [
        value
        for path, value in first.items()
        if "ask" not in path and "annotations" not in path and "tsv" not in path
    ]
    assert len(set(pictures)) == len(pictures)
    with refuses("not-empty"):
        task.sample(tmp_path / "0", n=6)


@pytest.mark.parametrize("name", tasks.names())
def test_items_labels_and_split(name, samples):
    task = tasks.get(name)
    items = task.items(samples[name])
    train, valid = task.split(items)
    assert train and valid and not set(train) & set(valid)
    assert not {items[i].group for i in train} & {items[i].group for i in valid}
    assert task.split(items, seed=1) == task.split(items, seed=1)
    for item in items[:4]:
        label = task.label(item)
        if task.kind == "segment":
            assert label.dtype == np.uint8 and label.shape == task.image(item).shape[:2]
            assert set(np.unique(label)) <= {*range(len(task.classes)), 255}
        else:
            assert label in range(len(task.classes))
    seen = {
        int(v)
        for item in items
        for v in (np.unique(task.label(item)) if task.kind == "segment" else [task.label(item)])
    }
    assert seen - {255} == set(range(len(task.classes)))


@pytest.mark.parametrize("name", tasks.names())
def test_datablock_gives_batches(name, samples):
    task = tasks.get(name)
    dls = task.datablock(size=(64, 96)).dataloaders(samples[name], bs=3, num_workers=0)
    x, y = dls.one_batch()
    assert x.shape == (3, 3, 64, 96) and x.min() >= 0 and x.max() <= 1
    assert y.shape == ((3, 64, 96) if task.kind == "segment" else (3,))


def test_frames_of_one_set_stay_together(tmp_path):
    for number in range(30):
        for folder in ("imgs_small", "masks_small"):
            path = tmp_path / folder / f"set_{number // 6}_frame_{number % 6}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), number % 4, np.uint8)).save(path)
    task = tasks.get("eye")
    items = task.items(tmp_path)
    for seed in range(5):
        train, valid = task.split(items, seed)
        assert {items[i].group for i in train}.isdisjoint({items[i].group for i in valid})
        assert len(valid) == 6


@pytest.mark.parametrize(
    "subfolders", [("images", "masks"), ("images", "annotations"), ("images", "labels"), ("", "")]
)
def test_kitchen_layouts(tmp_path, subfolders):
    task = tasks.get("kitchen")
    image, codes = task.draw(np.random.default_rng(0))
    for split in ("train", "val"):
        for folder, pixels, suffix in (
            (subfolders[0], image, ".jpg"),
            (subfolders[1], task.sample_mask(codes, "")[0], ".png"),
        ):
            path = tmp_path / split / folder / f"upma4_671{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    items = task.items(tmp_path)
    assert [item.split for item in items] == ["train", "valid"]
    assert (task.label(items[0]) == codes).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_code_masks_of_every_mode(tmp_path, mode):
    codes = np.arange(16, dtype=np.uint8).reshape(4, 4) % 4
    if mode == "P":
        mask = Image.fromarray(codes).convert("P")
        mask.putdata(codes.reshape(-1).tolist())
        mask.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    elif mode == "L":
        mask = Image.fromarray(codes)
    else:
        channels = [codes] * 3 + ([np.full_like(codes, 255)] if mode == "RGBA" else [])
        mask = Image.fromarray(np.stack(channels, 2))
    mask.save(tmp_path / "m.png")
    assert (tasks.get("eye").decode(tmp_path / "m.png") == codes).all()


def test_surfaces_table_maps_both_sources(tmp_path):
    task = tasks.get("surfaces")
    Image.fromarray(np.array([[0, 1, 4, 16, 2, 29]], np.uint8)).save(tmp_path / "a.png")
    assert task.decode(tmp_path / "a.png", "ade20k").tolist() == [[255, 1, 2, 3, 0, 2]]
    Image.fromarray(np.array([[255, 170, 176, 113, 117, 66, 100, 0]], np.uint8)).save(
        tmp_path / "c.png"
    )
    assert task.decode(tmp_path / "c.png", "cocostuff").tolist() == [[255, 1, 1, 2, 2, 3, 2, 0]]


def test_face_masks_are_thresholded(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert tasks.get("face").decode(tmp_path / "m.png").tolist() == [[0, 0, 1, 1]]


def test_small_sample_is_refused(tmp_path):
    with refuses("sample-size", "4"):
        tasks.get("eye").sample(tmp_path / "x", n=2)


@pytest.mark.parametrize("name", segmenting)
def test_written_masks_read_back_as_the_same_codes(name, tmp_path):
    from fastseg.data.images import save_image

    task = tasks.get(name)
    image, codes = task.draw(np.random.default_rng(5))
    path = save_image(
        tmp_path / f"m{task.suffix}", task.render(SimpleNamespace(image=image, codes=codes))
    )
    if task.output == "overlay":
        assert size_of(path) == image.shape[1::-1]
    elif task.masks == "threshold":
        assert (np.asarray(Image.open(path)) == codes).all()
    else:
        assert (task.decode(path) == codes).all()

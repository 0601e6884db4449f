"""The ledger of parts: what is held out never trains, whatever is added, renamed or copied."""

import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses, rows_of
from PIL import Image
from scipy import ndimage

from fastseg import tasks
from fastseg.corrections.store import Corrections
from fastseg.data.assigning import APART, TEST, TRAIN, VALID
from fastseg.data.contents import digests
from fastseg.data.parts import Ledger
from fastseg.data.split import splitter
from fastseg.training.trials import InnerSplit
from fastseg.types import Item
from fastseg.utils.io import name_below

SIZE = (48, 64)
TOML = 'classes = ["ground", "roof"]\ngroup = "set_\\\\d+(?=_)"\n'


def picture(seed: int) -> np.ndarray:
    """Return a smooth picture, which looks like no other one, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).normal(0, 1, (*SIZE, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    return (128 + 100 * smooth / np.abs(smooth).max()).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def items_in(folder: Path, pictures, split=None, group=None) -> list[Item]:
    """Write pictures {name: seed or pixels}, and return items that are groups of their own."""
    found = []
    for name, seed in pictures.items():
        pixels = seed if isinstance(seed, np.ndarray) else picture(seed)
        path = save(folder / f"{name}.png", pixels)
        found.append(Item(path, 0, split, group or f"/{name}"))
    return found


def named(items, indices) -> set[str]:
    return {items[i].image.stem for i in indices}


def reasons(folder: Path) -> dict[str, tuple[str, str]]:
    rows = rows_of(folder / ".fastseg" / "split.csv")
    return {Path(row["name"]).stem: (row["part"], row["why"]) for row in rows}


def test_a_frozen_split_is_the_one_that_there_was(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2, "c": 3})
    items += items_in(tmp_path / "t", {"d": 4}, split="test")
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    train, valid, apart = ledger.assign(items)
    assert (named(items, train), named(items, valid), apart) == ({"a", "c"}, {"b"}, [])
    assert reasons(tmp_path)["d"][0] == TEST
    again = Ledger.freeze(tmp_path, items, {"a.png"}, "another")  # one that is there stays
    assert again.rows == Ledger.of(tmp_path).rows and named(items, again.assign(items)[1]) == {"b"}
    assert Ledger.of(tmp_path / "t") is None


def test_a_copy_of_a_held_out_image_does_not_train(tmp_path, caplog):
    items = items_in(tmp_path, {"a": 1, "b": 2, "copy": 2, "c": 3})
    items += items_in(tmp_path / "t", {"test": 3}, split="test")
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    assert "2" in caplog.text
    train, valid, apart = ledger.assign(items)
    assert named(items, train) == {"a"} and named(items, valid) == {"b"}
    assert named(items, apart) == {"copy", "c"}
    items[1].image.unlink()  # then the copy is the image, under another name
    left = [item for item in items if item.image.exists()]
    assert named(left, Ledger.of(tmp_path).assign(left)[1]) == {"copy"}


def test_new_images_are_drawn_once_in_the_given_share(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2})
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    items += items_in(tmp_path, {f"n{i}": 10 + i for i in range(60)})
    train, valid, apart = ledger.assign(items, valid_share=0.3)
    assert not apart and 10 <= len(valid) <= 29  # 18 expected, 3.5 is the deviation
    shuffled = random.Random(0).sample(items, len(items))
    for share in (0.3, 0.9):  # recorded: the share of later ones does not move them
        again = Ledger.of(tmp_path).assign(shuffled, valid_share=share)
        assert named(shuffled, again[1]) == named(items, valid)
    before = (tmp_path / ".fastseg" / "split.csv").read_bytes()
    more = [*items, *items_in(tmp_path, {"later": 99})]
    Ledger.of(tmp_path).assign(more, record=False)
    assert (tmp_path / ".fastseg" / "split.csv").read_bytes() == before


def test_the_draw_depends_on_content_not_on_order_or_name(tmp_path):
    for place in ("one", "two"):
        items = items_in(tmp_path / place, {"a": 1, "b": 2})
        Ledger.freeze(tmp_path / place, items, {"b.png"}, "export x")
    one = items_in(tmp_path / "one", {f"n{i}": 10 + i for i in range(20)})
    two = items_in(tmp_path / "two", {f"m{19 - i}": 29 - i for i in range(20)})
    valid = Ledger.of(tmp_path / "one").assign(one, grouped=False)[1]
    other = Ledger.of(tmp_path / "two").assign(two, grouped=False)[1]
    assert {name[1:] for name in named(one, valid)} == {name[1:] for name in named(two, other)}


def test_a_group_stays_where_it_is(tmp_path):
    items = items_in(tmp_path, {"a": 1}, group="g") + items_in(tmp_path, {"b": 2}, group="h")
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    for number in range(6):
        items += items_in(tmp_path, {f"g{number}": 10 + number}, group="g")
        items += items_in(tmp_path, {f"h{number}": 20 + number}, group="h")
    items += items_in(tmp_path, {f"k{number}": 30 + number for number in range(6)}, group="k")
    train, valid, apart = ledger.assign(items)
    assert not apart
    assert all(name[0] != "h" for name in named(items, train) - {"b"})
    assert {"b", *(f"h{n}" for n in range(6))} <= named(items, valid)
    assert len({i in train for i in range(len(items)) if items[i].group == "k"}) == 1


def test_what_looks_the_same_is_not_on_both_sides(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2})
    items += items_in(tmp_path / "t", {"test": 3}, split="test")
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")

    def brighter(seed: int) -> np.ndarray:
        return (picture(seed).astype(int) + 9).clip(0, 255).astype(np.uint8)

    new = items_in(tmp_path, {"like_b": brighter(2), "like_test": brighter(3)})
    train, valid, apart = ledger.assign([*items, *new], valid_share=0)
    assert named([*items, *new], apart) == {"like_b", "like_test"}
    part, why = reasons(tmp_path)["like_b"]
    assert part == APART and "b.png" in why
    twins = items_in(tmp_path, {"like_a": brighter(1)})
    every = [*items, *new, *twins]
    train, valid, apart = Ledger.of(tmp_path).assign(every, valid_share=1)
    assert "like_a" in named(every, train) and named(every, valid) == {"b"}
    assert "a.png" in reasons(tmp_path)["like_a"][1]
    # one whose group is held out may not train either
    third = items_in(tmp_path, {"also_a": brighter(1) + 1}, group="/b")
    every += third
    assert "also_a" in named(every, Ledger.of(tmp_path).assign(every)[2])


def test_a_mirrored_or_rotated_copy_of_a_held_out_image_does_not_train(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2})
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    upright = picture(2)
    laid = (upright, upright.transpose(1, 0, 2))
    turned = [np.rot90(view, 2 * half) for view in laid for half in (0, 1)]
    views = [*turned, *(view[:, ::-1] for view in turned)][1:]
    assert len({view.tobytes() for view in (upright, *views)}) == 8
    brighter = [np.clip(view + 9.0, 0, 255).astype(np.uint8) for view in views]
    new = items_in(tmp_path, {f"turned{number}": view for number, view in enumerate(brighter)})
    every = [*items, *new, *items_in(tmp_path, {"other": 3})]
    train, valid, apart = ledger.assign(every, valid_share=0)
    assert named(every, train) == {"a", "other"} and named(every, valid) == {"b"}
    assert len(apart) == 7
    assert all("mirrored or rotated" in reasons(tmp_path)[every[i].image.stem][1] for i in apart)
    again = every + items_in(tmp_path, {"like_a": np.ascontiguousarray(picture(1)[::-1])})
    assert "like_a" in named(again, Ledger.of(tmp_path).assign(again, valid_share=1)[0])


def test_what_looks_the_same_when_the_parts_are_frozen_does_not_train(tmp_path, caplog):
    """Copies that came between a fit and the first correction: the export's card has no looks."""
    items = items_in(tmp_path, {"a": 1, "b": 2, "c": 3})
    brighter = (picture(2).astype(int) + 9).clip(0, 255).astype(np.uint8)
    turned = np.ascontiguousarray(np.rot90(picture(2)))
    items += items_in(tmp_path, {"turned": turned, "brighter": brighter})
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export eye")
    train, valid, apart = ledger.assign(items)
    assert named(items, valid) == {"b"} and named(items, apart) == {"turned", "brighter"}
    assert named(items, train) == {"a", "c"}
    assert "b.png" in reasons(tmp_path)["brighter"][1] and "2 images" in caplog.text
    assert Ledger.of(tmp_path).assign(items) == (train, valid, apart)


def test_pictures_of_other_classes_are_no_copies(tmp_path):
    """A sharp and a blurred slice look the same, and have other classes."""
    items = items_in(tmp_path, {"a": 1, "b": 2})
    ledger = Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    blurred = ndimage.gaussian_filter(picture(2).astype(float), (1, 1, 0)).astype(np.uint8)
    path = save(tmp_path / "blurred.png", blurred)
    every = [*items, Item(path, 1, None, "/blurred")]
    assert named(every, ledger.assign(every, valid_share=0)[0]) == {"a", "blurred"}


def test_folders_decide_for_their_images(tmp_path):
    items = items_in(tmp_path / "train", {"a": 1, "b": 2}, split="train")
    items += items_in(tmp_path / "val", {"c": 3}, split="valid")
    ledger = Ledger.freeze(tmp_path, items, {"val/c.png"}, "export x")
    items += items_in(tmp_path / "train", {f"n{i}": 10 + i for i in range(8)}, split="train")
    items += items_in(tmp_path / "val", {f"v{i}": 20 + i for i in range(3)}, split="valid")
    train, valid, apart = ledger.assign(items, valid_share=0.5)
    assert not apart and named(items, valid) == {"c", "v0", "v1", "v2"}
    # names that two folders share are no groups, unless the task has groups
    items += [Item(save(tmp_path / "train" / "c.png", picture(77)), 0, "train", "/c")]
    every = Ledger.of(tmp_path).assign(items, grouped=False)
    assert len(items) - 1 in every[0]


def test_a_damaged_ledger_stops_a_fit(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2})
    Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    file = tmp_path / ".fastseg" / "split.csv"
    file.write_text(file.read_text().replace(",valid,", ",maybe,"))
    with refuses("damaged-ledger", "maybe"):
        Ledger.of(tmp_path)
    file.write_text("name,part\na.png,train\n")
    with refuses("damaged-ledger"):
        Ledger.of(tmp_path)


def test_processes_that_assign_at_once_agree(tmp_path):
    items = items_in(tmp_path, {"a": 1, "b": 2})
    Ledger.freeze(tmp_path, items, {"b.png"}, "export x")
    items += items_in(tmp_path, {f"n{i}": 10 + i for i in range(20)})
    found = []

    def work() -> None:
        found.append(Ledger.of(tmp_path).assign(items))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(one == found[0] for one in found)
    assert len(Ledger.of(tmp_path).rows) == 22


@pytest.fixture
def folder(tmp_path):
    """A task with groups: eight labelled images of four sets."""
    folder = tmp_path / "roofs"
    folder.mkdir()
    (folder / "task.toml").write_text(TOML)
    for number in range(8):
        name = f"set_{number % 4}_{number}"
        save(folder / "images" / f"{name}.png", picture(number))
        save(folder / "masks" / f"{name}.png", (picture(number)[..., 0] > 128).astype(np.uint8))
    return folder


def label(number: int) -> np.ndarray:
    return (picture(number)[..., 1] > 120).astype(np.uint8)


def test_over_ten_rounds_no_held_out_image_trains(folder, tmp_path):
    """Corrections, new images of old and new groups, copies, look-alikes and new names."""
    task, rng = tasks.get(folder), random.Random(5)
    store = Corrections(task, folder)
    held_out: set[str] = set()  # contents that were ever held out
    trained: set[str] = set()
    groups: dict[str, set[str]] = {VALID: set(), TRAIN: set()}
    names = [f"set_{number % 4}_{number}" for number in range(8)]
    for turn in range(10):
        items = task.items(folder)
        for item in rng.sample(items, 2):  # corrections
            before = store.label(item.image)
            store.save(
                item.image, 1 - before, action="corrected", by="A", seconds=1, prediction=before
            )
        for number in range(3):  # new images, of old groups and new ones
            seed = 100 + 10 * turn + number
            group = rng.choice([str(rng.randrange(4)), str(10 + turn), str(50 + seed)])
            new = save(tmp_path / "cam" / f"set_{group}_{seed}.png", picture(seed))
            store.save(store.add(new), label(seed), action="new", by="A", seconds=1)
            names.append(new.stem)
        other = rng.choice(task.items(folder)).image  # a look-alike under a new name
        with Image.open(other) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        twin = (pixels.astype(int) + 7).clip(0, 255).astype(np.uint8)
        path = save(folder / "images" / f"set_{90 + turn}_twin{turn}.png", twin)
        store.refresh()
        store.save(path, label(turn), action="new", by="A", seconds=1)
        moved = rng.choice(task.items(folder))  # a new name, in another group
        for file in (moved.image, moved.label):
            file.rename(file.with_name(f"set_{70 + turn}_moved{turn}.png"))
        store.refresh()
        items = task.items(folder)
        train, valid = splitter(task, seed=turn, data=folder)(items)
        contents = digests(items)
        train_now, valid_now = {contents[i] for i in train}, {contents[i] for i in valid}
        assert train_now and valid_now and not train_now & valid_now
        assert not train_now & held_out and not valid_now & trained
        held_out |= valid_now
        trained |= train_now
        rows = Ledger.of(folder).rows
        for part, chosen in ((VALID, valid_now), (TRAIN, train_now)):
            groups[part] |= {rows[content].group for content in chosen}
        dls = task.datablock(size=32, seed=turn).dataloaders(folder, bs=2, num_workers=0)
        assert {i.image for i in dls.train_ds.items} == {items[i].image for i in train}
    assert not groups[VALID] & groups[TRAIN]
    assert len(trained) > 20 and len(held_out) > 5


def test_folds_and_searches_divide_the_training_part_alone(folder):
    task = tasks.get(folder)
    Corrections(task, folder).begin()
    items = task.items(folder)
    train, valid = splitter(task, 1, data=folder)(items)
    assert (train, valid) == splitter(task, 2, data=folder)(items)
    validated = []
    for number in range(3):
        inner, judge = splitter(task, 7, (number, 3), folder)(items)
        assert not {*inner, *judge} & {*valid} and {*inner, *judge} == {*train}
        validated += judge
    assert sorted(validated) == sorted(train)
    learn, judge, held_out = InnerSplit(task, 7, folder).parts(items)
    assert held_out == valid and sorted([*learn, *judge]) == sorted(train)
    with refuses("folds"):
        splitter(task, 7, (0, 9), folder)(items)


def test_the_first_correction_freezes_the_split_before_it_counts(folder):
    """The parts are those of the seed, and a new label is drawn, not taken for training."""
    task = tasks.get(folder)
    items = task.items(folder)
    _, valid = task.split(items, 42)
    save(folder / "images" / "set_9_9.png", picture(99))
    store = Corrections(task, folder)
    store.begin()
    store.save("images/set_9_9.png", label(99), action="new", by="A", seconds=1)
    rows = {row.name: row for row in Ledger.of(folder).rows.values()}
    held_out = {name for name, row in rows.items() if row.part == VALID}
    assert held_out == {name_below(folder, items[i].image) for i in valid}
    assert "images/set_9_9.png" not in rows  # it is drawn by the next fit
    splitter(task, 42, data=folder)(task.items(folder))
    (content,) = digests([Item(folder / "images/set_9_9.png", 0)])
    assert not Ledger.of(folder).rows[content].is_of_first_split
    copy = shutil.copytree(folder, folder.with_name("moved"))  # the ledger moves with the data
    again = splitter(task, 1, data=copy)(tasks.get(copy).items(copy))
    assert again == splitter(task, 2, data=folder)(task.items(folder))


@pytest.mark.parametrize("damage", ["garbage\n", "", None])
def test_a_ledger_without_rows_or_columns_is_damaged(folder, damage):
    Corrections(tasks.get(folder), folder).begin()
    file = folder / ".fastseg" / "split.csv"
    file.write_text(file.read_text().splitlines(keepends=True)[0] if damage is None else damage)
    with refuses("damaged-ledger", file):
        Ledger.of(folder)


def test_held_out_images_whose_rows_are_lost_stay_held_out(folder):
    task = tasks.get(folder)
    Corrections(task, folder).begin()
    items = task.items(folder)
    train, valid = splitter(task, 1, data=folder)(items)
    names = {name_below(folder, items[i].image) for i in valid}
    file = folder / ".fastseg" / "split.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not any(name in line for name in names)))
    ledger = Ledger.of(folder)
    ledger.hold_out(items, names, "export eye", task.reading)
    assert splitter(task, 1, data=folder)(items) == (train, valid)

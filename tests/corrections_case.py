"""Saves labels in child processes that are killed at random moments, and checks what they left.

A program of its own, without torch, since it forks: python corrections_case.py FOLDER MOMENTS SEED.
It prints how many children were killed, how many saves they told, and how many they did not tell
but finished.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastseg import tasks
from fastseg.corrections.store import Corrections

SIZE = (40, 48)
STEPS = 9  # renamings of files in a save, and a few in the next one
CLASSES = ("ground", "roof", "tree")
TOMLS = {
    "codes": 'classes = ["ground", "roof", "tree"]\n',
    "class_masks": 'classes = ["ground", "roof", "tree"]\n[[layouts]]\nimages = "images"\n'
    'masks = "masks"\nclass_masks = "names"\n',
    "table": 'kind = "classify"\nclasses = ["ground", "roof", "tree"]\n',
}


def label_of(number: int, kind: str):
    """Return the label that version `number` has; consecutive ones differ."""
    rng = np.random.default_rng(number)
    if kind == "table":
        return int(number % len(CLASSES))
    return rng.integers(0, len(CLASSES), SIZE).astype(np.uint8)


def make(folder: Path, kind: str) -> Path:
    """Write three images with labels; the label of each is version 0."""
    (folder / "images").mkdir(parents=True)
    (folder / "task.toml").write_text(TOMLS[kind])
    for name in range(3):
        pixels = np.random.default_rng(name).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        if kind == "table":
            Image.fromarray(pixels).save(folder / f"{name}.png")
            continue
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        label = label_of(0, kind)
        (folder / "masks").mkdir(exist_ok=True)
        if kind == "codes":
            Image.fromarray(label).save(folder / "masks" / f"{name}.png")
        else:
            for code, class_name in enumerate(CLASSES[1:], 1):
                mask = Image.fromarray((label == code).astype(np.uint8) * 255)
                mask.save(folder / "masks" / f"{name}_{class_name}.png")
    if kind == "table":
        rows = "".join(f"{name}\t{label_of(0, kind)}\n" for name in range(3))
        (folder / "labels.tsv").write_text(f"Name\tLabel\n{rows}")
    return folder


def images_of(folder: Path, kind: str) -> list[Path]:
    place = folder if kind == "table" else folder / "images"
    return [place / f"{name}.png" for name in range(3)]


def save_on(folder: Path, kind: str, out: int) -> None:
    """Save one version after another, and write a byte for each that is acknowledged."""
    store = Corrections(folder, folder)
    images = images_of(folder, kind)
    while True:
        for index, image in enumerate(images):
            number = store.newest(image) + 1
            label = label_of(number, kind)
            store.save(
                image, label, action="corrected", by="A", seconds=1, base=number - 1,
                prediction=label_of(number - 1, kind),
            )  # fmt: skip
            os.write(out, bytes([index]))


def check(folder: Path, kind: str, acknowledged: dict[int, int]) -> int:
    """Check that labels, versions and log agree; return how many saves were not acknowledged."""
    task = tasks.get(folder)
    # Before anyone repairs anything: each label is whole, an old or a new one.
    items = {item.image: task.label(item) for item in task.items(folder)}
    store = Corrections(folder, folder)
    more = 0
    for index, image in enumerate(images_of(folder, kind)):
        rows = store.history(image)
        newest = store.newest(image)
        assert [row.version for row in rows] == list(range(1, newest + 1)), rows
        assert all(row.by == "A" and row.action == "corrected" for row in rows)
        done = acknowledged[index]
        assert done <= newest <= done + 1, (done, newest)
        more += newest - done
        acknowledged[index] = newest
        for version in range(newest + 1):
            assert np.array_equal(store.version(image, version), label_of(version, kind)), version
        assert np.array_equal(items[image], store.label(image))
    assert not list((folder / ".fastseg").rglob("*.json"))
    assert not list((folder / ".fastseg" / "masks").rglob("*.png"))
    return more


def killed(place: Path, kind: str, acknowledged: dict[int, int], when) -> tuple[int, int]:
    """Kill a child that saves, and return how many saves it told, and how many more there are.

    `when(pid, pipe)` returns what the child told until it was dead.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        when(None, None)
        save_on(place, kind, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as told:
        done = when(child, told) + told.read()
    os.waitpid(child, 0)
    for index in done:
        acknowledged[index] += 1
    return len(done), check(place, kind, acknowledged)


def at_random(rng: random.Random):
    """Kill the child a random time after it told a random number of saves."""
    wanted, delay = rng.randint(0, 2), rng.uniform(0, 0.03)

    def when(child, told):
        if child is None:
            return b""
        done = b"".join(told.read(1) for _ in range(wanted))
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        return done

    return when


def at_step(number: int, after: bool):
    """Let the child die at its n-th renaming of a file: before it, or right after it."""
    count = 0
    rename = os.replace

    def dying(source, target):
        nonlocal count
        count += 1
        if count == number and after:
            rename(source, target)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    def when(child, told):
        if child is None:
            os.replace = dying
        return b""

    return when


def main(folder: Path, moments: int, seed: int) -> None:
    rng = random.Random(seed)
    killings, saved, within = 0, 0, 0
    for kind in TOMLS:
        place = make(folder / kind, kind)
        Corrections(place, place).begin()
        acknowledged = dict.fromkeys(range(3), 0)
        steps = [at_step(number, after) for number in range(1, STEPS + 1) for after in (0, 1)]
        for when in [*steps, *(at_random(rng) for _ in range(moments // len(TOMLS)))]:
            told, more = killed(place, kind, acknowledged, when)
            killings, saved, within = killings + 1, saved + told, within + more
    print(killings, saved, within)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

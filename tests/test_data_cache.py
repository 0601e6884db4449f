"""Decoded images: one file for all processes of a run, within one budget."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import refuses

from fastseg import tasks
from fastseg.checks.preflight import survey
from fastseg.data.cache import Pixels
from fastseg.errors import DataError
from fastseg.utils.shared_file import PREFIX

SIZE = (32, 32)
AREA = 32 * 32 * 4  # bytes of an image and its codes

# A process of a run. It waits until all have begun, reads every image and mask twice, in an order
# of its own, and writes a line for each file that it decodes.
RANK = """
import os, random, sys, time
from pathlib import Path
from fastseg import tasks
from fastseg.data.cache import Pixels

data, folder, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["LOCAL_RANK"])
task = tasks.get("eye")
items = task.items(data)
image, label = type(task).image, type(task).label
log = (folder / f"decoded_{rank}").open("a", buffering=1)

def logged(decode, part):
    def call(self, item):
        log.write(f"{epoch} {part} {item.image.name}\\n")
        time.sleep(0.002)  # so that the others ask for it meanwhile
        return decode(self, item)
    return call

type(task).image, type(task).label = logged(image, "image"), logged(label, "label")
pixels = Pixels(task, (32, 32), int(sys.argv[3]))
epoch = 0
if len(sys.argv) > 4:  # be killed while others are there
    pixels.image(items[0])
    os.kill(os.getpid(), 9)
(folder / f"ready_{rank}").touch()
while len(list(folder.glob("ready_*"))) < int(os.environ["LOCAL_WORLD_SIZE"]):
    time.sleep(0.01)
for epoch in range(2):
    # PARTS, as in distributed training: in each epoch, every process has a part of its own
    mine = items[(rank + epoch) % 2 :: 2] if os.environ.get("PARTS") else items
    for item in random.Random(rank).sample(mine, len(mine)):
        pixels.image(item), pixels.label(item)
print(pixels.used, pixels.budget)
"""


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    task = tasks.get("eye")
    folder = task.sample(tmp_path_factory.mktemp("eye"), 24)
    return task, folder, task.items(folder)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary files of this test alone, and a run of two processes."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def environment(place, rank, **more):
    return {
        **os.environ,
        "TMPDIR": str(place),
        "LOCAL_WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        **more,
    }


def run_two(place, data, folder, budget, **more):
    """Run two processes; return the lines of what both decoded, and the bytes that they used."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, data, folder, str(budget)],
            env=environment(place, rank, **more),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    lines = [(folder / f"decoded_{rank}").read_text().splitlines() for rank in range(2)]
    return lines, max(int(used) for used, _ in printed)


@pytest.mark.slow
def test_two_processes_decode_each_image_once_in_one_budget(eyes, tmp_path, temporary):
    _, data, items = eyes
    lines, used = run_two(temporary, data, tmp_path, 10**7)
    assert all(lines)  # both had something to do
    both = [line.split(maxsplit=1)[1] for part in lines for line in part]
    assert len(both) == len({*both}) == 2 * len(items)
    assert len(items) * AREA <= used <= 10**7
    assert not list(temporary.glob(f"{PREFIX}*"))  # the last one deleted it


@pytest.mark.slow
def test_a_budget_for_a_part_of_the_images_holds_for_both_together(eyes, tmp_path, temporary):
    _, data, items = eyes
    budget = len(items) // 2 * AREA
    lines, used = run_two(temporary, data, tmp_path, budget, PARTS="1")
    both = [line for part in lines for line in part]
    assert len(both) == len({*both})  # at most once in an epoch
    second = [line for line in both if line.startswith("1 ")]
    kept = 2 * len(items) - len(second)  # images and masks that the second epoch did not decode
    assert 0.8 * len(items) <= kept < 2 * len(items) and budget // 2 < used <= budget


@pytest.mark.slow
def test_what_a_killed_process_held_is_free_for_the_others(eyes, tmp_path, temporary):
    task, data, items = eyes
    command = [sys.executable, "-c", RANK, data, tmp_path, str(10**7), "killed"]
    killed = subprocess.run(command, env=environment(temporary, 0), timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = temporary.glob(f"{PREFIX}*")
    pixels = Pixels(task, SIZE, 10**7)  # of another run
    assert (pixels.image(items[0]) == Pixels(task, SIZE, 0).image(items[0])).all()
    assert not left.exists() and len(list(temporary.glob(f"{PREFIX}*"))) == 1
    del pixels
    assert not list(temporary.iterdir())


def _read_in_child(pixels, items, results):
    results.put([int(pixels.image(item).sum()) for item in items] + [pixels.used])


@pytest.mark.parametrize("how", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_worker_processes_read_what_is_kept(eyes, how, tmp_path, monkeypatch):
    task, data, items = eyes
    copies = [replace(item, image=tmp_path / item.image.name) for item in items[:5]]
    for copy, item in zip(copies, items):
        copy.image.write_bytes(item.image.read_bytes())
    pixels = Pixels(task, SIZE, 10**7)
    expected = [int(pixels.image(copy).sum()) for copy in copies]
    for copy in copies:
        copy.image.unlink()  # a worker that decoded again would fail
    if how == "fork":
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, str([int(pixels.image(copy).sum()) for copy in copies]).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1000).decode() == str(expected)
    else:
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        worker = context.Process(target=_read_in_child, args=(pixels, copies, results))
        worker.start()
        assert results.get(timeout=60) == [*expected, pixels.used]
        worker.join()
    assert [int(pixels.image(copy).sum()) for copy in copies] == expected  # still there


def test_threads_decode_each_image_once(eyes, monkeypatch):
    task, _, items = eyes
    seen, image = [], type(task).image
    monkeypatch.setattr(type(task), "image", lambda t, i: (seen.append(i.image), image(t, i))[1])
    pixels = Pixels(task, SIZE, 10**7)
    threads = [threading.Thread(target=lambda: [*map(pixels.image, items)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(item.image for item in items)
    assert pixels.holds(items)


def test_a_named_run_shares_and_others_do_not(eyes):
    task, _, items = eyes
    pixels = Pixels(task, SIZE, 10**7, run="mine")
    pixels.image(items[0])
    assert Pixels(task, SIZE, 10**7, run="mine").holds(items[:1])
    assert not Pixels(task, SIZE, 10**7, run="other").holds(items[:1])
    assert not Pixels(task, SIZE, 10**7).holds(items[:1])
    assert not Pixels(task, (64, 64), 10**7, run="mine").holds(items[:1])
    changed = replace(task, ignore=(3,), codes={0: 0, 1: 1, 2: 2, 4: 3})
    assert not Pixels(changed, SIZE, 10**7, run="mine").holds(items[:1])
    exported = pickle.loads(pickle.dumps(pixels))
    assert exported.run is None and not exported.holds(items[:1])


@pytest.mark.parametrize(
    "given, shared",
    [
        ({}, False),
        ({"LOCAL_WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "2"}, True),
        ({"LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "4"}, False),  # one process on each machine
        ({"LOCAL_WORLD_SIZE": "two"}, False),
    ],
)
def test_the_environment_of_several_processes_names_a_run(eyes, monkeypatch, given, shared):
    task, _, items = eyes
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}.items():
        monkeypatch.setenv(name, value)
    pixels = Pixels(task, SIZE, 10**7)
    pixels.image(items[0])
    assert Pixels(task, SIZE, 10**7).holds(items[:1]) == shared
    monkeypatch.setenv("MASTER_PORT", "29513")
    assert not Pixels(task, SIZE, 10**7).holds(items[:1])


def test_a_full_disk_keeps_nothing_and_stops_nothing(eyes, monkeypatch, caplog):
    task, _, items = eyes
    pixels = Pixels(task, SIZE, 10**7)
    first = pixels.image(items[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert (pixels.image(items[1]) == Pixels(task, SIZE, 0).image(items[1])).all()
    assert (pixels.image(items[0]) == first).all() and not pixels.holds(items[:2])
    monkeypatch.setattr(tempfile, "tempdir", "/does/not/exist")
    assert (Pixels(task, SIZE, 10**7).image(items[0]) == first).all()
    assert len([r for r in caplog.records if "be kept" in r.message]) == 2


def test_processes_survey_a_part_each_and_agree(eyes, tmp_path):
    task, data, items = eyes
    alone = survey(task, data)
    tallies = []
    for rank in range(3):
        survey(task, data, share=(rank, 3), gather=lambda t: tallies.append(t) or [t])
    parts = pickle.loads(pickle.dumps(tallies))
    assert sum(sum(part.sizes.values()) for part in parts) == len(items)
    together = survey(task, data, share=(1, 3), gather=lambda _: parts)
    assert (together.learnt == alone.learnt).all()
    assert together.classes == alone.classes and together.sizes == alone.sizes
    assert (together.images, together.splits) == (alone.images, alone.splits)


def test_a_fault_in_one_part_stops_all_processes(eyes, tmp_path):
    task = eyes[0]
    data = task.sample(tmp_path / "faulty", 8)
    broken = task.items(data)[5].image
    broken.write_bytes(broken.read_bytes()[:300])
    tallies = []
    for rank in range(2):
        with contextlib.suppress(DataError):
            survey(task, data, share=(rank, 2), gather=lambda t: tallies.append(t) or [t])
    assert [tally.faults for tally in tallies] == [0, 1]
    for rank in range(2):
        with refuses("unreadable-image", broken.name):
            survey(task, data, share=(rank, 2), gather=lambda _: tallies)


def test_pixels_are_uint8_of_the_size(eyes):
    task, _, items = eyes
    pixels = Pixels(task, SIZE, 10**7)
    for _ in range(2):
        image, codes = pixels.image(items[0]), pixels.label(items[0])
        assert image.shape == (*SIZE, 3) and codes.shape == SIZE
        assert image.dtype == codes.dtype == np.uint8
    assert (pixels.image(Path(items[0].image)) == image).all()

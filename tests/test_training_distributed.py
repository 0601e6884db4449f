"""Fits in several processes take the steps of one: gloo on 127.0.0.1, tiny networks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import processes_case
import pytest
import torch
from conftest import refuses
from PIL import Image
from safetensors.torch import load_file

import fastseg
from fastseg.engines import distributed
from fastseg.engines.launch import launch
from fastseg.training import budget, checkpoint, processes
from fastseg.training.resume import work_of

pytestmark = pytest.mark.slow

LIMIT = 30  # seconds in which all processes must have ended after one was killed
# Small steps of SGD of a network with few batch normalisations: rounding does not grow with them.
# At a rate of 1e-3, weights that differ by 1e-7 at first differ by 0.1 after 20 steps, even in
# float64.
STABLE = {"arch": "test_convnext", "opt": "sgd", "lr": 1e-4, "loss": "ce+dice"}
COMMON = {"weights": "none", "size": 64, "bs": 5, "precision": "float32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eyes in an odd number, of which some are unlabelled in large parts."""
    folder = fastseg.tasks.get("eye").sample(tmp_path_factory.mktemp("data") / "eye", n=17, seed=5)
    for place, file in enumerate(sorted((folder / "masks_small").iterdir())):
        codes = np.array(Image.open(file))
        codes[: len(codes) * (place % 4) // 5] = 255
        Image.fromarray(codes).save(file)
    return folder


@pytest.fixture(scope="module")
def results(data, samples, tmp_path_factory):
    """Return the results of all cases, by the number of processes and the case."""

    def case(double=True, task="eye", folder=data, **options):
        given = {**COMMON, "arch": "test_resnet", **options}
        return {"task": task, "data": str(folder), "double": double, "options": given}

    mixed = {"mixup": 0.4, "windows": 0.5, "ema": 0.9, "patience": 3}
    # batches of 3: two images in one process, one in the other
    cases = {
        "float64": case(epochs=5, bs=3, loss="ce+dice"),
        "float32": case(double=False, epochs=5, **{**STABLE, "bs": 3}),
        "lovasz": case(double=False, epochs=1, **{**STABLE, "loss": "wce+lovasz"}),
        "mixed": case(epochs=2, loss="focal+tversky", **mixed),
        "dropout": case(epochs=1, bs=2, decoder="pspnet", progressive=1.0),
        "rate": case(epochs=1, lr="auto", size=32),  # a hundred steps
        "classes": case(task="mri", folder=samples["mri"], epochs=2, bs=4),
        "few": case(epochs=1, bs=1),
        "short": case(epochs=1, loss="ce+dice"),
    }
    # last: it replaces the measurement of an epoch
    cases["budget"] = {**case(double=False, **STABLE), "seconds": 50}
    root = tmp_path_factory.mktemp("results")
    file = root / "cases.json"
    file.write_text(json.dumps(cases))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(budget, "epoch_seconds", budget.epoch_seconds)  # a case replaces it
        for count in (1, 2, 3):
            (root / str(count)).mkdir()
        # One process, too, is a new one: what other tests did here must not count.
        program = str(Path(processes_case.__file__))
        subprocess.run([sys.executable, program, str(file), str(root / "1")], check=True)
        assert launch(2, [program, str(file), str(root / "2")]) == {}
        # with three processes, one has no row of a last batch of two
        file.write_text(json.dumps({"short": cases["short"]}))
        assert launch(3, [program, str(file), str(root / "3")]) == {}
    return {
        (folder.name, file.stem): torch.load(file)
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
    }


def difference(one, other):
    """Return the largest difference of two networks' weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_the_range_test_of_two_processes_finds_a_rate_near_that_of_one(results):
    # It ends where training diverges, and rounding grows there: the rates are not equal.
    one, two = (results[count, "rate"]["course"]["lr"] for count in ("1", "2"))
    assert one / 3 < two < one * 3


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        ("float64", 1e-9),
        ("float32", 1e-5),
        ("lovasz", 1e-5),
        ("mixed", 1e-9),
        ("dropout", 1e-9),
        ("classes", 1e-6),  # the images are blurred in float32
    ],
)
def test_two_processes_take_the_steps_of_one(results, case, limit):
    one, two = results["1", case], results["2", case]
    assert one["steps"] == two["steps"] and (one["steps"] >= 20 or not case.startswith("float"))
    assert difference(one["weights"], two["weights"]) <= limit
    for row, other in zip(one["history"], two["history"], strict=True):
        assert row.keys() == other.keys()
        assert all(abs(row[name] - other[name]) <= 10 * limit for name in row)
    course = one["course"].pop("lr"), two["course"].pop("lr")
    assert course[0] == pytest.approx(course[1]) and one["course"] == two["course"]
    assert one["names"] == two["names"] and one["kinds"] == two["kinds"]


def test_a_process_without_images_in_a_batch_changes_nothing(results):
    one, three = results["1", "short"], results["3", "short"]
    assert difference(one["weights"], three["weights"]) <= 1e-9


def test_the_first_process_plans_for_a_time_budget(results):
    """An epoch seems to take 12 s to the first process, and 1 s to the second one; three are
    planned, and two after the first one was measured, nine by the second process.
    """
    one, two = results["1", "budget"], results["2", "budget"]
    assert len(one["history"]) == len(two["history"]) == 2
    assert one["size"] == two["size"] and difference(one["weights"], two["weights"]) <= 1e-3


def test_batches_smaller_than_the_processes_are_refused(results):
    assert results["2", "few"]["error"] == "too-many-processes"


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def command(data, out, *more):
    options = {**COMMON, **STABLE}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return ["fit", "eye", "--data", str(data), "--out", str(out), *given, *more]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An export of four epochs by one process, and its result."""
    out = tmp_path_factory.mktemp("whole") / "eye"
    return out, fastseg.fit("eye", data, out=out, epochs=4, **COMMON, **STABLE)


def assert_equal_exports(one, other):
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert difference(*weights) <= 1e-4
    cards = [json.loads((folder / "card.json").read_text()) for folder in (one, other)]
    same = ("task", "arch", "decoder", "size", "valid_files", "weights_origin", "seed", "classes")
    assert all(cards[0].get(name) == cards[1].get(name) for name in same)
    assert cards[0].keys() == cards[1].keys()
    assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}


def test_a_killed_process_ends_all_and_one_process_resumes(data, whole, tmp_path):
    out = tmp_path / "out"
    program = [sys.executable, "-m", "fastseg", *command(data, out, "--epochs", "4", "--json")]
    fit = subprocess.Popen(
        [*program, "--processes", "2"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list(work_of(out).glob("*/checkpoint.pt")), fit)
    workers = children(fit.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    began = time.monotonic()
    said, log = fit.communicate(timeout=LIMIT)
    assert time.monotonic() - began < LIMIT and fit.returncode == 1, log
    assert json.loads(said)["error"]["code"] == "lost-process"
    assert len([line for line in log.splitlines() if line.startswith("error: ")]) == 1, log
    assert "Traceback" not in log and not any(is_running(pid) for pid in workers)
    result = fastseg.fit("eye", out=out, resume=True)
    assert [row["valid_loss"] for row in result["history"]] == pytest.approx(
        [row["valid_loss"] for row in whole[1]["history"]], abs=1e-4
    )
    assert_equal_exports(whole[0], out)


def test_two_processes_resume_what_one_began(data, whole, tmp_path, monkeypatch):
    write, out = checkpoint.write, tmp_path / "out"

    def pulled(path, state):
        write(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", pulled)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(KeyboardInterrupt):
        fastseg.fit("eye", data, out=out, epochs=4, **COMMON, **STABLE)
    monkeypatch.undo()
    result = fastseg.fit("eye", out=out, resume=True, processes=2)
    assert len(result["history"]) == 4 and result["metrics"].keys() == whole[1]["metrics"].keys()
    for mean in ("dice", "iou"):
        assert result["metrics"]["mean_foreground"][mean] == pytest.approx(
            whole[1]["metrics"]["mean_foreground"][mean], abs=1e-3
        )
    assert_equal_exports(whole[0], out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_who_was_interrupted_because_another_one_died_is_not_the_reason(tmp_path):
    """The launcher interrupts the others, and they may end within the same second."""
    told = {"code": "interrupted", "kind": "", "message": "", "details": {}}
    (tmp_path / processes.FAILED.format(0)).write_text(json.dumps(told))
    assert isinstance(processes._error(tmp_path, 2, {0: 130}), KeyboardInterrupt)
    error = processes._error(tmp_path, 2, {0: 130, 1: -signal.SIGKILL})
    assert error.code == "lost-process" and "process 2 of 2 was ended by SIGKILL" in str(error)


def children(pid):
    """Return the processes that a process has started, in order."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return sorted(int(line) for line in found.stdout.split())


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(happens, process, seconds=120):
    end = time.monotonic() + seconds
    while not happens():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def test_folds_by_torchrun(data, tmp_path):
    out = tmp_path / "out"
    arguments = command(data, out, "--epochs", "1", "--folds", "2", "--json")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "fastseg", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["images"] == 17  # printed once, and each image counts
    assert done.stderr.count("fold 1 of 2") == done.stderr.count("fold 2 of 2") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def by_hand(arguments, folder, count=2):
    """Start processes as a person would, by variables of the environment; return what they said."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "fastseg", *map(str, arguments)],
            cwd=folder,
            env=environment(
                RANK=str(rank),
                WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=120) for process in started]
    return [process.returncode for process in started], said


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_mistakes_are_told_once(data, tmp_path):
    codes, said = by_hand(command(data, tmp_path / "out", "--decoder", "unett"), tmp_path)
    assert codes == [1, 1]
    assert sum(err.count("error: ") for _, err in said) == 1, said
    codes, said = by_hand(["check", "eye", "--data", data], tmp_path)
    assert codes == [1, 1] and sum(err.count("error: ") for _, err in said) == 1, said


def test_what_cannot_be_started_is_refused(data, tmp_path, monkeypatch):
    with refuses("option-range", "--processes"):
        fastseg.fit("eye", data, processes=0)
    with refuses("processes-device", "mps"):
        distributed.backend_of("mps", 0)
    for name, value in zip(distributed.VARIABLES, ("3", "2", "0", "127.0.0.1", "1")):
        monkeypatch.setenv(name, value)
    with refuses("process-place", "RANK=3"):
        fastseg.fit("eye", data)
    monkeypatch.setenv("RANK", "1")
    with refuses("processes-twice", 3, 2):
        fastseg.fit("eye", data, processes=3)
    with refuses("unknown-decoder"):  # the same error in a process of a launch as in the caller
        monkeypatch.undo()
        fastseg.fit("eye", data, out=tmp_path / "out", decoder="unett", processes=2)


def test_a_process_that_gives_no_sign_is_noticed(monkeypatch):
    """A stopped process, or one of a machine without power, closes no connection."""
    import torch.distributed as dist

    from fastseg.engines import liveness

    monkeypatch.setattr(liveness, "SILENCE", 0.3)
    store = dist.HashStore()
    watch = liveness.Watch(store, 0, 2)
    store.set("who/1", json.dumps(["another machine", 1]))
    store.set("beat/1", "1")
    assert watch.lost(wait=False) is None
    time.sleep(0.4)
    store.set("beat/1", "2")
    assert watch.lost(wait=False) is None
    time.sleep(0.4)
    error = watch.lost(wait=False)
    assert error.code == "lost-process" and not error.is_told
    other = liveness.Watch(store, 1, 2).lost(wait=False)
    assert other.code == "lost-process" and other.is_told


def test_a_store_that_does_not_answer_ends_the_process(monkeypatch):
    from fastseg.engines import liveness

    ended = threading.Event()
    waits = threading.Event()

    class Stopped:
        def set(self, key, value):
            if key.startswith("beat"):
                waits.wait(30)

        def check(self, keys):
            return False

    said = []
    monkeypatch.setattr(liveness, "SILENCE", 0.3)
    monkeypatch.setattr(liveness, "BEAT", 0.05)
    monkeypatch.setattr(liveness, "GRACE", 0.05)
    monkeypatch.setattr(liveness.os, "write", lambda file, text: said.append(text))
    monkeypatch.setattr(liveness.os, "_exit", lambda code: ended.set())
    watch = liveness.Watch(Stopped(), 1, 2)
    watch.start()
    assert ended.wait(20) and len(said) == 1
    watch._stopped.set()
    waits.set()
    watch.join(20)

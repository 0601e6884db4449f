"""Predictions in shards: sources, destinations, equality, continuation, faults."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import fsspec
import pytest
from conftest import results_in, rows_of

import fastseg

STATE = ".fastseg"


@pytest.fixture(scope="module")
def photos(samples, tmp_path_factory):
    """A folder of 70 images: three shards; one of them is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    files = sorted((samples["eye"] / "imgs_small").iterdir())
    for number in range(69):
        shutil.copy(files[number % len(files)], folder / f"{number:03d}.jpg")
    (folder / "040_bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def good(photos, tmp_path):
    """A folder of the images that are not damaged."""
    folder = shutil.copytree(photos, tmp_path / "good")
    (folder / "040_bad.jpg").unlink()
    return folder


@pytest.mark.slow
def test_shards_give_what_a_prediction_without_them_gives(run, photos, exports, tmp_path):
    given = ("predict", "eye", photos, "--export", exports("eye"), "--overlay")
    run(*given, "--out", "plain", error="unreadable-image")
    for out, options in (("here", ["--engine", "local"]), ("two", ["--workers", "2"])):
        result = run(*given, "--out", out, *options, error="unreadable-image")
        assert "040_bad.jpg" in result.message
        assert results_in(out) == results_in("plain")
    parquet = pytest.importorskip("pyarrow.parquet")
    index = parquet.read_table("two/predictions.parquet").to_pylist()
    assert [row["image"] for row in index] == [
        row["image"] for row in rows_of("two/predictions.csv")
    ]
    assert all(Path("two", row["mask"]).is_file() and row["source_bytes"] for row in index)
    assert len(index) == 69


def test_classes_of_images_are_one_table(run, samples, exports):
    source = samples["mri"] / "validation"
    given = ("predict", "mri", source, "--export", exports("mri"))
    run(*given, "--out", "plain/subjects.tsv")
    run(*given, "--out", "shards", "--engine", "local")
    assert Path("shards/subjects.tsv").read_text() == Path("plain/subjects.tsv").read_text()
    assert len(rows_of("shards/predictions.csv")) == len(rows_of("plain/predictions.csv"))


def _manifest_csv(folder):
    with Path("list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "image"])
        rows.writerows([i, os.path.relpath(p)] for i, p in enumerate(sorted(folder.iterdir())))
    return "list.csv"


def _manifest_parquet(folder):
    pandas = pytest.importorskip("pandas")
    names = [os.path.relpath(path) for path in sorted(folder.iterdir())]
    pandas.DataFrame({"path": names}).to_parquet("list.parquet")
    return "list.parquet"


def _zip(folder):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"day1/{path.name}")
        archive.writestr("day1/notes.txt", "x")
    return "photos.zip"


def _tars(folder):
    files = sorted(folder.iterdir())
    for number in range(2):
        with tarfile.open(f"shard-{number:02d}.tar", "w") as archive:
            for path in files[number::2]:
                archive.add(path, path.name)
            info = tarfile.TarInfo("000.cls")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"1"))
    return "shard-{00..01}.tar"


def _memory(folder):
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/photos/{path.name}", path.read_bytes())
    return "memory://photos"


def test_rows_of_a_remote_manifest_are_relative_to_its_folder(run, good, exports, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shop/photos/one.jpg", (good / "000.jpg").read_bytes())
    memory.pipe_file("/shop/lists/all.csv", b"image\n../photos/./one.jpg\n")
    run("predict", "eye", "memory://shop/lists/all.csv", "--export", exports("eye"), "--out", "out")
    assert [row["image"] for row in rows_of("out/predictions.csv")] == [
        "memory://shop/photos/one.jpg"
    ]


@pytest.fixture(scope="module")
def masks(photos, exports, tmp_path_factory):
    """What a prediction without shards writes for the images that are not damaged, by name."""
    out = tmp_path_factory.mktemp("plain") / "out"
    given = sorted(path for path in photos.iterdir() if "bad" not in path.name)
    fastseg.predict("eye", given, out, export=exports("eye"))
    return {name: data for name, data in results_in(out).items() if name.endswith(".png")}


@pytest.mark.parametrize("source", [_manifest_csv, _manifest_parquet, _zip, _tars, _memory])
def test_every_kind_of_source_gives_the_same_masks(run, good, exports, masks, source):
    out = "memory://results" if source is _memory else "out"
    given = source(good)
    found = json.loads(
        run("predict", "eye", given, "--export", exports("eye"), "--out", out, "--json").out
    )
    assert found["run"]["images"] == 69 and found["run"]["failed"] == 0
    if source is _memory:
        files = fsspec.filesystem("memory")
        made = {Path(name).name: files.cat(name) for name in files.glob("/results/*.png")}
    else:
        made = {Path(name).name: data for name, data in results_in(out).items()}
        made = {name: data for name, data in made.items() if name.endswith(".png")}
    assert made == masks


def test_globs_reach_subfolders_and_names_stay_apart(run, good, exports):
    for day in ("a", "b"):
        Path("days", day).mkdir(parents=True)
        shutil.copy(good / "000.jpg", f"days/{day}/7.jpg")
    run(
        "predict",
        "eye",
        "days/**/*.jpg",
        "--export",
        exports("eye"),
        "--out",
        "out",
        "--workers",
        1,
    )
    assert Path("out/a/7.png").read_bytes() == Path("out/b/7.png").read_bytes()


def test_packed_masks_are_tar_files_that_the_index_names(run, good, exports, masks):
    run("predict", "eye", good, "--export", exports("eye"), "--out", "packed", "--pack")
    rows = rows_of("packed/predictions.csv")
    assert len(rows) == 69 and len({row["mask"].partition("/")[0] for row in rows}) == 3
    for row in rows[::10]:
        shard, _, name = row["mask"].partition("/")
        with tarfile.open(Path("packed", shard)) as archive:
            assert archive.extractfile(name).read() == masks[name]


def test_a_second_run_does_what_is_new_or_changed(run, good, exports):
    given = ("predict", "eye", good, "--export", exports("eye"), "--out", "out", "--workers", 1)

    def reused(*more):
        return json.loads(run(*given, *more, "--json").out)["run"]["reused"]

    assert reused() == 0
    first = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert reused() == 69
    assert first == {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    Path("out/005.png").write_bytes(b"damaged")
    assert reused() == 69 - 32 and Path("out/005.png").read_bytes() != b"damaged"
    shutil.copy(good / "000.jpg", good / "zz.jpg")
    assert reused() == 64 and Path("out/zz.png").is_file()
    assert reused("--overlay") == 0  # other results
    parts = list(Path("out", STATE).glob("part-*"))
    assert len(parts) == 3  # those of earlier lists are removed


def _start(*args):
    command = [sys.executable, "-m", "fastseg", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_killed_workers_and_drivers_lose_nothing(run, good, exports, tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    for number in range(480):
        os.link(good / f"{number % 40:03d}.jpg", big / f"{number:04d}.jpg")
    given = ("predict", "eye", big, "--export", exports("eye"), "--out")
    process = _start(*given, "out", "--workers", "2")
    parts = lambda: list(Path("out", STATE).glob("part-*"))  # noqa: E731
    _wait_for(parts)
    killed = _children(process)[-1]
    os.kill(killed, signal.SIGKILL)
    _wait_for(lambda: len(parts()) >= 4)
    workers = _children(process)
    process.kill()
    process.communicate()
    _wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
    before = {path.name: path.stat().st_mtime_ns for path in parts()}
    assert not Path("out/predictions.csv").exists()
    Path("out/.ab12_xyz.png").touch()  # as a worker leaves it that is killed while it writes
    Path("out/.mine.png").touch()
    found = json.loads(run(*given, "out", "--workers", "2", "--json").out)["run"]
    Path("out/.mine.png").unlink()
    assert found["images"] == 480 and 0 < found["reused"] <= 32 * len(before)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in parts()}.items()
    run(*given, "plain")
    assert results_in("out") == results_in("plain")


DEADLY = """
import os
from dataclasses import fields
from fastseg.tasks import get
eye = get("eye")

class Deadly(type(eye)):
    def image(self, item):
        if "deadly" in str(getattr(item, "image", item)):
            os.kill(os.getpid(), 9)
        return super().image(item)

task = Deadly(**{**{f.name: getattr(eye, f.name) for f in fields(eye) if f.init}, "name": "deadly"})
"""


@pytest.mark.slow
def test_an_image_that_ends_its_worker_takes_no_other_one_along(
    run_process, good, exports, tmp_path
):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "deadly.py").write_text(DEADLY)
    own = {"FASTSEG_TASKS": str(tmp_path / "tasks"), "OMP_NUM_THREADS": "1"}
    card = shutil.copytree(exports("eye"), tmp_path / "exports" / "deadly") / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "task": "deadly"}))
    shutil.copy(good / "000.jpg", good / "033_deadly.jpg")
    given = ("predict", "deadly", good, "--out", "out", "--workers", "2")
    run_process(*given, code=1, **own)
    (failed,) = rows_of(tmp_path / "out" / "failed.csv")
    assert failed["image"].endswith("033_deadly.jpg")
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == 69
    assert not list((tmp_path / "out" / STATE).glob("try-*"))
    text = run_process(*given, "--json", code=1, **own)  # it is not tried again
    assert "unreadable-image" in text


def test_mistakes_are_found_before_anything_is_written(fails, good, exports, tmp_path):
    export = ("--export", exports("eye"))
    given = ("predict", "eye")
    here = tmp_path / "lists"
    here.mkdir()
    (here / "absent.csv").write_text(f"image\n{good / '000.jpg'}\nnowhere/7.jpg\n")
    (here / "twice.csv").write_text(f"image\n{good / '000.jpg'}\n{good / '000.jpg'}\n")
    (here / "empty.csv").write_text("")
    (here / "columns.csv").write_text("a,b\n1,2\n")
    (here / "cut.parquet").write_bytes(b"PAR1")
    (here / "cut.zip").write_bytes(b"PK")
    out = ("--out", tmp_path / "out")
    cases = {
        "absent-image": (here / "absent.csv", "nowhere/7.jpg", 3),
        "same-target": (here / "twice.csv", "000.png"),
        "no-such-column": (here / "columns.csv", "columns.csv"),
        "unreadable-table": (here / "cut.parquet", "cut.parquet"),
        "no-images": (here, "lists"),
        "no-such-path": (tmp_path / "nowhere", "nowhere"),
        "no-shards": (tmp_path / "x-{9..1}.tar", "x-{9..1}.tar"),
    }
    for code, (source, *values) in cases.items():
        fails(*given, source, *export, *out, "--workers", 1, code=code, values=values)
    fails(*given, here / "empty.csv", *export, *out, code="no-such-column")
    fails(*given, here / "twice.csv", *export, code="no-out", values=["--out"])
    fails(*given, good, *export, "--workers", 1, "--out", "x.zip", code="archive-out")
    fails(*given, good, *export, "--workers", 1, "--out", "x.png", code="one-file-for-many")
    fails(
        *given, good, *export, *out, "--workers", 1, "--format", "coco", code="no-format-in-shards"
    )
    fails(*given, good, *export, "--workers", 1, "--out", good, code="output-in-data")
    fails(
        *given, good, *export, *out, "--engine", "onnx", code="unknown-engine", values=["--runtime"]
    )
    fails(*given, good, *export, *out, "--address", "auto", code="engine-options")
    fails(*given, good, *export, *out, "--workers", 0, code="option-range")


def test_a_damaged_archive_is_one_line(fails, exports, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK")
    given = ("predict", "eye", tmp_path / "cut.zip", "--export", exports("eye"), "--out", "out")
    fails(*given, code="unreadable-archive", values=["cut.zip"])


def test_members_of_archives_stay_below_the_destination(run, good, exports, tmp_path):
    names = ["../up.jpg", "a/../../../far.jpg", "/root.jpg", "./here.jpg", "b//c.jpg"]
    with zipfile.ZipFile("x.zip", "w") as archive:
        for name in names:
            archive.write(good / "000.jpg", name)
    with tarfile.open("x.tar", "w") as archive:
        for name in names:
            archive.add(good / "000.jpg", name, filter=None)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = set(tmp_path.parent.rglob("*.png"))
    given = ("predict", "eye", "--export", exports("eye"))
    run(*given, "x.zip", "--out", "in/zip")
    run(*given, "x.tar", "--out", "in/tar", error="unreadable-image")
    assert [row["image"] for row in rows_of("in/tar/failed.csv")] == ["x.tar/link.jpg"]
    made = set(tmp_path.parent.rglob("*.png")) - before
    assert len(made) == 2 * len(names)
    assert all(tmp_path / "in" in path.parents for path in made)


def test_where_every_image_fails_it_is_said_in_one_line(run, exports):
    Path("bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Path("bad", name).write_text("x")
    given = ("predict", "eye", "bad", "--export", exports("eye"), "--out", "out", "--workers", 1)
    assert "out/failed.csv" in run(*given, error="unreadable-image").message
    assert len(rows_of("out/failed.csv")) == 2
    with tarfile.open("empty.tar", "w"):
        pass
    given = ("predict", "eye", "empty.tar", "--export", exports("eye"), "--out", "other")
    run(*given, error="no-images")


def test_names_with_special_characters(run, good, exports):
    names = ["a[1].jpg", "b?.jpg", "c 1.jpg", "d#%20.jpg", "e\udcff.jpg"]
    folder = Path("f[1] *")
    folder.mkdir()
    for name in names:
        shutil.copy(good / "000.jpg", folder / name)
    given = ("--export", exports("eye"), "--workers", 1)
    run("predict", "eye", folder, *given, "--out", "out")
    assert {path.stem for path in Path("out").glob("*.png")} == {name[:-4] for name in names}
    run("predict", "eye", folder / "a[1].jpg", *given, "--out", "one")
    assert Path("one/a[1].png").is_file()


def test_file_addresses_are_paths(run, good, exports, tmp_path):
    given = ("--export", exports("eye"), "--out", f"file://{tmp_path}/out")
    run("predict", "eye", f"file://{good}", *given)
    assert len(list(Path("out").glob("*.png"))) == 69


def test_a_script_without_a_guard_is_told_of_it(good, exports, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import fastseg\nfastseg.predict('eye', {str(good)!r}, 'out', "
        f"export={str(exports('eye'))!r}, workers=2)"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "__main__" in done.stderr.strip().splitlines()[-1]


def test_a_tar_file_that_is_cut_fails_alone(run, good, exports):
    _tars(good)
    data = Path("shard-01.tar").read_bytes()
    Path("shard-01.tar").write_bytes(data[: len(data) // 2])
    given = ("predict", "eye", "shard-{00..01}.tar", "--export", exports("eye"), "--out", "out")
    result = run(*given, error="unreadable-image")
    assert "shard-01.tar" in result.message
    (failed,) = rows_of("out/failed.csv")
    assert failed["image"] == "shard-01.tar"
    assert 35 < len(rows_of("out/predictions.csv")) < 69


def test_two_runs_to_one_destination(fails, good, exports, tmp_path):
    from fastseg.inference.destination import held
    from fastseg.utils.locks import write_lock
    from fastseg.utils.storage import store_of

    given = ("predict", "eye", good, "--export", exports("eye"), "--out", tmp_path / "out")
    with write_lock(tmp_path / "out"):  # of a prediction without shards
        fails(*given, "--workers", 1, code="busy")
    with held(store_of(str(tmp_path / "out"))):
        fails(
            *("predict", "eye", good, "--export", exports("eye")),
            *("--out", tmp_path / "out", "--workers", 1),
            code="busy",
            values=["out"],
        )


def test_the_lock_of_a_run_that_was_killed_is_free(run, good, exports, tmp_path):
    import socket

    (tmp_path / "out" / STATE).mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    facts = {"token": "x", "host": socket.gethostname(), "pid": dead.pid, "time": str(time.time())}
    (tmp_path / "out" / STATE / "lock").write_text(json.dumps(facts))
    run("predict", "eye", good, "--export", exports("eye"), "--out", "out", "--workers", 1)
    assert not (tmp_path / "out" / STATE / "lock").exists()


def test_python_gets_the_counts(good, exports, tmp_path):
    done = fastseg.predict("eye", good, tmp_path / "out", export=exports("eye"), engine="local")
    assert done.run.images == 69 and done.run.failed == 0
    assert {Path(table).name for table in done} == {"predictions.csv", "predictions.parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_check_and_evaluate_on_workers_say_the_same(run, samples, exports, command, tmp_path):
    more = ("--export", exports("eye"), "--out", "out") if command == "evaluate" else ()
    given = (command, "eye", "--data", samples["eye"], *more, "--json")
    alone = json.loads(run(*given).out)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert json.loads(run(*given, "--workers", 2).out) == alone

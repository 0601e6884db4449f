"""Start and end of the process: mistakes are found before torch is imported; exit is fast."""

import gc
import json
import os
import shutil
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fastseg import tasks
from fastseg.learners import build
from fastseg.losses import Loss
from fastseg.models import factory
from fastseg.utils import choices
from fastseg.utils.choices import TRACKERS
from fastseg.utils.imports import importing
from fastseg.utils.threads import cores

LIGHT = [
    "checks.dataset",
    "checks.repair",
    "cli.console",
    "cli.status",
    "evaluation.run",
    "evaluation.scores",
    "exports.folder",
    "exports.read",
    "exports.write",
    "learners.options",
    "importers.face_masks",
    "importers.smp_hub",
    "importers.surfaces",
    "inference.batch",
    "inference.photo",
    "learners.preparation",
    "metrics.calibration",
    "metrics.risk",
    "report.browse",
    "report.results",
    "serving.options",
    "training.budget",
    "training.fit",
    "training.resume",
    "training.study",
    "training.tracked",
    "training.tune",
    "utils.choices",
]
HEAVY = {
    "torch",
    "fastai",
    "timm",
    "torchvision",
    "segmentation_models_pytorch",
    "onnxruntime",
    "pandas",
    "sklearn",
    "cleanlab",
    "captum",
    *TRACKERS,
}

# Runs the commands read from standard input in one process. Prints for each what it left in
# sys.modules, its exit code and its last line.
RUNNER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from fastseg.cli.app import app
heavy, rows = set(json.loads(sys.argv[1])), []
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            app(arguments)
        except SystemExit as end:
            code = end.code
    rows.append((sorted(heavy & set(sys.modules)), code, said.getvalue()))
print(json.dumps(rows))
"""


def python(*arguments, cwd, given="") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, input=given, capture_output=True, text=True
    )


@pytest.fixture
def mistakes(samples, exports, tmp_path):
    """Commands that cannot work, in a folder with what they name."""
    for folder, masks in (("void", "masks_small"), ("few", "masks_small")):
        shutil.copytree(samples["eye"], tmp_path / folder)
        for file in sorted((tmp_path / folder / masks).iterdir())[
            : None if folder == "void" else 1
        ]:
            codes = np.array(Image.open(file))
            codes[:40] = 200
            Image.fromarray(codes).save(file)
    shutil.copytree(samples["kitchen"], tmp_path / "kit")
    for split in ("train", "val"):
        (tmp_path / "kit" / split).rename(tmp_path / "kit" / f"{split}s")
    (tmp_path / "both").mkdir()
    for suffix in (".jpg", ".png"):
        Image.new("RGB", (40, 40)).save(tmp_path / "both" / f"ok{suffix}")
    eye, fine = ["--export", str(exports("eye"))], ["--data", str(samples["eye"])]
    return [
        ["predict", "eye", "both", *eye],
        ["predict", "eyes", "both"],
        ["predict", "eye", "nowhere", *eye],
        ["predict", "eye", "both/ok.jpg"],
        ["predict", "eye", "both/ok.jpg", "--export", "nowhere"],
        ["predict", "face", "both/ok.jpg", *eye],
        ["predict", "eye", "both/ok.jpg", *eye, "--out", "both"],
        ["predict", "eye", "both/ok.jpg", *eye, "--error-rate", "0.9"],
        ["--threads", "1", "predict", "eye", "both", *eye],
        ["fit", "eyes"],
        ["fit", "eye"],
        ["fit", "kitchen", "--data", "kit"],
        ["fit", "eye", "--data", "void"],
        ["fit", "eye", "--data", "few"],
        ["fit", "eye", *fine, "--decoder", "unett"],
        ["fit", "eye", *fine, "--loss", "dicee"],
        ["fit", "eye", *fine, "--opt", "addam"],
        ["fit", "eye", *fine, "--size", "16"],
        ["fit", "eye", *fine, "--lr", "fast"],
        ["fit", "eye", *fine, "--epochs", "0", "--freeze-epochs", "0"],
        ["fit", "eye", *fine, "--weights", "gone.pth"],
        ["fit", "eye", *fine, "--weights", "both"],
        ["fit", "eye", *fine, "--folds", "1"],
        ["fit", "eye", *fine, "--out", "both"],
        ["fit", "eye", *fine, "--out", "both/ok.jpg/x"],
        ["fit", "eye", *fine, "--resume"],
        ["lr", "kitchen", "--data", "kit"],
        ["lr", "eye", "--data", "void"],
        ["lr", "eye", *fine, "--out", "lr.txt"],
        ["evaluate", "eye"],
        ["evaluate", "eye", *eye, "--split", "half"],
        ["evaluate", "eye", *eye, "--data", "nowhere"],
        ["evaluate", "eye", *eye, "--by", "("],
        ["evaluate", "eye", *eye, "--compare", "nowhere"],
        ["evaluate", "eye", *eye, "--out", "both/ok.jpg"],
        ["interpret"],
        ["interpret", "eye"],
        ["interpret", "eye", *eye, "--data", "nowhere"],
        ["show", "kitchen", "--data", "kit"],
        ["show", "eye", *fine, "--class", "lid"],
        ["show", "eye", "--wrong"],
        ["check", "kitchen", "--data", "kit"],
        ["check", "kitchn"],
        ["study", "eye", "--vary", "opt=adam,addam"],
        ["tune", "eye", "--vary", "opt=adam,addam"],
        ["tune", "eye", *fine, "--write"],
        ["study", "eye", "--vary", "losss=ce,dice"],
        ["study", "eye", "--vary", "loss=ce,dic"],
        ["segment", "both/ok.jpg"],
        ["adopt", "eye"],
        ["masks", "eye", "both"],
        ["gather", "eye", "both"],
    ]


def test_mistakes_that_need_no_torch_are_told_without_it(mistakes, tmp_path):
    done = python(
        "-c",
        RUNNER,
        json.dumps(sorted(HEAVY - {"pandas", "sklearn"})),
        cwd=tmp_path,
        given=json.dumps(mistakes),
    )
    assert done.returncode == 0, done.stderr
    for arguments, (heavy, code, said) in zip(mistakes, json.loads(done.stdout)):
        assert code == 1, f"{arguments}: exit code {code}: {said}"
        assert not heavy, f"{arguments}: imports {heavy}: {said}"


def test_the_modules_of_commands_import_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom importlib import import_module\n"
        f"for name in {LIGHT}:\n    import_module(f'fastseg.{{name}}')\n"
        f"    assert not {HEAVY} & set(sys.modules), (name, {HEAVY} & set(sys.modules))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_a_few_images_are_predicted_without_torch(name, exports, samples, tmp_path):
    images = sorted(path for path in samples[name].rglob("*.*") if path.suffix in (".jpg", ".png"))
    out = tmp_path / "out"
    command = ["predict", name, images[0], "--export", exports(name), "--device", "cpu"]
    command += ["--out", out / ("mask.png" if name == "eye" else "classes.tsv")]
    heavy = json.dumps([*(HEAVY - {"onnxruntime"}), "scipy"])
    done = python("-c", RUNNER, heavy, cwd=tmp_path, given=json.dumps([[*map(str, command)]]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0][:2] == [[], 0], done.stdout
    assert any(out.iterdir())


def test_python_finds_the_same_mistakes_as_early(mistakes, samples, tmp_path):
    code = (
        "import sys, fastseg\n"
        "try:\n    fastseg.learner('eye', 'void')\nexcept fastseg.FastsegError: pass\n"
        "else: sys.exit('no error')\n"
        f"try:\n    fastseg.learner('eye', {str(samples['eye'])!r}, decoder='unett')\n"
        "except fastseg.FastsegError as error: assert error.code == 'unknown-decoder', error.code\n"
        "else: sys.exit('no error')\n"
        "assert 'torch' not in sys.modules"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_names_known_without_torch_are_those_that_work():
    assert tuple(build.OPTIMIZERS) == choices.OPTIMIZERS
    assert [Loss(name).parts for name in choices.LOSSES] == [[name] for name in choices.LOSSES]
    assert factory.DECODERS is choices.DECODERS


def test_masks_checked_early_are_all_that_it_has_time_for(samples, monkeypatch):
    from fastseg.learners.preparation import check_some_masks

    task, seen = tasks.get("eye"), []
    items, examine = task.items(samples["eye"]), tasks.SegmentationTask.examine_mask

    def examined(self, path, source):
        seen.append(path)
        return examine(self, path, source)

    monkeypatch.setattr(tasks.SegmentationTask, "examine_mask", examined)
    check_some_masks(task, samples["eye"], items, seconds=60)
    assert sorted(seen) == sorted(item.label for item in items)
    seen.clear()
    check_some_masks(task, samples["eye"], items, seconds=0)
    assert not seen


@pytest.mark.slow
def test_a_learner_in_python_gives_no_warning_of_the_libraries(samples, tmp_path):
    made = f"fastseg.learner('eye', {str(samples['eye'])!r}, weights='none', arch='test_resnet')"
    done = python("-c", f"import fastseg; {made}", cwd=tmp_path)
    assert done.returncode == 0 and "FutureWarning" not in done.stderr, done.stderr


def test_a_fit_says_something_before_it_imports_torch(samples, tmp_path):
    code = (
        "import sys, logging\nfrom fastseg.learners import preparation\n"
        "class First(logging.Handler):\n    def emit(self, record):\n"
        "        raise SystemExit('torch' in sys.modules)\n"
        "logging.getLogger('fastseg').addHandler(First())\nlogging.getLogger('fastseg').setLevel(logging.INFO)\n"
        f"preparation.learner('eye', {str(samples['eye'])!r})\nsys.exit('nothing was said')"
    )
    assert python("-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_threads_are_those_asked_for(samples, tmp_path):
    code = (
        "import sys\nsys.argv = ['fastseg', '--threads', '1', 'fit', 'eye', '--arch', 'nothing',"
        f" '--data', {str(samples['eye'])!r}]\n"
        "from fastseg.cli.app import app\ntry: app()\nexcept SystemExit: pass\n"
        "import torch\nassert torch.get_num_threads() == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr


AT_THE_END = """
import atexit, os, sys, threading, time
class Apart:
    def __del__(self, mkdir=os.mkdir): mkdir("apart")
sys.modules["apart"] = Apart()
atexit.register(os.mkdir, "called")
threading.Thread(target=lambda: (time.sleep(0.5), os.mkdir("waited"))).start()
"""


@pytest.mark.parametrize(
    "arguments,code,made",
    [
        (["tasks", "--json"], 0, {"called", "waited"}),
        (["fit", "late"], 1, {"called", "waited"}),
        (["fit"], 2, set()),
    ],
)
def test_the_end_is_quick_and_complete(arguments, code, made, tmp_path):
    """Threads finish, functions of atexit are called, output and exit code arrive."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "late.py").write_text(AT_THE_END)
    done = subprocess.run(
        [sys.executable, "-m", "fastseg", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "FASTSEG_TASKS": str(tmp_path / "tasks")},
    )
    assert done.returncode == code, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"tasks", *made}
    assert (
        {row["task"] for row in json.loads(done.stdout)} > set(tasks.names())
        if code == 0
        else done.stderr
    )


def test_a_program_that_calls_main_keeps_its_own_exit_code(tmp_path):
    program = (
        "import sys\nfrom fastseg.cli import main\nsys.argv = ['fastseg', 'tasks']\n"
        "try: main()\nexcept SystemExit: sys.exit(3)"
    )
    assert python("-c", program, cwd=tmp_path).returncode == 3


def test_collections_are_paused_during_imports_alone():
    assert gc.isenabled() and not gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() and not gc.get_freeze_count()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ImportError), importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


@pytest.mark.parametrize("own, expected", [(None, "1"), ("0", "0")])
def test_onnxruntime_is_told_to_send_nothing(own, expected):
    # onnxruntime reads the variable at its first session, in code that is no Python.
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import fastseg, os, sys; assert 'onnxruntime' not in sys.modules; "
            "print(os.environ['ORT_DISABLE_TELEMETRY'])",
        ],
        env={**environment, **({} if own is None else {"ORT_DISABLE_TELEMETRY": own})},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == expected, done.stderr


def test_cores_are_counted_while_another_thread_imports_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # nothing in it yet
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores() == 3

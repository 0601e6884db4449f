"""Choice of runtime and precision: measured where it pays, cached, forced by options, recorded."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from conftest import ARCH
from safetensors.torch import load_file

import fastseg
from fastseg.errors import FastsegError
from fastseg.evaluation.scores import MaskScores
from fastseg.exports import onnx
from fastseg.inference import prediction
from fastseg.inference.predictor import Predictor
from fastseg.learners import precision as training_precision
from fastseg.training import checkpoint
from fastseg.utils import device, speed

OPTIONS = {"arch": ARCH, "weights": "none", "size": 64, "bs": 4}
ONNX, FLOAT, HALF = ("onnx", "float32"), ("torch", "float32"), ("torch", "bfloat16")


@pytest.fixture(autouse=True)
def a_cpu_with_units(monkeypatch):
    """Pretend that the CPU has bfloat16 units and no precision is forced, on every machine."""
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    monkeypatch.delenv("FASTSEG_PRECISION", raising=False)


@pytest.fixture
def seconds(monkeypatch):
    """Set each option's seconds an image; `measured` lists what was measured, with batch sizes."""

    def table(*, measured=None, **by_option):
        def took(self, bs):
            if measured is not None:
                measured.append((self.runtime, self.precision, bs))
            return by_option[f"{self.runtime}_{self.precision}"]

        monkeypatch.setattr(Predictor, "seconds", took)

    return table


def option_of(export, *arguments, **options) -> tuple[str, str]:
    predictor = fastseg.load(export, "cpu", *arguments, **options)
    return predictor.runtime, predictor.precision


def test_what_is_measured_is_kept(exports, seconds):
    measured = []
    seconds(onnx_float32=0.5, torch_float32=0.4, torch_bfloat16=0.1, measured=measured)
    assert option_of(exports("eye"), images=1000) == HALF
    assert measured == [(*ONNX, 4), (*FLOAT, 4), (*HALF, 4)]
    seconds(onnx_float32=0.1, torch_float32=9, torch_bfloat16=9, measured=measured)
    assert option_of(exports("eye"), images=1000) == HALF and len(measured) == 3
    assert (
        option_of(exports("eye"), images=1000, bs=8) == ONNX
    )  # another batch size is another question
    assert (
        option_of(exports("eye"), images=4) == ONNX
    )  # what torch wins is less than it takes to start


def test_nothing_is_measured_where_it_cannot_pay(exports, seconds):
    measured = []
    seconds(onnx_float32=0.01, torch_float32=0.001, torch_bfloat16=0.001, measured=measured)
    assert (
        option_of(exports("eye")) == option_of(exports("eye"), images=speed.FEW_IMAGES - 1) == ONNX
        and measured == []
    )
    assert option_of(exports("eye"), images=100) == ONNX and measured == [(*ONNX, 4)]


def test_a_small_difference_keeps_the_default(exports, seconds):
    seconds(onnx_float32=1.0, torch_float32=0.95, torch_bfloat16=0.97)
    assert option_of(exports("eye"), images=1000) == ONNX


def test_a_long_fit_measures_its_export_for_single_images_and_streams(
    samples, seconds, tmp_path, monkeypatch
):
    measured = []
    monkeypatch.setattr("fastseg.inference.loading.WORTH_MEASURING", 0)
    seconds(onnx_float32=0.5, torch_float32=0.1, torch_bfloat16=0.2, measured=measured)
    fastseg.fit("eye", samples["eye"], **OPTIONS, epochs=1, device="cpu", out=tmp_path / "e")
    assert sorted(measured, key=str) == sorted(
        ((*o, bs) for o in (ONNX, FLOAT, HALF) for bs in (None, 4)), key=str
    )
    assert (
        option_of(tmp_path / "e") == option_of(tmp_path / "e", images=1000) == FLOAT
        and len(measured) == 6
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"runtime": "onnx"}, ONNX),
        ({"runtime": "torch", "precision": "float32"}, FLOAT),
        ({"runtime": "torch", "precision": "bfloat16"}, HALF),
        ({"precision": "float32"}, ONNX),
        ({"precision": "bfloat16"}, HALF),
    ],
)
def test_what_is_asked_for_is_done_and_nothing_measured(
    given, expected, exports, samples, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(Predictor, "seconds", lambda *_: pytest.fail("measured"))
    assert option_of(exports("eye"), images=1000, **given) == expected
    used = []
    for kind, name in ((onnx.Session, "onnx"), (fastseg.models.network.Network, "torch")):
        call = "forward" if name == "torch" else "__call__"
        before = getattr(kind, call)
        monkeypatch.setattr(
            kind,
            call,
            lambda self, x, before=before, name=name: (
                used.append((name, getattr(self, "precision", "float32"))),
                before(self, x),
            )[1],
        )
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    run(
        "predict",
        "eye",
        samples["eye"] / "imgs_small",
        "--export",
        exports("eye"),
        "--out",
        "masks",
        "--device",
        "cpu",
        *options,
    )
    run(
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        exports("eye"),
        "--out",
        "found",
        "--device",
        "cpu",
        *options,
    )
    assert set(used) == {expected}


def test_torch_alone_is_asked_for_and_its_precision_measured(exports, seconds):
    seconds(onnx_float32=0.1, torch_float32=0.5, torch_bfloat16=0.2)
    assert option_of(exports("eye"), runtime="torch") == FLOAT  # for little work
    assert option_of(exports("eye"), runtime="torch", images=1000) == HALF


def test_forcing_by_the_environment(exports, monkeypatch):
    for forced, expected in (("float32", ONNX), ("bfloat16", HALF)):
        monkeypatch.setenv("FASTSEG_PRECISION", forced)
        assert option_of(exports("eye"), images=1000) == expected
    assert option_of(exports("eye"), runtime="onnx") == ONNX  # an option goes before it


def test_what_does_not_go_together(exports, samples, run, fails, tmp_path):
    folder = shutil.copytree(exports("eye"), tmp_path / "copy")
    (folder / "model.onnx").unlink()
    common = ["evaluate", "eye", "--data", samples["eye"], "--out", tmp_path / "found", "--export"]
    fails(
        *common,
        exports("eye"),
        "--runtime",
        "onnx",
        "--precision",
        "bfloat16",
        code="engine-precision",
    )
    fails(*common, folder, "--runtime", "onnx", code="no-onnx")
    fails(*common, exports("eye") / "export.pkl", "--runtime", "onnx", code="no-onnx")
    fails(*common, exports("eye"), "--runtime", "tensorflow", code="unknown-runtime")
    fails(*common, exports("eye"), "--precision", "float12", code="unknown-precision")
    with pytest.raises(FastsegError) as caught:
        fastseg.load(
            exports("eye"), "meta" if not torch.cuda.is_available() else "cuda", runtime="onnx"
        )
    assert caught.value.code in ("engine-device", "no-device")
    assert (
        option_of(folder) == FLOAT
        and option_of(folder, runtime="torch", precision="bfloat16") == HALF
    )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_an_interrupted_run_does_not_go_on_by_another_runtime(
    command, samples, exports, tmp_path, monkeypatch
):
    export = exports("eye")

    def call(**options):
        if command == "predict":
            return fastseg.predict(
                "eye",
                samples["eye"] / "imgs_small",
                tmp_path / "out",
                export=export,
                bs=2,
                **options,
            )
        return fastseg.evaluate(
            "eye", samples["eye"], split="all", export=export, out=tmp_path / "out", bs=2, **options
        )

    class PulledPlug(Exception):
        pass

    expected_error, seen = prediction.Prediction.expected_error, []

    def counted(self):
        seen.append(self.source)
        if len(seen) == 9:
            raise PulledPlug
        return expected_error.fget(self)

    monkeypatch.setattr(prediction.Prediction, "expected_error", property(counted))
    judge = MaskScores.judge

    def judged(self, item, name, found, truth):
        assert found.expected_error >= 0
        return judge(self, item, name, found, truth)

    monkeypatch.setattr(MaskScores, "judge", judged)

    def calls(**options) -> int:
        before = len(seen)
        call(device="cpu", **options)
        return len({str(source) for source in seen[before:]})

    with pytest.raises(PulledPlug):
        calls(runtime="onnx")
    assert (
        calls(runtime="torch", precision="float32")
        == calls(runtime="torch", precision="bfloat16")
        == 16
    )
    # evaluate goes on; predict finds the masks that torch wrote since, and does them all again
    assert calls(runtime="onnx") == 16 if command == "predict" else calls(runtime="onnx") < 16


@pytest.mark.slow
def test_the_card_has_the_precision(samples, tmp_path):
    for precision in ("float32", "bfloat16"):
        fastseg.fit(
            "eye",
            samples["eye"],
            **OPTIONS,
            epochs=1,
            precision=precision,
            out=tmp_path / precision,
        )
        assert (
            json.loads((tmp_path / precision / "card.json").read_text())["training"]["precision"]
            == precision
        )
    fastseg.fit(
        "eye", samples["eye"], **OPTIONS, epochs=1, device="cpu", folds=2, out=tmp_path / "joined"
    )
    assert (
        json.loads((tmp_path / "joined" / "card.json").read_text())["training"]["precision"]
        == "float32"
    )  # too short to measure


@pytest.fixture
def steps(monkeypatch):
    """Set the seconds of a training step in each precision; `measured` lists what was measured."""
    whole = training_precision.step_seconds

    def table(*, measured=None, **by_precision):
        def took(network, *batch):
            if measured is not None:
                measured.append(network.precision)
            whole(network, *batch)
            return by_precision[network.precision]

        monkeypatch.setattr(training_precision, "step_seconds", took)

    return table


@pytest.mark.parametrize(
    "name", ["eye", "mri"]
)  # the classifier has dropout, which draws random numbers
def test_measuring_a_step_leaves_no_trace(name, samples, steps):
    measured = []
    steps(float32=9, bfloat16=1, measured=measured)
    states = []
    for precision in ("float32", None):
        learn = fastseg.learner(name, samples[name], **OPTIONS, device="cpu", precision=precision)
        states.append(
            (
                {key: value.clone() for key, value in learn.model.state_dict().items()},
                torch.get_rng_state(),
                [p.requires_grad for p in learn.model.parameters()],
                learn.model.training,
                learn.dls.train.rng.getstate(),
            )
        )
        assert all(p.grad is None for p in learn.model.parameters())
    assert learn.model.precision == "bfloat16" and measured == ["float32", "bfloat16"]
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])
    assert torch.equal(states[0][1], states[1][1]) and states[0][2:] == states[1][2:]
    fastseg.learner(name, samples[name], **OPTIONS, device="cpu")
    assert len(measured) == 2  # it is known
    fastseg.learner(name, samples[name], **{**OPTIONS, "size": 96}, device="cpu")
    assert len(measured) == 4  # of another size, it is not


@pytest.mark.slow
def test_a_measured_precision_trains_to_the_same_weights_as_that_precision(
    samples, steps, tmp_path
):
    steps(float32=1, bfloat16=9)
    for name, precision in (("asked", "float32"), ("measured", None)):
        fastseg.fit(
            "eye",
            samples["eye"],
            **OPTIONS,
            epochs=1,
            device="cpu",
            precision=precision,
            out=tmp_path / name,
        )
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("asked", "measured")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_that_cannot_be_measured_trains_in_float32(samples, monkeypatch):
    def fails(*_):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(training_precision, "step_seconds", fails)
    assert (
        fastseg.learner("eye", samples["eye"], **OPTIONS, device="cpu").model.precision == "float32"
    )


@pytest.mark.slow
def test_a_resumed_fit_keeps_its_precision(samples, steps, tmp_path, monkeypatch):
    steps(float32=9, bfloat16=1)
    common = dict(**OPTIONS, epochs=3, device="cpu")
    fastseg.fit("eye", samples["eye"], out=tmp_path / "whole", **common)
    write = checkpoint.write

    def pulled(path, state):
        write(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", pulled)
    with pytest.raises(KeyboardInterrupt):
        fastseg.fit("eye", samples["eye"], out=tmp_path / "cut", **common)
    monkeypatch.setattr(checkpoint, "write", write)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cleared"))
    steps(float32=1, bfloat16=9)
    fastseg.fit("eye", out=tmp_path / "cut", resume=True)
    one, other = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    for folder in ("whole", "cut"):
        assert (
            json.loads((tmp_path / folder / "card.json").read_text())["training"]["precision"]
            == "bfloat16"
        )


def test_a_session_is_made_once_whichever_thread_asks(exports, monkeypatch):
    made, started = [], threading.Barrier(8)
    whole = onnx.Session.__init__

    def counted(self, path, threads=0):
        made.append(threads)
        whole(self, path, threads)

    monkeypatch.setattr(onnx.Session, "__init__", counted)
    sessions, found = onnx.Sessions(exports("eye") / "model.onnx"), []

    def ask():
        started.wait()
        found.append(sessions(1))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and len({id(session) for session in found}) == 1


def test_a_cache_that_cannot_be_kept_or_read(exports, seconds, tmp_path, monkeypatch):
    seconds(onnx_float32=0.5, torch_float32=0.1, torch_bfloat16=9)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert option_of(exports("eye"), images=1000) == FLOAT and option_of(exports("eye")) == ONNX
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert option_of(exports("eye"), images=1000) == FLOAT
    for file in (tmp_path / "cache" / "fastseg").glob("*.speeds"):
        file.write_text("[1, 2")
    assert option_of(exports("eye"), images=1000) == FLOAT


def test_seconds_are_those_of_an_image(exports):
    for option in ({"runtime": "onnx"}, {"runtime": "torch", "precision": "float32"}):
        predictor = fastseg.load(exports("eye"), "cpu", **option)
        assert 0 < predictor.seconds(None) < 60 and 0 < predictor.seconds(4) < 60


def test_a_stream_is_the_same_alone_and_in_a_batch(exports):
    """One image is computed with all threads, many with one each: the masks are the same."""
    images = list(np.random.default_rng(0).integers(0, 256, (5, 80, 90, 3), dtype=np.uint8))
    alone, many = (
        fastseg.load(exports("eye"), runtime="onnx", images=1),
        fastseg.load(exports("eye"), runtime="onnx", images=5),
    )
    for image, (_, found) in zip(images, many.stream(images, 2)):
        assert np.allclose(next(alone.stream([image]))[1].logits, found.logits, atol=1e-4)


def test_compared_exports_are_computed_in_one_precision(
    exports, samples, seconds, tmp_path, monkeypatch
):
    measured, loaded = [], []
    seconds(onnx_float32=9, torch_float32=9, torch_bfloat16=1, measured=measured)
    monkeypatch.setattr("fastseg.inference.loading.FEW_IMAGES", 1)
    load = fastseg.inference.loading.load
    monkeypatch.setattr(
        fastseg.inference.loading,
        "load",
        lambda *given, **options: loaded.append(load(*given, **options)) or loaded[-1],
    )
    card = json.loads((exports("eye") / "card.json").read_text())
    other = shutil.copytree(exports("eye"), tmp_path / "other")
    (other / "card.json").write_text(
        json.dumps({**card, "size": [96, 96]})
    )  # what was measured for one does not hold for the other
    fastseg.evaluate(
        "eye",
        samples["eye"],
        split="all",
        export=exports("eye"),
        compare=other,
        device="cpu",
        out=tmp_path / "found",
    )
    assert [(p.runtime, p.precision) for p in loaded] == [HALF, HALF] and len(measured) == 3

"""Measure fastseg and common alternatives, side by side in one run.

    python scripts/benchmark.py step predict --json figures.json

Sections:
  step     one training step
  runtimes  ONNX and torch, float32 and bfloat16, on batches of 1 and 8
  epoch    decoding, augmentation, training, validation
  predict  files to files, with the model's share of the time
  memory   peak of each contestant; 1,000 against 10,000 images
  quality  score reached within the same time
  blur     mri: the slightest blur that is found
  startup  cold commands, a tiny fit, mistakes
  labels   1,000 and 10,000 images with 10 COCO polygons each: seconds, peak memory
  photo    one photograph through an adopted SegFormer-B0; peak memory of 12 megapixels
  engines  predict without shards, on 1 to 4 processes and on Ray: start, rate, where time goes
  gpu      step and predict on an accelerator

Contestants take turns. The table gives medians, spreads and ratios; compare the ratios, not the
seconds. Real eyes are read from FASTSEG_SHARED where it is set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fastseg  # before torch: it sets how OpenMP threads wait, for all contestants

# isort: split
import engines as engine_runs
import numpy as np
import peers
import torch
from labels import readings
from peers import SHARED
from PIL import Image
from quality import blur, quality
from timing import interleaved, machine, table

from fastseg.utils.allocator import freed_memory_kept

warnings.filterwarnings("ignore")

SIZE, BATCH, CLASSES = (256, 256), 8, 4
PRECISIONS = ("float32", "bfloat16")


def eyes(folder: Path, n: int, size: tuple[int, int] | None = None) -> Path:
    """Copy `n` real eyes (or synthetic ones) into `folder`, resized to (height, width)."""
    task, source = fastseg.tasks.get("eye"), SHARED / "data" / "eye"
    items = task.items(
        source if source.is_dir() else task.sample(folder / "synthetic", n=min(n, 100))
    )
    for number in range(n):
        item = items[number % len(items)]
        for kind, pixels, suffix in (
            ("images", task.image(item), ".jpg"),
            ("masks", task.label(item), ".png"),
        ):
            target = folder / kind / f"eye_{number:05d}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(
                np.where(pixels == 255, 0, pixels) if kind == "masks" else pixels
            )
            if size:
                image = image.resize(
                    size[::-1], Image.NEAREST if kind == "masks" else Image.BILINEAR
                )
            image.save(target, **({"quality": 92} if kind == "images" else {}))
    return folder


def learner(data: Path, arch: str = "resnet18", **options):
    """Build fastseg's learner of the same backbone and size."""
    return fastseg.learner("eye", data, arch=arch, weights="none", size=SIZE, bs=BATCH, **options)


def step(repeats: int, folder: Path, device: str = "cpu") -> dict[str, list[float]]:
    """One training step on a ready batch: forward, backward, optimizer."""
    data = eyes(folder, 16, SIZE)
    torch.manual_seed(0)
    x, y = (
        torch.randn(BATCH, 3, *SIZE, device=device),
        torch.randint(0, CLASSES, (BATCH, *SIZE), device=device),
    )

    def synchronized(run: Callable[[], object]) -> Callable[[], None]:
        def run_and_wait() -> None:
            run()
            if device != "cpu":
                torch.cuda.synchronize()

        return run_and_wait

    def learner_step(learn) -> Callable[[], None]:
        learn.model.to(device)
        learn.unfreeze()
        learn.create_opt()
        learn.model.train()

        def run() -> None:
            learn.loss_func(learn.model(x), y).backward()
            learn.opt.step()
            learn.opt.zero_grad()

        return synchronized(run)

    plain, careful = peers.PlainLoop(device=device), peers.CarefulLoop(device=device)
    compiled = {}
    if shutil.which("g++") or device != "cpu":  # what torch.compile needs
        loop = peers.CarefulLoop(device=device, compiled=True)
        compiled["smp, careful, compiled"] = synchronized(lambda: loop.step(x, y))
    contestants = {
        "fastai unet_learner(resnet18)": learner_step(peers.notebook_learner(data, device=device)),
        "smp.Unet(resnet18) loop": synchronized(lambda: plain.step(x, y)),
        f"smp, careful ({careful.text})": synchronized(lambda: careful.step(x, y)),
        **compiled,
        "fastseg resnet18": learner_step(learner(data, device=device)),
        "fastseg resnet18, plain unet": learner_step(learner(data, decoder="unet", device=device)),
        "fastseg default backbone": learner_step(learner(data, "mobilenetv2_100", device=device)),
    }
    with freed_memory_kept():  # as in a training; it helps the others, too
        for run in contestants.values():  # the first step allocates
            run()
        return interleaved(contestants, repeats)


def runtimes(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Seconds an image of each runtime and precision, and training steps of 8, by backbone."""
    data = eyes(folder, 16, SIZE)
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {}
    for arch in ("mobilenetv2_100", "convnext_femto", "efficientnet_b0", "regnetx_002"):
        learn = learner(data, arch, device="cpu", precision="float32")
        export = fastseg.save(learn, folder / arch)
        learn.unfreeze()
        learn.create_opt()
        x, y = torch.randn(BATCH, 3, *SIZE), torch.randint(0, CLASSES, (BATCH, *SIZE))
        settings = {
            "onnx float32": {"runtime": "onnx"},
            **{f"torch {name}": {"runtime": "torch", "precision": name} for name in PRECISIONS},
        }
        contestants: dict[str, Callable[[], object]] = {}
        for count in (1, BATCH):
            batch = rng.integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)
            contestants |= {
                f"{arch} {setting}, batch of {count}": partial(
                    fastseg.load(export, "cpu", **options).logits, batch
                )
                for setting, options in settings.items()
            }

        def step(precision: str, learn=learn, x=x, y=y) -> None:
            learn.model.train().precision = precision
            learn.loss_func(learn.model(x), y).backward()
            learn.opt.step()
            learn.opt.zero_grad()

        contestants |= {
            f"{arch} training step, {precision}": partial(step, precision)
            for precision in PRECISIONS
        }
        for run in contestants.values():  # the first one allocates
            run()
        times = interleaved(contestants, max(repeats, 5))
        seconds |= {
            name: [t / BATCH for t in values] if name.endswith(f"batch of {BATCH}") else values
            for name, values in times.items()
        }
    return seconds


def epoch(repeats: int, folder: Path) -> dict[str, list[float]]:
    """One complete epoch over 96 images: decoding, augmentation, training, validation."""
    data = eyes(folder, 96)
    theirs, ours = peers.notebook_learner(data), learner(data)
    plain, careful = peers.PlainLoop(data), peers.CarefulLoop(data)
    files = sorted((data / "images").iterdir())

    def epoch_of(learn) -> Callable[[], None]:
        def run() -> None:
            with learn.no_bar(), learn.no_logging():
                learn.fit(1, 1e-3)

        return run

    def batches() -> None:
        for dl in ours.dls:
            for _ in dl:
                pass

    return interleaved(
        {
            "fastai DataBlock + aug_transforms": epoch_of(theirs),
            "smp loop": lambda: plain.epoch(files[:77], files[77:]),
            f"smp, careful ({careful.text})": lambda: careful.epoch(files[:77], files[77:]),
            "fastseg resnet18": epoch_of(ours),
            "fastseg default backbone": epoch_of(learner(data, "mobilenetv2_100")),
            "of it, fastseg's data and augmentation": batches,
        },
        repeats,
    )


def exported(folder: Path, device: str | None = None, arch: str = "resnet18") -> tuple[Path, Path]:
    """Return 16 small eyes and an untrained export made of them."""
    small = eyes(folder / "train", 16, SIZE)
    return small, fastseg.save(learner(small, arch, device=device), folder / f"export_{arch}")


def predict(
    repeats: int, folder: Path, device: str = "cpu", count: int = 64
) -> dict[str, list[float]]:
    """JPEG files to original-size PNG masks, seconds an image, at 640x480 and 816x816."""
    small, export = exported(folder, device)
    _, default = exported(folder, device, "mobilenetv2_100")
    theirs, plain, careful, yolo = (
        peers.notebook_learner(small, device=device),
        peers.PlainLoop(device=device),
        peers.CarefulLoop(device=device),
        peers.Ultralytics(folder / "ultralytics", SIZE[0]) if peers.has_ultralytics() else None,
    )
    predictor, ready = fastseg.load(default, device), np.zeros((BATCH, *SIZE, 3), dtype=np.uint8)
    out = folder / "out"
    out.mkdir()

    def seconds_at(height: int, width: int) -> dict[str, list[float]]:
        files = sorted((eyes(folder / f"{width}", count, (height, width)) / "images").iterdir())
        few, some = files[:8], files[:16]  # slow ones: a part of the images tells
        contestants = {
            "fastai learn.predict loop": (
                lambda: peers.notebook_predict(theirs, few, out),
                len(few),
            ),
            "fastai get_preds": (lambda: peers.notebook_get_preds(theirs, some, out), len(some)),
            "smp loop": (lambda: plain.predict(some, out), len(some)),
            f"smp, careful ({careful.text})": (lambda: careful.predict(files, out), count),
            **(
                {"ultralytics yolo26n-sem": (lambda: yolo.predict(files, out), count)}
                if yolo
                else {}
            ),
            "fastseg": (
                lambda: fastseg.predict("eye", files, out, export=default, device=device),
                count,
            ),
            "of it, the model alone": (
                lambda: [predictor.logits(ready) for _ in range(count // BATCH)],
                count,
            ),
            "fastseg resnet18": (
                lambda: fastseg.predict("eye", files, out, export=export, device=device),
                count,
            ),
        }
        seconds = interleaved({name: run for name, (run, _) in contestants.items()}, repeats)
        return {
            f"{name}, {width}x{height}": [t / contestants[name][1] for t in times]
            for name, times in seconds.items()
        }

    return seconds_at(480, 640) | seconds_at(816, 816)


def startup(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Cold starts, each in a fresh process: working commands, a tiny fit, user mistakes."""
    small, export = exported(folder, arch="mobilenetv2_100")
    image = next((small / "images").iterdir())
    sixty = fastseg.tasks.get("eye").sample(folder / "sixty", 60)
    both, kitchen, void = folder / "both", folder / "kitchen", folder / "void"
    both.mkdir()
    for name in ("ok.jpg", "ok.png"):
        Image.open(image).save(both / name)
    (fastseg.tasks.get("kitchen").sample(kitchen, 60) / "train").rename(kitchen / "trian")
    fastseg.tasks.get("eye").sample(void, 60)
    for mask in (void / "masks_small").iterdir():
        codes = np.array(Image.open(mask))
        codes[:40] = 200  # no class; 255 would be unlabelled
        Image.fromarray(codes).save(mask)

    # As for most users, Python keeps the modules that it compiled; some containers forbid it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def process(*arguments: object, code: int = 0) -> Callable[[], None]:
        def run() -> None:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", *map(str, arguments)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode != code:
                raise RuntimeError(
                    f"{arguments}: exit code {done.returncode}, not {code}: {done.stderr}"
                )

        return run

    def command(*arguments: object, code: int = 0) -> Callable[[], None]:
        return process("-m", "fastseg", *arguments, code=code)

    fit = (
        "fit",
        "eye",
        "--epochs",
        1,
        "--size",
        96,
        "--weights",
        "none",
        "--out",
        folder / "tiny",
        "--data",
    )
    return interleaved(
        {
            "import fastai.vision.all": process("-c", "import fastai.vision.all"),
            "fastseg predict, one image": command("predict", "eye", image, "--export", export),
            "fastseg fit, 60 images, 1 epoch, 96 px": command(*fit, sixty),
            "fastseg tasks": command("tasks"),
            "fastseg --help": command("--help"),
            "mistake: two images for one mask": command(
                "predict", "eye", both, "--export", export, code=1
            ),
            "mistake: no such export": command(
                "predict", "eye", image, "--export", "nowhere", code=1
            ),
            "mistake: misspelt task": command("predict", "eyes", image, code=1),
            "mistake: misspelt folder of a layout": command(
                "fit", "kitchen", "--data", kitchen, code=1
            ),
            "mistake: masks with an unknown code": command(*fit, void, code=1),
        },
        repeats,
    )


def memory(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Peak memory in MB, each in a fresh process.

    Contestants on 64 images of 640x480 px; fastseg on 1,000 and on 10,000 of 320x240 px.
    """
    small, export = exported(folder, arch="mobilenetv2_100")
    tiny = fastseg.save(
        fastseg.learner("eye", small, arch="test_resnet", weights="none", size=64), folder / "tiny"
    )
    source = eyes(folder / "64", 64, (480, 640))
    files = sorted((eyes(folder / "small", 64, (240, 320)) / "images").iterdir())
    peaks: dict[str, list[float]] = {}

    def peak(label: str, *arguments: object) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--peak", *map(str, arguments)]
        peaks[label] = [
            float(
                subprocess.run(
                    command, check=True, capture_output=True, text=True, cwd=folder
                ).stdout.split()[-1]
            )
            for _ in range(repeats)
        ]

    kinds = {
        "fastai learn.predict loop": "loop",
        "fastai get_preds": "get_preds",
        "smp loop": "smp",
        "fastseg": "predict",
    }
    for label, kind in kinds.items():
        peak(f"{label}, 64 images", kind, source, export)
    for count in (1_000, 10_000):
        many = folder / str(count)
        for number in range(count):
            file = files[number % len(files)]
            for path in (file, peers.mask_of(file)):
                link = many / path.parent.name / f"eye_{number:05d}{path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, link)
        for kind in ("predict", "evaluate", "interpret"):
            peak(f"fastseg {kind}, {count} images", kind, many, tiny)
    return peaks


def labels(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Reading COCO polygons: drawn first, from the cache then; each in a fresh process."""
    return readings(folder, 1_000) | readings(folder, 10_000)


def engines(repeats: int, folder: Path) -> dict[str, list[float]]:
    """`predict` at 640x480 on every engine, each run a new process; and one worker's steps."""
    _, export = exported(folder, arch="mobilenetv2_100")
    many = eyes(folder / "many", engine_runs.MANY, (480, 640)) / "images"
    few = folder / "few" / "images"
    few.mkdir(parents=True)
    for file in sorted(many.iterdir())[: engine_runs.FEW]:
        os.link(file, few / file.name)
    return {
        **engine_runs.parts(few, export, max(repeats, 3)),
        **engine_runs.measured(few, many, export, repeats),
    }


def photo(repeats: int, folder: Path) -> dict[str, list[float]]:
    """One photograph of 1,024 px through SegFormer-B0, as its page shows it, and adopted."""
    import segmentation_models_pytorch as smp

    model = smp.Segformer("mit_b0", encoder_weights=None, classes=150).eval()
    model.save_pretrained(folder / "ready")
    export = fastseg.adopt("surfaces", folder / "ready", folder / "export").export
    predictor = fastseg.load(export, "cpu")
    room = Image.fromarray(fastseg.tasks.get("surfaces").draw(np.random.default_rng(0))[0])
    image = np.asarray(room.resize((1024, 768)))
    large = folder / "large.jpg"
    room.resize((4000, 3000)).save(large)

    @torch.inference_mode()
    def plain() -> None:
        x = (
            torch.from_numpy(np.array(Image.fromarray(image).resize((512, 512)))).permute(2, 0, 1)[
                None
            ]
            / 255
        )
        torch.nn.functional.interpolate(model(x), image.shape[:2], mode="bilinear").argmax(
            1
        ).numpy()

    command = [sys.executable, "-W", "ignore", __file__, "--peak", "photo", str(large), str(export)]
    peak = float(
        subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=folder
        ).stdout.split()[-1]
    )
    print(f"photo    4,000 x 3,000 px: {peak:.0f} MB at most")
    return interleaved(
        {"smp segformer-b0": plain, "fastseg, adopted": lambda: predictor.predict(image).codes},
        max(repeats, 5),
    )


def peak_of(kind: str, data: Path, export: Path) -> float:
    """Run one contestant in this process; return its peak resident memory in MB."""
    files = sorted((data / "images").iterdir()) if data.is_dir() else []
    with tempfile.TemporaryDirectory() as out:
        if kind == "loop":
            peers.notebook_predict(peers.notebook_learner(data), files, Path(out))
        elif kind == "get_preds":
            peers.notebook_get_preds(peers.notebook_learner(data), files, Path(out))
        elif kind == "smp":
            peers.PlainLoop().predict(files, Path(out))
        elif kind == "predict":
            fastseg.predict("eye", files, out, export=export)
        elif kind == "photo":
            fastseg.segment(data, out=out, export=export).regions()
        elif kind == "evaluate":
            fastseg.evaluate("eye", data, split="all", export=export)
        else:
            fastseg.interpret("eye", data, export=export, split="all", out=out)
    # not ru_maxrss: a process inherits its parent's value
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def gpu(repeats: int, folder: Path) -> dict[str, list[float]]:
    """`step` and `predict` on an accelerator, with a step's share of the matrix-product rate."""
    if not torch.cuda.is_available():
        print("gpu      no accelerator here")
        return {}
    from torch.utils.flop_counter import FlopCounterMode

    seconds = {
        f"step, {name}": times
        for name, times in step(max(repeats, 20), folder / "step", "cuda").items()
    }
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    ceiling = 20 * 2 * 8192**3 / (time.perf_counter() - start)
    model = learner(eyes(folder / "flops", 16, SIZE), device="cuda").model.cuda()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(BATCH, 3, *SIZE, device="cuda")).sum().backward()
    median = statistics.median(seconds["step, fastseg resnet18"])
    print(
        f"gpu      matrix product {ceiling / 1e12:.0f} TFLOPS in bfloat16; a fastseg step reaches "
        f"{counter.get_total_flops() / median / ceiling:.1%} of it, {BATCH / median:.0f} images/s"
    )
    predicted = predict(repeats, folder / "predict", "cuda")
    print(
        *(
            f"gpu      {name}: {1 / statistics.median(times):.0f} images/s"
            for name, times in predicted.items()
        ),
        sep="\n",
    )
    return seconds | {f"predict, {name}": times for name, times in predicted.items()}


SECTIONS = {
    "step": step,
    "runtimes": runtimes,
    "epoch": epoch,
    "predict": predict,
    "memory": memory,
    "quality": quality,
    "blur": blur,
    "startup": startup,
    "labels": labels,
    "photo": photo,
    "engines": engines,
    "gpu": gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--budget", type=float, default=300.0, help="training seconds of each contestant in quality"
    )
    parser.add_argument(
        "--json", type=Path, help="write the rows and the machine's description here"
    )
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        kind, data, export = arguments.peak
        return print(peak_of(kind, Path(data), Path(export)))
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    description = machine()
    print(json.dumps(description))
    rows = []
    for name in arguments.sections:
        with tempfile.TemporaryDirectory() as folder:
            options = {"budget": arguments.budget} if name == "quality" else {}
            rows += table(
                name,
                SECTIONS[name](
                    1 if name in ("quality", "blur", "memory") else arguments.repeats,
                    Path(folder),
                    **options,
                ),
            )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": description, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""Time fastseg against what a user would otherwise write, side by side in one run: ratios, not absolute figures.

    python scripts/benchmark.py step predict --json figures.json

Sections: `step` (one training step), `epoch` (decoding, augmentation, training, validation), `predict` (files to files),
`startup` (cold commands). Contestants take turns; the table gives medians, spreads and ratios.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

warnings.filterwarnings("ignore")

SIZE, BATCH, CLASSES = (256, 256), 8, 4
SHARED = Path(os.environ.get("FASTSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def machine() -> dict:
    """Describe the machine: processor, the units that matter, threads, versions."""
    from importlib.metadata import version
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set(info.partition("flags")[2].partition("\n")[0].split())
    return {"cpu": info.partition("model name")[2].partition("\n")[0].strip(" :\t") or platform.processor(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "units": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
            "isa_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"), "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "versions": {n: version(n) for n in ("torch", "fastai", "timm", "segmentation_models_pytorch")},
            "python": platform.python_version()}


def interleaved(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Let the contestants take turns `repeats` times; return each one's seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def eyes(folder: Path, n: int, size: tuple[int, int] | None = None) -> Path:
    """Copy `n` real eyes into `folder` (synthetic ones where the real data are absent), resized to (height, width)."""
    from fastseg import tasks
    task = tasks.get("eye")
    source = SHARED / "data" / "eye"
    items = task.items(source if source.is_dir() else task.sample(folder / "synthetic", n=min(n, 100)))
    for number in range(n):
        item = items[number % len(items)]
        for kind, pixels, suffix in (("images", task.image(item), ".jpg"), ("masks", task.label(item), ".png")):
            target = folder / kind / f"eye_{number:05d}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.where(pixels == 255, 0, pixels) if kind == "masks" else pixels)
            if size:
                image = image.resize(size[::-1], Image.NEAREST if kind == "masks" else Image.BILINEAR)
            image.save(target, **({"quality": 92} if kind == "images" else {}))
    return folder


def mask_of(path: Path) -> Path:
    """Return the mask's path of an image: the label function of the notebook."""
    return path.parents[1] / "masks" / f"{path.stem}.png"


def notebook_learner(data: Path):
    """Build what fastai's documentation shows: DataBlock, aug_transforms, unet_learner(resnet18)."""
    from fastai.vision.all import (
        DataBlock,
        ImageBlock,
        MaskBlock,
        Normalize,
        RandomSplitter,
        Resize,
        aug_transforms,
        get_image_files,
        imagenet_stats,
        resnet18,
        unet_learner,
    )
    block = DataBlock(blocks=(ImageBlock, MaskBlock(codes=list("abcd"))), get_items=get_image_files, get_y=mask_of,
                      splitter=RandomSplitter(seed=42), item_tfms=Resize(SIZE[0]),
                      batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
    learn = unet_learner(block.dataloaders(data / "images", bs=BATCH), resnet18, pretrained=False)
    return learn


def fastseg_learner(data: Path, arch: str = "resnet18"):
    """Build fastseg's learner of the same backbone and size."""
    import fastseg
    return fastseg.learner("eye", data, arch=arch, weights="none", size=SIZE, bs=BATCH)


class PlainLoop:
    """A plain PyTorch loop over segmentation_models_pytorch, as its README shows it: fp32, default layout, Adam."""

    def __init__(self, data: Path | None = None):
        import segmentation_models_pytorch as smp
        self.model = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.data = data

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.model.train()
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def read(self, path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB").resize(SIZE[::-1], Image.BILINEAR)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def pair(self, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.read(path), torch.from_numpy(np.asarray(Image.open(mask_of(path)).resize(SIZE[::-1], Image.NEAREST)).copy()).long()
        return (x.flip(-1), y.flip(-1)) if torch.rand(()) < 0.5 else (x, y)

    def epoch(self) -> None:
        files = sorted((self.data / "images").iterdir())
        cut = len(files) * 4 // 5
        for x, y in torch.utils.data.DataLoader([self.pair(f) for f in files[:cut]], BATCH, shuffle=True):
            self.step(x, y)
        self.model.eval()
        with torch.inference_mode():
            for x, y in torch.utils.data.DataLoader([self.pair(f) for f in files[cut:]], BATCH):
                torch.nn.functional.cross_entropy(self.model(x), y)

    def predict(self, files: list[Path], out: Path) -> None:
        self.model.eval()
        with torch.inference_mode():
            for file in files:
                width, height = Image.open(file).size
                scores = torch.nn.functional.interpolate(self.model(self.read(file)[None]), (height, width), mode="bilinear")
                Image.fromarray(scores.argmax(1)[0].byte().numpy()).save(out / f"{file.stem}.png")


def step(repeats: int, folder: Path) -> dict[str, list[float]]:
    """One training step on a ready batch: forward, backward, optimizer."""
    data = eyes(folder, 16, SIZE)
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 3, *SIZE), torch.randint(0, CLASSES, (BATCH, *SIZE))

    def learner_step(learn) -> Callable[[], None]:
        learn.unfreeze()
        learn.create_opt()
        learn.model.train()

        def run() -> None:
            learn.loss_func(learn.model(x), y).backward()
            learn.opt.step()
            learn.opt.zero_grad()
        return run

    plain = PlainLoop()
    contestants = {"fastai unet_learner(resnet18)": learner_step(notebook_learner(data)),
                   "smp.Unet(resnet18) loop": lambda: plain.step(x, y),
                   "fastseg resnet18": learner_step(fastseg_learner(data)),
                   "fastseg default backbone": learner_step(fastseg_learner(data, "mobilenetv2_100"))}
    for run in contestants.values():  # the first step allocates
        run()
    return interleaved(contestants, repeats)


def epoch(repeats: int, folder: Path) -> dict[str, list[float]]:
    """A whole epoch over 96 images: decoding, augmentation, training, validation."""
    data = eyes(folder, 96)
    theirs, ours, plain = notebook_learner(data), fastseg_learner(data), PlainLoop(data)

    def one(learn) -> Callable[[], None]:
        def run() -> None:
            with learn.no_bar(), learn.no_logging():
                learn.fit(1, 1e-3)
        return run

    return interleaved({"fastai DataBlock + aug_transforms": one(theirs), "smp loop": plain.epoch, "fastseg": one(ours)}, repeats)


def predict(repeats: int, folder: Path) -> dict[str, list[float]]:
    """JPEG files to original-size PNG masks, seconds an image, at 640x480 and 816x816."""
    import fastseg
    small = eyes(folder / "train", 16, SIZE)
    theirs, plain = notebook_learner(small), PlainLoop()
    export = fastseg.save(fastseg_learner(small), folder / "export")
    seconds: dict[str, list[float]] = {}
    for size in ((480, 640), (816, 816)):
        files = sorted((eyes(folder / f"{size[1]}", 32, size) / "images").iterdir())
        out = folder / "out"
        out.mkdir(exist_ok=True)

        def one_by_one(files=files, out=out) -> None:
            with theirs.no_bar():
                for file in files[:8]:  # slow: an eighth of the images tell
                    mask = np.asarray(theirs.predict(file)[0], dtype=np.uint8)
                    Image.fromarray(mask).resize(Image.open(file).size, Image.NEAREST).save(out / f"{file.stem}.png")

        def batched(files=files, out=out) -> None:
            with theirs.no_bar():
                scores = theirs.get_preds(dl=theirs.dls.test_dl(files))[0]
            for file, score in zip(files, scores):
                mask = torch.as_tensor(score).argmax(0).byte().numpy()
                Image.fromarray(mask).resize(Image.open(file).size, Image.NEAREST).save(out / f"{file.stem}.png")

        contestants = {"fastai learn.predict loop": one_by_one, "fastai get_preds": batched,
                       "smp loop": lambda files=files, out=out: plain.predict(files, out),
                       "fastseg": lambda files=files, out=out: fastseg.predict("eye", files, out, export=export)}
        for name, times in interleaved(contestants, repeats).items():
            count = 8 if "predict loop" in name else len(files)
            seconds[f"{name}, {size[1]}x{size[0]}"] = [t / count for t in times]
    return seconds


def startup(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Cold starts, each in a fresh process."""
    import fastseg
    small = eyes(folder / "train", 16, SIZE)
    export = fastseg.save(fastseg_learner(small), folder / "export")
    image = next((small / "images").iterdir())

    def process(*arguments: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=folder, check=True, capture_output=True)

    return interleaved({"import fastai.vision.all": process("-c", "import fastai.vision.all"),
                        "fastseg predict, one image": process("-m", "fastseg", "predict", "eye", str(image), "--export", str(export)),
                        "fastseg tasks": process("-m", "fastseg", "tasks"), "fastseg --help": process("-m", "fastseg", "--help")}, repeats)


SECTIONS = {"step": step, "epoch": epoch, "predict": predict, "startup": startup}


def table(name: str, seconds: dict[str, list[float]]) -> list[dict]:
    """Print and return one row a contestant: median, spread, and how many times slower than the fastest fastseg line it is."""
    rows = []
    for label, times in seconds.items():
        size = label.rpartition(", ")[2] if name == "predict" else ""
        ours = [statistics.median(t) for other, t in seconds.items() if other.startswith("fastseg") and other.endswith(size)]
        median = statistics.median(times)
        rows.append({"section": name, "contestant": label, "median_s": median, "min_s": min(times), "max_s": max(times),
                     "times_fastseg": median / ours[0] if ours and name != "startup" else None})
        ratio = f"{rows[-1]['times_fastseg']:8.2f}x" if rows[-1]["times_fastseg"] else ""
        print(f"{name:8} {label:42} {median:9.4f} s  ({min(times):.4f} to {max(times):.4f}) {ratio}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows and the machine's description here")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    description = machine()
    print(json.dumps(description))
    rows = []
    for name in arguments.sections:
        with tempfile.TemporaryDirectory() as folder:
            rows += table(name, SECTIONS[name](arguments.repeats, Path(folder)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": description, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

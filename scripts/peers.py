"""The benchmark's contestants: fastai's notebook, loops with smp, ultralytics."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# Real data, if any
SHARED = Path(os.environ.get("FASTSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def mask_of(path: Path) -> Path:
    """Return the mask's path of an image: the label function of the notebook."""
    return path.parents[1] / "masks" / f"{path.stem}.png"


def notebook_learner(data: Path, size: int = 256, batch: int = 8, device: str = "cpu"):
    """Build what fastai's documentation shows: DataBlock, aug_transforms, unet_learner."""
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

    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=list("abcd"))),
        get_items=get_image_files,
        get_y=mask_of,
        splitter=RandomSplitter(seed=42),
        item_tfms=Resize(size),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
    )
    return unet_learner(
        block.dataloaders(data / "images", bs=batch, device=torch.device(device)),
        resnet18,
        pretrained=False,
    )


def notebook_predict(learn, files: list[Path], out: Path) -> None:
    """`learn.predict` in a loop, masks resized to their images' sizes and saved."""
    with learn.no_bar():
        for file in files:
            mask = np.asarray(learn.predict(file)[0], dtype=np.uint8)
            Image.fromarray(mask).resize(Image.open(file).size, Image.NEAREST).save(
                out / f"{file.stem}.png"
            )


def notebook_get_preds(learn, files: list[Path], out: Path) -> None:
    """`learn.get_preds` over all files at once, then resized and saved."""
    with learn.no_bar():
        scores = learn.get_preds(dl=learn.dls.test_dl(files))[0]
    for file, score in zip(files, scores):
        mask = torch.as_tensor(score).argmax(0).byte().numpy()
        Image.fromarray(mask).resize(Image.open(file).size, Image.NEAREST).save(
            out / f"{file.stem}.png"
        )


class PlainLoop:
    """A plain PyTorch loop over segmentation_models_pytorch in float32, as its README shows it.

    `weights` is a .safetensors file for the encoder, which is a timm backbone then. The loss is
    Dice + cross-entropy. Files are read by a DataLoader.
    """

    def __init__(
        self,
        data: Path | None = None,
        size: tuple[int, int] = (256, 256),
        arch: str = "resnet18",
        classes: int = 4,
        weights: Path | None = None,
        device: str = "cpu",
        batch: int = 8,
    ):
        import segmentation_models_pytorch as smp

        self.size, self.data, self.device, self.batch = size, data, device, batch
        self.model = smp.Unet(arch, encoder_weights=None, classes=classes).to(device)
        if weights:
            from safetensors.torch import load_file

            state = {f"model.{name}": value for name, value in load_file(weights).items()}
            missing = self.model.encoder.load_state_dict(state, strict=False).missing_keys
            assert not missing, missing
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=255)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores, float32 (B, C, H, W)."""
        return self.model(x)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One training step."""
        self.model.train()
        scores = self.scores(x)
        loss = torch.nn.functional.cross_entropy(scores, y, ignore_index=255) + self.dice(scores, y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def read(self, path: Path) -> torch.Tensor:
        """Return an image at the model's size, normalised."""
        image = Image.open(path).convert("RGB").resize(self.size[::-1], Image.BILINEAR)
        return (
            torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255 - MEAN
        ) / STD

    def pair(self, path: Path, flip: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an image and its codes at the model's size, mirrored half of the time."""
        mask = np.asarray(Image.open(mask_of(path)))
        mask = Image.fromarray(mask[..., 0] if mask.ndim == 3 else mask).resize(
            self.size[::-1], Image.NEAREST
        )
        x, y = self.read(path), torch.from_numpy(np.asarray(mask).copy()).long()
        y[y > 3] = 255
        return (x.flip(-1), y.flip(-1)) if flip and torch.rand(()) < 0.5 else (x, y)

    def loader(self, files: list[Path], train: bool) -> torch.utils.data.DataLoader:
        """Return a DataLoader that reads the files again in each epoch."""

        class Pairs(torch.utils.data.Dataset):
            def __len__(_):
                return len(files)

            def __getitem__(_, i):
                return self.pair(files[i], train)

        return torch.utils.data.DataLoader(Pairs(), self.batch, shuffle=train, drop_last=train)

    def epoch(self, train: list[Path], valid: list[Path]) -> None:
        """Train over `train` once, then compute the loss over `valid`."""
        for x, y in self.loader(train, True):
            self.step(x.to(self.device), y.to(self.device))
        self.model.eval()
        with torch.inference_mode():
            for x, y in self.loader(valid, False):
                torch.nn.functional.cross_entropy(
                    self.scores(x.to(self.device)), y.to(self.device), ignore_index=255
                )

    def fit(
        self,
        train: list[Path],
        valid: list[Path],
        epochs: int,
        lr: float,
        score: Callable[[PlainLoop], float],
    ) -> list[tuple[float, float]]:
        """Train by one-cycle; return (seconds without scoring, score) after each epoch."""
        steps = max(1, len(train) // self.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=steps * epochs
        )
        spent, reached = 0.0, []
        for _ in range(epochs):
            start = time.perf_counter()
            for x, y in self.loader(train, True):
                self.step(x.to(self.device), y.to(self.device))
                schedule.step()
            spent += time.perf_counter() - start
            reached.append((spent, score(self)))
        return reached

    def mask(self, path: Path) -> np.ndarray:
        """Return an image's codes at its own size."""
        self.model.eval()
        with torch.inference_mode():
            width, height = Image.open(path).size
            scores = torch.nn.functional.interpolate(
                self.scores(self.read(path)[None].to(self.device)), (height, width), mode="bilinear"
            )
            return scores.argmax(1)[0].byte().cpu().numpy()

    def predict(self, files: list[Path], out: Path) -> None:
        """Write a mask for each file, one after the other."""
        for file in files:
            Image.fromarray(self.mask(file)).save(out / f"{file.stem}.png")


class CarefulLoop(PlainLoop):
    """The same loop by somebody who knows PyTorch: channels last, bfloat16 if that is faster here,
    a fused optimizer; prediction in batches, with threads that read, resize and write. With
    `compiled`, torch.compile compiles the network, which needs a C++ compiler on a CPU.
    """

    def __init__(self, *given: Any, compiled: bool = False, **options: Any):
        super().__init__(*given, **options)
        self.kind = torch.device(self.device).type
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.half = False
        self.half = self._is_half_faster()
        if compiled:
            self.model.compile()

    def _is_half_faster(self) -> bool:
        x = torch.randn(self.batch, 3, *self.size, device=self.device)
        seconds = []
        for self.half in (False, True):
            self.scores(x)
            start = time.perf_counter()
            for _ in range(3):
                self.scores(x)[0, 0, 0, 0].item()  # on a GPU, it waits for the result
            seconds.append(time.perf_counter() - start)
        return seconds[1] < seconds[0]

    @property
    def text(self) -> str:
        """What it does, in short."""
        return f"{'bfloat16' if self.half else 'float32'}, channels last"

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.half):
            return self.model(x.contiguous(memory_format=torch.channels_last)).float()

    def predict(self, files: list[Path], out: Path) -> None:
        """Write a mask for each file, in batches."""
        self.model.eval()

        def write(file: Path, scores: torch.Tensor) -> None:
            width, height = Image.open(file).size
            large = torch.nn.functional.interpolate(scores[None], (height, width), mode="bilinear")
            codes = large.argmax(1)[0].byte().numpy()
            Image.fromarray(codes).save(out / f"{file.stem}.png", compress_level=1)

        with ThreadPoolExecutor(os.cpu_count()) as threads, torch.inference_mode():
            written = []
            for pixels, names in self._batches(files, threads):
                scores = self.scores(pixels.to(self.device)).cpu()
                written += [threads.submit(write, *pair) for pair in zip(names, scores)]
            for one in written:
                one.result()

    def _batches(
        self, files: list[Path], threads: ThreadPoolExecutor
    ) -> Iterator[tuple[torch.Tensor, list[Path]]]:
        """Yield batches of images; the next one is read meanwhile."""
        parts = [files[at : at + self.batch] for at in range(0, len(files), self.batch)]
        ahead = deque([threads.submit(self.read, file) for file in part] for part in parts[:2])
        for at, part in enumerate(parts):
            pixels = torch.stack([one.result() for one in ahead.popleft()])
            if at + 2 < len(parts):
                ahead.append([threads.submit(self.read, file) for file in parts[at + 2]])
            yield pixels, part


def has_ultralytics() -> bool:
    """Return whether ultralytics with its semantic task is installed. Its licence is AGPL-3.0, so
    it is no dependency of anything here: install it to compare.
    """
    try:
        from ultralytics.models.yolo import semantic  # noqa: F401
    except ImportError:
        return False
    return True


class Ultralytics:
    """Ultralytics' smallest network for semantic segmentation, by its own training and prediction.

    The weights are random: pretrained ones are fetched from where not everybody can.
    """

    def __init__(self, folder: Path, size: int = 256, classes: int = 4):
        import yaml
        from ultralytics import YOLO
        from ultralytics.cfg import __file__ as configuration

        folder.mkdir(parents=True, exist_ok=True)
        network = yaml.safe_load(
            (Path(configuration).parent / "models/26/yolo26-sem.yaml").read_text()
        )
        path = folder / "yolo26n-sem.yaml"
        path.write_text(yaml.safe_dump({**network, "nc": classes, "scale": "n"}))
        self.folder, self.size, self.classes = folder, size, classes
        self.model = YOLO(str(path), task="semantic")

    def fit(self, data: Path, seconds: float) -> int:
        """Train on data/images and data/masks for so long; return the number of epochs."""
        import yaml

        names = {code: f"class {code}" for code in range(self.classes)}
        unlabelled = {code: "ignore_label" for code in range(self.classes, 256)}
        described = {"path": str(data), "train": "images", "val": "images", "masks_dir": "masks"}
        path = self.folder / "data.yaml"
        path.write_text(yaml.safe_dump({**described, "names": names, "label_mapping": unlabelled}))
        self.model.train(
            data=str(path),
            time=seconds / 3600,
            imgsz=self.size,
            batch=8,
            val=False,
            plots=False,
            device="cpu",
            workers=0,
            cache="ram",
            project=str(self.folder),
            verbose=False,
        )
        return self.model.trainer.epoch + 1

    def mask(self, path: Path) -> np.ndarray:
        """Return an image's codes at its own size."""
        (result,) = self.model.predict(str(path), imgsz=self.size, verbose=False)
        return np.asarray(result.semantic_mask.data.cpu(), dtype=np.uint8).squeeze()

    def predict(self, files: list[Path], out: Path) -> None:
        """Write a mask for each file."""
        names = [str(file) for file in files]
        results = self.model.predict(names, imgsz=self.size, batch=8, stream=True, verbose=False)
        for result, file in zip(results, files):
            codes = np.asarray(result.semantic_mask.data.cpu(), dtype=np.uint8).squeeze()
            Image.fromarray(codes).save(out / f"{file.stem}.png", compress_level=1)

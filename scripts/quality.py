"""Sections of the benchmark that measure quality: scores on data not used in training."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import peers
from peers import SHARED
from scipy import ndimage

import fastseg

WEIGHTS = SHARED / "weights" / "mobilenetv2_100.safetensors"
BATCH = 8
SIGMAS = (0.0, 0.5, 0.75, 1.0, 1.5)  # px


def quality(repeats: int, folder: Path, budget: float = 300.0) -> dict[str, list[float]]:
    """Mean foreground IoU on held-out photographs at original size, after equal training time.

    Each contestant trains for `budget` seconds. A fifth of the photographs (synthetic eyes where
    the real data are absent) is held out by a fixed seed. All start from the same ImageNet weights,
    or from random ones where the file is absent.
    """
    from fastseg.metrics import figures

    task, source = fastseg.tasks.get("eye"), SHARED / "data" / "eye"
    items = [
        i
        for i in task.items(source if source.is_dir() else task.sample(folder / "synthetic", n=100))
        if not source.is_dir() or i.image.stem.startswith("r")
    ]
    held_out = {i.image for i in random.Random(0).sample(items, len(items) // 5)}
    weights = WEIGHTS if WEIGHTS.is_file() else None
    for item in items:  # held-out photographs are nowhere below the training folder
        for kind, path in (("images", item.image), ("masks", item.label)):
            target = folder / ("test" if item.image in held_out else "train") / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    tests = task.items(folder / "test")

    def score(predicted: Callable[[Path], np.ndarray]) -> float:
        counts = sum(
            figures.confusion(task.label(item), predicted(item.image), len(task.classes))
            for item in tests
        )
        return float(figures.mean(figures.per_class(counts)["iou"], task.background))

    files = sorted((folder / "train" / "images").iterdir())
    scores: dict[str, list[float]] = {"smp loop": [], "fastseg": []}
    for _ in range(repeats):
        if peers.has_ultralytics():
            from_random_weights(scores, folder, budget, score)
        plain = peers.PlainLoop(folder / "train", (240, 320), "tu-mobilenetv2_100", weights=weights)
        x, y = next(iter(plain.loader(files, True)))
        plain.step(x, y)
        start = time.perf_counter()
        plain.step(x, y)
        seconds = (time.perf_counter() - start) * (len(files) // BATCH) * 1.05
        reached = plain.fit(files, files, max(1, int(budget / seconds)), 2e-3, lambda loop: 0.0)
        scores["smp loop"].append(score(plain.mask))
        print(
            f"smp loop: {len(reached)} epochs in {reached[-1][0]:.0f} s, "
            f"IoU {scores['smp loop'][-1]:.4f}",
            flush=True,
        )
        result = fastseg.fit(
            "eye",
            folder / "train",
            weights=weights or "none",
            time_budget=budget,
            out=folder / "export",
        )
        scores["fastseg"].append(score(partial(codes_of, fastseg.load(folder / "export"))))
        print(
            f"fastseg: {len(result['history'])} epochs in {result['seconds']:.0f} s, "
            f"IoU {scores['fastseg'][-1]:.4f}",
            flush=True,
        )
    return scores


def from_random_weights(
    scores: dict[str, list[float]],
    folder: Path,
    budget: float,
    score: Callable[[Callable[[Path], np.ndarray]], float],
) -> None:
    """Add ultralytics' score after training for `budget` seconds, and fastseg's beside it, both
    from random weights.
    """
    yolo = peers.Ultralytics(folder / "ultralytics", 320)
    count = yolo.fit(folder / "train", budget)
    scores.setdefault("ultralytics, random weights", []).append(score(yolo.mask))
    export = folder / "random"
    result = fastseg.fit("eye", folder / "train", weights="none", time_budget=budget, out=export)
    ours = score(partial(codes_of, fastseg.load(export)))
    scores.setdefault("fastseg, random weights", []).append(ours)
    print(f"ultralytics: {count} epochs; fastseg: {len(result['history'])} epochs", flush=True)


def codes_of(predictor, path: Path) -> np.ndarray:
    """Return the codes that a fastseg predictor gives an image."""
    return predictor.predict(path).codes


def blur(repeats: int, folder: Path, folds: int = 5) -> dict[str, list[float]]:
    """Share of sharp slices called blurred after a Gaussian blur of sigma px; at 0, false alarms.

    Each slice is judged by the learner of the fold that held it out, trained by the task's recipe.
    The peer calls a slice blurred if the variance of its Laplacian is below the threshold that is
    most often right on the fold's training slices (Pech-Pacheco et al., ICPR 2000).
    """
    from fastseg.learners.options import FitOptions
    from fastseg.training.loop import train

    task, source = fastseg.tasks.get("mri"), SHARED / "data" / "mri"
    data = source if source.is_dir() else task.sample(folder / "mri", n=60)
    items = task.items(data)
    found: dict[str, list[float]] = {
        f"{who}, sigma {sigma}": []
        for sigma in SIGMAS
        for who in ("variance of Laplacian", "fastseg")
    }
    right, seconds = {"variance of Laplacian": 0, "fastseg": 0}, []
    for number in range(folds):
        start = time.perf_counter()
        learn = fastseg.learner(
            "mri", data, weights=WEIGHTS if WEIGHTS.is_file() else "none", fold=(number, folds)
        )
        train(learn, FitOptions())
        seconds.append(time.perf_counter() - start)
        predictor = fastseg.load(fastseg.save(learn, folder / f"fold_{number}"))
        parts = [[items[i] for i in part] for part in task.fold(items, number, folds)]
        variances, labels = (
            np.array([f(item) for item in parts[0]])
            for f in (lambda i: laplacian(task.image(i)), task.label)
        )
        threshold = max(variances, key=lambda t: ((variances >= t) == labels).mean())
        right["fastseg"] += sum(
            p.index == task.label(item) for item, p in predictor.stream(parts[1])
        )
        right["variance of Laplacian"] += sum(
            (laplacian(task.image(item)) >= threshold) == task.label(item) for item in parts[1]
        )
        sharp = [task.image(item) for item in parts[1] if task.label(item) == 1]
        for sigma in SIGMAS:
            images = [ndimage.gaussian_filter(image, (sigma, sigma, 0)) for image in sharp]
            found[f"fastseg, sigma {sigma}"] += [p.index == 0 for _, p in predictor.stream(images)]
            found[f"variance of Laplacian, sigma {sigma}"] += [
                laplacian(image) < threshold for image in images
            ]
    for who, count in right.items():
        print(f"{who}: {count} of {len(items)} right over {folds} folds", flush=True)
    print(f"seconds a fold: {', '.join(f'{s:.0f}' for s in seconds)}", flush=True)
    return {name: [float(np.mean(values))] for name, values in found.items()}


def laplacian(image: np.ndarray) -> float:
    """Return the variance of the Laplacian of a uint8 image (H, W, 3)."""
    return float(ndimage.laplace(image[..., 0].astype(np.float32)).var())

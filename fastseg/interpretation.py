"""Where a learner is right and wrong: one pass over its validation images, written as pictures and one page."""
from __future__ import annotations

import csv
import heapq
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from . import plots
from .bundle import find, load
from .card import Card
from .evaluation import items_of, measure
from .files import atomic_file, name_below
from .masks import IGNORE
from .prediction import Prediction
from .report import write_report
from .tasks import Item, Task

SHOWN = 6  # images in each gallery


@dataclass
class Interpretation:
    """What `interpret` found: metrics, each image's loss, and the files written."""

    task: Task
    card: Card
    folder: Path
    metrics: dict
    losses: dict[str, float] = field(default_factory=dict)  # image, relative to the data -> mean cross-entropy in nats
    files: list[Path] = field(default_factory=list)

    def most_confused(self, min_share: float = 0.0) -> list[tuple[str, str, float]]:
        """Return (true class, predicted class, share of the true class), most confused first."""
        counts = np.array(self.metrics["confusion"], dtype=float)
        shares = counts / np.clip(counts.sum(axis=1, keepdims=True), 1, None)
        pairs = [(self.task.classes[t], self.task.classes[p], float(shares[t, p]))
                 for t, p in np.ndindex(*shares.shape) if t != p and shares[t, p] > min_share]
        return sorted(pairs, key=lambda pair: -pair[2])


def interpret(task: str | Task | None = None, data: Path | str | None = None, *, export: Path | str | None = None,
              out: Path | str | None = None, split: str = "valid", device: str | None = None, bs: int = 8) -> Interpretation:
    """Show where an export (default: the newest) is right and wrong on the images that its training held out.

    Writes show_results.png, top_losses.png, confusion_matrix.png, per_class.png and report.html into `out`, by default the
    export's folder. Memory does not grow with the number of images. Raises `FastsegError` kinds.
    """
    folder = find(task, export)
    predictor = load(folder, device)
    task, card = predictor.task, predictor.card
    items, root = items_of(card, task, data, split)
    out = Path(out) if out else folder
    first: list[list[plots.Panel]] = []
    worst: list[tuple[float, int, list[plots.Panel]]] = []
    losses: dict[str, float] = {}
    order = count()

    def visit(item: Item, prediction: Prediction, truth) -> None:
        loss = cross_entropy(prediction.probabilities, truth)
        name = name_below(root, item.image)
        losses[name] = loss
        is_first = len(first) < SHOWN * (4 if task.kind == "classify" else 1)
        is_worst = len(worst) < SHOWN * (2 if task.kind == "classify" else 1) or loss > worst[0][0]
        if not (is_first or is_worst):  # drawing takes longer than predicting
            return
        panels = plots.prediction_panels(task, prediction.image, truth, prediction, item.image.name)
        if is_first:
            first.append(panels)
        if is_worst:
            panels = [plots.Panel(panels[0].pixels, f"{panels[0].title}, loss {loss:.3f}"), *panels[1:]]
            heapq.heappush(worst, (loss, next(order), panels))
        if len(worst) > SHOWN * (2 if task.kind == "classify" else 1):
            heapq.heappop(worst)

    result = measure(predictor, items, bs, visit)
    worst_rows = [panels for _, _, panels in sorted(worst, key=lambda entry: -entry[0])]
    unit = "pixels" if task.kind == "segment" else "images"
    keys = ("precision", "recall", "iou", "dice") if task.kind == "segment" else ("precision", "recall", "f1")
    pictures = [
        plots.grid(_arranged(first, task), out / "show_results.png", task, f"{task.name}: results on images held out from training"),
        plots.grid(_arranged(worst_rows, task), out / "top_losses.png", task, f"{task.name}: images with the highest loss"),
        plots.confusion(result["confusion"], task.classes, out / "confusion_matrix.png", unit),
        plots.bars(result["classes"], keys, out / "per_class.png", f"{task.name}: scores of each class over {len(items)} images"),
    ]
    listing = _write_losses(losses, out / "losses.csv")
    curve = folder / "loss_curve.png"
    page = write_report(task, card, result, losses, [*pictures, *([curve] if curve.is_file() else [])], out / "report.html")
    return Interpretation(task, card, folder, result, losses, [*pictures, listing, page])


def cross_entropy(probabilities: np.ndarray, truth: np.ndarray | int) -> float:
    """Return the mean -log p(true class) in nats over labelled pixels; `probabilities` is float (C, H, W) or (C,)."""
    if isinstance(truth, int):
        return float(-np.log(np.clip(probabilities[truth], 1e-7, 1)))
    labelled = truth != IGNORE
    if not labelled.any():
        return 0.0
    true = np.take_along_axis(probabilities, np.where(labelled, truth, 0)[None].astype(np.int64), axis=0)[0]
    return float(-np.log(np.clip(true[labelled], 1e-7, 1)).mean())


def _arranged(rows: list[list[plots.Panel]], task: Task) -> list[list[plots.Panel]]:
    if task.kind == "segment":
        return rows
    panels = [row[0] for row in rows]
    return [panels[i:i + 6] for i in range(0, len(panels), 6)]


def _write_losses(losses: dict[str, float], path: Path) -> Path:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "loss"])
        writer.writerows(sorted(losses.items(), key=lambda entry: -entry[1]))
    return path

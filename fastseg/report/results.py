"""Where a learner is right and wrong, and how far it can be trusted: pictures, tables and one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TaskError
from ..evaluation.run import items_of, judged, require_free
from ..evaluation.scores import SAMPLES, scores_of
from ..exports.card import Card
from ..exports.folder import find
from ..exports.read import card_of
from ..metrics import calibration
from ..metrics import figures as metrics
from ..metrics.risk import ERROR_RATE, review_threshold
from ..tasks import Item, Task, get
from ..types import IGNORE
from ..utils.choices import check_engine
from ..utils.io import name_below, write_rows
from . import charts, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .label_issues import Suspicion

SHOWN = 4  # images in each of best, median and worst
DRAWN = 2  # of them, in show_results.png, where an image is a row of panels
LISTED = 30  # suspected labels, and images that need review, on the page


@dataclass
class Insight:
    """One image, as the pass over all of them saw it."""

    item: Item
    name: str  # relative to the data
    size: tuple[int, int]  # (height, width) in px
    loss: float  # mean cross-entropy in nats
    error: float  # 1 - foreground Dice of all classes pooled; for classification 0 or 1
    expected_error: float  # what its own probabilities lead one to expect
    confidence: float  # mean probability of the predicted class
    entropy: float  # mean, in nats
    suspicion: Suspicion


@dataclass
class Interpretation:
    """What `interpret` found. Figures are drawn when asked for, by methods named as in fastai's Interpretation classes."""

    task: Task
    card: Card
    folder: Path
    metrics: dict  # as `evaluate` returns them, with intervals
    images: list[Insight]
    reliability: (
        np.ndarray
    )  # float64 (15, 3), see `metrics.calibration.reliability`: of pixels, or of images
    predictor: Predictor
    files: list[Path] = field(default_factory=list)

    @property
    def losses(self) -> dict[str, float]:
        """Each image's mean cross-entropy in nats, by its name relative to the data."""
        return {image.name: image.loss for image in self.images}

    @property
    def unit(self) -> str:
        """What is counted: pixels or images."""
        return self.task.unit

    @property
    def calibration_error(self) -> float:
        """The expected calibration error of the calibrated probabilities."""
        return float(calibration.calibration_error(self.reliability))

    def most_confused(self, min_share: float = 0.0) -> list[tuple[str, str, float]]:
        """Return (true class, predicted class, share of the true class), most confused first."""
        counts = np.array(self.metrics["confusion"], dtype=float)
        shares = counts / np.clip(counts.sum(axis=1, keepdims=True), 1, None)
        pairs = [
            (self.task.classes[t], self.task.classes[p], float(shares[t, p]))
            for t, p in np.ndindex(*shares.shape)
            if t != p and shares[t, p] > min_share
        ]
        return sorted(pairs, key=lambda pair: -pair[2])

    def top_losses(self, k: int | None = None) -> list[Insight]:
        """Return the images with the highest loss, highest first."""
        return sorted(self.images, key=lambda image: -image.loss)[:k]

    def ranked(self) -> dict[str, list[Insight]]:
        """Return the best, the median and the worst images, by error and then by loss."""
        order = sorted(self.images, key=lambda image: (image.error, image.loss))
        k = min(SHOWN, max(1, len(order) // 3))
        middle = max(0, (len(order) - k) // 2)
        return {"best": order[:k], "median": order[middle : middle + k], "worst": order[::-1][:k]}

    def suspects(self) -> list[Insight]:
        """Return all images, the most suspect label first."""
        return sorted(self.images, key=lambda image: image.suspicion.quality)

    def needing_review(self, error_rate: float = ERROR_RATE) -> list[Insight]:
        """Return the images that a person should look at, the most doubtful first (see `metrics.risk.thresholds`)."""
        threshold = review_threshold(self.card.review, error_rate)
        if threshold is None:
            return []
        return sorted(
            (i for i in self.images if i.expected_error > threshold),
            key=lambda image: -image.expected_error,
        )

    def predicted(
        self, images: Sequence[Insight]
    ) -> list[tuple[Insight, Prediction, np.ndarray | int]]:
        """Return (image, its prediction, its truth) of a few images, predicted again."""
        found = self.predictor.stream([image.item for image in images], 4)
        return [
            (image, prediction, self.task.label(image.item))
            for image, (_, prediction) in zip(images, found)
        ]

    def plot_confusion_matrix(self) -> Figure:
        """Draw the confusion matrix, of pixels for segmentation."""
        return charts.confusion(self.metrics["confusion"], self.task.classes, self.unit)

    def plot_top_losses(self, k: int = 6) -> Figure:
        """Draw the `k` images with the highest loss: image, truth, prediction and errors. Raises `TaskError` for no image."""
        if k < 1:
            raise TaskError(f"{k} images make no picture; ask for 1 or more", "picture-count")
        return self._grid(
            self.top_losses(k),
            "images with the highest loss",
            lambda image: f"loss {image.loss:.3f}",
        )

    def plot_results(self) -> Figure:
        """Draw the best, median and worst images."""
        is_segmented = self.task.kind == "segment"
        groups = {
            name: images[:DRAWN] if is_segmented else images
            for name, images in self.ranked().items()
        }
        place = {image.name: name for name, images in groups.items() for image in images}
        return self._grid(
            [image for images in groups.values() for image in images],
            "best, median and worst images",
            lambda image: (
                f"{place[image.name]}, {f'error {image.error:.3f}' if is_segmented else f'loss {image.loss:.3f}'}"
            ),
        )

    def plot_per_class(self) -> Figure:
        """Draw the scores of each class with their intervals."""
        keys = (
            ("precision", "recall", "iou", "dice", "boundary_f1")
            if self.task.kind == "segment"
            else ("precision", "recall", "f1")
        )
        return charts.bars(
            self.metrics["classes"],
            keys,
            f"{self.task.name}: each class over {len(self.images)} images, 95% intervals",
            self.metrics["intervals"]["classes"],
            {key: metrics.FIGURES[key][0] for key in keys},
        )

    def plot_reliability(self) -> Figure:
        """Draw how often predictions of each confidence are right."""
        return charts.reliability(self.reliability, self.calibration_error, self.unit)

    def _grid(self, images: Sequence[Insight], title: str, caption) -> Figure:
        rows = []
        for image, prediction, truth in self.predicted(images):
            first, *others = panels.prediction_panels(
                self.task, prediction.image, truth, prediction, image.item.image.name
            )
            rows.append([replace(first, title=f"{first.title}\n{caption(image)}"), *others])
        if self.task.kind != "segment":
            rows = [[row[0] for row in rows[i : i + 4]] for i in range(0, len(rows), 4)]
        return panels.grid(rows, self.task, f"{self.task.name}: {title}", errors=True)


def interpret(
    task: str | Task | None = None,
    data: Path | str | None = None,
    *,
    export: Path | str | None = None,
    out: Path | str | None = None,
    split: str = "valid",
    device: str | None = None,
    bs: int = 4,
    engine: str = "auto",
    precision: str | None = None,
) -> Interpretation:
    """Show where an export (default: the newest) is right and wrong on the images that its training held out.

    Writes into `out`, by default the export's folder: report.html; show_results.png (best, median and worst images),
    top_losses.png, confusion_matrix.png, per_class.png and reliability.png, no side longer than 2400 px; images.csv, with loss,
    error, expected error, confidence, entropy and the review flag of each image, and suspects.csv, suspected label errors first.
    Memory grows by a few hundred bytes an image. `engine` and `precision` are as for `fastseg.load`. Raises `FastsegError` kinds.
    """
    check_engine(engine, precision)
    folder = find(task, export)
    card = card_of(folder)
    items, root = items_of(card, get(card.task), data, split)
    out = Path(out) if out else folder
    require_free(out, items, root)
    from ..inference.loading import load

    predictor = load(folder, device, engine=engine, precision=precision, images=len(items), bs=bs)
    predictor.adapt(items)
    task = predictor.task
    from .page import write_report

    bins, scores, images = np.zeros((calibration.BINS, 3)), scores_of(task), []
    for score, (insight, table) in judged(
        predictor, items, root, bs, lambda *seen: _insight(task, root, *seen)
    ):
        scores.images.append(score)
        insight.error = scores.error(score)
        images.append(insight)
        bins += table
    found = Interpretation(task, card, folder, scores.metrics(SAMPLES), images, bins, predictor)
    figures = {
        "show_results": found.plot_results,
        "top_losses": found.plot_top_losses,
        "confusion_matrix": found.plot_confusion_matrix,
        "per_class": found.plot_per_class,
        "reliability": found.plot_reliability,
    }
    found.files = [
        panels.write(draw(), out / f"{name}.png", panels.PRINT_DPI)
        for name, draw in figures.items()
    ]
    review = {image.name for image in found.needing_review()}
    found.files.append(
        write_rows(
            out / "images.csv",
            (
                {
                    "image": i.name,
                    "loss": i.loss,
                    "error": i.error,
                    "expected_error": i.expected_error,
                    "confidence": i.confidence,
                    "entropy": i.entropy,
                    "needs_review": i.name in review if card.review else "",
                }
                for i in found.top_losses()
            ),
        )
    )
    found.files.append(
        write_rows(
            out / "suspects.csv",
            (
                {"rank": rank, "image": i.name, **_flat(i.suspicion)}
                for rank, i in enumerate(found.suspects(), 1)
            ),
        )
    )
    found.files.append(write_report(found, root, split, out / "report.html"))
    return found


def _insight(
    task: Task, root: Path, item: Item, prediction: Prediction, truth: np.ndarray | int
) -> tuple[Insight, np.ndarray]:
    """Return what is kept of one image, and its table of how often each confidence is right."""
    from .label_issues import of_image  # not at the top: cleanlab brings pandas and scikit-learn

    probabilities = prediction.probabilities
    best, predicted = probabilities.max(0), prediction.labels
    known = np.asarray(truth) != IGNORE
    insight = Insight(
        item,
        name_below(root, item.image),
        prediction.size,
        cross_entropy(probabilities, truth),
        0.0,
        prediction.expected_error,
        float(best.mean()),
        float(-(probabilities * np.log(np.clip(probabilities, 1e-12, 1))).sum(0).mean()),
        of_image(probabilities, truth, task.classes, task.background),
    )
    return insight, calibration.reliability(best[known], np.asarray(predicted == truth)[known])


def cross_entropy(probabilities: np.ndarray, truth: np.ndarray | int) -> float:
    """Return the mean -log p(true class) in nats over labelled pixels; `probabilities` is float (C, H, W) or (C,)."""
    if isinstance(truth, int):
        return abs(float(np.log(np.clip(probabilities[truth], 1e-7, 1))))
    labelled = truth != IGNORE
    if not labelled.any():
        return 0.0
    true = np.take_along_axis(
        probabilities, np.where(labelled, truth, 0)[None].astype(np.int64), axis=0
    )[0]
    return abs(float(np.log(np.clip(true[labelled], 1e-7, 1)).mean()))


def _flat(suspicion: Suspicion) -> dict:
    values = asdict(suspicion)
    box = values.pop("box") or ("", "", "", "")
    return {**values, **dict(zip(("left", "top", "right", "bottom"), box))}

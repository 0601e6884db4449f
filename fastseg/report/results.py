"""`interpret`: where an export is right and wrong, and how far it can be trusted, in pictures,
tables and one page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TaskError
from ..evaluation.run import items_of, require_results_folder
from ..evaluation.scores import SAMPLES
from ..exports.cache import require_own
from ..exports.card import Card
from ..exports.read import opened
from ..metrics import calibration
from ..metrics import figures as metrics
from ..metrics.agreement import labelled_twice
from ..metrics.risk import ERROR_RATE, review_threshold
from ..tasks import Task
from ..utils.choices import check_runtime
from ..utils.io import write_rows
from . import charts, panels
from .analysis import Insight, analyse
from .views import View, view_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .label_issues import Suspicion

RANKED = 4  # images in each of best, median and worst


@dataclass
class Interpretation:
    """The result of `interpret`.

    Methods draw the figures; their names are those of fastai's Interpretation classes.
    """

    task: Task
    card: Card
    folder: Path
    metrics: dict[str, Any]  # as `evaluate` returns them, with intervals
    images: list[Insight]
    # float64 (15, 3), see `metrics.calibration.reliability`: of pixels, or of images
    reliability: np.ndarray
    predictor: Predictor
    # of pictures that the data has labelled twice, see `metrics.agreement`
    agreement: dict[str, Any] | None = None
    files: list[Path] = field(default_factory=list)

    @property
    def losses(self) -> dict[str, float]:
        """Each image's mean cross-entropy in nats, by its name relative to the data."""
        return {image.name: image.loss for image in self.images}

    @property
    def unit(self) -> str:
        """The unit of counts: pixels or images."""
        return self.task.unit

    @property
    def view(self) -> View:
        """The view of the task's images."""
        return view_of(self.task)

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
        k = min(RANKED, max(1, len(order) // 3))
        middle = max(0, (len(order) - k) // 2)
        return {"best": order[:k], "median": order[middle : middle + k], "worst": order[::-1][:k]}

    def suspects(self) -> list[Insight]:
        """Return all images, the most suspect label first."""
        return sorted(self.images, key=lambda image: image.suspicion.quality)

    def needing_review(self, error_rate: float = ERROR_RATE) -> list[Insight]:
        """Return the images that a person should look at, the most uncertain first (see
        `metrics.risk.thresholds`).
        """
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
        """Return (image, its prediction, its truth) of a few images, predicted again.

        Raises `DataError` if an image or its label can no longer be read.
        """
        found = self.predictor.stream_or_raise([image.item for image in images], 4)
        return [
            (image, prediction, self.task.label(image.item))
            for image, (_, prediction) in zip(images, found)
        ]

    def plot_confusion_matrix(self) -> Figure:
        """Draw the confusion matrix, of pixels for segmentation."""
        return charts.confusion(self.metrics["confusion"], self.task.classes, self.unit)

    def plot_top_losses(self, k: int = 6) -> Figure:
        """Draw the `k` images with the highest loss: image, truth, prediction and errors.

        Raises `TaskError` for no image.
        """
        if k < 1:
            raise TaskError(f"{k} images make no picture; ask for 1 or more", "picture-count")
        return self._grid(
            self.top_losses(k),
            "images with the highest loss",
            lambda image: f"loss {image.loss:.3f}",
        )

    def plot_results(self) -> Figure:
        """Draw the best, median and worst images."""
        view = self.view
        groups = {name: images[: view.ranked_images] for name, images in self.ranked().items()}
        place = {image.name: name for name, images in groups.items() for image in images}
        return self._grid(
            [image for images in groups.values() for image in images],
            "best, median and worst images",
            lambda image: f"{place[image.name]}, {view.caption(image)}",
        )

    def plot_per_class(self) -> Figure:
        """Draw the scores of each class with their intervals."""
        keys = self.view.class_figures
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

    def _grid(
        self, images: Sequence[Insight], title: str, caption: Callable[[Insight], str]
    ) -> Figure:
        view, examples = self.view, []
        for image, prediction, truth in self.predicted(images):
            first, *others = view.predicted(prediction, truth, image.item.image.name)
            examples.append([replace(first, title=f"{first.title}\n{caption(image)}"), *others])
        return view.grid(examples, f"{self.task.name}: {title}", errors=True)


def interpret(
    task: str | Task | None = None,
    data: Path | str | None = None,
    *,
    export: Path | str | None = None,
    out: Path | str | None = None,
    split: str = "valid",
    device: str | None = None,
    bs: int = 4,
    runtime: str = "auto",
    precision: str | None = None,
) -> Interpretation:
    """Show where an export (default: the newest) is right and wrong on the images that its training
    held out.

    Writes into `out`, by default the export's folder: report.html; show_results.png (best, median
    and worst images), top_losses.png, confusion_matrix.png, per_class.png and reliability.png, no
    side longer than 2400 px; images.csv, with loss, error, expected error, confidence, entropy and
    the review flag of each image, and suspects.csv, suspected label errors first. Memory grows by a
    few hundred bytes an image. `runtime` and `precision` are as for `fastseg.load`. Raises
    `FastsegError` kinds.
    """
    check_runtime(runtime, precision)
    task, folder, card = opened(task, export)
    items, root = items_of(card, task, data, split)
    out = Path(
        out or require_own(folder, "the report is not written there; choose a folder with --out")
    )
    require_results_folder(out, items, root, task)
    from ..inference.loading import load

    predictor = load(folder, device, runtime=runtime, precision=precision, images=len(items), bs=bs)
    predictor.adapt(items)
    from .page import write_report

    agreement = labelled_twice(task, task.items(root))
    analysis = analyse(predictor, items, root, bs)
    found = Interpretation(
        predictor.task,
        card,
        folder,
        analysis.scores.metrics(SAMPLES),
        analysis.images,
        analysis.reliability,
        predictor,
        agreement,
    )
    found.files = [
        *_write_pictures(found, out),
        *_write_tables(found, out),
        write_report(found, root, split, out / "report.html"),
    ]
    return found


def _write_pictures(found: Interpretation, out: Path) -> list[Path]:
    pictures = {
        "show_results": found.plot_results,
        "top_losses": found.plot_top_losses,
        "confusion_matrix": found.plot_confusion_matrix,
        "per_class": found.plot_per_class,
        "reliability": found.plot_reliability,
    }
    return [
        panels.write_png(draw(), out / f"{name}.png", panels.PRINT_DPI)
        for name, draw in pictures.items()
    ]


def _write_tables(found: Interpretation, out: Path) -> list[Path]:
    """Write images.csv and suspects.csv."""
    review = {image.name for image in found.needing_review()}
    images = (
        {
            "image": image.name,
            "loss": image.loss,
            "error": image.error,
            "expected_error": image.expected_error,
            "confidence": image.confidence,
            "entropy": image.entropy,
            "needs_review": image.name in review if found.card.review else "",
        }
        for image in found.top_losses()
    )
    suspects = (
        {"rank": rank, "image": image.name, **_suspicion_columns(image.suspicion)}
        for rank, image in enumerate(found.suspects(), 1)
    )
    return [write_rows(out / "images.csv", images), write_rows(out / "suspects.csv", suspects)]


def _suspicion_columns(suspicion: Suspicion) -> dict[str, object]:
    values = asdict(suspicion)
    box = values.pop("box") or ("", "", "", "")
    return {**values, **dict(zip(("left", "top", "right", "bottom"), box))}

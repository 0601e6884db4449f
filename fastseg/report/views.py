"""How the images of one kind of task are shown: in grids, on the browse page, and in the report.

`view_of` returns the view of a task. Pixels and colours come from `painting`, layout from `panels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ..data.images import UNLABELLED_COLOUR, codes_to_colours
from ..tasks import ClassificationTask, Item, SegmentationTask, Task
from ..types import IGNORE, Colour
from . import painting
from .html import jpeg, layer
from .panels import Panel, grid, short, shrink

if TYPE_CHECKING:
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from .analysis import Insight

Label = np.ndarray | int  # codes, uint8 (H, W), or a class index

EVIDENCE_IMAGES = 2  # segmentation: median and worst images with evidence maps in the report
EVIDENCE_CLASSES = 4  # foreground classes with an evidence map, for each of these images


class View(ABC):
    """How images, labels and predictions of a task are shown."""

    examples_in_row: int  # in a grid
    ranked_images: int  # of the best, median and worst images, in show_results.png
    class_figures: tuple[str, ...]  # in per_class.png; keys of `metrics.figures.FIGURES`
    template: str  # of the report

    def __init__(self, task: Task):
        self.task = task

    @abstractmethod
    def labelled(self, item: Item) -> list[Panel]:
        """Return the panels of one labelled image."""

    @abstractmethod
    def predicted(self, prediction: Prediction, truth: Label, name: str) -> list[Panel]:
        """Return the panels of one image with its truth and its prediction."""

    @abstractmethod
    def legend(self, errors: bool = False, unlabelled: bool = False) -> list[tuple[str, Colour]]:
        """Return names and colours of classes, and of errors and unlabelled pixels where they are
        painted.
        """

    @abstractmethod
    def caption(self, insight: Insight) -> str:
        """Return the figure by which the best, median and worst images are ranked."""

    @abstractmethod
    def severity_caption(self, severity: float) -> str:
        """Return a line about the error of a prediction, or "" if the panel itself shows it."""

    @abstractmethod
    def case(
        self, insight: Insight, prediction: Prediction, truth: Label, boxed: bool = False
    ) -> dict[str, Any]:
        """Return the report template's values for one image; with `boxed`, its suspect region
        too.
        """

    @abstractmethod
    def evidence_images(self, ranked: Mapping[str, Sequence[Insight]]) -> list[Insight]:
        """Return the images, of the best, median and worst ones, that the report has evidence maps
        of.
        """

    @abstractmethod
    def evidence(
        self, predictor: Predictor, prediction: Prediction, pixels: np.ndarray
    ) -> list[tuple[str, np.ndarray]]:
        """Return titles and evidence maps, float32 (h, w) from 0 to 1.

        `pixels`, uint8 (h, w, C), are the image at the model's size.
        """

    @abstractmethod
    def evidence_label(self, truth: Label) -> str | None:
        """Return the report's text about the truth next to an evidence map."""

    def grid(self, examples: Sequence[Sequence[Panel]], title: str, errors: bool = False) -> Figure:
        """Draw the panels of several images with a legend; with `errors`, it explains their colours
        too.
        """
        count = self.examples_in_row
        rows = [
            [panel for example in examples[start : start + count] for panel in example]
            for start in range(0, len(examples), count)
        ]
        unlabelled = any(panel.has_unlabelled for row in rows for panel in row)
        return grid(rows, title, self.legend(errors, unlabelled))


class MaskView(View):
    """Masks: a row of panels for each image."""

    examples_in_row = 1
    ranked_images = 2
    class_figures = ("precision", "recall", "iou", "dice", "boundary_f1")
    template = "report_masks.html"

    def labelled(self, item: Item) -> list[Panel]:
        image, codes = self.task.shown(self.task.image(item)), np.asarray(self.task.label(item))
        return [
            Panel(image, short(item.image.name)),
            Panel(
                codes_to_colours(codes, painting.class_colours(self.task)),
                "mask",
                has_unlabelled=bool((codes == IGNORE).any()),
            ),
            Panel(painting.overlay(self.task, image, codes), "overlay"),
        ]

    def predicted(self, prediction: Prediction, truth: Label, name: str) -> list[Panel]:
        image, true_codes = shrink(prediction.image), shrink(np.asarray(truth))
        codes = shrink(prediction.labels)
        errors = painting.error_map(image, true_codes, codes, self.task.background)
        return [
            Panel(image, short(name)),
            Panel(painting.overlay(self.task, image, true_codes), "truth"),
            Panel(painting.overlay(self.task, image, codes), "prediction"),
            Panel(errors, "errors"),
        ]

    def legend(self, errors: bool = False, unlabelled: bool = False) -> list[tuple[str, Colour]]:
        entries = list(zip(self.task.classes, painting.class_colours(self.task)))
        if unlabelled:
            entries.append(("unlabelled", UNLABELLED_COLOUR))
        if errors:
            kinds = painting.error_kinds(self.task)
            entries += [(f"error: {kind}", painting.ERRORS[kind]) for kind in kinds]
        return entries

    def caption(self, insight: Insight) -> str:
        return f"error {insight.error:.3f}"

    def severity_caption(self, severity: float) -> str:
        return f"error {severity:.3f}"

    def case(
        self, insight: Insight, prediction: Prediction, truth: Label, boxed: bool = False
    ) -> dict[str, Any]:
        background = self.task.background
        image, true_codes = shrink(prediction.image), shrink(np.asarray(truth))
        codes = shrink(prediction.labels)
        probabilities = np.stack([shrink(plane) for plane in prediction.probabilities])
        wrong = painting.wrong_pixels(true_codes, codes, background)
        is_empty = background is not None and np.isin(true_codes, [background, IGNORE]).all()
        case = {
            "insight": insight,
            "base": jpeg(image),
            "width": image.shape[1],
            "height": image.shape[0],
            "truth_is_empty": bool(is_empty),
            "panes": [("truth", self._layers(true_codes)), ("prediction", self._layers(codes))],
            "errors": [
                layer(where, painting.ERRORS[kind]) for kind, where in wrong.items() if where.any()
            ],
            "uncertainty": jpeg(painting.entropy_map(probabilities)),
        }
        if boxed and insight.suspicion.box:
            height, width = insight.size
            left, top, right, bottom = insight.suspicion.box
            shares = left / width, top / height, (right - left) / width, (bottom - top) / height
            case["box"] = [round(100 * share, 2) for share in shares]
        return case

    def _layers(self, codes: np.ndarray) -> list[tuple[int, str]]:
        """Return (class index, its pixels as a picture) of each foreground class in codes (H,
        W).
        """
        return [
            (code, layer(codes == code, colour))
            for code, colour in enumerate(painting.class_colours(self.task))
            if code != self.task.background and (codes == code).any()
        ]

    def evidence_images(self, ranked: Mapping[str, Sequence[Insight]]) -> list[Insight]:
        return [*ranked["median"][:EVIDENCE_IMAGES], *ranked["worst"][:EVIDENCE_IMAGES]]

    def evidence(
        self, predictor: Predictor, prediction: Prediction, pixels: np.ndarray
    ) -> list[tuple[str, np.ndarray]]:
        from .evidence import hires_cam

        classes = [c for c in range(len(self.task.classes)) if c != self.task.background]
        classes = classes[:EVIDENCE_CLASSES]
        present = [bool((prediction.labels == code).any()) for code in classes]
        titles = [
            self.task.classes[code] + ("" if is_present else " (predicted nowhere)")
            for code, is_present in zip(classes, present)
        ]
        return list(zip(titles, hires_cam(predictor, pixels, classes)))

    def evidence_label(self, truth: Label) -> str | None:
        return None


class ClassView(View):
    """Classes of whole images: one panel for each image, with its class in the title."""

    examples_in_row = 4
    ranked_images = 4
    class_figures = ("precision", "recall", "f1")
    template = "report_classes.html"

    def labelled(self, item: Item) -> list[Panel]:
        title = f"{short(item.image.stem)}\n{self.task.class_name(item)}"
        return [Panel(self.task.shown(self.task.image(item)), title)]

    def predicted(self, prediction: Prediction, truth: Label, name: str) -> list[Panel]:
        label, predicted = self.task.classes[int(truth)], prediction.label
        is_wrong = label != predicted
        title = (
            f"{short(name)}\ntruth: {label}\nprediction: {predicted} "
            f"({prediction.probabilities.max():.2f}){', WRONG' if is_wrong else ''}"
        )
        return [Panel(shrink(prediction.image), title, is_wrong)]

    def legend(self, errors: bool = False, unlabelled: bool = False) -> list[tuple[str, Colour]]:
        return []

    def caption(self, insight: Insight) -> str:
        return f"loss {insight.loss:.3f}"

    def severity_caption(self, severity: float) -> str:
        return ""

    def case(
        self, insight: Insight, prediction: Prediction, truth: Label, boxed: bool = False
    ) -> dict[str, Any]:
        return {
            "insight": insight,
            "base": jpeg(shrink(prediction.image)),
            "truth": self.task.classes[int(truth)],
            "predicted": prediction.label,
            "probability": float(prediction.probabilities.max()),
        }

    def evidence_images(self, ranked: Mapping[str, Sequence[Insight]]) -> list[Insight]:
        return [*ranked["best"], *ranked["worst"]]

    def evidence(
        self, predictor: Predictor, prediction: Prediction, pixels: np.ndarray
    ) -> list[tuple[str, np.ndarray]]:
        from .evidence import grad_cam

        code = int(prediction.labels)
        return [(self.task.classes[code], grad_cam(predictor, pixels, [code])[0])]

    def evidence_label(self, truth: Label) -> str | None:
        return self.task.classes[int(truth)]


VIEWS: dict[str, type[View]] = {
    SegmentationTask.kind: MaskView,
    ClassificationTask.kind: ClassView,
}


def view_of(task: Task) -> View:
    """Return the view of the images of `task`."""
    return VIEWS[task.kind](task)

"""Scores of labelled images and what is computed from them: figures, intervals, rows per image,
groups, and comparisons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..errors import DataError
from ..metrics import boundaries
from ..metrics import figures as metrics
from ..metrics.calibration import softmax
from ..metrics.figures import Tree
from ..metrics.risk import actual_error
from ..tasks import ClassificationTask, Item, SegmentationTask, Task
from ..utils.text import natural_key

SAMPLES = 1000  # bootstrap samples: 25 of them are beyond each end of a 95 % interval
CHUNK = 100  # bootstrap samples computed at a time, which bounds memory


class Judged(Protocol):
    """The part of a prediction that is compared with labels, see `inference.prediction`."""

    @property
    def labels(self) -> np.ndarray:
        """Predicted class indices: (H, W), or () for one class."""

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities, float32 (C, H, W) or (C,)."""


@dataclass
class ImageScore:
    """One image's prediction compared with its label."""

    item: Item
    name: str  # the image's path below the data folder


@dataclass
class MaskScore(ImageScore):
    """Counts and distances of one predicted mask."""

    counts: np.ndarray  # int64 (C, C), see metrics.figures.confusion
    distances: np.ndarray  # float64 (C, 6), see metrics.boundaries.distances


@dataclass
class ClassScore(ImageScore):
    """One image's true class and predicted probabilities."""

    truth: int
    probabilities: np.ndarray  # float32 (C,)

    @property
    def predicted(self) -> int:
        """The index of the predicted class."""
        return int(self.probabilities.argmax())


Score = TypeVar("Score", bound=ImageScore)


class Scores(ABC, Generic[Score]):
    """The scores of many images. Figures are over the set: counts are summed, then divided.

    `scores_of` returns the subclass for a task.
    """

    def __init__(self, task: Task, images: Iterable[Score] = ()):
        self.task, self.images = task, list(images)

    @abstractmethod
    def judge(self, item: Item, name: str, prediction: Judged, truth: np.ndarray | int) -> Score:
        """Return the score of one image. Raises `DataError` if its mask is not of its size."""

    @abstractmethod
    def to_json(self, image: Score) -> list[Any]:
        """Return the measurements of one image as JSON values; `from_json` is the inverse."""

    @abstractmethod
    def from_json(self, item: Item, name: str, values: Sequence[Any]) -> Score:
        """Return the score that `values` was made from."""

    @abstractmethod
    def error(self, image: Score) -> float:
        """Return an image's error, 0 to 1, which `Prediction.expected_error` estimates."""

    @abstractmethod
    def severity(self, image: Score, code: int | None = None) -> float:
        """Return how wrong an image is, 0 to 1, for ranking; with `code`, how wrong its pixels or
        label of that class are.
        """

    @abstractmethod
    def calibrate(self, image: Score, logits: np.ndarray, temperature: float) -> None:
        """Replace an image's probabilities by those of its logits divided by a temperature."""

    @abstractmethod
    def confusion(self) -> np.ndarray:
        """Return pixels, or images, by (true class, predicted class): int64 (C, C)."""

    @abstractmethod
    def _rows_of(self, image: Score) -> Iterator[dict[str, object]]:
        """Yield the rows of one image, without its name and group."""

    @abstractmethod
    def _figures(self, weights: np.ndarray) -> Tree:
        """Return figures whose leaves are (B,), of images weighted by each row of `weights`,
        float64 (B, N).
        """

    def metrics(self, samples: int = 0, seed: int = 0) -> dict[str, Any]:
        """Return all figures; with bootstrap `samples` over the images, "intervals" has a 95%
        interval of each; one image has none.
        """
        tree = metrics.to_json(_index_tree(self._figures(np.ones((1, len(self.images)))), 0))
        counts = self.confusion()
        for name, true in zip(self.task.classes, counts.sum(axis=1)):
            tree["classes"][name] = {self.task.unit: int(true), **tree["classes"][name]}
        result = {"images": len(self.images), **tree, "confusion": counts.tolist()}
        if samples:
            result["intervals"] = metrics.intervals(self.resampled(samples, seed))
        return result

    def by(self, key: Callable[[Item], str], samples: int = 0) -> dict[str, dict[str, Any]]:
        """Return the metrics of each group of images that share `key`."""
        groups: dict[str, list[Score]] = {}
        for image in self.images:
            groups.setdefault(key(image.item), []).append(image)
        return {
            name: type(self)(self.task, groups[name]).metrics(samples)
            for name in sorted(groups, key=natural_key)
        }

    def rows(self, group_of: Callable[[Item], str] | None = None) -> Iterator[dict[str, object]]:
        """Yield one row an image and class (for segmentation), or an image: the figures of that
        image alone, and its group if asked for.

        Where the truth has no pixel of a class its figures are empty, and the image's foreground
        mean leaves it out.
        """
        for image in self.images:
            group = {"group": group_of(image.item)} if group_of else {}
            for row in self._rows_of(image):
                yield {"image": image.name, **group, **row}

    def compare(self, other: Scores[Any], samples: int = SAMPLES, seed: int = 0) -> dict[str, Any]:
        """Return each of this export's figures minus another's on the same images, with paired 95%
        bootstrap intervals.

        Each bootstrap sample draws images, and takes both exports' figures from the same draw
        (paired bootstrap).
        """
        ours, theirs = self.resampled(samples, seed), other.resampled(samples, seed)
        point = (
            self._figures(np.ones((1, len(self.images)))),
            other._figures(np.ones((1, len(other.images)))),
        )
        difference = metrics.to_json(_index_tree(_subtract_trees(*point), 0))
        return {
            "images": len(self.images),
            "difference": difference,
            "intervals": metrics.intervals(_subtract_trees(ours, theirs)),
        }

    def resampled(self, samples: int, seed: int) -> Tree:
        """Return figures with leaves float64 (samples,), of the images drawn with replacement
        (bootstrap); nan for one image alone.
        """
        rng, number = np.random.default_rng(seed), len(self.images)
        parts = []
        for start in range(0, samples, CHUNK):
            draws = rng.integers(0, number, (min(CHUNK, samples - start), number))
            weights = np.stack([np.bincount(draw, minlength=number) for draw in draws])
            parts.append(self._figures(weights.astype(np.float64)))
        joined = _concatenate_trees(parts)
        # Resampling a single image would give an interval of width zero.
        return joined if number > 1 else _subtract_trees(joined, _fill_tree(joined, np.nan))


class MaskScores(Scores[MaskScore]):
    """Scores of predicted masks."""

    _sums: np.ndarray | None = None  # float64 (N, ...): what `_figures` adds up over images

    def judge(
        self, item: Item, name: str, prediction: Judged, truth: np.ndarray | int
    ) -> MaskScore:
        codes, true_codes = prediction.labels, np.asarray(truth)
        if true_codes.shape != codes.shape:
            raise DataError(
                f"{item.shown_label}: the mask is not of its image's size; "
                f"export it at {codes.shape[1]}x{codes.shape[0]}",
                "size-mismatch",
            )
        number = len(self.task.classes)
        return MaskScore(
            item,
            name,
            metrics.confusion(true_codes, codes, number),
            boundaries.distances(true_codes, codes, number),
        )

    def to_json(self, image: MaskScore) -> list[Any]:
        return [image.counts.tolist(), image.distances.tolist()]

    def from_json(self, item: Item, name: str, values: Sequence[Any]) -> MaskScore:
        counts, distances = values
        return MaskScore(
            item,
            name,
            np.array(counts, dtype=np.int64),
            np.array(distances, dtype=np.float64),
        )

    def error(self, image: MaskScore) -> float:
        return actual_error(image.counts, self.task.background)

    def severity(self, image: MaskScore, code: int | None = None) -> float:
        if code is None:
            return self.error(image)
        counts = image.counts
        if not counts[code].any():
            return 0.0
        return float(1 - 2 * counts[code, code] / (counts[code].sum() + counts[:, code].sum()))

    def calibrate(self, image: MaskScore, logits: np.ndarray, temperature: float) -> None:
        """Do nothing: a temperature changes no mask."""

    def confusion(self) -> np.ndarray:
        number = len(self.task.classes)
        counts = [image.counts for image in self.images]
        return np.sum(counts, axis=0, dtype=np.int64).reshape(number, number)

    def _rows_of(self, image: MaskScore) -> Iterator[dict[str, object]]:
        figures = _figures_of_image(image)
        for i, name in enumerate(self.task.classes):
            yield {
                "class": name,
                "pixels": int(image.counts[i].sum()),
                "predicted_pixels": int(image.counts[:, i].sum()),
                **{key: values[i] for key, values in figures.items()},
            }
        yield {
            "class": "foreground mean",
            "pixels": int(image.counts.sum()),
            "predicted_pixels": int(image.counts.sum()),
            **{
                key: float(metrics.mean(values, self.task.background))
                for key, values in figures.items()
            },
        }

    def _figures(self, weights: np.ndarray) -> Tree:
        number = len(self.task.classes)
        if self._sums is None or len(self._sums) != len(self.images):
            self._sums = self._measurements_per_image()
        summed = weights @ self._sums
        counts, edges, means = np.split(summed, [number**2, number**2 + 8 * number], axis=1)
        tree = metrics.segmentation(
            counts.reshape(-1, number, number),
            edges.reshape(-1, number, 8),
            self.task.classes,
            self.task.background,
        )
        return tree | {
            "mean_of_images": {
                key: metrics.ratio(means[:, i], means[:, 2 + i])
                for i, key in enumerate(("dice", "iou"))
            }
        }

    def _measurements_per_image(self) -> np.ndarray:
        """Return, for each image, counts (C * C), boundary sums (C * 8), its mean Dice and IoU, and
        whether it has them.
        """
        means = np.array(
            [
                [
                    metrics.mean(_figures_of_image(image)[key], self.task.background)
                    for key in ("dice", "iou")
                ]
                for image in self.images
            ]
        )
        return np.concatenate(
            [
                np.array([i.counts.reshape(-1) for i in self.images], dtype=np.float64),
                np.array([metrics.boundary_sums(i.distances).reshape(-1) for i in self.images]),
                np.nan_to_num(means),
                ~np.isnan(means),
            ],
            axis=1,
        )


class ClassScores(Scores[ClassScore]):
    """Scores of predicted classes of whole images."""

    def judge(
        self, item: Item, name: str, prediction: Judged, truth: np.ndarray | int
    ) -> ClassScore:
        return ClassScore(item, name, int(truth), prediction.probabilities)

    def to_json(self, image: ClassScore) -> list[Any]:
        return [image.truth, image.probabilities.tolist()]

    def from_json(self, item: Item, name: str, values: Sequence[Any]) -> ClassScore:
        truth, probabilities = values
        return ClassScore(item, name, truth, np.array(probabilities, dtype=np.float32))

    def error(self, image: ClassScore) -> float:
        return float(image.predicted != image.truth)

    def severity(self, image: ClassScore, code: int | None = None) -> float:
        if image.predicted == image.truth or code not in (None, image.truth):
            return 0.0
        return 1 - float(image.probabilities[image.truth])

    def calibrate(self, image: ClassScore, logits: np.ndarray, temperature: float) -> None:
        image.probabilities = softmax(logits / temperature)

    def confusion(self) -> np.ndarray:
        number = len(self.task.classes)
        pairs = [image.truth * number + image.predicted for image in self.images]
        return np.bincount(pairs, minlength=number**2).reshape(number, number)

    def _rows_of(self, image: ClassScore) -> Iterator[dict[str, object]]:
        classes = self.task.classes
        yield {
            "class": classes[image.truth],
            "predicted": classes[image.predicted],
            "right": image.predicted == image.truth,
            **{f"p_{name}": round(float(p), 6) for name, p in zip(classes, image.probabilities)},
        }

    def _figures(self, weights: np.ndarray) -> Tree:
        return metrics.classification(
            np.array([image.truth for image in self.images]),
            np.array([image.probabilities for image in self.images]),
            self.task.classes,
            weights,
        )


SCORES: dict[str, type[Scores[Any]]] = {
    SegmentationTask.kind: MaskScores,
    ClassificationTask.kind: ClassScores,
}


def scores_of(task: Task, images: Iterable[ImageScore] = ()) -> Scores[Any]:
    """Return the scores of images in the form for `task`."""
    return SCORES[task.kind](task, images)


def _figures_of_image(image: MaskScore) -> dict[str, np.ndarray]:
    """Return an image's figures of each class, nan where its truth has no pixel of the class."""
    figures = metrics.per_class(image.counts) | metrics.boundary(
        metrics.boundary_sums(image.distances)
    )
    present = image.counts.sum(axis=1) > 0
    return {key: np.where(present, values, np.nan) for key, values in figures.items()}


def _concatenate_trees(trees: Sequence[Tree]) -> Tree:
    return _map_trees(lambda *leaves: np.concatenate(leaves), *trees)


def _fill_tree(tree: Tree, value: float) -> Tree:
    return _map_trees(lambda leaf: np.full_like(leaf, value), tree)


def _index_tree(tree: Tree, index: int) -> Tree:
    return _map_trees(lambda leaf: leaf[index], tree)


def _subtract_trees(left: Tree, right: Tree) -> Tree:
    return _map_trees(lambda one, other: one - other, left, right)


def _map_trees(change: Callable[..., np.ndarray], *trees: Mapping[str, Any]) -> Tree:
    """Return a tree with `change` of the leaves at the same place of all `trees`."""
    return {
        key: _map_trees(change, *(tree[key] for tree in trees))
        if isinstance(value, Mapping)
        else change(*(tree[key] for tree in trees))
        for key, value in trees[0].items()
    }

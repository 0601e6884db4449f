"""What a pass over labelled images adds up to: figures, their intervals, rows for each image, groups, and comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..metrics import boundaries
from ..metrics import figures as metrics
from ..tasks import Item, Task

if TYPE_CHECKING:
    from ..inference.predictor import Prediction

SAMPLES, CHUNK = 1000, 100  # bootstrap samples, and how many are worked on at a time


@dataclass
class ImageScore:
    """One image judged: counts and outline distances for segmentation, or truth and probabilities for classification."""

    item: Item
    name: str  # the image's path below the data folder
    counts: np.ndarray | None = None  # int64 (C, C), see metrics.figures.confusion
    distances: np.ndarray | None = None  # float64 (C, 6), see boundaries.distances
    truth: int | None = None
    probabilities: np.ndarray | None = None  # float32 (C,)

    def plain(self) -> list:
        """Return what was measured as JSON can hold it, see `of`."""
        return [
            None if value is None else np.asarray(value).tolist()
            for value in (self.counts, self.distances, self.truth, self.probabilities)
        ]

    @classmethod
    def of(cls, item: Item, name: str, plain: Sequence) -> ImageScore:
        """Return the score that `plain` was made from."""
        counts, distances, truth, probabilities = plain
        return cls(
            item,
            name,
            counts and np.array(counts, dtype=np.int64),
            distances and np.array(distances, dtype=np.float64),
            truth,
            probabilities and np.array(probabilities, dtype=np.float32),
        )


def judge(
    task: Task, item: Item, name: str, prediction: Prediction, truth: np.ndarray | int
) -> ImageScore:
    """Score one image. Raises `DataError` if its mask is not of its size."""
    if task.kind == "classify":
        return ImageScore(item, name, truth=int(truth), probabilities=prediction.probabilities)
    codes = prediction.codes
    if truth.shape != codes.shape:
        raise DataError(
            f"{item.label}: the mask is not of its image's size; export it at {codes.shape[1]}x{codes.shape[0]}",
            "size-mismatch",
        )
    number = len(task.classes)
    return ImageScore(
        item,
        name,
        metrics.confusion(truth, codes, number),
        boundaries.distances(truth, codes, number),
    )


class Scores:
    """The scores of many images. Figures are over the set: counts are summed, then divided."""

    def __init__(self, task: Task, images: Sequence[ImageScore] = ()):
        self.task, self.images = task, list(images)

    def metrics(self, samples: int = 0, seed: int = 0) -> dict:
        """Return all figures; with bootstrap `samples` over the images, "intervals" has a 95% interval of each; one image has none."""
        tree = metrics.plain(_taken(self._figures(np.ones((1, len(self.images)))), 0))
        counts = self.confusion()
        unit = "pixels" if self.task.kind == "segment" else "images"
        for name, true in zip(self.task.classes, counts.sum(axis=1)):
            tree["classes"][name] = {unit: int(true), **tree["classes"][name]}
        result = {"images": len(self.images), **tree, "confusion": counts.tolist()}
        if samples:
            result["intervals"] = metrics.intervals(self.resampled(samples, seed))
        return result

    def confusion(self) -> np.ndarray:
        """Return pixels, or images, by (true class, predicted class): int64 (C, C)."""
        number = len(self.task.classes)
        if self.task.kind == "segment":
            return np.sum([image.counts for image in self.images], axis=0, dtype=np.int64).reshape(
                number, number
            )
        pairs = [image.truth * number + int(image.probabilities.argmax()) for image in self.images]
        return np.bincount(pairs, minlength=number**2).reshape(number, number)

    def by(self, key: Callable[[Item], str], samples: int = 0) -> dict[str, dict]:
        """Return the metrics of each group of images that share `key`."""
        groups: dict[str, list[ImageScore]] = {}
        for image in self.images:
            groups.setdefault(key(image.item), []).append(image)
        return {
            name: Scores(self.task, groups[name]).metrics(samples)
            for name in sorted(groups, key=_natural)
        }

    def rows(self, group_of: Callable[[Item], str] | None = None) -> Iterator[dict]:
        """Yield one row an image and class (for segmentation), or an image: the figures of that image alone, and its group if asked for.

        Where the truth has no pixel of a class its figures are empty, and the image's foreground mean leaves it out.
        """
        for image in self.images:
            first = {"image": image.name} | ({"group": group_of(image.item)} if group_of else {})
            if self.task.kind == "classify":
                said = int(image.probabilities.argmax())
                yield {
                    **first,
                    "class": self.task.classes[image.truth],
                    "predicted": self.task.classes[said],
                    "right": said == image.truth,
                    **{
                        f"p_{name}": round(float(p), 6)
                        for name, p in zip(self.task.classes, image.probabilities)
                    },
                }
                continue
            figures = _of_image(image)
            for i, name in enumerate(self.task.classes):
                yield {
                    **first,
                    "class": name,
                    "pixels": int(image.counts[i].sum()),
                    "predicted_pixels": int(image.counts[:, i].sum()),
                    **{key: values[i] for key, values in figures.items()},
                }
            means = {
                key: float(metrics.mean(values, self.task.background))
                for key, values in figures.items()
            }
            yield {
                **first,
                "class": "foreground mean",
                "pixels": int(image.counts.sum()),
                "predicted_pixels": int(image.counts.sum()),
                **means,
            }

    def compare(self, other: Scores, samples: int = SAMPLES, seed: int = 0) -> dict:
        """Return each of this export's figures minus another's on the same images, with paired 95% bootstrap intervals.

        Each bootstrap sample draws images, and takes both exports' figures from the same draw (paired bootstrap).
        """
        ours, theirs = self.resampled(samples, seed), other.resampled(samples, seed)
        point = (
            self._figures(np.ones((1, len(self.images)))),
            other._figures(np.ones((1, len(other.images)))),
        )
        difference = metrics.plain(_taken(_minus(*point), 0))
        return {
            "images": len(self.images),
            "difference": difference,
            "intervals": metrics.intervals(_minus(ours, theirs)),
        }

    def _figures(self, weights: np.ndarray) -> metrics.Tree:
        """Return figures whose leaves are (B,), of images weighted by each row of `weights`, float64 (B, N)."""
        if self.task.kind == "classify":
            truth, probabilities = (
                np.array([i.truth for i in self.images]),
                np.array([i.probabilities for i in self.images]),
            )
            return metrics.classification(truth, probabilities, self.task.classes, weights)
        number = len(self.task.classes)
        if not hasattr(self, "_sums") or len(self._sums) != len(self.images):
            means = [
                [metrics.mean(_of_image(i)[key], self.task.background) for key in ("dice", "iou")]
                for i in self.images
            ]
            means = np.array(means)
            self._sums = np.concatenate(
                [
                    np.array([i.counts.reshape(-1) for i in self.images], dtype=np.float64),
                    np.array([metrics.boundary_sums(i.distances).reshape(-1) for i in self.images]),
                    np.nan_to_num(means),
                    ~np.isnan(means),
                ],
                axis=1,
            )
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

    def resampled(self, samples: int, seed: int) -> metrics.Tree:
        """Return figures with leaves float64 (samples,), of the images drawn with replacement (bootstrap); nan for one image alone."""
        rng, number = np.random.default_rng(seed), len(self.images)
        parts = []
        for start in range(0, samples, CHUNK):
            draws = rng.integers(0, number, (min(CHUNK, samples - start), number))
            parts.append(
                self._figures(
                    np.stack([np.bincount(draw, minlength=number) for draw in draws]).astype(
                        np.float64
                    )
                )
            )
        joined = _joined(parts)
        return (
            joined if number > 1 else _minus(joined, _filled(joined, np.nan))
        )  # drawn again and again, it would show no spread


def _natural(text: str) -> list:
    """Return a key by which numbers in texts sort as numbers."""
    return [
        (0, float(part), "") if part.isdigit() else (1, 0.0, part)
        for part in re.split(r"(\d+)", text)
    ]


def _of_image(image: ImageScore) -> dict[str, np.ndarray]:
    """Return an image's figures of each class, nan where its truth has no pixel of the class."""
    figures = metrics.per_class(image.counts) | metrics.boundary(
        metrics.boundary_sums(image.distances)
    )
    present = image.counts.sum(axis=1) > 0
    return {key: np.where(present, values, np.nan) for key, values in figures.items()}


def _joined(trees: Sequence[metrics.Tree]) -> metrics.Tree:
    return {
        key: _joined([tree[key] for tree in trees])
        if isinstance(value, dict)
        else np.concatenate([tree[key] for tree in trees])
        for key, value in trees[0].items()
    }


def _filled(tree: metrics.Tree, value: float) -> metrics.Tree:
    return {
        key: _filled(leaf, value) if isinstance(leaf, dict) else np.full_like(leaf, value)
        for key, leaf in tree.items()
    }


def _taken(tree: metrics.Tree, index: int) -> metrics.Tree:
    return {
        key: _taken(value, index) if isinstance(value, dict) else value[index]
        for key, value in tree.items()
    }


def _minus(left: metrics.Tree, right: metrics.Tree) -> metrics.Tree:
    return {
        key: _minus(value, right[key]) if isinstance(value, dict) else value - right[key]
        for key, value in left.items()
    }

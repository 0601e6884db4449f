"""Two exports on the same images: those that neither was trained on, and how each image changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.choice import engine_of
from ..errors import DataError
from ..exports.read import opened
from ..tasks import Item, Task
from ..utils.io import name_below
from .run import items_of, scores_on, trained_on, verdict
from .scores import SAMPLES, Scores


@dataclass
class Pair:
    """The scores of two exports on the same held-out images, in the same order."""

    task: Task
    root: Path  # the data folder
    exports: tuple[Path, Path]
    scores: tuple[Scores[Any], Scores[Any]]

    def compared(self, samples: int = SAMPLES) -> dict[str, Any]:
        """Return the figures of both with 95% intervals, and the first minus the second, paired.

        The dict has "images", "first", "second" (each as `evaluate` returns them), "difference",
        "intervals" of the difference, and "verdict", a sentence.
        """
        first, second = self.scores
        difference = first.compare(second, samples)
        names = (self.exports[0].name, self.exports[1].name)
        return {
            **difference,
            "first": first.metrics(samples),
            "second": second.metrics(samples),
            "verdict": verdict(self.task, *names, difference),
        }

    def errors(self) -> list[tuple[Item, str, float, float]]:
        """Return each image with its name and both exports' errors, 0 to 1.

        The images that the first export improves most, compared with the second, come first.
        """
        first, second = self.scores
        found = [
            (one.item, one.name, first.severity(one), second.severity(other))
            for one, other in zip(first.images, second.images)
        ]
        return sorted(found, key=lambda row: (row[2] - row[3], row[1]))


def pair(
    task: str | Task | None,
    first: Path | str,
    second: Path | str,
    data: Path | str | None = None,
    *,
    device: str | None = None,
    bs: int = 4,
) -> Pair:
    """Return the scores of two exports on the images that the first held out, and the second never
    trained on.

    `data` defaults to the folder that the first was trained on. Both are computed in the same
    precision. Raises `DataError` if there is no such image, and `FastsegError` kinds.
    """
    found, folder, card = opened(task, first)
    _, other_folder, other_card = opened(found, second)
    items, root = items_of(card, found, data, "valid")
    trained = trained_on(other_card, items, root)
    items = [item for item in items if name_below(root, item.image) not in trained]
    if not items:
        raise DataError(
            f"{root}: no image is new to both {folder} and {other_folder}: one was trained "
            "on what the other is judged by; train both with the same seed and split",
            "no-images-to-judge",
        )
    from ..inference.loading import load

    predictor = load(folder, device, images=len(items), bs=bs)
    other = load(
        other_folder, device, precision=predictor.precision, images=len(items), bs=bs, reason="both"
    )
    with engine_of(None, None, None, 0) as who:
        scores = (
            scores_on(predictor, folder, items, root, bs, who),
            scores_on(other, other_folder, items, root, bs, who),
        )
    return Pair(found, root, (folder, other_folder), scores)

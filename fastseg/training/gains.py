"""Lines of `study --how-many`: a learning curve and its law for all images, a class, or a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.scores import Scores, scores_of
from ..metrics.learning_curves import (
    INTERVAL,
    BackTest,
    Curve,
    Estimate,
    back_test,
    drawn_laws,
    gains,
    scores_at,
)
from ..tasks import Item, Task
from ..utils.io import name_below
from .subsets import scores_in
from .work import no_foreground

SAMPLES = 1000  # bootstrap samples
NOTHING = 0.001  # a gain of less, 0.1 points, is called nothing
# A choice: a class with a lower score was hardly found at any size, so that its curve is flat
# because it is not learnt, and not because it is learnt completely.
UNLEARNT = 0.1
PLACES = 60  # points of a drawn law


@dataclass(frozen=True)
class Line:
    """What more images give for one curve."""

    name: str  # "all", a class, or "group NAME"
    figure: str
    images: float  # training images so far; for a class, those that show it
    score: float
    gains: dict[int, Estimate]
    back_test: BackTest
    curve: Curve
    laws: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        tested = self.back_test
        return {
            "name": self.name,
            "figure": self.figure,
            "images": self.images,
            "score": self.score,
            "gains": {str(more): asdict(found) for more, found in self.gains.items()},
            "curve": {
                "images": self.curve.counts.tolist(),
                "scores": self.curve.values.tolist(),
            },
            "back_test": {**asdict(tested), "inside": tested.is_inside},
        }


def lines_of(
    task: Task,
    items: Sequence[Item],
    place: Path,
    results: Sequence[Sequence[dict[str, Any]]],
    more: Sequence[int],
    group_of: Callable[[Item], str] | None,
) -> list[Line]:
    """Return the line of all images, of each class, and of each group that can be judged."""
    named = {name_below(place, item.image): item for item in items}
    empty = scores_of(task)
    scored = [
        [scores_of(task, scores_in(result, empty, named)) for result in row] for row in results
    ]
    images = np.array([np.mean([one["images"] for one in row]) for row in results])
    key = task.main_figure
    main = _curve(images, scored, task.main_value)
    if main is None:
        raise no_foreground(place, "the held-out images", task)
    lines = [_line("all", key, main, more)]
    figure = "dice" if task.has_masks else "f1"
    for index, name in enumerate(task.classes):
        if index == task.background:
            continue
        shown = np.array([np.mean([one["showing"][index] for one in row]) for row in results])
        curve = _curve(shown, scored, _of_class(name, figure))
        if curve is not None:
            lines.append(_line(name, "Dice" if task.has_masks else "F1", curve, more))
    if group_of:
        for group in sorted({group_of(image.item) for image in scored[0][0].images}):
            chosen = [[_of_group(one, group_of, group) for one in row] for row in scored]
            curve = _curve(images, chosen, task.main_value)
            if curve is not None:
                lines.append(_line(f"group {group}", key, curve, more))
    return lines


def _of_class(name: str, figure: str) -> Callable[[Any], Any]:
    return lambda tree: tree["classes"][name][figure]


def _of_group(scores: Scores[Any], group_of: Callable[[Item], str], group: str) -> Scores[Any]:
    return scores_of(scores.task, [one for one in scores.images if group_of(one.item) == group])


def _curve(
    counts: np.ndarray, scored: Sequence[Sequence[Scores[Any]]], figure: Callable[[Any], Any]
) -> Curve | None:
    """Return the curve of a figure; None where it is absent, or shows no image at some size."""
    values = [[figure(one.metrics()) for one in row] for row in scored]
    if any(value is None for row in values for value in row) or (np.diff(counts) <= 0).any():
        return None
    if counts[0] <= 0 or len(scored[0][0].images) < 2:
        return None
    samples = [np.mean([figure(one.resampled(SAMPLES, 0)) for one in row], 0) for row in scored]
    drawn = np.array(samples).T
    drawn = drawn[np.isfinite(drawn).all(1)]  # draws without any foreground have no score
    return Curve(counts, np.array(values, dtype=float).T, drawn) if len(drawn) else None


def _line(name: str, figure: str, curve: Curve, more: Sequence[int]) -> Line:
    laws, count = drawn_laws(curve), float(curve.counts[-1])
    found = gains(laws, count, sorted(more))
    score = float(curve.means[-1])
    return Line(name, figure, count, score, found, back_test(curve), curve, laws)


def sentences_of(lines: Sequence[Line], more: Sequence[int]) -> Iterator[str]:
    """Yield what more images give, in points (hundredths) of the figure."""
    for number in sorted(more):
        for line in lines:
            if line.name == "all" or line.name.startswith("group "):
                what = f"{number} more images" + ("" if line.name == "all" else f", {line.name}")
            else:
                what = f"{number} more images with {line.name}"
            yield f"{what}: {_points(line.gains[number], line)}"
    for line in lines[:1]:
        tested = line.back_test
        yield (
            f"check: from {line.curve.counts[-2]:.0f} images or fewer, {line.figure} "
            f"{tested.predicted.value:.3f} ({tested.predicted.low:.3f} to "
            f"{tested.predicted.high:.3f}) was predicted for {line.images:.0f}; "
            f"{tested.measured:.3f} was measured"
        )


def _points(gain: Estimate, line: Line) -> str:
    figure = line.figure
    if line.score < UNLEARNT:
        return (
            f"not known: {figure} is {line.score:.2f} so far, which shows no trend; train longer "
            "(--epochs) or at a larger --size first"
        )
    if gain.high < NOTHING:
        return "nothing"
    text = f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) {figure}"
    return f"next to nothing: {text}" if gain.value < NOTHING else text


def picture_of(task: Task, lines: Sequence[Line], more: int) -> Any:
    """Return the figure of the curves, with the bands of their laws."""
    drawn = {}
    for line in lines:
        places = np.geomspace(line.curve.counts[0], line.images + more, PLACES)
        laws = np.array([scores_at(line.laws, place) for place in places])
        ends = np.percentile(laws, (INTERVAL[0], 50, INTERVAL[1]), axis=1)
        drawn[line.name] = (line.curve.counts, line.curve.values, places, ends)
    from ..report import charts

    return charts.learning_curves(drawn, f"{task.name}: score by number of training images")

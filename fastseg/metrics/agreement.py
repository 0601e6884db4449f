"""How far two labellings of the same pictures agree: what a score can be at most, about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..data.copies import copies
from ..errors import DataError
from ..tasks import Item, Task
from ..types import IGNORE
from . import figures
from .figures import Tree

SAMPLES = 1000  # bootstrap samples: 25 of them are beyond each end of a 95 % interval
CLASS = ("iou", "dice")  # the figures of each class


def labelled_twice(
    task: Task, items: Sequence[Item], samples: int = SAMPLES
) -> dict[str, Any] | None:
    """Return the agreement of the labels of pictures that are there more than once, byte for byte,
    or None without such pictures. See `agreement`.
    """
    return agreement(task, items, copies(items, task.reading), samples)


def agreement(
    task: Task, items: Sequence[Item], same: Sequence[Sequence[int]], samples: int = SAMPLES
) -> dict[str, Any] | None:
    """Return how far the labels of items agree that show the same picture, or None without any.

    `same` has the places of the items of each picture. Each pair of labels of one size counts
    once, with either as the truth, in pixels that both label: then precision equals recall, and
    neither labelling is preferred. The dict has "pictures", "accuracy" (of pixels, or of classes),
    "classes" with iou and dice of each class, "mean_foreground" of these, and "intervals" of the
    same shape: 95 %, by `samples` bootstrap samples of the pictures.
    """
    counts = [found for places in same if (found := _counts(task, [items[i] for i in places]))]
    if not counts:
        return None
    pictures = np.stack([np.sum(pairs, axis=0) for pairs in counts]).astype(np.float64)
    number = len(pictures)
    tree = _figures(task, pictures.sum(axis=0))
    draws = np.random.default_rng(0).integers(0, number, (samples, number))
    weights = np.stack([np.bincount(draw, minlength=number) for draw in draws]).astype(np.float64)
    intervals = figures.intervals(_figures(task, np.tensordot(weights, pictures, axes=1)))
    # Resampling a single picture would give intervals of width zero.
    labelled = np.count_nonzero(pictures.sum(axis=1), axis=0)
    for name, count in zip(task.classes, labelled):
        if count < 2:
            intervals["classes"][name] = dict.fromkeys(CLASS)
    return {
        "pictures": number,
        **figures.to_json(tree),
        **({"intervals": intervals} if number > 1 else {}),
    }


def sentence(found: Mapping[str, Any]) -> str:
    """Return an agreement in words, with the Dice of each class."""
    ends = found.get("intervals", {})
    pictures = found["pictures"]
    classes = ", ".join(
        f"{name} {_value(values['dice'], ends.get('classes', {}).get(name, {}).get('dice'))}"
        for name, values in found["classes"].items()
        if values["dice"] is not None
    )
    return (
        f"{pictures} picture{'s are' if pictures > 1 else ' is'} labelled twice: judged by the "
        f"other, a labelling has accuracy {_value(found['accuracy'], ends.get('accuracy'))}, "
        f"Dice {classes}; a model with these figures is as good as a second person"
    )


def _value(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return "absent"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _counts(task: Task, shown: Sequence[Item]) -> list[np.ndarray]:
    """Return the counts (C, C) of each pair of labels of one picture, each as the truth once."""
    labels = [label for item in shown if (label := _label(task, item)) is not None]
    found = []
    for one, two in combinations(labels, 2):
        if one.shape != two.shape:
            continue
        both = (one != IGNORE) & (two != IGNORE)
        pair = figures.confusion(one[both], two[both], len(task.classes))
        found.append(pair + pair.T)
    return found


def _label(task: Task, item: Item) -> np.ndarray | None:
    try:
        return np.atleast_1d(np.asarray(task.label(item)))
    except DataError:  # a check of the data says what is wrong with it
        return None


def _figures(task: Task, counts: np.ndarray) -> Tree:
    """Return the figures, each of shape (...), of counts (..., C, C)."""
    values = {key: value for key, value in figures.per_class(counts).items() if key in CLASS}
    return {
        "accuracy": figures.ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1))),
        "classes": {
            name: {key: values[key][..., i] for key in CLASS} for i, name in enumerate(task.classes)
        },
        "mean_foreground": {key: figures.mean(values[key], task.background) for key in CLASS},
    }

"""Means over groups of images, rectified by labelled images where the masks are predictions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from ..metrics.cohort import Mean, plain_mean, prediction_powered_mean, tuned_mean
from ..utils.text import natural_key
from .calibration import BETWEEN
from .intervals import Intervals
from .measures import MEASURES
from .rows import Row

ALL = "all"  # the group of all images, where no groups are asked for
# Labelled images of a group from which on its own rectify its mean; below, those of all groups do.
# A convention: fewer give hardly an estimate of their spread.
FEWEST_OWN = 10

Key = tuple[str, str]  # class, or what is between classes, and measure ("" between classes)
ByImage = dict[Key, dict[str, float]]  # the mean of each image's rows


@dataclass(frozen=True)
class GroupMean:
    """The mean of one measure over the images of a group."""

    group: str
    name: str
    measure: str
    mean: Mean


def group_means(
    rows: Sequence[Row],
    truths: Sequence[Row],
    have_truth: Set[str],
    level: float,
    part: str,
    intervals: Intervals | None,
    are_predictions: bool,
) -> list[GroupMean]:
    """Return the mean of each measure over each group's images; objects are averaged by image.

    Means of predictions are rectified by the images that `have_truth`, a true mask, whose rows are
    `truths`, or without any by the held-out images whose residuals `intervals` has; without either,
    they are the plain means of predictions. Angles turn around, and have no mean.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    true = _by_image(truths)
    said = _by_image(rows)
    found = []
    for group in sorted(groups, key=natural_key):
        own = _by_image(groups[group])
        in_px = _by_image(groups[group], px=True)
        images = {row.image for row in groups[group]}
        for key in dict.fromkeys([*own, *(key for key in true if images & true[key].keys())]):
            values = own.get(key, {})
            if not are_predictions:
                mean = plain_mean(np.array(list(values.values())), level)
            elif have_truth:
                true_of, said_of = true.get(key, {}), said.get(key, {})
                mean = _by_truths(images, have_truth, true_of, said_of, level)
            else:
                mean = _by_card(values, in_px[key], key, level, part, intervals)
            found.append(GroupMean(group, *key, _possible(mean, key[1])))
    return found


def _possible(mean: Mean, measure: str) -> Mean:
    """Return a mean whose interval has no values that the measure cannot have."""
    top = MEASURES[measure].top if measure else math.inf
    low, high = (float(np.clip(end, 0, top)) for end in (mean.low, mean.high))
    return replace(mean, low=low, high=high)


def _by_image(rows: Sequence[Row], px: bool = False) -> ByImage:
    gathered: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for measure, value in (row.in_px if px else row.values).items():
            is_angle = measure in MEASURES and MEASURES[measure].is_angle
            if math.isfinite(value) and not is_angle:
                gathered[row.name, measure][row.image].append(value)
    return {
        key: {image: float(np.mean(values)) for image, values in of_key.items()}
        for key, of_key in gathered.items()
    }


def _by_truths(
    images: Set[str],
    have_truth: Set[str],
    true: Mapping[str, float],
    said: Mapping[str, float],
    level: float,
) -> Mean:
    """Return the mean of a group of `images` of which some, or of other groups, have a true mask.

    `true` and `said` are the truth and the predictions of the images of all groups.
    """
    rest = np.array([said[image] for image in sorted(images - have_truth) if image in said])
    if not len(rest):
        truths = np.array([true[image] for image in sorted(images) if image in true])
        return replace(plain_mean(truths, level), labelled=len(truths))
    both = sorted(true.keys() & said.keys())
    own = [image for image in both if image in images]
    if len(own) >= FEWEST_OWN:
        pairs = np.array([(true[image], said[image]) for image in own])
        return tuned_mean(pairs[:, 0], pairs[:, 1], rest, level)
    predicted = np.concatenate([rest, [said[image] for image in own]])
    differences = np.array([true[image] - said[image] for image in both])
    if len(differences) < 2:
        return plain_mean(predicted, level)
    bias, spread = float(differences.mean()), float(differences.std(ddof=1))
    return prediction_powered_mean(predicted, bias, spread, len(differences), level)


def _by_card(
    values: Mapping[str, float],
    in_px: Mapping[str, float],
    key: Key,
    level: float,
    part: str,
    intervals: Intervals | None,
) -> Mean:
    """Return the mean of predictions, rectified by the held-out images of the card."""
    name, measure = key
    predicted = np.array(list(values.values()))
    kept = None
    if intervals:
        kept = (
            intervals.residuals(part, name, measure)
            if measure
            else intervals.residuals(BETWEEN, "", name)
        )
    if kept is None or kept.labelled < 2:
        return plain_mean(predicted, level)
    in_pixels = float(np.mean(list(in_px.values())))
    scale = float(predicted.mean()) / in_pixels if in_pixels else 1.0
    return prediction_powered_mean(
        predicted, kept.bias * scale, kept.spread * abs(scale), kept.labelled, level
    )


def written_mean(found: GroupMean, by: str | None) -> dict[str, object]:
    """Return a row of groups.csv."""
    mean = found.mean
    row: dict[str, object] = {"group": found.group} if by else {}
    return row | {
        "class": found.name,
        "measure": found.measure or "value",
        "mean": float(f"{mean.value:.6g}"),
        "low": float(f"{mean.low:.6g}"),
        "high": float(f"{mean.high:.6g}"),
        "images": mean.images,
        "labelled": mean.labelled,
    }

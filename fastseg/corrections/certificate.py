"""What an audit promises: the plan, decided before anyone looks, and the certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..metrics.bounds import Certified, certified_part, mean_bound
from .labelled import Predicted

GIVEN = {"asked": "--audit", "error": "--error", "confidence": "--confidence", "seed": "--seed"}
WHAT = {
    "folder": "folder",
    "source": "export",
    "images": "number of images",
    "sample": "choice of images",
}


@dataclass(frozen=True)
class Plan:
    """What is decided before anyone looks at a label: written to audit.json, and never changed."""

    folder: str
    source: str  # the export: its folder's name and 12 digits of its model's SHA-256
    images: int
    error: float  # largest mean error of the certified part
    confidence: float
    seed: int
    sample: list[str]  # names of the images to audit, in the order of the draw
    begun: str  # ISO 8601, UTC
    asked: int = 0  # images to audit, as given: more than there are, perhaps; 0 if not recorded

    def conflict(self, other: Plan) -> str:
        """Say what the plan `other` has differently; "" if it is the same one."""
        mine, theirs = asdict(self), asdict(other)
        if not theirs["asked"]:
            del mine["asked"]
        different = [key for key in mine if theirs[key] != mine[key] and key != "begun"]
        for key in (key for key in GIVEN if key in different):
            return f"{GIVEN[key]} {theirs[key]}, not {mine[key]}"
        return f"another {WHAT[different[0]]}" if different else ""


@dataclass(frozen=True)
class Certificate:
    """What an audit says about the labels of a folder.

    An image's error is 1 - Dice of the foreground, all classes pooled, or 1 for a wrong class: see
    `metrics.risk.actual_error`.
    """

    images: int
    audited: int
    error: float
    confidence: float
    found: float  # mean error of the audited predictions
    bound: float  # upper bound of the mean error of all predictions
    corrected_bound: float  # the same with the audited labels corrected
    part: Certified
    review: int  # images that are not certified, and nobody has looked at

    def sentences(self) -> Iterator[str]:
        """Yield what is known, in words."""
        sure = f"with {100 * self.confidence:.4g} % confidence"
        yield (
            f"all {self.images} labels: mean error at most {self.bound:.4f} as predicted, at most "
            f"{self.corrected_bound:.4f} with the audited ones corrected, {sure} "
            f"({self.audited} audited: {self.found:.4f})"
        )
        if self.part.size:
            which = (
                "all"
                if self.part.size == self.images
                else f"the {self.part.size} of smallest expected error"
            )
            yield (
                f"certified: {which}, mean error at most {self.error:g} {sure} "
                f"({self.part.audited} of them audited); {self.review} are left to review"
            )
        else:
            yield (
                f"nothing could be certified at {self.error:g}: {self.review} images are left to "
                "review; audit more images, or allow a larger --error, in another --out"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, with the sentences."""
        return {**asdict(self), "sentences": list(self.sentences())}


@dataclass(frozen=True)
class AtBest:
    """What an audit would say if it found no error at all: known before anyone looks."""

    bound: float  # upper bound of the mean error of all predictions
    certified: int  # images
    needed: int  # images to audit, so that this many without an error certify any

    def sentence(self, plan: Plan) -> str:
        """Say in words what is the most that the audit can give."""
        sure = f"with {100 * plan.confidence:.4g} % confidence"
        audited = f"{len(plan.sample)} audited images"
        bound = f"a mean error of at most {self.bound:.4f} {sure}"
        more = f"--audit {self.needed}, in another --out"
        if self.certified:
            return f"at best, {audited} give {bound}"
        if self.bound > plan.error:
            return (
                f"so few can certify nothing at {plan.error:g}: {audited} without any error give "
                f"{bound}; audit {self.needed} or more ({more})"
            )
        return (
            f"at best, {audited} give {bound}, but certify no part at {plan.error:g}, since the "
            f"export itself expects larger errors; that takes {self.needed} ({more})"
        )


def at_best(plan: Plan, predicted: Sequence[Predicted], order: np.ndarray) -> AtBest:
    """Return what the audit would say without any error.

    `order` are the indices of all images, int (N,), in the order of the draw, the audited ones
    first.
    """
    delta, count = 1 - plan.confidence, len(predicted)
    expected = np.array([image.expected_error for image in predicted])

    def certified(size: int) -> int:
        drawn = order[:size]
        return certified_part(expected, drawn, np.zeros(size), plan.error, delta).size

    low, high = 0, count  # an audit of all images leaves nothing open
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(middle) else (middle, high)
    bound = float(mean_bound(np.zeros(len(plan.sample)), count, delta))
    return AtBest(bound, certified(len(plan.sample)), high)


def certify(
    plan: Plan,
    predicted: Sequence[Predicted],
    errors: Mapping[str, float],
    looked_at: set[str],
) -> Certificate:
    """Return the certificate, given the errors of the drawn images by name.

    `looked_at` are all images that a person has looked at: more than the drawn ones, perhaps.
    """
    found = np.array([errors[name] for name in plan.sample])
    delta, count = 1 - plan.confidence, len(predicted)
    places = {image.name: i for i, image in enumerate(predicted)}
    drawn = np.array([places[name] for name in plan.sample])
    expected = np.array([image.expected_error for image in predicted])
    bound = float(mean_bound(found, count, delta))
    part = certified_part(expected, drawn, found, plan.error, delta)
    certified = {predicted[i].name for i in np.argsort(expected, kind="stable")[: part.size]}
    return Certificate(
        images=count,
        audited=len(found),
        error=plan.error,
        confidence=plan.confidence,
        found=float(found.mean()),
        bound=bound,
        corrected_bound=max(0.0, bound - float(found.sum()) / count),
        part=part,
        review=count - len(certified | looked_at),
    )

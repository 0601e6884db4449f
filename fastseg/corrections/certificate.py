"""What an audit promises: the plan, decided before anyone looks, and the certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..metrics.bounds import Certified, certified_part, mean_bound
from .labelled import Predicted


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

    def conflict(self, other: Plan) -> str:
        """Return the name of what another plan has differently; "" if it is the same one."""
        theirs = asdict(other)
        return next((key for key, value in asdict(self).items() if theirs[key] != value), "")


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

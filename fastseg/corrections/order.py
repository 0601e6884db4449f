"""`next`: which images to label next, by what an export expects of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.contents import digests
from ..data.pairing import images_below
from ..errors import DataError, TaskError, choose
from ..exports.card import Card
from ..exports.read import opened
from ..metrics.risk import ERROR_RATE, review_threshold
from ..tasks import Item, Task
from ..utils.choices import check_runtime
from ..utils.io import has_files
from .freezing import never_training
from .locate import Listing

if TYPE_CHECKING:
    import numpy as np

    from ..inference.predictor import Predictor
    from .looks import Looks

log = logging.getLogger(__name__)

ORDERS = ("auto", "mixed", "error", "diversity", "rarity", "random")
# No order was clearly better than chance in trials on real eyes and faces (see the guide to
# labelling), and images that are drawn at random stay representative, for the held-out part, too.
AUTO = "random"
# Labelled images that the others are compared with, at most: evenly spread over all of them.
MOST_CENTRES = 2000


@dataclass(frozen=True)
class Candidate:
    """An image to label next."""

    image: Path
    expected_error: float  # 0 to 1, by the export itself, see `metrics.risk.expected_error`
    needs_review: bool | None  # at the usual error rate; None if the export has no thresholds
    reason: str
    is_labelled: bool = False
    shares: dict[str, float] = field(default_factory=dict)  # predicted, by class

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "image": str(self.image),
            "expected_error": round(self.expected_error, 6),
            "needs_review": self.needs_review,
            "reason": self.reason,
            "labelled": self.is_labelled,
            "shares": {name: round(share, 6) for name, share in self.shares.items()},
        }


class Chosen(list[Candidate]):
    """The images to label next, the first one first."""

    def __init__(self, found: Iterable[Candidate], export: Path, left_out: dict[Path, str]):
        super().__init__(found)
        self.export = export  # by which they were chosen: its folder, or its pickle
        self.left_out = left_out  # images that need no label, and why


def next_images(
    task: str | Path | Task | None,
    data: Path | str | None = None,
    export: Path | str | None = None,
    n: int = 20,
    *,
    by: str = "auto",
    photos: Path | str | None = None,
    labelled: bool = False,
    seed: int = 0,
    device: str | None = None,
    bs: int = 8,
    trust: bool = False,
    runtime: str = "auto",
    precision: str | None = None,
) -> Chosen:
    """Return the `n` images that are best labelled next, the first one first.

    They are images without a label in the task's data folder `data`, or all images below the folder
    `photos`; with `labelled`, also those with a label, whose labels or predictions are worth a
    look. `by` is one of `ORDERS`: "error" (largest expected error first), "diversity" (unlike the
    labelled images and each other by the backbone's features), "rarity" (most of the classes that
    are rare), "random" (by `seed`), "mixed" (diverse ones among those of large expected error), or
    "auto", see `AUTO`. The same files, export and arguments give the same order. Files that cannot
    be read are left out, with a warning, and so are images that look the same as a held-out one:
    they would never train, see `data.parts`.
    Raises `DataError` "no-unlabelled" if there is nothing to label, and `FastsegError` kinds.
    """
    if n < 1:
        raise TaskError(f"--n {n} asks for no image; give at least 1", "option-range")
    by = choose("order", by, ORDERS, TaskError)
    check_runtime(runtime, precision)
    task, source, card = opened(task, export)
    if photos is not None and card.has_data_in(Path(photos)):  # the data, by their folder
        data, photos = photos, None
    root, files, items = _places(task, card, data, photos, labelled)
    known = {item.image for item in items}
    folder = source.parent if source.suffix == ".pkl" else source
    apart = never_training(task, root, [file for file in files if file not in known], [folder])
    if photos is not None:
        there = {*digests(items, task.reading)}
        contents = zip(files, digests([Item(file, 0) for file in files], task.reading))
        labelled_too = {file for file, content in contents if content in there}
        apart |= dict.fromkeys(labelled_too - apart.keys(), "is in the data, with a label")
    files = [file for file in files if file not in apart]
    if not files:
        raise DataError(
            f"{photos or root}: none of the {len(apart)} images is worth a label: each is in the "
            "data already, or looks the same as a held-out one and would never train; add others",
            "no-unlabelled",
        )
    from ..inference.loading import load

    predictor = load(source, device, trust, None, runtime, precision, images=len(files), bs=bs)
    predictor.adapt(files)
    found = candidates(predictor, files, [item.image for item in items], n, by=by, seed=seed, bs=bs)
    return Chosen(found, source, apart)


def candidates(
    predictor: Predictor,
    files: Sequence[Path],
    labelled: Sequence[Path],
    n: int,
    *,
    by: str = "auto",
    seed: int = 0,
    bs: int = 8,
) -> list[Candidate]:
    """Return the best `n` of some image files, by an export that is loaded: see `next_images`.

    `labelled` are the images with a label, which the others are compared with. Raises the
    `DataError` of a file if none can be read.
    """
    from .looks import look

    by, task, known = AUTO if by == "auto" else by, predictor.task, {*labelled}
    looks = look(predictor, files, bs)
    if not looks.files:
        raise next(iter(looks.failed.values()))
    _warn_of_failed(looks)
    compared = None
    if by not in ("error", "random"):
        chosen = {*files}
        others = [image for image in labelled if image not in chosen]
        step = max(1, -(-len(others) // MOST_CENTRES))
        compared = look(predictor, others[::step], bs)
    order = _order(looks, compared, by, n, task.background, seed)
    threshold = review_threshold(predictor.card.review, ERROR_RATE)
    describe = _Reasons(by, task, looks, compared)
    return [
        Candidate(
            looks.files[i],
            float(looks.errors[i]),
            None if threshold is None else bool(looks.errors[i] > threshold),
            describe(int(i)),
            looks.files[i] in known,
            dict(zip(task.classes, map(float, looks.shares[i]))),
        )
        for i in order[:n]
    ]


def _places(
    task: Task,
    card: Card,
    data: Path | str | None,
    photos: Path | str | None,
    labelled: bool,
) -> tuple[Path, list[Path], list[Item]]:
    """Return the data folder, the images to order, and the labelled ones.

    Raises `DataError` if there is nothing to order.
    """
    root = Path(data or card.data_folder or task.default_data)
    if data is None and not root.is_dir():
        root = task.default_data
    items: list[Item] = []
    if photos is None or data is not None or has_files(root):
        items = [item for item in task.listed(root)[0] if item.split != "test"]
    if photos is None:
        files, where = Listing.of(task, root).unlabelled(), root
    else:
        where = Path(photos)
        if not where.is_dir():
            raise DataError(f"{where}: no such folder; check the path", "no-such-path")
        of_labels = {item.image.resolve() for item in items}
        files = [file for file in images_below(where) if file.resolve() not in of_labels]
    if labelled:
        files = sorted({*files, *(item.image for item in items)})
    if not files:
        raise DataError(
            f"{where}: has no image without a label; name a folder of photographs, or give "
            "--labelled to order the labelled ones",
            "no-unlabelled",
        )
    return root, files, items


def _order(
    looks: Looks,
    compared: Looks | None,
    by: str,
    n: int,
    background: int | None,
    seed: int,
) -> np.ndarray:
    from . import selection

    centres = compared.features if compared else None
    if by == "error":
        return selection.by_error(looks)
    if by == "random":
        return selection.at_random(len(looks.files), seed)
    if by == "rarity":
        common = compared.shares.mean(0) if compared and compared.files else None
        return selection.by_rarity(looks, background, common)
    if by == "diversity":
        return selection.by_diversity(looks.features, n, centres)
    return selection.by_error_and_diversity(looks, n, centres)


@dataclass
class _Reasons:
    """Says in some words why an image was chosen."""

    by: str
    task: Task
    looks: Looks
    compared: Looks | None

    def __call__(self, i: int) -> str:
        if self.by == "random":
            return "drawn at random"
        if self.by == "diversity":
            return self._unlike
        if self.by == "rarity":
            return self._rare(i)
        error = f"expected error {self.looks.errors[i]:.2f}"
        return f"{error}, {self._unlike}" if self.by == "mixed" else error

    @property
    def _unlike(self) -> str:
        has_labelled = self.compared and self.compared.files
        return f"unlike the {'labelled images' if has_labelled else 'others'}"

    def _rare(self, i: int) -> str:
        usual = self.compared if self.compared and self.compared.files else self.looks
        common, own = usual.shares.mean(0), self.looks.shares[i]
        classes = [c for c in range(len(own)) if c != self.task.background and own[c] > 0]
        if not classes:
            return "shows no rare class"
        best = max(classes, key=lambda c: own[c] / max(common[c], 1e-12))
        what = "" if self.task.has_masks else "probably "
        return f"{what}{self.task.classes[best]} {own[best]:.1%}, usually {common[best]:.1%}"


def _warn_of_failed(looks: Looks) -> None:
    if looks.failed:
        first: Sequence[DataError] = list(looks.failed.values())
        log.warning(
            "%d of %d images cannot be read and are left out: %s",
            len(looks.failed),
            len(looks.failed) + len(looks.files),
            first[0],
        )

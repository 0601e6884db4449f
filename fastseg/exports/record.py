"""The training record of a learner, for the card of its export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..tasks import Task


@dataclass
class TrainingRecord:
    """What a learner was built from (`learn.record`). Training adds `course` and `history`."""

    task: Task
    data: str  # folder with the images, absolute
    size: tuple[int, int]  # (height, width) in px
    seed: int
    loss: str
    opt: str
    bs: int  # at most the number of training images
    weights_origin: str
    licence: str = ""  # of the weights that training began with, where it is known
    flip_shift: int = 0  # px by which the mirror image's mask moves right
    depth: int | None = None  # bits of the values of 16-bit images, if there are any
    spacing: tuple[float, float] | None = None  # see the card
    precision: str | None = None  # as asked for
    planned_bs: int | None = None  # by `--bs auto`
    course: dict[str, Any] = field(default_factory=dict)  # options of the training, and seconds
    history: list[dict[str, float]] = field(default_factory=list)  # one dict an epoch

    @property
    def is_pretrained(self) -> bool:
        """Whether training began with pretrained weights."""
        return not self.weights_origin.startswith("random")


def record_of(learn: Learner) -> TrainingRecord:
    """Return the record of a learner made by `fastseg.learner`. Raises `ExportError` for others."""
    record = getattr(learn, "record", None)
    if not isinstance(record, TrainingRecord):
        raise ExportError(
            "only learners made by fastseg.learner can be saved as an export; "
            "use learn.export() for others",
            "foreign-learner",
        )
    return record

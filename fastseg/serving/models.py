"""What answers look like: the models that the OpenAPI document describes."""

from __future__ import annotations

from enum import Enum
from typing import Literal, Optional, Union

from pydantic import BaseModel, Field


class Form(str, Enum):
    """What a request asks for, in `?as=`."""

    json = "json"
    rle = "rle"
    mask = "mask"
    overlay = "overlay"


class Fault(BaseModel):
    code: str = Field(description="Stable; compare this one.")
    message: str


class Failure(BaseModel):
    """Any answer but 2xx."""

    error: Fault


class RunLengths(BaseModel):
    """Compressed run lengths of COCO, which `pycocotools.mask.decode` reads."""

    size: tuple[int, int] = Field(description="Height, width.")
    counts: str


class ClassMeasures(BaseModel):
    name: str
    code: int = Field(description="The class's value in masks of codes.")
    area_px: int
    share: float = Field(description="Of the image's pixels, 0 to 1.")
    confidence: Optional[float] = Field(
        description="Mean calibrated probability where this class is predicted; null without any."
    )


class ClassRuns(ClassMeasures):
    segmentation: RunLengths


class _Judged(BaseModel):
    export: str
    model: str = Field(description="First 12 digits of the SHA-256 of the model's weights.")
    width: int
    height: int
    confidence: float = Field(description="Mean calibrated probability of the predicted classes.")
    entropy: float = Field(description="Mean, in nats.")
    expected_error: float = Field(description="1 - the Dice, or the accuracy, to be expected.")
    needs_review: Optional[bool] = Field(
        description="Whether a person should look; null where the export has no thresholds."
    )


class MaskResult(_Judged):
    """Measures of a mask."""

    kind: Literal["segment"]
    classes: list[ClassMeasures]


class RunsResult(_Judged):
    """Measures and pixels of a mask: each class but the background, if it has pixels."""

    kind: Literal["segment-rle"]
    classes: list[ClassRuns]


class LabelResult(_Judged):
    """The class of an image."""

    kind: Literal["classify"]
    label: str
    code: int
    probabilities: dict[str, float]


Result = Union[MaskResult, RunsResult, LabelResult]


class Results(BaseModel):
    """Answers to several addresses, in their order."""

    results: list[Union[MaskResult, RunsResult, LabelResult, Failure]]


class Addresses(BaseModel):
    """Images to fetch; needs `--allow-urls`."""

    urls: list[str] = Field(min_length=1, max_length=16)


class ExportInfo(BaseModel):
    name: str
    task: str
    kind: Literal["segment", "classify"]
    classes: list[str]
    palette: Optional[list[tuple[int, int, int]]]
    size: tuple[int, int] = Field(description="Height, width at which the model sees images.")
    model: str


class ExportList(BaseModel):
    exports: list[ExportInfo]


class Health(BaseModel):
    status: Literal["ok"]


class ExportState(BaseModel):
    ready: bool
    model: Optional[str]
    fault: Optional[str] = Field(
        description="Why the files on disk are not used; the version before them still is."
    )


class Readiness(BaseModel):
    ready: bool
    draining: bool
    exports: dict[str, ExportState]

"""The plain types that rooms share: an image with its label, a recipe, colours, and what a task and a prediction look like to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from fastai.data.block import TransformBlock

Colour = tuple[int, int, int]

IGNORE = 255  # the code of unlabelled pixels: left out of losses and metrics
Drawing = tuple[
    "np.ndarray", "np.ndarray | int"
]  # image uint8 (H, W, 3); codes uint8 (H, W), or a class index


@dataclass(frozen=True)
class Item:
    """One labelled image. `group` names what must stay on one side of the split; `source` which layout it came from."""

    image: Path
    label: Path | int
    split: str | None = None  # "train", "valid", "test", or None: drawn by seed
    group: str = ""
    source: str = ""


@dataclass(frozen=True)
class Recipe:
    """The training defaults of a task: what `fastseg fit TASK` does when nothing else is said."""

    size: tuple[int, int]  # (height, width) in px at which the model sees images
    arch: str = "mobilenetv2_100"
    decoder: str = "light"
    decoder_options: Mapping[str, object] = field(
        default_factory=dict
    )  # arguments of the decoder's class
    epochs: int = 12
    freeze_epochs: int = 1  # head-only epochs before the rest, when the backbone is pretrained
    lr: float = 2e-3
    bs: int = 8
    loss: str = "ce+dice"
    opt: str = "adamw"
    ema: float = (
        0.0  # share of the running average of weights that each step keeps; 0: no averaging
    )
    windows: float = 0.0  # share of the epochs, the first ones, that see windows of half the image's height and width
    progressive: float = (
        0.0  # share of the epochs, the first ones, that see the images at half size
    )
    mixup: float = 0.0  # alpha of the beta distribution by which two images are mixed
    resize: str = "squish"  # "squish" resamples to `size`; "crop" crops or zero-pads, for labels that resampling would change
    flip: bool = True
    flip_shift: int = 0  # px by which mirrored masks move right: -1 where annotation cut coordinates down to whole pixels
    rotate: float = 10.0  # degrees
    zoom: float = 0.2  # scale drawn from 1 - zoom to 1 + zoom
    light: float = 0.2  # brightness and contrast change by up to this share
    colour: float = (
        0.0  # saturation changes by up to this share, and each channel by up to half of it
    )
    cutout: float = (
        0.0  # side of a grey box laid over each training image, as a share of the image's
    )
    blur_share: float = 0.0  # share of training images that are blurred and labelled `blur_class`: where sharpness is the label
    blur_sigma: tuple[float, float] = (0.4, 2.0)  # px, of the Gaussian
    blur_class: int = 0
    tta: bool = (
        False  # whether prediction averages the image's and its mirror image's probabilities
    )


class Dataset(Protocol):
    """What loaders need of a task."""

    name: str
    classes: tuple[str, ...]
    recipe: Recipe
    has_masks: bool

    def items(self, data: Path | str) -> list[Item]: ...
    def image(self, item: Item | Path | str | np.ndarray) -> np.ndarray: ...
    def label(self, item: Item) -> np.ndarray | int: ...
    def class_name(self, item: Item) -> str: ...
    def label_block(self) -> TransformBlock: ...
    def split(self, items: Sequence[Item], seed: int = 42) -> tuple[list[int], list[int]]: ...
    def fold(
        self, items: Sequence[Item], number: int, folds: int, seed: int = 42
    ) -> tuple[list[int], list[int]]: ...


class Painted(Protocol):
    """What is drawn of a prediction: image uint8 (H, W, 3) and codes uint8 (H, W)."""

    image: np.ndarray
    codes: np.ndarray

"""The shared types: a labelled image, a recipe, a colour, the interface of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from fastai.data.block import TransformBlock

Colour = tuple[int, int, int]  # red, green, blue, each 0 to 255

STATE = ".fastseg"  # the folder, in a data folder, of what people decide about its labels

IGNORE = 255  # the code of unlabelled pixels: left out of losses and metrics

# A synthetic example: image uint8 (H, W, 3), and codes uint8 (H, W) or a class index.
Drawing = tuple["np.ndarray", "np.ndarray | int"]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image.

    Items of one `group` stay on one side of the split. `source` is the name of the layout that the
    files were found by. `label` is a mask file or a class index. Where the mask was drawn from a
    label file of another tool, `label` is in the cache, and `origin` says where it comes from.
    """

    image: Path
    label: Path | int
    split: str | None = None  # "train", "valid", "test", or None: drawn by seed
    group: str = ""
    source: str = ""
    origin: str = ""  # the label file and the place in it; "" where `label` is the user's own file

    @property
    def shown_label(self) -> str:
        """The label for messages: the user's own file, or the class index."""
        return self.origin or str(self.label)

    @property
    def is_corrected(self) -> bool:
        """Whether `label` is a mask of DIR/.fastseg: class indices that a person saved."""
        return bool(self.origin) and isinstance(self.label, Path) and STATE in self.label.parts

    @property
    def files(self) -> tuple[Path | str | int, ...]:
        """The image and the label, for keys that change when a file does (`utils.journal.stamp`).

        A drawn mask counts by its name and folder, which tell its content: it may have been drawn
        again. A corrected one (DIR/.fastseg) is a file like any other.
        """
        if self.origin and isinstance(self.label, Path) and not self.is_corrected:
            return self.image, f"{self.label.parent.name}/{self.label.name}"
        return self.image, self.label


@dataclass(frozen=True)
class Recipe:
    """The training defaults of a task: what `fastseg fit TASK` does without options."""

    size: tuple[int, int]  # (height, width) in px at which the model sees images
    arch: str = "mobilenetv2_100"
    decoder: str = "light"
    decoder_options: Mapping[str, object] = field(default_factory=dict)  # of the decoder's class
    epochs: int = 12
    freeze_epochs: int = 1  # head-only epochs before the rest, when the backbone is pretrained
    lr: float = 2e-3
    bs: int = 8
    loss: str = "ce+dice"
    opt: str = "adamw"

    # share of the running average of weights that each step keeps; 0: no averaging
    ema: float = 0.0

    # share of the epochs, the first ones, that see windows of half the image's height and width
    windows: float = 0.0

    # share of the epochs, the first ones, that see the images at half size
    progressive: float = 0.0

    mixup: float = 0.0  # alpha of the beta distribution by which two images are mixed

    # "squish" resamples to `size`; "crop" crops or zero-pads, for labels that resampling changes
    resize: str = "squish"

    flip: bool = True

    # px by which mirrored masks move right: -1 if annotations were truncated to whole pixels
    flip_shift: int = 0

    rotate: float = 10.0  # degrees
    zoom: float = 0.2  # scale drawn from 1 - zoom to 1 + zoom
    light: float = 0.2  # brightness and contrast change by up to this share

    # saturation changes by up to this share, and each channel by up to half of it
    colour: float = 0.0

    # side of a grey box laid over each training image, as a share of the image's
    cutout: float = 0.0

    # share of training images that are blurred and labelled `blur_class`, by a Gaussian whose sigma
    # in px is drawn from `blur_sigma`: for tasks whose label is the sharpness
    blur_share: float = 0.0
    blur_sigma: tuple[float, float] = (0.4, 2.0)
    blur_class: int = 0

    # whether prediction averages the probabilities of the image and of its mirror image
    tta: bool = False


class Dataset(Protocol):
    """The part of a task that loaders need; see `tasks.base.Task` for the meaning of each."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def has_masks(self) -> bool: ...
    @property
    def reading(self) -> Any: ...  # `data.reading.Reading`
    @property
    def grouped(self) -> bool: ...
    @property
    def channels(self) -> int: ...
    @property
    def shown_channels(self) -> tuple[int, ...]: ...

    def definition(self) -> str: ...
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
    """The part of a prediction that `render` needs."""

    @property
    def image(self) -> np.ndarray:
        """The image as it is shown, uint8 (H, W, 3)."""

    @property
    def codes(self) -> np.ndarray:
        """Its mask's codes, uint8 (H, W)."""

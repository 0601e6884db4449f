"""The formats that an export is converted to: what each one writes, and how the result is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ExportError, ModelError, choose
from ..exports.card import ONNX, Card
from ..exports.read import verify_file
from ..tasks import Item, Task
from ..utils.choices import TARGETS

if TYPE_CHECKING:
    from ..inference.predictor import Predictor


class Output(NamedTuple):
    """What a converted model says about one image."""

    codes: np.ndarray  # uint8 (H, W) at the image's own size; () for one class of the whole image
    logits: np.ndarray  # float32 (C, h, w) at the model's size, or (C,)


Runner = Callable[[np.ndarray], Output]  # of an image, uint8 (H, W, channels) of any size


@dataclass(frozen=True)
class Source:
    """The export that is converted, and the images that a target may need."""

    export: Path
    card: Card
    task: Task  # with the images' declarations that the export was trained with
    training_images: Callable[[], Sequence[Item]]  # for calibration; raises `DataError`
    web_runtime: Path | None = None  # onnxruntime-web, an archive or a folder; None: npm has it

    @cached_property
    def predictor(self) -> Predictor:
        """The export's own predictions: one pass of the network on the CPU in float32.

        Images are not averaged with their mirror images: no converted model does that.
        """
        from ..inference.loading import load

        runtime = "onnx" if ONNX in self.card.sha256 and self.onnx.is_file() else "torch"
        options: dict[str, Any] = dict(
            runtime=runtime, precision="float32", reason="for the comparison"
        )
        # For a single image: nothing is measured, and ONNX needs no torch.
        return load(self.export, "cpu", tta=False, images=1, **options)

    @property
    def onnx(self) -> Path:
        """The export's own ONNX file, which may be missing."""
        return self.export / ONNX

    def require_onnx(self) -> Path:
        """Return the export's ONNX file. Raises `ExportError` if there is none, or another one."""
        if ONNX not in self.card.sha256:
            raise ExportError(
                f"{self.export}: has no {ONNX}, since ONNX lacks operations of its network; "
                "choose --to torch",
                "no-onnx",
            )
        return verify_file(self.onnx, self.card)


class Target(ABC):
    """A format.

    A module of this package has one as `target`; `utils.choices.TARGETS` names the module.
    """

    name: str
    extra: str | None = None  # of pyproject.toml
    packages: tuple[str, ...] = ()  # modules that the extra installs
    pixels_decide = True  # whether the gate limits the share of pixels that differ
    example: str | None = None  # the file in `examples` that becomes example.py
    unrunnable: str | None = None  # why the model cannot be run here, so that nothing is compared
    files: tuple[str, ...]  # the model's files or folders, below the folder that is written
    usage: tuple[str, ...] = ()  # lines of README.md, for what has no inputs and outputs
    as_predict = False  # whether images are read, and averaged with mirror images, as by `predict`

    def require(self) -> None:
        """Raise `ModelError` unless the packages are installed that the format needs."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ModelError(
                f"--to {self.name} needs {' and '.join(missing)}; install the extra {self.extra}: "
                f"pip install 'fastseg[{self.extra}]'",
                "no-converter",
            )

    @abstractmethod
    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        """Write `files` into `folder`, and yield what parity.json says about the format.

        Each attempt is judged. The next one, which replaces the files, is asked for only if the
        gate refuses it.
        """

    @abstractmethod
    def runner(self, source: Source, folder: Path) -> Runner:
        """Return a function that runs the model in `folder`; not called if it is `unrunnable`."""


def get(name: str) -> Target:
    """Return the target of this name. Raises `ModelError` for unknown names."""
    module = TARGETS[choose("target", name, TARGETS)]
    target: Target = import_module(f"{__package__}.{module}").target
    return target

"""Core ML: an ML program for Apple's devices, written on any system, and run on macOS or iOS only.

Without macOS, its masks are not compared: what is checked is that its specification has the inputs
and outputs that it should have.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from ..data.reading import RGB
from ..errors import ExportError, brief
from ..exports.read import network_of
from .targets import Runner, Source, Target

FILE = "model.mlpackage"
INPUT, CODES, LOGITS = "image", "codes", "logits"


class CoreMl(Target):
    """A program for one image at the network's size, which the caller (Vision) resizes."""

    name = "coreml"
    extra = "coreml"
    packages = ("coremltools",)
    example = "example_coreml.py"
    unrunnable = "Core ML runs on macOS and iOS only; its specification was checked"
    files = (FILE,)
    usage = (
        f"Input `{INPUT}`: one image of the network's size; resize it before, as example.py does.",
        f"Output `{CODES}`: a mask of codes at the network's size, or the class of the image.",
        f"Output `{LOGITS}`: the scores at the network's size.",
    )

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        with _quiet():
            import coremltools as ct

            program = _program(source)
        try:
            with _quiet():
                model = ct.convert(
                    program,
                    inputs=[_input(source)],
                    outputs=[ct.TensorType(name=CODES), ct.TensorType(name=LOGITS)],
                    convert_to="mlprogram",
                    minimum_deployment_target=ct.target.iOS16,
                )
                model.short_description = f"fastseg: {', '.join(source.card.classes)}"
                model.save(str(folder / FILE))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise ExportError(
                f"{source.export}: coremltools cannot convert its network ({brief(error)}); "
                "choose --to onnx",
                "not-convertible",
            ) from error
        _check(source, folder / FILE)
        height, width = source.card.size
        yield {
            "coremltools": ct.__version__,
            "deployment target": "iOS 16, macOS 13",
            "image": f"{height} x {width} px (height x width), resized by the caller",
        }

    def runner(self, source: Source, folder: Path) -> Runner:
        raise NotImplementedError


def _program(source: Source) -> Any:
    """Return the network as TorchScript, the only form that coremltools reads completely.

    Of the programs of `torch.export`, coremltools 9 lacks operators such as `alias`.
    """
    import torch

    from .deployed import Deployed

    class Fixed(torch.nn.Module):
        def __init__(self, deployed: Deployed) -> None:
            super().__init__()
            self.deployed = deployed

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.deployed.logits(image)
            return logits.argmax(1).to(torch.int32), logits

    card = source.card
    deployed = Fixed(Deployed(network_of(source.export, card), card)).eval()
    with torch.no_grad():
        return torch.jit.trace(deployed, torch.zeros(_shape(source)), check_trace=False)


def _shape(source: Source) -> tuple[int, int, int, int]:
    height, width = source.card.size
    return 1, source.card.channels, height, width


def _input(source: Source) -> Any:
    """Return the type of the input: an image, or an array for images that are not RGB."""
    import coremltools as ct

    if source.card.channels == RGB:
        return ct.ImageType(name=INPUT, shape=_shape(source), color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=INPUT, shape=_shape(source))


def _check(source: Source, package: Path) -> None:
    """Raise `ExportError` unless a written package has the inputs and outputs that it should."""
    import coremltools as ct

    with _quiet():
        described = ct.utils.load_spec(str(package)).description
    (image,), outputs = described.input, {output.name: output for output in described.output}
    sizes = image.type.imageType
    _, channels, height, width = _shape(source)
    found = (
        image.name,
        (sizes.height, sizes.width) if channels == RGB else None,
        sorted(outputs),
        list(outputs[LOGITS].type.multiArrayType.shape)[:2] if LOGITS in outputs else None,
    )
    size = (height, width) if channels == RGB else None
    wanted = (INPUT, size, sorted((CODES, LOGITS)), [1, len(source.card.classes)])
    if found != wanted:
        raise ExportError(
            f"{source.export}: coremltools wrote another interface ({found}) than expected "
            f"({wanted}); choose --to onnx",
            "other-interface",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence coremltools and torch: warnings about versions, and bars on standard error."""
    log = logging.getLogger("coremltools")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(None), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


target = CoreMl()

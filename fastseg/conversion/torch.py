"""torch: a program by `torch.export`, which needs torch alone: no fastseg, timm or fastai."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError, brief
from ..exports.read import network_of
from .targets import Output, Runner, Source, Target

FILE = "model.pt2"
SPARE = 5  # px by which the traced images are larger than the network's: no size stands out


class Torch(Target):
    """A program for images of any size and number, on CPUs and GPUs."""

    name = "torch"
    example = "example_torch.py"
    files = (FILE,)

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        import torch

        from .deployed import Deployed

        card = source.card
        module = Deployed(network_of(source.export, card), card)
        height, width = (side + SPARE for side in card.size)
        images = torch.zeros(2, height, width + 1, card.channels, dtype=torch.uint8)
        free = torch.export.Dim.DYNAMIC
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about itself
            try:
                program = torch.export.export(
                    module, (images,), dynamic_shapes=({0: free, 1: free, 2: free},)
                )
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                raise ExportError(
                    f"{source.export}: torch.export cannot hold its network ({brief(error)}); "
                    "choose --to onnx",
                    "not-exportable",
                ) from error
            torch.export.save(program, folder / FILE)
        yield {"torch": torch.__version__}

    def runner(self, source: Source, folder: Path) -> Runner:
        import torch

        program = torch.export.load(folder / FILE).module()

        def run(image: np.ndarray) -> Output:
            with torch.inference_mode():
                codes, logits = program(torch.from_numpy(image.copy())[None])
            return Output(codes[0].numpy(), logits[0].numpy())

        return run


target = Torch()

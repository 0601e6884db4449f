"""html: the model as one file that opens by double click, see `one_file`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..exports.onnx import Session
from ..inference.prediction import PREDICTIONS
from .one_file import model_in, write_html
from .targets import Output, Runner, Source, Target
from .webruntime import NAME, VERSION, web_runtime

FILE = "model.html"


class Html(Target):
    """A page with the model and all that it needs."""

    name = "html"
    files = (FILE,)
    as_predict = True
    usage = (
        f"Open `{FILE}` by double click, in any browser of 2023 or later, and drop images. It "
        "needs no network, and sends nothing.",
        "`corrections.zip`, which it downloads, goes into the data by "
        "`fastseg add TASK corrections.zip`.",
        f"It contains {NAME} (MIT licence, Microsoft Corporation).",
    )

    def attempts(self, source: Source, folder: Path) -> Iterator[Mapping[str, Any]]:
        runtime = web_runtime(source.web_runtime)
        source.require_onnx()
        write_html(source.export, folder / FILE, runtime)
        yield {NAME: VERSION, "compared_by": "onnxruntime on the CPU, with the model in the file"}

    def runner(self, source: Source, folder: Path) -> Runner:
        with TemporaryDirectory() as place:
            model = Path(place) / "model.onnx"
            model.write_bytes(model_in(folder / FILE))
            session = Session(model)
        task, size = source.task, source.predictor.size

        def run(image: np.ndarray) -> Output:
            small, own = task.image_near(image, size)
            logits = session(small[None])[0]
            labels = PREDICTIONS[task.kind](task, image, logits, own).labels
            return Output(labels, logits)

        return run


target = Html()

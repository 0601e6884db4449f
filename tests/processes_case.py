"""Trains learners in as many processes as were started, and writes the first one's results.

`[torchrun --nproc-per-node N] processes_case.py CASES.json OUT`: CASES.json maps names to
{"task", "data", "options", "double"}, and "seconds" of a time budget if there is one. OUT/NAME.pt
gets weights and history, or the error's code.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fasttransform import Transform

from fastseg import tasks
from fastseg.engines.distributed import joined, world
from fastseg.errors import FastsegError
from fastseg.learners.options import FitOptions
from fastseg.learners.preparation import learner_of
from fastseg.training import budget, callbacks, fit
from fastseg.training.loop import train
from fastseg.training.resume import FitRun

torch.set_num_threads(1)


class Double(Transform):
    """Make images float64, after all other transforms."""

    order = 200

    def encodes(self, x: torch.Tensor):
        return x.double() if x.is_floating_point() else x


class DoubleRecord(Callback):
    """Let fastai's mean of the training losses be float64, too."""

    order = 51  # after the recorder

    def before_fit(self):
        self.recorder.smooth_loss.val = self.recorder.smooth_loss.val.double()


def within(case, seconds):
    """Return a learner that a plan for `seconds` has trained; only the first process may plan."""
    budget.epoch_seconds = lambda _: 12.0 if world().is_first else 1.0
    # after each epoch the first one finds that two fit, and the second one that nine do
    callbacks.TimeBudget._fitting = lambda *_: 2.0 if world().is_first else 9.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if world().is_first else None
        run = FitRun(folder, Path(case["data"]), FitOptions(**case["options"]))
        learn = fit._train_fold(tasks.get(case["task"]), run, 0, seconds)
        if folder is not None:
            written = {path.name for path in folder.glob("*/*")}
            assert written == {"plan.json", "checkpoint.pt", "progress.json"}
    return described(learn)


def trained(case):
    """Train a case; return its weights and history."""
    if "seconds" in case:
        return within(case, case["seconds"])
    options = FitOptions(**case["options"])
    learn = learner_of(tasks.get(case["task"]), case["data"], options)
    if case["double"]:
        learn.model.double()
        learn.loss_func.double()
        learn.dls.add_tfms([Double()], "after_batch")
        learn.add_cb(DoubleRecord())
    train(learn, options)
    return described(learn)


def described(learn):
    """Return what a training has led to."""
    steps = len(learn.recorder.lrs)
    return {
        "weights": {name: value.clone() for name, value in learn.model.state_dict().items()},
        "history": learn.record.history,
        "course": {key: v for key, v in learn.record.course.items() if key != "seconds"},
        "steps": steps,
        "size": learn.record.size,
        "names": [name for name, _ in learn.model.named_modules()],
        "kinds": sorted({type(module).__name__ for module in learn.model.modules()}),
    }


def main(cases: Path, out: Path) -> None:
    with joined("cpu"):
        for name, case in json.loads(cases.read_text()).items():
            try:
                result = trained(case)
            except FastsegError as error:
                result = {"error": error.code, "message": str(error)}
            if world().is_first:
                torch.save(result, out / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

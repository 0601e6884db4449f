"""Checkpoints for resuming a training: weights, optimizer, schedule, random state, history."""

from __future__ import annotations

import io
import os
import random
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastcore.foundation import L

from ..errors import DataError, brief
from ..utils.io import atomic_file

# State of callbacks: class name -> attributes that a checkpoint stores.
SAVED_ATTRIBUTES = {
    "AverageWeights": ("steps", "average"),
    "SaveModelCallback": ("best",),
    "EarlyStoppingCallback": ("best", "wait"),
    "TimeBudget": ("last", "since", "elapsed", "times"),
}


class Checkpoint(Callback):
    """Write `path`, if any, after each epoch of one stage of a training; begin where `saved` ends.

    `before` has the learning rate and history of the stages before this one; the training began at
    `began`, a time of `time.monotonic` that leaves out the interruptions. `rows(learn)` gives this
    stage's own rows of history.
    """

    order = 90  # after all callbacks that change the state: metrics, averages, best weights so far

    def __init__(
        self,
        path: Path | None,
        stage: int,
        saved: Mapping[str, Any] | None,
        before: Mapping[str, Any],
        began: float,
        rows: Callable[[Learner], list[dict[str, float]]],
    ):
        self.path, self.stage, self.saved, self.before, self.began, self.rows = (
            path,
            stage,
            saved,
            before,
            began,
            rows,
        )

    def __call__(self, event_name: str) -> None:
        if event_name in ("before_fit", "after_epoch"):
            # fastai's own `__call__` would replace the message of an error, such as "disk full".
            getattr(self, event_name)()

    def before_fit(self) -> None:
        if self.saved is None:
            return
        learn, saved = self.learn, self.saved
        learn.model.load_state_dict(saved["model"])
        state = dict(saved["opt"])
        learn.opt.load_state_dict({**state, "hypers": L(state["hypers"])})
        for callback in learn.cbs:
            for name, value in saved["callbacks"].get(type(callback).__name__, {}).items():
                setattr(callback, name, value)
        learn.recorder.smooth_loss.count, learn.recorder.smooth_loss.val = saved["smooth_loss"]
        _set_random_state(saved["random"], learn)

    def after_epoch(self) -> None:
        if self.path is None:
            return
        averaged = next(
            (cb for cb in self.learn.cbs if getattr(cb, "kept", None) is not None), None
        )
        write(
            self.path,
            {
                "stage": self.stage,
                "epoch": self.epoch + 1,
                "lr": self.before["lr"],
                "seconds": time.monotonic() - self.began,
                "precision": getattr(self.learn.model, "precision", None),
                "history": [*self.before["history"], *self.rows(self.learn)],
                "model": averaged.kept
                if averaged
                else self.learn.model.state_dict(),  # the average is only shown to the validation
                "opt": self.learn.opt.state_dict(),
                "random": _random_state(self.learn),
                "smooth_loss": (
                    self.recorder.smooth_loss.count,
                    self.recorder.smooth_loss.val,
                ),  # the training loss that is reported
                "callbacks": {
                    type(cb).__name__: {
                        name: getattr(cb, name) for name in SAVED_ATTRIBUTES[type(cb).__name__]
                    }
                    for cb in self.learn.cbs
                    if type(cb).__name__ in SAVED_ATTRIBUTES
                },
            },
        )


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, and flush it to the disk: it must survive a power cut."""
    buffer = io.BytesIO()  # torch's own writer cannot say that a disk is full
    torch.save(_without_classes(state), buffer)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the content of a checkpoint, or None if there is none.

    Runs no code in it. Raises `DataError` if damaged.
    """
    return loads(path.read_bytes(), path, device) if path.is_file() else None


def loads(data: bytes, path: Path | str, device: torch.device) -> dict[str, Any]:
    """Return the content of the bytes of the checkpoint `path`.

    Runs no code in it. Raises `DataError` if damaged.
    """
    try:
        # torch itself does not check the checksums that it writes.
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} has another checksum than it was written with")
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # damaged files fail in zip, pickle or torch
        raise DataError(
            f"{path}: cannot be read ({brief(error)}); start again with --no-resume",
            "damaged-checkpoint",
        ) from None


def _without_classes(value: Any) -> Any:
    """Convert a value to plain containers, tensors and numbers, which load without running code."""
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)
    if isinstance(value, Mapping):
        return {key: _without_classes(entry) for key, entry in value.items()}
    if isinstance(value, (list, L)):
        return [_without_classes(entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(_without_classes(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


def _random_state(learn: Learner) -> dict[str, Any]:
    """Return the states of all random number generators that a training uses."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loaders": [loader.rng.getstate() for loader in learn.dls.loaders],
    }


def _set_random_state(state: Mapping[str, Any], learn: Learner) -> None:
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([entry.cpu() for entry in state["cuda"]])
    for loader, kept in zip(learn.dls.loaders, state["loaders"]):
        loader.rng.setstate(kept)

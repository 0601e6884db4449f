"""What a fit reports to a tracker: its settings, its course, and its export."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exports.card import CARD, HISTORY, METRICS, MODEL, ONNX, versions
from ..exports.record import record_of
from ..tasks import Task
from ..utils.io import portable_path, read_json, write_json
from ..utils.journal import files_digest
from .resume import FitRun

if TYPE_CHECKING:
    import torch
    from fastai.learner import Learner

    from ..tracking.base import State
    from ..tracking.reporting import Reporting

STATE = "track.json"  # beside the checkpoints: what a resumed fit continues
PICTURES = ("show_results.png", "loss_curve.png")
FILES = (CARD, MODEL, ONNX, METRICS, HISTORY)  # never the pickle


class Tracked:
    """The run of a tracker for one fit: it is opened when the first learner is there."""

    def __init__(self, task: Task, out: Path, run: FitRun):
        self.task, self.out, self.run = task, out, run
        self.reporting: Reporting | None = None
        self.before = 0  # training batches of earlier folds

    @contextmanager
    def course(self, learn: Learner, number: int) -> Iterator[None]:
        """Report the training of a learner in the block, of the fold with this number.

        Raises `ModelError` if the tracker's package cannot be imported.
        """
        from .track_steps import TrackSteps

        if self.reporting is None:
            self.reporting = self._opened(learn)
        options, record = self.run.options, record_of(learn)
        prefix = f"fold_{number + 1}/" if options.folds else ""
        frozen = options.recipe(self.task).freeze_epochs if record.is_pretrained else 0
        with learn.added_cbs([TrackSteps(self.reporting.row, prefix, self.before, frozen)]):
            yield
        self.before += len(record.history) * len(learn.dls.train)

    def _opened(self, learn: Learner) -> Reporting:
        """Return the run, opened; a resumed fit continues the one of the interrupted fit."""
        from ..tracking.base import Run
        from ..tracking.figures import settings
        from ..tracking.grouping import place_of
        from ..tracking.reporting import Reporting

        run = self.run
        assert run.options.track is not None and run.folder is not None
        file = run.folder / STATE
        place = place_of(self.out.resolve().name)
        state = read_json(file) if file.is_file() else {}
        folder = Path(state.get("folder", place.group.folder))

        def opened(id: str) -> None:
            if file.parent.is_dir():  # a tracker that was slow must not make it again
                write_json(file, {"id": id, "folder": str(folder)})

        described = Run(
            project=self.task.name,
            name=place.name,
            group=place.group.name,
            folder=folder,
            config=settings(_config(self.task, run, learn)),
            id=str(state.get("id", "")),
        )
        reporting = Reporting(run.options.track, described, opened)
        reporting.start()
        return reporting

    def exported(self, metrics: dict[str, Any], seconds: float) -> None:
        """Report the complete export: figures of each class with intervals, pictures, files."""
        from ..tracking.figures import figures

        assert self.reporting is not None
        out = self.out.resolve()
        self.reporting.export(
            out.name,
            figures({**metrics, "seconds": seconds}),
            [out / name for name in PICTURES if (out / name).is_file()],
            [out / name for name in FILES if (out / name).is_file()],
        )


@contextmanager
def tracked(task: Task, out: Path, run: FitRun) -> Iterator[Tracked | None]:
    """Yield what the fit in the block reports to, or None if it is not tracked.

    Nothing of a tracker is imported then.
    """
    if run.options.track is None:
        yield None
        return
    found = Tracked(task, out, run)
    state: State = "failed"
    try:
        yield found
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        if found.reporting is not None:
            found.reporting.finish(state)


def _config(task: Task, run: FitRun, learn: Learner) -> dict[str, Any]:
    """Return all that the fit depends on. Paths do not reveal the user's folders."""
    options = {
        name: portable_path(str(value), Path.cwd()) if _is_path(value) else value
        for name, value in run.options.to_json().items()
    }
    items = task.items(run.data)
    return {
        "task": task.name,
        "options": options,
        "seed": run.options.seed,
        "recipe": {
            **asdict(run.options.augmenting(task).recipe),
            **asdict(run.options.recipe(task)),
            **({"bs": record_of(learn).bs} if run.options.bs == "auto" else {}),
        },
        "data": {
            "folder": run.data.name,
            "images": len(items),
            "train": len(learn.dls.train_ds),
            "valid": len(learn.dls.valid_ds),
            "digest": files_digest(item.files for item in items),
        },
        "from": run.again.name if run.again else None,
        "network": {
            "parameters": sum(value.numel() for value in learn.model.parameters()),
            "weights": record_of(learn).weights_origin,
            "size": record_of(learn).size,
        },
        "versions": _versions(),
        "machine": _machine(learn.dls.device),
    }


def _is_path(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


def _versions() -> dict[str, str]:
    from .. import __version__

    return {"fastseg": __version__, **versions()}


def _machine(device: torch.device) -> dict[str, Any]:
    import torch

    from ..engines.distributed import world
    from ..utils.device import memory_bytes, processor

    return {
        "system": platform.system(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_bytes() / 2**30, 1),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processes": world().size,
    }

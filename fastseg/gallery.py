"""A look at a dataset before any training: images, masks made visible, overlays, a legend."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from . import plots
from .errors import DataError
from .tasks import Task, get


def show(task: str | Task, data: Path | str | None = None, *, out: Path | str | None = None, rows: int = 6,
         seed: int = 0) -> Path:
    """Write a PNG grid of `rows` examples drawn by `seed` (classification: four images a row); return its path.

    `out` defaults to TASK_show.png. Raises `DataError` for faulty data.
    """
    task = get(task)
    items = task.items(Path(data or f"data/{task.name}"))
    out = Path(out or f"{task.name}_show.png")
    if out.resolve() in {path.resolve() for item in items for path in (item.image, item.label) if isinstance(path, Path)}:
        raise DataError(f"{out}: is one of the images or masks; choose another --out")
    across = 1 if task.kind == "segment" else 4
    drawn = np.random.default_rng(seed).permutation(len(items))[: rows * across]
    panels = []
    for item in (items[i] for i in sorted(drawn)):
        image, label = task.image(item), task.label(item)
        if task.kind == "segment":
            panels.append(plots.triple(task, image, label, item.image.name))
        else:
            panels.append(plots.Panel(image, f"{plots.short(item.image.stem)}\n{task.classes[label]}"))
    if task.kind != "segment":
        panels = [panels[i:i + across] for i in range(0, len(panels), across)]
    return plots.grid(panels, out, task, f"{task.name}: {len(items)} labelled images")

"""`show`: images of a dataset, or the images with the largest errors of an export, as a picture
or a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.colours import hexadecimal
from ..errors import DataError, choose
from ..evaluation.run import data_folders, items_of, score_images
from ..evaluation.scores import scores_of
from ..exports.read import opened
from ..tasks import Item, Task, get
from ..tasks.base import with_depth_of
from ..utils.io import require_folder
from . import panels
from .html import environment, jpeg, write_page
from .panels import Panel
from .views import View, view_of

PAGES = (".html", ".htm")
JPEG_QUALITY = 88  # of the page's pictures


def show(
    task: str | Task,
    data: Path | str | None = None,
    *,
    out: Path | str | None = None,
    rows: int = 6,
    seed: int = 0,
    only: str | None = None,
    wrong: bool = False,
    export: Path | str | None = None,
    device: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
) -> Path:
    """Write `rows` examples to a PNG grid, or to a page if `out` ends in .html
    (classification: four a row); return its path.

    The examples are drawn by `seed`, from those with a pixel (or label) of the class `only`. With
    `wrong` they are instead the held-out images with the largest errors of `export` (default:
    exports/TASK), with truth, prediction and errors. `runtime` and `precision` are as for
    `fastseg.load`.
    `out` defaults to TASK_show.png. Raises `FastsegError` kinds.
    """
    if wrong:
        task, export, _ = opened(task, export)
    task = get(task)
    if only is not None:
        choose("class", only, task.classes)
    out = Path(out or f"{task.name}_show.png")
    if out.suffix.lower() not in PAGES:
        panels.require_png(out)
    require_folder(out.parent)
    view = view_of(task)
    count = rows * view.examples_in_row
    if wrong:
        items, examples = _most_wrong(
            view, data, export, only, count, device=device, runtime=runtime, precision=precision
        )
    else:
        items = task.items(Path(data or task.default_data))
        view = view_of(with_depth_of(task, (item.image for item in items)))
        examples = [view.labelled(item) for item in _choose_items(task, items, only, count, seed)]
    _require_apart(out, items)
    if not examples:
        raise DataError(
            f"{data or items[0].image.parent}: no image "
            + (f"has the class {only}" if only else "is wrong")
            + (" and is wrong" if only and wrong else ""),
            "nothing-to-show",
        )
    what = "held-out images, the most wrong ones" if wrong else "labelled images"
    having = f", with {only}" if only else ""
    title = f"{task.name}: {len(examples)} of {len(items)} {what}{having}"
    if out.suffix.lower() in PAGES:
        return _write_page(view, examples, title, out, wrong)
    return panels.write_png(view.grid(examples, title, errors=wrong), out)


def _require_apart(out: Path, items: Sequence[Item]) -> None:
    """Raise `DataError` if `out` is one of the images or masks, or in their folder."""
    files = {
        path.resolve()
        for item in items
        for path in (item.image, item.label)
        if isinstance(path, Path)
    }
    if out.resolve() in files:
        raise DataError(
            f"{out}: is one of the images or masks; choose another --out", "output-in-data"
        )
    if out.resolve().parent in data_folders(items):
        raise DataError(
            f"{out}: is in a folder of images or masks of the data; choose another --out",
            "output-in-data",
        )


def _choose_items(
    task: Task, items: Sequence[Item], only: str | None, count: int, seed: int
) -> list[Item]:
    """Return up to `count` items drawn by `seed`, of those that have the class `only`, in their own
    order.
    """
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(items)):
        if len(chosen) == count:
            break
        if only is None or (np.asarray(task.label(items[index])) == task.classes.index(only)).any():
            chosen.append(int(index))
    return [items[index] for index in sorted(chosen)]


def _most_wrong(
    view: View,
    data: Path | str | None,
    export: Path | str | None,
    only: str | None,
    count: int,
    **options: Any,
) -> tuple[list[Item], list[list[Panel]]]:
    """Return the held-out items, and the panels of up to `count` with the largest errors of an
    export.

    `options` are those of `inference.loading.load`.
    """
    task = view.task
    task, folder, card = opened(task, export)
    items, root = items_of(card, task, data, "valid")
    from ..inference.loading import load

    predictor = load(folder, images=len(items), **options)
    predictor.adapt(items)
    code = None if only is None else task.classes.index(only)
    scores = scores_of(task)
    severity = {
        score.item: scores.severity(score, code)
        for score, _ in score_images(predictor, items, root)
    }
    wrong = [item for item in items if severity[item] > 0]
    worst = sorted(wrong, key=lambda item: -severity[item])[:count]
    examples = []
    for item, (_, prediction) in zip(worst, predictor.stream_or_raise(worst, 4)):
        first, *others = view.predicted(prediction, task.label(item), item.image.name)
        caption = view.severity_caption(severity[item])
        title = f"{first.title}\n{caption}" if caption else first.title
        examples.append([replace(first, title=title), *others])
    return items, examples


def _write_page(
    view: View, examples: Sequence[Sequence[Panel]], title: str, out: Path, errors: bool
) -> Path:
    """Write the panels as one self-contained page to scroll through."""
    unlabelled = any(panel.has_unlabelled for example in examples for panel in example)
    legend = [(name, hexadecimal(colour)) for name, colour in view.legend(errors, unlabelled)]
    lines = [
        [(panel.title, jpeg(panels.shrink(panel.pixels), JPEG_QUALITY)) for panel in example]
        for example in examples
    ]
    page = environment().get_template("show.html").render(title=title, legend=legend, lines=lines)
    return write_page(page, out)

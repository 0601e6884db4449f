"""A look through a dataset: images, masks made visible, overlays, a legend; or the images that an export gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError, choose
from ..evaluation.run import data_folders, items_of, judged
from ..evaluation.scores import scores_of
from ..exports.folder import find
from ..exports.read import card_of
from ..tasks import Item, Task, get
from ..tasks.base import scaled
from ..utils.io import require_folder
from . import panels as plots
from .html import address, css_colour, environment, write_page

ACROSS = 4  # images in a row, for classification
PAGES = (".html", ".htm")


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
    engine: str = "auto",
    precision: str | None = None,
) -> Path:
    """Write a PNG grid, or for an `out` that ends in .html a page, of `rows` examples (classification: four a row); return its path.

    The examples are drawn by `seed`, from those with a pixel (or label) of the class `only`. With `wrong` they are instead the
    held-out images that `export` (default: exports/TASK) gets most wrong, with truth, prediction and errors.
    `engine` and `precision` are as for `fastseg.load`. `out` defaults to TASK_show.png. Raises `FastsegError` kinds.
    """
    task = get(task)
    if only is not None:
        choose("class", only, task.classes)
    out = Path(out or f"{task.name}_show.png")
    if out.suffix.lower() not in PAGES:
        plots.require_png(out)
    require_folder(out.parent)
    count = rows * (1 if task.kind == "segment" else ACROSS)
    if wrong:
        items, lines = _wrong(
            task, data, export, only, count, device=device, engine=engine, precision=precision
        )
    else:
        items = task.items(Path(data or f"data/{task.name}"))
        task = scaled(task, (item.image for item in items))
        lines = [_labelled(task, item) for item in _drawn(task, items, only, count, seed)]
    if out.resolve() in {
        path.resolve()
        for item in items
        for path in (item.image, item.label)
        if isinstance(path, Path)
    }:
        raise DataError(
            f"{out}: is one of the images or masks; choose another --out", "output-in-data"
        )
    if out.resolve().parent in data_folders(items):
        raise DataError(
            f"{out}: would lie among the images or masks and spoil the data; choose another --out",
            "output-in-data",
        )
    if not lines:
        raise DataError(
            f"{data or items[0].image.parent}: no image {f'has the class {only}' if only else 'is wrong'}"
            + (" and is wrong" if only and wrong else ""),
            "nothing-to-show",
        )
    title = (
        f"{task.name}: {'held-out images that are most wrong' if wrong else f'of {len(items)} labelled images'}"
        + (f", {len(lines)} with {only}" if only else "" if wrong else f", {len(lines)}")
    )
    if out.suffix.lower() in PAGES:
        return _page(task, lines, title, out, wrong)
    if task.kind != "segment":
        panels = [line[0] for line in lines]
        lines = [panels[i : i + ACROSS] for i in range(0, len(panels), ACROSS)]
    return plots.write(plots.grid(lines, task, title, errors=wrong), out)


def _drawn(
    task: Task, items: Sequence[Item], only: str | None, count: int, seed: int
) -> list[Item]:
    chosen = []
    for index in np.random.default_rng(seed).permutation(len(items)):
        if len(chosen) == count:
            break
        if only is None or (np.asarray(task.label(items[index])) == task.classes.index(only)).any():
            chosen.append(int(index))
    return [items[index] for index in sorted(chosen)]


def _labelled(task: Task, item: Item) -> list[plots.Panel]:
    image, label = task.image(item), task.label(item)
    if task.kind == "segment":
        return plots.triple(task, image, label, item.image.name)
    return [plots.Panel(image, f"{plots.short(item.image.stem)}\n{task.classes[label]}")]


def _wrong(
    task: Task,
    data: Path | str | None,
    export: Path | str | None,
    only: str | None,
    count: int,
    **how,
) -> tuple[list[Item], list[list[plots.Panel]]]:
    folder = find(task, export)
    items, root = items_of(card_of(folder), task, data, "valid")
    from ..inference.loading import load

    predictor = load(folder, images=len(items), **how)
    predictor.adapt(items)
    code = None if only is None else task.classes.index(only)
    severity = scores_of(task).severity
    errors = {score.item: severity(score, code) for score, _ in judged(predictor, items, root)}
    worst = sorted((item for item in items if errors[item] > 0), key=lambda item: -errors[item])[
        :count
    ]
    lines = []
    for item, prediction in predictor.stream(worst, 4):
        first, *others = plots.prediction_panels(
            task, prediction.image, task.label(item), prediction, item.image.name
        )
        title = first.title + (f"\nerror {errors[item]:.3f}" if task.kind == "segment" else "")
        lines.append([replace(first, title=title), *others])
    return items, lines


def _page(task: Task, lines: list[list[plots.Panel]], title: str, out: Path, errors: bool) -> Path:
    """Write the panels as one self-contained page to scroll through."""
    unlabelled = any(panel.unlabelled for line in lines for panel in line)
    page = (
        environment()
        .get_template("show.html")
        .render(
            title=title,
            legend=[
                (name, css_colour(colour))
                for name, colour in plots.legend(task, errors, unlabelled)
            ],
            lines=[
                [
                    (
                        panel.title,
                        address(Image.fromarray(plots.shrink(panel.pixels)), "JPEG", quality=88),
                    )
                    for panel in line
                ]
                for line in lines
            ],
        )
    )
    return write_page(page, out)

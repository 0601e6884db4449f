"""The next commands: what an export is for, and what to do with predictions that are wrong."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import FastsegError
from ..utils.shell import near, typed
from . import console


def next_steps(export: str) -> None:
    """Say what an export is for: the commands that come after a fit."""
    place = console.printable(typed(near(export)))
    typer.echo(
        f"next: fastseg predict {place} IMAGES; fastseg interpret {place}; "
        f"fastseg app {place} to look, correct and train on"
    )


def copying(export: Path, data: Path | None, images: Sequence[Path]) -> str:
    """Return the step, such as "copy it to DIR, and ", that brings new images into the data.

    "" where they are there already.
    """
    from ..corrections.adding import folder_for_new
    from ..exports.read import card_of, task_of

    card = card_of(export)
    root = data or card.data_folder
    they = "it" if len(images) == 1 else f"these {len(images)} images"
    if root is None or not root.is_dir():
        return f"copy {they} to the data folder, and "
    if all(root.resolve() in image.resolve().parents for image in images):
        return ""
    place = folder_for_new(task_of(card), root, images[0]) or root
    return f"copy {they} to {typed(near(place))}, and "


def to_review(export: Path, written: Sequence[Path]) -> None:
    """Say how many of the predictions need review, and how they are corrected."""
    from ..exports.cache import is_cached
    from ..exports.read import card_of

    tables = [path for path in written if path.name.endswith("predictions.csv")]
    images, table = [], None
    for table in tables:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        images += [row["image"] for row in rows if row.get("needs_review") == "True"]
    if not images:
        return
    try:
        card = card_of(export)
    except FastsegError:  # an export that is used up meanwhile: there is nothing to lead to
        return
    what = "1 image needs" if len(images) == 1 else f"{len(images)} images need"
    they = "it" if len(images) == 1 else "them"
    if is_cached(export):
        next_step = f"to correct {they}, take the export into a folder of your own: fastseg pull"
    else:
        first = copying(export, None, [Path(image) for image in images])
        next_step = f"next: {first}correct {they} in: fastseg app {typed(card.folder or export)}"
    console.say(f"{what} review (needs_review in {table}); {next_step}")

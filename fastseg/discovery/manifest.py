"""Manifests: a table whose rows name images and their masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..data.issues import Fault, refuse
from ..errors import DataError
from ..formats.manifest import file_in, read
from ..tasks.layouts import MANIFEST
from ..utils.text import counted
from .evidence import Notes
from .survey import Survey

SUFFIXES = (".csv", ".tsv", ".parquet")


def manifest_in(survey: Survey, notes: Notes) -> tuple[list[dict[str, Any]], list[Path]] | None:
    """Return the layout of a manifest and the masks that it names; None if there is none.

    A manifest is a table with the columns image and mask, the first row of which names two files.
    Where --images, --masks or --format say what to use, none is looked for. Raises `DataError` for
    rows that cannot be used.
    """
    if {"images", "masks", "format"} & {*notes.given}:
        return None
    found = next((path for path in survey.others(*SUFFIXES) if _is_manifest(survey, path)), None)
    if found is None:
        return None
    table, faults = survey.path(found), list[Fault]()
    masks, splits = [], Counter[str]()
    for row in read(table, MANIFEST, faults):
        mask = file_in(table, row.label, row.place, faults)
        if mask is not None:
            masks.append(mask)
            splits[row.split or "no split"] += 1
    refuse(faults)
    notes.say(
        "layouts",
        f"{found}: a manifest of {counted(len(masks), 'image')} with masks ("
        + ", ".join(f"{count:,} {split}" for split, count in splits.items())
        + ")",
    )
    return [{"manifest": found}], masks


def _is_manifest(survey: Survey, path: str) -> bool:
    table, faults = survey.path(path), list[Fault]()
    try:
        row = next(read(table, MANIFEST, faults), None)
    except DataError:  # pyarrow is missing
        return False
    return row is not None and file_in(table, row.label, row.place, faults) is not None

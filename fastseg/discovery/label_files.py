"""Label files of other tools in a folder: which format, its classes, and layouts that use them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from .. import formats
from ..data.issues import Fault
from ..errors import DataError
from ..formats import Format
from ..types import Colour
from ..utils.text import counted
from .classfiles import is_background, is_void
from .evidence import Notes, Question, listed
from .mask_meaning import Meaning
from .survey import Survey, join, split_of

MASKS = "masks"  # the value of --format for mask images
TOOL_BACKGROUNDS = ("_background_", "__background__")
MAX_LOOKED = 20  # labelled images of a file that are looked up


@dataclass
class ToolLabels:
    """The label files of one format in a folder."""

    form: Format
    files: list[Path]
    classes: dict[str, Colour | None] = field(default_factory=dict)


def tool_labels(survey: Survey) -> list[ToolLabels]:
    """Return the label files in a folder, by format."""
    found = []
    for name in formats.names():
        form = formats.get(name)
        files = form.find(survey.root)
        if files:
            found.append(ToolLabels(form, files))
    return found


def choose_format(found: Sequence[ToolLabels], pairs: int, notes: Notes) -> ToolLabels | None:
    """Return the label files to use; None for mask images.

    Asks where there are several formats, or label files and masks.
    """
    given = notes.given.get("format")
    if given == MASKS:
        return None
    if given is not None:
        formats.get(given)
        chosen = next((tool for tool in found if tool.form.name == given), None)
        if chosen is None:
            names = [tool.form.name for tool in found]
            raise DataError(
                f"--format {given}: no label files of {formats.get(given).title} are there"
                + (f"; there are files of {listed(names)}" if names else ""),
                "no-data",
            )
        return chosen
    readings = {
        tool.form.name: f"the labels are {counted(len(tool.files), 'file')} of {tool.form.title}, "
        f"such as {tool.files[0].name}"
        for tool in found
    }
    if pairs:
        readings[MASKS] = f"the labels are mask images ({counted(pairs, 'pair')})"
    if not found:
        return None
    if len(readings) == 1:
        return found[0]
    chosen_name = notes.decide(Question("format", "there are several kinds of labels", readings))
    return next((tool for tool in found if tool.form.name == chosen_name), None)


def tool_definition(
    survey: Survey, tool: ToolLabels, notes: Notes
) -> tuple[list[dict[str, Any]], Meaning]:
    """Return the layouts and the meaning of label files. Raises `DataError` for unusable ones."""
    title = tool.form.title
    tool.classes = _classes(tool)
    notes.say(
        "layouts",
        f"{counted(len(tool.files), 'label file')} of {title}, such as "
        f"{_below(survey, tool.files[0])}; where regions overlap, {tool.form.order}",
    )
    layouts = _layouts(survey, tool, notes)
    return layouts, _meaning(tool, notes)


def _classes(tool: ToolLabels) -> dict[str, Colour | None]:
    """Return the classes of label files; those that are used if not all files can be parsed.

    The faults of these files are then found with those of all others. Raises `DataError` if they
    are none.
    """
    try:
        return tool.form.classes(tool.files)
    except DataError:
        faults: list[Fault] = []
        labelled = tool.form.read(tool.files, faults)
        used = {region.label: None for one in labelled for region in one.regions}
        if not used or not any(fault.stops for fault in faults):
            raise
        return dict.fromkeys(label for label in used if label != tool.form.unlabelled)


def _below(survey: Survey, path: Path) -> str:
    below = Path(os.path.relpath(path, survey.root)).as_posix()
    return "" if below == "." else below


def _meaning(tool: ToolLabels, notes: Notes) -> Meaning:
    names = list(tool.classes)
    if not names:
        raise DataError(
            f"{tool.files[0]}: label files of {tool.form.title} name no class; "
            "label some images first",
            "no-data",
        )
    void = [name for name in names if is_void(name)]
    kept = [name for name in names if name not in void]
    background = next((name for name in kept if is_background(name)), None)
    colours = [tool.classes[name] for name in kept]
    notes.say(
        "classes", f"{counted(len(kept), 'class').replace('classs', 'classes')}: {listed(kept, 8)}"
    )
    if void:
        notes.say("ignore", f"{', '.join(void)}: unlabelled, by name")
    if background is None:
        background = "background"
        kept.insert(0, background)
        colours.insert(0, (0, 0, 0))
        notes.say("background", "background: pixels outside all regions")
    else:
        notes.say("background", f"{background}, by its name; pixels outside all regions have it")
    codes = {}
    if background in TOOL_BACKGROUNDS:  # LabelMe's own spelling
        codes = {background: "background"}
        kept[kept.index(background)] = background = "background"
    palette = [colour for colour in colours if colour is not None]
    complete = len(set(palette)) == len(kept)
    return Meaning(
        "codes",
        kept,
        background,
        codes=codes,
        ignore=list(void),
        palette=palette if complete else [],
        are_named=True,
    )


def _layouts(survey: Survey, tool: ToolLabels, notes: Notes) -> list[dict[str, Any]]:
    """Return one layout for each split, or one for all label files."""
    by_split: dict[str | None, list[Path]] = {}
    for file in tool.files:
        by_split.setdefault(split_of(_below(survey, file)), []).append(file)
    if (
        len(by_split) > 1
        and None not in by_split
        and (alone := [_of_files(survey, tool, files, split) for split, files in by_split.items()])
    ):
        labels = [layout["labels"] for layout in alone]
        if len(set(labels)) == len(labels):
            for layout, files in zip(alone, by_split.values()):
                notes.say(
                    "layouts",
                    f"{layout['labels']}: {counted(len(files), 'file')}, split {layout['split']}",
                )
            return alone
    return [_of_files(survey, tool, tool.files, None)]


def _of_files(
    survey: Survey, tool: ToolLabels, files: Sequence[Path], split: str | None
) -> dict[str, Any]:
    if len(files) == 1:
        labels = _below(survey, files[0])
    else:
        labels = _below(survey, Path(os.path.commonpath([file.parent for file in files])))
    images = _images_of(survey, tool.form, files)
    layout: dict[str, Any] = {"images": images or ".", "format": tool.form.name}
    layout["labels"] = labels or "."
    if split:
        layout["split"] = split
    return layout


def _images_of(survey: Survey, form: Format, files: Sequence[Path]) -> str:
    """Return the folder below which the images of label files lie."""
    by_name: dict[str, list[str]] = {}
    for folder in survey.with_images():
        for name in folder.images:
            by_name.setdefault(name, []).append(folder.path)
    faults: list[Fault] = []
    folders: set[str] = set()
    wanted = 0
    for labelled in islice(form.read(files[:MAX_LOOKED], faults), MAX_LOOKED):
        wanted += 1
        for image in labelled.images:
            name = image.replace("\\", "/").rpartition("/")[2]
            if len(by_name.get(name, [])) == 1:
                folders.add(by_name[name][0])
                break
    if not wanted and faults:
        raise DataError(str(faults[0]), "label-file")
    if not folders:
        return ""
    common = os.path.commonpath([join("root", folder) if folder else "root" for folder in folders])
    return common.removeprefix("root").strip("/")

"""Label files of other tools, recognised by their content: to find them, and for error messages."""

from __future__ import annotations

import codecs
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from ..data.pairing import is_image
from ..utils.shell import typed

# Conventions that limit the time for an error message: embedded images make label files large, and
# tools write one file an image.
HEAD = 65536  # bytes read at either end of a file
MAX_FILES, MAX_DEPTH = 2000, 3  # label files looked at, and levels of folders below the data

LIST = r"\s*:\s*\["
# Label Studio's files begin with a list of tasks. What a task holds besides may be far away.
TASKS = (
    rf'"(annotations|completions|predictions|result)"{LIST}'
    r'|"(polygonlabels|brushlabels|rectanglelabels|ellipselabels|original_width|rle)"'
)
PATTERNS = {  # tool -> (suffix, patterns that a file must all match)
    "LabelMe": (
        ".json",
        (
            rf'"shapes"{LIST}|"imageData"\s*:\s*"',
            r'"(imagePath|imageData|flags)"\s*:',
            r'"(imagePath|shape_type|lineColor|imageHeight)"\s*:',
        ),
    ),
    "COCO": (".json", (rf'"images"{LIST}', rf'"(annotations|categories)"{LIST}')),
    "Label Studio": (".json", (r"^\s*\[", TASKS)),
    "Supervisely": (
        ".json",
        (r'^\s*\{(?![^{]*"annotations")', rf'"objects"{LIST}', r'"size"\s*:\s*\{|"classTitle"\s*:'),
    ),
    "CVAT": (".xml", (r"<annotations[\s>]", r"<(image|meta|track|version)[\s>]")),
    "Pascal VOC": (".xml", (r"<annotation[\s>]", r"<object[\s>]")),
}
ONE_AN_IMAGE = ("LabelMe", "Supervisely")  # tools that write a file for each image
BOXES = "Pascal VOC"  # the tool whose label files hold boxes, which are no masks


def recognise(folder: Path) -> dict[str, list[Path]]:
    """Return the label files of other tools below `folder`, by tool, sorted.

    Files that cannot be read are left out.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for file in islice(_label_files(folder, MAX_DEPTH), MAX_FILES):
        tool = tool_of(file)
        if tool:
            found[tool].append(file)
    return dict(found)


def _label_files(folder: Path, depth: int) -> Iterator[Path]:
    folders = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry)
        elif entry.suffix.lower() in (".json", ".xml") and entry.is_file():
            yield entry
    if depth > 1:
        for below in folders:
            yield from _label_files(below, depth - 1)


def files_of(tool: str, folder: Path) -> list[Path]:
    """Return all label files of a tool of `PATTERNS` in `folder` and below, sorted.

    Hidden files and folders are skipped, and so are files that cannot be read. Beside files of a
    tool that writes one an image, damaged ones count: they must not be lost without a word.
    """
    suffix, _ = PATTERNS[tool]
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [
            file
            for name in names
            if name.lower().endswith(suffix) and not name.startswith(".")
            if (file := Path(place, name)).is_file()
        ]
        tools = {file: tool_of(file) for file in files}
        ours = [file for file in files if tools[file] == tool]
        if ours and tool in ONE_AN_IMAGE:
            ours += [file for file in files if tools[file] is None and _is_damaged(file, names)]
        found += ours
    return sorted(found)


def _is_damaged(file: Path, names: Collection[str]) -> bool:
    """Return whether a file that no tool wrote is no JSON, or is named as an image beside it."""
    starts = _text_of(file).lstrip()[:1]
    beside = any(name.startswith(f"{file.stem}.") and is_image(Path(name)) for name in names)
    return starts not in ("{", "[") or beside or is_image(Path(file.stem))


def tool_of(file: Path) -> str | None:
    """Return the tool that wrote a label file, or None if it is not known."""
    text = _text_of(file)
    for tool, (suffix, patterns) in PATTERNS.items():
        if file.suffix.lower() == suffix and all(re.search(pattern, text) for pattern in patterns):
            return tool
    return None


def _text_of(file: Path) -> str:
    """Return the beginning and the end of a file as text."""
    return ends_of(file).removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


def ends_of(file: Path) -> bytes:
    """Return the beginning and the end of a file; nothing if it cannot be read."""
    try:
        with file.open("rb") as opened:
            content = opened.read(HEAD)
            size = opened.seek(0, os.SEEK_END)
            if size > HEAD:
                opened.seek(max(HEAD, size - HEAD))
                content += opened.read(HEAD)
    except OSError:
        return b""
    return content


def advice(folder: Path) -> str:
    """Return which tools' label files are below `folder`, and the command that reads them.

    "" if there are none.
    """
    return "; ".join(
        f"label files of {tool} are there ({files[0].name}"
        + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        + "): "
        + (
            "these are boxes, so label outlines, or use the SegmentationClass masks"
            if tool == BOXES
            else f"`fastseg new {typed(folder)}` makes a task that reads them"
        )
        for tool, files in recognise(folder).items()
    )

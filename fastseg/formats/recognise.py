"""Label files of other tools, recognised by their content, so that an error can say what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Conventions that limit the time for an error message: embedded images make label files large, and
# tools write one file an image.
HEAD = 65536  # bytes read at either end of a file
MAX_FILES, MAX_DEPTH = 2000, 3  # label files looked at, and levels of folders below the data

LIST = r"\s*:\s*\["
PATTERNS = {  # tool -> (suffix, patterns that a file must all match)
    "LabelMe": (".json", (rf'"shapes"{LIST}', r'"(imagePath|imageData|flags)"\s*:')),
    "COCO": (".json", (rf'"images"{LIST}', rf'"(annotations|categories)"{LIST}')),
    "Label Studio": (
        ".json",
        (
            r"^\s*\[",
            rf'"(annotations|completions|result)"{LIST}'
            r'|"(polygonlabels|brushlabels|rectanglelabels)"',
        ),
    ),
    "CVAT": (".xml", (r"<annotations[\s>]", r"<(image|meta|track|version)[\s>]")),
    "Pascal VOC": (".xml", (r"<annotation[\s>]", r"<object[\s>]")),
}
EXPORTS = {  # tool -> how its labels become masks
    "LabelMe": "draw masks with LabelMe's labelme2voc.py",
    "COCO": "draw masks with pycocotools' annToMask",
    "Label Studio": 'export them as "Brush labels to PNG"',
    "CVAT": 'export them as "Segmentation mask 1.1"',
    "Pascal VOC": "these are boxes, so label outlines, or use the SegmentationClass masks",
}


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


def tool_of(file: Path) -> str | None:
    """Return the tool that wrote a label file, or None if it is not known."""
    try:
        with file.open("rb") as opened:
            content = opened.read(HEAD)
            size = opened.seek(0, 2)
            if size > HEAD:
                opened.seek(max(HEAD, size - HEAD))
                content += opened.read(HEAD)
    except OSError:
        return None
    text = content.decode("utf-8", "replace")
    for tool, (suffix, patterns) in PATTERNS.items():
        if file.suffix.lower() == suffix and all(re.search(pattern, text) for pattern in patterns):
            return tool
    return None


def advice(folder: Path) -> str:
    """Return which tools' label files are below `folder` and how to convert them to masks.

    "" if there are none.
    """
    return "; ".join(
        f"label files of {tool} are there ({files[0].name}"
        + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        + f"), which fastseg does not read: {EXPORTS[tool]}"
        for tool, files in recognise(folder).items()
    )

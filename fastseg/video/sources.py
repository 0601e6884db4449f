"""What is a video: files by their suffix, cameras by number, image sequences by a pattern.

Nothing is opened here, and PyAV is not imported.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from ..data.pairing import IMAGE_SUFFIXES, image_files
from ..errors import DataError
from ..utils.storage import is_url

SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".m2v",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".asf",
    ".flv",
    ".3gp",
    ".3g2",
    ".ogv",
    ".mjpg",
    ".mjpeg",
    ".h264",
    ".h265",
    ".hevc",
    ".mxf",
    ".vob",
)
CAMERA = re.compile(r"camera:(\d+)")
NUMBERED = re.compile(r"%0?\d*d")  # of an image sequence: frames/%05d.png
INSTALL = "pip install 'fastseg[video]'"


def is_video(source: str) -> bool:
    """Return whether a name is that of a video file, a camera, or an image sequence."""
    return _is_file(source) or is_camera(source) or is_sequence(source)


def is_camera(source: str) -> bool:
    return CAMERA.fullmatch(source) is not None


def is_sequence(source: str) -> bool:
    """Return whether a name is the pattern of numbered image files."""
    named = source.lower().endswith(IMAGE_SUFFIXES) and NUMBERED.search(Path(source).name)
    return bool(named) and not Path(source).exists()


def numbered_files(source: str) -> list[Path]:
    """Return the files of an image sequence, in order. Raises `DataError` if there is none, or if
    a number is missing.
    """
    path = Path(source)
    holder = NUMBERED.search(path.name)
    assert holder is not None
    before, after = path.name[: holder.start()], path.name[holder.end() :]
    named = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}")
    files = path.parent.iterdir() if path.parent.is_dir() else ()
    texts = {file: found[1] for file in files if (found := named.fullmatch(file.name))}
    files_of = {int(text): file for file, text in texts.items() if holder[0] % int(text) == text}
    if not files_of:
        raise DataError(f"{source}: no file has a name of this pattern; check it", "no-such-path")
    numbers = sorted(files_of)
    gap = next((one + 1 for one, other in pairwise(numbers) if other != one + 1), None)
    if gap is not None:
        raise DataError(
            f"{source}: number {gap} is missing between {numbers[0]} and {numbers[-1]}; "
            "number the images without gaps",
            "missing-frame",
        )
    return [files_of[number] for number in numbers]


def name_of(source: str) -> str:
    """Return the name of a source's results."""
    if is_camera(source):
        return source.replace(":", "_")
    stem = Path(source).stem
    return NUMBERED.sub("", stem).strip("_-. ") or Path(source).resolve().parent.name


def videos_among(sources: Sequence[str]) -> list[str]:
    """Return the videos that sources name, each once, or none where they name images.

    A folder stands for its images; where it has none, for its videos. Raises `DataError` where
    some sources are videos and others are not.
    """
    found: dict[str, None] = {}
    others = []
    for source in sources:
        named = _named(source)
        found.update(dict.fromkeys(named))
        if not named:
            others.append(source)
    if found and others:
        raise DataError(
            f"{next(iter(found))} is a video and {others[0]} is not; predict videos and images by "
            "commands of their own",
            "mixed-inputs",
        )
    return list(found)


def require_reader(source: str) -> None:
    """Raise `DataError` if PyAV is not installed."""
    if find_spec("av") is None:
        raise DataError(
            f"{source}: videos need PyAV; install the extra video: {INSTALL}", "no-video"
        )


def _named(source: str) -> list[str]:
    path = Path(source)
    if path.is_dir():
        return [] if image_files(path) else [str(p) for p in sorted(path.iterdir()) if _is_own(p)]
    if is_video(source) and not glob.has_magic(source):
        return [source]
    if path.exists():
        return [source] if _is_file(source) else []
    files = [file for file in sorted(glob.glob(source)) if Path(file).is_file()]
    return files if files and all(map(_is_file, files)) else []


def _is_file(source: str) -> bool:
    return source.lower().endswith(SUFFIXES) and not is_url(source)


def _is_own(path: Path) -> bool:
    return _is_file(path.name) and not path.name.startswith(".") and path.is_file()

"""What a task declares about its image files. No numpy: tasks are listed without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import slices

FEWEST, MOST = 2, 16  # channels of a task
RGB = 3  # channels of ordinary images, and of pictures of the others


@dataclass(frozen=True)
class Reading:
    """How files become arrays, as a task or an export's card declares it."""

    depth: int | None = None  # bits of 16-bit values; None: each image's own range
    channels: int = RGB
    files: tuple[str, ...] = ()  # ends of the stems, where each channel is a file of its own
    alpha: str = "drop"  # what becomes of transparent pixels, see `images.as_rgb`
    window: tuple[float, float] | None = None  # centre and width of DICOM and NIfTI values

    @property
    def is_plain(self) -> bool:
        """Whether an image is one file, read as RGB."""
        return self.channels == RGB and not self.files


PLAIN = Reading()


def stem_of(path: Path, ends: Sequence[str]) -> str:
    """Return an image's name without suffix, and without the end of its first channel's file."""
    stem = slices.stem_of(path)
    return stem.removesuffix(ends[0]) if ends else stem


def first_files(paths: Sequence[Path], ends: Sequence[str]) -> list[Path]:
    """Return the files that name an image: all of them, or those of the first channel."""
    return [
        path
        for path in paths
        if not ends or slices.stem_of(slices.real_file(path)).endswith(ends[0])
    ]

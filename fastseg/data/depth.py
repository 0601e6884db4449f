"""The bit depth of 16-bit images: one range, by which all images of a dataset are scaled."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..utils.progress import track
from ..utils.threads import results_in_order
from .channels import largest_value
from .images import bits_of
from .reading import PLAIN, Reading

log = logging.getLogger(__name__)

# An image whose largest value is at most 1/8 of the range is called nearly black: no pixel is
# brighter than 31 of 255. The depths in use differ by two bits, so that 1/4 of the range is still
# an ordinary dim image.
DARK_PART = 8

# Share of a dataset's images that may exceed the range of the others: a hot pixel in a few images
# must not make all others dark. A convention; tests/test_data_depth.py tests its consequences.
MAX_EXCEEDING_SHARE = 0.1

# Warn if at least this many images all fit a smaller range than their model's: one or
# two images may simply be dark. A convention.
MIN_IMAGES_FOR_RANGE = 3

MAX_WORKERS = 8  # threads that read headers at once; a convention


def largest_values(files: Iterable[Path], how: Reading = PLAIN) -> dict[Path, int]:
    """Return the largest value of each image of more than 8 bits; others are left out.

    `how` says which files and channels an image has.

    Of the others, only the headers are read. Unreadable files are left out too: they are reported
    when their pixels are read.
    """
    files, workers = list(files), min(MAX_WORKERS, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        found = track(
            results_in_order(
                (pool.submit(_largest_value, file, how) for file in files), 8 * workers
            ),
            "reading headers",
            len(files),
        )
        return {file: value for file, value in zip(files, found) if value is not None}


def _largest_value(file: Path, how: Reading) -> int | None:
    try:
        return largest_value(file, how)
    except DataError:
        return None


def depth_of(largest: Mapping[Any, int]) -> int | None:
    """Return the smallest bit depth that holds the largest values of several images, or None.

    If all but `MAX_EXCEEDING_SHARE` of the images fit a smaller range, that one is returned.
    """
    if not largest:
        return None
    bits = sorted(map(bits_of, largest.values()))
    return bits[len(bits) - 1 - int(MAX_EXCEEDING_SHARE * len(bits))]


def misfit(largest: int, depth: int) -> str:
    """Return why an image with this largest value does not fit the range of `depth` bits.

    Returns "" if it fits.
    """
    top = 2**depth - 1
    if largest > top:
        return f"its values reach {largest} and are clipped at {top}"
    if 0 < largest * DARK_PART <= top:
        return f"its largest value is {largest} of {top}, so it looks nearly black"
    return ""


def choose_depth(depth: int | None, largest: Mapping[Any, int]) -> int | None:
    """Return the bits to scale images of these largest values by, and log what does not fit.

    That is `depth`, the task's or the model's; if it is None, the fewest bits that hold the values,
    or None if there are no values.
    """
    found = depth or depth_of(largest)
    if found is None or not largest:
        return found
    if depth is None:
        log.info(
            "images of more than 8 bits: %d, with %d-bit values (largest %d): scaled by %d",
            len(largest),
            found,
            max(largest.values()),
            2**found - 1,
        )
    else:
        _warn_of_smaller_range(found, [value for value in largest.values() if value])
    misfits = [(file, why) for file, value in largest.items() if (why := misfit(value, found))]
    if misfits:
        file, why = misfits[0]
        log.warning(
            "images of more than 8 bits that do not fit the %d-bit range that they are scaled by: "
            "%d of %d; %s: %s; save them in that range, or as 8 bits",
            found,
            len(misfits),
            len(largest),
            file,
            why,
        )
    return found


def _warn_of_smaller_range(depth: int, values: Sequence[int]) -> None:
    """Warn if all of several images fit a smaller range than the model's `depth` bits."""
    if len(values) < MIN_IMAGES_FOR_RANGE or any(misfit(value, depth) for value in values):
        return
    smaller = bits_of(max(values))
    if smaller < depth:
        log.warning(
            "all %d images of more than 8 bits hold %d-bit values (largest %d), but the model was "
            "trained on %d-bit ones: they look darker to it; save them in that range, or as 8 bits",
            len(values),
            smaller,
            max(values),
            depth,
        )

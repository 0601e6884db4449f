"""The bit depth of 16-bit images: one range for all images of a dataset or command, found, stated, and compared with each image's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from ..errors import DataError
from ..utils.progress import track
from ..utils.threads import results_in_order
from .images import bits_of, largest_value

log = logging.getLogger(__name__)

# The largest value of an image that fits is above this part of the range. At an eighth, no pixel is brighter than 31 of 255, and three
# bits are missing; depths in use differ by two, and a quarter of the range occurs in ordinary dim images.
DARK = 8
ODD = 0.1  # share of a dataset's images that may exceed the range of the others
MANY = 3  # images that all fit a smaller range than their model's: of fewer, it may be that they are dim


def largest_values(files: Iterable[Path]) -> dict[Path, int]:
    """Return the largest value of each image of more than 8 bits; of the others, only the headers are read.

    Files that cannot be read are left out: what reads their pixels afterwards says so.
    """
    files, workers = list(files), min(8, cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        found = track(
            results_in_order((pool.submit(_largest_value, file) for file in files), 8 * workers),
            "reading headers",
            len(files),
        )
        return {file: value for file, value in zip(files, found) if value is not None}


def _largest_value(file: Path) -> int | None:
    try:
        return largest_value(file)
    except DataError:
        return None


def depth_of(largest: Mapping[object, int]) -> int | None:
    """Return the fewest bits that hold the largest values of several images, or None for no image.

    Where all but a few images, `ODD` of them at most, fit a smaller range, that is returned: a hot pixel must not make all others dark.
    """
    if not largest:
        return None
    bits = sorted(map(bits_of, largest.values()))
    return bits[len(bits) - 1 - int(ODD * len(bits))]


def misfit(largest: int, depth: int) -> str:
    """Say why an image whose largest value is `largest` cannot be scaled by the range of `depth` bits; "" if it can."""
    top = 2**depth - 1
    if largest > top:
        return f"its values reach {largest} and are clipped at {top}"
    return (
        f"its largest value is {largest} of {top}, so it looks nearly black"
        if 0 < largest * DARK <= top
        else ""
    )


def chosen(depth: int | None, largest: Mapping[object, int]) -> int | None:
    """Return the bits to scale images of these largest values by: `depth`, or if that is None, the fewest that hold them.

    What was found is logged, and how many images do not fit.
    """
    found = depth or depth_of(largest)
    if depth is None and largest:
        log.info(
            "images of more than 8 bits: %d, with %d-bit values (largest %d): scaled by %d",
            len(largest),
            found,
            max(largest.values()),
            2**found - 1,
        )
    values = [value for value in largest.values() if value]
    smaller = bits_of(max(values)) if depth is not None and len(values) >= MANY else None
    if (
        smaller is not None
        and smaller < found
        and not any(misfit(value, found) for value in values)
    ):
        log.warning(
            "all %d images of more than 8 bits hold %d-bit values (largest %d), but the model was trained on %d-bit ones: they "
            "look darker to it; save them in that range, or as 8 bits",
            len(values),
            smaller,
            max(values),
            found,
        )
    misfits = [(name, why) for name, value in largest.items() if (why := misfit(value, found))]
    if misfits:
        name, why = misfits[0]
        log.warning(
            "images of more than 8 bits that do not fit the %d-bit range that they are scaled by: %d of %d; %s: %s; save them in "
            "that range, or as 8 bits",
            found,
            len(misfits),
            len(largest),
            name,
            why,
        )
    return found

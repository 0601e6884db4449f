"""Decodes masks: codes, colours or greys become class indices; other values are faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..types import IGNORE, Colour
from .colours import hexadecimal
from .images import read_image, read_raw
from .issues import Fault, refuse

# Masks drawn by hand contain a few wrong pixels. Up to this share of a mask is unlabelled; a
# convention: 1 px of 100 x 100.
STRAY_SHARE = 1e-4

# In units of the smallest distance between two palette colours. Anti-aliasing mixes neighbouring
# colours: the mean of three primaries is 0.577 units from each of them, while black,
# white and the secondary colours are at least 0.707 units away.
COLOUR_TOLERANCE = 0.6

# For colours declared in addition to the palette, only JPEG noise is tolerated, in units of the
# smallest distance between two colours: a mixture of two palette colours, such as dark yellow from
# red and green, may be nearer to a declared black than to either.
DECLARED_TOLERANCE = 0.25

# Edges between colours: up to this share of a mask, and between up to so many colours. Conventions.
MAX_MIXED_SHARE, MAX_MIXED_COLOURS = 0.1, 40

MAX_LISTED = 6  # codes or colours that a message names
MAX_VALUES = 16  # codes kept per mask: enough to distinguish 0/255 masks from others

# Largest difference, in levels, that JPEG makes between the equal channels of a grey mask after
# conversion from YCbCr; a convention, above the rounding errors of one or two levels.
LOSSY_SPREAD = 16

# If colours are expected and all values of a grey mask are below this, it has codes, not colours
# near black: no task here has so many classes. A convention.
MAX_CODES = 32

# A mask with at least this many greys between 0 and 255 is a 0/255 mask with soft edges, not a mask
# of codes. A convention: smoothed edges have more greys, and tasks rarely declare so many codes.
SOFT_EDGE_GREYS = 8

WIDENING = 257  # factor from 8-bit to 16-bit values: 255 * 257 = 65535
GREY_THRESHOLD = 127  # greys above are class 1 in masks of two classes
LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Decoded:
    """A decoded mask: its class indices and its faults."""

    codes: np.ndarray  # uint8 (H, W): class indices, 255 = unlabelled
    faults: list[Fault] = field(default_factory=list)
    # the first `MAX_VALUES` codes that the file holds, ascending; none for colours and greys
    values: tuple[int, ...] = ()
    unknown: np.ndarray | None = None  # bool (H, W): pixels without a meaning: unlabelled

    @property
    def stopping(self) -> list[Fault]:
        """The faults that a fit refuses."""
        return [fault for fault in self.faults if fault.stops]

    def accepted(self) -> np.ndarray:
        """Return `codes`. Raises `DataError` with the first fault that a fit refuses."""
        refuse(self.stopping)
        return self.codes


def decode_codes(path: Path | str, meaning: Mapping[int, int]) -> Decoded:
    """Read a mask of codes: `meaning` maps codes to class indices, or 255 for unlabelled.

    Accepts grey, palette, 1-bit and 16-bit masks, and RGB(A) ones whose channels are equal.
    Raises `DataError` if the file cannot be read.
    """
    values = read_raw(path)
    lossy = is_lossy(path)
    if values.ndim == 3:
        channels = values[..., : 3 if values.shape[2] >= 3 else 1]
        spread = int((channels.max(axis=2).astype(int) - channels.min(axis=2)).max())
        if spread > (LOSSY_SPREAD if lossy else 0):
            return _refuse_colours(path, channels)
        values = channels[..., 0]
    if values.dtype == np.uint8:
        # three times faster than bincount, which copies the mask with eight bytes per pixel
        present = np.flatnonzero(Image.fromarray(values).histogram())
    else:
        present = np.flatnonzero(np.bincount(values.reshape(-1)))
    lookup = np.full(int(present[-1]) + 1, IGNORE, dtype=np.uint8)
    for code in present:
        lookup[code] = meaning.get(int(code), IGNORE)
    codes, kept = lookup[values], tuple(int(value) for value in present[:MAX_VALUES])
    strange = [int(code) for code in present if int(code) not in meaning]
    if not strange:
        return Decoded(codes, values=kept)
    unknown = np.isin(values, strange)
    return Decoded(
        codes, [_unknown_codes(path, values, unknown, list(meaning), lossy)], kept, unknown
    )


def is_lossy(path: Path | str) -> bool:
    """Return whether the format of a mask file compresses with loss."""
    return Path(path).suffix.lower() in LOSSY_SUFFIXES


def _unknown_codes(
    path: Path | str, values: np.ndarray, unknown: np.ndarray, known: Sequence[int], lossy: bool
) -> Fault:
    """Return the fault of a mask with codes that are not `known`; `unknown`, bool (H, W), has them.

    It names the likely cause: soft edges, conversion to 16 bits, JPEG, or a few stray pixels.
    """
    codes, counts = np.unique(values[unknown], return_counts=True)
    listed = ", ".join(f"{code} ({count} px)" for code, count in zip(codes[:MAX_LISTED], counts))
    detail = (
        f"holds {int(unknown.sum())} px ({unknown.mean():.2%}) of codes other than "
        f"{ranges(known)}: {listed}{', ...' if len(codes) > MAX_LISTED else ''}"
    )
    y, x = np.argwhere(unknown)[0]
    place = f"first at x {x}, y {y}"
    if len(codes) >= SOFT_EDGE_GREYS and {0, 255} <= set(np.unique(values).tolist()):
        return Fault(
            "unknown codes",
            str(path),
            f"holds {len(codes)} greys between 0 and 255: a 0/255 mask with soft edges",
            'declare masks="threshold" in a task of two classes, or write one code a pixel',
            place,
        )
    if values.dtype != np.uint8 and (values % WIDENING == 0).all():
        return Fault(
            "unknown codes",
            str(path),
            f"holds codes that are all multiples of {WIDENING}, "
            "as a change from 8 to 16 bits makes them",
            f"divide them by {WIDENING}, or save the mask with 8 bits",
            place,
        )
    if lossy:
        return Fault(
            "lossy mask",
            str(path),
            f"is a JPEG, whose compression changes codes: it {detail}",
            "export masks of codes as PNG",
            place,
        )
    return Fault(
        "unknown codes" if unknown.mean() > STRAY_SHARE else "stray codes",
        str(path),
        detail,
        f"remap these codes, or declare them in task.toml: ignore = [{codes[0]}] for unlabelled, "
        f'or {codes[0]} = "CLASS" with the other codes under [codes]',
        place,
    )


def _all_unlabelled(rgb: np.ndarray, fault: Fault) -> Decoded:
    """Return the result for a mask, (H, W, channels), that cannot be decoded: all unlabelled."""
    return Decoded(np.full(rgb.shape[:2], IGNORE, np.uint8), [fault])


def _refuse_colours(path: Path | str, rgb: np.ndarray) -> Decoded:
    """Return the result for a mask in colours where codes are expected."""
    packed = _rgb_to_int(rgb)
    colours, counts = np.unique(packed, return_counts=True)
    order = counts.argsort()[::-1]
    listed = ", ".join(
        f"{_int_to_rgb(colours[i])} {counts[i] / packed.size:.1%}" for i in order[:MAX_LISTED]
    )
    more = f" and {len(colours) - MAX_LISTED} more" if len(colours) > MAX_LISTED else ""
    return _all_unlabelled(
        rgb,
        Fault(
            "unknown colours",
            str(path),
            f"is in colours, but this task's masks hold class codes: {listed}{more}",
            "write one code a pixel, or declare the colours in a task of your own: "
            'masks="colours" and palette=((R, G, B), ...)',
        ),
    )


def decode_colours(
    path: Path | str,
    classes: Sequence[str],
    palette: Sequence[Colour],
    declared: Mapping[Colour, int],
) -> Decoded:
    """Read a mask in the palette's colours.

    `declared` maps further colours to class indices, or to 255 for unlabelled.
    Raises `DataError` if the file cannot be read.
    """
    rgb = read_image(path)
    greys = np.unique(rgb[..., 0])
    is_grey = len(greys) > 1 and (rgb == rgb[..., :1]).all()
    if is_grey and greys[-1] < MAX_CODES and not is_lossy(path):
        return _all_unlabelled(
            rgb,
            Fault(
                "unknown colours",
                str(path),
                f"holds the codes {ranges(greys.tolist())}, but this task's masks are in colours",
                'paint them in the palette\'s colours, or define a task with masks="codes"',
            ),
        )
    codes, inexact = match_colours(rgb, palette, declared)
    if not inexact:
        return Decoded(codes)
    inexact = _match_mixtures(rgb, codes, inexact, palette, is_lossy(path))
    unknown = [colour for colour, _, matched in inexact if not matched]
    unknown_pixels = sum(count for _, count, matched in inexact if not matched)
    y, x = np.argwhere(_rgb_to_int(rgb) == _rgb_to_int(np.array(inexact[0][0])))[0]
    kind, remedy = "blended colours", "save masks as PNG without smoothing"
    if unknown_pixels > STRAY_SHARE * codes.size:
        kind = "unknown colours"
        remedy = (
            f'recolour them, or declare them in task.toml: ignore = ["{hexadecimal(unknown[0])}"] '
            f'for unlabelled, or "{hexadecimal(unknown[0])}" = "CLASS" under [codes]'
        )
    fault = Fault(
        kind,
        str(path),
        _describe_colours(inexact, codes.size, classes, palette),
        remedy,
        f"first at x {x}, y {y}",
    )
    has_unknown = np.isin(_rgb_to_int(rgb), [_rgb_to_int(np.array(colour)) for colour in unknown])
    return Decoded(codes, [fault], unknown=has_unknown)


def _describe_colours(
    inexact: Sequence[tuple[Colour, int, bool]],
    pixels: int,
    classes: Sequence[str],
    palette: Sequence[Colour],
) -> str:
    """Return in words how many of a mask's pixels are not in exact colours, and the commonest."""
    count = sum(count for _, count, _ in inexact)
    commonest = np.array([colour for colour, _, _ in inexact[:3]], dtype=float)
    nearest = np.linalg.norm(commonest[:, None] - np.array(palette), axis=2).argmin(axis=1)
    listed = "; ".join(
        f"{colour} ({count} px, nearest {classes[index]})"
        for (colour, count, _), index in zip(inexact, nearest)
    )
    return (
        f"holds {count} px ({count / pixels:.2%}) in {len(inexact)} colours that no class has: "
        f"{listed}"
    )


def match_colours(
    rgb: np.ndarray, palette: Sequence[Colour], declared: Mapping[Colour, int] | None = None
) -> tuple[np.ndarray, list[tuple[Colour, int, bool]]]:
    """Return codes, uint8 (H, W), of colours, uint8 (H, W, 3), and the colours that are not exact.

    A pixel's code is the index of its colour in `palette`, or the value of `declared`. Other
    colours take the nearest palette colour within `COLOUR_TOLERANCE` times the smallest distance
    between two palette colours (JPEG noise, anti-aliased edges), or a nearer declared one within
    `DECLARED_TOLERANCE`. The rest is unlabelled. The second result lists the colours that are not
    exact, those of most pixels first: (colour, pixels, whether it matched).
    """
    known = [*enumerate(palette), *((code, colour) for colour, code in (declared or {}).items())]
    packed = _rgb_to_int(rgb)
    codes = np.full(rgb.shape[:2], IGNORE, dtype=np.uint8)
    rest = np.ones(rgb.shape[:2], dtype=bool)
    for code, colour in known:
        exact = packed == _rgb_to_int(np.array(colour))
        codes[exact] = code
        rest &= ~exact
    if not rest.any():
        return codes, []
    colours, where, counts = np.unique(packed[rest], return_inverse=True, return_counts=True)
    points = np.array([_int_to_rgb(colour) for colour in colours], dtype=np.float32)
    centres = np.array([colour for _, colour in known], dtype=np.float32)
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    limits = np.full(len(known), COLOUR_TOLERANCE * _smallest_distance(centres[: len(palette)]))
    limits[len(palette) :] = DECLARED_TOLERANCE * _smallest_distance(centres)
    distance[distance > limits] = np.inf
    matched = np.isfinite(distance.min(axis=1))
    found = np.array([code for code, _ in known])[distance.argmin(axis=1)]
    codes[rest] = np.where(matched, found, IGNORE).astype(np.uint8)[where.reshape(-1)]
    order = counts.argsort()[::-1]
    return codes, [(_int_to_rgb(colours[i]), int(counts[i]), bool(matched[i])) for i in order]


def _match_mixtures(
    rgb: np.ndarray,
    codes: np.ndarray,
    inexact: Sequence[tuple[Colour, int, bool]],
    palette: Sequence[Colour],
    lossy: bool,
) -> list[tuple[Colour, int, bool]]:
    """Give colours at edges the nearest palette colour, in `codes`, and return the new `inexact`.

    Halfway between two colours, such as red and green beside black, an edge is further from both
    than `COLOUR_TOLERANCE` allows. It is recognised by having no area: no pixel with four
    neighbours of its very colour. In lossless masks, it must lie between two palette colours, too.
    """
    unknown = [colour for colour, _, matched in inexact if not matched]
    count = sum(count for _, count, matched in inexact if not matched)
    if not unknown or count > MAX_MIXED_SHARE * codes.size:
        return list(inexact)
    packed = _rgb_to_int(rgb)
    inside = packed[1:-1, 1:-1]
    same = (
        (inside == packed[:-2, 1:-1])
        & (inside == packed[2:, 1:-1])
        & (inside == packed[1:-1, :-2])
        & (inside == packed[1:-1, 2:])
    )
    areas = set(np.unique(inside[same]).tolist())
    points = np.array(unknown, dtype=np.float32)
    thin = np.array([_rgb_to_int(np.array(colour)).item() not in areas for colour in unknown])
    if not lossy:
        thin &= _between(points, np.array(palette, dtype=np.float32))
    nearest = np.linalg.norm(points[:, None] - np.array(palette), axis=2).argmin(axis=1)
    mixed = {
        colour: int(index) for colour, index, is_thin in zip(unknown, nearest, thin) if is_thin
    }
    numbers = {_rgb_to_int(np.array(colour)).item(): index for colour, index in mixed.items()}
    where = np.isin(packed, list(numbers))
    codes[where] = [numbers[value] for value in packed[where].tolist()]
    return [(colour, n, matched or colour in mixed) for colour, n, matched in inexact]


def _between(points: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return which points, float (n, 3), are near a straight line between two palette colours."""
    limit = DECLARED_TOLERANCE * _smallest_distance(palette)
    found = np.zeros(len(points), dtype=bool)
    for number, start in enumerate(palette[:MAX_MIXED_COLOURS]):
        for end in palette[number + 1 : MAX_MIXED_COLOURS]:
            along = end - start
            share = ((points - start) @ along / max(float(along @ along), 1.0)).clip(0, 1)
            found |= np.linalg.norm(start + share[:, None] * along - points, axis=1) <= limit
    return found


def _smallest_distance(colours: np.ndarray) -> float:
    between = np.linalg.norm(colours[:, None] - colours, axis=2)
    return float(between[between > 0].min())


def _rgb_to_int(rgb: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) as one integer each, int32 (...)."""
    return rgb.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def _int_to_rgb(colour: int) -> Colour:
    return int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255


def decode_greys(path: Path | str, classes: Sequence[str]) -> Decoded:
    """Read a mask whose greys above 127 are class 1. Raises `DataError` if it cannot be read."""
    grey = read_image(path)[..., 0]
    codes = (grey > GREY_THRESHOLD).astype(np.uint8)
    if not 0 < grey.max() <= len(classes):
        return Decoded(codes)
    return Decoded(
        codes,
        [
            Fault(
                "0/255 mask",
                str(path),
                f"holds codes 0 to {grey.max()}, but greys above {GREY_THRESHOLD} are {classes[1]}",
                "write 255 instead of 1",
            )
        ],
    )


def ranges(codes: Sequence[int]) -> str:
    """Return codes as a short text: "0 to 3, 255"."""
    runs: list[list[int]] = []  # [first, last] of each run of consecutive codes
    for code in sorted(set(codes)):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    texts = []
    for first, last in runs:
        if last > first + 1:
            texts.append(f"{first} to {last}")
        else:
            texts += [str(code) for code in range(first, last + 1)]
    return ", ".join(texts)

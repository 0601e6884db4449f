"""What the values of a mask mean: codes, colours or greys -> classes, and each value that has no meaning as a fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..types import IGNORE, Colour
from .images import read_image, read_raw
from .issues import Fault, refuse

STRAY_SHARE = (
    1e-4  # masks drawn by hand hold a few wrong pixels; up to this share they count as unlabelled
)
# Anti-aliasing mixes neighbouring colours: the mean of three primaries lies 0.577 palette distances from each of
# them, while black, white and the secondaries lie at least 0.707 away.
COLOUR_TOLERANCE = 0.6
# Colours declared beside the palette take JPEG noise only, in shares of the smallest distance between two colours: a mixture
# of two palette colours, such as dark yellow between red and green, may lie nearer to black than to either.
DECLARED_TOLERANCE = 0.25
LISTED = 6  # codes or colours that a message names
VALUES = 16  # codes that are kept of each mask: enough to tell 0/255 masks from others
LOSSY_SPREAD = 16  # levels by which JPEG compression makes equal channels differ at most
FEW_CODES = 32  # grey masks whose values are all below are taken for masks of codes, not of colours near black
SOFT = 8  # greys between 0 and 255, from which on a mask is taken for a 0/255 mask with soft edges
WIDE = 257  # by which 8-bit values are multiplied to fill 16 bits
LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Decoded:
    """One mask: its classes, and what is wrong with it."""

    codes: np.ndarray  # uint8 (H, W): class indices, 255 = unlabelled
    faults: list[Fault] = field(default_factory=list)
    values: tuple[
        int, ...
    ] = ()  # the codes that the file holds, ascending, the first `VALUES`; nothing for colours and greys
    unknown: np.ndarray | None = (
        None  # bool (H, W): pixels without a meaning, which count as unlabelled
    )

    @property
    def stopping(self) -> list[Fault]:
        """The faults that a fit refuses."""
        return [fault for fault in self.faults if fault.stops]

    def accepted(self) -> np.ndarray:
        """Return `codes`. Raises `DataError` with the first fault that a fit refuses."""
        refuse(self.stopping)
        return self.codes


def decode_codes(path: Path | str, meaning: Mapping[int, int]) -> Decoded:
    """Read a mask of codes: `meaning` maps code -> class index, or 255 for unlabelled.

    Accepts grey, palette, 1-bit and 16-bit masks, and RGB(A) ones whose channels are equal.
    Raises `DataError` if the file cannot be read.
    """
    values = read_raw(path)
    lossy = is_lossy(path)
    if values.ndim == 3:
        channels = values[..., : 3 if values.shape[2] >= 3 else 1]
        spread = int((channels.max(axis=2).astype(int) - channels.min(axis=2)).max())
        if spread > (LOSSY_SPREAD if lossy else 0):
            return _in_colours(path, channels)
        values = channels[..., 0]
    # Pillow's histogram is three times quicker than bincount, which makes a copy of eight bytes a pixel.
    counts = (
        Image.fromarray(values).histogram()
        if values.dtype == np.uint8
        else np.bincount(values.reshape(-1))
    )
    present = np.flatnonzero(counts)
    lookup = np.full(int(present[-1]) + 1, IGNORE, dtype=np.uint8)
    for code in present:
        lookup[code] = meaning.get(int(code), IGNORE)
    codes, kept = lookup[values], tuple(int(value) for value in present[:VALUES])
    strange = [int(code) for code in present if int(code) not in meaning]
    if not strange:
        return Decoded(codes, values=kept)
    unknown = np.isin(values, strange)
    return Decoded(
        codes, [_unknown_codes(path, values, unknown, list(meaning), lossy)], kept, unknown
    )


def is_lossy(path: Path | str) -> bool:
    """Return whether a mask file is of a format whose compression changes values."""
    return Path(path).suffix.lower() in LOSSY_SUFFIXES


def _unknown_codes(
    path: Path | str, values: np.ndarray, unknown: np.ndarray, known: Sequence[int], lossy: bool
) -> Fault:
    codes, counts = np.unique(values[unknown], return_counts=True)
    listed = ", ".join(f"{code} ({count} px)" for code, count in zip(codes[:LISTED], counts)) + (
        ", ..." if len(codes) > LISTED else ""
    )
    detail = f"holds {int(unknown.sum())} px ({unknown.mean():.2%}) of codes other than {ranges(known)}: {listed}"
    y, x = np.argwhere(unknown)[0]
    place = f"first at x {x}, y {y}"
    greys = len(codes) >= SOFT and {0, 255} <= set(np.unique(values).tolist())
    if greys:
        return Fault(
            "unknown codes",
            str(path),
            f"holds {len(codes)} greys between 0 and 255: a 0/255 mask with soft edges",
            'declare masks="threshold" in a task of two classes, or write one code a pixel',
            place,
        )
    if values.dtype != np.uint8 and (values % WIDE == 0).all():
        return Fault(
            "unknown codes",
            str(path),
            f"holds codes that are all multiples of {WIDE}, as a change from 8 to 16 bits makes them",
            f"divide them by {WIDE}, or save the mask with 8 bits",
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
        f"remap these codes, or declare them in the task: codes={{{codes[0]}: CLASS}}, or ignore=({codes[0]},) for unlabelled",
        place,
    )


def _in_colours(path: Path | str, rgb: np.ndarray) -> Decoded:
    packed = _packed(rgb)
    colours, counts = np.unique(packed, return_counts=True)
    order = counts.argsort()[::-1]
    listed = ", ".join(
        f"{_unpacked(colours[i])} {counts[i] / packed.size:.1%}" for i in order[:LISTED]
    )
    more = f" and {len(colours) - LISTED} more" if len(colours) > LISTED else ""
    return Decoded(
        np.full(rgb.shape[:2], IGNORE, np.uint8),
        [
            Fault(
                "unknown colours",
                str(path),
                f"is in colours, but this task's masks hold class codes: {listed}{more}",
                'write one code a pixel, or declare the colours in a task of your own: masks="colours" and palette=((R, G, B), ...)',
            )
        ],
    )


def decode_colours(
    path: Path | str,
    classes: Sequence[str],
    palette: Sequence[Colour],
    declared: Mapping[Colour, int],
) -> Decoded:
    """Read a mask in the palette's colours; `declared` maps further colours -> class index, or 255 for unlabelled.

    Raises `DataError` if the file cannot be read.
    """
    rgb = read_image(path)
    greys = np.unique(rgb[..., 0])
    if (
        1 < len(greys)
        and greys[-1] < FEW_CODES
        and (rgb == rgb[..., :1]).all()
        and not is_lossy(path)
    ):
        return Decoded(
            np.full(rgb.shape[:2], IGNORE, np.uint8),
            [
                Fault(
                    "unknown colours",
                    str(path),
                    f"holds the codes {ranges(greys.tolist())}, but this task's masks are in colours",
                    'paint them in the palette\'s colours, or define a task with masks="codes"',
                )
            ],
        )
    codes, away = match_colours(rgb, palette, declared)
    if not away:
        return Decoded(codes)
    unknown_pixels = sum(count for _, count, known in away if not known)
    pixels = sum(count for _, count, _ in away)
    most = np.array([colour for colour, _, _ in away[:3]], dtype=float)
    nearest = np.linalg.norm(most[:, None] - np.array(palette), axis=2).argmin(axis=1)
    listed = "; ".join(
        f"{colour} ({count} px, nearest {classes[index]})"
        for (colour, count, _), index in zip(away, nearest)
    )
    detail = f"holds {pixels} px ({pixels / codes.size:.2%}) in {len(away)} colours that no class has: {listed}"
    y, x = np.argwhere(_packed(rgb) == _packed(np.array(away[0][0])))[0]
    place = f"first at x {x}, y {y}"
    unknown = _unknown_colours(rgb, away)
    if unknown_pixels <= STRAY_SHARE * codes.size:
        return Decoded(
            codes,
            [
                Fault(
                    "blended colours",
                    str(path),
                    detail,
                    "save masks as PNG without smoothing",
                    place,
                )
            ],
            unknown=unknown,
        )
    worst = next(colour for colour, _, known in away if not known)
    remedy = f"recolour them, or declare them in the task: codes={{{worst}: CLASS}}, or ignore=({worst},) for unlabelled"
    return Decoded(
        codes, [Fault("unknown colours", str(path), detail, remedy, place)], unknown=unknown
    )


def match_colours(
    rgb: np.ndarray, palette: Sequence[Colour], declared: Mapping[Colour, int] | None = None
) -> tuple[np.ndarray, list[tuple[Colour, int, bool]]]:
    """Return codes, uint8 (H, W), of colours, uint8 (H, W, 3): each pixel's index in `palette`, or what `declared` says.

    Exact colours first; others take the nearest palette colour within `COLOUR_TOLERANCE` times the smallest distance between
    two palette colours (JPEG noise, anti-aliased edges), or a nearer declared one within `DECLARED_TOLERANCE`. The rest is
    unlabelled. The second result lists the inexact colours, most pixels first: (colour, pixels, whether it has a class).
    """
    known = [*enumerate(palette), *((code, colour) for colour, code in (declared or {}).items())]
    packed = _packed(rgb)
    codes = np.full(rgb.shape[:2], IGNORE, dtype=np.uint8)
    rest = np.ones(rgb.shape[:2], dtype=bool)
    for code, colour in known:
        exact = packed == _packed(np.array(colour))
        codes[exact] = code
        rest &= ~exact
    if not rest.any():
        return codes, []
    colours, where, counts = np.unique(packed[rest], return_inverse=True, return_counts=True)
    points = np.array([_unpacked(colour) for colour in colours], dtype=np.float32)
    centres = np.array([colour for _, colour in known], dtype=np.float32)
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    limits = np.full(len(known), COLOUR_TOLERANCE * _smallest_distance(centres[: len(palette)]))
    limits[len(palette) :] = DECLARED_TOLERANCE * _smallest_distance(centres)
    distance[distance > limits] = np.inf
    matched = np.isfinite(distance.min(axis=1))
    found = np.array([code for code, _ in known])[distance.argmin(axis=1)]
    codes[rest] = np.where(matched, found, IGNORE).astype(np.uint8)[where.reshape(-1)]
    order = counts.argsort()[::-1]
    return codes, [(_unpacked(colours[i]), int(counts[i]), bool(matched[i])) for i in order]


def _smallest_distance(colours: np.ndarray) -> float:
    between = np.linalg.norm(colours[:, None] - colours, axis=2)
    return float(between[between > 0].min())


def _unknown_colours(rgb: np.ndarray, away: Sequence[tuple[Colour, int, bool]]) -> np.ndarray:
    unknown = [_packed(np.array(colour)) for colour, _, known in away if not known]
    return np.isin(_packed(rgb), unknown)


def _packed(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def _unpacked(colour: int) -> Colour:
    return int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255


def decode_greys(path: Path | str, classes: Sequence[str]) -> Decoded:
    """Read a mask in which greys above 127 are class 1. Raises `DataError` if the file cannot be read."""
    grey = read_image(path)[..., 0]
    codes = (grey > 127).astype(np.uint8)
    if not 0 < grey.max() <= len(classes):
        return Decoded(codes)
    return Decoded(
        codes,
        [
            Fault(
                "0/255 mask",
                str(path),
                f"holds codes 0 to {grey.max()}, but greys above 127 are {classes[1]}",
                "write 255 instead of 1",
            )
        ],
    )


def ranges(codes: Sequence[int]) -> str:
    """Return codes as a reader counts them: "0 to 3, 255"."""

    def runs() -> Iterator[str]:
        ordered = sorted(set(codes))
        start = previous = ordered[0]
        for code in [*ordered[1:], None]:
            if code != previous + 1:
                yield (
                    f"{start} to {previous}"
                    if previous > start + 1
                    else f"{start}, {previous}"
                    if previous > start
                    else f"{start}"
                )
                start = code
            previous = code

    return ", ".join(runs())

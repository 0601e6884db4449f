"""The distance of neighbouring pixels in mm: as given, or from the headers of image files."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import ORIENTATION, QUARTER_TURNS, decoding
from ..data.slices import is_medical
from ..errors import DataError, brief
from ..utils.progress import track
from .measures import Spacing

log = logging.getLogger(__name__)

SAME = 0.01  # relative difference up to which two spacings are the same: headers are rounded
INCH, CENTIMETRE = 2, 3  # values of the tag ResolutionUnit
DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 270, 282, 283, 296
# "µm" is written with the micro sign or with the Greek letter, and by ImageJ as an escape sequence
MICROMETRES = ("µm", "\u03bcm", "um", "micron", "microns", r"\u00b5m")
IN_MM = {**dict.fromkeys(MICROMETRES, 1e-3), "nm": 1e-6, "mm": 1, "cm": 10, "m": 1000}
IMAGEJ = "ImageJ="  # how its description begins


@dataclass(frozen=True)
class Header:
    """A spacing that a file states. Print resolutions, in dots an inch, are often meaningless."""

    spacing: Spacing  # mm, (down, across), of the upright image
    source: str  # in words
    is_print: bool = False


def parse_spacing(text: str) -> Spacing:
    """Return the spacing of a text: "0.1", or "0.1x0.2" (down x across). Raises `DataError`."""
    try:
        sides = [float(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(1e-9 <= side < 1e6 for side in sides):
        raise DataError(
            f"--spacing {brief(text)}: is not the distance of two pixels in mm; write 0.1, or "
            "0.1x0.2 (down x across)",
            "spacing",
        )
    return sides[0], sides[-1]


def spacings(files: Sequence[Path], given: Spacing | None, mm: bool) -> list[Spacing | None]:
    """Return the spacing of each file; all None where nothing is measured in mm.

    It is `given`, or with `mm` what the file's header states. Raises `DataError` if that is
    missing, or if a header contradicts what is given. A print resolution contradicts nothing.
    """
    if given is None and not mm:
        return [None] * len(files)
    headers = [header_of(file) for file in track(files, "reading headers", len(files))]
    if given is not None:
        _compare(files, headers, given)
        return [given] * len(files)
    missing = [file for file, header in zip(files, headers) if header is None]
    if missing:
        if len(missing) < len(files):
            raise DataError(
                f"{missing[0]}: has no spacing in its header, and {len(files) - len(missing)} of "
                f"these {len(files)} images have one; give --spacing, or measure them apart",
                "mixed-spacings",
            )
        raise DataError(
            f"{missing[0]}: has no spacing in its header, and measures in mm need it; "
            "give --spacing, such as 0.1 or 0.1x0.2 (mm, down x across)",
            "no-spacing",
        )
    found = [header for header in headers if header is not None]
    printed = next((header for header in found if header.is_print), None)
    if printed:
        log.warning(
            "the spacing comes from a print resolution (%g x %g mm), which is often meaningless; "
            "--spacing states it",
            *printed.spacing,
        )
    return [header.spacing for header in found]


def _compare(files: Sequence[Path], headers: Sequence[Header | None], given: Spacing) -> None:
    for file, header in zip(files, headers):
        if header is None or all(
            math.isclose(a, b, rel_tol=SAME) for a, b in zip(header.spacing, given)
        ):
            continue
        text = "{:g} x {:g} mm".format(*header.spacing)
        if header.is_print:
            log.debug("%s: its print resolution (%s) is not used", file, text)
            continue
        raise DataError(
            f"{file}: its {header.source} says {text}, and --spacing says "
            f"{given[0]:g} x {given[1]:g} mm; leave out --spacing and give --mm, "
            "or correct the header",
            "contradicting-spacing",
        )


def header_of(file: Path) -> Header | None:
    """Return the spacing that a file's header states; None without one.

    Read are DICOM and NIfTI, TIFF (resolution, ImageJ, OME), and the resolution of EXIF, JPEG and
    PNG. Raises `DataError` if the file cannot be read.
    """
    if is_medical(file):
        from ..data.medical import spacing_of

        found = spacing_of(file)
        return Header(found, "header") if found else None
    with decoding(file), Image.open(file) as image:
        header = _of_tiff(image) if image.format == "TIFF" else None
        if not _description(image).startswith(IMAGEJ):  # whose resolution is in its own unit
            header = header or _of_print(image)
        is_turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
    if header is None or not is_turned:
        return header
    return Header(header.spacing[::-1], header.source, header.is_print)


def _of_tiff(image: Image.Image) -> Header | None:
    """Return what a microscope's TIFF states: OME's physical sizes, ImageJ's unit, or dots a cm."""
    tags = getattr(image, "tag_v2", {})
    text = _description(image)
    sizes = [
        (
            re.search(rf"""PhysicalSize{a}=["']([\d.eE+-]+)["']""", text),
            re.search(rf"""PhysicalSize{a}Unit=["']([^"']+)["']""", text),
        )
        for a in "YX"
    ]
    if all(size for size, _ in sizes):
        sides = [
            float(size[1]) * IN_MM.get(unit[1] if unit else "µm", math.nan)
            for size, unit in sizes
            if size
        ]
        return _header(sides, "OME description")
    across, down = (_number(tags.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION))
    if not across or not down:
        return None
    unit = re.search(r"^unit=(\S+)", text, re.M) if text.startswith(IMAGEJ) else None
    if unit:
        scale = IN_MM.get(unit[1].lower(), math.nan)
        return _header([scale / down, scale / across], "ImageJ description")
    if tags.get(RESOLUTION_UNIT) == CENTIMETRE:
        return _header([10 / down, 10 / across], "TIFF header")
    return None


def _description(image: Image.Image) -> str:
    """Return a TIFF's description: Pillow reads as Latin-1 what is often UTF-8."""
    text = str(getattr(image, "tag_v2", {}).get(DESCRIPTION, ""))
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _of_print(image: Image.Image) -> Header | None:
    """Return the resolution, in dots an inch, of a header or of EXIF."""
    dots = image.info.get("dpi")
    exif = image.getexif()
    if dots is None and exif.get(RESOLUTION_UNIT) in (INCH, CENTIMETRE):
        scale = 1 if exif[RESOLUTION_UNIT] == INCH else 2.54
        dots = [_number(exif.get(tag)) * scale for tag in (X_RESOLUTION, Y_RESOLUTION)]
    if not dots or not all(_number(side) > 1 for side in dots):  # 1 means no resolution
        return None
    across, down = (25.4 / _number(side) for side in dots)
    return _header([down, across], "print resolution", True)


def _header(sides: Sequence[float], source: str, is_print: bool = False) -> Header | None:
    down, across = sides
    is_usable = all(math.isfinite(side) and side > 0 for side in sides)
    return Header((down, across), source, is_print) if is_usable else None


def _number(value: object) -> float:
    """Return a tag's value as a number; 0 for none and for divisions by zero."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) else 0.0

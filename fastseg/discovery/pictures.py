"""How images are stored: sizes, channels, bits, transparency; channels in files of their own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import is_deep, read_image
from ..data.slices import is_medical
from ..errors import DataError
from ..utils.text import counted
from .evidence import Notes
from .mask_detection import spaced
from .pairings import ends_of
from .survey import Survey, words

SAMPLE = 200  # images whose headers are read
ALPHA_SAMPLE = 5  # transparent images that are decoded
FEWEST, MOST = 2, 16  # channels

# Ends of the files of single channels, in the order of the channels
_CHANNELS = "r red g green b blue nir ir infrared rededge re swir lwir thermal tir depth pan"
CHANNEL_WORDS = _CHANNELS.split()


@dataclass
class Images:
    """What a sample of images is like."""

    sizes: list[tuple[int, int]] = field(default_factory=list)  # (height, width) in px
    fields: dict[str, Any] = field(default_factory=dict)  # of the definition


def images_of(files: Sequence[Path], notes: Notes) -> Images:
    """Return sizes and the fields channels and alpha of a sample of images."""
    found, channels = Images(), Counter[int]()
    deep, transparent, unreadable = [], [], []
    for file in spaced(files, SAMPLE):
        try:
            size, count, is_16, has_alpha = _header(file)
        except (OSError, ValueError, SyntaxError, DataError):
            unreadable.append(file)
            continue
        found.sizes.append(size)
        channels[count] += 1
        deep += [file] if is_16 else []
        transparent += [file] if has_alpha else []
    if not found.sizes:
        raise DataError(f"{files[0]}: no image can be read; check the files", "unreadable-image")
    (height, width), most = Counter(found.sizes).most_common(1)[0]
    notes.say(
        "images",
        f"{counted(len(files), 'image')}; of {len(found.sizes)} looked at, {most} are "
        f"{width} x {height} px (width x height)",
    )
    if unreadable:
        notes.say(
            "images", f"{counted(len(unreadable), 'image')} cannot be read, such as {unreadable[0]}"
        )
    if deep:
        notes.say(
            "images",
            f"{counted(len(deep), 'image')} with more than 8 bits, such as {deep[0].name}: scaled "
            "by the range of all of them, which fit finds",
        )
    count = channels.most_common(1)[0][0]
    if count > 3 or count == 2:
        found.fields["channels"] = count
        notes.say("channels", f"{count} channels in each file, such as {files[0].name}")
    elif transparent:
        found.fields["alpha"] = _alpha(transparent, notes)
    return found


def _header(file: Path) -> tuple[tuple[int, int], int, bool, bool]:
    """Return (height, width), channels (1 and 3 for plain images), deep or not, alpha or not."""
    if is_medical(file):
        from ..data import medical

        pixels = medical.read(file)
        return (pixels.shape[0], pixels.shape[1]), 3, False, False
    if file.suffix.lower() in (".tif", ".tiff"):
        from ..data import tiff

        if tiff.is_tiff(file):
            pages = tiff.pages_of(file)
            count = tiff.channels_of(pages)
            if count > 4 or (count in (2, 4) and not _pillow_alpha(file)):
                page = pages[0]
                return (page.height, page.width), count, page.bits > 8, False
    with Image.open(file) as image:
        size = image.size[::-1]
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
            size = image.size
        return size, 3, is_deep(image), image.mode in ("RGBA", "LA", "PA")


def _pillow_alpha(file: Path) -> bool:
    """Return whether a TIFF of two or four channels says that the last one is alpha."""
    try:
        with Image.open(file) as image:
            extra = tuple(getattr(image, "tag_v2", {}).get(338, ()))
            return image.mode in ("RGBA", "LA") and any(kind in (1, 2) for kind in extra)
    except (OSError, ValueError, SyntaxError):
        return False


def _alpha(files: Sequence[Path], notes: Notes) -> str:
    """Return what becomes of the alpha channel: dropped where it hides nothing, else white."""
    hidden = 0.0
    for file in spaced(files, ALPHA_SAMPLE):
        with Image.open(file) as image:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        hidden = max(hidden, float((alpha < 255).mean()))
    what = f"{counted(len(files), 'image')} with an alpha channel, such as {files[0].name}"
    if hidden == 0:
        notes.say("alpha", f"{what}: it is opaque everywhere, so it is dropped")
        return "drop"
    notes.say("alpha", f"{what}: up to {hidden:.0%} transparent; laid on white (or: drop, black)")
    return "white"


def channel_ends(survey: Survey, folder: str) -> tuple[str, ...]:
    """Return the ends of stems where each channel of an image is a file of its own; else ()."""
    by_core: dict[str, set[str]] = defaultdict(set)
    for name in survey.folders[folder].images:
        text = Path(name).stem
        for end in ends_of(text)[1:]:
            if _channel_rank(end) is not None:
                by_core[text.removesuffix(end)].add(end)
                break
    sets = Counter(frozenset(ends) for ends in by_core.values())
    if not sets:
        return ()
    ends, count = sets.most_common(1)[0]
    whole = count * len(ends) >= 0.3 * len(survey.folders[folder].images)
    if not FEWEST <= len(ends) <= MOST or not whole:
        return ()
    first = [
        name for name in survey.folders[folder].images if Path(name).stem.endswith(tuple(ends))
    ]
    for file in spaced([survey.path(folder, name) for name in first], 3):
        pixels = read_image(file)
        if not (pixels == pixels[..., :1]).all():
            return ()
    return tuple(sorted(ends, key=lambda end: _channel_rank(end) or 0))


def _channel_rank(end: str) -> int | None:
    """Return the place of a channel's end among the others, or None if it is none."""
    found = words(end)
    return CHANNEL_WORDS.index(found[0]) if len(found) == 1 and found[0] in CHANNEL_WORDS else None

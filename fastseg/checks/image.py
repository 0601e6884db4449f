"""The check of one labelled image: decodes it completely and reports each fault."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from ..data import images
from ..data.channels import files_of, read
from ..data.issues import Fault
from ..data.looks import look_of
from ..data.reading import Reading
from ..data.slices import is_medical, split_slice
from ..errors import DataError
from ..tasks import Item, SegmentationTask, Task
from ..types import IGNORE

# Alignment of masks. Conventions, measured by scripts/planting.py: of 60
# faults of all kinds planted in real images, it finds 58 in eye (it misses two moved masks),
# 60 in mri, and 4 of 4 in surfaces, without a false alarm.
ALIGNMENT_SIDE = 192  # px: images are shrunk until their longest side has this length
MAX_SHIFT = 24  # px in the shrunk image: largest shift of the mask that is tried
IN_PLACE = 3  # px in the shrunk image: shifts up to this count as aligned
MIN_SIDE = 8  # px of the shrunk image's shorter side
EDGE_SIGMA = 1.0  # px: Gaussian that removes noise before edges are detected
SURROUNDINGS_SIGMA = 12.0  # px: Gaussian that estimates the mean edge strength around a pixel
BORDER = 2  # px: outlines this close to the border of the shrunk image are ignored
# px of outline in the shrunk image (two fifths of its longest side); with less, no score is
# computed: a few small circles fit many places
MIN_OUTLINE = 80

REPLACE = "replace or remove it"  # the remedy for files that cannot be decoded
UPRIGHT = 1  # the EXIF orientation of images that are not turned
CONVERTED_MODES = {  # Pillow's mode -> what an image of it has
    "CMYK": "inks (CMYK)",
    "RGBA": "transparent pixels",
    "LA": "transparent pixels",
    "PA": "transparent pixels",
    "P": "a palette",
}

DIGEST_BYTES = 12  # for 100,000 files, the probability of a collision is about 1e-19


@dataclass
class Finding:
    """What the check of an image and its label found; about a kilobyte."""

    image: str
    label: str | int  # as messages name it
    faults: list[Fault]
    size: tuple[int, int] = (0, 0)  # height, width
    counts: Sequence[int] | np.ndarray = ()  # pixels of each class, or 1 for the image's class
    unlabelled: int = 0  # pixels
    values: Sequence[int] = ()  # codes that the mask file holds, the first few
    digest: str = ""  # of the file's bytes
    hash: str = ""  # perceptual, hexadecimal
    offset: float = 0.0  # score of `misalignment`
    shift: tuple[int, int] = (0, 0)  # where: px of the image to the right and down

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values; `from_json` is the inverse."""
        return {**asdict(self), "counts": [int(count) for count in self.counts]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Finding:
        """Return the finding that `values` was made from."""
        return cls(
            **{
                **values,
                "faults": [Fault(**fault) for fault in values["faults"]],
                "size": tuple(values["size"]),
                "shift": tuple(values["shift"]),
            }
        )


def examine(task: Task, item: Item) -> Finding:
    """Decode an image and its mask completely and return all that is wrong with them.

    Faults of the files are returned, not raised.
    """
    image, label = item.image, item.label
    found = Finding(str(image), label if isinstance(label, int) else item.shown_label, [])
    try:
        picture = task.shown(task.image(item))
        # other channels than RGB are read as they are stored, upright
        mode, orientation = _mode_of(image) if task.reading.is_plain else ("", UPRIGHT)
        content = _content(image, task.reading)
    except DataError as error:
        found.faults.append(_unreadable(image, error))
        return found
    found.size = height, width = picture.shape[:2]
    found.digest = hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
    found.hash = look_of(picture)
    found.faults += _mode_faults(image, "" if mode.startswith("I") else mode)
    if isinstance(label, int):
        found.counts = [int(label == i) for i in range(len(task.classes))]
        return found
    try:
        decoded = task.examine_label(item)
        mask_mode, turned = _mode_of(label)
    except DataError as error:
        remedy = "run the command again" if item.origin else REPLACE
        found.faults.append(_unreadable(item.shown_label, error, remedy))
        return found
    if decoded is None:  # a task whose label files hold no pixels
        return found
    codes, found.values = decoded.codes, decoded.values
    if isinstance(task, SegmentationTask) and not item.origin:
        found.faults += _mask_mode_faults(task, label, mask_mode)
    if codes.shape != found.size:
        stored = (width, height) if orientation in images.QUARTER_TURNS else found.size
        found.faults.append(_size_fault(item, codes.shape, found.size, stored, orientation))
    elif turned == UPRIGHT and (orientation in (2, 3, 4) or (orientation > 4 and height == width)):
        found.faults.append(
            Fault(
                "exif flip",
                str(image),
                "viewers turn or mirror it, but its mask is not turned",
                "look whether they fit, and remove the orientation from the image's EXIF if not",
            )
        )
    found.faults += decoded.faults
    if any(fault.stops for fault in found.faults):
        return found
    counts = np.bincount(codes.reshape(-1), minlength=256)
    found.counts, found.unlabelled = counts[: len(task.classes)], int(counts[IGNORE])
    if task.background is not None and not np.delete(found.counts, task.background).any():
        found.faults.append(_empty_fault(item.shown_label, codes, decoded.values))
    else:
        found.offset, found.shift = misalignment(picture, codes)
    return found


def _content(image: Path, how: Reading) -> bytes:
    """Return what makes an image the same as another: its files, or the pixels of a slice."""
    if split_slice(image):
        return read(image, how).tobytes()
    return b"".join(file.read_bytes() for file in files_of(image, how))


def _empty_fault(mask: str, codes: np.ndarray, values: Sequence[int]) -> Fault:
    if set(values) == {0, IGNORE}:
        return Fault(
            "empty mask",
            mask,
            "holds 0 and 255 only, and 255 counts as unlabelled, "
            "since other masks hold other codes",
            "if 255 means a class here, write that class's code; "
            "else keep it if there is nothing to see",
        )
    return Fault(
        "empty mask",
        mask,
        "has no foreground" if (codes != IGNORE).any() else "is unlabelled throughout",
        "label it, or keep it if there is nothing to see",
    )


def _mode_of(path: Path) -> tuple[str, int]:
    """Return Pillow's mode of a file and its EXIF orientation.

    An alpha channel without transparent pixels is left out of the mode.
    """
    if is_medical(path):
        return "", UPRIGHT
    try:
        opened = Image.open(path)
    except UnidentifiedImageError:  # one that `data.tiff` reads
        return "", UPRIGHT
    with opened:
        mode, orientation = opened.mode, opened.getexif().get(images.ORIENTATION, UPRIGHT)
        if mode in ("RGBA", "LA", "PA") and np.min(opened.getextrema()[-1]) == 255:
            mode = mode[:-1]
    return mode, orientation


def _unreadable(path: Path | str, error: DataError, remedy: str = REPLACE) -> Fault:
    return Fault("unreadable", str(path), _detail_of_error(path, error), remedy)


def _detail_of_error(path: Path | str, error: DataError) -> str:
    """Return an error's message without the file's name and the remedy."""
    return str(error).removeprefix(f"{path}: ").rpartition("; ")[0] or str(error)


def _mode_faults(
    path: Path,
    mode: str,
    remedy: str = "save it as 8-bit RGB, and check that the picture is still right",
) -> Iterator[Fault]:
    """Yield a fault if an image is converted when it is read, by Pillow's `mode` of its file."""
    deep = "16 or 32 bits a pixel" if mode.startswith("I") or mode == "F" else None
    what = deep or CONVERTED_MODES.get(mode)
    if what:
        yield Fault("image mode", str(path), f"has {what}", remedy)


def _mask_mode_faults(task: SegmentationTask, mask: Path, mode: str) -> Iterator[Fault]:
    """Yield a fault if a mask's mode is unusual for the task.

    Palettes are usual, and 16-bit codes are read as they are.
    """
    if mode == "P" or (task.masks == "codes" and mode.startswith("I")):
        return
    remedy = {
        "codes": "save it as 8-bit grey, one code a pixel",
        "colours": "save it as 8-bit RGB, in the palette's colours",
        "threshold": "save it as 8-bit grey",
    }[task.masks]
    yield from _mode_faults(mask, mode, remedy)


def _size_fault(
    item: Item,
    mask_size: tuple[int, ...],
    size: tuple[int, int],
    stored: tuple[int, int],
    orientation: int,
) -> Fault:
    """Return the fault of a mask that has not its image's size; all sizes are (height, width)."""
    if orientation != UPRIGHT and mask_size == stored:
        return Fault(
            "exif rotation",
            str(item.image),
            f"its EXIF says to turn it to {size[1]}x{size[0]} px, but its mask is {mask_size[1]}x"
            f"{mask_size[0]}, as it is stored",
            "remove the orientation from the image's EXIF, or turn the mask",
        )
    return Fault(
        "size mismatch",
        item.shown_label,
        f"is {mask_size[1]}x{mask_size[0]} px, but its image {item.image.name} is "
        f"{size[1]}x{size[0]}",
        "export the mask at the image's size",
    )


def misalignment(image: np.ndarray, codes: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return how much better a mask's outlines fit the image's edges when shifted, and the shift.

    `image` is uint8 (H, W, 3), `codes` are (H, W). The shift is (px to the right, px down). The
    score is by how much the mean edge strength under the outlines, moved by up to `MAX_SHIFT` px of
    an image shrunk to `ALIGNMENT_SIDE`, exceeds that in place, in standard deviations over all
    moves: 0 for a mask that fits best where it is.
    """
    height, width = codes.shape
    scale = ALIGNMENT_SIDE / max(height, width)
    size = max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale))
    small = Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX)
    grey = ndimage.gaussian_filter(np.asarray(small, dtype=np.float32), EDGE_SIGMA)
    strength = np.log1p(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)))
    # relative to the surroundings, so that a textured background does not attract outlines
    strength -= ndimage.gaussian_filter(strength, SURROUNDINGS_SIGMA)
    outline = _outline(np.asarray(Image.fromarray(codes).resize(size, Image.Resampling.NEAREST)))
    if outline.sum() < MIN_OUTLINE:
        return 0.0, (0, 0)
    # The edge strength under the outline, for each shift, is a cross-correlation; padding prevents
    # outlines that leave the image on one side from entering it on the other.
    padded = [2 * side for side in outline.shape]
    fit = np.fft.irfft2(
        np.fft.rfft2(strength, padded) * np.conj(np.fft.rfft2(outline.astype(np.float32), padded)),
        padded,
    )
    fit = np.roll(fit, (MAX_SHIFT, MAX_SHIFT), (0, 1))[: 2 * MAX_SHIFT + 1, : 2 * MAX_SHIFT + 1]
    near = slice(MAX_SHIFT - IN_PLACE, MAX_SHIFT + IN_PLACE + 1)
    here = fit[near, near].max()
    y, x = np.unravel_index(fit.argmax(), fit.shape)
    return float((fit.max() - here) / max(fit.std(), 1e-9)), (
        round((int(x) - MAX_SHIFT) / scale),
        round((int(y) - MAX_SHIFT) / scale),
    )


def _outline(codes: np.ndarray) -> np.ndarray:
    """Return where codes, (H, W), differ from their left or upper neighbour, bool (H, W)."""
    outline = np.zeros(codes.shape, dtype=bool)
    outline[:, 1:] |= codes[:, 1:] != codes[:, :-1]
    outline[1:] |= codes[1:] != codes[:-1]
    outline[:BORDER] = outline[-BORDER:] = outline[:, :BORDER] = outline[:, -BORDER:] = False
    return outline

"""One look at a labelled image: decoded whole, and each thing that is wrong with it told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from scipy import ndimage

from ..data import images
from ..data.issues import Fault
from ..errors import DataError
from ..tasks import SegmentationTask, Task
from ..types import IGNORE

SIDE, REACH, NEAR = (
    192,
    24,
    3,
)  # px: longest side at which alignment is judged, how far masks are moved, what counts as in place
FEW_EDGES = (
    80  # px of outline in it, below which nothing can be said: a few small circles fit many places
)


@dataclass
class Finding:
    """What one look at an image and its label found, small enough to keep of 100,000 of them."""

    image: str
    label: str | int
    faults: list[Fault]
    size: tuple[int, int] = (0, 0)  # height, width
    counts: Sequence[int] = ()  # pixels of each class, or 1 for the image's class
    unlabelled: int = 0  # pixels
    values: Sequence[int] = ()  # codes that the mask file holds, the first few
    digest: str = ""  # of the file's bytes
    hash: str = ""  # perceptual, hexadecimal
    offset: float = 0.0  # how much better the mask's outlines fit elsewhere, see `misalignment`
    shift: tuple[int, int] = (0, 0)  # where: px of the image to the right and down

    def plain(self) -> dict:
        """Return it as JSON can hold it, see `of`."""
        return {**asdict(self), "counts": [int(count) for count in self.counts]}

    @classmethod
    def of(cls, plain: dict) -> Finding:
        """Return the finding that `plain` was made from."""
        return cls(
            **{
                **plain,
                "faults": [Fault(**fault) for fault in plain["faults"]],
                "size": tuple(plain["size"]),
                "shift": tuple(plain["shift"]),
            }
        )


def examine(task: Task, image: Path, label: Path | int, source: str = "") -> Finding:
    """Decode an image and its mask whole and return all that is wrong with them; nothing is raised."""
    found = Finding(str(image), label if isinstance(label, int) else str(label), [])
    try:
        picture, mode, orientation, raw = _decoded(image, task.depth)
    except DataError as error:
        found.faults.append(_unreadable(image, error))
        return found
    found.size = picture.shape[:2]
    found.digest = hashlib.blake2b(image.read_bytes(), digest_size=12).hexdigest()
    found.hash = str(imagehash.phash(Image.fromarray(picture), hash_size=16))
    found.faults += _of_mode(image, "" if mode.startswith("I") else mode)
    if isinstance(label, int):
        found.counts = [int(label == i) for i in range(len(task.classes))]
        return found
    try:
        decoded = task.examine_mask(label, source)
        mask_mode, turned = _mode_of(label)
    except DataError as error:
        found.faults.append(_unreadable(label, error))
        return found
    codes, found.values = decoded.codes, decoded.values
    found.faults += _of_mask_mode(task, label, mask_mode)
    if codes.shape != picture.shape[:2]:
        found.faults.append(
            _of_size(image, label, codes.shape, picture.shape[:2], raw, orientation)
        )
    elif turned == 1 and (
        orientation in (2, 3, 4) or (orientation > 4 and picture.shape[0] == picture.shape[1])
    ):
        found.faults.append(
            Fault(
                "exif flip",
                str(image),
                "viewers turn or mirror it, and its mask is not turned so",
                "look whether they fit, and remove the orientation from the image's EXIF if not",
            )
        )
    found.faults += decoded.faults
    if any(fault.stops for fault in found.faults):
        return found
    counts = np.bincount(codes.reshape(-1), minlength=256)
    found.counts, found.unlabelled = counts[: len(task.classes)], int(counts[IGNORE])
    if task.background is not None and not np.delete(found.counts, task.background).any():
        found.faults.append(_empty(label, codes, decoded.values))
    else:
        found.offset, found.shift = misalignment(picture, codes)
    return found


def _empty(mask: Path, codes: np.ndarray, values: Sequence[int]) -> Fault:
    if set(values) == {0, IGNORE}:
        return Fault(
            "empty mask",
            str(mask),
            "holds 0 and 255 only, and 255 counts as unlabelled, since other masks hold other codes",
            "if 255 means a class here, write that class's code; else keep it if there is nothing to see",
        )
    return Fault(
        "empty mask",
        str(mask),
        "has no foreground" if (codes != IGNORE).any() else "is unlabelled throughout",
        "label it, or keep it if there is nothing to see",
    )


def _decoded(path: Path, depth: int | None = None) -> tuple[np.ndarray, str, int, tuple[int, int]]:
    """Return pixels, upright and RGB; the file's mode, EXIF orientation and stored (height, width)."""
    pixels = images.read_image(path, depth)
    mode, orientation = _mode_of(path)
    height, width = pixels.shape[:2]
    return (
        pixels,
        mode,
        orientation,
        (width, height) if orientation in (5, 6, 7, 8) else (height, width),
    )


def _mode_of(path: Path) -> tuple[str, int]:
    """Return a file's mode, without an alpha channel that hides nothing, and its EXIF orientation."""
    with Image.open(path) as opened:
        mode, orientation = opened.mode, opened.getexif().get(0x0112, 1)
        if mode in ("RGBA", "LA", "PA") and opened.getextrema()[-1][0] == 255:
            mode = mode[:-1]
    return mode, orientation


def _unreadable(path: Path, error: DataError) -> Fault:
    return Fault("unreadable", str(path), _reason(path, error), "replace or remove it")


def _reason(path: Path, error: DataError) -> str:
    """Return an error's message without the file's name and the remedy."""
    return str(error).removeprefix(f"{path}: ").rpartition("; ")[0] or str(error)


def _of_mode(
    path: Path,
    mode: str,
    remedy: str = "save it as 8-bit RGB, and check that the picture is still right",
) -> Iterator[Fault]:
    what = (
        "16 or 32 bits a pixel"
        if mode.startswith("I") or mode == "F"
        else {
            "CMYK": "inks (CMYK)",
            "RGBA": "transparent pixels",
            "LA": "transparent pixels",
            "PA": "transparent pixels",
            "P": "a palette",
        }.get(mode)
    )
    if what:
        yield Fault("image mode", str(path), f"has {what}", remedy)


def _of_mask_mode(task: SegmentationTask, mask: Path, mode: str) -> Iterator[Fault]:
    """Yield what is odd about a mask's mode: palettes are usual, and 16-bit codes are read as they are."""
    if mode == "P" or (task.masks == "codes" and mode.startswith("I")):
        return
    remedy = {
        "codes": "save it as 8-bit grey, one code a pixel",
        "colours": "save it as 8-bit RGB, in the palette's colours",
        "threshold": "save it as 8-bit grey",
    }[task.masks]
    yield from _of_mode(mask, mode, remedy)


def _of_size(
    image: Path, mask: Path, mask_size: tuple, size: tuple, stored: tuple, orientation: int
) -> Fault:
    if orientation != 1 and mask_size == stored:
        return Fault(
            "exif rotation",
            str(image),
            f"its EXIF says to turn it to {size[1]}x{size[0]} px, but its mask is {mask_size[1]}x"
            f"{mask_size[0]}, as it is stored",
            "remove the orientation from the image's EXIF, or turn the mask",
        )
    return Fault(
        "size mismatch",
        str(mask),
        f"is {mask_size[1]}x{mask_size[0]} px, but its image {image.name} is {size[1]}x{size[0]}",
        "export the mask at the image's size",
    )


def misalignment(image: np.ndarray, codes: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return how much better a mask's outlines would fit the edges of its image elsewhere, and where: px to the right and down.

    The score is by how much the mean edge strength under the outlines, moved by up to `REACH` px of an image shrunk to `SIDE`,
    exceeds that in place, in standard deviations over all moves: 0 for a mask that fits best where it is.
    """
    height, width = codes.shape
    scale = SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    grey = ndimage.gaussian_filter(
        np.asarray(Image.fromarray(image).convert("L").resize(size, Image.BOX), dtype=np.float32), 1
    )
    small = np.asarray(Image.fromarray(codes).resize(size, Image.NEAREST))
    strength = np.log1p(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)))
    strength -= ndimage.gaussian_filter(
        strength, 12
    )  # edges against their surroundings: busy backgrounds attract no outline
    outline = np.zeros(small.shape, dtype=bool)
    outline[:, 1:] |= small[:, 1:] != small[:, :-1]
    outline[1:] |= small[1:] != small[:-1]
    outline[:2] = outline[-2:] = outline[:, :2] = outline[:, -2:] = False
    if outline.sum() < FEW_EDGES:
        return 0.0, (0, 0)
    padded = 2 * np.array(small.shape)
    fit = np.fft.irfft2(
        np.fft.rfft2(strength, padded) * np.conj(np.fft.rfft2(outline.astype(np.float32), padded)),
        padded,
    )
    fit = np.roll(fit, (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    here = fit[REACH - NEAR : REACH + NEAR + 1, REACH - NEAR : REACH + NEAR + 1].max()
    y, x = np.unravel_index(fit.argmax(), fit.shape)
    return float((fit.max() - here) / max(fit.std(), 1e-9)), (
        round((x - REACH) / scale),
        round((y - REACH) / scale),
    )

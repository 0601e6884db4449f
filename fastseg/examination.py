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

from . import masks
from .errors import DataError
from .faults import Fault
from .masks import IGNORE
from .tasks import SegmentationTask, Task

SIDE, REACH, NEAR = 192, 24, 3  # px: longest side at which alignment is judged, how far masks are moved, what counts as in place
FEW_EDGES = 80  # px of outline in it, below which nothing can be said: a few small circles fit many places


@dataclass
class Finding:
    """What one look at an image and its label found, small enough to keep of 100,000 of them."""

    image: str
    label: str | int
    faults: list[Fault]
    size: tuple[int, int] = (0, 0)  # height, width
    counts: Sequence[int] = ()  # pixels of each class, or 1 for the image's class
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
        return cls(**{**plain, "faults": [Fault(**fault) for fault in plain["faults"]], "size": tuple(plain["size"]),
                      "shift": tuple(plain["shift"])})


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
        values, mask_mode, turned, _ = _decoded(label, raw=True)
    except DataError as error:
        found.faults.append(_unreadable(label, error))
        return found
    found.faults += _of_mode(label, "" if mask_mode == "P" else mask_mode)
    if values.shape[:2] != picture.shape[:2]:
        found.faults.append(_of_size(image, label, values.shape[:2], picture.shape[:2], raw, orientation))
    elif turned == 1 and (orientation in (2, 3, 4) or (orientation > 4 and picture.shape[0] == picture.shape[1])):
        found.faults.append(Fault("exif flip", str(image), "viewers turn or mirror it, and its mask is not turned so",
                                  "look whether they fit, and remove the orientation from the image's EXIF if not"))
    wrong = list(_of_values(task, label, values, source))
    found.faults += wrong
    if any(fault.stops for fault in found.faults):
        return found
    try:
        codes = task.decode(label, source)
    except DataError as error:  # whatever else a fit would refuse
        found.faults.append(Fault("unknown codes", str(label), _told(label, error), "remap these codes"))
        return found
    found.counts = np.bincount(codes.reshape(-1), minlength=256)[: len(task.classes)]
    if task.background is not None and not np.delete(found.counts, task.background).any():
        found.faults.append(Fault("empty mask", str(label), "has no foreground" if (codes != IGNORE).any() else "is unlabelled throughout",
                                  "label it, or keep it if there is nothing to see"))
    else:
        found.offset, found.shift = misalignment(picture, codes)
    return found


def _decoded(path: Path, depth: int | None = None, raw: bool = False) -> tuple[np.ndarray, str, int, tuple[int, int]]:
    """Return pixels, upright and RGB, or as they are with `raw`; the file's mode, EXIF orientation and stored (height, width)."""
    pixels = masks.read_raw(path) if raw else masks.read_image(path, depth)
    with Image.open(path) as opened:
        mode, orientation = opened.mode, opened.getexif().get(0x0112, 1)
        if mode in ("RGBA", "LA", "PA") and opened.getextrema()[-1][0] == 255:
            mode = mode[:-1]  # nothing of it is transparent
    height, width = pixels.shape[:2]
    return pixels, mode, orientation, (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _unreadable(path: Path, error: DataError) -> Fault:
    return Fault("unreadable", str(path), _told(path, error), "replace or remove it")


def _told(path: Path, error: DataError) -> str:
    """Return an error's message without the file's name and the remedy."""
    return str(error).removeprefix(f"{path}: ").rpartition("; ")[0] or str(error)


def _of_mode(path: Path, mode: str) -> Iterator[Fault]:
    what = ("16 or 32 bits a pixel" if mode.startswith("I") or mode == "F" else
            {"CMYK": "inks (CMYK)", "RGBA": "transparent pixels", "LA": "transparent pixels", "PA": "transparent pixels",
             "P": "a palette"}.get(mode))
    if what:
        yield Fault("image mode", str(path), f"has {what}", "save it as 8-bit RGB, looking that it is what you want")


def _of_size(image: Path, mask: Path, mask_size: tuple, size: tuple, stored: tuple, orientation: int) -> Fault:
    if orientation != 1 and mask_size == stored:
        return Fault("exif rotation", str(image), f"its EXIF says to turn it to {size[1]}x{size[0]} px, but its mask is {mask_size[1]}x"
                     f"{mask_size[0]}, as it is stored", "remove the orientation from the image's EXIF, or turn the mask")
    return Fault("size mismatch", str(mask), f"is {mask_size[1]}x{mask_size[0]} px, but its image {image.name} is {size[1]}x{size[0]}",
                 "export the mask at the image's size")


def _of_values(task: SegmentationTask, mask: Path, values: np.ndarray, source: str) -> Iterator[Fault]:
    """Yield what is wrong with a mask's values: raw pixels (H, W) or (H, W, channels)."""
    channels = values[..., None] if values.ndim == 2 else values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    plain = channels[..., 0]
    if task.masks == "colours":
        yield from _of_colours(task, mask, masks.read_image(mask))
        return
    if (channels != channels[..., :1]).any() and task.masks == "codes":
        yield Fault("unknown colours", str(mask), "is in colours, but this task's masks hold class codes", "convert it to one code a pixel")
        return
    present = np.unique(plain)
    if task.masks == "threshold":
        if 0 < present[-1] < len(task.classes) + 1:
            yield Fault("0/255 mask", str(mask), f"holds codes 0 to {present[-1]}, but greys above 127 are {task.classes[1]}",
                        "write 255 instead of 1")
        return
    known = task.code_counts.get(source, len(task.classes))
    outside = (plain >= known) & (plain != task.unlabelled.get(source, -1)) & ((plain != IGNORE) | (source not in task.codes))
    if not outside.any():
        return
    if set(present.tolist()) == {0, 255}:
        yield Fault("0/255 mask", str(mask), f"holds 0 and 255, but the classes are 0 to {known - 1}", "write code 1 instead of 255")
        return
    codes, counts = np.unique(plain[outside], return_counts=True)
    share, (y, x) = outside.mean(), np.argwhere(outside)[0]
    listed = ", ".join(f"{code} ({count} px)" for code, count in zip(codes[:6], counts)) + (", ..." if len(codes) > 6 else "")
    yield Fault("unknown codes" if share > masks.STRAY_SHARE else "stray codes", str(mask),
                f"holds {int(outside.sum())} px ({share:.2%}) of codes outside 0 to {known - 1}: {listed}",
                "remap these codes", f"first at x {x}, y {y}")


def _of_colours(task: SegmentationTask, mask: Path, rgb: np.ndarray) -> Iterator[Fault]:
    palette = np.array(task.palette, dtype=np.int64)
    packed = rgb.astype(np.int64) @ (65536, 256, 1)
    colours, counts = np.unique(packed, return_counts=True)
    away = ~np.isin(colours, palette @ (65536, 256, 1))
    if not away.any():
        return
    blended, number = colours[away], counts[away]
    order = number.argsort()[::-1]
    unpacked = np.stack([blended >> 16, blended >> 8 & 255, blended & 255], axis=1)
    nearest = np.linalg.norm(unpacked[:, None].astype(float) - palette, axis=2).argmin(axis=1)
    most = "; ".join(f"{tuple(int(v) for v in unpacked[i])} ({number[i]} px, nearest {task.classes[nearest[i]]})" for i in order[:3])
    share = number.sum() / packed.size
    y, x = np.argwhere(packed == blended[order[0]])[0]
    detail = f"holds {int(number.sum())} px ({share:.2%}) in {len(blended)} colours that no class has: {most}"
    try:
        masks.colours_to_codes(rgb, task.palette, mask)
        yield Fault("blended colours", str(mask), detail, "save masks as PNG without smoothing", f"first at x {x}, y {y}")
    except DataError:
        yield Fault("unknown colours", str(mask), detail, "recolour them", f"first at x {x}, y {y}")


def misalignment(image: np.ndarray, codes: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return how much better a mask's outlines would fit the edges of its image elsewhere, and where: px to the right and down.

    The score is by how much the mean edge strength under the outlines, moved by up to `REACH` px of an image shrunk to `SIDE`,
    exceeds that in place, in standard deviations over all moves: 0 for a mask that fits best where it is.
    """
    height, width = codes.shape
    scale = SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    grey = ndimage.gaussian_filter(np.asarray(Image.fromarray(image).convert("L").resize(size, Image.BOX), dtype=np.float32), 1)
    small = np.asarray(Image.fromarray(codes).resize(size, Image.NEAREST))
    strength = np.log1p(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)))
    strength -= ndimage.gaussian_filter(strength, 12)  # edges against their surroundings: busy backgrounds attract no outline
    outline = np.zeros(small.shape, dtype=bool)
    outline[:, 1:] |= small[:, 1:] != small[:, :-1]
    outline[1:] |= small[1:] != small[:-1]
    outline[:2] = outline[-2:] = outline[:, :2] = outline[:, -2:] = False
    if outline.sum() < FEW_EDGES:
        return 0.0, (0, 0)
    padded = 2 * np.array(small.shape)
    fit = np.fft.irfft2(np.fft.rfft2(strength, padded) * np.conj(np.fft.rfft2(outline.astype(np.float32), padded)), padded)
    fit = np.roll(fit, (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    here = fit[REACH - NEAR:REACH + NEAR + 1, REACH - NEAR:REACH + NEAR + 1].max()
    y, x = np.unravel_index(fit.argmax(), fit.shape)
    return float((fit.max() - here) / max(fit.std(), 1e-9)), (round((x - REACH) / scale), round((y - REACH) / scale))

"""A mask as outlines without holes, in drawing order, for tools whose polygons have no holes.

A piece of a class whose holes are all labelled is a polygon around it and them: what fills the
holes is drawn later. A piece with unlabelled holes stays a bitmap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ..types import IGNORE
from .base import Region
from .geometry import LEAST_IOU, draw, polygons_of

# Smallest IoU of a class when all outlines are drawn
LEAST_CLASS_IOU = 0.99
# Smallest IoU of a piece with its outline, tried from the first: what neighbours change adds up.
LEASTS = (LEAST_IOU, 0.9975, 0.999, 0.9995)


@dataclass(frozen=True)
class Outline:
    """One connected piece of a class: a ring, or a bitmap."""

    code: int
    ring: np.ndarray | None = None  # float64 (n, 2), x and y in px
    bitmap: np.ndarray | None = None  # bool (h, w) in place of a ring
    offset: tuple[int, int] = (0, 0)  # (x, y) in px of the bitmap's upper left corner


@dataclass(frozen=True)
class _Piece:
    """One connected piece of a class, bool (h, w), with its holes filled."""

    code: int
    filled: np.ndarray
    offset: tuple[int, int]
    bitmap: np.ndarray | None  # without the filled holes, where some of them are unlabelled

    def outline(self, rule: str, least: float) -> Outline:
        if self.bitmap is not None:
            return Outline(self.code, bitmap=self.bitmap, offset=self.offset)
        ring, _ = polygons_of(self.filled, rule, least)[0]
        return Outline(self.code, ring + np.array(self.offset, dtype=float))


def outlines(codes: np.ndarray, rule: str, background: int | None) -> list[Outline]:
    """Return the outlines of a mask of codes, uint8 (H, W): later ones lie on top.

    Drawn by `rule`, each class has an IoU of at least `LEAST_CLASS_IOU` with its pixels.
    Pixels of `background` have no outline; without a background, unlabelled pixels (255) have none.
    """
    unwritten = IGNORE if background is None else background
    pieces = [
        piece
        for code in np.flatnonzero(np.bincount(codes.reshape(-1)))
        if code != unwritten
        for piece in _pieces(codes, int(code), unwritten)
    ]
    # what lies in a hole is smaller than what lies around it
    pieces.sort(key=lambda piece: -int(piece.filled.sum()))
    for least in LEASTS:
        simple = [piece.outline(rule, least) for piece in pieces]
        if _is_close(simple, codes, rule, unwritten):
            return simple
    return [piece.outline(rule, 1) for piece in pieces]


def _pieces(codes: np.ndarray, code: int, unwritten: int) -> list[_Piece]:
    """Return the pieces of a class: pixels that share a side are connected."""
    numbers, _ = ndimage.label(codes == code)
    found = []
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        inside = numbers[box] == number
        filled = ndimage.binary_fill_holes(inside)
        has_holes = bool((codes[box][filled & ~inside] == unwritten).any())
        offset = int(box[1].start), int(box[0].start)
        found.append(_Piece(code, filled, offset, inside if has_holes else None))
    return found


def _is_close(found: list[Outline], codes: np.ndarray, rule: str, unwritten: int) -> bool:
    """Return whether outlines drawn by `rule` give back each class of `codes` nearly."""
    drawn = np.full_like(codes, unwritten)
    for outline in found:
        region = Region("", bitmap=outline.bitmap, offset=outline.offset)
        if outline.ring is not None:
            region = replace(region, polygons=(outline.ring,))
        draw(drawn, region, outline.code, rule)
    same = np.bincount(codes[drawn == codes], minlength=IGNORE + 1)
    either = np.bincount(codes.reshape(-1), minlength=IGNORE + 1)
    either = either + np.bincount(drawn.reshape(-1), minlength=IGNORE + 1) - same
    return bool((same >= LEAST_CLASS_IOU * either).all())

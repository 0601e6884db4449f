"""Writes masks as COCO instances: each connected part of a class is an annotation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..types import IGNORE, Colour
from .base import IGNORED, Region, ToWrite
from .geometry import LEAST_IOU, Rings, area, draw, polygons_of
from .runs import cut_bitmap, encoded_rle

RULE = "area"  # by which readers draw the polygons
# Categories of unlabelled pixels, and of the background, as LabelMe and its converter name them
LEAST_CLASS_IOU = 0.99  # of each class with its annotations drawn back; else RLE is written


@dataclass
class _Piece:
    """A connected part of a class, to be written as one annotation."""

    code: int
    pixels: np.ndarray  # bool (h, w)
    offset: tuple[int, int]  # (x, y) of its upper left pixel
    rings: Rings  # in px of the image

    def region(self, as_polygon: bool) -> Region:
        """Return the region that a reader gets."""
        if as_polygon and not self.rings[1]:
            return Region("", (self.rings[0],))
        return Region("", bitmap=self.pixels, offset=self.offset)


class Writer:
    """Writes one file of instances, the annotations through a temporary file."""

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Colour],
        background: int | None,
        exact: bool,
    ):
        self.background, self.exact = background, exact
        coded = [code for code in range(len(classes)) if code != background]
        self.ids = {code: number for number, code in enumerate(coded, start=1)}
        self.ids[IGNORE] = len(coded) + 1
        self.categories = [
            {"id": self.ids[code], "name": classes[code], "color": list(palette[code])}
            for code in coded
        ]
        self.count = 0  # annotations
        self.has_unlabelled = False

    def write(self, images: Iterable[ToWrite], file: Path) -> Path:
        """Write the images' annotations to `file`, and return it."""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as spool,
            file.open("w", encoding="utf-8") as out,
        ):
            out.write('{"info": {"description": "masks as annotations"}, "licenses": [],\n')
            out.write('"images": [')
            for number, image in enumerate(images, start=1):
                height, width = image.codes.shape
                row = {"id": number, "file_name": image.name, "height": height, "width": width}
                out.write((",\n" if number > 1 else "\n") + json.dumps(row))
                for annotation in self._annotations(number, image):
                    spool.write((",\n" if self.count > 1 else "\n") + json.dumps(annotation))
            if self.has_unlabelled:
                self.categories.append({"id": self.ids[IGNORE], "name": IGNORED})
            out.write(f'\n],\n"categories": {json.dumps(self.categories)},\n"annotations": [')
            spool.seek(0)
            for block in iter(lambda: spool.read(1 << 20), ""):
                out.write(block)
            out.write("\n]}\n")
        return file

    def _annotations(self, image_id: int, image: ToWrite) -> Iterator[dict[str, Any]]:
        pieces = [piece for code in self.ids for piece in self._pieces(image.codes, code)]
        inexact = set(self.ids) if self.exact else self._inexact(image.codes, pieces)
        for piece in pieces:
            (height, width), (x, y) = piece.pixels.shape, piece.offset
            self.count += 1
            annotation: dict[str, Any] = {
                "id": self.count,
                "image_id": image_id,
                "category_id": self.ids[piece.code],
                "bbox": [x, y, width, height],
                "area": int(np.count_nonzero(piece.pixels)),
                "iscrowd": int(piece.code == IGNORE),
            }
            region = piece.region(piece.code not in inexact)
            if region.bitmap is None:
                annotation["segmentation"] = [region.polygons[0].round(2).reshape(-1).tolist()]
            else:
                annotation["segmentation"] = _compressed(piece, image.codes.shape)
            if image.scores is not None and piece.code in image.scores:
                annotation["score"] = round(float(image.scores[piece.code]), 4)
            yield annotation

    def _pieces(self, codes: np.ndarray, code: int) -> Iterator[_Piece]:
        mask = codes == code
        if not mask.any():
            return
        if code == IGNORE:  # one crowd, which nobody edits
            self.has_unlabelled = True
            pixels, offset = cut_bitmap(mask)
            yield _Piece(code, pixels, offset, (np.zeros((0, 2)), [np.zeros((0, 2))]))
            return
        for outer, holes, pixels, offset in _parts(mask, 1 if self.exact else LEAST_IOU):
            yield _Piece(code, pixels, offset, (outer, holes))

    def _inexact(self, codes: np.ndarray, pieces: Sequence[_Piece]) -> set[int]:
        """Return the classes that polygons do not keep: drawn back, they differ too much."""
        inexact = {IGNORE}
        while True:
            drawn = np.full(
                codes.shape, IGNORE if self.background is None else self.background, np.uint8
            )
            regions = [(piece.code, piece.region(piece.code not in inexact)) for piece in pieces]
            for code, region in sorted(regions, key=lambda pair: -area(pair[1])):
                draw(drawn, region, code, RULE)
            wrong = {
                code
                for code in self.ids
                if code not in inexact and not _is_kept(drawn == code, codes == code)
            }
            if not wrong and self.background is not None:
                background = drawn == self.background, codes == self.background
                wrong = set() if _is_kept(*background) else set(self.ids) - inexact
            if not wrong:
                return inexact
            inexact |= wrong


def _is_kept(drawn: np.ndarray, wanted: np.ndarray) -> bool:
    return (drawn & wanted).sum() >= LEAST_CLASS_IOU * (drawn | wanted).sum()


def _parts(
    mask: np.ndarray, least: float
) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray, tuple[int, int]]]:
    """Yield the connected parts of a mask: rings as `polygons_of`, pixels and their offset."""
    pieces, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        pixels = pieces[box] == number
        x, y = box[1].start, box[0].start
        ((outer, holes),) = polygons_of(pixels, RULE, least)
        yield outer + (x, y), [hole + (x, y) for hole in holes], pixels, (x, y)


def _compressed(piece: _Piece, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the compressed run lengths of a part of an image of `size`, (height, width)."""
    (x, y), (height, width) = piece.offset, piece.pixels.shape
    whole = np.zeros((size[0], size[1]), dtype=bool, order="F")
    whole[y : y + height, x : x + width] = piece.pixels
    return encoded_rle(whole)

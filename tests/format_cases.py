"""Masks and helpers for the tests of label formats: random shapes, and a round trip through files.

@given(codes=class_masks())
def test_round_trip(codes, tmp_path_factory): ...
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fastseg.data.issues import Fault
from fastseg.formats import base

CLASSES = ("ground", "roof", "tree", "road")  # ground is the background
PALETTE = ((40, 40, 40), (204, 60, 60), (60, 160, 60), (120, 120, 200))

# Tests that write and read files: the same examples in each run
few = settings(
    max_examples=int(os.environ.get("FORMAT_EXAMPLES", "40")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def blobs(draw, min_side: int = 1, max_side: int = 48) -> np.ndarray:
    """Draw a mask, bool (H, W): smooth blobs with holes, noise, lines of one pixel."""
    height, width = draw(st.tuples(*[st.integers(min_side, max_side)] * 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smooth = draw(st.sampled_from([0, 0.7, 1.5, 3, 6]))
    share = draw(st.floats(0.05, 0.95))
    values = ndimage.gaussian_filter(rng.random((height, width)), smooth)
    mask = values >= np.quantile(values, share)
    for _ in range(draw(st.integers(0, 2))):
        _add_line(mask, rng, draw(st.booleans()))
    return mask


def _add_line(mask: np.ndarray, rng: np.random.Generator, value: bool) -> None:
    height, width = mask.shape
    (y0, y1), (x0, x1) = sorted(rng.integers(0, height, 2)), sorted(rng.integers(0, width, 2))
    kind = rng.integers(3)
    if kind == 0:
        mask[y0, x0 : x1 + 1] = value
    elif kind == 1:
        mask[y0 : y1 + 1, x0] = value
    else:
        steps = min(y1 - y0, x1 - x0) + 1
        mask[y0 + np.arange(steps), x0 + np.arange(steps)] = value


@st.composite
def class_masks(draw, classes: int = len(CLASSES), unlabelled: bool = False, **sides: int):
    """Draw codes, uint8 (H, W): touching classes, holes, lines of one pixel.

    With `unlabelled`, some pixels are 255.
    """
    first = draw(blobs(**sides))
    codes = np.zeros(first.shape, np.uint8)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for code in [*range(1, classes), *([255] if unlabelled else [])]:
        values = ndimage.gaussian_filter(rng.random(first.shape), draw(st.sampled_from([0, 1, 4])))
        codes[values >= np.quantile(values, draw(st.floats(0.5, 1)))] = code
        if draw(st.booleans()):
            _add_line_of(codes, rng, code)
    codes[first] = draw(st.integers(0, classes - 1))
    return codes


def _add_line_of(codes: np.ndarray, rng: np.random.Generator, code: int) -> None:
    line = np.zeros(codes.shape, bool)
    _add_line(line, rng, True)
    codes[line] = code


def smooth_codes(seed: int = 0, size: tuple[int, int] = (120, 160), scale: float = 8) -> np.ndarray:
    """Return codes, uint8 (H, W), of large smooth touching shapes, as people label them."""
    rng = np.random.default_rng(seed)
    values = [ndimage.gaussian_filter(rng.random(size), scale) for _ in CLASSES]
    return np.argmax(values, axis=0).astype(np.uint8)


def write_labels(
    form: base.Format,
    masks: dict[str, np.ndarray],
    out: Path,
    background: int | None = 0,
    scores: dict[int, float] | None = None,
) -> list[Path]:
    """Write images and label files of codes by image name, and return the label files."""
    written = []
    for name, codes in masks.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(codes == 255, 0, codes)).save(file)
        written.append(base.ToWrite(file, name, codes, scores))
    return form.write(iter(written), out, CLASSES, PALETTE, background)


def read_back(
    form: base.Format, out: Path, images: Path | None = None, background: int | None = 0
) -> tuple[dict[str, np.ndarray], list[Fault]]:
    """Return the codes by image name that label files below `out` give, and the faults."""
    meaning = {name: index for index, name in enumerate(CLASSES)}
    from fastseg.formats import cache

    drawn, faults = cache.masks_of(form, out, out, images or out, meaning, background)
    codes = {
        one.image.relative_to(out.resolve()).as_posix(): np.asarray(Image.open(one.mask))
        for one in drawn
    }
    return codes, faults


def round_trip(form: base.Format, codes: np.ndarray, out: Path) -> np.ndarray:
    """Write codes in a format to the new folder `out`, and return what is read back.

    Raises `AssertionError` for any fault.
    """
    out.mkdir(parents=True)
    write_labels(form, {"images/picture.png": codes}, out)
    found, faults = read_back(form, out)
    assert faults == []
    return found["images/picture.png"]


def iou_by_class(one: np.ndarray, other: np.ndarray) -> dict[int, float]:
    """Return the intersection over union of each code that either mask has."""
    return {
        int(code): float(((one == code) & (other == code)).sum())
        / float(((one == code) | (other == code)).sum())
        for code in np.union1d(one, other)
    }

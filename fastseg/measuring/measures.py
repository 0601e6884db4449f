"""The measures of a mask's objects and classes, by scikit-image's `regionprops_table`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import IGNORE

Spacing = tuple[float, float]  # distance of neighbouring pixels in mm, (down, across)
Table = dict[str, np.ndarray]  # columns of equal length: "code", and one for each measure


@dataclass(frozen=True)
class Measure:
    """One measure: what it is, and how it changes with the size of a pixel."""

    name: str
    power: int  # of px in its unit: 2 for areas, 1 for lengths and positions, 0 without unit
    title: str
    top: float = math.inf  # largest value; the smallest one is 0
    is_angle: bool = False


ALL = (
    Measure("area", 2, "area"),
    Measure("share", 0, "share of the image", 1),
    Measure("count", 0, "objects of the class in the image"),
    Measure("centroid_x", 1, "centroid, from the left"),
    Measure("centroid_y", 1, "centroid, from the top"),
    Measure("diameter", 1, "diameter of a circle of the same area"),
    Measure("outer_diameter", 1, "the same with holes filled: of an iris, say, with its pupil"),
    Measure("major_axis", 1, "major axis of the ellipse of the same moments"),
    Measure("minor_axis", 1, "minor axis of that ellipse"),
    Measure("angle", 0, "angle of the major axis, counter-clockwise from the right", 180, True),
    Measure("perimeter", 1, "perimeter"),
    Measure("box_x", 1, "left side of the bounding box"),
    Measure("box_y", 1, "upper side of the bounding box"),
    Measure("box_width", 1, "width of the bounding box"),
    Measure("box_height", 1, "height of the bounding box"),
    Measure("solidity", 0, "share of the convex hull that is filled", 1),
    Measure("feret", 1, "largest diameter (Feret)"),
    Measure("intensity", 0, "mean grey level of the image, 0 to 255", 255),
)
MEASURES = {measure.name: measure for measure in ALL}
COLUMNS = ("code", *MEASURES, "border")  # of a table
# Those that a class which is absent has, too
OF_ABSENT = ("area", "share", "count")

CONNECTIVITY = 2  # pixels that touch at a side or a corner belong together
SMALL = 40  # points of an outline for each point of the smoothing: small shapes keep theirs
_PROPERTIES = (
    "label",
    "area",
    "bbox",
    "centroid",
    "equivalent_diameter_area",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
)


def measured(
    codes: np.ndarray,
    background: int | None,
    whole: bool,
    grey: np.ndarray | None = None,
    spacing: Spacing | None = None,
) -> Table:
    """Return the measures of each object, or with `whole` of each class, of codes, uint8 (H, W).

    An object is a connected component of a class; pixels of `background` and unlabelled ones belong
    to none. Rows are ordered by class, then by area, the largest first. Lengths are in px, or in mm
    where `spacing` is given; positions are those of pixels' centres, from the upper left one.
    `grey`, float (H, W), are the image's levels, see `grey_of`. "border" says whether an object
    touches the image's border.
    """
    return measured_objects(*objects_of(codes, background), whole, grey, spacing)


def measured_objects(
    labels: np.ndarray,
    classes: np.ndarray,
    whole: bool,
    grey: np.ndarray | None = None,
    spacing: Spacing | None = None,
) -> Table:
    """Return what `measured` does, of the numbers of objects that `objects_of` returned."""
    counts = np.bincount(classes[1:], minlength=IGNORE + 1)
    if whole and counts.max() > 1:
        present = np.flatnonzero(counts)
        numbers = np.zeros(IGNORE + 1, dtype=np.int32)
        numbers[present] = np.arange(1, len(present) + 1)
        number_of = numbers[classes]
        number_of[0] = 0
        labels, classes = number_of[labels], np.concatenate([[0], present])
    found = regions(labels, classes, grey, spacing)
    found["count"] = counts[found["code"]].astype(np.float64)
    order = np.lexsort((-found["area"], found["code"]))
    return {name: column[order] for name, column in found.items()}


def grey_of(image: np.ndarray | None) -> np.ndarray | None:
    """Return the mean over the channels of an image, uint8 (H, W, C), as float32 (H, W)."""
    return None if image is None else image.mean(axis=2, dtype=np.float32)


def objects_of(codes: np.ndarray, background: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each pixel's object, (H, W), 0 for none, and the class of each number.

    The class of number 0 has no meaning.
    """
    from skimage.measure import label

    none = IGNORE if background is None else background
    labels = label(np.where(codes == IGNORE, none, codes), none, connectivity=CONNECTIVITY)
    classes = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    classes[labels] = codes  # equal within a label
    return labels, classes


def regions(
    labels: np.ndarray,
    classes: np.ndarray,
    grey: np.ndarray | None = None,
    spacing: Spacing | None = None,
) -> Table:
    """Return the measures of numbered regions, (H, W), in the order of their numbers.

    Number 0 is no region; `classes` has the class of each number. Each counts as one object.
    """
    if not labels.any():
        return {name: np.zeros(0, dtype=int if name == "code" else float) for name in COLUMNS}
    from skimage.measure import regionprops_table

    down, across = sides = spacing or (1.0, 1.0)

    def shape(mask: np.ndarray) -> np.ndarray:
        return np.array([*_hull(mask, sides), _filled(mask) * down * across])

    def outline(mask: np.ndarray) -> float:
        return _perimeter(mask, sides)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about regions of one pixel
        raw = regionprops_table(
            labels,
            grey,
            properties=(*_PROPERTIES, *(() if grey is None else ("intensity_mean",))),
            spacing=sides,
            extra_properties=(shape, outline),
        )
    top, left, bottom, right = (raw[f"bbox-{side}"] for side in range(4))
    height, width = labels.shape
    area = raw["area"].astype(np.float64)
    return {
        "code": classes[raw["label"]],
        "area": area,
        "share": area / (labels.size * down * across),
        "count": np.ones(len(area)),
        "centroid_x": raw["centroid-1"],
        "centroid_y": raw["centroid-0"],
        "diameter": raw["equivalent_diameter_area"],
        "outer_diameter": np.sqrt(4 / math.pi * raw["shape-2"]),
        "major_axis": raw["axis_major_length"],
        "minor_axis": raw["axis_minor_length"],
        # scikit-image measures from the rows' axis
        "angle": (90 + np.degrees(raw["orientation"])) % 180,
        "perimeter": raw["outline"],
        "box_x": left * across,
        "box_y": top * down,
        "box_width": (right - left) * across,
        "box_height": (bottom - top) * down,
        "solidity": area / raw["shape-0"],
        "feret": raw["shape-1"],
        "intensity": raw.get("intensity_mean", np.full(len(area), np.nan)),
        "border": (top == 0) | (left == 0) | (bottom == height) | (right == width),
    }


def _hull(mask: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """Return the area of the convex hull of a mask's pixels, bool (h, w), and its diameter.

    scikit-image has both as properties, but fills the hull pixel by pixel.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    sides = np.concatenate([left, right])
    lines = np.concatenate([rows, rows])
    corners = np.stack([np.concatenate([lines, lines + 1]), np.concatenate([sides, sides])], 1)
    found = ConvexHull(corners * np.array(spacing))  # `volume` is the area in the plane
    return float(found.volume), float(pdist(found.points[found.vertices]).max())


def _filled(mask: np.ndarray) -> int:
    """Return the pixels of a mask, bool (h, w), with its holes.

    scikit-image has it as a property, which takes ten times as long.
    """
    from skimage.measure import label

    around = label(np.pad(~mask, 1, constant_values=True), connectivity=3 - CONNECTIVITY)
    return int((around != around[0, 0]).sum())


def _perimeter(mask: np.ndarray, spacing: Spacing) -> float:
    """Return the perimeter of a mask's pixels.

    scikit-image's estimate is for square pixels. For others it is the length of the outline between
    pixels, smoothed along its way: its steps would make it too long by a tenth.
    """
    from scipy.ndimage import gaussian_filter1d
    from skimage.measure import find_contours, perimeter

    if spacing[0] == spacing[1]:
        return float(perimeter(mask)) * spacing[0]
    steps, total = max(spacing) / min(spacing), 0.0
    for line in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = line[:-1] * np.array(spacing)  # the last point is the first one
        sigma = min(steps, len(points) / SMALL)
        smooth = gaussian_filter1d(points, sigma, axis=0, mode="wrap")
        total += float(np.hypot(*(smooth - np.roll(smooth, 1, axis=0)).T).sum())
    return total


def difference(measure: Measure, true: float, predicted: float) -> float:
    """Return true minus predicted value; of angles the shorter way round, -90 to 90."""
    if measure.is_angle:
        return (true - predicted + 90) % 180 - 90
    return true - predicted


def foreground(classes: Sequence[str], background: int | None) -> list[int]:
    """Return the codes of the classes that are measured."""
    return [code for code in range(len(classes)) if code != background]

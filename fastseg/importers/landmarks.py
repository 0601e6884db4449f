"""Eyes in faces: irises and eyelids by mediapipe's face mesh, or why a picture cannot be used.

Needs the extra `face`: mediapipe 0.10.21 is the last that has its models in the wheel.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ModelError, brief

INSTALL = 'pip install "mediapipe==0.10.21"'
MAX_FACES = 16  # that the first search finds in one picture

# Limits for rejecting faces. Of the 1,000 faces of data/face they reject 36: 15 turned away, 11
# faint, 8 with an eye closed, one cut off, one without a visible face (data/face/README.md).
MIN_CONFIDENCE = 0.5  # of a face, mediapipe's default; below it, the picture is rejected
MAX_YAW = 40.0  # degrees to the side; beyond this, the far eye is hidden
MIN_OPEN = 0.2  # share of an iris that the lids must leave open

# Limits for the search; conventions.
MIN_PRESENCE = 0.5  # of a face in the box that is searched for landmarks: mediapipe's default
FAINT_CONFIDENCE = 0.2  # detections below this are ignored
SURE_CONFIDENCE = 0.85  # faces above this are upright: upside-down faces score lower
MIN_PART = 300  # px: pictures are cut into halves, quarters and so on down to this side
MIN_FACE = 16  # px: cut-outs with a shorter side below this are not searched
MARGIN = 0.6  # share of a face's box added on each side for the second search
FOREHEAD = 0.2  # share of a box's height by which the eyes may be above it
SAME_FACE = 2  # two faces are one if their middles are closer than this many eye distances

SUBPIXELS = 8  # factor by which outlines are drawn larger before they are averaged

# Indices of the face mesh's 478 landmarks: of the eye on the picture's left, then on its right.
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398),
)
IRISES = ((468, 469, 470, 471, 472), (473, 474, 475, 476, 477))  # the centre first
CHEEKS = (234, 454)

DETECTION_THRESHOLD = (  # mediapipe's name of the setting, in its graph of calculators
    "facedetectionshortrangecpu__facedetectionshortrange__facedetection__"
    "TensorsToDetectionsCalculator.min_score_thresh"
)

Box = tuple[float, float, float, float, float]  # left, top, width and height in px; score
Scale = Callable[
    [np.ndarray], np.ndarray
]  # from a place (x, y) in px to one in an enlarged drawing

_STARTING = threading.Lock()  # standard error is one for all threads


@dataclass(frozen=True)
class Eye:
    """One eye, in px of the picture.

    `lids` is float (16, 2), the iris's `centre` float (2,), the points of its `rim` float (4, 2).
    """

    lids: np.ndarray
    centre: np.ndarray
    rim: np.ndarray

    @property
    def radius(self) -> float:
        """The mean distance of the rim's points from the centre, px."""
        return float(np.linalg.norm(self.rim - self.centre, axis=1).mean())

    @property
    def open_share(self) -> float:
        """The share of the iris that is between the lids, 0 to 1."""
        corner, side = self.centre - self.radius - 1, int(np.ceil(2 * self.radius + 2))
        iris = _disc(self.centre - corner, self.radius, (side, side))
        return float((iris * _polygon(self.lids - corner, (side, side))).sum() / iris.sum())


@dataclass(frozen=True)
class Face:
    """One face: its two eyes, the detector's confidence, 0 to 1, and how it looks.

    `yaw` is in degrees to the side.
    """

    eyes: tuple[Eye, Eye]
    confidence: float
    yaw: float
    is_upright: bool = True

    @property
    def middle(self) -> np.ndarray:
        """The point between the eyes, float (2,), px."""
        return (self.eyes[0].centre + self.eyes[1].centre) / 2

    @property
    def width(self) -> float:
        """The distance between the eyes, px."""
        return float(np.linalg.norm(self.eyes[1].centre - self.eyes[0].centre))

    def fault(self, size: tuple[int, int]) -> tuple[str, float, float] | None:
        """Return why no mask can be made of the face: reason, measured value, limit; or None.

        `size` is the picture's (height, width).
        """
        if self.confidence < MIN_CONFIDENCE:
            return "low confidence", round(self.confidence, 2), MIN_CONFIDENCE
        if not self.is_upright:
            return "upside down", round(self.confidence, 2), SURE_CONFIDENCE
        if abs(self.yaw) > MAX_YAW:
            return "turned away", round(abs(self.yaw), 1), MAX_YAW
        for eye in self.eyes:
            if not (0 <= eye.centre[0] < size[1] and 0 <= eye.centre[1] < size[0]):
                return "eye outside the picture", round(float(eye.centre[0]), 1), size[1]
        narrow = min(eye.open_share for eye in self.eyes)
        return ("eye closed", round(narrow, 2), MIN_OPEN) if narrow < MIN_OPEN else None


class Finder:
    """Finds faces in pictures; one for each thread."""

    def __init__(self) -> None:
        with _silence_stderr():
            mediapipe = _import_mediapipe()
            from mediapipe.python.solution_base import SolutionBase
            from mediapipe.python.solutions import face_mesh

            # As FaceMesh builds it, but with the detections: FaceMesh does not return their scores.
            self._mesh = SolutionBase(
                binary_graph_path=face_mesh._BINARYPB_FILE_PATH,
                outputs=["multi_face_landmarks", "face_detections"],
                side_inputs={
                    "num_faces": MAX_FACES,
                    "with_attention": True,
                    "use_prev_landmarks": False,
                },
                calculator_params={
                    DETECTION_THRESHOLD: FAINT_CONFIDENCE,
                    "facelandmarkcpu__ThresholdingCalculator.threshold": MIN_PRESENCE,
                },
            )
            self._far = mediapipe.solutions.face_detection.FaceDetection(
                model_selection=1, min_detection_confidence=MIN_CONFIDENCE
            )
            # mediapipe writes to standard error at the first picture
            self.faces(np.zeros((64, 64, 3), dtype=np.uint8))

    def faces(self, image: np.ndarray) -> tuple[list[Face], int]:
        """Return the faces in an image, uint8 (H, W, 3), and the number without visible eyes.

        A detector for small and distant faces searches the picture, and parts of it. Where it sees
        a face that the first search missed, the place is cut out and searched again.
        """
        found, boxes = self._search(image)
        near = [box for box in boxes if box[4] >= MIN_CONFIDENCE]
        missed = 0
        for box in [*near, *self._distant_face_boxes(image)]:
            left, top, width, height, _ = box
            centre = np.array((left + width / 2, top + height / 2))
            if any(_is_within(face, box) or _is_near(face, centre) for face in found):
                continue
            again = self._search_box(image, box)
            if again is None:
                missed += 1
            else:
                found.append(again)
        if any(face.confidence < SURE_CONFIDENCE for face in found):
            found = self._with_orientation(image, found)
        return found, missed

    def _search_box(self, image: np.ndarray, box: Box) -> Face | None:
        """Return the face in a box of the image, searched with a margin around it, or None."""
        left, top, width, height, _ = box
        x, y = max(0, int(left - MARGIN * width)), max(0, int(top - MARGIN * height))
        right, bottom = int(left + (1 + MARGIN) * width), int(top + (1 + MARGIN) * height)
        part = np.ascontiguousarray(image[y:bottom, x:right])
        if min(part.shape[:2]) <= MIN_FACE:
            return None
        faces = [_translate_face(face, (x, y)) for face in self._search(part)[0]]
        return next((face for face in faces if _is_within(face, box)), None)

    def _with_orientation(self, image: np.ndarray, found: list[Face]) -> list[Face]:
        """Mark faces that have a higher confidence when the image is turned upside down."""
        size = np.array(image.shape[1::-1])
        turned = self._search(np.ascontiguousarray(image[::-1, ::-1]))[0]
        return [
            replace(
                face,
                is_upright=not any(
                    _is_near(face, size - other.middle) and other.confidence > face.confidence
                    for other in turned
                ),
            )
            for face in found
        ]

    def _distant_face_boxes(self, image: np.ndarray) -> Iterator[Box]:
        """Yield the boxes of distant faces, in the picture and in smaller and smaller parts of it.

        The parts overlap by half, so that each face is completely in one of them.
        """
        height, width = image.shape[:2]
        sides = 1
        while sides == 1 or min(height, width) / sides >= MIN_PART:
            part = height // sides, width // sides
            for y in np.linspace(0, height - part[0], 2 * sides - 1).astype(int):
                for x in np.linspace(0, width - part[1], 2 * sides - 1).astype(int):
                    pixels = np.ascontiguousarray(image[y : y + part[0], x : x + part[1]])
                    for detection in self._far.process(pixels).detections or []:
                        box = _box_of_detection(detection, part)
                        if sides == 1 or _is_inside(box, part):
                            yield box[0] + x, box[1] + y, *box[2:]
            sides *= 2

    def _search(self, image: np.ndarray) -> tuple[list[Face], list[Box]]:
        """Return the faces whose landmarks are found, and the boxes of all detected faces."""
        result = self._mesh.process(input_data={"image": image})
        boxes = [
            _box_of_detection(detection, image.shape) for detection in result.face_detections or []
        ]
        height, width = image.shape[:2]
        faces = []
        for landmarks in result.multi_face_landmarks or []:
            points = np.array([(point.x, point.y, point.z) for point in landmarks.landmark])
            points *= (width, height, width)
            across = points[CHEEKS[1]] - points[CHEEKS[0]]
            left, right = (
                Eye(points[list(lids), :2], points[iris[0], :2], points[list(iris[1:]), :2])
                for lids, iris in zip(LIDS, IRISES)
            )
            face = Face((left, right), 0.0, float(np.degrees(np.arctan2(across[2], across[0]))))
            confidence = max((box[4] for box in boxes if _is_within(face, box)), default=0.0)
            faces.append(replace(face, confidence=confidence))
        return faces, boxes


def mask(
    eyes: list[Eye], size: tuple[int, int], region: str = "iris", rounding: str = "subpixel"
) -> np.ndarray:
    """Return how much of each pixel the eyes cover, 0 to 1, float32 (H, W).

    `region` is "iris", full circles even where lids cover them, or "eye", the area between the
    lids. `rounding` "published" truncates landmarks, centre and radius to whole pixels first,
    as the published masks of this task were made; "subpixel" does not.
    """
    covered = np.zeros(size, dtype=np.float32)
    for eye in eyes:
        if rounding == "published":
            drawn = _draw_as_published(eye, size, region)
        elif region == "iris":
            drawn = _disc(eye.centre, eye.radius, size)
        else:
            drawn = _polygon(eye.lids, size)
        np.maximum(covered, drawn, out=covered)
    return covered


def _draw_as_published(eye: Eye, size: tuple[int, int], region: str) -> np.ndarray:
    """Return an eye drawn like the task's published masks: with truncated coordinates."""
    import cv2

    drawn = np.zeros(size, dtype=np.uint8)
    if region == "iris":
        (x, y), radius = cv2.minEnclosingCircle(eye.rim.astype(np.int32))
        cv2.circle(drawn, (int(x), int(y)), int(radius), 255, -1, cv2.LINE_AA)
    else:
        cv2.fillPoly(drawn, [eye.lids.astype(np.int32)], 255, cv2.LINE_AA)
    return drawn.astype(np.float32) / 255


def _disc(centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    def draw(pen: ImageDraw.ImageDraw, at: Scale) -> None:
        # Pillow draws the last row and column, too
        pen.ellipse([*at(centre - radius), *(at(centre + radius) - 1)], fill=255)

    return _draw_averaged(size, centre - radius, centre + radius, draw)


def _polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    def draw(pen: ImageDraw.ImageDraw, at: Scale) -> None:
        pen.polygon([tuple(at(point)) for point in points], fill=255)

    return _draw_averaged(size, points.min(axis=0), points.max(axis=0), draw)


def _draw_averaged(
    size: tuple[int, int],
    low: np.ndarray,
    high: np.ndarray,
    draw: Callable[[ImageDraw.ImageDraw, Scale], None],
) -> np.ndarray:
    """Return a shape between the corners `low` and `high`, (x, y) in px, as float32 (H, W).

    `draw` draws it `SUBPIXELS` times as large, at the places that its second argument returns; it
    is then averaged to the share of each pixel that it covers, 0 to 1.
    """
    covered = np.zeros(size, dtype=np.float32)
    left, top = np.maximum(np.floor(low), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high) + 1, (size[1], size[0])).astype(int)
    if right > left and bottom > top:
        picture = Image.new("L", ((right - left) * SUBPIXELS, (bottom - top) * SUBPIXELS))
        draw(ImageDraw.Draw(picture), lambda point: (point - (left, top)) * SUBPIXELS)
        averaged = np.asarray(picture.reduce(SUBPIXELS), dtype=np.float32)
        covered[top:bottom, left:right] = averaged / 255
    return covered


def _box_of_detection(detection: Any, shape: tuple[int, ...]) -> Box:
    """Return a detection's left, top, width and height in px, and its score."""
    box = detection.location_data.relative_bounding_box
    return (
        box.xmin * shape[1],
        box.ymin * shape[0],
        box.width * shape[1],
        box.height * shape[0],
        detection.score[0],
    )


def _is_inside(box: Box, size: tuple[int, int]) -> bool:
    """Return whether a box is not cut off by the border of a part of `size`, (height, width)."""
    left, top, width, height, _ = box
    return left > 0 and top > 0 and left + width < size[1] and top + height < size[0]


def _is_within(face: Face, box: Box) -> bool:
    left, top, width, height, _ = box
    x, y = face.middle
    return bool(left <= x <= left + width and top - FOREHEAD * height <= y <= top + height)


def _is_near(face: Face, point: np.ndarray) -> bool:
    return bool(np.linalg.norm(face.middle - point) < SAME_FACE * face.width)


def _translate_face(face: Face, by: tuple[int, int]) -> Face:
    left, right = (Eye(eye.lids + by, eye.centre + by, eye.rim + by) for eye in face.eyes)
    return replace(face, eyes=(left, right))


def _import_mediapipe() -> Any:
    """Return the module mediapipe. Raises `ModelError` if it is missing or has no face mesh."""
    try:
        import mediapipe
    except ImportError as error:
        python = ", on Python 3.10 to 3.12" if sys.version_info >= (3, 13) else ""
        raise ModelError(
            f"masks are made with mediapipe, which is not here ({brief(error)}); "
            f"install the extra face, or: {INSTALL}{python}",
            "no-mediapipe",
        ) from None
    if not hasattr(mediapipe, "solutions"):
        raise ModelError(
            f"mediapipe {mediapipe.__version__} has no face mesh of its own any more; "
            f"install the one that has: {INSTALL}",
            "mediapipe-version",
        )
    return mediapipe


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Hide what mediapipe's own code writes to standard error at every start.

    All threads share standard error, so only one thread at a time may do this.
    """
    with _STARTING:
        sys.stderr.flush()
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)

"""Eyes in faces by mediapipe's face mesh with iris refinement: irises or eyelids of every face, or why a picture cannot be used.

Needs the extra `face`: mediapipe 0.10.21 is the last that carries its models in the wheel.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ModelError, brief

INSTALL = 'pip install "mediapipe==0.10.21"'
FACES = 16  # found in one picture at most, by the first look
CONFIDENCE, FAINT = (
    0.5,
    0.2,
)  # of a face: below the first, a picture is rejected; below the second, there is none
TURNED = 40.0  # degrees by which a face may look to the side: beyond, the far eye is hidden
CLOSED = 0.2  # share of an iris that the lids must leave open
FINE = 8  # steps a px in which outlines are drawn before they are averaged
SURE = 0.85  # confidence that a face upside down never has: below, the picture is looked at the other way round, too
PART = 300  # px: pictures are cut into halves, quarters and so on, down to this side, to find faces that are small in them
MARGIN = 0.6  # of a face's box, around it, that is looked at again where the first look missed it

# Indices of the face mesh's 478 landmarks, for the eye on the left and on the right of the picture of a face looking at us.
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398),
)
IRISES = ((468, 469, 470, 471, 472), (473, 474, 475, 476, 477))  # the centre first
CHEEKS = (234, 454)

_STARTING = threading.Lock()  # standard error is one for all threads


@dataclass(frozen=True)
class Eye:
    """One eye in px of the picture: `lids` float (16, 2), the iris's `centre` float (2,), points `rim` float (4, 2), and radius."""

    lids: np.ndarray
    centre: np.ndarray
    rim: np.ndarray

    @property
    def radius(self) -> float:
        """The mean distance of the rim's points from the centre, px."""
        return float(np.linalg.norm(self.rim - self.centre, axis=1).mean())

    @property
    def open_share(self) -> float:
        """The share of the iris that lies between the lids, 0 to 1."""
        corner, side = self.centre - self.radius - 1, int(np.ceil(2 * self.radius + 2))
        iris = _disc(self.centre - corner, self.radius, (side, side))
        return float((iris * _polygon(self.lids - corner, (side, side))).sum() / iris.sum())


@dataclass(frozen=True)
class Face:
    """One face: its two eyes, the detector's confidence (0 to 1), and degrees by which it looks to the side."""

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
        """How far the eyes lie apart, px."""
        return float(np.linalg.norm(self.eyes[1].centre - self.eyes[0].centre))

    def fault(self, size: tuple[int, int]) -> tuple[str, float, float] | None:
        """Return why no mask can be made of it in a picture of `size` (height, width): reason, measured value, limit."""
        if self.confidence < CONFIDENCE:
            return "low confidence", round(self.confidence, 2), CONFIDENCE
        if not self.is_upright:
            return "upside down", round(self.confidence, 2), SURE
        if abs(self.yaw) > TURNED:
            return "turned away", round(abs(self.yaw), 1), TURNED
        for eye in self.eyes:
            if not (0 <= eye.centre[0] < size[1] and 0 <= eye.centre[1] < size[0]):
                return "eye outside the picture", round(float(eye.centre[0]), 1), size[1]
        narrow = min(eye.open_share for eye in self.eyes)
        return ("eye closed", round(narrow, 2), CLOSED) if narrow < CLOSED else None


class Finder:
    """Finds faces in pictures; one for each thread."""

    def __init__(self):
        with _silenced():
            mediapipe = _mediapipe()
            from mediapipe.python.solution_base import SolutionBase
            from mediapipe.python.solutions import face_mesh

            names = "facedetectionshortrangecpu__facedetectionshortrange__facedetection__TensorsToDetectionsCalculator.min_score_thresh"
            # As FaceMesh builds it, but with the detections, whose scores FaceMesh keeps to itself.
            self._mesh = SolutionBase(
                binary_graph_path=face_mesh._BINARYPB_FILE_PATH,
                outputs=["multi_face_landmarks", "face_detections"],
                side_inputs={
                    "num_faces": FACES,
                    "with_attention": True,
                    "use_prev_landmarks": False,
                },
                calculator_params={
                    names: FAINT,
                    "facelandmarkcpu__ThresholdingCalculator.threshold": 0.5,
                },
            )
            self._far = mediapipe.solutions.face_detection.FaceDetection(
                model_selection=1, min_detection_confidence=CONFIDENCE
            )
            self.faces(np.zeros((64, 64, 3), dtype=np.uint8))  # what it has to say, it says now

    def faces(self, image: np.ndarray) -> tuple[list[Face], int]:
        """Return the faces in uint8 (H, W, 3), and how many more were seen whose eyes could not be found.

        What a detector for small and distant faces sees, in the picture or in a part of it, and the first look missed, is cut out
        and looked at again.
        """
        found, boxes = self._look(image)
        near = [box for box in boxes if box[4] >= CONFIDENCE]
        missed = 0
        for left, top, width, height, _ in [*near, *self._distant(image)]:
            if any(
                _is_within(face, (left, top, width, height))
                or _is_near(face, (left + width / 2, top + height / 2))
                for face in found
            ):
                continue
            x, y = max(0, int(left - MARGIN * width)), max(0, int(top - MARGIN * height))
            part = np.ascontiguousarray(
                image[y : int(top + (1 + MARGIN) * height), x : int(left + (1 + MARGIN) * width)]
            )
            again = [
                _moved(face, (x, y))
                for face in (self._look(part)[0] if min(part.shape[:2]) > 16 else [])
            ]
            again = [face for face in again if _is_within(face, (left, top, width, height))]
            found += again[:1]
            missed += not again
        if any(face.confidence < SURE for face in found):
            other = self._look(np.ascontiguousarray(image[::-1, ::-1]))[0]
            found = [
                replace(
                    face,
                    is_upright=not any(
                        _is_near(face, np.array(image.shape[1::-1]) - turned.middle)
                        and turned.confidence > face.confidence
                        for turned in other
                    ),
                )
                for face in found
            ]
        return found, missed

    def _distant(self, image: np.ndarray) -> Iterator[tuple]:
        """Yield the boxes of the detector for distant faces, in the whole picture and in ever smaller parts that overlap by half."""
        height, width = image.shape[:2]
        sides = 1
        while sides == 1 or min(height, width) / sides >= PART:
            part = height // sides, width // sides
            for y in np.linspace(0, height - part[0], 2 * sides - 1).astype(int):
                for x in np.linspace(0, width - part[1], 2 * sides - 1).astype(int):
                    for detection in (
                        self._far.process(
                            np.ascontiguousarray(image[y : y + part[0], x : x + part[1]])
                        ).detections
                        or []
                    ):
                        left, top, wide, high, score = _box(detection, part)
                        if sides == 1 or (
                            left > 0 and top > 0 and left + wide < part[1] and top + high < part[0]
                        ):  # not cut off
                            yield left + x, top + y, wide, high, score
            sides *= 2

    def _look(self, image: np.ndarray) -> tuple[list[Face], list[tuple]]:
        result = self._mesh.process(input_data={"image": image})
        boxes = [_box(detection, image.shape) for detection in result.face_detections or []]
        faces = []
        for landmarks in result.multi_face_landmarks or []:
            height, width = image.shape[:2]
            points = np.array([(point.x, point.y, point.z) for point in landmarks.landmark]) * (
                width,
                height,
                width,
            )
            across = points[CHEEKS[1]] - points[CHEEKS[0]]
            eyes = tuple(
                Eye(points[list(lids), :2], points[iris[0], :2], points[list(iris[1:]), :2])
                for lids, iris in zip(LIDS, IRISES)
            )
            face = Face(eyes, 0.0, float(np.degrees(np.arctan2(across[2], across[0]))))
            confidence = max((box[4] for box in boxes if _is_within(face, box[:4])), default=0.0)
            faces.append(Face(eyes, confidence, face.yaw))
        return faces, boxes


def mask(
    eyes: list[Eye], size: tuple[int, int], region: str = "iris", rounding: str = "subpixel"
) -> np.ndarray:
    """Return how much of each pixel the eyes cover, 0 to 1, float32 (H, W).

    `region` is "iris", whole circles whether lids cover them or not, or "eye", what lies between the lids. `rounding` "published"
    truncates landmarks, centre and radius to whole pixels before it draws, as the published masks of this task were made.
    """
    covered = np.zeros(size, dtype=np.float32)
    for eye in eyes:
        if rounding == "published":
            drawn = _published(eye, size, region)
        else:
            drawn = (
                _disc(eye.centre, eye.radius, size)
                if region == "iris"
                else _polygon(eye.lids, size)
            )
        np.maximum(covered, drawn, out=covered)
    return covered


def _published(eye: Eye, size: tuple[int, int], region: str) -> np.ndarray:
    import cv2

    drawn = np.zeros(size, dtype=np.uint8)
    if region == "iris":
        (x, y), radius = cv2.minEnclosingCircle(eye.rim.astype(np.int32))
        cv2.circle(drawn, (int(x), int(y)), int(radius), 255, -1, cv2.LINE_AA)
    else:
        cv2.fillPoly(drawn, [eye.lids.astype(np.int32)], 255, cv2.LINE_AA)
    return drawn.astype(np.float32) / 255


def _disc(centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    return _drawn(
        size,
        centre - radius,
        centre + radius,
        lambda pen, at: pen.ellipse([*at(centre - radius), *(at(centre + radius) - 1)], fill=255),
    )  # Pillow draws the last row and column, too


def _polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _drawn(
        size,
        points.min(axis=0),
        points.max(axis=0),
        lambda pen, at: pen.polygon([tuple(at(point)) for point in points], fill=255),
    )


def _drawn(size: tuple[int, int], low: np.ndarray, high: np.ndarray, draw) -> np.ndarray:
    """Return a shape between the corners `low` and `high` (x, y), drawn `FINE` times as large and averaged: float32 (H, W)."""
    covered = np.zeros(size, dtype=np.float32)
    left, top = np.maximum(np.floor(low), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high) + 1, (size[1], size[0])).astype(int)
    if right > left and bottom > top:
        picture = Image.new("L", ((right - left) * FINE, (bottom - top) * FINE))
        draw(ImageDraw.Draw(picture), lambda point: (point - (left, top)) * FINE)
        covered[top:bottom, left:right] = np.asarray(picture.reduce(FINE), dtype=np.float32) / 255
    return covered


def _box(detection, shape: tuple[int, ...]) -> tuple[float, float, float, float, float]:
    """Return a detection's left, top, width and height in px, and its score."""
    box = detection.location_data.relative_bounding_box
    return (
        box.xmin * shape[1],
        box.ymin * shape[0],
        box.width * shape[1],
        box.height * shape[0],
        detection.score[0],
    )


def _is_within(face: Face, box: tuple[float, float, float, float]) -> bool:
    left, top, width, height = box
    x, y = face.middle
    return left <= x <= left + width and top - 0.2 * height <= y <= top + height


def _is_near(face: Face, point: tuple[float, float] | np.ndarray) -> bool:
    return bool(np.linalg.norm(face.middle - point) < 2 * face.width)


def _moved(face: Face, by: tuple[int, int]) -> Face:
    return replace(
        face, eyes=tuple(Eye(eye.lids + by, eye.centre + by, eye.rim + by) for eye in face.eyes)
    )


def _mediapipe():
    try:
        import mediapipe
    except ImportError as error:
        python = ", on Python 3.10 to 3.12" if sys.version_info >= (3, 13) else ""
        raise ModelError(
            f"masks are made with mediapipe, which is not here ({brief(error)}); install the extra face, or: {INSTALL}{python}",
            "no-mediapipe",
        ) from None
    if not hasattr(mediapipe, "solutions"):
        raise ModelError(
            f"mediapipe {mediapipe.__version__} brings no face mesh of its own any more; install the one that does: {INSTALL}",
            "mediapipe-version",
        )
    return mediapipe


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what mediapipe's own code writes to standard error, on every start, from the screen."""
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

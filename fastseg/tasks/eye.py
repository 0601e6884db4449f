"""Eye close-ups: sclera, iris and pupil; mask pixels are class codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import Drawing, Recipe
from .layouts import Layout
from .segmentation import SegmentationTask

if TYPE_CHECKING:
    import numpy as np

SIZE = HEIGHT, WIDTH = 240, 320  # px of a synthetic image
IRIS_COLOURS = ((96, 62, 34), (66, 98, 134), (86, 110, 66), (128, 96, 52), (52, 38, 28))


@dataclass
class _Lids:
    """Where the lids of a synthetic eye are, in px. Arrays are float32 (H, W)."""

    centre: tuple[float, float]  # x, y
    tilt: float  # radians
    half: float  # half the distance of the corners
    skew: float
    upper: float  # heights of the lids above and below the line between the corners
    lower: float
    along: np.ndarray  # position between the corners, -1 to 1
    across: np.ndarray  # distance below the line between the corners

    @property
    def arch(self) -> np.ndarray:
        """Height of the opening, 0 to about 1."""
        return (1 - self.along**2) * (1 + self.skew * self.along)

    @property
    def below_upper(self) -> np.ndarray:
        """Distance below the upper lid."""
        return self.across + self.upper * self.arch


@dataclass
class _Iris:
    """Where the iris and the pupil of a synthetic eye are, in px."""

    gaze: tuple[float, float]  # centre, x and y
    radius: float
    pupil_centre: tuple[float, float]
    distance: np.ndarray  # from the centre, float32 (H, W): 1 at the border
    pupil: np.ndarray  # bool (H, W)


def draw(rng: np.random.Generator) -> Drawing:
    """Draw one eye: skin, lids and lashes around sclera, textured iris, pupil and glints."""
    import numpy as np

    from ..data.synthetic import grain, grid, mix, soften

    x, y = grid(SIZE)
    lids = _place_lids(rng, x, y)
    iris = _place_iris(rng, lids)
    inside = (lids.across > -lids.upper * lids.arch) & (lids.across < lids.lower * lids.arch)
    inside &= np.abs(lids.along) < 1
    codes = np.zeros(SIZE, dtype=np.uint8)
    codes[inside] = 1
    codes[inside & (iris.distance <= 1)] = 2
    codes[inside & iris.pupil] = 3

    image = _paint_skin(rng, lids)
    ball = _paint_iris(rng, iris, _paint_sclera(rng, lids), x, y)
    shadow = np.exp(-((np.clip(lids.below_upper, 0, None) / 9) ** 2))
    ball *= (1 - 0.45 * shadow)[..., None]
    image = mix(image, ball, soften(inside, 0.8))
    image = _paint_lashes(rng, lids, image)
    light = rng.uniform(0.55, 1.1) * (
        1 + rng.uniform(-0.3, 0.3) * (x / WIDTH - 0.5) + rng.uniform(-0.3, 0.3) * (y / HEIGHT - 0.5)
    )
    image = image * light[..., None]
    if rng.random() < 0.3:  # an infrared camera
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    return grain(image, rng, rng.uniform(2, 6)), codes


def _place_lids(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> _Lids:
    import numpy as np

    centre_x, centre_y = rng.uniform(0.38, 0.62) * WIDTH, rng.uniform(0.42, 0.58) * HEIGHT
    tilt, half = rng.uniform(-0.18, 0.18), rng.uniform(88, 125)
    along = np.clip(((x - centre_x) * np.cos(tilt) + (y - centre_y) * np.sin(tilt)) / half, -1, 1)
    across = (y - centre_y) * np.cos(tilt) - (x - centre_x) * np.sin(tilt)
    skew = rng.uniform(-0.25, 0.25)
    upper, lower = rng.uniform(36, 56), rng.uniform(24, 40)
    return _Lids((centre_x, centre_y), tilt, half, skew, upper, lower, along, across)


def _place_iris(rng: np.random.Generator, lids: _Lids) -> _Iris:
    from ..data.synthetic import ellipse, radius

    centre_x, centre_y = lids.centre
    gaze = centre_x + rng.uniform(-0.35, 0.35) * lids.half, centre_y + rng.uniform(-10, 6)
    iris_radius = rng.uniform(34, 46)
    pupil_radius = iris_radius * rng.uniform(0.28, 0.55)
    distance = radius(SIZE, gaze, (iris_radius, iris_radius * rng.uniform(0.95, 1.05)))
    pupil_centre = gaze[0] + rng.uniform(-2, 2), gaze[1] + rng.uniform(-2, 2)
    pupil = ellipse(SIZE, pupil_centre, (pupil_radius, pupil_radius * rng.uniform(0.93, 1.07)))
    return _Iris(gaze, iris_radius, pupil_centre, distance, pupil)


def _paint_skin(rng: np.random.Generator, lids: _Lids) -> np.ndarray:
    """Return skin with the shade of the lid and its crease, float (H, W, 3)."""
    import numpy as np

    from ..data.synthetic import clouds, mix

    tone = rng.uniform(0.35, 1.0)
    skin = np.array([232, 188, 160]) * tone + rng.uniform(-12, 12, 3)
    image = skin * (0.78 + 0.3 * clouds(SIZE, rng, 60) + 0.1 * clouds(SIZE, rng, 5))[..., None]
    shade = np.exp(-((lids.below_upper / rng.uniform(16, 26)) ** 2)) * np.sqrt(1 - lids.along**2)
    image = mix(image, skin * 0.4, shade * 0.7)
    above_lid = (lids.below_upper + rng.uniform(14, 22)) / 3.5
    crease = np.exp(-(above_lid**2)) * (1 - np.abs(lids.along)) ** 0.5
    return mix(image, skin * 0.35, np.clip(crease, 0, 1) * 0.7)


def _paint_sclera(rng: np.random.Generator, lids: _Lids) -> np.ndarray:
    """Return the eyeball with veins from its corners, float (H, W, 3)."""
    import numpy as np

    from ..data.synthetic import clouds, mix, strokes

    ball = (
        232
        - 70 * lids.along[..., None] ** 2
        - np.array([0, 10, 12])
        - 26 * clouds(SIZE, rng, 14)[..., None]
    )
    centre_x, centre_y = lids.centre
    veins = []
    for side in (-1, 1):
        for _ in range(int(rng.integers(2, 6))):
            start = [side * lids.half * 0.92 + centre_x, centre_y + rng.uniform(-12, 12)]
            steps = np.column_stack([-side * rng.uniform(3, 8, 7), rng.normal(0, 3, 7)])
            veins.append((np.cumsum(np.vstack([start, steps]), axis=0), 1))
    return mix(ball, (176, 60, 58), strokes(SIZE, veins) * 0.6)


def _paint_iris(
    rng: np.random.Generator, iris: _Iris, ball: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return the eyeball with iris, pupil and glints."""
    import numpy as np

    from ..data.synthetic import clouds, ellipse, mix, soften

    angle = np.arctan2(y - iris.gaze[1], x - iris.gaze[0])
    waves = (np.sin(angle * k + rng.uniform(0, 6.3)) for k in rng.integers(9, 60, 7))
    fibres = sum(waves) / 7
    colour = np.array(IRIS_COLOURS)[rng.integers(5)]
    stroma = (
        colour
        * (0.85 + 0.35 * fibres + 0.3 * (1 - iris.distance) + 0.25 * clouds(SIZE, rng, 6))[
            ..., None
        ]
    )
    stroma = mix(stroma, colour * 0.35, np.clip((iris.distance - 0.82) / 0.18, 0, 1))
    ball = mix(ball, np.clip(stroma, 8, 255), soften(iris.distance <= 1, 1.0))
    ball = mix(ball, (10, 8, 9), soften(iris.pupil, 0.9))
    for _ in range(int(rng.integers(1, 3))):
        place = iris.pupil_centre + rng.uniform(-0.55, 0.55, 2) * iris.radius
        glint = ellipse(SIZE, place, rng.uniform(2, 6, 2), rng.uniform(0, 3))
        ball = mix(ball, (252, 252, 250), soften(glint, 0.7))
    return ball


def _paint_lashes(rng: np.random.Generator, lids: _Lids, image: np.ndarray) -> np.ndarray:
    import numpy as np

    from ..data.synthetic import mix, strokes

    centre_x, centre_y = lids.centre
    cos, sin = np.cos(lids.tilt), np.sin(lids.tilt)
    lashes = []
    for t in rng.uniform(-0.92, 0.92, int(rng.integers(35, 70))):
        lift = lids.upper * (1 - t**2) * (1 + lids.skew * t)
        root = np.array(
            [
                centre_x + t * lids.half * cos + lift * sin,
                centre_y + t * lids.half * sin - lift * cos,
            ]
        )
        length = rng.uniform(9, 20)
        points = [root, root + (t * 5, -length * 0.6), root + (t * 14, -length)]
        lashes.append((points, rng.uniform(1, 2)))
    return mix(image, (24, 18, 16), strokes(SIZE, lashes) * rng.uniform(0.5, 0.9))


task = SegmentationTask(
    name="eye",
    classes=("background", "sclera", "iris", "pupil"),
    palette=((0, 0, 0), (86, 180, 233), (230, 159, 0), (204, 60, 120)),
    layouts=(
        Layout("imgs_small", "masks_small"),
        Layout("ml_code_challenge_imgs", "ml_code_challenge_masks"),
        Layout("images", "masks"),
    ),
    group=r"set_\d+(?=_)",  # frames of one recording look alike: they stay on one side of the split
    # Three times the epochs of a full decoder in the same time; they improve the score more
    # than its sharper borders do.
    recipe=Recipe(size=(240, 320), epochs=36),
    draw=draw,
    sample_name="set_{set}_frame_{frame}",
)

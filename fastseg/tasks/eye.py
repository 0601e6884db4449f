"""Eye close-ups: sclera, iris and pupil; mask pixels are class codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import Drawing, Recipe
from .segmentation import Layout, SegmentationTask

if TYPE_CHECKING:
    import numpy as np


def draw(rng: np.random.Generator) -> Drawing:
    """Draw one eye: skin, lids and lashes around sclera, textured iris, pupil and glints."""
    import numpy as np

    from ..data.synthetic import clouds, ellipse, grain, grid, mix, radius, soften, strokes

    size = height, width = 240, 320
    x, y = grid(size)
    centre_x, centre_y = rng.uniform(0.38, 0.62) * width, rng.uniform(0.42, 0.58) * height
    tilt, half = rng.uniform(-0.18, 0.18), rng.uniform(88, 125)
    along = np.clip(((x - centre_x) * np.cos(tilt) + (y - centre_y) * np.sin(tilt)) / half, -1, 1)
    across = (y - centre_y) * np.cos(tilt) - (x - centre_x) * np.sin(tilt)
    skew = rng.uniform(-0.25, 0.25)
    arch = (1 - along**2) * (1 + skew * along)
    upper, lower = rng.uniform(36, 56), rng.uniform(24, 40)
    inside = (across > -upper * arch) & (across < lower * arch) & (np.abs(along) < 1)

    gaze = centre_x + rng.uniform(-0.35, 0.35) * half, centre_y + rng.uniform(-10, 6)
    iris_radius = rng.uniform(34, 46)
    pupil_radius = iris_radius * rng.uniform(0.28, 0.55)
    from_iris = radius(size, gaze, (iris_radius, iris_radius * rng.uniform(0.95, 1.05)))
    pupil_centre = gaze[0] + rng.uniform(-2, 2), gaze[1] + rng.uniform(-2, 2)
    pupil = ellipse(size, pupil_centre, (pupil_radius, pupil_radius * rng.uniform(0.93, 1.07)))
    iris = from_iris <= 1
    codes = np.zeros(size, dtype=np.uint8)
    codes[inside] = 1
    codes[inside & iris] = 2
    codes[inside & pupil] = 3

    tone = rng.uniform(0.35, 1.0)
    skin = np.array([232, 188, 160]) * tone + rng.uniform(-12, 12, 3)
    image = skin * (0.78 + 0.3 * clouds(size, rng, 60) + 0.1 * clouds(size, rng, 5))[..., None]
    shade = np.exp(-(((across + upper * arch) / rng.uniform(16, 26)) ** 2)) * np.sqrt(1 - along**2)
    image = mix(image, skin * 0.4, shade * 0.7)
    crease = (
        np.exp(-(((across + upper * arch + rng.uniform(14, 22)) / 3.5) ** 2))
        * (1 - np.abs(along)) ** 0.5
    )
    image = mix(image, skin * 0.35, np.clip(crease, 0, 1) * 0.7)

    ball = (
        232
        - 70 * along[..., None] ** 2
        - np.array([0, 10, 12])
        - 26 * clouds(size, rng, 14)[..., None]
    )
    veins = [
        (
            np.cumsum(
                np.vstack(
                    [
                        [side * half * 0.92 + centre_x, centre_y + rng.uniform(-12, 12)],
                        np.column_stack([-side * rng.uniform(3, 8, 7), rng.normal(0, 3, 7)]),
                    ]
                ),
                axis=0,
            ),
            1,
        )
        for side in (-1, 1)
        for _ in range(int(rng.integers(2, 6)))
    ]
    ball = mix(ball, (176, 60, 58), strokes(size, veins) * 0.6)
    angle = np.arctan2(y - gaze[1], x - gaze[0])
    fibres = sum(np.sin(angle * k + rng.uniform(0, 6.3)) for k in rng.integers(9, 60, 7)) / 7
    colour = np.array([(96, 62, 34), (66, 98, 134), (86, 110, 66), (128, 96, 52), (52, 38, 28)])[
        rng.integers(5)
    ]
    stroma = (
        colour
        * (0.85 + 0.35 * fibres + 0.3 * (1 - from_iris) + 0.25 * clouds(size, rng, 6))[..., None]
    )
    stroma = mix(stroma, colour * 0.35, np.clip((from_iris - 0.82) / 0.18, 0, 1))
    ball = mix(ball, np.clip(stroma, 8, 255), soften(iris, 1.0))
    ball = mix(ball, (10, 8, 9), soften(pupil, 0.9))
    for _ in range(int(rng.integers(1, 3))):
        glint = pupil_centre + rng.uniform(-0.55, 0.55, 2) * iris_radius
        ball = mix(
            ball,
            (252, 252, 250),
            soften(ellipse(size, glint, rng.uniform(2, 6, 2), rng.uniform(0, 3)), 0.7),
        )
    ball *= (1 - 0.45 * np.exp(-((np.clip(across + upper * arch, 0, None) / 9) ** 2)))[..., None]
    image = mix(image, ball, soften(inside, 0.8))

    lashes = []
    for t in rng.uniform(-0.92, 0.92, int(rng.integers(35, 70))):
        lift = upper * (1 - t**2) * (1 + skew * t)
        root = np.array(
            [
                centre_x + t * half * np.cos(tilt) + lift * np.sin(tilt),
                centre_y + t * half * np.sin(tilt) - lift * np.cos(tilt),
            ]
        )
        length = rng.uniform(9, 20)
        lashes.append(
            ([root, root + (t * 5, -length * 0.6), root + (t * 14, -length)], rng.uniform(1, 2))
        )
    image = mix(image, (24, 18, 16), strokes(size, lashes) * rng.uniform(0.5, 0.9))

    light = rng.uniform(0.55, 1.1) * (
        1 + rng.uniform(-0.3, 0.3) * (x / width - 0.5) + rng.uniform(-0.3, 0.3) * (y / height - 0.5)
    )
    image = image * light[..., None]
    if rng.random() < 0.3:  # an infrared camera
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    return grain(image, rng, rng.uniform(2, 6)), codes


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
    # Three times the epochs that a full decoder would allow in the same time: worth more than its sharper borders.
    recipe=Recipe(size=(240, 320), epochs=36),
    draw=draw,
    sample_name="set_{set}_frame_{frame}",
)

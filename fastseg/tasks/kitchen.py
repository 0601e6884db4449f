"""A cooking robot's camera above the pan: stirrer, pan and food; masks are in colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import Drawing, Recipe
from .layouts import Layout
from .segmentation import SegmentationTask

if TYPE_CHECKING:
    import numpy as np


SIZE = HEIGHT, WIDTH = 240, 320  # px of a synthetic image
FOODS = ((214, 178, 96), (196, 92, 40), (232, 222, 196), (120, 146, 60), (150, 88, 46))
PIECES = ((196, 40, 30), (60, 130, 40), (245, 235, 190), (110, 60, 30), (250, 190, 60))
STIRRERS = ((176, 120, 66), (205, 205, 210), (52, 50, 54), (178, 40, 36))


def draw(rng: np.random.Generator) -> Drawing:
    """Draw a pan from above with food in it and a stirrer across it."""
    import numpy as np

    from ..data.synthetic import clouds, grain, grid, mix, radius

    x, y = grid(SIZE)
    counter = rng.uniform(60, 190) + rng.uniform(-20, 20, 3)
    tiles = ((x // rng.integers(30, 70) + y // rng.integers(30, 70)) % 2) * rng.uniform(0, 0.12)
    image = counter * (0.75 + 0.35 * clouds(SIZE, rng, 50) - tiles)[..., None]
    centre = np.array([rng.uniform(0.42, 0.58) * WIDTH, rng.uniform(0.42, 0.58) * HEIGHT])
    pan_radius = rng.uniform(92, 118)
    from_pan = radius(SIZE, centre, (pan_radius, pan_radius * rng.uniform(0.93, 1.0)))
    codes = np.ones(SIZE, dtype=np.uint8)
    image = mix(image, counter * 0.25, np.exp(-np.clip(from_pan - 1, 0, None) * 9) * 0.6)
    image = _paint_pan(rng, image, centre, pan_radius, from_pan)
    image = _paint_food(rng, image, codes, centre, pan_radius, from_pan)
    image = _paint_stirrer(rng, image, codes, centre, pan_radius)
    steam = np.clip(clouds(SIZE, rng, 70) - 0.55, 0, 1) * rng.uniform(0, 0.7)
    image = mix(image, (240, 240, 240), steam) * rng.uniform(0.7, 1.1)
    return grain(image, rng, rng.uniform(2, 6)), codes


def _paint_pan(
    rng: np.random.Generator,
    image: np.ndarray,
    centre: np.ndarray,
    pan_radius: float,
    from_pan: np.ndarray,
) -> np.ndarray:
    """Paint handle, bottom and rim; `from_pan`, float32 (H, W), is 1 at the rim."""
    import numpy as np

    from ..data.synthetic import bar, grid, mix, soften

    x, y = grid(SIZE)
    direction = rng.uniform(0, 2 * np.pi)
    handle = bar(SIZE, centre, direction, pan_radius * 0.9, pan_radius * 2.2, 11)
    image = mix(image, (34, 32, 34), soften(handle, 1))
    metal = rng.uniform(40, 130)
    sheen = (
        0.85
        + 0.25 * np.sin(2 * np.arctan2(y - centre[1], x - centre[0]) + rng.uniform(0, 6))
        + 0.05 * np.sin(from_pan * 120)
    )
    bottom = (metal * sheen)[..., None] * np.array([1, 0.98, 0.96])
    image = mix(image, bottom, soften(from_pan <= 1))
    rim = np.exp(-(((from_pan - 0.97) / 0.025) ** 2)) * 0.8
    return mix(image, np.full(3, min(255, metal * 1.9)), rim)


def _paint_food(
    rng: np.random.Generator,
    image: np.ndarray,
    codes: np.ndarray,
    centre: np.ndarray,
    pan_radius: float,
    from_pan: np.ndarray,
) -> np.ndarray:
    """Paint food with pieces and glints, and set `codes` to 2 where it is."""
    import numpy as np

    from ..data.synthetic import clouds, ellipse, mix, soften

    edge = 0.62 + 0.3 * clouds(SIZE, rng, rng.uniform(30, 60)) + 0.06 * clouds(SIZE, rng, 8)
    food = from_pan < edge * rng.uniform(0.85, 1.05)
    food &= from_pan < 0.9
    codes[food] = 2
    base = np.array(FOODS)[rng.integers(5)]
    texture = 0.72 + 0.35 * clouds(SIZE, rng, 9) + 0.22 * clouds(SIZE, rng, 3)
    image = mix(image, base * texture[..., None], soften(food, 1))
    for colour in np.array(PIECES):
        scraps = np.zeros(SIZE, dtype=bool)
        for _ in range(int(rng.integers(8, 22))):
            place = centre + rng.normal(0, 0.36, 2) * pan_radius
            scraps |= ellipse(SIZE, place, rng.uniform(2, 6, 2), rng.uniform(0, np.pi))
        image = mix(image, colour * rng.uniform(0.7, 1.05), soften(scraps & food, 0.8))
    glints = (clouds(SIZE, rng, 5) > 0.86) & food
    return mix(image, (255, 250, 235), soften(glints, 0.8) * 0.5)


def _paint_stirrer(
    rng: np.random.Generator,
    image: np.ndarray,
    codes: np.ndarray,
    centre: np.ndarray,
    pan_radius: float,
) -> np.ndarray:
    """Paint a stirrer and its shadow, and set `codes` to 0 where it is."""
    import numpy as np

    from ..data.synthetic import bar, blur, grid, mix, soften

    x, y = grid(SIZE)
    turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.45) * pan_radius
    tip = centre + reach * np.array([np.cos(turn), np.sin(turn)])
    stirrer = bar(SIZE, tip, turn, 0, 260, rng.uniform(5, 8))
    blade = rng.uniform(17, 26)
    stirrer |= bar(SIZE, tip, turn + np.pi / 2, -blade, blade, rng.uniform(9, 14))
    codes[stirrer] = 0
    shadow = np.roll(stirrer, (7, 5), axis=(0, 1))
    image *= (1 - 0.4 * soften(shadow, 3))[..., None]
    tone = np.array(STIRRERS)[rng.integers(4)]
    relief = (
        0.75
        + 0.4 * blur(soften(stirrer, 4) * 255, 2) / 255
        + 0.08 * np.sin((x * np.sin(turn) - y * np.cos(turn)) * 0.8)
    )
    return mix(image, tone * relief[..., None], soften(stirrer, 0.8))


task = SegmentationTask(
    name="kitchen",
    classes=("stirrer", "pan+background", "food"),
    palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    background=1,
    masks="colours",
    output="colours",
    codes={(0, 0, 0): 1},  # a black background
    layouts=(
        *(
            Layout(f"{folder}{images}", f"{folder}{masks}", split)
            for split, folder in (("train", "train"), ("valid", "val"))
            for images, masks in (
                ("/images", "/masks"),
                ("/images", "/annotations"),
                ("/images", "/labels"),
                ("", ""),
            )
        ),
        Layout("images", "masks"),  # without a split of its own: drawn by seed
    ),
    recipe=Recipe(size=(240, 320), rotate=30.0),
    draw=draw,
    sample_splits={"train": 0.6, "valid": 0.25, "test": 0.15},
    sample_name="upma{set}_{frame}",
)

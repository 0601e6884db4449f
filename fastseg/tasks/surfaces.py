"""Rooms in photographs: wall, floor and dining table.

Masks are label maps of ADE20K or COCO-Stuff, or hold this task's own codes.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..types import IGNORE, Drawing, Recipe
from .layouts import Layout, MaskValue
from .segmentation import SegmentationTask

if TYPE_CHECKING:
    import numpy as np

CLASSES = ("other", "wall", "floor", "dining table")
# The one mapping: source, its code, its name, this task's class, and why.
TABLE = Path(__file__).with_name("surfaces.tsv")
UNLABELLED = "unlabelled"  # in the column of classes


def mapping(source: str) -> dict[str, int]:
    """Return {code: class index, or 255 for unlabelled} of one source of `TABLE`.

    A code is a text, or a name if the source has no codes. Codes not in the table become 0, other.
    Sources: ade20k (codes of objectInfo150, 1 to 150), cocostuff (0-based ids), opensurfaces (names
    in lower case), openimages (machine identifiers such as /m/0h8n5zk).
    """
    found = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["source"] == source:
                is_labelled = row["class"] != UNLABELLED
                found[row["code"] or row["name"]] = (
                    CLASSES.index(row["class"]) if is_labelled else IGNORE
                )
    return found


class _Declaration(TypedDict):
    codes: dict[MaskValue, int]
    ignore: tuple[MaskValue, ...]


def _declaration(source: str, codes: range, unlabelled: int) -> _Declaration:
    """Return `codes` and `ignore` of a source's layouts; codes not in the table are 0, other."""
    table = {int(code): ours for code, ours in mapping(source).items()}
    meaning = {code: table.get(code, 0) for code in codes}
    return {
        "codes": {code: ours for code, ours in meaning.items() if ours != IGNORE},
        "ignore": (unlabelled, *(code for code, ours in meaning.items() if ours == IGNORE)),
    }


ADE20K = _declaration("ade20k", range(1, 151), unlabelled=0)
COCOSTUFF = _declaration("cocostuff", range(182), unlabelled=255)


SIZE = HEIGHT, WIDTH = 240, 320  # px of a synthetic image
FLOORS = ((156, 108, 62), (190, 150, 104), (98, 68, 46), (150, 150, 152), (206, 200, 190))
TABLES = ((120, 76, 40), (222, 210, 190), (70, 46, 32), (186, 136, 82))
OTHER, WALL, FLOOR, DINING_TABLE = range(4)  # indices into CLASSES


@dataclass
class _Room:
    """A synthetic room in one-point perspective. Points are (x, y) in px."""

    vanish: np.ndarray  # vanishing point
    outer: list[
        np.ndarray
    ]  # corners beyond the image: left top, right top, right bottom, left bottom
    inner: list[np.ndarray]  # corners of the back wall, in the same order
    x: np.ndarray  # pixel coordinates, float32 (H, W)
    y: np.ndarray
    ceiling: np.ndarray  # bool (H, W)
    floor: np.ndarray
    codes: np.ndarray  # uint8 (H, W), changed by what is painted


@dataclass
class _Table:
    """A synthetic dining table: the middle of its top, its half width and depth, and its legs, in
    px.
    """

    x: float
    y: float
    half_width: float
    half_depth: float
    leg: float
    tone: np.ndarray  # red, green, blue

    def bar(self, top: float, bottom: float, narrow: float = 1.0, wide: float = 1.0) -> np.ndarray:
        """Return a trapezium between two heights, bool (H, W), its sides in shares of the half
        width.
        """
        from ..data.synthetic import polygon

        above, below = self.half_width * narrow, self.half_width * wide
        return polygon(
            SIZE,
            [
                (self.x - above, top),
                (self.x + above, top),
                (self.x + below, bottom),
                (self.x - below, bottom),
            ],
        )


def draw(rng: np.random.Generator) -> Drawing:
    """Draw a room: walls, floor, a dining table with chairs, a window or picture, a door, a
    lamp.
    """
    import numpy as np

    from ..data.synthetic import grain, mix

    room = _place_room(rng)
    image = _paint_walls(rng, room)
    image = _paint_floor(rng, room, image)
    image = _paint_frames(rng, room, image)
    image = _paint_door(rng, room, image)
    image = _paint_table(rng, room, image)
    lamp_x = room.vanish[0] + rng.uniform(-50, 50)
    glow = np.exp(-(((room.x - lamp_x) / 90) ** 2 + ((room.y - HEIGHT * 0.2) / 70) ** 2))
    image = mix(image * rng.uniform(0.65, 1.0), (255, 236, 190), glow * rng.uniform(0.05, 0.3))
    return grain(image, rng, rng.uniform(2, 6)), room.codes


def _place_room(rng: np.random.Generator) -> _Room:
    import numpy as np

    from ..data.synthetic import grid, polygon

    x, y = grid(SIZE)
    vanish = np.array([rng.uniform(0.35, 0.65) * WIDTH, rng.uniform(0.38, 0.5) * HEIGHT])
    depth = rng.uniform(0.3, 0.5)
    corners = [np.array(c, dtype=float) for c in ((0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT))]
    outer = [vanish + (c - vanish) * rng.uniform(1.15, 1.3) for c in corners]
    inner = [vanish + (c - vanish) * depth * (1, rng.uniform(0.95, 1.05)) for c in corners]
    ceiling = polygon(SIZE, [outer[0], outer[1], inner[1], inner[0]])
    floor = polygon(SIZE, [outer[3], outer[2], inner[2], inner[3]])
    codes = np.full(SIZE, WALL, dtype=np.uint8)
    codes[ceiling] = OTHER
    codes[floor] = FLOOR
    return _Room(vanish, outer, inner, x, y, ceiling, floor, codes)


def _paint_walls(rng: np.random.Generator, room: _Room) -> np.ndarray:
    """Return walls and ceiling, float (H, W, 3)."""
    import numpy as np

    from ..data.synthetic import clouds, mix, polygon, soften

    tone = rng.uniform(110, 240) + rng.uniform(-35, 35, 3)
    sides = np.where(room.x < room.vanish[0], rng.uniform(0.72, 0.9), rng.uniform(0.8, 1.0))
    image = tone * (sides * (0.93 + 0.1 * clouds(SIZE, rng, 50)))[..., None]
    paper = 1 - 0.06 * (np.sin(room.x * rng.uniform(0.2, 0.6)) > 0.2) * rng.integers(0, 2)
    image = mix(image, tone * 0.95 * paper[..., None], soften(polygon(SIZE, room.inner)))
    return mix(image, np.array([244, 242, 238]) * rng.uniform(0.75, 1), soften(room.ceiling))


def _paint_floor(rng: np.random.Generator, room: _Room, image: np.ndarray) -> np.ndarray:
    """Paint boards or tiles, and the shade where the back wall meets the others."""
    import numpy as np

    from ..data.synthetic import clouds, mix, polygon, soften

    from_eye = 60 / np.clip(room.y - room.vanish[1], 4, None)
    across = (room.x - room.vanish[0]) * from_eye / 60
    wood = np.array(FLOORS)[rng.integers(5)]
    boards = np.sin(across * rng.uniform(9, 16)) > -0.96
    if rng.random() < 0.4:
        boards &= np.sin(from_eye * rng.uniform(8, 14)) > -0.9
    planks = (0.72 + 0.28 * boards) * (
        0.85 + 0.2 * clouds(SIZE, rng, 16) + 0.1 * np.sin(np.floor(across * 4) * 7)
    )
    image = mix(image, wood * planks[..., None], soften(room.floor))
    back_wall = soften(polygon(SIZE, room.inner), 2)
    image *= (1 - 0.35 * back_wall * (1 - back_wall) * 4)[..., None]
    return image


def _paint_frames(rng: np.random.Generator, room: _Room, image: np.ndarray) -> np.ndarray:
    """Paint windows or pictures on the back wall; they are not wall."""
    import numpy as np

    from ..data.synthetic import clouds, mix, soften

    (left, top), (right, bottom) = room.inner[0], room.inner[2]
    for _ in range(int(rng.integers(1, 3))):
        w, h = rng.uniform(0.18, 0.34) * (right - left), rng.uniform(0.25, 0.45) * (bottom - top)
        px = rng.uniform(left + 4, right - w - 4)
        py = rng.uniform(top + 5, top + 0.4 * (bottom - top))
        frame = _rectangle(px, py, px + w, py + h)
        room.codes[frame] = OTHER
        image = mix(image, rng.uniform(40, 120, 3), soften(frame, 0.6))
        pane = _rectangle(px + 3, py + 3, px + w - 3, py + h - 3)
        sky = np.array([190, 220, 245]) if rng.random() < 0.6 else rng.uniform(60, 220, 3)
        image = mix(image, sky * (0.7 + 0.4 * clouds(SIZE, rng, 8))[..., None], soften(pane, 0.6))
    return image


def _rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    from ..data.synthetic import polygon

    return polygon(SIZE, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _paint_door(rng: np.random.Generator, room: _Room, image: np.ndarray) -> np.ndarray:
    """Paint a door in a side wall; it is not wall."""
    from ..data.synthetic import mix, polygon, soften

    outer, inner = room.outer, room.inner
    is_left = rng.integers(2)
    near, far = rng.uniform(0.55, 0.7), rng.uniform(0.2, 0.35)
    corner = 3 if is_left else 2
    places = (1 - near, 1 - far)
    wall = [outer[corner][0] + (inner[corner][0] - outer[corner][0]) * t for t in places]
    foot = [outer[3][1] + (inner[3][1] - outer[3][1]) * t for t in places]
    head = [f + (room.vanish[1] - f) * 1.5 for f in foot]
    points = [(wall[0], foot[0]), (wall[1], foot[1]), (wall[1], head[1]), (wall[0], head[0])]
    door = polygon(SIZE, points) & ~room.floor & ~room.ceiling
    room.codes[door] = OTHER
    return mix(image, rng.uniform(60, 210, 3), soften(door, 0.8))


def _paint_table(rng: np.random.Generator, room: _Room, image: np.ndarray) -> np.ndarray:
    """Paint a dining table with its shadow, chairs behind it, and plates on it."""
    import numpy as np

    from ..data.synthetic import clouds, mix, soften

    table = _place_table(rng, room)
    front = table.y + table.half_depth
    top_face = table.bar(table.y - table.half_depth, front, narrow=0.78)
    rim = table.bar(front, front + 5)
    shadow = soften(table.bar(table.y + table.leg * 0.6, front + table.leg, wide=1.1), 5)
    image *= (1 - 0.45 * shadow * room.floor)[..., None]
    image = _paint_chairs(rng, room, table, image)
    for part, shade in ((_legs(table), 0.55), (rim, 0.7), (top_face, 1.0)):
        room.codes[part] = DINING_TABLE
        grained = table.tone * (shade * (0.86 + 0.22 * clouds(SIZE, rng, 12)))[..., None]
        image = mix(image, grained, soften(part, 0.7))
    for _ in range(int(rng.integers(0, 4))):
        px = table.x + rng.uniform(-0.6, 0.6) * table.half_width
        py = table.y + rng.uniform(-0.5, 0.3) * table.half_depth
        across, along = (room.x - px) / rng.uniform(6, 10), (room.y - py) / rng.uniform(2, 3.5)
        plate = np.asarray(across**2 + along**2 <= 1)
        room.codes[plate] = OTHER
        image = mix(image, rng.uniform(150, 250, 3), soften(plate, 0.6))
    return image


def _place_table(rng: np.random.Generator, room: _Room) -> _Table:
    import numpy as np

    x, y = room.vanish[0] + rng.uniform(-55, 55), rng.uniform(0.66, 0.78) * HEIGHT
    half_width, half_depth, leg = rng.uniform(52, 84), rng.uniform(10, 17), rng.uniform(28, 42)
    tone = np.array(TABLES)[rng.integers(4)] * rng.uniform(0.8, 1.1)
    return _Table(x, y, half_width, half_depth, leg, tone)


def _legs(table: _Table) -> np.ndarray:
    """Return the legs of a table, bool (H, W)."""
    import numpy as np

    from ..data.synthetic import polygon

    legs = np.zeros(SIZE, dtype=bool)
    for place, low in ((-0.93, 1.0), (0.93, 1.0), (-0.7, 0.55), (0.7, 0.55)):
        x, end = table.x + place * table.half_width, table.y + table.half_depth + table.leg * low
        legs |= polygon(SIZE, [(x - 3, table.y), (x + 3, table.y), (x + 2, end), (x - 2, end)])
    return legs


def _paint_chairs(
    rng: np.random.Generator, room: _Room, table: _Table, image: np.ndarray
) -> np.ndarray:
    from ..data.synthetic import mix, polygon, soften

    for place in rng.uniform(-0.8, 0.8, int(rng.integers(1, 4))):
        x = table.x + place * table.half_width
        top, bottom = table.y - table.half_depth - 26, table.y + 4
        points = [(x - 11, top), (x + 11, top), (x + 12, bottom), (x - 12, bottom)]
        chair = polygon(SIZE, points)
        room.codes[chair] = OTHER
        image = mix(image, table.tone * rng.uniform(0.5, 0.8), soften(chair, 0.7))
    return image


def _layouts() -> tuple[Layout, ...]:
    found = []
    for root in ("", "ade20k/"):
        for split, folder in (("train", "/training"), ("valid", "/validation"), (None, "")):
            found.append(
                Layout(
                    f"{root}images{folder}", f"{root}annotations{folder}", split, "ade20k", **ADE20K
                )
            )
    for root in ("", "cocostuff/"):
        for split, name in (("train", "train"), ("valid", "val")):
            found.append(
                Layout(f"{root}{name}_img", f"{root}{name}_label", split, "cocostuff", **COCOSTUFF)
            )
            found.append(
                Layout(
                    f"{root}{name}2017",
                    f"{root}stuffthingmaps/{name}2017",
                    split,
                    "cocostuff",
                    **COCOSTUFF,
                )
            )
    for split, folder in (("train", "train/"), ("valid", "val/"), (None, "")):
        found.append(Layout(f"{folder}images", f"{folder}masks", split))
    return tuple(found)


task = SegmentationTask(
    name="surfaces",
    classes=CLASSES,
    palette=((128, 128, 128), (86, 180, 233), (0, 158, 115), (230, 110, 20)),
    output="overlay",
    layouts=_layouts(),
    recipe=Recipe(size=(256, 320), epochs=20, rotate=5.0, zoom=0.25),
    draw=draw,
    sample_name="room_{:04d}",
)

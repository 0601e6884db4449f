"""Rooms in photographs: wall, floor and dining table, from ADE20K or COCO-Stuff label maps or masks in our own codes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ..types import Drawing, Recipe
from .segmentation import Layout, SegmentationTask

if TYPE_CHECKING:
    import numpy as np

CLASSES = ("other", "wall", "floor", "dining table")
TABLE = Path(__file__).with_name(
    "surfaces.tsv"
)  # the one mapping: source, its code, its name, our class, and why


def mapping(source: str) -> dict[str, int]:
    """Return {code as text, or the name where the source has no codes: our class, or 255 for unlabelled} of one source of `TABLE`.

    What is not in it is 0, other. Sources: ade20k (codes of objectInfo150, 1 to 150), cocostuff (0-based ids), opensurfaces
    (names in lower case), openimages (machine identifiers such as /m/0h8n5zk).
    """
    found = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["source"] == source:
                found[row["code"] or row["name"]] = (
                    255 if row["class"] == "unlabelled" else CLASSES.index(row["class"])
                )
    return found


def _declaration(source: str, codes: range, unlabelled: int) -> dict:
    """Return `codes` and `ignore` of a source's layouts: what the table leaves out is 0, other."""
    table = {int(code): ours for code, ours in mapping(source).items()}
    meaning = {code: table.get(code, 0) for code in codes}
    return {
        "codes": {code: ours for code, ours in meaning.items() if ours != 255},
        "ignore": (unlabelled, *(code for code, ours in meaning.items() if ours == 255)),
    }


ADE20K = _declaration("ade20k", range(1, 151), unlabelled=0)
COCOSTUFF = _declaration("cocostuff", range(182), unlabelled=255)


def draw(rng: np.random.Generator) -> Drawing:
    """Draw a room in one-point perspective: walls, floor, a dining table with chairs, a door or window, a lamp."""
    import numpy as np

    from ..data.synthetic import clouds, grain, grid, mix, polygon, soften

    size = height, width = 240, 320
    x, y = grid(size)
    vanish = np.array([rng.uniform(0.35, 0.65) * width, rng.uniform(0.38, 0.5) * height])
    depth = rng.uniform(0.3, 0.5)
    corners = [np.array(c, dtype=float) for c in ((0, 0), (width, 0), (width, height), (0, height))]
    outer = [vanish + (c - vanish) * rng.uniform(1.15, 1.3) for c in corners]
    inner = [vanish + (c - vanish) * depth * (1, rng.uniform(0.95, 1.05)) for c in corners]
    back_wall = polygon(size, inner)
    ceiling = polygon(size, [outer[0], outer[1], inner[1], inner[0]])
    floor = polygon(size, [outer[3], outer[2], inner[2], inner[3]])
    codes = np.ones(size, dtype=np.uint8)
    codes[ceiling] = 0
    codes[floor] = 2

    wall_tone = rng.uniform(110, 240) + rng.uniform(-35, 35, 3)
    left_right = np.where(x < vanish[0], rng.uniform(0.72, 0.9), rng.uniform(0.8, 1.0))
    image = wall_tone * (left_right * (0.93 + 0.1 * clouds(size, rng, 50)))[..., None]
    paper = 1 - 0.06 * (np.sin(x * rng.uniform(0.2, 0.6)) > 0.2) * rng.integers(0, 2)
    image = mix(image, wall_tone * 0.95 * paper[..., None], soften(back_wall))
    image = mix(image, np.array([244, 242, 238]) * rng.uniform(0.75, 1), soften(ceiling))
    from_eye = 60 / np.clip(y - vanish[1], 4, None)
    across = (x - vanish[0]) * from_eye / 60
    wood = np.array(
        [(156, 108, 62), (190, 150, 104), (98, 68, 46), (150, 150, 152), (206, 200, 190)]
    )[rng.integers(5)]
    boards = np.sin(across * rng.uniform(9, 16)) > -0.96
    if rng.random() < 0.4:
        boards &= np.sin(from_eye * rng.uniform(8, 14)) > -0.9
    planks = (0.72 + 0.28 * boards) * (
        0.85 + 0.2 * clouds(size, rng, 16) + 0.1 * np.sin(np.floor(across * 4) * 7)
    )
    image = mix(image, wood * planks[..., None], soften(floor))
    seams = soften(back_wall, 2) * (1 - soften(back_wall, 2)) * 4
    image *= (1 - 0.35 * seams)[..., None]

    # A window or a picture on the back wall, a door in a side wall: none of them is wall.
    (left, top), (right, bottom) = inner[0], inner[2]
    for _ in range(int(rng.integers(1, 3))):
        w, h = rng.uniform(0.18, 0.34) * (right - left), rng.uniform(0.25, 0.45) * (bottom - top)
        px, py = (
            rng.uniform(left + 4, right - w - 4),
            rng.uniform(top + 5, top + 0.4 * (bottom - top)),
        )
        frame = polygon(size, [(px, py), (px + w, py), (px + w, py + h), (px, py + h)])
        codes[frame] = 0
        image = mix(image, rng.uniform(40, 120, 3), soften(frame, 0.6))
        pane = polygon(
            size,
            [
                (px + 3, py + 3),
                (px + w - 3, py + 3),
                (px + w - 3, py + h - 3),
                (px + 3, py + h - 3),
            ],
        )
        sky = np.array([190, 220, 245]) if rng.random() < 0.6 else rng.uniform(60, 220, 3)
        image = mix(image, sky * (0.7 + 0.4 * clouds(size, rng, 8))[..., None], soften(pane, 0.6))
    side = rng.integers(2)
    near, far = rng.uniform(0.55, 0.7), rng.uniform(0.2, 0.35)
    corner = 3 if side else 2
    wall_x = [
        outer[corner][0] + (inner[corner][0] - outer[corner][0]) * t for t in (1 - near, 1 - far)
    ]
    foot = [outer[3][1] + (inner[3][1] - outer[3][1]) * t for t in (1 - near, 1 - far)]
    head = [f + (vanish[1] - f) * 1.5 for f in foot]
    door = (
        polygon(
            size,
            [
                (wall_x[0], foot[0]),
                (wall_x[1], foot[1]),
                (wall_x[1], head[1]),
                (wall_x[0], head[0]),
            ],
        )
        & ~floor
        & ~ceiling
    )
    codes[door] = 0
    image = mix(image, rng.uniform(60, 210, 3), soften(door, 0.8))

    table_x, table_y = vanish[0] + rng.uniform(-55, 55), rng.uniform(0.66, 0.78) * height
    half_w, half_d, leg = rng.uniform(52, 84), rng.uniform(10, 17), rng.uniform(28, 42)
    tone = np.array([(120, 76, 40), (222, 210, 190), (70, 46, 32), (186, 136, 82)])[
        rng.integers(4)
    ] * rng.uniform(0.8, 1.1)
    top_face = polygon(
        size,
        [
            (table_x - half_w * 0.78, table_y - half_d),
            (table_x + half_w * 0.78, table_y - half_d),
            (table_x + half_w, table_y + half_d),
            (table_x - half_w, table_y + half_d),
        ],
    )
    rim = polygon(
        size,
        [
            (table_x - half_w, table_y + half_d),
            (table_x + half_w, table_y + half_d),
            (table_x + half_w, table_y + half_d + 5),
            (table_x - half_w, table_y + half_d + 5),
        ],
    )
    legs = np.zeros(size, dtype=bool)
    for leg_x, low in ((-0.93, 1.0), (0.93, 1.0), (-0.7, 0.55), (0.7, 0.55)):
        start = table_x + leg_x * half_w
        end = table_y + half_d + leg * low
        legs |= polygon(
            size, [(start - 3, table_y), (start + 3, table_y), (start + 2, end), (start - 2, end)]
        )
    ground = soften(
        polygon(
            size,
            [
                (table_x - half_w, table_y + leg * 0.6),
                (table_x + half_w, table_y + leg * 0.6),
                (table_x + half_w * 1.1, table_y + half_d + leg),
                (table_x - half_w * 1.1, table_y + half_d + leg),
            ],
        ),
        5,
    )
    image *= (1 - 0.45 * ground * floor)[..., None]
    for chair_x in rng.uniform(-0.8, 0.8, int(rng.integers(1, 4))):
        seat = table_x + chair_x * half_w
        back = table_y - half_d - 26
        chair = polygon(
            size,
            [
                (seat - 11, back),
                (seat + 11, back),
                (seat + 12, table_y + 4),
                (seat - 12, table_y + 4),
            ],
        )
        codes[chair] = 0
        image = mix(image, tone * rng.uniform(0.5, 0.8), soften(chair, 0.7))
    for part, shade in ((legs, 0.55), (rim, 0.7), (top_face, 1.0)):
        codes[part] = 3
        image = mix(
            image,
            tone * (shade * (0.86 + 0.22 * clouds(size, rng, 12)))[..., None],
            soften(part, 0.7),
        )
    for _ in range(int(rng.integers(0, 4))):
        px, py = (
            table_x + rng.uniform(-0.6, 0.6) * half_w,
            table_y + rng.uniform(-0.5, 0.3) * half_d,
        )
        plate = ((x - px) / rng.uniform(6, 10)) ** 2 + ((y - py) / rng.uniform(2, 3.5)) ** 2 <= 1
        codes[plate] = 0
        image = mix(image, rng.uniform(150, 250, 3), soften(plate, 0.6))
    lamp_x = vanish[0] + rng.uniform(-50, 50)
    glow = np.exp(-(((x - lamp_x) / 90) ** 2 + ((y - height * 0.2) / 70) ** 2))
    image = mix(image * rng.uniform(0.65, 1.0), (255, 236, 190), glow * rng.uniform(0.05, 0.3))
    return grain(image, rng, rng.uniform(2, 6)), codes


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

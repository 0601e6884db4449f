"""Compare masks made by `fastseg masks face` with published ones of the same pictures.

python scripts/landmarks.py MADE PUBLISHED [--sheet worst.png]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fastseg.data.images import read_image
from fastseg.tasks import get

SHOWN, COLUMNS, SCALE = 20, 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("made", type=Path)
    parser.add_argument("published", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of the pictures that agree least")
    arguments = parser.parse_args()
    task = get("face")
    made = {item.image.name: item for item in task.items(arguments.made)}
    rows = []
    for theirs in task.items(arguments.published):
        ours = made.get(theirs.image.name)
        if ours is not None:
            rows.append((theirs, *overlap_and_eyes(task.label(ours) > 0, task.label(theirs) > 0)))
    overlap, same = np.array([row[1] for row in rows]), np.array([row[2] == row[3] for row in rows])
    print(
        f"{len(rows)} pictures have both masks: IoU median {np.median(overlap):.3f}, "
        f"mean {overlap.mean():.3f}; {same.mean():.1%} have the same number of eyes; "
        f"IoU above 0.95: {(overlap > 0.95).mean():.1%}, "
        f"below 0.5: {(overlap < 0.5).mean():.1%}"
    )
    if arguments.sheet:
        worst = sorted(rows, key=lambda row: row[1])[:SHOWN]
        sheet(
            [
                (
                    row[0].image,
                    task.label(made[row[0].image.name]) > 0,
                    task.label(row[0]) > 0,
                    f"{row[0].image.name}  IoU {row[1]:.2f}  eyes {row[2]}, published {row[3]}",
                )
                for row in worst
            ]
        ).save(arguments.sheet)


def overlap_and_eyes(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, int, int]:
    """Return the IoU of two masks, bool (H, W), and the eyes in each; 1 if both are empty."""
    union = (ours | theirs).sum()
    return (
        float((ours & theirs).sum() / union) if union else 1.0,
        ndimage.label(ours)[1],
        ndimage.label(theirs)[1],
    )


def sheet(cells: list) -> Image.Image:
    """Return pictures with outlines: our masks in blue, the published ones in orange."""
    font = ImageFont.load_default(13)
    drawn = []
    for file, ours, theirs, words in cells:
        pixels = np.asarray(
            Image.fromarray(read_image(file)).resize(
                (ours.shape[1] * SCALE, ours.shape[0] * SCALE), Image.BICUBIC
            )
        ).copy()
        for mask, colour in ((ours, (86, 180, 233)), (theirs, (255, 140, 0))):
            large = np.kron(mask, np.ones((SCALE, SCALE), dtype=bool))
            pixels[large & ~ndimage.binary_erosion(large)] = colour
        cell = Image.new("RGB", (pixels.shape[1] + 6, pixels.shape[0] + 24), (255, 255, 255))
        cell.paste(Image.fromarray(pixels), (0, 0))
        ImageDraw.Draw(cell).text((3, pixels.shape[0] + 3), words, fill=(0, 0, 0), font=font)
        drawn.append(cell)
    width, height = drawn[0].size
    whole = Image.new("RGB", (COLUMNS * width, -(-len(drawn) // COLUMNS) * height), (255, 255, 255))
    for i, cell in enumerate(drawn):
        whole.paste(cell, (i % COLUMNS * width, i // COLUMNS * height))
    return whole


if __name__ == "__main__":
    main()

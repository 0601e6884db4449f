"""Read a large COCO-like data set twice: seconds, and peak memory in MB, of each reading.

    python scripts/labels.py 10000

Each reading is a process of its own. The first one parses the label file and draws the masks, the
second one finds them in the cache. `benchmark.py labels` runs it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (120, 160)  # px: the disk holds 10,000 of them
OBJECTS, POINTS = 10, 24  # polygons of an image, points of a polygon
CLASSES = ("roof", "tree", "road")


def data_set(folder: Path, count: int) -> Path:
    """Write `count` images and their instances.json, in which images are mixed; return it."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.new("L", SIZE[::-1], 128).save(buffer, "JPEG")
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    for number in range(count):
        name = f"{number:06d}.jpg"
        (folder / "images" / name).write_bytes(buffer.getvalue())
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for index in range(OBJECTS):
            centre, radius = rng.uniform(25, 95, 2), rng.uniform(4, 20)
            ring = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index % len(CLASSES) + 1,
                    "segmentation": [ring.round(2).reshape(-1).tolist()],
                    "area": round(float(np.pi * radius**2), 2),
                    "bbox": [*(centre - radius).round(2).tolist(), 2 * radius, 2 * radius],
                    "iscrowd": 0,
                }
            )
    rng.shuffle(annotations)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    file = folder / "instances.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return file


def read(file: Path) -> tuple[float, float]:
    """Read a label file, and return seconds and the process's peak memory in MB."""
    from fastseg.formats import cache, get

    start = time.perf_counter()
    meaning = {name: index for index, name in enumerate(CLASSES, start=1)}
    drawn, faults = cache.masks_of(
        get("coco"), file.parent, file, file.parent / "images", meaning, 0
    )
    seconds = time.perf_counter() - start
    assert not faults and drawn, faults[:1]
    # not ru_maxrss: a process inherits its parent's value
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    return seconds, int(peak) / 1024


def readings(folder: Path, count: int) -> dict[str, list[float]]:
    """Return seconds and peak memory in MB of the first and second reading of `count` images."""
    file = data_set(folder / str(count), count)
    figures: dict[str, list[float]] = {}
    for which in ("first", "second"):
        found = subprocess.run(
            [sys.executable, __file__, str(file)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        )
        seconds, peak = map(float, found.stdout.split())
        figures[f"fastseg, {which} reading, {count} images"] = [seconds]
        figures[f"fastseg, {which} reading, {count} images, memory"] = [peak]
    return figures


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        with tempfile.TemporaryDirectory() as temporary:
            for label, values in readings(Path(temporary), int(sys.argv[1])).items():
                print(f"{label:50} {values[0]:.2f} {'MB' if label.endswith('memory') else 's'}")
    else:
        print(*read(Path(sys.argv[1])))

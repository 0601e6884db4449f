"""Plant faults of every kind into copies of datasets; count what `fastseg check` finds.

    python scripts/planting.py [TASK ...] [--faults 200] [--files 2000]

Works on synthetic samples, and on the real data in FASTSEG_SHARED if that is set. Every fault is
in a file of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import fastseg
from fastseg.checks.repair import fix
from fastseg.tasks import Item, get

Plant = Callable[
    [Item, np.random.Generator], tuple[str, Path]
]  # damages an item; returns the fault's kind and the file it is in


def pixels(path: Path) -> np.ndarray:
    """Return a file's own pixels."""
    with Image.open(path) as image:
        return np.asarray(image)


def rewritten(path: Path, values: np.ndarray | Image.Image, suffix: str = "", **options) -> Path:
    """Write a file again, perhaps under another suffix."""
    target = path.with_suffix(suffix or path.suffix)
    path.unlink()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(
        target,
        **({"quality": 95} if target.suffix == ".jpg" and "quality" not in options else {}),
        **options,
    )
    return target


def truncated(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    file = item.label if isinstance(item.label, Path) and rng.random() < 0.5 else item.image
    data = file.read_bytes()
    file.write_bytes(
        (data[: int(len(data) * rng.uniform(0.05, 0.9))], b"", b"<html>not found</html>")[
            rng.integers(3)
        ]
    )
    return "unreadable", file


def lone(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    if not isinstance(item.label, Path):
        extra = item.image.with_stem(f"{item.image.stem}x")
        Image.fromarray(rng.integers(0, 255, (121, 121), dtype=np.uint8)).save(extra)
        return "no partner", extra
    gone, left = (item.image, item.label) if rng.random() < 0.5 else (item.label, item.image)
    gone.unlink()
    return "no partner", left


def named_twice(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    other = item.image.with_suffix(".bmp")
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(other)
    return "doubled name", max(item.image, other)


def small_mask(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label)
    return "size mismatch", rewritten(item.label, values[: -int(rng.integers(1, 40))])


def turned(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([6, 8]))
    return "exif rotation", rewritten(item.image, pixels(item.image), exif=exif)


def upside_down(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([2, 3, 4]))
    return "exif flip", rewritten(item.image, pixels(item.image), exif=exif)


def binary(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label)
    values = values if values.ndim == 2 else values[..., 0]
    if item.label.suffix == ".jpg":  # greys: codes where 255 belongs
        return "0/255 mask", rewritten(item.label, (values > 127).astype(np.uint8), ".png")
    return "empty mask", rewritten(item.label, np.where(values > 0, 255, 0).astype(np.uint8))


def foreign_codes(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label).copy()
    y, x = (int(rng.integers(0, side - 30)) for side in values.shape[:2])
    values[y : y + 30, x : x + 30] = rng.integers(10, 200)
    return "unknown codes", rewritten(item.label, values)


def speck(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label).copy()
    y, x = (int(rng.integers(0, side)) for side in values.shape[:2])
    values[y, x] = rng.integers(10, 200)
    return "stray codes", rewritten(item.label, values)


def painted(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    height, width = pixels(item.label).shape[:2]
    rgb = np.full((height, width, 3), (250, 250, 30), dtype=np.uint8)
    rgb[: height // 2] = rng.integers(100, 160, 3)
    return "unknown colours", rewritten(item.label, rgb)


def smoothed(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    image = Image.fromarray(pixels(item.label))
    small = image.resize((image.width * 2, image.height * 2), Image.BICUBIC).resize(
        image.size, Image.BOX
    )
    return "blended colours", rewritten(item.label, small)


def odd_mode(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    rgb = Image.fromarray(pixels(item.image)).convert("RGB")
    if not isinstance(item.label, Path):
        return "image mode", rewritten(
            item.image, Image.fromarray(pixels(item.image).astype(np.float32)), ".tif"
        )
    kind = rng.integers(4)
    if kind == 0:
        return "image mode", rewritten(item.image, rgb.convert("CMYK"), ".jpg")
    if kind == 1:
        clear = rgb.copy()
        clear.putalpha(Image.fromarray(rng.integers(0, 255, rgb.size[::-1], dtype=np.uint8)))
        return "image mode", rewritten(item.image, clear, ".png")
    if kind == 2:
        return "image mode", rewritten(item.image, rgb.convert("P", palette=Image.ADAPTIVE), ".png")
    return "image mode", rewritten(
        item.image, Image.fromarray(np.asarray(rgb.convert("L"), dtype=np.float32)), ".tif"
    )


def blank(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label)
    green = (
        values.ndim == 3 and (values == (0, 255, 0)).all(axis=2).any()
    )  # the kitchen's background
    return "empty mask", rewritten(item.label, np.full_like(values, (0, 255, 0) if green else 0))


def moved(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    values = pixels(item.label)
    step = int(max(values.shape[:2]) * 0.09)
    return "misaligned mask", rewritten(
        item.label, np.roll(values, rng.choice([-step, step], 2), (0, 1))
    )


def again(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    """Replace another picture and its label by a copy of this one, re-saved or not."""
    twin = item.image.with_stem(f"again_{item.image.stem}")
    if rng.random() < 0.5:
        shutil.copyfile(item.image, twin)
    else:
        rgb = Image.fromarray(pixels(item.image))
        rgb.point(lambda v: min(255, v * 1.06)).save(
            twin, **({"quality": 70} if twin.suffix == ".jpg" else {})
        )
    if isinstance(item.label, Path):
        shutil.copyfile(item.label, item.label.with_stem(f"again_{item.label.stem}"))
    else:
        _line(item, f"{twin.stem}\t{item.label}")
    return "duplicate", twin


def tiny(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    image, mask = pixels(item.image), pixels(item.label)
    side = (
        slice(image.shape[0] // 3, image.shape[0] // 3 * 2),
        slice(image.shape[1] // 3, image.shape[1] // 3 * 2),
    )
    rewritten(item.label, mask[side].copy())
    return "outlier size", rewritten(item.image, image[side].copy())


def _line(item: Item, line: str) -> None:
    table = item.image.parent / "subjects.tsv"
    with table.open("a") as file:
        file.write(line + "\n")


def bad_line(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    """Make a line of the table unusable, or add an unusable one."""
    table = item.image.parent / "subjects.tsv"
    lines = table.read_text().splitlines()
    where = next(i for i, line in enumerate(lines) if line.split("\t")[0] == item.image.stem)
    kind = rng.integers(4)
    lines[where] = (f"{item.image.stem}\t7", f"{item.image.stem}\t", lines[where], lines[where])[
        kind
    ]
    if kind == 2:
        lines.append(lines[where])
    if kind == 3:
        lines.append(f"nobody_{item.image.stem}\t1")
    table.write_text("\n".join(lines) + "\n")
    return "table", table


def on_both_sides(item: Item, rng: np.random.Generator) -> tuple[str, Path]:
    """Put another slice of a training subject into validation, or the reverse."""
    other = (
        item.image.parent.parent
        / ("validation" if item.split == "train" else "train")
        / item.image.name
    )
    Image.fromarray(np.flipud(255 - pixels(item.image))).save(other)
    table = other.parent / "subjects.tsv"
    table.write_text(table.read_text() + f"{item.image.stem}\t{item.label}\n")
    return "group on both sides", other if item.split == "train" else item.image


PLANTS: dict[str, tuple[Plant, ...]] = {
    "eye": (
        truncated,
        lone,
        named_twice,
        small_mask,
        turned,
        upside_down,
        binary,
        foreign_codes,
        speck,
        painted,
        odd_mode,
        blank,
        moved,
        again,
        tiny,
    ),
    "kitchen": (
        truncated,
        lone,
        named_twice,
        small_mask,
        turned,
        upside_down,
        painted,
        smoothed,
        odd_mode,
        blank,
        moved,
        again,
        tiny,
    ),
    "face": (
        truncated,
        lone,
        named_twice,
        small_mask,
        turned,
        upside_down,
        binary,
        odd_mode,
        blank,
        again,
        tiny,
    ),
    "surfaces": (
        truncated,
        lone,
        named_twice,
        small_mask,
        turned,
        upside_down,
        painted,
        odd_mode,
        moved,
        again,
        tiny,
    ),
    "mri": (truncated, lone, named_twice, odd_mode, again, bad_line, on_both_sides),
}


def plant(task: str, data: Path, faults: int, seed: int = 0) -> list[tuple[str, Path]]:
    """Damage `faults` items below `data`, each in one way; return the kinds and the files."""
    rng = np.random.default_rng(seed)
    items = get(task).items(data)
    ways = PLANTS[task]
    chosen = rng.permutation(len(items))[:faults]
    return [ways[number % len(ways)](items[i], rng) for number, i in enumerate(chosen)]


def judge(
    task: str, data: Path, planted: list[tuple[str, Path]], before: set[tuple[str, str]]
) -> dict:
    """Return which planted faults `check` finds, and the faults that were not there `before`."""
    audit = fastseg.check(task, data)
    found = Counter((fault.kind, fault.file) for fault in audit.faults)
    missed, explained = [], set()
    for kind, file in planted:
        kinds = ("duplicate", "duplicate across the split") if kind == "duplicate" else (kind,)
        names = (
            {str(file), str(file.with_stem(file.stem.removeprefix("again_")))}
            if kind == "duplicate"
            else {str(file)}
        )
        hit = next(((k, n) for k in kinds for n in names if found[k, n]), None)
        if hit:
            found[hit] -= 1
        else:
            missed.append((kind, str(file)))
        explained |= {(file.parent.name, file.stem.removeprefix("again_"))}
    false = [
        (kind, file)
        for (kind, file), count in found.items()
        if count
        and (kind, file) not in before
        and (Path(file).parent.name, Path(file).stem) not in explained
        and kind not in ("rare class", "imbalance")
    ]
    stems = {stem for _, stem in explained}
    false = [
        (kind, file) for kind, file in false if Path(file).stem.removeprefix("again_") not in stems
    ]  # the damaged item's partner
    return {
        "task": task,
        "images": audit.images,
        "planted": len(planted),
        "found": len(planted) - len(missed),
        "missed": missed,
        "false alarms": false,
        "audit": audit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=sorted(PLANTS))
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--files", type=int, default=2000)
    arguments = parser.parse_args()
    shared = Path(os.environ["FASTSEG_SHARED"]) / "data" if "FASTSEG_SHARED" in os.environ else None
    for task in arguments.tasks:
        for real in (False, True) if shared and (shared / task).is_dir() else (False,):
            with tempfile.TemporaryDirectory() as folder:
                data, share = Path(folder) / "data", 2 if get(task).kind == "segment" else 1
                if real:
                    shutil.copytree(shared / task, data)
                else:
                    fastseg.tasks.get(task).sample(data, n=arguments.files // share)
                count = len(get(task).items(data))
                before = {(fault.kind, fault.file) for fault in fastseg.check(task, data).faults}
                planted = plant(task, data, min(arguments.faults, count // 5))
                result = judge(task, data, planted, before)
                print(
                    f"{task:9} {'real     ' if real else 'synthetic'} {count * share:5} files, "
                    f"{len(before)} faults of their own; planted {result['planted']}, "
                    f"found {result['found']} ({result['found'] / result['planted']:.1%}), "
                    f"false alarms {len(result['false alarms'])} "
                    f"({len(result['false alarms']) / count:.2%} of the images)",
                    flush=True,
                )
                for kind, file in result["missed"]:
                    print("    missed:", kind, Path(file).name)
                for kind, file in result["false alarms"][:10]:
                    print("    false: ", kind, Path(file).name)
                fixed = Path(folder) / "fixed"
                fix(result["audit"], fixed)
                left = {(fault.kind, fault.file) for fault in fastseg.check(task, fixed).faults}
                print("    in the repaired copy:", Counter(kind for kind, _ in left) or "nothing")


if __name__ == "__main__":
    main()

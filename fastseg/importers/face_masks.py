"""A folder of faces made into a labelled dataset: masks by landmarks, split into the task's own folders, rejects listed."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import __version__
from ..data.images import overlay, read_image, save_image
from ..data.issues import Fault, refuse
from ..data.pairing import by_stem, image_files
from ..errors import DataError, TaskError, brief, choose
from ..tasks import Task, get
from ..tasks.base import MADE
from ..utils.io import atomic_file, require_folder, write_json, write_rows
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.threads import results_in_order
from .landmarks import Face, Finder, mask

REJECTED, PREVIEW = "rejected.csv", "preview"
REGIONS, EDGES, ROUNDINGS = ("iris", "eye"), ("hard", "soft"), ("subpixel", "published")


@dataclass(frozen=True)
class Masked:
    """What was made: the dataset's folder, masks by split, eyes in them, and the pictures rejected, by reason."""

    out: Path
    splits: dict[str, int]
    eyes: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made of pictures."""

    task: Task
    out: Path
    region: str
    edge: str
    rounding: str
    preview: bool


def make_masks(
    task: str | Task,
    data: Path | str,
    out: Path | str | None = None,
    *,
    region: str = "iris",
    edge: str = "hard",
    rounding: str = "subpixel",
    preview: bool = False,
    valid: float = 0.2,
    test: float = 0.0,
    seed: int = 42,
) -> Masked:
    """Find the eyes in every picture of the folder `data` and write pictures and masks to `out` (default: data/face), ready to fit.

    Masks are PNG greys, 0 to 255, above 127 an eye: hard ones hold 0 and 255, soft ones how much of each pixel is covered.
    `region` and `rounding`: see `landmarks.mask`. Pictures are split by `seed`, or as `data` splits them if it has the task's own
    folders. A picture in which any face is turned away, has an eye closed, or is not certain, and one without a face, gets no
    mask; rejected.csv says why. With `preview`, the folder preview shows picture, landmarks and mask side by side.
    Interrupted, it goes on where it stopped. Raises `TaskError`, `DataError`, and `ModelError` if mediapipe is missing.
    """
    task = get(task)
    if task.name != "face":
        raise TaskError(
            f"masks are made by landmarks for face only, not for {task.name}", "masks-task"
        )
    (
        choose("region", region, REGIONS, TaskError),
        choose("edge", edge, EDGES, TaskError),
        choose("rounding", rounding, ROUNDINGS, TaskError),
    )
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise TaskError(
            f"shares of {valid:g} to validate and {test:g} to test: give shares between 0 and 1 that leave some to train, "
            "such as --valid 0.2 --test 0.1",
            "split-shares",
        )
    options = MaskOptions(task, Path(out or f"data/{task.name}"), region, edge, rounding, preview)
    placed = _placed(task, Path(data), seed)
    source, target = Path(data).resolve(), options.out.resolve()
    if source in (target, *target.parents) or target in source.parents:
        raise DataError(
            f"{options.out}: lies in or around the pictures themselves; choose another --out",
            "output-in-data",
        )
    require_folder(options.out)
    journal = Journal(
        "masks",
        __version__,
        str(source),
        str(target),
        region,
        edge,
        rounding,
        preview,
        valid,
        test,
        seed,
    )
    if (
        options.out.is_dir()
        and any(p for p in options.out.iterdir() if p.name != "README.md")
        and not journal.path.is_file()
    ):
        raise DataError(
            f"{options.out}: is not empty; masks are never mixed into other data: choose another --out",
            "not-empty",
        )
    with write_lock(options.out), journal:
        rejected, made, eyes = [], Counter(), 0

        def split_of(
            own: str | None,
        ) -> str:  # those that are accepted are divided: rejects are not spread evenly
            n = sum(made.values()) + 1
            due = [
                split
                for split, share in (("valid", valid), ("test", test))
                if int(n * share + 0.5) > made[split]
            ]
            return own or (due or ["train"])[0]

        for (file, _), row in zip(
            placed,
            track(_finished(options, placed, journal, split_of), "finding eyes", len(placed)),
        ):
            if isinstance(row, DataError):
                row = {
                    "reason": "unreadable",
                    "face": "",
                    "value": brief(str(row).removeprefix(f"{file}: ")),
                    "limit": "",
                }
            if "reason" in row:
                rejected.append({"image": str(file), **row})
            else:
                made[row["split"]] += 1
                eyes += row["eyes"]
        if rejected:
            write_rows(options.out / REJECTED, sorted(rejected, key=lambda row: row["image"]))
        # Masks in whole pixels lie half a pixel to the left on average, and the task expects it; those drawn with care do not.
        write_json(
            options.out / MADE,
            {
                "fastseg": __version__,
                "region": region,
                "edge": edge,
                "rounding": rounding,
                **({"flip_shift": 0} if rounding == "subpixel" else {}),
            },
        )
    return Masked(options.out, dict(made), eyes, dict(Counter(row["reason"] for row in rejected)))


def _placed(task: Task, data: Path, seed: int) -> list[tuple[Path, str | None]]:
    """Return each picture with the split that its folder says, where `data` is laid out as the task's; else shuffled, with none."""
    if not data.is_dir():
        raise DataError(f"{data}: is no folder; give a folder of pictures of faces", "no-such-path")
    faults: list[Fault] = []
    own = [
        (file, layout.split)
        for layout in task.layouts
        if (data / layout.images).is_dir()
        for file in by_stem(image_files(data / layout.images), faults).values()
    ]
    files = sorted(by_stem(image_files(data), faults).values())
    refuse(faults)
    if not own and len(files) < 2:
        raise DataError(
            f"{data}: holds {len(files)} pictures; give a folder of at least 2 faces as image files",
            "too-few-images",
        )
    Random(seed).shuffle(files)
    return own or [(file, None) for file in files]


def _finished(
    options: MaskOptions,
    placed: list[tuple[Path, str | None]],
    journal: Journal,
    split_of: Callable[[str | None], str],
) -> Iterator[dict | DataError]:
    """Yield what became of each picture, in order: {"eyes": n, "split": where it lies}, or why it was rejected."""
    folders = {
        layout.split: (options.out / layout.images, options.out / layout.masks)
        for layout in options.task.layouts
    }
    keys = [stamp(file) for file, _ in placed]
    for key, (file, _) in zip(keys, placed):
        row = journal.done.get(key, {})
        if "eyes" in row and not (folders[row["split"]][1] / f"{file.stem}.png").is_file():
            del journal.done[key]
    own = threading.local()  # a finder of each thread's own: its graph takes one picture at a time

    def one(i: int) -> tuple[dict | DataError, np.ndarray | None]:
        if not hasattr(own, "finder"):
            own.finder = Finder()
        return _one(options, own.finder, placed[i][0])

    def work(left: list[int]) -> Iterator[dict | DataError]:
        for i, (row, grey) in zip(
            left, results_in_order((pool.submit(one, i) for i in left), 2 * workers)
        ):
            if grey is not None:
                file, split = placed[i]
                row["split"] = split_of(split)
                images, masks = folders[row["split"]]
                with atomic_file(images / file.name) as temporary:
                    shutil.copyfile(file, temporary)
                save_image(masks / f"{file.stem}.png", grey)
            yield row

    Finder()  # a missing mediapipe is told before anything is begun, and by one thread
    workers = cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        yield from resumed(journal, keys, work)


def _one(
    options: MaskOptions, finder: Finder, file: Path
) -> tuple[dict | DataError, np.ndarray | None]:
    """Return {"eyes": n} and the mask of a picture, uint8 (H, W), or why there is none, and None."""
    try:
        image = read_image(file)
    except DataError as error:
        return error, None
    faces, missed = finder.faces(image)
    row = _rejection(faces, missed, image.shape[:2])
    eyes = [eye for face in faces for eye in face.eyes]
    covered = mask([] if row else eyes, image.shape[:2], options.region, options.rounding)
    grey = (
        np.round(255 * covered).astype(np.uint8)
        if options.edge == "soft"
        else np.where(covered > 0.5, np.uint8(255), np.uint8(0))
    )
    if row is None and not (grey > 127).any():
        row = {
            "reason": "eyes too small",
            "face": "",
            "value": round(max(eye.radius for eye in eyes), 2),
            "limit": 1,
        }
    if options.preview:
        save_image(
            options.out / PREVIEW / f"{file.stem}.jpg",
            _preview(options.task, image, faces, grey, row),
        )
    return (row, None) if row else ({"eyes": len(eyes)}, grey)


def _rejection(faces: list[Face], missed: int, size: tuple[int, int]) -> dict | None:
    """Return why a picture gets no mask: a mask that leaves an eye out would teach that there is none."""
    if not faces:
        return {
            "reason": "low confidence" if missed else "no face",
            "face": "",
            "value": missed,
            "limit": "",
        }
    for number, face in enumerate(faces, 1):
        if fault := face.fault(size):
            return dict(zip(("reason", "face", "value", "limit"), (fault[0], number, *fault[1:])))
    return (
        {"reason": "low confidence", "face": len(faces) + 1, "value": missed, "limit": ""}
        if missed
        else None
    )


def _preview(
    task: Task, image: np.ndarray, faces: list[Face], grey: np.ndarray, row: dict | None
) -> Image.Image:
    """Return picture, landmarks and mask side by side, enlarged where they are small; a rejected one says why."""
    scale = max(1, round(400 / image.shape[0]))
    size = image.shape[1] * scale, image.shape[0] * scale
    plain = Image.fromarray(image).resize(size, Image.BICUBIC)
    marked = plain.copy()
    pen = ImageDraw.Draw(marked)
    for face in faces:
        for eye in face.eyes:
            line = max(1, scale // 2)
            pen.line(
                [tuple(point * scale) for point in (*eye.lids, eye.lids[0])],
                fill=(86, 180, 233),
                width=line,
            )
            ends = (*((eye.centre - eye.radius) * scale), *((eye.centre + eye.radius) * scale))
            pen.ellipse(ends, outline=(230, 159, 0), width=line)
    codes = np.asarray(Image.fromarray((grey > 127).astype(np.uint8)).resize(size, Image.NEAREST))
    painted = Image.fromarray(overlay(np.asarray(plain), codes, task.palette, hide=task.background))
    if row:
        words = f"rejected: {row['reason']}" + (
            f" ({row['value']}, limit {row['limit']})" if row["limit"] != "" else ""
        )
        pen = ImageDraw.Draw(painted)
        font = ImageFont.load_default(max(12, size[0] // 22))
        pen.rectangle(
            (0, 0, *(np.array(pen.textbbox((0, 0), words, font=font)[2:]) + 8)), fill=(0, 0, 0)
        )
        pen.text((4, 2), words, fill=(255, 255, 255), font=font)
    row_of = Image.new("RGB", (3 * size[0] + 16, size[1]), (255, 255, 255))
    for i, picture in enumerate((plain, marked, painted)):
        row_of.paste(picture, (i * (size[0] + 8), 0))
    return row_of

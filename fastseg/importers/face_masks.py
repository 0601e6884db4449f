"""Makes a dataset of masks from pictures of faces by landmarks; lists rejected pictures."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import __version__
from ..data.decoding import GREY_THRESHOLD
from ..data.images import overlay, read_image, save_image
from ..data.issues import Fault, refuse
from ..data.pairing import by_stem, image_files
from ..errors import DataError, TaskError, brief, choose
from ..tasks import SegmentationTask, Task, get
from ..tasks.base import MADE
from ..utils.io import atomic_file, has_files, require_folder, write_json, write_rows
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track
from ..utils.threads import results_in_order
from .landmarks import Eye, Face, Finder, mask

REJECTED, PREVIEW = "rejected.csv", "preview"
REGIONS, EDGES, ROUNDINGS = ("iris", "eye"), ("hard", "soft"), ("subpixel", "published")

# Previews: pictures are enlarged to about this height in px, with white gaps between
# them, and lines in colours that colour-blind people tell apart (Okabe and Ito 2008).
PREVIEW_HEIGHT, PREVIEW_GAP = 400, 8
LID_COLOUR, IRIS_COLOUR = (86, 180, 233), (230, 159, 0)

Row = dict[str, Any]  # {"eyes", "split"} of a picture with a mask; reason, face, value, limit else


@dataclass(frozen=True)
class MaskDataset:
    """The dataset that was made: its folder and counts of masks, eyes and rejected pictures."""

    out: Path
    splits: dict[str, int]  # split -> masks
    eyes: int
    rejected: dict[str, int]  # reason -> pictures


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made, see `make_masks`."""

    task: SegmentationTask
    out: Path
    region: str
    edge: str
    rounding: str
    preview: bool
    valid: float
    test: float


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
) -> MaskDataset:
    """Find the eyes in every picture of the folder `data` and write a dataset of masks to `out`.

    `out` is data/face by default. Masks are PNG greys, 0 to 255, above 127 an eye: with hard edges
    0 or 255, with soft ones the covered share of each pixel. `region` and `rounding`: see
    `landmarks.mask`. Pictures are split by `seed`, or as in `data` if it has the task's own
    folders. A picture without a face, or in which any face is turned away, uncertain or has an eye
    closed, gets no mask; rejected.csv says why. With `preview`, the folder preview shows picture,
    landmarks and mask side by side. An interrupted run continues where it stopped. Raises
    `TaskError`, `DataError`, and `ModelError` if mediapipe is missing.
    """
    task = get(task)
    if task.name != "face" or not isinstance(task, SegmentationTask):
        raise TaskError(
            f"masks are made by landmarks for face only, not for {task.name}", "masks-task"
        )
    choose("region", region, REGIONS, TaskError)
    choose("edge", edge, EDGES, TaskError)
    choose("rounding", rounding, ROUNDINGS, TaskError)
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise TaskError(
            f"shares of {valid:g} to validate and {test:g} to test: give shares between 0 and 1 "
            "that leave some to train, such as --valid 0.2 --test 0.1",
            "split-shares",
        )
    data, out = Path(data), Path(out or f"data/{task.name}")
    options = MaskOptions(task, out, region, edge, rounding, preview, valid, test)
    pictures = _find_pictures(task, data, seed)
    _require_apart(data, out)
    require_folder(out)
    paths = str(data.resolve()), str(out.resolve())
    how = region, edge, rounding, preview, valid, test, seed
    journal = Journal("masks", __version__, *paths, *how)
    if has_files(out) and not journal.path.is_file():
        raise DataError(
            f"{out}: is not empty; masks are never mixed into other data: choose another --out",
            "not-empty",
        )
    with write_lock(out), journal:
        run = _MaskRun(options, pictures, journal)
        rejected = run.write()
        if rejected:
            write_rows(out / REJECTED, sorted(rejected, key=lambda row: str(row["image"])))
        made = {"fastseg": __version__, "region": region, "edge": edge, "rounding": rounding}
        # The task expects truncated coordinates, on average half a pixel to the left. Masks
        # drawn with subpixel landmarks are not shifted.
        write_json(out / MADE, made if rounding == "published" else {**made, "flip_shift": 0})
    reasons = Counter(row["reason"] for row in rejected)
    return MaskDataset(out, dict(run.splits), run.eyes, dict(reasons))


def _require_apart(data: Path, out: Path) -> None:
    """Raise `DataError` if one folder contains the other."""
    source, target = data.resolve(), out.resolve()
    if source in (target, *target.parents) or target in source.parents:
        raise DataError(
            f"{out}: is inside the folder of pictures, or contains it; choose another --out",
            "output-in-data",
        )


def _find_pictures(task: SegmentationTask, data: Path, seed: int) -> list[tuple[Path, str | None]]:
    """Return each picture with its split if `data` has the task's own layout.

    Otherwise they are the pictures in `data` itself, shuffled by `seed`, with None as the split.
    """
    if not data.is_dir():
        raise DataError(f"{data}: is no folder; give a folder of pictures of faces", "no-such-path")
    faults: list[Fault] = []
    placed: list[tuple[Path, str | None]] = [
        (file, layout.split)
        for layout in task.layouts
        if (data / layout.images).is_dir()
        for file in by_stem(image_files(data / layout.images), faults).values()
    ]
    files = sorted(by_stem(image_files(data), faults).values())
    refuse(faults)
    if placed:
        return placed
    if len(files) < 2:
        raise DataError(
            f"{data}: holds {len(files)} pictures; "
            "give a folder of at least 2 faces as image files",
            "too-few-images",
        )
    Random(seed).shuffle(files)
    return [(file, None) for file in files]


@dataclass
class _MaskRun:
    """One run over all pictures: writes masks, returns rejected pictures, counts both."""

    options: MaskOptions
    pictures: list[tuple[Path, str | None]]
    journal: Journal
    splits: Counter[str] = field(default_factory=Counter)  # split -> masks
    eyes: int = 0

    def write(self) -> list[Row]:
        """Write the masks and return a row for each rejected picture."""
        rejected = []
        results = track(self._results(), "finding eyes", len(self.pictures))
        for (file, _), row in zip(self.pictures, results):
            if isinstance(row, DataError):
                why = brief(str(row).removeprefix(f"{file}: "))
                row = _rejection("unreadable", "", why, "")
            if "reason" in row:
                rejected.append({"image": str(file), **row})
            else:
                self.splits[row["split"]] += 1
                self.eyes += row["eyes"]
        return rejected

    def _results(self) -> Iterator[Row | DataError]:
        """Yield the row of each picture, in order; rows in the journal are reused."""
        keys = [stamp(file) for file, _ in self.pictures]
        for key, (file, _) in zip(keys, self.pictures):
            row = self.journal.done.get(key, {})
            if "eyes" in row and not self._mask_path(file, row["split"]).is_file():
                del self.journal.done[key]
        Finder()  # reports a missing mediapipe before anything is written, and only once
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            yield from resumed(self.journal, keys, lambda left: self._compute(left, pool))

    def _compute(self, left: list[int], pool: ThreadPoolExecutor) -> Iterator[Row | DataError]:
        """Find the eyes in the pictures of these indices on threads, and write what has a mask."""
        local = threading.local()  # a finder handles one picture at a time: one per thread

        def find(index: int) -> tuple[Row | DataError, np.ndarray | None]:
            if not hasattr(local, "finder"):
                local.finder = Finder()
            return _make_mask(self.options, local.finder, self.pictures[index][0])

        submitted = (pool.submit(find, index) for index in left)
        results = results_in_order(submitted, 2 * (cpu_count() or 1))
        for index, (row, grey) in zip(left, results):
            if grey is not None and not isinstance(row, DataError):
                file, split = self.pictures[index]
                row["split"] = split or self._next_split()
                with atomic_file(self._folder(row["split"], "images") / file.name) as temporary:
                    shutil.copyfile(file, temporary)
                save_image(self._mask_path(file, row["split"]), grey)
            yield row

    def _next_split(self) -> str:
        """Return the split of the next mask; rejected pictures must not distort the shares."""
        count = sum(self.splits.values()) + 1
        for split, share in (("valid", self.options.valid), ("test", self.options.test)):
            if int(count * share + 0.5) > self.splits[split]:
                return split
        return "train"

    def _folder(self, split: str, part: str) -> Path:
        layouts = {layout.split: layout for layout in self.options.task.layouts}
        return self.options.out / getattr(layouts[split], part)

    def _mask_path(self, file: Path, split: str) -> Path:
        return self._folder(split, "masks") / f"{file.stem}.png"


def _make_mask(
    options: MaskOptions, finder: Finder, file: Path
) -> tuple[Row | DataError, np.ndarray | None]:
    """Return {"eyes": count} and the mask of a picture, uint8 (H, W).

    If it gets none: the reason, and None.
    """
    try:
        image = read_image(file)
    except DataError as error:
        return error, None
    size = image.shape[0], image.shape[1]
    faces, missed = finder.faces(image)
    rejection = _find_rejection(faces, missed, size)
    eyes: list[Eye] = [eye for face in faces for eye in face.eyes]
    covered = mask([] if rejection else eyes, size, options.region, options.rounding)
    if options.edge == "soft":
        grey = np.round(255 * covered).astype(np.uint8)
    else:
        grey = np.where(covered > 0.5, np.uint8(255), np.uint8(0))
    if rejection is None and not (grey > GREY_THRESHOLD).any():
        largest = round(max(eye.radius for eye in eyes), 2)
        rejection = _rejection("eyes too small", "", largest, 1)
    if options.preview:
        preview = _preview(options.task, image, faces, grey, rejection)
        save_image(options.out / PREVIEW / f"{file.stem}.jpg", preview)
    return (rejection, None) if rejection else ({"eyes": len(eyes)}, grey)


def _rejection(reason: str, face: int | str, value: object, limit: object) -> Row:
    return {"reason": reason, "face": face, "value": value, "limit": limit}


def _find_rejection(faces: list[Face], missed: int, size: tuple[int, int]) -> Row | None:
    """Return why a picture gets no mask, or None.

    A mask without one of the eyes would teach the model that there is none.
    """
    if not faces:
        return _rejection("low confidence" if missed else "no face", "", missed, "")
    for number, face in enumerate(faces, 1):
        fault = face.fault(size)
        if fault is not None:
            reason, value, limit = fault
            return _rejection(reason, number, value, limit)
    return _rejection("low confidence", len(faces) + 1, missed, "") if missed else None


def _preview(
    task: SegmentationTask,
    image: np.ndarray,
    faces: list[Face],
    grey: np.ndarray,
    rejection: Row | None,
) -> Image.Image:
    """Return picture, landmarks and mask side by side, with the reason if there is no mask."""
    scale = max(1, round(PREVIEW_HEIGHT / image.shape[0]))
    size = image.shape[1] * scale, image.shape[0] * scale
    enlarged = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    is_eye = Image.fromarray((grey > GREY_THRESHOLD).astype(np.uint8))
    codes = np.asarray(is_eye.resize(size, Image.Resampling.NEAREST))
    painted = Image.fromarray(
        overlay(np.asarray(enlarged), codes, task.palette, hide=task.background)
    )
    if rejection is not None:
        _write_reason(painted, rejection)
    panels = enlarged, _with_landmarks(enlarged, faces, scale), painted
    strip = Image.new("RGB", (3 * size[0] + 2 * PREVIEW_GAP, size[1]), (255, 255, 255))
    for i, panel in enumerate(panels):
        strip.paste(panel, (i * (size[0] + PREVIEW_GAP), 0))
    return strip


def _with_landmarks(picture: Image.Image, faces: list[Face], scale: int) -> Image.Image:
    """Return a picture, enlarged `scale` times, with lids and irises drawn in it."""
    marked = picture.copy()
    pen, width = ImageDraw.Draw(marked), max(1, scale // 2)
    for eye in (eye for face in faces for eye in face.eyes):
        lids = [tuple(point * scale) for point in (*eye.lids, eye.lids[0])]
        pen.line(lids, fill=LID_COLOUR, width=width)
        corners = (*((eye.centre - eye.radius) * scale), *((eye.centre + eye.radius) * scale))
        pen.ellipse(corners, outline=IRIS_COLOUR, width=width)
    return marked


def _write_reason(picture: Image.Image, rejection: Row) -> None:
    """Write into a picture why it was rejected."""
    limit = f" ({rejection['value']}, limit {rejection['limit']})"
    text = f"rejected: {rejection['reason']}{limit if rejection['limit'] != '' else ''}"
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, picture.width // 22))
    right, bottom = pen.textbbox((0, 0), text, font=font)[2:]
    pen.rectangle((0, 0, right + 8, bottom + 8), fill=(0, 0, 0))
    pen.text((4, 2), text, fill=(255, 255, 255), font=font)

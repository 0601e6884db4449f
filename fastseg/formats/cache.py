"""Draws label files as masks of codes, once: the masks are kept in the user's cache.

Everything that depends neither on a format nor on a task is here: finding the images, checking
sizes, points and classes, and drawing. The masks of one reading are in one folder, named by a
digest of all that decides them; its index is written last, and the folder is renamed into place,
so that a reading that was interrupted leaves nothing that counts.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from platformdirs import user_cache_path

from ..data.issues import Fault
from ..errors import NEAREST, SIMILARITY, DataError, brief
from ..types import IGNORE
from ..utils.io import atomic_file
from ..utils.progress import track
from ..utils.threads import results_in_order
from ..utils.user_cache import make_cache_folder
from .base import Format, Labelled, Region, fault
from .geometry import draw
from .paths import Lookup, OutsideError, size_of

INDEX = "index.json"
CHUNK = 1 << 20  # bytes hashed at a time
PNG_END = b"IEND\xaeB`\x82"  # the last bytes of every whole PNG
SLACK = 1.0  # px that a point may be outside its image: tools round to the border
KEPT_DAYS = 60  # masks that no command used for so long are deleted; a convention
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Drawn:
    """An image with the mask that was drawn from its labels."""

    image: Path
    mask: Path  # PNG of codes, in the user's cache
    origin: str  # label file, and the place in it
    split: str | None  # "train", "valid", "test", where the label file says so


def masks_of(
    form: Format,
    root: Path,
    labels: Path,
    images: Path,
    meaning: Mapping[str, int],
    background: int | None,
) -> tuple[list[Drawn], list[Fault]]:
    """Return the images of label files with their masks, and all faults.

    `labels` is a label file, or a folder with label files (`Format.find`). Images are looked up
    in `images`, next to their label file, and by name anywhere below `images`, always inside
    `root`. `meaning` maps label names to class indices, or to 255 for unlabelled; regions are
    drawn over `background`, a class index (None: unlabelled). Label files are parsed, and masks
    drawn, only if they, the images or the meaning have changed since the last call.

    Images in `images` that these label files do not name are faults of the kind "unlabelled
    image"; if other label files name them, the caller drops these faults.
    """
    files = [labels] if labels.is_file() else form.find(labels)
    if not files:
        return [], [
            fault(
                labels,
                "",
                f"has no label files of {form.title}",
                "correct the path, or the format",
                "no partner",
            )
        ]
    known = {**_conventions(form, background), **meaning}
    job = _Job(form, Lookup(root, images), files, known, background)
    make_cache_folder()
    place = _folder() / job.digest(labels)
    found = _stored(place)
    if found is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock")):  # another process may be drawing the same
            found = _stored(place)
            if found is None:
                found = job.draw_all(place)
                _remove_unused(place.parent)
    return found


def _conventions(form: Format, background: int | None) -> dict[str, int]:
    """Return what labels mean by the format's own convention."""
    found = {form.unlabelled: IGNORE}
    if background is not None:
        found[form.background] = background
    return {label: code for label, code in found.items() if label}


def cached_mask(
    parts: Sequence[bytes | str], draw: Callable[[], np.ndarray], like: Path | None = None
) -> Path:
    """Return the PNG of a mask, uint8 (H, W), drawn only if there is none of the same `parts`.

    `parts` are all that decides it: contents, names, versions. It gets the modification time of
    the file `like`, so that it looks the same when it is drawn again.
    """
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    name = digest.hexdigest()[:32]
    file = _folder() / "single" / name[:2] / f"{name}.png"
    if not _is_whole(file):
        codes = draw()
        make_cache_folder()
        with atomic_file(file) as temporary:
            _save(temporary, codes, like)
    return file


def content_of(file: Path) -> str:
    """Return a digest of a file's content; "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while block := opened.read(CHUNK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


@cache
def _program() -> str:
    """Return a digest of this package: readers that have changed draw their masks again."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    return Path(user_cache_path("fastseg")) / "labels"


def _is_whole(mask: Path) -> bool:
    """Return whether a mask is there up to its last byte; the pixels are not decoded."""
    try:
        with mask.open("rb") as opened:
            opened.seek(-len(PNG_END), os.SEEK_END)
            return opened.read() == PNG_END
    except OSError:  # also for files that are shorter
        return False


def forget(mask: Path) -> None:
    """Delete a mask in the cache that cannot be decoded: the next command draws it again."""
    if mask.is_relative_to(_folder()):
        mask.unlink(missing_ok=True)


def _save(file: Path, codes: np.ndarray, like: Path | None) -> None:
    # level 1: masks are smooth, and higher levels take three times as long for a tenth less
    Image.fromarray(codes).save(file, format="PNG", compress_level=1)
    if like is not None:
        modified = like.stat().st_mtime_ns
        os.utime(file, ns=(modified, modified))


@dataclass
class _Job:
    """One reading of label files."""

    form: Format
    lookup: Lookup
    files: Sequence[Path]
    meaning: dict[str, int]
    background: int | None
    faults: list[Fault] = field(default_factory=list)
    named: dict[Path, str] = field(default_factory=dict)  # image -> the label that names it
    missing: list[str] = field(default_factory=list)  # paths of images that did not exist

    def digest(self, labels: Path) -> str:
        """Return a digest of all that decides the masks and faults."""
        root, images = self.lookup.root, self.lookup.images
        parts = (
            _program(),
            self.form.name,
            [str(path) for path in (root.absolute(), root, labels, images)],
            sorted(self.meaning.items()),
            self.background,
            [(str(file), content_of(file)) for file in (*self.files, *self.form.also(self.files))],
            sorted(self.lookup.listing.items()),
        )
        return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()[:32]

    def draw_all(self, place: Path) -> tuple[list[Drawn], list[Fault]]:
        """Draw all masks into the folder `place`, and return them with all faults."""
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        try:
            part.mkdir(parents=True)
            rows = list(self._rows(part))
            self._add_unlabelled()
            index = {
                "masks": rows,
                "faults": [astuple(one) for one in self.faults],
                "missing": self.missing,
            }
            (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)  # one that was damaged, or is out of date
            part.rename(place)
        except OSError as error:
            raise DataError(
                f"{place}: masks cannot be written ({error.strerror or error}); "
                "make space, or set XDG_CACHE_HOME to a folder that you can write to",
                "not-writable",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return [_as_drawn(row, place) for row in rows], self.faults

    def _rows(self, part: Path) -> Iterator[list[object]]:
        """Draw the masks, and yield a row of the index for each."""
        labelled = self.form.read(self.files, self.faults)
        first = next(labelled, None)  # formats that parse all first show their own progress
        if first is None:
            return
        count = max(len(self.files), len(self.lookup.listing))
        shown = track(chain([first], labelled), f"drawing labels of {self.form.title}", count)
        with ThreadPoolExecutor(WORKERS) as pool:
            futures = self._submitted(pool, part, shown)
            for row, faults in results_in_order(futures, 2 * WORKERS):
                self.faults += faults
                if row is not None:
                    yield row

    def _submitted(
        self, pool: ThreadPoolExecutor, part: Path, labelled: Iterator[Labelled]
    ) -> Iterator[Future[tuple[list[object] | None, list[Fault]]]]:
        for number, one in enumerate(labelled):
            image = self._image(one)
            if image is not None:
                yield pool.submit(self._draw_one, one, image, part / f"{number:06d}.png")

    def _image(self, one: Labelled) -> Path | None:
        """Return the image of labels; None, and a fault, if there is none to draw for."""
        try:
            image = self.lookup.find(one.images, one.file.parent)
        except OutsideError as error:
            self.faults.append(
                fault(
                    one.file,
                    one.image_place or one.place,
                    f"names {brief(error)}, which is outside the data folder",
                    f"move the image into {self.lookup.images}, and correct the name",
                )
            )
            return None
        if image is None:
            self.missing += self.lookup.candidates(one.images, one.file.parent)
            name = brief(one.images[0]) if one.images else "no image"
            self.faults.append(
                fault(
                    one.file,
                    one.image_place or one.place,
                    f"names {name}, which is not in {self.lookup.images}",
                    "add the image, or remove its labels",
                    "no partner",
                )
            )
            return None
        origin = _origin(one)
        first = self.named.setdefault(image, origin)
        if first != origin:
            self.faults.append(
                fault(
                    one.file,
                    one.image_place or one.place,
                    f"labels {image.name} a second time, after {first}",
                    "keep one of them",
                )
            )
            return None
        return image

    def _draw_one(
        self, one: Labelled, image: Path, mask: Path
    ) -> tuple[list[object] | None, list[Fault]]:
        """Draw one mask, and return its row of the index, or None, and its faults."""
        try:
            size, stored = size_of(image)
        except DataError as error:
            detail, _, remedy = str(error).removeprefix(f"{image}: ").rpartition("; ")
            return None, [Fault("unreadable", str(image), detail, remedy)]
        if one.size is not None and tuple(one.size) != size:
            return None, [_size_fault(one, image, size, stored)]
        faults = self._label_faults(one)
        codes = np.full(size, IGNORE if self.background is None else self.background, np.uint8)
        for region in one.regions:
            outside = _outside(region, size, one.is_relative)
            if outside:
                faults.append(
                    fault(
                        one.file,
                        region.place or one.place,
                        f"{outside} is outside {image.name}, which is {size[1]} x {size[0]} px",
                        "correct the region, or the image's name",
                        "outside image",
                    )
                )
            code = IGNORE if region.is_crowd else self.meaning.get(region.label, IGNORE)
            draw(codes, region, code, one.rule or self.form.rule, one.is_relative)
        _save(mask, codes, one.file)
        status = image.stat()
        row = [str(image), status.st_size, status.st_mtime_ns, mask.name, _origin(one), one.split]
        return row, faults

    def _label_faults(self, one: Labelled) -> list[Fault]:
        """Return a fault for each label of an image that is no class; crowds need none."""
        unknown: dict[str, list[Region]] = {}
        for region in one.regions:
            if region.label not in self.meaning and not region.is_crowd:
                unknown.setdefault(region.label, []).append(region)
        return [
            fault(
                one.file,
                regions[0].place or one.place,
                f"label '{brief(label)}'"
                + (f" ({len(regions)} regions)" if len(regions) > 1 else "")
                + f" is none of the classes{_nearest(label, self.meaning)}",
                f"correct it, or declare it: codes = {{'{brief(label)}': CLASS}}, or in ignore",
                "unknown class",
            )
            for label, regions in unknown.items()
        ]

    def _add_unlabelled(self) -> None:
        named = {os.path.abspath(image) for image in self.named}
        self.faults += [
            Fault(
                "unlabelled image",
                str(image),
                f"is not named by any label file of {self.form.title}",
                "label it, or leave it: it is not used",
            )
            for image in self.lookup.files()
            if os.path.abspath(image) not in named
        ]


def _nearest(label: str, known: Mapping[str, int]) -> str:
    near = difflib.get_close_matches(label[:200], list(known), n=NEAREST, cutoff=SIMILARITY)
    return f"; did you mean {' or '.join(near)}?" if near else f" ({brief(', '.join(known))})"


def _origin(one: Labelled) -> str:
    return f"{one.file} ({one.place})" if one.place else str(one.file)


def _size_fault(
    one: Labelled, image: Path, size: tuple[int, int], stored: tuple[int, int]
) -> Fault:
    assert one.size is not None
    if tuple(one.size) == stored:
        return fault(
            one.file,
            one.size_place or one.place,
            f"labels {image.name} as it is stored, but viewers turn it as its EXIF says",
            "save the image upright, without EXIF orientation, and label that",
            "exif rotation",
        )
    return fault(
        one.file,
        one.size_place or one.place,
        f"says that {image.name} is {one.size[1]} x {one.size[0]} px, "
        f"but it is {size[1]} x {size[0]} px",
        "use the image that was labelled",
        "size mismatch",
    )


def _outside(region: Region, size: tuple[int, int], is_relative: bool) -> str:
    """Return in words what of a region is more than `SLACK` px outside its image, or ""."""
    if region.bitmap is not None:
        (x, y), (height, width) = region.offset, region.bitmap.shape
        if min(x, y) < 0 or y + height > size[0] or x + width > size[1]:
            return f"a bitmap of {width} x {height} px at ({x}, {y})"
        return ""
    limit = np.array(size[::-1])
    for ring in (*region.polygons, *region.holes):
        points = ring * limit if is_relative else ring
        beyond = ((points < -SLACK) | (points > limit + SLACK)).any(axis=1)
        if beyond.any():
            x, y = points[int(beyond.argmax())]
            return f"point ({x:g}, {y:g})"
    return ""


def _as_drawn(row: Sequence[object], place: Path) -> Drawn:
    image, _, _, mask, origin, split = row
    return Drawn(Path(str(image)), place / str(mask), str(origin), str(split) if split else None)


def _stored(place: Path) -> tuple[list[Drawn], list[Fault]] | None:
    """Return what was drawn before; None if there is nothing, or if it is damaged or out of date.

    Out of date: an image, wherever it is, has changed, or one that was missing is there.
    """
    try:
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        for image, size, modified, mask, _, _ in index["masks"]:
            status = os.stat(image)
            if (status.st_size, status.st_mtime_ns) != (size, modified):
                return None
            if not _is_whole(place / mask):
                return None
        if any(os.path.exists(path) for path in index["missing"]):
            return None
        os.utime(place / INDEX)  # it is in use
        faults = [Fault(*values) for values in index["faults"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [_as_drawn(row, place) for row in index["masks"]], faults


def _remove_unused(folder: Path) -> None:
    """Delete masks that no command has used for `KEPT_DAYS`."""
    oldest = time.time() - KEPT_DAYS * 86400
    for index in folder.glob(f"*/{INDEX}"):
        try:
            if index.stat().st_mtime < oldest:
                shutil.rmtree(index.parent, ignore_errors=True)
                index.parent.with_suffix(".lock").unlink(missing_ok=True)
        except OSError:
            continue  # another process has deleted it

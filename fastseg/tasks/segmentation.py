"""Tasks that give each pixel a class: pairs of image and mask files, and what mask pixels mean."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, TaskError
from ..faults import Fault
from ..files import image_files, pairs
from .base import Drawing, Item, Task

if TYPE_CHECKING:
    import numpy as np

    from ..masks import Colour
    from ..prediction import Prediction

# The methods that touch pixels import numpy themselves: listing tasks and files stays quick without it.


@dataclass(frozen=True)
class Layout:
    """Where images and masks of equal stems lie below the data folder; the same folder twice means side by side."""

    images: str
    masks: str
    split: str | None = None
    source: str = ""

    def __str__(self) -> str:
        return f"{self.images}/ + {self.masks}/" if self.images != self.masks else f"{self.images}/ (side by side)"


@dataclass(frozen=True, kw_only=True)
class SegmentationTask(Task):
    """Images with masks of equal stem. `masks` says what mask pixels are: class codes, palette colours or greys."""

    palette: tuple[Colour, ...]
    layouts: tuple[Layout, ...]
    background: int | None = 0  # left out of foreground means
    masks: str = "codes"  # "codes", "colours" (of `palette`), or "threshold" (grey above 127 is class 1)
    codes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # source -> foreign code -> class
    code_counts: Mapping[str, int] = field(default_factory=dict)  # source -> how many codes it has, from 0
    unlabelled: Mapping[str, int] = field(default_factory=dict)  # source -> foreign code of unlabelled pixels
    group: str | None = None  # regular expression; what it matches in the stem is the group
    output: str = "codes"  # what predict writes: "codes", "colours" or "overlay"

    kind = "segment"

    @property
    def grouped(self) -> bool:
        return self.group is not None

    def __post_init__(self):
        if len(self.palette) != len(self.classes):
            raise TaskError(f"task {self.name}: {len(self.classes)} classes but {len(self.palette)} palette colours")

    def expected(self) -> str:
        named = list(dict.fromkeys(map(str, self.layouts)))
        more = f", or one of {len(named) - 3} more layouts (data/{self.name}/README.md)" if len(named) > 4 else ""
        return "images and masks of equal names in " + ", or ".join(named[:3] if more else named) + more

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        root = self.folder(data)
        faults: list[Fault] = []
        found: dict[tuple[str | None, str], list[Item]] = {}
        without: list[tuple[tuple[str | None, str], Path, Path, str]] = []
        for layout in self.layouts:  # the first layout that is there wins for its split and source
            key, images, masks = (layout.split, layout.source), root / layout.images, root / layout.masks
            alone: list[Fault] = []
            if key in found:
                continue
            matched = pairs(images, masks, alone) if images.is_dir() and masks.is_dir() else []
            if matched:
                found[key] = [self._item(image, mask, layout) for image, mask in matched]
                faults += alone
            elif layout.split != "test":
                without.append((key, images, masks, "masks"))
                without.append((key, masks, images, "images"))
        used = {folder for items in found.values() for folder in (items[0].image.parent, items[0].label.parent)}
        for key, folder, partner, what in without:
            if key not in found and folder not in used and folder.is_dir() and image_files(folder):
                used |= {folder, partner}
                faults.append(Fault("no partner", str(folder), f"holds {len(image_files(folder))} files, but {partner} "
                                    + (f"has no {what} of their names" if partner.is_dir() else "does not exist"),
                                    f"add their {what}, or remove them"))
        return [item for items in found.values() for item in items], faults

    def _item(self, image: Path, mask: Path, layout: Layout) -> Item:
        match = re.match(self.group, image.stem) if self.group else None
        return Item(image, mask, layout.split, match.group() if match else f"{layout.source}/{image.stem}", layout.source)

    def label(self, item: Item) -> np.ndarray:
        """Return the item's codes, uint8 (H, W), 255 = unlabelled. Raises `DataError` for codes or colours not known."""
        return self.decode(item.label, item.source)

    def decode(self, path: Path | str, source: str = "") -> np.ndarray:
        """Read a mask file of this task as codes, uint8 (H, W)."""
        import numpy as np

        from .. import masks
        if self.masks == "colours":
            return masks.colours_to_codes(masks.read_image(path), self.palette, path)
        if self.masks == "threshold":
            grey = masks.read_image(path)[..., 0]
            if 0 < grey.max() <= len(self.classes):
                raise DataError(f"{path}: holds codes 0 to {grey.max()}, but greys above 127 are {self.classes[1]}; write 255 instead of 1")
            return (grey > 127).astype(np.uint8)
        codes = masks.read_codes(path)
        if source in self.codes:
            unlabelled = (codes == self.unlabelled[source]) | (codes == masks.IGNORE)
            known = masks.require_codes(np.where(unlabelled, 0, codes), self.code_counts[source], path)
            codes = np.where(unlabelled, codes, known)
            table = {**self.codes[source], self.unlabelled[source]: masks.IGNORE, masks.IGNORE: masks.IGNORE}
            return masks.remap(codes, table, default=0)
        return masks.require_codes(codes, len(self.classes), path)

    @property
    def suffix(self) -> str:
        """The suffix of the files that predict writes."""
        return ".jpg" if self.output == "overlay" else ".png"

    def render(self, prediction: Prediction) -> np.ndarray:
        """Return what predict writes for one image: uint8 codes (H, W), colours or overlay (H, W, 3)."""
        from ..masks import codes_to_colours
        if self.output == "overlay":
            return self.overlay(prediction.image, prediction.codes)
        return codes_to_colours(prediction.codes, self.palette) if self.output == "colours" else prediction.codes

    def overlay(self, image: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return `image`, uint8 (H, W, 3), under semi-transparent class colours; the background stays clear."""
        from ..masks import overlay
        return overlay(image, codes, self.palette, hide=self.background)

    def sample_mask(self, codes: np.ndarray, source: str) -> tuple[np.ndarray, str]:
        """Return a synthetic mask as this task's data keeps it, and its suffix."""
        import numpy as np

        from ..masks import IGNORE, codes_to_colours, remap
        if self.masks == "colours":
            return codes_to_colours(codes, self.palette), ".png"
        if self.masks == "threshold":
            return codes * np.uint8(255), ".jpg"
        if source in self.codes:
            back = {ours: theirs for theirs, ours in reversed(self.codes[source].items()) if ours}
            other = next(c for c in range(1, 255) if c not in self.codes[source] and c != self.unlabelled[source])
            return remap(codes, {**back, IGNORE: self.unlabelled[source]}, default=other), ".png"
        return codes, ".png"

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        import numpy as np

        from ..masks import save_image
        draw = self.draw or self._draw_blobs
        layout = next((lay for lay in self.layouts if lay.split == split), None)
        sets = 10 * list(self.sample_splits).index(split)  # no set is in two splits
        for number in numbers:
            image, codes = draw(np.random.default_rng([seed, number]))
            name = self.sample_name.format(number, set=sets + number % 10, frame=number // 10)
            if layout is None:  # a test part: images only
                save_image(folder / str(split) / f"{name}.jpg", image)
                continue
            mask, suffix = self.sample_mask(codes, layout.source)
            save_image(folder / layout.images / f"{name}.jpg", image)
            save_image(folder / layout.masks / f"{name}{suffix}", mask)

    def _draw_blobs(self, rng: np.random.Generator) -> Drawing:
        """Draw one ellipse a class, each in its palette's colour: for tasks without a drawing of their own."""
        import numpy as np

        from ..drawing import ellipse, grain
        from ..masks import codes_to_colours
        height, width = 120, 160
        codes = np.full((height, width), self.background or 0, dtype=np.uint8)
        for code in range(len(self.classes)):
            if code != self.background:
                centre = rng.uniform(0.25, 0.75, 2) * (width, height)
                codes[ellipse((height, width), centre, rng.uniform(18, 34, 2), rng.uniform(0, np.pi))] = code
        image = codes_to_colours(codes, self.palette) * 0.6 + rng.uniform(30, 70)
        return grain(image, rng, 8), codes

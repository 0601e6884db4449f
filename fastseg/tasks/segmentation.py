"""Tasks that give each pixel a class: pairs of image and mask files, and what mask pixels mean."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.class_masks import shown
from ..data.issues import Fault
from ..data.pairing import images_below
from ..data.slices import is_nifti, stem_of
from ..errors import DataError, TaskError
from ..formats.recognise import advice
from ..types import IGNORE, Drawing, Item, Painted
from ..utils.io import name_below
from .base import Task, no_sample
from .corrected import with_corrected_masks
from .layouts import (
    MANIFEST,
    PARQUET,
    Layout,
    MaskValue,
    check_layout,
    class_files,
    combined_masks,
    listed_images,
    mask_files,
)

if TYPE_CHECKING:
    import numpy as np
    from fastai.data.block import TransformBlock

    from ..data.decoding import Decoded
    from ..types import Colour

# Methods that need pixels import numpy themselves, so that listing tasks and files is fast.

SETS = 10  # groups in each split of a synthetic sample
NAMED_LAYOUTS = 3  # that messages name
Key = tuple["str | None", str]  # of a layout: split and source


def _mask_file(item: Item) -> Path:
    if isinstance(item.label, int):
        raise TaskError(f"{item.image}: its label is a class index, not a mask file", "not-a-mask")
    return Path(item.label)


def _is_code(value: object) -> bool:
    return type(value) is int and 0 <= value <= 65535


def _is_colour(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(type(level) is int and 0 <= level <= 255 for level in value)
    )


@dataclass(frozen=True, kw_only=True)
class SegmentationTask(Task):
    """Images with masks of the same stem.

    `masks` says what mask pixels are: class codes, palette colours or greys. `codes` maps mask
    values to class indices: codes from 0 to 65535, or colours (R, G, B) in addition to the
    palette's; without it, a code is the class's index. `ignore` lists the values of unlabelled
    pixels, which count neither in the loss nor in the metrics; code 255 is one of them unless
    `codes` has it. Raises `TaskError` for declarations that contradict each other.
    """

    palette: tuple[Colour, ...]
    layouts: tuple[Layout, ...]
    background: int | None = 0  # left out of foreground means
    masks: str = "codes"  # or "colours" (of `palette`), or "threshold" (grey above 127 is class 1)
    codes: Mapping[MaskValue, int] = field(default_factory=dict)  # mask value -> class index
    ignore: tuple[MaskValue, ...] = ()  # mask values of unlabelled pixels, in addition to code 255
    group: str | None = None  # regular expression; what it matches in the stem is the group
    output: str = "codes"  # what predict writes: "codes", "colours" or "overlay"

    kind = "segment"
    purpose = "gives each pixel a class"
    has_masks = True
    unit = "pixels"
    main_figure = "Dice"
    imbalance_limit = 100.0  # of pixels; a convention

    @property
    def grouped(self) -> bool:
        return self.group is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.palette) != len(self.classes):
            raise TaskError(
                f"task {self.name}: {len(self.classes)} classes "
                f"but {len(self.palette)} palette colours",
                "task-palette",
            )
        if self.background is not None and self.background not in range(len(self.classes)):
            raise TaskError(
                f"task {self.name}: background is {self.background!r}; "
                f"classes are 0 to {len(self.classes) - 1}",
                "task-background",
            )
        try:
            re.compile(self.group or "")
        except (re.error, TypeError) as error:
            raise TaskError(
                f"task {self.name}: group {self.group!r} is not a regular expression ({error}); "
                "correct it",
                "task-group",
            ) from None
        for layout in self.layouts:
            check_layout(layout, f"task {self.name}")
        declared: dict[str, tuple[object, object]] = {}
        for layout in self.layouts:
            own = layout.codes, layout.ignore
            if declared.setdefault(layout.source, own) != own:
                named = f"of source '{layout.source}'" if layout.source else "without a source"
                raise TaskError(
                    f"task {self.name}: layouts {named} declare different codes or ignore; "
                    "give them one declaration, or sources of their own",
                    "task-codes",
                )
        for source in declared:
            self._check_declaration(source)
        unreachable = set(range(len(self.classes))) - {
            index for source in declared for index in self.meaning(source).values()
        }
        has_codes = self.masks == "codes" and not any(x.has_drawn_masks for x in self.layouts)
        if unreachable and self.layouts and has_codes:
            raise TaskError(
                f"task {self.name}: no mask code stands for class "
                f"{self.classes[min(unreachable)]}; add it to codes",
                "task-codes",
            )

    def _check_declaration(self, source: str) -> None:
        """Check what a source declares.

        Raises `TaskError` for values that are not mask values or not classes, or that are both a
        class and ignored.
        """

        def wrong(what: str, remedy: str) -> TaskError:
            return TaskError(
                f"task {self.name}{f' (source {source})' if source else ''}: {what}; {remedy}",
                "task-codes",
            )

        codes, ignore = self._codes_and_ignored(source)
        if not isinstance(codes, Mapping):
            raise wrong(f"codes is {codes!r}, not a mapping", "write codes={CODE: CLASS, ...}")
        if not isinstance(ignore, (tuple, list)):
            raise wrong(f"ignore is {ignore!r}, not a tuple", "write ignore=(CODE,), with a comma")
        if self.masks == "threshold" and len(self.classes) != 2:
            raise wrong(
                f"masks above a threshold have two classes, and the task has {len(self.classes)}",
                "set masks='codes' or 'colours'",
            )
        if self.masks not in ("codes", "colours", "threshold"):
            raise wrong(f"masks is '{self.masks}'", "it is codes, colours or threshold")
        if self.masks == "threshold" and (codes or ignore):
            raise wrong(
                "masks above a threshold have no codes",
                "leave codes and ignore out, or set masks='codes'",
            )
        if self.masks == "colours":
            valid, form = _is_colour, "a colour (R, G, B) from 0 to 255"
        else:
            valid, form = _is_code, "a code from 0 to 65535"
        formats = any(layout.format for layout in self.layouts if layout.source == source)
        for value in (*codes, *ignore):
            if not valid(value) and not (formats and isinstance(value, str)):
                raise wrong(f"{value!r} in codes or ignore is not {form}", "correct it")
        for value, index in codes.items():
            if not (type(index) is int and 0 <= index < len(self.classes)):
                raise wrong(
                    f"codes maps {value} to {index!r}", f"classes are 0 to {len(self.classes) - 1}"
                )
        classes = {*codes} or ({*range(len(self.classes))} if self.masks == "codes" else set())
        classes |= {*self.palette} if self.masks == "colours" else set()
        names: set[MaskValue] = {*(value for value in codes if isinstance(value, str))}
        both = sorted((classes | names) & {*ignore}, key=str)
        if both:
            raise wrong(f"{both[0]} is both a class and in ignore", "keep one of them")

    def _codes_and_ignored(
        self, source: str
    ) -> tuple[Mapping[MaskValue, int], tuple[MaskValue, ...]]:
        layout = next((layout for layout in self.layouts if layout.source == source), None)
        codes, ignore = (layout.codes, layout.ignore) if layout else (None, None)
        return (self.codes if codes is None else codes), (self.ignore if ignore is None else ignore)

    def meaning(self, source: str = "") -> dict[MaskValue, int]:
        """Return {mask value: class index, or 255 for unlabelled} of one source.

        For masks in colours, it has only the colours in addition to the palette. Label names of
        other tools are in `label_meaning`.
        """
        codes, ignore = self._codes_and_ignored(source)
        meaning: dict[MaskValue, int] = {
            value: index for value, index in codes.items() if not isinstance(value, str)
        }
        if not meaning and self.masks != "colours":
            meaning = {index: index for index in range(len(self.classes))}
        meaning.update((value, IGNORE) for value in ignore if not isinstance(value, str))
        if self.masks == "codes":
            meaning.setdefault(IGNORE, IGNORE)
        return meaning

    def label_meaning(self, source: str = "") -> tuple[dict[str, int], tuple[str, ...]]:
        """Return {label name of another tool: class index}, and the label names to ignore.

        The classes' own names are among the former, unless `ignore` has them.
        """
        codes, ignore = self._codes_and_ignored(source)
        ignored = tuple(value for value in ignore if isinstance(value, str))
        names = {name: i for i, name in enumerate(self.classes) if name not in ignored}
        return names | {k: i for k, i in codes.items() if isinstance(k, str)}, ignored

    def expected(self) -> str:
        named = list(dict.fromkeys(map(str, self.layouts)))
        text = "images and masks of equal names in "
        if len(named) <= NAMED_LAYOUTS + 1:
            return text + ", or ".join(named)
        more = f"{len(named) - NAMED_LAYOUTS} more layouts (data/{self.name}/README.md)"
        return text + ", or ".join(named[:NAMED_LAYOUTS]) + f", or one of {more}"

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        root = self.folder(data)
        faults: list[Fault] = []
        found: dict[Key, list[Item]] = {}
        missing: list[Layout] = []
        for layout in self.layouts:  # the first existing layout is used for its split and source
            if (layout.split, layout.source) in found:
                continue
            items = self._items_of_layout(layout, root, faults)
            if items:
                found[layout.split, layout.source] = items
            elif layout.split != "test":
                missing.append(layout)
        missing = [layout for layout in missing if (layout.split, layout.source) not in found]
        items = [item for items in found.values() for item in items]
        used = {str(item.image) for item in items}
        faults += self._without_partners(root, missing, found)
        items = self._completed(items, faults)
        # an image that one label file does not name may be in another one
        faults = [f for f in faults if f.kind != "unlabelled image" or f.file not in used]
        return with_corrected_masks(self, root, items, faults)

    def _completed(self, items: list[Item], faults: list[Fault]) -> list[Item]:
        """Return the items that have a file for each channel, volumes as one item a slice.

        What is missing or does not fit goes to `faults`.
        """
        if self.channel_files:
            from ..data.channels import with_all_files

            items = with_all_files(items, self.reading, faults)
        if any(is_nifti(item.image) or is_nifti(item.shown_label) for item in items):
            from ..data.medical import as_slices

            items = as_slices(items, faults)
        return items

    def _items_of_layout(self, layout: Layout, root: Path, faults: list[Fault]) -> list[Item]:
        """Return the items of a layout; if there are any, images and masks without a partner go to
        `faults`.
        """
        if layout.manifest:
            return self._items_of_manifest(layout, root, faults)
        if layout.format == PARQUET:
            return self._items_of_parquet(layout, root, faults)
        if layout.format:
            return self._items_of_format(layout, root, faults)
        if self.channel_files and not layout.image_end:  # the first channel's file names an image
            layout = replace(layout, image_end=self.channel_files[0])
        if layout.class_masks:
            return self._items_of_class_masks(layout, root, faults)
        alone: list[Fault] = []
        matched = mask_files(layout, root, alone)
        if not matched and not layout.list_file:
            return []
        lone = next((i for i, fault in enumerate(alone) if fault.kind == "no partner"), None)
        if lone is not None and layout.is_plain and (foreign := advice(root)):
            alone[lone] = replace(alone[lone], detail=f"{alone[lone].detail}; {foreign}")
        faults += alone
        return [self.item_of(image, mask, layout, root) for image, mask in matched]

    def _items_of_format(self, layout: Layout, root: Path, faults: list[Fault]) -> list[Item]:
        """Return the items of a layout whose labels are files of another tool.

        The split that the layout declares comes before the one in the label file.
        """
        from ..formats import cache
        from ..formats import get as get_format

        labels = root / layout.labels
        if not labels.exists():
            return []
        meaning, ignored = self.label_meaning(layout.source)
        meaning |= dict.fromkeys(ignored, IGNORE)
        images = root / layout.images
        drawn, found = cache.masks_of(
            get_format(layout.format), root, labels, images, meaning, self.background
        )
        if self.channel_files:
            other = self.channel_files[1:]
            found = [f for f in found if not Path(f.file).stem.endswith(other)]
        listed = listed_images(layout, root, faults)
        if listed is not None:
            found = [fault for fault in found if fault.kind != "unlabelled image"]
            drawn = [one for one in drawn if one.image in {*listed}]
        faults += found
        return [
            replace(
                self.item_of(one.image, one.mask, layout, root, one.origin),
                split=layout.split or one.split,
            )
            for one in drawn
        ]

    def _items_of_manifest(self, layout: Layout, root: Path, faults: list[Fault]) -> list[Item]:
        """Return the items of a layout whose images and masks are paths in a table."""
        from ..formats import manifest

        table = root / layout.manifest
        if not table.is_file():
            return []
        items = []
        for row in manifest.read(table, MANIFEST, faults):
            mask = manifest.file_in(table, row.label, row.place, faults)
            if mask is None:
                continue
            match = re.match(self.group, stem_of(row.image)) if self.group else None
            # equal texts are one object: there may be hundreds of thousands
            group = sys.intern(match.group()) if match else row.name
            items.append(
                Item(row.image, mask, layout.split or row.split, group, source=layout.source)
            )
        return items

    def _items_of_parquet(self, layout: Layout, root: Path, faults: list[Fault]) -> list[Item]:
        """Return the items of a layout whose images and masks are rows of parquet files."""
        from ..formats.parquet import extract

        if not (root / layout.labels).exists():
            return []
        rows = extract(root / layout.labels, faults)
        faults += [
            Fault("no partner", row.place, "has no mask", "add a column mask of images")
            for row in rows[:1]
            if row.mask is None
        ]
        return [
            replace(
                self.item_of(row.image, row.mask, layout, root, ""), split=layout.split or row.split
            )
            for row in rows
            if row.mask is not None
        ]

    def _items_of_class_masks(self, layout: Layout, root: Path, faults: list[Fault]) -> list[Item]:
        """Return the items of a layout with one mask a class; see `data.class_masks.combined`."""
        found = class_files(layout, root, self.classes, faults)
        masks = combined_masks([files for _, files in found], self.background, faults)
        return [
            self.item_of(image, mask, layout, root, shown(files))
            for (image, files), mask in zip(found, masks)
            if mask is not None
        ]

    def _without_partners(
        self, root: Path, missing: Sequence[Layout], found: Mapping[Key, Sequence[Item]]
    ) -> list[Fault]:
        """Return a fault for each folder of images, or of masks, that no layout uses, and for each
        list and label file that does not exist.
        """
        used = {
            folder
            for items in found.values()
            for folder in (items[0].image.parent, _mask_file(items[0]).parent)
        }
        used |= {
            folder
            for layout in self.layouts
            if (layout.split, layout.source) in found and not layout.is_plain
            for folder in layout.folders(root)
        }
        faults = []
        for layout in missing:
            named = layout.list_file, layout.labels, layout.manifest
            needed = next((name for name in named if name), None)
            if needed is not None:
                if not (root / needed).exists() and (found or layout.folders(root)[0].is_dir()):
                    fault = Fault(
                        "label file",
                        str(root / needed),
                        "does not exist",
                        "add it, or correct its name in the task",
                    )
                    faults.append(fault)
                continue
            images, masks = layout.folders(root)
            for folder, partner, what in ((images, masks, "masks"), (masks, images, "images")):
                count = 0 if folder in used else len(images_below(folder, layout.deep))
                if not count:
                    continue
                used |= {folder, partner}
                state = f"has no {what} of their names" if partner.is_dir() else "does not exist"
                foreign = advice(root) if what == "masks" else ""
                faults.append(
                    Fault(
                        "no partner",
                        str(folder),
                        f"holds {count} files, but {partner} {state}"
                        + (f"; {foreign}" if foreign else ""),
                        f"add their {what}, or remove them",
                        count=count,
                        waits=what == "masks",
                    )
                )
        return faults

    def item_of(
        self, image: Path, mask: Path, layout: Layout, root: Path, origin: str = ""
    ) -> Item:
        """Return the item of an image and its mask in a layout below `root`."""
        name = stem_of(image)
        match = re.match(self.group, name) if self.group else None
        if layout.deep or layout.list_file or layout.format:  # several folders may have the stem
            name = Path(name_below(root / layout.images, image)).with_suffix("").as_posix()
        return Item(
            image,
            mask,
            layout.split,
            match.group() if match else f"{layout.source}/{name}",
            layout.source,
            origin,
        )

    def label(self, item: Item) -> np.ndarray:
        """Return the item's codes, uint8 (H, W), 255 = unlabelled.

        Raises `DataError` for unknown values.
        """
        return self.examine_label(item).accepted()

    def decode(self, path: Path | str, source: str = "") -> np.ndarray:
        """Read a mask file as class indices, uint8 (H, W), 255 = unlabelled.

        Raises `DataError` for values without a meaning.
        """
        return self.examine_mask(path, source).accepted()

    def examine_mask(self, path: Path | str, source: str = "") -> Decoded:
        """Read a mask file and return its codes and its faults.

        Raises `DataError` if it cannot be read.
        """
        from ..data.decoding import decode_codes, decode_colours, decode_greys

        if self.masks == "threshold":
            return decode_greys(path, self.classes)
        meaning = self.meaning(source)
        if self.masks == "colours":
            colours = {value: index for value, index in meaning.items() if isinstance(value, tuple)}
            return decode_colours(path, self.classes, self.palette, colours)
        return decode_codes(
            path, {value: index for value, index in meaning.items() if isinstance(value, int)}
        )

    def examine_label(self, item: Item) -> Decoded:
        if item.origin:  # drawn by fastseg, as class indices
            from ..data.decoding import Decoded, decode_codes

            indices = {index: index for index in (*range(len(self.classes)), IGNORE)}
            try:
                return Decoded(decode_codes(_mask_file(item), indices).accepted())
            except DataError as error:
                if item.is_corrected:
                    raise
                from ..formats.cache import forget

                forget(_mask_file(item))
                raise DataError(
                    f"{item.shown_label}: its mask in the user's cache was damaged, and is "
                    "deleted; run the command again, which draws it",
                    error.code,
                ) from None
        return self.examine_mask(_mask_file(item), item.source)

    def label_block(self) -> TransformBlock:
        from fastai.vision.data import MaskBlock

        return MaskBlock(codes=list(self.classes))

    def main_value(self, figures: Mapping[str, Any]) -> Any:
        return figures["mean_foreground"]["dice"]

    def binary_faults(
        self, data: Path | str, values: Iterable[tuple[str, Collection[int]]]
    ) -> dict[str, Fault]:
        """Return {source: fault} of the sources whose masks hold, all together, the codes 0 and 255
        only.

        Sources that declare 255 are left out. `values` has the source and the codes of every mask:
        one mask is not enough, since together with other codes 255 means unlabelled.
        """
        found: dict[str, set[int]] = {}
        masks: Counter[str] = Counter()
        for source, of_mask in values:
            found.setdefault(source, set()).update(of_mask)
            masks[source] += 1
        return {
            source: self._binary_fault(data, masks[source])
            for source, codes in found.items()
            if self.masks == "codes"
            and codes == {0, IGNORE}
            and self.meaning(source)[IGNORE] == IGNORE
        }

    def _binary_fault(self, data: Path | str, masks: int) -> Fault:
        what = "all masks hold 0 and 255 only"
        if len(self.classes) == 2:
            return Fault(
                "0/255 mask",
                str(data),
                f"{what}: they are 0/255 masks, in which 255 is {self.classes[1]}",
                "write code 1 instead of 255 "
                f"({self.check_command(data)} --fix OUT does), "
                "or declare codes={0: 0, 255: 1} in the task",
                count=masks,
            )
        return Fault(
            "0/255 mask",
            str(data),
            f"{what}, but the task has {len(self.classes)} classes, "
            "and nothing says which one 255 is",
            "label the classes by their codes, or define a task of two classes",
            count=masks,
        )

    @property
    def suffix(self) -> str:
        """The suffix of the files that predict writes."""
        return ".jpg" if self.output == "overlay" else ".png"

    def render(self, prediction: Painted) -> np.ndarray:
        """Return what predict writes for one image, uint8: codes (H, W), or colours or overlay (H,
        W, 3).
        """
        from ..data.images import codes_to_colours

        if self.output == "overlay":
            return self.overlay(prediction.image, prediction.codes)
        if self.output == "colours":
            return codes_to_colours(prediction.codes, self.palette)
        return prediction.codes

    def overlay(self, image: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return `image`, uint8 (H, W, 3), under semi-transparent class colours, but for the
        background.
        """
        from ..data.images import overlay

        return overlay(image, codes, self.palette, hide=self.background)

    def sample_mask(self, codes: np.ndarray, source: str) -> tuple[np.ndarray, str]:
        """Return a synthetic mask in the format of this task's data, and its suffix."""
        import numpy as np

        from ..data.images import codes_to_colours

        if self.masks == "colours":
            return codes_to_colours(codes, self.palette), ".png"
        if self.masks == "threshold":
            return codes * np.uint8(255), ".jpg"
        lookup = np.zeros(256, dtype=np.uint16)
        # Reversed, so that the first of several values of a class is written.
        for value, index in reversed(self.meaning(source).items()):
            lookup[index] = value
        values = lookup[codes]
        return values.astype(np.uint8) if values.max() < 256 else values, ".png"

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        import numpy as np

        from ..data.images import save_image

        draw = self.draw or self._draw_blobs
        layout = next((lay for lay in self.layouts if lay.split == split), None)
        sets = SETS * list(self.sample_splits).index(split)  # no set is in two splits
        if layout and (layout.list_file or layout.manifest or layout.has_drawn_masks):
            raise no_sample(
                self, f"its layout {layout} has more than images and masks; use a plain one"
            )
        for number in numbers:
            image, drawn = draw(np.random.default_rng([seed, number]))
            name = self.sample_name.format(number, set=sets + number % SETS, frame=number // SETS)
            if layout is None:  # a test part: images only
                save_image(folder / str(split) / f"{name}.jpg", image)
                continue
            mask, suffix = self.sample_mask(np.asarray(drawn), layout.source)
            save_image(folder / layout.images / f"{name}{layout.image_end}.jpg", image)
            save_image(folder / layout.masks / f"{name}{layout.mask_end}{suffix}", mask)

    def _draw_blobs(self, rng: np.random.Generator) -> Drawing:
        """Draw one ellipse for each class, in its palette's colour, for tasks without `draw`."""
        import numpy as np

        from ..data.images import codes_to_colours
        from ..data.synthetic import ellipse, grain

        height, width = 120, 160
        codes = np.full((height, width), self.background or 0, dtype=np.uint8)
        for code in range(len(self.classes)):
            if code != self.background:
                centre = rng.uniform(0.25, 0.75, 2) * (width, height)
                radii, angle = rng.uniform(18, 34, 2), rng.uniform(0, np.pi)
                codes[ellipse((height, width), centre, radii, angle)] = code
        image = codes_to_colours(codes, self.palette) * 0.6 + rng.uniform(30, 70)
        return grain(image, rng, 8), codes

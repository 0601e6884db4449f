"""Tasks that give each image a class: by one table for each folder, or by a folder a class."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..data import tables
from ..data.issues import Fault
from ..data.listing import Finder
from ..data.pairing import by_stem, image_files, images_below, key_below
from ..data.reading import first_files, stem_of
from ..errors import TaskError, brief
from ..types import Item
from ..utils.io import name_below
from .base import Task, no_sample
from .corrected import with_corrected_classes

if TYPE_CHECKING:
    from fastai.data.block import TransformBlock

LABELS = ("table", "folders", "parquet", "manifest")
MANIFEST = {"table": "manifest.csv", "columns": ("image", "class")}  # defaults of a task.toml
BY_NAME = ("folders", "manifest")  # predictions have paths and class names
IMAGE_AS, LABEL_AS = ("", "stem", "name", "path"), ("", "index", "name")


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Images listed in one table for each folder, or in one folder for each class.

    The first of `columns` has the file's stem, name or path below the folder, the second one the
    class index or name. Tables are separated by tabs, or, unless their suffix is .tsv, by what
    the header has: tabs, commas or semicolons. Raises `TaskError` for declarations that contradict
    each other.
    """

    # split -> folder names, the first that exists is used; None: drawn by seed
    folders: Mapping[str | None, tuple[str, ...]]
    # Or "folders": a subfolder a class, with the class's name; or "parquet": files that hold the
    # images and their classes; or "manifest": a table of many paths, and perhaps a column "split"
    labels: str = "table"
    table: str = "labels.tsv"
    columns: tuple[str, str] = ("Name", "Label")
    group: str | None = None  # regular expression; what it matches in the stem is the group
    # What `predict` writes into the two columns. "": as usual, the stem and the index, or, where
    # labels are folders, the path and the name
    image_as: str = ""  # "stem", "name" or "path"
    label_as: str = ""  # "index" or "name"

    kind = "classify"
    purpose = "classifies whole images"
    main_figure = "accuracy"
    imbalance_limit = 10.0  # of images; a convention

    @property
    def grouped(self) -> bool:
        return True  # without a pattern, an image is a subject

    def __post_init__(self) -> None:
        super().__post_init__()

        def wrong(what: str, remedy: str, code: str = "task-table") -> TaskError:
            return TaskError(f"task {self.name}: {what}; {remedy}", code)

        one_of = f"{', '.join(LABELS[:-1])} or {LABELS[-1]}"
        if self.labels not in LABELS:
            raise wrong(f"labels is {self.labels!r}", f"it is {one_of}")
        if len(self.columns) != 2 or self.columns[0] == self.columns[1]:
            raise wrong(f"columns is {self.columns!r}", "name the image's column, then the label's")
        path = PurePosixPath(self.table.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise wrong(f"table is {brief(self.table)}", "give a file below the folder, without ..")
        if self.image_as not in IMAGE_AS or self.label_as not in LABEL_AS:
            raise wrong(
                f"image_as is {self.image_as!r} and label_as {self.label_as!r}",
                "image_as is stem, name or path, and label_as is index or name",
            )
        try:
            re.compile(self.group or "")
        except (re.error, TypeError) as error:
            what = f"group {self.group!r} is not a regular expression ({error})"
            raise wrong(what, "correct it", "task-group") from None

    def expected(self) -> str:
        names = ", ".join(f"{folders[0] or '.'}/" for folders in self.folders.values())
        if self.labels == "folders":
            return (
                f"folders {names} with a folder for each class ({brief(', '.join(self.classes))})"
            )
        if self.labels == "parquet":
            return f"folders {names} with parquet files"
        if self.labels == "manifest":
            return f"{self.table} in {names} (columns {', '.join(self.columns)})"
        return f"folders {names} with images and {self.table} (columns {', '.join(self.columns)})"

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        root = self.folder(data)
        items: list[Item] = []
        faults: list[Fault] = []
        for split, folder in self.data_folders(root):
            if self.labels == "parquet":
                items += self._parquet_items(folder, split, faults)
            elif self.labels == "manifest":
                items += self._manifest_items(folder, split, faults)
            elif self.labels == "folders":
                items += self._folder_items(root, folder, split, faults)
            else:
                items += self._table_items(folder, split, faults)
        return with_corrected_classes(self, root, items, faults)

    def data_folders(self, root: Path) -> list[tuple[str | None, Path]]:
        """Return (split, folder) of the declared folders that exist below the data folder."""
        first = (
            (split, next((root / name for name in names if (root / name).is_dir()), None))
            for split, names in self.folders.items()
        )
        return [(split, folder) for split, folder in first if folder is not None]

    def _folder_items(
        self, root: Path, folder: Path, split: str | None, faults: list[Fault]
    ) -> list[Item]:
        """Return the items of a folder whose subfolders are the classes."""
        splits = {other for _, other in self.data_folders(root)}
        items, direct = [], len(first_files(image_files(folder), self.channel_files))
        for below in sorted(path for path in folder.iterdir() if path.is_dir()):
            if below.name.startswith(".") or below in splits:
                continue
            files = first_files(images_below(below), self.channel_files)
            if below.name in self.classes:
                label = self.classes.index(below.name)
                items += [self.item_of(file, label, split, root) for file in files]
            elif files:
                faults.append(self._unknown_class(below, below.name, len(files)))
        if direct and items:
            faults.append(_unlabelled(folder, direct, "are in no folder of a class"))
        return items

    def _parquet_items(self, folder: Path, split: str | None, faults: list[Fault]) -> list[Item]:
        """Return the items of parquet files; their names say the split if the folder does not."""
        from ..formats.parquet import extract

        items = []
        for row in extract(folder, faults):
            label = self.classes.index(row.label) if row.label in self.classes else row.label
            if type(label) is int and 0 <= label < len(self.classes):
                items.append(self.item_of(row.image, label, split or row.split, row.image.parent))
            elif label is None:
                remedy = "add a column label"
                faults.append(Fault("table", row.place, "has no class", remedy))
            else:
                faults.append(self._unknown_class(Path(row.place), str(label)))
        return items

    def _manifest_items(self, folder: Path, split: str | None, faults: list[Fault]) -> list[Item]:
        """Return the items of a table of paths, read as a stream; nothing else is looked for."""
        from ..formats import manifest

        table = folder / self.table
        if not table.is_file():
            remedy = f"write one with the columns {', '.join(self.columns)}"
            faults.append(Fault("table", str(table), "no such table", remedy))
            return []
        valid = self.label_texts()
        items = []
        for row in manifest.read(table, self.columns, faults):
            if row.label not in valid:
                faults.append(self._unknown_class(table, row.label, place=row.place))
                continue
            match = re.match(self.group, row.image.stem) if self.group else None
            # equal texts are one object: there may be hundreds of thousands
            group = sys.intern(match.group()) if match else row.name
            items.append(Item(row.image, valid[row.label], split or row.split, group))
        return items

    def label_texts(self) -> dict[str, int]:
        """Return {text in a table: class index}: names, and indices unless names are numbers."""
        valid = {str(index): index for index in range(len(self.classes))}
        if valid.keys() & {*self.classes}:  # where names are numbers, only names are labels
            valid = {}
        return valid | {name: index for index, name in enumerate(self.classes)}

    def item_of(self, image: Path, label: int, split: str | None, folder: Path) -> Item:
        """Return an item; its group is its path below `folder`, unless the pattern finds one."""
        match = re.match(self.group, image.stem) if self.group else None
        return Item(
            image, label, split, match.group() if match else key_below(folder, image) or image.stem
        )

    def _unknown_class(self, path: Path, name: str, count: int = 1, place: str = "") -> Fault:
        near = difflib.get_close_matches(name, self.classes, 1)
        return Fault(
            "unknown class",
            str(path),
            f"{brief(name)} is no class of the task"
            + (f"; the nearest one is {near[0]}" if near else ""),
            f"correct it, or add the class (classes are {brief(', '.join(self.classes))})",
            place,
            count,
        )

    def _table_items(self, folder: Path, split: str | None, faults: list[Fault]) -> list[Item]:
        table = folder / self.table
        twice: list[Fault] = []
        told: list[Fault] = []
        ends = self.channel_files
        direct = by_stem(first_files(image_files(folder), ends), twice)
        direct = {stem_of(file, ends): file for file in direct.values()}
        lines = self.read_table(table, told)
        finder = Finder(folder, folder, ends[0] if ends else "", deep=True)
        images = {name: direct.get(name) or finder.find(name) for name in lines or {}}
        used = {image for image in images.values() if image is not None}
        # Files of one stem are told apart by tables with complete file names.
        faults += [fault for fault in twice if Path(fault.file) not in used]
        faults += told
        faults += self._unlisted(folder, table, direct, used, lines is not None)
        valid = self.label_texts()
        choices = "labels are " + " or ".join(f"{i} ({c})" for i, c in enumerate(self.classes))
        items, first = [], dict[Path, str]()
        for name, (label, number) in sorted((lines or {}).items()):
            image = images[name]
            if image is None:
                detail = f"{brief(name)} has no image in {folder}"
                remedy = "add the image, or remove the line"
                count = finder.namesakes(name)
                if count > 1:
                    detail = f"{brief(name)} may be one of {count} images in {folder}"
                    remedy = "write the image's path below this folder"
                faults.append(Fault("table", str(table), detail, remedy, number))
            elif label not in valid and label and not label.lstrip("-").isdigit():
                faults.append(self._unknown_class(table, label, place=number))
            elif label not in valid:
                detail = f"{brief(name)} has " + (f"label '{label}'" if label else "no label")
                faults.append(Fault("table", str(table), detail, choices, number))
            elif image in first:
                detail = f"{brief(name)} is the same image as {brief(first[image])}"
                faults.append(Fault("table", str(table), detail, "keep one line", number))
            else:
                first[image] = name
                items.append(self.item_of(image, valid[label], split, folder))
        return items

    def table_names(self, folder: Path) -> dict[Path, str]:
        """Return the texts by which the table of a folder names its images, by file."""
        ends = self.channel_files
        direct = {stem_of(file, ends): file for file in first_files(image_files(folder), ends)}
        finder = Finder(folder, folder, ends[0] if ends else "", deep=True)
        found: dict[Path, str] = {}
        for name in self.read_table(folder / self.table, []) or {}:
            image = direct.get(name) or finder.find(name)
            if image is not None:
                found.setdefault(image, name)
        return found

    def _unlisted(
        self, folder: Path, table: Path, direct: Mapping[str, Path], used: set[Path], read: bool
    ) -> list[Fault]:
        """Return the faults of images that no line of a table names.

        Beside the table, each stops a fit. Where the table names images of subfolders, there may
        be others, to be predicted: they are counted.
        """
        lone = sorted(image for image in direct.values() if image not in used)
        if not read or not any(image.parent != folder for image in used):
            remedy = "add a line, or remove the image"
            return [
                Fault("no partner", str(image), f"not listed in {table}", remedy, waits=True)
                for image in (lone if read else [])
            ]
        others: dict[Path, int] = {}
        for image in first_files(images_below(folder), self.channel_files):
            if image not in used:
                others[image.parent] = others.get(image.parent, 0) + 1
        return [_unlabelled(place, n, f"are not in {table}") for place, n in others.items()]

    def read_table(self, table: Path, faults: list[Fault]) -> dict[str, tuple[str, str]] | None:
        """Return {name: (label text, "line n")} in the table's order, or None if it cannot be read.

        What cannot be used goes to `faults`.
        """
        return tables.read_table(table, self.columns, faults)

    def label(self, item: Item) -> int:
        """Return the item's class index."""
        if not isinstance(item.label, int):
            raise TaskError(f"{item.image}: its label is a file, not a class index", "not-an-index")
        return item.label

    def label_block(self) -> TransformBlock:
        from fastai.data.block import CategoryBlock

        return CategoryBlock(vocab=list(self.classes), sort=False)

    def main_value(self, figures: Mapping[str, Any]) -> Any:
        return figures["accuracy"]

    def names_of(self, files: Sequence[Path], base: Path | None = None) -> dict[Path, str]:
        """Return the texts that name images in a table, by file.

        Paths are relative to `base`, by default the folder that all files are in.
        """
        how = self.image_as or ("path" if self.labels in BY_NAME else "stem")
        if how == "stem":
            return {file: file.stem for file in files}
        if how == "name":
            return {file: file.name for file in files}
        base = base or Path(os.path.commonpath([file.absolute().parent for file in files]))
        return {file: name_below(base, file) for file in files}

    def label_text(self, index: int) -> str:
        """Return how a table has a label: the class's index or its name."""
        how = self.label_as or ("name" if self.labels in BY_NAME else "index")
        return self.classes[index] if how == "name" else str(index)

    def write_table(self, path: Path, rows: Mapping[str, int]) -> Path:
        """Write {name: class index} with this task's columns atomically."""
        labels = ((name, self.label_text(index)) for name, index in rows.items())
        return tables.write_table(path, self.columns, labels)

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        if self.draw is None or split not in self.folders:
            raise no_sample(self, "give it a draw function, and sample_splits of its folders")
        import numpy as np

        from ..data.images import save_image

        target = folder / self.folders[split][0]
        rows: dict[str, int] = {}
        for number in numbers:
            image, label = self.draw(
                np.random.default_rng([seed, number]), number % len(self.classes)
            )
            name = f"{self.sample_name.format(number)}.png"
            if self.labels == "folders":
                save_image(target / self.classes[int(label)] / name, image)
                continue
            save_image(target / name, image)
            rows[self.names_of([target / name], target)[target / name]] = int(label)
        if self.labels == "table":
            self.write_table(target / self.table, rows)


def _unlabelled(folder: Path, count: int, why: str) -> Fault:
    detail = f"{count} images {why}"
    remedy = "they are left out; label them if they belong"
    return Fault("unlabelled image", str(folder), detail, remedy, count=count)

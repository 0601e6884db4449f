"""Tasks that give each image a class: folders of images with one table each."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.issues import Fault
from ..data.pairing import by_stem, image_files
from ..errors import TaskError, brief
from ..types import Item
from ..utils.io import atomic_file
from .base import Task

if TYPE_CHECKING:
    from fastai.data.block import TransformBlock


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Images listed in one table for each folder, or in one folder for each class.

    The first of `columns` has the file's stem, name or path below the folder, the second one the
    class index or name.
    """

    # split -> folder names, the first that exists is used; None: drawn by seed
    folders: Mapping[str | None, tuple[str, ...]]
    labels: str = "table"  # or "folders": a subfolder a class, with the class's name
    table: str = "labels.tsv"
    columns: tuple[str, str] = ("Name", "Label")

    kind = "classify"
    purpose = "classifies whole images"
    main_figure = "accuracy"
    imbalance_limit = 10.0  # of images; a convention

    @property
    def grouped(self) -> bool:
        return True  # an image is a subject

    def expected(self) -> str:
        names = ", ".join(f"{folders[0]}/" for folders in self.folders.values())
        return f"folders {names} with images and {self.table} (columns {', '.join(self.columns)})"

    def listed(self, data: Path | str) -> tuple[list[Item], list[Fault]]:
        root = self.folder(data)
        items: list[Item] = []
        faults: list[Fault] = []
        for split, folders in self.folders.items():
            folder = next((root / name for name in folders if (root / name).is_dir()), None)
            if folder is not None:
                items += self._table_items(folder, split, faults)
        return items, faults

    def _table_items(self, folder: Path, split: str | None, faults: list[Fault]) -> list[Item]:
        table = folder / self.table
        images = by_stem(image_files(folder), faults)
        lines = self.read_table(table, faults)
        faults += [
            Fault(
                "no partner",
                str(images[name]),
                f"not listed in {table}",
                "add a line, or remove the image",
            )
            for name in sorted(images.keys() - (images.keys() if lines is None else lines.keys()))
        ]
        valid = {str(index): index for index in range(len(self.classes))}
        choices = "labels are " + " or ".join(f"{i} ({c})" for i, c in enumerate(self.classes))
        items = []
        for name, (label, number) in sorted((lines or {}).items()):
            if name not in images:
                faults.append(
                    Fault(
                        "table",
                        str(table),
                        f"{name} has no image in {folder}",
                        "add the image, or remove the line",
                        number,
                    )
                )
            elif label not in valid:
                faults.append(
                    Fault(
                        "table",
                        str(table),
                        f"{name} has " + (f"label '{label}'" if label else "no label"),
                        choices,
                        number,
                    )
                )
            else:
                items.append(Item(images[name], valid[label], split, name))
        return items

    def read_table(self, table: Path, faults: list[Fault]) -> dict[str, tuple[str, str]] | None:
        """Return {name: (label text, "line n")} in the table's order, or None if it cannot be read.

        What cannot be used goes to `faults`.
        """

        def wrong(detail: str, remedy: str, place: str = "") -> None:
            faults.append(Fault("table", str(table), detail, remedy, place))

        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                header, *lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)) or [
                    []
                ]
        except FileNotFoundError:
            wrong("no such table", f"write one with the columns {', '.join(self.columns)}")
            return None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            wrong(f"cannot be read as tab-separated text ({brief(error)})", "save it as UTF-8")
            return None
        missing = [column for column in self.columns if column not in header]
        if missing:
            wrong(
                f"column {' and '.join(missing)} missing",
                f"it needs {' and '.join(self.columns)}, separated by tabs",
                "line 1",
            )
            return None
        name_at, label_at = map(header.index, self.columns)
        found: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(lines, 2):
            name, label = (line[at].strip() if at < len(line) else "" for at in (name_at, label_at))
            if not any(cell.strip() for cell in line):
                continue
            if not name:
                wrong(f"has no {self.columns[0]}", "add it, or remove the line", f"line {number}")
            elif name in found:
                wrong(f"{name} is listed twice", "keep one line", f"line {number}")
            else:
                found[name] = label, f"line {number}"
        return found

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

    def write_table(self, path: Path, rows: Mapping[str, int | str]) -> Path:
        """Write {name: label} with this task's columns atomically."""
        with atomic_file(path) as temporary:
            lines = ["\t".join(self.columns)] + [f"{name}\t{label}" for name, label in rows.items()]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        if self.draw is None or split is None:
            raise TaskError(
                f"task {self.name} has no synthetic sample: "
                "give it a draw function, and sample_splits of its folders",
                "no-sample",
            )
        import numpy as np

        from ..data.images import save_image

        target = folder / self.folders[split][0]
        rows: dict[str, int | str] = {}
        for number in numbers:
            image, label = self.draw(
                np.random.default_rng([seed, number]), number % len(self.classes)
            )
            name = self.sample_name.format(number)
            save_image(target / f"{name}.png", image)
            rows[name] = int(label)
        self.write_table(target / self.table, rows)

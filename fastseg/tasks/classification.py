"""Tasks that give each image a class: folders of images with one table each."""
from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, TaskError
from ..files import atomic_file, by_stem, image_files
from .base import Item, Task


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Images listed in one table a folder: file stem in the first of `columns`, class index in the second."""

    folders: Mapping[str, tuple[str, ...]]  # split -> folder names
    table: str = "labels.tsv"
    columns: tuple[str, str] = ("Name", "Label")

    kind = "classify"

    def expected(self) -> str:
        names = ", ".join(f"{folders[0]}/" for folders in self.folders.values())
        return f"folders {names} with images and {self.table} (columns {', '.join(self.columns)})"

    def items(self, data: Path | str) -> list[Item]:
        root = self.folder(data)
        items: list[Item] = []
        for split, folders in self.folders.items():
            folder = next((root / f for f in folders if (root / f).is_dir()), None)
            if folder is not None:
                items += self._table_items(folder, split)
        if not items:
            raise DataError(f"{root}: no {self.name} data found; expected {self.expected()}")
        side: dict[str, Item] = {}
        for item in items:
            other = side.setdefault(item.group, item)
            if other.split != item.split:
                raise DataError(f"{item.image.parent / self.table}: {item.group} is also in {other.image.parent}; "
                                "keep each on one side of the split")
        return items

    def read_table(self, table: Path) -> dict[str, str]:
        """Return {name: label text} in the table's order. Raises `DataError` for missing columns and double names."""
        name_column, label_column = self.columns
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                missing = [c for c in self.columns if c not in (rows.fieldnames or [])]
                if missing:
                    raise DataError(f"{table}: column {' and '.join(missing)} missing; it needs "
                                    f"{' and '.join(self.columns)}, separated by tabs")
                labels: dict[str, str] = {}
                for row in rows:
                    name = (row[name_column] or "").strip()
                    if not name:
                        raise DataError(f"{table}: line {rows.line_num} has no {name_column}; add it or remove the line")
                    if name in labels:
                        raise DataError(f"{table}: {name} is listed twice (line {rows.line_num}); keep one line")
                    labels[name] = (row[label_column] or "").strip()
                return labels
        except FileNotFoundError:
            raise DataError(f"{table}: no such table; write one with the columns {', '.join(self.columns)}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table}: cannot be read as tab-separated text ({error}); save it as UTF-8") from None

    def _table_items(self, folder: Path, split: str) -> list[Item]:
        table = folder / self.table
        labels = self.read_table(table)
        images = by_stem(image_files(folder))
        if alone := labels.keys() - images.keys():
            raise DataError(f"{table}: {min(alone)} has no image in {folder}; add the image or remove the line")
        if alone := images.keys() - labels.keys():
            raise DataError(f"{images[min(alone)]}: not listed in {table}; add a line or remove the image")
        valid = {str(index): index for index in range(len(self.classes))}
        for name, label in labels.items():
            if label not in valid:
                what = f"has label '{label}'" if label else "has no label"
                raise DataError(f"{table}: {name} {what}; labels are "
                                + " or ".join(f"{i} ({c})" for i, c in enumerate(self.classes)))
        return [Item(images[name], valid[label], split, name) for name, label in sorted(labels.items())]

    def label(self, item: Item) -> int:
        """Return the item's class index."""
        return int(item.label)

    def class_name(self, item: Item) -> str:
        """Return the item's class by name."""
        return self.classes[self.label(item)]

    def write_table(self, path: Path, rows: Mapping[str, int | str]) -> Path:
        """Write {name: label} with this task's columns, whole or not at all."""
        with atomic_file(path) as temporary:
            lines = ["\t".join(self.columns)] + [f"{name}\t{label}" for name, label in rows.items()]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _write_sample(self, folder: Path, split: str | None, numbers: range, seed: int) -> None:
        if self.draw is None:
            raise TaskError(f"task {self.name} has no synthetic sample: give it a draw function")
        import numpy as np

        from ..masks import save_image
        target, rows = folder / self.folders[split][0], {}
        for number in numbers:
            image, label = self.draw(np.random.default_rng([seed, number]), number % len(self.classes))
            name = self.sample_name.format(number)
            save_image(target / f"{name}.png", image)
            rows[name] = label
        self.write_table(target / self.table, rows)

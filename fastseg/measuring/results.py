"""The results of `measure`: tables, page, and the rows as JSON values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..inference.sources import pyarrow_parquet
from ..utils.io import write_rows
from ..utils.text import counted
from .cohorts import GroupMean, written_mean
from .measures import MEASURES as MEASURE_NAMES
from .rows import Row, Ruler, written, written_between
from .summary import units_of, write_summary

MEASURES, BETWEEN, GROUPS, SUMMARY = "measures.csv", "between.csv", "groups.csv", "summary.html"
PICTURES = "pictures"
PARQUET = {
    MEASURES: "measures.parquet",
    BETWEEN: "between.parquet",
    GROUPS: "groups.parquet",
}
OWN = {MEASURES, BETWEEN, GROUPS, SUMMARY, PICTURES, *PARQUET.values()}
TableRows = list[Mapping[str, object]]


@dataclass(frozen=True)
class Results:
    """What was measured, and how."""

    rows: Sequence[Row]
    between: Sequence[Row]
    means: Sequence[GroupMean]
    ruler: Ruler
    unit: str
    by: str | None
    level: float
    reason: str  # why there are no intervals
    files: int
    from_masks: bool

    @property
    def units(self) -> dict[str, str]:
        """The unit of each measure, and of each value between classes."""
        return units_of(self.unit, {one.name: one.power for one in self.ruler.betweens})

    @property
    def columns(self) -> list[str]:
        """The columns of measures.csv."""
        empty = Row("", "", None, dict.fromkeys(MEASURE_NAMES, 0.0), {}, {})
        return list(written(empty, self.unit, self.by, self.ruler.intervals is not None))

    def tables(self) -> dict[str, TableRows]:
        """Return the rows of each table by the name of its file."""
        has, units = self.ruler.intervals is not None, self.units
        return {
            MEASURES: [written(row, self.unit, self.by, has) for row in self.rows],
            BETWEEN: [written_between(row, units, self.by, has) for row in self.between],
            GROUPS: [written_mean(mean, self.by) for mean in self.means],
        }

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of all tables; missing values are None."""
        names = {MEASURES: "rows", BETWEEN: "between", GROUPS: "groups"}
        return {
            names[table]: [
                {key: _none_if_missing(key, value) for key, value in row.items()} for row in rows
            ]
            for table, rows in self.tables().items()
        }

    def counted(self) -> str:
        """Return in words what was measured, such as "57 objects in 14 masks"."""
        what = counted(self.files, "mask" if self.from_masks else "image")
        if self.ruler.whole:
            number = len({row.name for row in self.rows})
            return f"{number} class{'' if number == 1 else 'es'} in {what}"
        return f"{counted(len(self.rows), 'object')} in {what}"

    def facts(self) -> list[str]:
        """Return sentences that say what was measured, and how means were rectified."""
        facts = [f"{self.counted()}, in {self.unit}."]
        labelled = max((found.mean.labelled for found in self.means), default=0)
        facts.append(
            f"The means are prediction-powered: up to {labelled} images with true masks rectify "
            f"those of the predictions, so that {100 * self.level:g} % intervals hold for a biased "
            "model, too, if its bias is the same on these images."
            if labelled
            else "The means are those of the masks as they are; intervals by Student's t."
        )
        if self.ruler.intervals and not self.ruler.whole and self.ruler.intervals.found:
            shares = [f"{share:.0%} of {n}" for n, share in self.ruler.intervals.found.items()]
            facts.append(
                f"Of the predicted objects in held-out images, {', '.join(shares)} were true ones "
                "(IoU of at least 0.5); intervals of objects are those of true ones."
            )
        return facts


def write(folder: Path, title: str, found: Results, parquet: bool) -> list[str]:
    """Write tables and page into a folder, and return the names of the files."""
    names = []
    for name, rows in found.tables().items():
        if not rows and name != MEASURES:
            continue
        columns = found.columns if name == MEASURES else None  # also where nothing was found
        names.append(write_rows(folder / name, rows, columns).name)
        if parquet and rows:
            _write_parquet(folder / PARQUET[name], rows)
            names.append(PARQUET[name])
    write_summary(
        folder / SUMMARY,
        title,
        found.facts(),
        "" if found.from_masks else found.reason,
        found.rows,
        found.between,
        found.means,
        found.units,
        found.by,
        found.level,
    )
    return [*names, SUMMARY]


def _write_parquet(path: Path, rows: TableRows) -> None:
    """Write rows as parquet, missing values as nulls."""
    import pyarrow

    columns = {name: [_storable(name, row[name]) for row in rows] for name in rows[0]}
    pyarrow_parquet(str(path)).write_table(pyarrow.table(columns), path)


def _storable(name: str, value: object) -> object:
    """Return a value for parquet, whose texts are UTF-8, which file names need not be."""
    if isinstance(value, str):
        value = os.fsencode(value).decode(errors="replace")
    return _none_if_missing(name, value)


def _none_if_missing(name: str, value: object) -> object:
    is_missing = value != value or (value == "" and name != "group")  # nan, or an empty cell
    return None if is_missing else value

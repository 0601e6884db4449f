"""The ledger of a data folder: which images train, and which are held out. Nobody ever moves.

DIR/.fastseg/split.csv has a row for each image: the SHA-256 of its content, its name and group, its
part, and why. It is frozen from a split that there is, such as that of an export. Then each new
image is assigned once:

- An image of a known group goes where the group is.
- A folder for training or for validation decides for its images.
- Otherwise a hash of the group and the content decides, in the given share.
- An image that looks the same as a held-out one, also mirrored or rotated by quarter turns, never
  trains, and one that looks the same as a training image never validates: where its group and its
  looks contradict each other, it is "apart", in neither part. Images of the frozen split that train
  and look the same as a held-out one are set apart at the first use.

A renamed file keeps its part, since its content is the same. Copies of a held-out image are apart.
"""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path

from ..errors import DataError
from ..types import Item
from ..utils.io import name_below, write_rows
from ..utils.locks import waiting_lock
from .assigning import APART, FROZEN, HELD_OUT, TEST, TRAIN, VALID, Row, Twins, target_of
from .contents import all_views_of, digests, looks_of
from .reading import PLAIN, Reading
from .state import LEDGER

log = logging.getLogger(__name__)

VALID_SHARE = 0.2  # of new images, as in `data.split`
WAIT = 120.0  # seconds to wait for another process that assigns parts


COLUMNS = tuple(entry.name for entry in fields(Row))


class Ledger:
    """The parts of a data folder's images, by content."""

    def __init__(self, data: Path, rows: Iterable[Row] = ()):
        self.data = data
        self.rows = {row.sha256: row for row in rows}

    @classmethod
    def of(cls, data: Path | str) -> Ledger | None:
        """Return the ledger of a data folder; None if it has none.

        Raises `DataError` if it cannot be read: guessing would let held-out images train.
        """
        file = Path(data) / LEDGER
        if not file.is_file():
            return None
        try:
            with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
                reader = csv.DictReader(opened)
                rows = [Row(**{column: row[column] for column in COLUMNS}) for row in reader]
                what = (
                    "it has no rows"
                    if {*COLUMNS} <= {*(reader.fieldnames or ())}
                    else ("its first row does not name its columns")
                )
        except (OSError, csv.Error, KeyError, TypeError) as error:
            rows, what = [], str(error)
        wrong = next((row for row in rows if row.part not in (TRAIN, *HELD_OUT, APART)), None)
        if wrong is not None:
            what = f"{wrong.name} has the part '{wrong.part}', not train, valid, test or apart"
        if wrong is not None or not rows:
            raise DataError(
                f"{file}: is damaged ({what}); restore it from a copy, or move it away to divide "
                "the images again",
                "damaged-ledger",
            )
        return cls(Path(data), rows)

    @classmethod
    def freeze(
        cls,
        data: Path | str,
        items: Sequence[Item],
        held_out: Collection[str],
        reason: str,
        reading: Reading = PLAIN,
        record: bool = True,
    ) -> Ledger:
        """Record a split that there is, and return its ledger; one that exists is returned.

        `held_out` are the names, below `data`, of the images that validate; images of folders for
        validation or test stay there, and the others train. A copy of a held-out image counts as
        held out. `reason` says where the split comes from. Without `record`, nothing is written.
        """
        data = Path(data)
        with waiting_lock(data / LEDGER, WAIT) if record else nullcontext():
            there = cls.of(data)
            if there is not None:
                return there
            ledger = cls(data)
            names = [name_below(data, item.image) for item in items]
            parts = [
                item.split if item.split in HELD_OUT else VALID if name in held_out else TRAIN
                for item, name in zip(items, names)
            ]
            contents = digests(items, reading)
            # held-out images first: their copies, wherever they are, do not train
            order = sorted(range(len(items)), key=lambda i: (VALID, TEST, TRAIN).index(parts[i]))
            copies = 0
            for i in order:
                before = ledger.rows.get(contents[i])
                copies += bool(before and parts[i] == TRAIN and before.part in HELD_OUT)
                why = f"{FROZEN}: {reason}"
                row = Row(contents[i], names[i], items[i].group, parts[i], why)
                ledger.rows.setdefault(contents[i], row)
            if copies and record:
                log.warning(
                    "%s: %d images to train on are copies of held-out ones: they do not train",
                    data,
                    copies,
                )
            if record:
                ledger._write()
        return ledger

    def assign(
        self,
        items: Sequence[Item],
        valid_share: float = VALID_SHARE,
        reading: Reading = PLAIN,
        grouped: bool = True,
        record: bool = True,
    ) -> tuple[list[int], list[int], list[int]]:
        """Return the indices of the items that train, that validate, and that do neither.

        New ones are recorded, unless `record` is false; see the module's text for the rules. Items
        of test folders are in none of the three. `reading` says how the task's images are read,
        and `grouped` whether images of one group belong together; if not, each is its own. Raises
        `DataError` if the ledger cannot be written.
        """
        usable = [i for i, item in enumerate(items) if item.split != "test"]
        contents = dict(zip(usable, digests([items[i] for i in usable], reading)))
        if any(c not in self.rows or not self.rows[c].look for c in contents.values()):
            with waiting_lock(self.data / LEDGER, WAIT) if record else nullcontext():
                there = Ledger.of(self.data) if record else None
                self.rows = there.rows if there else self.rows
                self._look_at(items, contents, reading, grouped)
                self._add(items, contents, valid_share, reading, grouped)
                if record:
                    self._write()
        return self._parts(items, contents)

    def hold_out(
        self,
        items: Sequence[Item],
        held_out: Collection[str],
        reason: str,
        reading: Reading,
        record: bool = True,
    ) -> None:
        """Record the images named in `held_out` whose rows were lost: they stay held out.

        Without `record`, nothing is written.
        """
        named = [item for item in items if name_below(self.data, item.image) in held_out]
        lost = [
            (content, item)
            for content, item in zip(digests(named, reading), named)
            if content not in self.rows
        ]
        if not lost:
            return
        log.warning(
            "%s: %d images that %s held out have no row: they stay held out",
            self.data / LEDGER,
            len(lost),
            reason,
        )
        with waiting_lock(self.data / LEDGER, WAIT) if record else nullcontext():
            for content, item in lost:
                name = name_below(self.data, item.image)
                row = Row(content, name, item.group, VALID, f"{FROZEN}: {reason}")
                self.rows.setdefault(content, row)
            if record:
                self._write()

    def side_for(self, group: str | None, content: str, valid_share: float = VALID_SHARE) -> str:
        """Return "train" or "valid" for a new image that no folder has yet.

        `group` is its group, if it has one, and `content` its digest, see `digests`.
        """
        known = {row.part for row in self.rows.values() if group and row.group == group}
        part, _ = target_of(group or content, content, known, (), valid_share)
        return VALID if part == VALID else TRAIN

    def _parts(
        self, items: Sequence[Item], contents: dict[int, str]
    ) -> tuple[list[int], list[int], list[int]]:
        found: dict[str, list[int]] = {TRAIN: [], VALID: [], APART: []}
        owners = self._owners(items, contents)
        for i, content in contents.items():
            part = self.rows[content].part
            if part == VALID and owners[content] != i:
                part = APART  # a copy
            found[part if part in found else APART].append(i)
        return found[TRAIN], found[VALID], found[APART]

    def _owners(self, items: Sequence[Item], contents: dict[int, str]) -> dict[str, int]:
        """Return the item that each content belongs to: the recorded name, or the first one."""
        owners: dict[str, int] = {}
        for i, content in contents.items():
            is_recorded = name_below(self.data, items[i].image) == self.rows[content].name
            if is_recorded or content not in owners:
                owners[content] = i
        return owners

    def _add(
        self,
        items: Sequence[Item],
        contents: dict[int, str],
        valid_share: float,
        reading: Reading,
        grouped: bool,
    ) -> None:
        """Decide the parts of the items that are not recorded."""
        new: dict[str, int] = {}
        for i, content in contents.items():
            if content not in self.rows:
                new.setdefault(content, i)
        chosen = [items[i] for i in new.values()]
        views = dict(zip(new, all_views_of(chosen, reading)))
        labels = {content: items[i].label for i, content in contents.items()}
        twins = Twins(self.rows.values(), labels, grouped)
        parts: dict[str, set[str]] = defaultdict(set)
        for row in self.rows.values():
            parts[row.group if grouped else row.sha256].add(row.part)
        by_group: dict[str, list[str]] = defaultdict(list)
        for content, i in new.items():
            by_group[items[i].group if grouped else content].append(content)
        has_valid = any(item.split == VALID for item in items)
        for group in sorted(by_group):
            members = sorted(by_group[group])
            folders = {items[new[content]].split for content in members} if has_valid else {None}
            target, why = target_of(group, members[0], parts[group], folders, valid_share)
            is_alone = len(members) == 1 and not parts[group] & {TRAIN, *HELD_OUT}
            for content in members:
                item = items[new[content]]
                row = Row(content, name_below(self.data, item.image), item.group, target, why)
                row = replace(row, look=next(iter(views[content]), ""))
                if has_valid and target == VALID and item.split == TRAIN:
                    row = replace(row, part=APART, why="its group validates, its folder trains")
                may_train = is_alone and item.split is None
                row = twins.checked(row, views[content], item.label, may_train)
                self.rows[content] = row
                twins.add(row, item.label)

    def _look_at(
        self, items: Sequence[Item], contents: dict[int, str], reading: Reading, grouped: bool
    ) -> None:
        """Add the perceptual hashes of recorded images that have none.

        Those of the first split that train and look the same as a held-out one are set apart.
        """
        first = {content: items[i] for i, content in reversed(contents.items())}
        left = [content for content, row in self.rows.items() if not row.look and content in first]
        views = dict(zip(left, all_views_of([first[content] for content in left], reading)))
        for content, seen in views.items():
            self.rows[content] = replace(self.rows[content], look=next(iter(seen), ""))
        # held-out images of test folders are not among the items of a fit
        tests = [
            (content, self.data / row.name)
            for content, row in self.rows.items()
            if not row.look and content not in first and row.part in HELD_OUT
        ]
        there = [(content, Item(file, 0)) for content, file in tests if file.is_file()]
        for (content, _), look in zip(there, looks_of([item for _, item in there], reading)):
            self.rows[content] = replace(self.rows[content], look=look)
        seen_now = [self.rows[content] for content in views]
        unsure = [row for row in seen_now if row.part == TRAIN and row.is_of_first_split]
        if not unsure:
            return
        labels = {content: item.label for content, item in first.items()}
        twins = Twins(self.rows.values(), labels, grouped)
        apart = 0
        for row in unsure:
            seen, label = views[row.sha256], first[row.sha256].label
            checked = twins.checked(row, seen, label, may_train=False)
            if checked.part == APART:
                self.rows[row.sha256] = replace(checked, why=f"{row.why}; {checked.why}")
                apart += 1
        if apart:
            log.warning(
                "%s: %d images to train on look the same as held-out ones: they do not train, see "
                "the column why",
                self.data / LEDGER,
                apart,
            )

    def _write(self) -> None:
        rows = [asdict(row) for row in self.rows.values()]
        write_rows(self.data / LEDGER, rows)

"""Held-out labels that are predictions: a person accepted them, and they favour the export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..data.assigning import HELD_OUT
from ..data.parts import Ledger
from ..data.state import CORRECTIONS
from ..tasks import Task
from .history import History
from .log import Correction
from .pins import source_of

DECIDED = ("accepted", "audited", "predicted")


def accepted_predictions(history: History) -> dict[str, str]:
    """Return {image: source} of the labels that are an export's prediction as it was.

    `source` is the one of `log.Correction`. A label that was there before, and that a person found
    right, is no prediction, however well the two agree.
    """
    last = {row.image: row for row in history.all()}
    return {name: row.source for name, row in last.items() if _is_prediction(history, row)}


def _is_prediction(history: History, row: Correction) -> bool:
    if row.action not in DECIDED or row.pixels or not (history.root / row.image).exists():
        return False
    is_new = row.action == "predicted" or not history.had_label(row.image)
    return is_new and history.has_prediction(row.image, row.version)


def favour_of(
    task: Task,
    data: Path | str,
    exports: Mapping[str, Path | str],
    names: Iterable[str] | None = None,
) -> str:
    """Return a sentence that says how many held-out labels favour which export; "" if none does.

    `exports` are the ones that are judged, by the names that the sentence gives them. `names` are
    the held-out images, as paths below the data folder; by default, all of the ledger. Raises
    `DataError` if the log or the ledger cannot be read.
    """
    root = Path(data)
    if not (root / CORRECTIONS).is_file():
        return ""
    if names is None:
        ledger = Ledger.of(root)
        rows = ledger.rows.values() if ledger else ()
        names = [row.name for row in rows if row.part in HELD_OUT]
    judged = {*names}
    found = accepted_predictions(History(task, root))
    known = {_digits(source_of(export)): name for name, export in exports.items()}
    makers = Counter(
        known.get(_digits(source)) or f"another export ({source or 'of no name'})"
        for name, source in found.items()
        if name in judged
    )
    if not makers:
        return ""
    total = makers.total()
    are = "is a prediction" if total == 1 else "are predictions"
    favour = "it favours" if total == 1 else "they favour"
    who = " and ".join(sorted(makers))
    return (
        f"{total} of the {len(judged)} held-out labels {are} of {who} that a person accepted "
        f"unchanged: {favour} it"
    )


def _digits(source: str) -> str:
    return source.rpartition(" ")[2]

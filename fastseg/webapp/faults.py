"""What `check` finds beside each image: found on a thread, and kept from one start to the next."""

from __future__ import annotations

import csv
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FastsegError, is_out_of_memory
from ..tasks.corrected import as_waiting
from ..utils.io import name_below
from ..utils.journal import files_digest

if TYPE_CHECKING:
    from ..checks.dataset import Audit
    from .workspace import Workspace

MOST_GENERAL = 200  # faults of no single image that the page shows
UNLABELLED = "unlabelled image"  # a kind that waits for a label, and counts as no fault
SUSPECTS = "suspects.csv"  # of an export, by `interpret`


@dataclass(frozen=True)
class Found:
    """The results of a check, by image id: faults, and the classes in its label."""

    digest: str  # of the files that were checked
    faults: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    classes: dict[str, list[int]] = field(default_factory=dict)
    general: list[dict[str, Any]] = field(default_factory=list)  # faults of no single image
    kinds: dict[str, int] = field(default_factory=dict)
    areas: dict[str, int] = field(default_factory=dict)  # pixels, or images, of each class
    stops: bool = False


class Checking:
    """The check of a workspace's data. `state` is "checking", "done" or "failed"."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.state, self.error = "done", ""
        self.found: Found | None = None
        self._lock = threading.Lock()
        self._suspects: tuple[object, dict[str, dict[str, Any]]] = (None, {})

    def start(self) -> None:
        """Check the data on a thread, unless their files were checked as they are."""
        listing = self.workspace.listing()
        digest = files_digest(entry.item.files for entry in listing.entries if entry.item)
        with self._lock:
            if self.state == "checking" or (self.found and self.found.digest == digest):
                return
            self.state, self.error = "checking", ""
        threading.Thread(target=self._check, args=(digest,), daemon=True, name="check").start()

    def _check(self, digest: str) -> None:
        from ..checks.dataset import check

        try:
            audit = check(self.workspace.task, self.workspace.data, keep=True)
            found = _by_image(self.workspace, audit, digest)
        except FastsegError as error:
            with self._lock:
                self.state, self.error = "failed", str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            with self._lock:
                self.state, self.error = "failed", "out of memory"
        else:
            with self._lock:
                self.state, self.found = "done", found

    def suspects(self) -> dict[str, dict[str, Any]]:
        """Return suspected label errors that `interpret` wrote for the export, by image name."""
        path = self.workspace.out / SUSPECTS
        try:
            stamp = (str(path), path.stat().st_mtime_ns)
        except OSError:
            return {}
        if self._suspects[0] != stamp:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = {row.get("image", ""): dict(row) for row in csv.DictReader(file)}
            self._suspects = (
                stamp,
                {name: row for name, row in rows.items() if row.get("predicted")},
            )
        return self._suspects[1]


def _by_image(workspace: Workspace, audit: Audit, digest: str) -> Found:
    """Return the faults of each image, and the classes that its label has."""
    listing = workspace.listing()
    ids = {entry.name: entry.id for entry in listing.entries}
    by_file = {str(entry.path): entry.id for entry in listing.entries if entry.item is None}
    classes: dict[str, list[int]] = {}
    for item, finding in zip(audit.items, audit.findings):
        id = ids.get(name_below(workspace.data, item.image))
        if id is None:
            continue
        by_file[str(item.image)] = id
        if not isinstance(item.label, int):
            by_file[item.shown_label] = id
        if len(finding.counts):
            classes[id] = [int(code) for code in np.flatnonzero(finding.counts)]
    faults: dict[str, list[dict[str, Any]]] = defaultdict(list)
    general: list[dict[str, Any]] = []
    # the app trains without the images that lack a label
    if listing.waits:
        audit = replace(audit, faults=[as_waiting(fault) for fault in audit.faults])
    for fault in audit.faults:
        told = {
            "kind": fault.kind,
            "stops": fault.stops,
            "text": f"{fault.detail}; {fault.remedy}",
            "place": fault.place,
        }
        id = by_file.get(fault.file)
        if id is not None:
            faults[id].append(told)
        elif len(general) < MOST_GENERAL:
            general.append(
                {**told, "file": name_below(workspace.data, workspace.data / fault.file)}
            )
    return Found(digest, dict(faults), classes, general, audit.kinds, audit.classes, audit.stops)

"""`fastseg export`: an export in another format, kept only if it is the same model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError, ExportError, brief
from ..evaluation.run import items_of
from ..exports.cache import require_own
from ..exports.card import Card, sha256
from ..exports.int8 import PARITY, conversion_folder
from ..exports.read import as_trained, opened
from ..tasks import Item, Task
from ..utils.io import atomic_folder, portable_path, read_json, require_folder, write_json
from ..utils.locks import write_lock
from .contents import write_contents
from .parity import LARGEST_FALL, LARGEST_SHARE, Parity, bytes_of, compare, own_bytes
from .targets import Source, Target, get

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """What the two models are compared on."""

    items: Sequence[Item]
    root: Path  # the folder of data
    held_out: bool  # whether the export's training held these images out


def export(
    export: str | Path | Task,
    to: str,
    out: Path | str | None = None,
    *,
    data: Path | str | None = None,
    force: bool = False,
    onnxruntime_web: Path | str | None = None,
) -> dict[str, Any]:
    """Write an export in the format `to` into the folder `out`, and return what parity.json says.

    `export` is an export's folder, or a task, whose export is exports/TASK. `to` is one of
    `utils.choices.TARGETS`. `out` is by default the export's folder with _TO after its name;
    an earlier conversion in it is replaced. The folder has the model with its preprocessing, an
    example.py that runs it, classes.json, README.md, and parity.json: on the images that the
    export held out, in `data` (default: the folder that it was trained on), the share of pixels
    that differ, the Dice of both (accuracy for classes of images) with a paired 95 % interval of
    the difference, milliseconds an image, and bytes. Other `data` are compared on completely.
    `onnxruntime_web`, for "html", is the archive of that npm package, or a folder of it; by default
    npm downloads it, once.

    Raises `ExportError` with code "not-the-same-model", and writes nothing, if Dice falls by more
    than 0.005 or more than 0.1 % of pixels differ (of onnx-int8, Dice alone decides), unless
    `force`. Raises `ModelError` for an unknown target, or one whose packages are not installed;
    `DataError` if there are no images to compare on, unless `force`.
    """
    target = get(to)
    target.require()
    task, folder, card = opened(export)
    if folder.suffix == ".pkl":  # what is beside it is converted, which contains no code
        folder = folder.parent
    if not out:
        require_own(folder, "conversions are not written there; choose a folder with --out")
        out = conversion_folder(folder, target.name)
    place = Path(out)
    _require_own(place, folder)
    images = None
    if target.unrunnable is None:
        try:
            images = _images(card, task, data)
        except DataError as error:
            if not force:
                raise
            log.warning("not compared: %s", error)
    source = Source(
        folder,
        card,
        as_trained(task, card),
        partial(_training_images, card, task, data),
        Path(onnxruntime_web) if onnxruntime_web else None,
    )
    with write_lock(place), _writing(place) as part:
        said = _converted(target, source, images, part, place, force)
    return {**said, "written": str(place)}


def _converted(
    target: Target, source: Source, images: Images | None, part: Path, place: Path, force: bool
) -> dict[str, Any]:
    """Write all files of a conversion into `part`, and return what parity.json says."""
    parity: Parity | None = None
    faults: list[str] = []
    notes: Mapping[str, Any] = {}
    for notes in target.attempts(source, part):  # noqa: B007 - those of the last attempt are kept
        if images is None:
            break
        run = target.runner(source, part)
        parity = compare(source, run, images.items, images.root)
        faults = parity.faults(target)
        if not faults:
            break
        log.info("not the same model yet: %s", "; ".join(faults))
    said = _described(target, source, images, parity, faults, notes, part, place)
    if faults and not force:
        refusal = ExportError(
            f"{source.export}: the {target.name} model is not the same: {'; '.join(faults)}; "
            "nothing is written; --force keeps it all the same",
            "not-the-same-model",
        )
        refusal.details = {"parity": said}
        raise refusal
    write_contents(target, source, said, part)
    said["files"] = sorted(entry.name for entry in part.iterdir())
    write_json(part / PARITY, said)
    return said


def _described(
    target: Target,
    source: Source,
    images: Images | None,
    parity: Parity | None,
    faults: list[str],
    notes: Mapping[str, Any],
    part: Path,
    place: Path,
) -> dict[str, Any]:
    """Return what parity.json says."""
    compared = None
    if parity is not None and images is not None:
        compared = {
            "data": portable_path(images.root, place),
            "held_out": images.held_out,
            **parity.to_json(),
        }
    not_run = target.unrunnable or ("there are no images to compare on" if images is None else None)
    limits = {"fall": LARGEST_FALL, **({"share": LARGEST_SHARE} if target.pixels_decide else {})}
    return {
        "target": target.name,
        "fastseg": __version__,
        "task": source.card.task,
        "export": portable_path(source.export, place),
        "export_sha256": source.card.sha256,
        "sha256": {name: sha256(part / name) for name in target.files if (part / name).is_file()},
        "format": dict(notes),
        "not_run": not_run,
        "compared": compared,
        "bytes": {
            "export": own_bytes(source),
            "converted": bytes_of(*(part / name for name in target.files)),
        },
        "gate": {"limits": limits, "exceeded": faults, "passed": bool(parity) and not faults},
    }


@contextmanager
def _writing(place: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces `place` on success."""
    existed = place.parent.exists()
    try:
        with atomic_folder(place) as part:
            yield part
    finally:
        if not existed and place.parent.is_dir() and not any(place.parent.iterdir()):
            place.parent.rmdir()


def _require_own(place: Path, export: Path) -> None:
    """Raise `DataError` unless `place` is new, empty, or holds an earlier conversion."""
    resolved, source = place.resolve(), export.resolve()
    others: list[str] = []
    if resolved == source or resolved in source.parents or source in resolved.parents:
        others = [str(export)]
    elif place.is_dir():
        earlier = read_json(place / PARITY) if (place / PARITY).is_file() else {}
        own = {PARITY, *(earlier.get("files", ()) if isinstance(earlier, dict) else ())}
        others = sorted(entry.name for entry in place.iterdir() if entry.name not in own)
    if others:
        raise DataError(
            f"{place}: holds {brief(others[0])}; a conversion has a folder of its own, which "
            "another one replaces: choose another --out",
            "not-empty",
        )
    require_folder(place)


def _images(card: Card, task: Task, data: Path | str | None) -> Images:
    """Return the images to compare on: those held out, else all. Raises `DataError`."""
    try:
        return Images(*items_of(card, task, data, "valid"), held_out=not card.is_adopted)
    except DataError as error:
        if error.code != "no-images-to-judge":
            raise
    # Of an export of folds, or on other data: the difference of the two is what counts.
    return Images(*items_of(card, task, data, "all"), held_out=False)


def _training_images(card: Card, task: Task, data: Path | str | None) -> list[Item]:
    return items_of(card, task, data, "train")[0]

"""From files to masks, tables, overlays and probabilities on disk, each image at its own size."""

from __future__ import annotations

import glob
import logging
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..data.images import save_image
from ..data.pairing import IMAGE_SUFFIXES, image_files, is_image
from ..errors import DataError, TaskError
from ..exports.card import CARD, Card
from ..exports.folder import find
from ..exports.read import card_of
from ..metrics.risk import ERROR_RATE, review_threshold
from ..tasks import Task, get
from ..tasks.base import MADE
from ..utils.choices import check_engine
from ..utils.io import atomic_file, write_rows
from ..utils.journal import Journal, resumed, stamp
from ..utils.locks import write_lock
from ..utils.progress import track

if TYPE_CHECKING:
    from .prediction import Prediction
    from .predictor import Predictor

log = logging.getLogger(__name__)

DESCRIBED, FAILED = "predictions.csv", "failed.csv"
MASKS, OVERLAYS, PROBABILITIES = (
    "_inf_masks",
    "overlays",
    "probabilities",
)  # what folders of results are called, or end with
NAMED = 5  # files that a line names


class Written(list):
    """The paths that `predict` wrote; `skipped` are those in the folders given to it that are not images."""

    def __init__(self, paths: Iterable[Path], skipped: Iterable[Path]):
        super().__init__(paths)
        self.skipped = list(skipped)


def predict(
    task: str | Task,
    paths: Sequence[Path | str] | Path | str,
    out: Path | str | None = None,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    error_rate: float = ERROR_RATE,
    export: Path | str | None = None,
    device: str | None = None,
    bs: int = 4,
    tta: bool | None = None,
    trust: bool = False,
    engine: str = "auto",
    precision: str | None = None,
) -> Written:
    """Predict files, folders or globs; write one mask an image in the task's own format and return what was written.

    Masks have their images' sizes and names and go to `out`, by default FOLDER_inf_masks for images in FOLDER.
    With `overlay`, overlays are written too, in its subfolder overlays; with `probabilities`, calibrated ones, float16
    (C, H, W) under the name "probabilities" in npz files, in its subfolder probabilities. Classification tasks write one
    table, by default FOLDER_inf_TABLE. Beside masks or table lies predictions.csv: each image's shares of the classes, mean
    confidence, entropy, expected error, and whether a person should look. That is so where the expected error exceeds the
    threshold by which the masks let through have, over all images, a mean error of at most `error_rate` (see `metrics.risk.thresholds`).
    `tta` averages each image with its mirror image (default: what the export's card says). `export` may be an export.pkl, which is
    opened if it is the one of the card beside it, or with `trust`. `engine` and `precision` are as for `fastseg.load`.
    What lies in a folder and is not named as an image is not predicted: a warning counts and names it, and the list that is returned
    has it as `skipped`. Images that cannot be read are listed in failed.csv, and reported by a `DataError` after the others are done.
    A prediction that was interrupted, and is asked for again, goes on where it stopped. Raises `FastsegError` kinds.
    """
    task = get(task)
    files, skipped = expand([paths] if isinstance(paths, (str, Path)) else paths, task)
    if (overlay or probabilities) and task.kind != "segment":
        raise TaskError(
            f"{task.name} classifies whole images: it takes no --overlay, and its probabilities are always in {DESCRIBED}",
            "no-overlay",
        )
    check_engine(engine, precision)
    source = find(task, export)
    card = card_of(source)
    targets = _targets(task, files, out, overlay) if task.kind == "segment" else {}
    path = _table_path(task, files, out) if task.kind == "classify" else None
    threshold = _threshold(card, error_rate)
    from .loading import (
        load,
    )  # torch is imported here, after all that can be wrong with names and folders

    predictor = load(source, device, trust, tta, engine, precision, images=len(files), bs=bs)
    predictor.adapt(files)
    task = predictor.task
    what = [
        "predict",
        __version__,
        task.definition(),
        predictor.card.sha256,
        predictor.engine,
        predictor.precision,
        predictor.tta,
        threshold,
        overlay,
        probabilities,
        str(out),
        os.getcwd(),
    ]
    if path is not None:
        with write_lock(path), Journal(*what) as journal:
            return _write_table(
                task,
                files,
                path,
                PredictionRun(
                    predictor,
                    files,
                    bs,
                    journal,
                    lambda _, prediction: (
                        {"label": prediction.index, **prediction.described(threshold)},
                        [],
                    ),
                ),
                skipped,
            )

    def write(file: Path, prediction: Prediction) -> tuple[dict, list[Path]]:
        written = _write_masks(task, prediction, targets[file], overlay, probabilities)
        return {
            "image": str(file),
            "mask": targets[file].name,
            **prediction.described(threshold),
        }, written

    with ExitStack() as stack:
        for folder in sorted(
            {target if _is_one_file(out) else target.parent for target in targets.values()}
        ):
            stack.enter_context(write_lock(folder))
        found = PredictionRun(predictor, files, bs, stack.enter_context(Journal(*what)), write)
        rows, failures = defaultdict(list), defaultdict(list)
        for file, row in found:
            folder = targets[file].parent
            if isinstance(row, DataError):
                failures[folder].append(_failure(file, row))
            else:
                rows[folder].append(row)
        written = list(found.written)
        if not _is_one_file(out):
            written += [
                write_rows(folder / DESCRIBED, described) for folder, described in rows.items()
            ]
            tables = {
                target.parent / FAILED: failures.get(target.parent, [])
                for target in targets.values()
            }
        else:
            tables = {Path(out): rows for rows in failures.values()}
        return _finished(len(files), tables, Written(written, skipped))


@dataclass
class PredictionRun:
    """One pass over files: yields (file, row or the `DataError` why there is none) in order; `written` lists what lies on disk.

    What the journal of an interrupted pass names is not done again, if it is on the disk as that pass wrote it.
    """

    predictor: Predictor
    files: Sequence[Path]
    bs: int
    journal: Journal
    finish: Callable[[Path, Prediction], tuple[dict, list[Path]]]
    written: list[Path] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Path, dict | DataError]]:
        for key in [
            key
            for key, (_, paths, stamps) in self.journal.done.items()
            if [stamp(Path(path)) for path in paths] != stamps
        ]:
            del self.journal.done[key]  # removed since, or written over by another run

        def finish(file: Path, prediction: Prediction) -> list:
            row, paths = self.finish(file, prediction)
            return [row, list(map(str, paths)), list(map(stamp, paths))]

        def work(left: list[int]) -> Iterator[list | DataError]:
            return (
                result
                for _, result in self.predictor.stream(
                    [self.files[i] for i in left], self.bs, finish
                )
            )

        results = resumed(self.journal, [stamp(file) for file in self.files], work)
        for file, result in zip(self.files, track(results, "predicting", len(self.files))):
            if isinstance(result, DataError):
                yield file, result
                continue
            row, paths, _ = result
            self.written += map(Path, paths)
            yield file, row


def _failure(file: Path, error: DataError) -> dict[str, str]:
    return {"image": str(file), "reason": str(error).removeprefix(f"{file}: ")}


def _finished(count: int, failures: Mapping[Path, list[dict]], written: Written) -> Written:
    """Return `written` after writing each failed.csv, or removing what an earlier run wrote there.

    Raises `DataError` if any of `count` images failed; its details name what was written and skipped.
    """
    for path, rows in failures.items():
        if rows and count > 1:
            write_rows(path, rows)
        elif path.name.endswith(FAILED):
            path.unlink(missing_ok=True)
    reasons = [f"{row['image']}: {row['reason']}" for rows in failures.values() for row in rows]
    if not reasons:
        return written
    more = f" ({len(reasons) - 1} more could not be read)" if len(reasons) > 1 else ""
    done = f"; the other {count - len(reasons)} images are done" if count > len(reasons) else ""
    listed = (
        f"; all are listed in {', '.join(str(path) for path, rows in failures.items() if rows)}"
        if count > 1
        else ""
    )
    error = DataError(f"{reasons[0]}{more}{done}{listed}", "unreadable-image")
    error.details = {"written": list(map(str, written)), "skipped": list(map(str, written.skipped))}
    raise error


def _threshold(card: Card, error_rate: float) -> float | None:
    """Return the expected error above which an image needs review, or None for a card without thresholds."""
    threshold = review_threshold(card.review, error_rate)
    if threshold is None:
        log.warning(
            "this export has no review thresholds (an earlier fastseg wrote it, or it was adopted): "
            "needs_review stays empty; a fit gives them"
        )
    if threshold is not None and threshold < 0:
        log.warning(
            "the validation images are too few, or their masks too faulty, to promise an error rate of %g: "
            "every image is marked for review; raise --error-rate",
            error_rate,
        )
    return threshold


def expand(paths: Sequence[Path | str], task: Task) -> tuple[list[Path], list[Path]]:
    """Return the image files that files, folders and globs name, in order, each once, and what in the folders is not an image.

    A file that is named itself is taken whatever its suffix. A warning counts and names what is left out of the folders; it is silent
    on what fastseg and the task's data put there. Raises `DataError` naming a path that holds no image.
    """
    found: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    for path in map(Path, paths):
        if len(path.name) > 255:
            raise DataError(
                f"{path.name[:40]}...: the name is too long for a file; check the path",
                "no-such-path",
            )
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise DataError(
                    f"{path}: holds no images; give a folder with image files (.jpg, .png, .tif and others that Pillow reads)",
                    "no-images",
                )
            skipped.update(
                dict.fromkeys(
                    sorted(p for p in path.iterdir() if not is_image(p) and not _is_ours(p, task))
                )
            )
        elif path.exists():
            files = [path]
        else:
            files = [f for f in sorted(map(Path, glob.glob(str(path)))) if f.is_file()]
            if not files:
                raise DataError(
                    f"{path}: no such file or folder, and no file matches it as a pattern; check the path",
                    "no-such-path",
                )
        found.update(dict.fromkeys(files))
    left_out = [path for path in skipped if path not in found]
    if left_out:
        what = (
            "entry that is hidden or not named as an image"
            if len(left_out) == 1
            else "entries that are hidden or not named as images"
        )
        names = ", ".join(f"{path}/" if path.is_dir() else str(path) for path in left_out[:NAMED])
        log.warning(
            "skipped %d %s: %s%s",
            len(left_out),
            what,
            names,
            f" and {len(left_out) - NAMED} more" * (len(left_out) > NAMED),
        )
    return list(found), left_out


def _is_ours(path: Path, task: Task) -> bool:
    """Return whether fastseg, or the layout of the task's data, puts what is called so among images."""
    name = path.name
    if path.is_dir():
        return name.endswith(MASKS) or name in (OVERLAYS, PROBABILITIES)
    table = getattr(task, "table", DESCRIBED)
    return name in ("README.md", MADE, table) or name.endswith((f"_inf_{table}", DESCRIBED, FAILED))


def _targets(
    task: Task, files: Sequence[Path], out: Path | str | None, overlay: bool
) -> dict[Path, Path]:
    """Return each image's mask path; no two are equal, and none lies where inputs or true masks do."""
    targets: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    single = _is_one_file(out)
    taken = _labelled_folders(task, files, out and (Path(out).parent if single else Path(out)))
    if single and len(files) > 1:
        raise DataError(
            f"{out}: is one file, but {len(files)} images are to be predicted; give a folder as --out",
            "one-file-for-many",
        )
    if single and Path(out).suffix.lower() != task.suffix:
        raise DataError(
            f"{out}: {task.name} results are written as {task.suffix} files; name it {Path(out).stem}{task.suffix}",
            "output-suffix",
        )
    for file in files:
        folder = Path(out) if out else Path(f"{_folder_name(file)}{MASKS}")
        target = folder if single else folder / f"{file.stem}{task.suffix}"
        if target in owners:
            raise DataError(
                f"{file} and {owners[target]}: both would be written to {target}; predict them into "
                "different folders (--out), or give a glob such as 'images/*.jpg'",
                "same-target",
            )
        if (target.parent / CARD).is_file():
            raise DataError(
                f"{target.parent}: holds an export; choose another --out", "holds-export"
            )
        for place in (target.parent, *([target.parent / OVERLAYS] if overlay else [])):
            if place.resolve() in taken:
                raise DataError(
                    f"{place}: holds input images or their true masks, and nothing is written among them; choose another --out",
                    "output-in-data",
                )
        targets[file], owners[target] = target, file
    return targets


def _is_one_file(out: Path | str | None) -> bool:
    return out is not None and Path(out).suffix.lower() in IMAGE_SUFFIXES and not Path(out).is_dir()


def _labelled_folders(task: Task, files: Sequence[Path], out: Path | None) -> set[Path]:
    """Return the folders of the inputs, and those around them and around `out` that hold true masks in one of the task's layouts."""
    folders = {file.resolve().parent for file in files}
    roots = {
        root
        for folder in folders | ({out.resolve()} if out else set())
        for root in (folder, *list(folder.parents)[:3])
    }
    masks = {root / layout.masks for root in roots for layout in task.layouts}
    return folders | {mask.resolve() for mask in masks if mask.is_dir() and image_files(mask)}


def _folder_name(file: Path) -> str:
    return file.resolve().parent.name or "images"


def _write_masks(
    task: Task, prediction: Prediction, target: Path, with_overlay: bool, with_probabilities: bool
) -> list[Path]:
    # Masks are runs of one value: run-length matching at the lowest level is five times quicker than the default, and no larger.
    quick = {"compress_level": 1, "compress_type": zlib.Z_RLE} if task.suffix == ".png" else {}
    written = [save_image(target, task.render(prediction), **quick)]
    if with_overlay:
        overlay_path = target.parent / OVERLAYS / f"{target.stem}.jpg"
        written.append(save_image(overlay_path, task.overlay(prediction.image, prediction.codes)))
    if with_probabilities:
        with atomic_file(target.parent / PROBABILITIES / f"{target.stem}.npz") as temporary:
            np.savez_compressed(
                temporary,
                probabilities=prediction.probabilities.astype(np.float16),
                classes=np.array(task.classes),
            )
        written.append(target.parent / PROBABILITIES / f"{target.stem}.npz")
    return written


def _table_path(task: Task, files: Sequence[Path], out: Path | str | None) -> Path:
    """Return where the table goes, a row for each image's name: never over an input, nor over the true labels of any folder of images."""
    stems = Counter(file.stem for file in files)
    twice = next((file for file in files if stems[file.stem] > 1), None)
    if twice is not None:
        raise DataError(
            f"{twice}: another image has the same name, and the table holds one row a name; predict their folders one by one",
            "same-target",
        )
    path = Path(out) if out else Path(f"{_folder_name(files[0])}_inf_{task.table}")
    if path.is_dir() or not path.suffix:
        path = path / task.table
    if path.suffix.lower() not in (".tsv", ".txt"):
        raise DataError(
            f"{path}: {task.name} results are a table; name it {path.stem}.tsv, or give a folder",
            "output-suffix",
        )
    if path.exists() and image_files(path.parent):
        raise DataError(
            f"{path}: lies among images and may hold their true labels; choose another --out",
            "output-in-data",
        )
    return path


def _write_table(
    task: Task, files: Sequence[Path], path: Path, found: PredictionRun, skipped: list[Path]
) -> Written:
    """Write one row an image, and predictions.csv; where the images' folder has a table, its order of rows is kept."""
    labels: dict[str, int] = {}
    rows: dict[str, dict] = {}
    failures: list[dict] = []
    for file, row in found:
        if isinstance(row, DataError):
            failures.append(_failure(file, row))
            continue
        labels[file.stem] = row["label"]
        rows[file.stem] = {
            "image": str(file),
            **{key: value for key, value in row.items() if key != "label"},
        }
    tables = [
        table
        for table in dict.fromkeys(file.parent / task.table for file in files)
        if table.is_file()
    ]
    listed = [
        name for table in tables for name in task.read_table(table, []) or {} if name in labels
    ]
    order = [*listed, *sorted(labels.keys() - set(listed))]
    usual = Path(task.table).stem
    prefix = path.stem.removesuffix(usual) if path.stem.endswith(usual) else f"{path.stem}_"
    written = (
        [
            task.write_table(path, {name: labels[name] for name in order}),
            write_rows(path.with_name(prefix + DESCRIBED), (rows[name] for name in order)),
        ]
        if rows
        else []
    )
    return _finished(
        len(files), {path.with_name(prefix + FAILED): failures}, Written(written, skipped)
    )

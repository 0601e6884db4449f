"""`study --how-many`: what more labelled images would give, by learning curves of nested parts."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..engines.choice import engine_of
from ..errors import DataError, ModelError, choose
from ..evaluation.groups import group_function
from ..learners.options import FitOptions
from ..tasks import Item, Task, get
from ..utils.io import read_json, write_json
from ..utils.journal import files_digest
from ..utils.locks import write_lock
from ..utils.progress import about
from .gains import Line, lines_of, picture_of, sentences_of
from .study import VARIABLE
from .subsets import Part, Subset, SubsetTraining, result_of
from .work import SentTask, sent_options

log = logging.getLogger(__name__)

RESULT, PICTURE = "how_many.json", "how_many.png"
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training images
FEWEST = 4  # images of the smallest part; smaller ones are left out
FEWEST_SIZES = 3  # of parts: a law has three unknowns
FEWEST_SEEDS = 2  # one alone does not show how much chance there is
MORE = (50, 200)


@dataclass(frozen=True)
class HowMany:
    """The result: a line for all images, then for each class and group."""

    task: Task
    lines: list[Line]
    sentences: list[str]
    files: list[Path]


def how_many(
    task: str | Task,
    data: Path | str | None = None,
    *,
    more: Sequence[int] = MORE,
    seeds: int = 3,
    shares: Sequence[float] = SHARES,
    by: str | None = None,
    table: Path | str | None = None,
    out: Path | str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> HowMany:
    """Estimate what `more` labelled images would add to the scores, for all images, each class, and
    each group.

    Trains with several seeds on nested parts of the training images (`shares` of them), all with
    equally many steps and judged on the same held-out images; fits score = a - b n^-c to the means
    over the seeds, and extrapolates, see `metrics.learning_curves`. For a class, n are the images
    that show it. `by` and `table` name groups of held-out images as for `fastseg.evaluate`.
    `options` are those of `fastseg.fit` that a study can vary. The score at all images is also
    predicted from the smaller parts, as a check. Writes how_many.json and how_many.png to `out`
    (default: exports/TASK_how_many); runs that are there are not trained again. The engine is as
    for `fastseg.study`. Raises `DataError` "too-few-for-curves" for fewer than three usable parts,
    and `FastsegError` kinds.
    """
    task = get(task)
    for name in options:
        choose("option", name, VARIABLE)
    _check(more, seeds, shares)
    FitOptions(**options).check()
    out, place = Path(out or f"exports/{task.name}_how_many"), Path(data or task.default_data)
    items = task.items(place)
    split_seed = options.setdefault("split_seed", FitOptions().seed)
    parts = _parts(task, items, split_seed, shares, place)
    group_of = group_function(by, table, items, place)
    started = engine_of(engine, workers, address, num_gpus)
    with write_lock(out), started as side_by_side:
        description = _write_definition(out, task, data, options)
        results = _train(task, place, parts, seeds, out, options, side_by_side)
        lines = lines_of(task, items, place, results, more, group_of)
        sentences = list(sentences_of(lines, more))
        found = {
            "of": description,
            "figure": task.main_figure,
            "lines": [line.to_json() for line in lines],
            "sentences": sentences,
        }
        from ..report import panels

        drawn = picture_of(task, lines, max(more))
        files = [write_json(out / RESULT, found), panels.write_png(drawn, out / PICTURE)]
    return HowMany(task, lines, sentences, files)


def _check(more: Sequence[int], seeds: int, shares: Sequence[float]) -> None:
    if seeds < FEWEST_SEEDS:
        raise ModelError(
            f"--seeds {seeds} does not show how much chance there is; give at least {FEWEST_SEEDS}",
            "no-seeds",
        )
    if not more or not all(isinstance(count, int) and count >= 1 for count in more):
        raise ModelError("--more takes whole numbers of at least 1", "option-range")
    if not all(0 < share <= 1 for share in shares) or max(shares, default=0) != 1:
        raise ModelError("shares are above 0 and at most 1, and 1 is one of them", "option-range")


def _parts(
    task: Task, items: Sequence[Item], split_seed: int, shares: Sequence[float], place: Path
) -> list[float]:
    """Return the shares whose parts have enough images, ascending, each part once.

    Raises `DataError` for too few.
    """
    train, _ = Part(task, place, split_seed, 1, 1).parts(items)
    sizes: dict[int, float] = {}
    for share in sorted(shares):
        size = len(Part(task, place, split_seed, 1, share).chosen(items, train))
        if size >= FEWEST:
            sizes.setdefault(size, share)
    sizes[len(train)] = 1.0
    if len(sizes) < FEWEST_SIZES:
        raise DataError(
            f"{place}: {len(train)} training images cannot be divided into {FEWEST_SIZES} parts of "
            f"{FEWEST} images or more, by groups; label more images first",
            "too-few-for-curves",
        )
    return sorted(sizes.values())


def _write_definition(
    out: Path, task: Task, data: Path | str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Write and return what the runs depend on. Raises `ModelError` if `out` has something else."""
    given = {key: value for key, value in sorted(options.items()) if value is not None}
    mine: dict[str, Any] = {"task": task.name, "data": str(data) if data else None}
    mine = json.loads(json.dumps({**mine, "options": given}, default=str))
    if (out / RESULT).is_file():
        try:
            theirs = read_json(out / RESULT).get("of")
        except DataError:
            theirs = None
        if theirs != mine:
            raise ModelError(
                f"{out}: holds curves of other data or options; choose another --out, or remove it",
                "study-changed",
            )
        return mine
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(
            f"{out}: exists and holds no learning curves; choose another --out", "not-a-study"
        )
    write_json(out / RESULT, {"of": mine})
    return mine


def _train(
    task: Task,
    place: Path,
    parts: Sequence[float],
    seeds: int,
    out: Path,
    options: Mapping[str, Any],
    engine: Engine,
) -> list[list[dict[str, Any]]]:
    """Train what is not trained yet; return the results by part and seed.

    Runs whose images or labels changed since are trained again.
    """
    if not engine.is_here:
        engine.require_sight(place, out)
    items = task.items(place)
    split_seed = options["split_seed"]
    train, held_out = Part(task, place, split_seed, 1, 1).parts(items)
    jobs = []
    for share in parts:
        for seed in range(1, seeds + 1):
            part = Part(task, place, split_seed, seed, share).chosen(items, train)
            digest = files_digest(items[i].files for i in (*part, *held_out))
            file = Path(os.path.abspath(out)) / f"part_{share:.4f}" / f"seed_{seed}.json"
            jobs.append(Subset(share, seed, str(file), digest))
    left = [job for job in jobs if result_of(job) is None]
    log.info("%d of %d runs are left to train", len(left), len(jobs))

    def started() -> Iterator[Subset]:
        begun = time.monotonic()
        for number, job in enumerate(left, 1):
            share, seed = job.share, job.seed
            # Runs take equally many steps. Until the first one ends, nothing is known.
            passed = time.monotonic() - begun
            rest = passed / max(1, number - 1) * (len(left) - number + 1)
            log.info(
                "run %d of %d: %.3g of the images, seed %d%s",
                number,
                len(left),
                share,
                seed,
                f", {about(rest)} left" if passed > 1 else "",
            )
            yield job

    work = SubsetTraining(
        SentTask.to(engine, task), os.path.abspath(place), sent_options(engine, options)
    )
    for _ in engine.run_long(work, started()):
        pass
    results = {(job.share, job.seed): read_json(Path(job.file)) for job in jobs}
    return [[results[share, seed] for seed in range(1, seeds + 1)] for share in parts]

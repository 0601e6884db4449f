"""What commands print of their results: figures, faults, searches, what was found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import typer

from ..utils.choices import INT8
from ..utils.shell import near, typed
from . import console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..checks.dataset import Audit
    from ..checks.repair import Repaired
    from ..discovery.look import New
    from ..inference.sharded import ShardedRun
    from ..inference.video import VideoResult
    from ..training.tuned import Tuned

# Columns of figures beside each other: with the figures' names, lines have up to 100 characters.
MAX_COLUMNS = 3
SUMMARY = {
    "accuracy": "accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "roc_auc": "ROC AUC",
    "pr_auc": "precision-recall AUC",
    "brier": "Brier score",
    "expected_calibration_error": "expected calibration error",
}


def trained_again(result: dict[str, Any]) -> None:
    """Print how an export compares with the one it was trained on from, and its corrections."""
    again, pins = result.get("again"), result.get("pins")
    if again:
        typer.echo(console.printable(again["comparison"]["verdict"]))
        if again["comparison"]["favour"]:
            typer.echo(console.printable(again["comparison"]["favour"]))
        if again["earlier"]:
            export = typed(near(result["export"]))
            remedy = f"; take it back: fastseg restore {export}"
            worse = console.printable(remedy) if again["comparison"]["is_worse"] else ""
            typer.echo(f"the earlier export: {console.printable(near(again['earlier']))}{worse}")
    if pins:
        typer.echo(pins["text"])
        listed = {
            "came back": "came_back",
            "not learned yet": "not_learned",
            "held out, never trains": "never_trained",
        }
        for title, key in listed.items():
            for name in pins[key]:
                typer.echo(f"  {title}: {console.printable(name)}")


def sharded(run: ShardedRun) -> None:
    """Print what a prediction in shards did, and where its tables are."""
    new = run.images + run.failed - run.reused
    rate = f", {new / run.seconds:.1f} images/s with the start" if new and run.seconds else ""
    images = "1 image" if run.images == 1 else f"{run.images} images"
    typer.echo(f"{images} in {run.out} ({new} now in {run.seconds:.0f} s{rate})")
    typer.echo("\n".join(run.tables))


def converted(result: dict[str, Any], export: str = "") -> None:
    """Print how a converted model compares with its export, and where it is.

    `export` is what was converted, if the model is where predict looks for it.
    """
    from ..conversion.contents import worded

    compared, size = result["compared"], result["bytes"]
    rows: list[tuple[Any, ...]] = [
        ("bytes", f"{size['export']:,}", f"{size['converted']:,}"),
    ]
    if compared:
        times = (f"{compared['latency_ms'][name]:.1f} ms" for name in ("export", "converted"))
        rows = [
            (compared["figure"], compared["export"], compared["converted"]),
            ("an image", *times),
            *rows,
        ]
    console.table(("", "export", result["target"]), rows)
    if compared:
        ends = compared["interval"]
        interval = f" (95% interval {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""
        unit = "pixels" if compared["figure"] == "Dice" else "images"
        change = compared["difference"]
        typer.echo(
            f"{compared['differing']:.4%} of {unit} differ on {compared['images']} images"
            + ("" if compared["held_out"] else ", not held out by training")
            + ("" if change is None else f"; {compared['figure']} {change:+.4f}{interval}")
        )
    for fault in result["gate"]["exceeded"]:
        typer.echo(f"not the same model, kept by --force: {fault}")
    if result["not_run"]:
        typer.echo(f"not compared: {result['not_run']}")
    for name, value in result["format"].items():
        typer.echo(f"{name}: {console.printable(worded(value))}")
    typer.echo(result["written"])
    if export and result["target"] == INT8 and result["gate"]["passed"]:
        typer.echo(f"next: fastseg predict {typed(export)} IMAGES --runtime {INT8}")


def videos(done: Sequence[VideoResult]) -> None:
    """Print what was written of each video."""
    for video in done:
        frames = "1 frame" if video.frames == 1 else f"{video.frames} frames"
        reused = f", {video.reused} of them by an earlier run" if video.reused else ""
        review = f", {video.review} need review" if video.review else ""
        typer.echo(console.printable(f"{video.source}: {frames}{reused}{review}"))
        typer.echo("\n".join(console.printable(str(file)) for file in video.files))


def figures(result: dict[str, Any], title: str | None = None) -> None:
    """Print the metrics of an evaluation: a row for each figure, a column for each class."""
    from ..metrics.figures import FIGURES, never_found

    ends = result.get("intervals", {})
    columns = [
        (name, values, ends.get("classes", {}).get(name, {}))
        for name, values in result["classes"].items()
    ]
    for key, name in (
        ("mean_foreground", "foreground mean"),
        ("mean_with_background", "mean of all"),
        ("mean", "mean"),
    ):
        if key in result:
            columns.append((name, result[key], ends.get(key, {})))
    first = columns[0][1]
    unit = next(key for key in first if key in ("pixels", "images"))
    rows = [(unit, *(values.get(unit, "") for _, values, _ in columns))]
    rows += [
        (
            name,
            *(
                _with_interval(values.get(key), interval.get(key))
                for _, values, interval in columns
            ),
        )
        for key, (name, _) in FIGURES.items()
        if key in first
    ]
    each = math.ceil(len(columns) / math.ceil(len(columns) / MAX_COLUMNS))
    for start in range(0, len(columns), each):
        shown = slice(1 + start, 1 + start + each)
        header = ("", *(name for name, _, _ in columns))
        if start:
            typer.echo()
        console.table(
            (header[0], *header[shown]),
            [(row[0], *row[shown]) for row in rows],
            None if start else title,
        )
    totals = [(name, result[key], ends.get(key)) for key, name in SUMMARY.items() if key in result]
    typer.echo(
        "\n".join(
            f"{name} {_with_interval(value, interval, ' ')}" for name, value, interval in totals
        )
    )
    if lost := never_found(result):
        them = "them" if len(lost) > 1 else "it"
        typer.echo(
            f"never found: {', '.join(map(console.printable, lost))} (recall 0); train longer or "
            f"at a larger --size, and label more images with {them}"
        )
    if unit == "images":
        if result["accuracy"] == 1 and ends:  # the bootstrap interval is empty without any error
            typer.echo(
                f"no error among {result['images']} images: by the rule of three, error rates of "
                f"up to {min(1.0, 3 / result['images']):.0%} are not excluded"
            )
        names = list(result["classes"])
        typer.echo(
            "; ".join(
                f"{true}: " + ", ".join(f"{count} called {said}" for said, count in zip(names, row))
                for true, row in zip(names, result["confusion"])
            )
        )


def faults(audit: Audit, shown: int = 5) -> None:
    """Print the result of a check: the first faults of each kind, and their number."""
    from ..data.issues import KINDS

    for kind, count in audit.kinds.items():
        stops, what = KINDS[kind]
        typer.echo(
            f"{kind} ({count}): {what}" + ("" if stops else " (warning only; training still runs)")
        )
        found = [fault for fault in audit.faults if fault.kind == kind]
        for fault in found[:shown]:
            typer.echo(f"  {console.printable(str(fault))}")
        if len(found) > shown:
            typer.echo(f"  and {len(found) - shown} more (--json lists all)")
    deep = ""
    if audit.deep and audit.depth:
        highest = 2**audit.depth - 1
        have = "1 image has" if audit.deep == 1 else f"{audit.deep} images have"
        deep = f"{have} more than 8 bits; values are scaled by {highest} ({audit.depth} bits)"
    typer.echo(
        "; ".join(
            [
                _images(audit),
                _labels(audit),
                *([deep] if deep else []),
                *([] if audit.kinds else ["nothing is wrong"]),
            ]
        )
    )
    agreement(audit.agreement)


def agreement(found: dict[str, Any] | None) -> None:
    """Print how far people agree who labelled the same pictures, if there are any."""
    from ..metrics.agreement import sentence

    if found:
        typer.echo(sentence(found))


def _images(audit: Audit) -> str:
    """Return a text with the number of labelled images and their sizes."""
    images = "1 labelled image" if audit.images == 1 else f"{audit.images:,} labelled images"
    measured = sum(audit.sizes.values())
    if not measured:
        return images
    size, count = next(iter(audit.sizes.items()))
    if count == audit.images:
        return f"{images} of {size} px"
    if count > measured / 2:
        return f"{images}, {count:,} of them {size} px"
    return (
        f"{images} of {len(audit.sizes)} sizes, most often {size} px ({count:,})"
        if count > 1
        else f"{images}, all of different sizes"
    )


def _labels(audit: Audit) -> str:
    """Return a text with the pixels, or images, of each class in the labels that a fit accepts."""
    if not audit.counted:
        return "no label can be used" if audit.images else "nothing to count"
    counts = {**audit.classes, **({"unlabelled": audit.unlabelled} if audit.unlabelled else {})}
    left = audit.images - audit.counted
    return ", ".join(f"{console.printable(name)} {count:,}" for name, count in counts.items()) + (
        f" (in the {audit.counted:,} labels that can be used)" if left else ""
    )


def repaired(copy: Repaired, folder: Path, task: str, as_json: bool) -> None:
    """Print the content of a repaired copy and the next command; with `as_json`, only problems."""
    if not copy.remaining:
        what = (
            f"none of the {copy.images} labelled images remains"
            if copy.images
            else "there is no labelled image to repair"
        )
        console.say(
            f"error: {what}: {copy.set_aside} files are in {folder / 'set_aside'}, with the "
            f"reasons in {copy.log}; correct them in the original data",
            "red",
        )
    elif copy.unusable:
        console.say(
            f"error: {copy.remaining} of {copy.images} labelled images remain in {folder}, but a "
            f"fit would refuse them: {copy.unusable}",
            "red",
        )
    elif not as_json:
        aside = f", {copy.set_aside} files are set aside" if copy.set_aside else ""
        typer.echo(
            f"a repaired copy is in {folder}: {copy.remaining} of {copy.images} labelled images "
            f"remain{aside}; the changes are listed in {copy.log}; "
            f"next: fastseg check {typed(task)} --data {typed(folder)}"
        )


def tuned(result: Tuned, shown: int = 5) -> None:
    """Print the best trials of a search, and whether the best setting is better than the recipe."""
    figure = result.task.main_figure.lower()
    left_out = ("trial", "recipe", "state", "epochs", "problem")
    complete = [row for row in result.trials if row["state"] == "complete"]
    complete.sort(key=lambda row: -row[figure])
    states = {row["state"]: 0 for row in result.trials}
    for row in result.trials:
        states[row["state"]] += 1
    header = ("trial", *(name for name in result.trials[0] if name not in left_out))
    typer.echo(
        f"best trials, by {result.task.main_figure} on images that settings were chosen by, which "
        "is too optimistic:"
    )
    console.table(
        header,
        [
            (
                f"{row['trial']}{' (recipe)' if row['recipe'] else ''}",
                *(row[name] if name == figure else str(row[name]) for name in header[1:]),
            )
            for row in complete[:shown]
        ],
    )
    typer.echo(f"trials: {', '.join(f'{count} {state}' for state, count in states.items())}")
    typer.echo(result.verdict)
    if result.written:
        typer.echo(f"{result.written}: [recipe] has the best setting now")
    elif result.best:
        typer.echo(f"to train with the best setting: {result.command}")
    typer.echo("\n".join(map(str, result.files)))


def found(made: New) -> None:
    """Print what `new` found, with the evidence, and what it wrote."""
    from ..tasks.base import reference_of

    for subject, lines in made.evidence.items():
        for line in lines:
            typer.echo(console.printable(f"{subject}: {line}"))
    for question in made.questions:
        typer.echo(console.printable(f"please check: {question}; taken: {question.likelier}"))
    folder = reference_of(made.path.parent)
    picture = f"; look at {made.picture}" if made.picture else ""
    following = f"fastseg fit {folder}"
    if made.waiting:
        what = "the image" if made.waiting == 1 else f"the {made.waiting} images"
        following = f"fastseg app {folder}, to label {what} without a label, and to train"
    typer.echo(f"wrote {made.path}{picture}; next: {following}")


def groups(parts: dict[str, dict[str, Any]], by: str) -> None:
    """Print the main figures of each group of images, with their intervals."""
    from ..metrics.figures import FIGURES

    keys = (
        ("dice", "iou", "boundary_f1")
        if "mean_foreground" in next(iter(parts.values()))
        else ("accuracy", "roc_auc")
    )

    def cell(part: dict[str, Any], key: str) -> str:
        values, ends = part.get("mean_foreground", part), part.get("intervals", {})
        return _with_interval(values[key], ends.get("mean_foreground", ends).get(key), " ")

    console.table(
        (by, "images", *(SUMMARY.get(key) or f"foreground {FIGURES[key][0]}" for key in keys)),
        [
            (name, part["images"], *(cell(part, key) for key in keys))
            for name, part in parts.items()
        ],
    )


def _with_interval(value: float | None, ends: list[float] | None, between: str = "\n") -> str:
    digits = 4 if value is None or abs(value) < 2 else 2
    return (
        "absent"
        if value is None
        else f"{value:.{digits}f}"
        + (f"{between}({ends[0]:.{digits}f} to {ends[1]:.{digits}f})" if ends else "")
    )

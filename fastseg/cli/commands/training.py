"""One fit, and its learning rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...learners.options import LEARNER_OPTIONS, OPTIONS
from .. import console, corrections, results
from ..arguments import Data, Json, TaskName
from ..group import STARTED, app, is_first_process
from ..options import SHORTEST_BUDGET, with_fit_options


@app.command(epilog="Example: fastseg lr eye --bs 4")
@with_fit_options(*(name for name in LEARNER_OPTIONS if name not in ("precision", "cache")))
def lr(
    task: TaskName,
    data: Data = None,
    *,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path], typer.Option("--out", help="PNG file [default: TASK_lr_find.png].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find a learning rate with fastai's range test: prints the suggestion, saves the plot."""
    from ...training.fit import find_lr

    suggestion, plot = find_lr(task, data, out=out, **options)
    if as_json:
        return console.as_json({"lr": float(f"{suggestion:.3g}"), "plot": str(plot)})
    typer.echo(
        f"suggested learning rate: {suggestion:.2e}  "
        f"(plot: {plot}; use it with: fastseg fit {task} --lr {suggestion:.2e})"
    )


@app.command(epilog="Example: fastseg fit eye --arch resnet34 --epochs 8")
@with_fit_options(*OPTIONS)
def fit(
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[TASK]",
            help="A task's name (fastseg tasks lists them), or a folder with a task.toml; not "
            "needed with --from.",
        ),
    ] = None,
    data: Data = None,
    *,
    start: Annotated[
        Optional[Path],
        typer.Option(
            "--from",
            metavar="EXPORT",
            help="Train on from this export, with corrected and new images, and replace it; the "
            "replaced one is kept in .earlier. What it held out stays held out.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Do not replace an earlier export if a correction came back.",
        ),
    ] = False,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Export folder to write [default: exports/TASK]."),
    ] = None,
    resume: Annotated[
        Optional[bool],
        typer.Option(
            "--resume/--no-resume",
            help="Resume an interrupted fit with its own options, or discard it.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        Optional[int],
        typer.Option(
            "--processes",
            min=1,
            help="Processes of this machine that share each batch, one for each GPU, with the "
            "steps of one process.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on a task's data by one-cycle and write the export: model, card, history, metrics,
    pictures.
    """
    if options["time_budget"] is not None and options["epochs"] is not None:
        raise typer.BadParameter("give either --epochs or --time-budget")
    if task is None and start is None:
        raise typer.BadParameter("name a task, or an export to train on --from")
    from ...training.fit import fit as call

    if options["time_budget"] is not None:  # importing the libraries takes seconds, too
        elapsed = time.monotonic() - STARTED
        options["time_budget"] = max(SHORTEST_BUDGET, options["time_budget"] - elapsed)
    result = call(
        task,
        data,
        again=start,
        strict=strict,
        out=out,
        resume=resume,
        processes=processes,
        **options,
    )
    if not is_first_process():
        return
    if as_json:
        return console.as_json(result)
    results.figures(result["metrics"])
    decimals = 1 if result["seconds"] < 10 else 0
    typer.echo(
        f"weights: {result['weights']}; trained for {result['seconds']:.{decimals}f} s; "
        f"export: {result['export']}"
    )
    results.trained_again(result)
    corrections.next_steps(result["export"])

"""What is learned from many fits: comparisons, searches, learning curves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...learners.options import OPTIONS
from .. import console, results
from ..arguments import Data, Json, TaskName
from ..blocks import with_blocks
from ..group import STARTED, app
from ..options import SHORTEST_BUDGET, read_value, varied_options, with_fit_options


@app.command(
    epilog="Example: fastseg study face --vary opt=adamw,sgd --vary lr=1e-4,1e-2 "
    "--together --seeds 3"
)
@with_fit_options("weights", "epochs", "size", "device", "track")
@with_blocks
def study(
    task: TaskName,
    data: Data = None,
    *,
    vary: Annotated[
        Optional[list[str]],
        typer.Option(
            "--vary",
            metavar="OPTION=A,B,...",
            help="An option of fit and its values, such as "
            "opt=adamw,sgd; can be repeated. A single value fixes the option.",
        ),
    ] = None,
    how_many: Annotated[
        bool,
        typer.Option(
            "--how-many",
            help="Estimate what more labelled images would give, by learning curves of parts of "
            "the training images.",
        ),
    ] = False,
    more: Annotated[
        Optional[list[int]],
        typer.Option(
            "--more",
            min=1,
            help="With --how-many: a number of further images; can be repeated [default: 50, 200].",
        ),
    ] = None,
    by: Annotated[
        Optional[str],
        typer.Option(
            "--by", help="With --how-many: groups of held-out images, as for fastseg evaluate."
        ),
    ] = None,
    table: Annotated[
        Optional[Path], typer.Option("--table", help="With --by: a table with a column of groups.")
    ] = None,
    together: Annotated[
        bool,
        typer.Option("--together", help="Pair the values in order; do not try all combinations."),
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="How often each setting is trained.")
    ] = 3,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            help="Folder of the study [default: exports/TASK_study, or exports/TASK_how_many].",
        ),
    ] = None,
    engines: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Train a grid of settings with several seeds; report the best, and whether its lead is
    significant. With --how-many: what more labelled images would give. An interrupted study is
    resumed.
    """
    given = varied_options(vary or [])
    fixed = {**options, **{name: values[0] for name, values in given.items() if len(values) == 1}}
    fixed = {name: value for name, value in fixed.items() if value is not None}
    if how_many:
        if together or any(len(values) > 1 for values in given.values()):
            raise typer.BadParameter("--how-many compares no settings: give each --vary one value")
        if options["track"]:
            raise typer.BadParameter("--how-many writes no exports: leave --track out")
        return _how_many(task, data, fixed, more, seeds, by, table, out, engines, as_json)
    if more or by or table:
        raise typer.BadParameter("--more, --by and --table are for --how-many")
    if not vary:
        raise typer.BadParameter("give --vary OPTION=A,B,..., or --how-many")
    from ...training.study import study as call

    result = call(
        task,
        data,
        vary={name: values for name, values in given.items() if len(values) > 1},
        together=together,
        seeds=seeds,
        out=out,
        **engines,
        **fixed,
    )
    if as_json:
        return console.as_json(
            {
                "settings": result.settings,
                "comparisons": result.comparisons,
                "verdicts": result.verdicts,
                "files": [str(file) for file in result.files],
            }
        )
    console.table(
        ("setting", "mean", "std over seeds", "seeds"),
        [
            (name, row["mean"], row["std"], ", ".join(f"{v:.4f}" for v in row["values"]))
            for name, row in result.settings.items()
        ],
    )
    results.agreement(result.agreement)
    typer.echo("\n".join([*result.verdicts, *map(str, result.files)]))


def _how_many(
    task: str,
    data: Path | None,
    fixed: dict[str, Any],
    more: list[int] | None,
    seeds: int,
    by: str | None,
    table: Path | None,
    out: Path | None,
    engines: dict[str, Any],
    as_json: bool,
) -> None:
    """Do `study --how-many`."""
    from ...training.how_many import MORE
    from ...training.how_many import how_many as call

    result = call(
        task,
        data,
        more=more or MORE,
        seeds=seeds,
        by=by,
        table=table,
        out=out,
        **engines,
        **fixed,
    )
    files = [str(file) for file in result.files]
    if as_json:
        lines = [line.to_json() for line in result.lines]
        return console.as_json({"lines": lines, "sentences": result.sentences, "files": files})
    console.table(
        ("", "images", "figure", "score"),
        [(line.name, f"{line.images:.0f}", line.figure, line.score) for line in result.lines],
    )
    typer.echo("\n".join([*result.sentences, *files]))


@app.command(epilog="Example: fastseg tune eye --trials 30 --time-budget 2h")
@with_fit_options("weights", "epochs", "size", "seed", "device")
@with_blocks
def tune(
    task: TaskName,
    data: Data = None,
    *,
    trials: Annotated[
        int, typer.Option("--trials", help="How many settings are tried in total.")
    ] = 30,
    time_budget: Annotated[
        Optional[str],
        typer.Option(
            "--time-budget",
            metavar="TIME",
            help="Total time, such as 30m or 2h, with the comparison at the end.",
        ),
    ] = None,
    vary: Annotated[
        Optional[list[str]],
        typer.Option(
            "--vary",
            metavar="OPTION=A,B,...",
            help="What is searched in place of the default, such as lr=1e-4,1e-2 (a range) or "
            "arch=resnet18,resnet34; can be repeated. A single value fixes the option.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Seeds of the comparison with the recipe.")
    ] = 3,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the search [default: exports/TASK_tune]."),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Write the best setting into the [recipe] of the task.toml, if it is clearly "
            "better.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --write: even if it is not clearly better.")
    ] = False,
    engines: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Search for a better setting than the task's recipe, by images of the training part alone;
    compare both on held-out images. An interrupted search is resumed.
    """
    if force and not write:
        raise typer.BadParameter("--force is for --write")
    budget = read_value(OPTIONS["time_budget"], time_budget)
    from ...training.tune import tune as call

    if budget is not None:  # importing the libraries takes seconds, too
        budget = max(SHORTEST_BUDGET, budget - (time.monotonic() - STARTED))
    result = call(
        task,
        data,
        trials=trials,
        time_budget=budget,
        vary=varied_options(vary or []),
        seeds=seeds,
        out=out,
        write=write,
        force=force,
        **engines,
        **{name: value for name, value in options.items() if value is not None},
    )
    if as_json:
        return console.as_json(
            {
                "best": result.best,
                "search": result.search,
                "held_out": result.held_out,
                "is_better": result.is_better,
                "verdict": result.verdict,
                "command": result.command,
                "written": str(result.written) if result.written else None,
                "trials": result.trials,
                "files": [str(file) for file in result.files],
            }
        )
    results.tuned(result)

"""How good an export is, and where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .. import console, results
from ..arguments import (
    Device,
    Export,
    Json,
    Precision,
    Runtime,
    Split,
    TaskOrExport,
    TrainedData,
)
from ..blocks import with_blocks
from ..group import app


@app.command(epilog="Example: fastseg evaluate eye --compare exports/eye_sgd --by group")
@with_blocks
def evaluate(
    task: TaskOrExport,
    data: TrainedData = None,
    split: Split = "valid",
    export: Export = None,
    compare: Annotated[
        Optional[str],
        typer.Option(
            "--compare",
            metavar="EXPORT",
            help="Another export: is the difference on these images significant?",
        ),
    ] = None,
    by: Annotated[
        Optional[str],
        typer.Option(
            "--by",
            metavar="COLUMN|group",
            help="Results by group (eye set, subject), source, "
            "split, folder, a column of --table, or what a regular expression finds in the "
            "file's name.",
        ),
    ] = None,
    table: Annotated[
        Optional[Path],
        typer.Option("--table", help="CSV or TSV file for --by, whose first column names images."),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            help="Folder for metrics.json and per_image.csv [default: evaluation in the export].",
        ),
    ] = None,
    *,
    predicting: dict[str, Any],
    engines: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Measure an export on labelled images, at original size: each class's figures over the
    dataset, with 95% intervals.
    """
    from ...corrections.favoured import favour_of
    from ...evaluation.run import evaluate as call
    from ...exports.addresses import is_address
    from ...exports.read import opened

    result = call(
        task,
        data,
        split=split,
        export=export,
        compare=compare,
        by=by,
        table=table,
        out=out,
        **predicting,
        **engines,
    )
    is_held_out = result["split"] == "valid"
    found = opened(None if is_address(task) else task, result["export"])[0]
    exports = {"this export": result["export"]}
    result["favour"] = favour_of(found, result["data"], exports) if is_held_out else ""
    if as_json:
        return console.as_json(result)
    results.figures(result)
    results.agreement(result["agreement"])
    if result["favour"]:
        typer.echo(console.printable(result["favour"]))
    if by:
        results.groups(result["by"], by)
    if compare:
        typer.echo(result["comparison"]["verdict"])
    typer.echo(
        f"{result['images']} images ({result['split']}) of {result['data']}; "
        f"export: {result['export']}; "
        f"weights: {result['weights']}\n" + "\n".join(result["written"])
    )


@app.command(epilog="Example: fastseg interpret eye")
def interpret(
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[TASK]",
            help="A task's name, or the folder of an export [default: the newest export].",
        ),
    ] = None,
    data: TrainedData = None,
    export: Export = None,
    split: Split = "valid",
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder for page and pictures [default: the export's]."),
    ] = None,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Show where an export is right and wrong, and which labels may be wrong: a report page,
    pictures for papers, tables.
    """
    from ...report.results import interpret as call

    result = call(
        task,
        data,
        export=export,
        split=split,
        out=out,
        device=device,
        runtime=runtime,
        precision=precision,
    )
    if as_json:
        return console.as_json(
            {
                "export": str(result.folder),
                "files": [str(f) for f in result.files],
                "metrics": result.metrics,
                "losses": result.losses,
            }
        )
    review = (
        f"{len(result.needing_review())} of which a person should look at"
        if result.card.review
        else "with no review thresholds"
    )
    typer.echo(f"{len(result.images)} images ({split}), {review}")
    for true, predicted, share in result.most_confused(0.001)[:3]:
        typer.echo(
            f"  {share:.1%} of {console.printable(true)} is taken for "
            f"{console.printable(predicted)}"
        )
    for file in result.files:
        typer.echo(file)

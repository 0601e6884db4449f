"""Numbers from masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...utils.text import figure
from .. import console
from ..arguments import Export, Json, Level, Ratio, Spacing, TaskOrExport, TrainedData
from ..blocks import with_blocks
from ..group import app

SHOWN = ("area", "diameter", "major_axis", "minor_axis")  # measures of classes in the table
MOST_ROWS = 40  # that are printed


@app.command(epilog="Example: fastseg measure eye my_photos/ --whole --ratio pupil/iris")
@with_blocks
def measure(
    task: TaskOrExport,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Files, folders or globs of images, which the export predicts, or of masks in the "
            "task's format.",
        ),
    ],
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out", help="Folder for tables, pictures and summary.html [default: FOLDER_measures]."
        ),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="One row for each class of an image, not for each object."),
    ] = False,
    ratio: Ratio = None,
    spacing: Spacing = None,
    mm: Annotated[
        bool,
        typer.Option("--mm", help="Measure in mm, by the headers: DICOM, NIfTI, TIFF, EXIF."),
    ] = False,
    by: Annotated[
        Optional[str],
        typer.Option(
            "--by",
            metavar="COLUMN|group",
            help="Means by group (eye set, subject), folder, a column of --table, or what a "
            "regular expression finds in the file's name.",
        ),
    ] = None,
    table: Annotated[
        Optional[Path],
        typer.Option("--table", help="CSV or TSV file for --by, whose first column names images."),
    ] = None,
    level: Level = 0.9,
    truth: Annotated[
        Optional[Path],
        typer.Option(
            "--truth",
            metavar="MASKS",
            help="Folder with true masks of some of the images, which rectify the means.",
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Intervals from the held-out images in --data, not from the export's card.",
        ),
    ] = False,
    data: TrainedData = None,
    masks: Annotated[
        Optional[bool],
        typer.Option("--masks/--images", help="What PATH is [default: by decoding some files]."),
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=-1, help="Pictures with ellipses; -1: of all images.")
    ] = 6,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write the tables as parquet, too.")
    ] = False,
    export: Export = None,
    *,
    predicting: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Measure the objects in images or masks: size, place, shape and ratios, with intervals, means
    of groups, and a page.
    """
    from ...measuring.run import measure as call

    result = call(
        task,
        paths,
        out,
        whole=whole,
        ratios=ratio or (),
        spacing=spacing,
        mm=mm,
        by=by,
        table=table,
        level=level,
        truth=truth,
        calibrate=calibrate,
        data=data,
        masks=masks,
        pictures=None if pictures < 0 else pictures,
        parquet=parquet,
        export=export,
        **predicting,
    )
    if as_json:
        return console.as_json(result)
    _print_means(result, by)
    typer.echo(f"{result['measured']}, in {result['unit']}; means with {100 * level:g} % intervals")
    for path in result["written"]:
        if "/pictures/" not in Path(path).as_posix():
            typer.echo(path)


def _print_means(result: dict[str, Any], by: str | None) -> None:
    """Print the means of the usual measures of each class, and of what is between classes."""
    rows = []
    for mean in result["groups"]:
        if mean["measure"] in (*SHOWN, "value"):
            interval = (
                "" if mean["low"] is None else f"{figure(mean['low'])} to {figure(mean['high'])}"
            )
            value = "" if mean["mean"] is None else figure(mean["mean"])
            rows.append(
                (
                    *([mean["group"]] if by else []),
                    mean["class"],
                    mean["measure"].replace("_", " "),
                    value,
                    interval,
                    mean["images"],
                    mean["labelled"],
                )
            )
    header = (*([by] if by else []), "class", "measure", "mean", "interval", "images", "labelled")
    console.table(header, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        typer.echo(f"{len(rows) - MOST_ROWS} more are in groups.csv")

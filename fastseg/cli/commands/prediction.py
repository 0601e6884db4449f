"""An export at work on new images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .. import console, corrections, results
from ..arguments import (
    Export,
    Json,
    Level,
    Precision,
    Ratio,
    Runtime,
    Spacing,
    TaskOrExport,
)
from ..blocks import with_blocks
from ..group import app


@app.command(epilog="Example: fastseg predict kitchen test/")
@with_blocks
def predict(
    task: TaskOrExport,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Image files, folders or globs; also manifests (.csv, .tsv, .parquet), .zip, .tar "
            "shards, and URLs of them such as s3://bucket/photos; or videos, a camera as camera:0, "
            "numbered images as 'frames/%05d.png'.",
        ),
    ],
    out: Annotated[
        Optional[str],
        typer.Option(
            "--out",
            help="Folder or URL for masks and predictions.csv, or file for one mask alone or "
            "the table "
            "[default: FOLDER_inf_masks, or FOLDER_inf_subjects.tsv].",
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write overlays too, in the subfolder overlays.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write calibrated probabilities too, float16, as npz files "
            "in the subfolder probabilities.",
        ),
    ] = False,
    format: Annotated[
        Optional[str],
        typer.Option(
            "--format",
            help="Write labels to correct too, in the subfolder of this name, with copies of the "
            "images: coco, cvat, labelme, labelstudio, yolo, voc or png.",
        ),
    ] = None,
    error_rate: Annotated[
        float,
        typer.Option(
            "--error-rate",
            help="Largest mean error that predictions without review may have, "
            "0.01 to 0.5; sets the needs_review column of predictions.csv.",
        ),
    ] = 0.1,
    export: Export = None,
    *,
    videos: dict[str, Any],
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Videos: add the classes' diameters, axes, areas and places to frames.csv, with "
            "intervals, and draw their curves over time; --ratio and --spacing include it.",
        ),
    ] = False,
    ratio: Ratio = None,
    spacing: Spacing = None,
    level: Level = 0.9,
    predicting: dict[str, Any],
    engines: dict[str, Any],
    pack: Annotated[
        bool, typer.Option("--pack", help="In shards: write one tar file of masks for each shard.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a mask for each image, at its own size and under its own name, in the task's own
    format, and predictions.csv; for each video a video of masks, and frames.csv.

    With --engine or --workers, and for URLs, manifests and archives, images are predicted in
    shards, for any number of them; the same command continues a run that was stopped.
    """
    from ...inference.batch import predict as call

    meter = None
    if measure or ratio or spacing:
        from ...measuring.video import FrameMeter

        meter = FrameMeter(tuple(ratio or ()), spacing, level)
    written = call(
        task,
        paths,
        out,
        overlay=overlay,
        probabilities=probabilities,
        format=format,
        error_rate=error_rate,
        export=export,
        **videos,
        meter=meter,
        **predicting,
        **engines,
        pack=pack,
    )
    if as_json:
        return console.as_json(
            {
                "written": [str(path) for path in written],
                "skipped": [str(path) for path in written.skipped],
                **({"run": asdict(written.run)} if written.run else {}),
                **(
                    {"videos": [video.to_json() for video in written.videos]}
                    if written.videos
                    else {}
                ),
            }
        )
    if written.run:
        return results.sharded(written.run)
    if written.videos:
        return results.videos(written.videos)
    # A table of classes may be a .csv file, too; predictions.csv and failed.csv go with any result.
    beside = [path for path in written if path.name.endswith(("predictions.csv", "failed.csv"))]
    listed = {path.parent for path in beside} or {path.parent for path in written[:1]}
    masks = [path for path in written if path.parent in listed and path not in beside]
    folders = sorted({str(path.parent) for path in masks})
    typer.echo(
        (str(masks[0]) if len(masks) == 1 else f"{len(masks)} files in {', '.join(folders)}")
        + (f", overlays in {masks[0].parent / 'overlays'}" if overlay else "")
        + (f", probabilities in {masks[0].parent / 'probabilities'}" if probabilities else "")
        + (f", labels to correct in {masks[0].parent / format}" if format else "")
    )
    corrections.to_review(written.export, beside)


@app.command(epilog="Example: fastseg segment room.jpg --surname Doe --name Jane")
def segment(
    file: Annotated[Optional[Path], typer.Argument(metavar="[FILE]", help="An image file.")] = None,
    url: Annotated[
        Optional[str],
        typer.Option("--url", help="An image's http or https address, instead of FILE."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture.")] = Path("output"),
    surname: Annotated[
        Optional[str], typer.Option("--surname", help="First part of the file name.")
    ] = None,
    name: Annotated[
        Optional[str], typer.Option("--name", help="Second part of the file name.")
    ] = None,
    export: Annotated[
        Optional[str],
        typer.Option(
            "--export",
            help="Export of any task with masks: a folder, FILE.zip, hub:OWNER/NAME, or a URL "
            "[default: exports/surfaces].",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = "cpu",
    runtime: Runtime = "auto",
    precision: Precision = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Let --url reach private addresses.")
    ] = False,
    tiles: Annotated[
        Optional[int],
        typer.Option(
            "--tiles",
            min=1,
            max=8,
            help="Number of tiles per side: finer outlines of "
            "large photographs [default: by its size].",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Mark the classes of an export on one photograph, by default walls, floor and dining tables;
    prints the share of each class, and with --json each region.
    """
    if (file is None) == (url is None):
        raise typer.BadParameter("give either FILE or --url")
    from ...inference.photo import segment as call

    result = call(
        file,
        url=url,
        out=out,
        surname=surname,
        name=name,
        export=export,
        device=device,
        allow_private=allow_private,
        tiles=tiles,
        runtime=runtime,
        precision=precision,
    )
    if as_json:
        return console.as_json(
            {
                "file": str(result.path),
                "height": result.size[0],
                "width": result.size[1],
                "shares": result.shares,
                "regions": [region.to_json() for region in result.regions()],
            }
        )
    for label, share in result.shares.items():
        typer.echo(f"{label:14} {share:6.1%}")
    typer.echo(result.path)

"""Data and models from other sources, and data for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ...learners.options import MAX_SEED
from ...utils.shell import typed
from .. import console
from ..arguments import Data, Json, TaskName
from ..group import app


@app.command(epilog="Example: fastseg masks face photos/ --preview")
def masks(
    task: TaskName,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder of pictures of faces, or in the task's own layout."
        ),
    ],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the dataset to make [default: data/TASK]."),
    ] = None,
    region: Annotated[
        str, typer.Option("--region", help="iris: whole circles; eye: what lies between the lids.")
    ] = "iris",
    edge: Annotated[
        str,
        typer.Option("--edge", help="hard: 0 and 255; soft: how much of each pixel is covered."),
    ] = "hard",
    rounding: Annotated[
        str,
        typer.Option(
            "--rounding",
            help="subpixel, or published: truncated to whole pixels, as the published "
            "masks of this task were.",
        ),
    ] = "subpixel",
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Write picture, landmarks and mask side by side, in the subfolder preview.",
        ),
    ] = False,
    valid: Annotated[
        float, typer.Option("--valid", help="Share of the pictures to validate with.")
    ] = 0.2,
    test: Annotated[
        float, typer.Option("--test", help="Share of the pictures for a test folder.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Which pictures go where.")
    ] = 42,
    as_json: Json = False,
) -> None:
    """Make masks of the eyes in pictures of faces by mediapipe's landmarks, split and ready to fit;
    needs the extra face.
    """
    from ...importers.face_masks import make_masks

    made = make_masks(
        task,
        folder,
        out,
        region=region,
        edge=edge,
        rounding=rounding,
        preview=preview,
        valid=valid,
        test=test,
        seed=seed,
    )
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "splits": made.splits,
                "eyes": made.eyes,
                "rejected": made.rejected,
            }
        )
    if made.rejected:
        typer.echo(
            f"{sum(made.rejected.values())} pictures have no mask, "
            f"see {made.out / 'rejected.csv'}: "
            + ", ".join(f"{count} {reason}" for reason, count in sorted(made.rejected.items()))
        )
    typer.echo(
        f"{made.eyes} eyes in {sum(made.splits.values())} pictures are in {made.out} ("
        + ", ".join(f"{count} {split}" for split, count in made.splits.items())
        + f"); next: fastseg fit {task} --data {typed(made.out)}"
    )


@app.command(epilog="Example: fastseg convert eye eye_coco --to coco")
def convert(
    source: TaskName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="png (masks of class codes), voc, coco, cvat, labelme, labelstudio or yolo.",
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a task's images and masks in the format of another tool, with a task.toml, to a new
    folder.
    """
    from ...importers.conversion import convert as call

    made = call(source, out, to, data)
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "format": made.format,
                "images": made.images,
                "splits": made.splits,
                "files": [str(file) for file in made.files],
            }
        )
    from ...tasks.base import reference_of

    counts = ", ".join(f"{count} {split}" for split, count in made.splits.items() if split)
    typer.echo(
        f"{made.images} images are in {made.out}"
        + (f" ({counts})" if counts else "")
        + f"; next: fastseg fit {reference_of(made.out)}"
    )


@app.command(epilog="Example: fastseg adopt surfaces")
def adopt(
    task: TaskName,
    source: Annotated[
        Optional[str],
        typer.Option(
            "--from",
            metavar="ID|DIR|FILE",
            help="Model on the hub, or a folder (or the "
            "safetensors file in one) that segmentation-models-pytorch's save_pretrained wrote "
            "[default: smp-hub/upernet-convnext-tiny].",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Export folder to write [default: exports/TASK]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a pretrained ADE20K model as an export; its 150 classes become the task's: useful
    before anything is trained.
    """
    from ...importers.smp_hub import FREE
    from ...importers.smp_hub import adopt as call

    result = call(task, source or FREE, out)
    if as_json:
        return console.as_json(
            {"export": str(result.export), "model": result.model, "licence": result.licence}
        )
    typer.echo(
        f"{result.export}: {result.model}, from {source or FREE}; "
        f"licence of its weights: {result.licence}\n"
        "next: fastseg segment FILE, or train on from it: "
        f"fastseg fit {task} --weights {result.export} --out exports/{task}_tuned"
    )


@app.command(epilog="Example: fastseg gather surfaces opensurfaces/ --out data/opensurfaces")
def gather(
    task: TaskName,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="OpenSurfaces or Open Images as distributed.")
    ],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the dataset to make [default: data/TASK]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert OpenSurfaces or Open Images to the task's codes; all else becomes unlabelled."""
    from ...importers.surfaces import gather as call

    made = call(task, folder, out)
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "source": made.source,
                "images": made.images,
                "pixels": made.pixels,
            }
        )
    counts = ", ".join(f"{name} {count:,} px" for name, count in made.pixels.items())
    typer.echo(
        f"{made.images} pictures of {made.source} are in {made.out} ({counts}); "
        f"next: fastseg fit {task} --data {typed(made.out)}"
    )

"""What to label next, and labels with a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...utils.shell import typed
from .. import console
from ..arguments import Data, Device, Export, Json, Precision, Runtime, Trust
from ..group import app

Source = Annotated[
    str,
    typer.Argument(
        metavar="TASK|DIR",
        help="A task's name, a folder with a task.toml, an export's folder, or a folder of "
        "photographs.",
    ),
]


@app.command("next", epilog="Example: fastseg next eye --n 20")
def next_(
    source: Source,
    data: Data = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 20,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="auto, mixed (diverse ones among those of large expected error), error, "
            "diversity, rarity (of classes) or random.",
        ),
    ] = "auto",
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Order images with a label, too.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --by random.")] = 0,
    export: Export = None,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Say which images to label next: where the export expects errors, unlike the labelled ones,
    with rare classes.
    """
    from ...corrections.order import next_images
    from ...corrections.source import is_photos

    photos = Path(source) if is_photos(source) else None
    found = next_images(
        None if photos else source,
        data,
        export,
        n,
        by=by,
        photos=photos,
        labelled=labelled,
        seed=seed,
        device=device,
        runtime=runtime,
        precision=precision,
        trust=trust,
    )
    if as_json:
        return console.as_json([candidate.to_json() for candidate in found])
    reviews = {None: "", True: "yes", False: "no"}
    console.table(
        ("", "image", "expected error", "needs review", "why"),
        [
            (
                number,
                console.printable(str(candidate.image)),
                candidate.expected_error,
                reviews[candidate.needs_review],
                candidate.reason,
            )
            for number, candidate in enumerate(found, 1)
        ],
    )
    what = "this image" if len(found) == 1 else f"these {len(found)} images"
    typer.echo(
        f"label {what}, in the app (fastseg app {typed(source)}) or any other tool; then train on "
        "with: fastseg fit TASK --from EXPORT"
    )

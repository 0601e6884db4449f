"""What to label next, and labels with a certificate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...utils.shell import typed
from .. import console
from ..arguments import Data, Export, Json
from ..blocks import with_blocks
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
@with_blocks
def next_(
    source: Source,
    data: Data = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 20,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="random, error (expected), diversity, rarity (of classes), mixed (diverse ones "
            "among those of large expected error), or auto: random, which nothing clearly beat.",
        ),
    ] = "auto",
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Order images with a label, too.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --by random.")] = 0,
    export: Export = None,
    *,
    loading: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Say which images to label next: at random, or where the export expects errors, unlike the
    labelled ones, or with rare classes.
    """
    from ...corrections.order import next_images
    from ...corrections.source import is_photos
    from .. import corrections

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
        **loading,
    )
    if found.left_out:
        image, why = next(iter(found.left_out.items()))
        count = "1 image is" if len(found.left_out) == 1 else f"{len(found.left_out)} images are"
        console.say(f"{count} left out, such as {image}: it {why}")
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
    images = [candidate.image for candidate in found]
    what = "it" if len(found) == 1 else "them"
    first = f"{corrections.copying(found.export, data, images) if photos else ''}label {what}"
    folder = found.export.parent if found.export.suffix == ".pkl" else found.export
    where = f"fastseg app {typed(folder if photos else source)}"
    typer.echo(
        f"next: {first} in the app ({where}) or with any tool, then train on: "
        f"fastseg fit --from {typed(folder)}"
    )


@app.command(epilog="Example: fastseg add eye corrections.zip")
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TASK|DIR", help="A task's name, or a folder with a task.toml: the data."
        ),
    ],
    archive: Annotated[
        Path,
        typer.Argument(
            metavar="ZIP", help="corrections.zip, which the page of export --to html downloads."
        ),
    ],
    data: Data = None,
    export: Export = None,
    as_json: Json = False,
) -> None:
    """Add corrected images and labels to the data, as the app would: fit --from trains on them."""
    from ...corrections.incoming import add as call

    added = call(source, archive, data, export)
    if as_json:
        console.as_json(asdict(added))
    else:
        count = len({row.image for row in added.saved})
        typer.echo(f"labels added: {count}; the same as before: {len(added.known)}")
        if added.replaced:
            names = ", ".join(map(console.printable, added.replaced[:5]))
            more = "" if len(added.replaced) <= 5 else f" and {len(added.replaced) - 5} more"
            typer.echo(f"replaced a label, which is kept as a version: {names}{more}")
    for name, why in added.refused.items():
        console.say(f"{name}: not added: {why}")
    if added.refused:
        raise typer.Exit(1)
    if added.saved and not as_json:
        where = typed(str(export or f"exports/{Path(source).name}"))
        place = "" if data is None else f" --data {typed(data)}"
        typer.echo(
            f"next: look in fastseg app {typed(source)}{place}; "
            f"train on: fastseg fit --from {where}{place}"
        )


@app.command(epilog="Example: fastseg label photos/ --audit 100 --export exports/eye")
@with_blocks
def label(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of photographs.")],
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[TASK]", help="Whose export labels [default: the newest export's]."
        ),
    ] = None,
    audit: Annotated[
        int, typer.Option("--audit", min=1, help="How many images a person looks at.")
    ] = 100,
    error: Annotated[
        float,
        typer.Option(
            "--error",
            help="Largest mean error of the labels that are certified: 1 - Dice, or wrong classes.",
        ),
    ] = 0.05,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Probability that the statement is right.")
    ] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw.")] = 0,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Folder to write [default: DIR_labelled].")
    ] = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="All drawn images were looked at and corrected in the files."
        ),
    ] = False,
    export: Export = None,
    *,
    loading: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Label a folder with an export; certify the labels' error by an audit of a random sample; send
    the rest to review.
    """
    from ...corrections.audit import label as call

    result = call(
        folder,
        task,
        export,
        audit=audit,
        error=error,
        confidence=confidence,
        seed=seed,
        out=out,
        finish=finish,
        **loading,
    )
    if as_json:
        return console.as_json(
            {
                "out": str(result.out),
                "data": str(result.data),
                "sample": result.plan.sample,
                "left": result.left,
                "at_best": asdict(result.at_best) if result.at_best else None,
                "certificate": result.certificate.to_json() if result.certificate else None,
                "files": [str(file) for file in result.files],
            }
        )
    typer.echo(f"{result.plan.images} images are labelled: {result.data}")
    if result.certificate:
        typer.echo("\n".join([*result.certificate.sentences(), *map(str, result.files)]))
        return
    if result.at_best:
        typer.echo(result.at_best.sentence(result.plan))
    count = len(result.plan.sample)
    typer.echo(
        f"{len(result.left)} of {count} drawn images are left to audit, listed in "
        f"{result.files[0]}: correct them in the app (fastseg app {typed(result.data)}), then run "
        "this command again; or in the files, then with --finish"
    )

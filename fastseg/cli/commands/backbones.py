"""timm's backbones: what is known of each, and its speed here."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from .. import console
from ..arguments import Json
from ..group import app

SHOWN = 40  # rows; --json has all


@app.command(epilog="Example: fastseg backbones dinov3")
def backbones(
    text: Annotated[
        str,
        typer.Argument(
            metavar="[FILTER]", help="Text in the name, the family or the licence of the weights."
        ),
    ] = "",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure how many images a second each segments here, with the light decoder and "
            "random weights: some seconds each.",
        ),
    ] = False,
    size: Annotated[
        int, typer.Option("--size", min=32, max=4096, help="Side of the images to measure, in px.")
    ] = 256,
    as_json: Json = False,
) -> None:
    """List timm's backbones: parameters, strides, image sizes, licence, and what is refused."""
    from ...models import catalogue

    found = catalogue.backbones(text)
    shown = found if as_json else found[:SHOWN]
    speeds = {}
    if measure:
        for row in shown:
            if row.works is not False:
                speeds[row.name] = catalogue.speed(row.name, (size, size))
                console.say(f"{row.name}: {speeds[row.name]:.1f} images/s")
    if as_json:
        console.as_json(
            [
                {**row.to_json(), **({"images_per_second": speeds[row.name]} if measure else {})}
                for row in shown
                if not measure or row.name in speeds
            ]
        )
        return
    header = ("backbone", "M", "strides", "sizes", "licence", *(("images/s",) if measure else ()))
    console.table(
        header,
        [
            (
                row.name,
                "" if math.isnan(row.parameters) else f"{row.parameters:.1f}",
                row.strides,
                f"refused: {row.refusal}" if row.refusal else row.sizes or "not tried",
                row.licence or "not stated",
                *((f"{speeds[row.name]:.1f}" if row.name in speeds else "",) if measure else ()),
            )
            for row in shown
        ],
    )
    tried = [row for row in found if row.works is not None]
    works = sum(bool(row.works) for row in tried)
    left = len(found) - len(tried)
    typer.echo(
        f"{works} of {len(tried)} can be backbones of segmentation networks"
        f"{f'; {left} more were not tried, fit tries them' if left else ''}"
        f"{f'; the first {SHOWN} are shown, --json has all' if len(found) > SHOWN else ''}"
    )

"""Exports for others, and from others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import console
from ..arguments import Json
from ..group import app

SharedExport = Annotated[
    str,
    typer.Argument(metavar="EXPORT", help="The folder of an export, or the address of one."),
]


@app.command(epilog="Example: fastseg pack exports/eye eye.zip")
def pack(
    export: SharedExport,
    out: Annotated[
        Optional[Path],
        typer.Argument(metavar="[FILE.zip]", help="The file to write [default: NAME.zip]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an export to one zip file, without its pickle and pictures, with a model card; the same
    export has the same bytes.
    """
    from ...sharing.pack import pack as call

    packed = call(export, out)
    if as_json:
        return console.as_json({**vars(packed), "file": str(packed.file)})
    typer.echo(f"{packed.file}: SHA-256 {packed.sha256}")


@app.command(epilog="Example: fastseg push exports/eye hub:me/eye --private")
def push(
    export: SharedExport,
    to: Annotated[
        str, typer.Argument(metavar="hub:OWNER/NAME", help="The repository; created if needed.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Only you, or your organisation, can read it.")
    ] = False,
    revision: Annotated[
        Optional[str],
        typer.Option("--revision", help="Branch to write to; created if needed [default: main]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload an export to the Hugging Face hub, without its pickle and pictures, with a model card
    written from the card.
    """
    from ...sharing.push import push as call

    pushed = call(export, to, private=private, revision=revision)
    if as_json:
        return console.as_json(vars(pushed))
    for name, digest in pushed.files.items():
        typer.echo(f"{digest}  {name}")
    typer.echo(f"{pushed.address}: SHA-256 {pushed.sha256}\n{pushed.url}")


@app.command(epilog="Example: fastseg pull hub:me/eye --out exports/eye")
def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="hub:OWNER/NAME[@REVISION], FILE.zip, https://HOST/FILE.zip, s3://BUCKET/FOLDER; "
            "#sha256=... after it pins it.",
        ),
    ],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder for the export [default: exports/NAME]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch an export from elsewhere into a folder of your own; each file is checked by the card's
    SHA-256. Another export in that folder is kept in .earlier.
    """
    from ...sharing.pull import pull as call

    pulled = call(source, out)
    before = str(pulled.before) if pulled.before else None
    if as_json:
        return console.as_json({**vars(pulled), "export": str(pulled.export), "before": before})
    for name, digest in pulled.files.items():
        typer.echo(f"{digest}  {name}")
    typer.echo(
        f"{pulled.export}: from {console.printable(pulled.source)}, SHA-256 {pulled.sha256}"
        + (f"; before: {before}" if before else "")
    )
